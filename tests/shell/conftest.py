"""MLflow isolated in a temporary sqlite store; caches and working folder in temporary places."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import Command
from mlflow import MlflowClient
from mlflow.tracking import fluent

from mm_mlflow import datasets, engine
from mm_mlflow.cli import main
from mm_mlflow.render import figure, strips

_encode = figure.encode

SMALL = """
name: small
dataset: {name: digits_skewed}
training: {epochs: 2}
default: {learning_rate: 0.1, batch_size: 256, architecture: mlp}
axes:
  learning_rate: [0.1, 0.05]
  batch_size: [256, 512]
  architecture: [mlp]
seeds: 2
interventions:
  - accuracy
  - {name: group_accuracy, groups: [{skew: gs_minority}]}
  - {name: ood_accuracy, split: grayscale}
  - {name: output_perturbation, lambda: 3}
  - {name: input_perturbation, lambda: 1}
  - {name: pgd, delta: [0.0, 0.02], examples: 100, steps: 2}
"""


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes 1.6 s, copying it nothing."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    client = MlflowClient(f"sqlite:///{path}")
    client.search_experiments()
    return path


@pytest.fixture(autouse=True)
def _isolated(
    tmp_path: Path, _cache: Path, _database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "MM_MLFLOW_"))]:
        monkeypatch.delenv(name)
    shutil.copy(_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MM_MLFLOW_CACHE", str(_cache))
    # What importing mm_mlflow.tracking sets, and the loop above took away.
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.chdir(tmp_path)
    datasets._open_splits.cache_clear()
    # mlflow.set_experiment is remembered for the rest of the process.
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    yield
    datasets._open_splits.cache_clear()


@pytest.fixture(autouse=True)
def _blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is a third of the time of these tests, and few of them are about what is drawn: all but
    those marked ``pictures`` get blank ones of the same kind."""
    if request.node.get_closest_marker("pictures") is None:
        for module in (figure, strips):
            monkeypatch.setattr(module, "encode", lambda _, kind: _blank(kind))


@cache
def _blank(kind: str) -> bytes:
    return _encode(figure.draw(figure.Canvas(), 1, 1), kind)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A design of 6 cells, each a fraction of a second."""
    path = tmp_path / "design.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture
def command() -> Command:
    """Run the command line in this process; stdout and stderr apart."""

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in this process, one after the other: what is tested is not the engine."""
    monkeypatch.setattr(engine, "workers", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(
        engine,
        "run",
        lambda _, function, items, **__: ((key, function(job)) for key, job in items),
    )
