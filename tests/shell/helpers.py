"""What shell tests share: watching child processes, reading runs and artifacts back with MLflow alone."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow.cli import main

Command = Callable[..., Result]


def fails(*arguments: str, code: int = 2) -> str:
    """The one line on standard error of a command that must fail with ``code``."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    return lines[0]


def pause(child: subprocess.Popen[str]) -> None:
    """Leave the processor to ``child`` for a twentieth of a second before the next look at what it has
    done; fail if it has ended."""
    try:
        child.wait(timeout=0.05)
    except subprocess.TimeoutExpired:
        return
    pytest.fail(f"it ended early: {child.communicate()}")


def runs_of(kind: str | None, name: str = "small") -> list[Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return [run for run in found if run.data.tags.get("mm.kind") == kind]


def artifact(run: Run, path: str) -> bytes:
    return Path(MlflowClient().download_artifacts(run.info.run_id, path)).read_bytes()


def artifacts(run: Run, folder: str = "") -> set[str]:
    found = set()
    for item in MlflowClient().list_artifacts(run.info.run_id, folder):
        found |= artifacts(run, item.path) if item.is_dir else {item.path}
    return found


def predictions(run: Run) -> pd.DataFrame:
    (path,) = (path for path in artifacts(run) if path.endswith("predictions.parquet"))
    return pd.read_parquet(io.BytesIO(artifact(run, path)))
