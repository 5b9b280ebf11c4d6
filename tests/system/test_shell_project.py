"""A project that is a shell script and logs by REST, swept into a real MLflow server.

Needs curl, awk and a shell: programs that Python packages do not bring.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.system
PROJECT = Path(__file__).parents[2] / "projects" / "shell_script"
# What Debian has, and nothing of a virtual environment: the script runs without Python's packages.
BARE_PATH = "/usr/bin:/bin"


def environment(folder: Path) -> dict[str, str]:
    """The processes' own, with nothing of MLflow from outside."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MM_MLFLOW_"))}
    return {**kept, "PATH": BARE_PATH, "HOME": str(folder)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An MLflow server of its own, on a free port of loopback, once it says that it is well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
               "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
               "--artifacts-destination", str(tmp_path / "artifacts")]  # fmt: skip
    with (tmp_path / "server.log").open("wb") as log:
        child = subprocess.Popen(
            command, cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            while not _healthy(uri):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.2)  # its end is the one thing that would make waiting vain
                    pytest.fail((tmp_path / "server.log").read_text())
            yield uri
        finally:
            child.terminate()
            child.wait()


def _healthy(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def test_a_shell_script_that_logs_by_curl_is_swept(server: str, tmp_path: Path) -> None:
    """Each cell's metrics are on its run, put there by curl alone; sheets show them; a second sweep
    runs nothing."""
    assert shutil.which("mm-mlflow", path=BARE_PATH) is None
    python = shutil.which("python3", path=BARE_PATH)
    if python is not None:
        alone = subprocess.run([python, "-c", "import mm_mlflow"], cwd=tmp_path, check=False,
                               capture_output=True, env=environment(tmp_path))  # fmt: skip
        assert alone.returncode != 0
    settings = {**environment(tmp_path), "MLFLOW_TRACKING_URI": server}
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT), "-b", "multiplicity",
               "--backend-config", str(PROJECT / "design.json"), "--env-manager", "local"]  # fmt: skip

    def said(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=settings, check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "6 cells: 6 trained, 0 were finished, 0 failed" in said(command)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("shell_script")
    assert experiment is not None
    cells = client.search_runs([experiment.experiment_id], "tags.`mm.kind` = 'cell'")
    assert {run.info.status for run in cells} == {"FINISHED"}
    levels = {(run.data.params["noise"], run.data.params["seed"]) for run in cells}
    assert levels == {(noise, seed) for noise in ("0.3", "0.5") for seed in "012"}
    values = {run.info.run_id: run.data.metrics for run in cells}
    assert all(metrics.keys() == {"accuracy", "accuracy_of_ones", "system/run_seconds"}
               for metrics in values.values())  # fmt: skip
    accuracy = [metrics["accuracy"] for metrics in values.values()]
    assert 0.5 < min(accuracy) < max(accuracy) <= 1
    assert "6 cells: 0 trained, 6 were finished, 0 failed" in said(command)
    sheet = [sys.executable, "-m", "mm_mlflow", "sheet", "--experiment-name", "shell_script"]
    assert "accuracy_of_ones" in said(sheet)
    (report,) = client.search_runs([experiment.experiment_id], "tags.`mm.kind` = 'report'")
    assert report.data.metrics["delta_all/accuracy"] == max(accuracy) - min(accuracy)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, text=True,
                          capture_output=True)  # fmt: skip
    return done.stdout.strip()


def test_a_project_in_a_git_repository_is_fetched_once(tmp_path: Path) -> None:
    """At the version that is named, whose commit is recorded and is no part of the cells' ids."""
    repository = tmp_path / "theirs.git"
    repository.mkdir()
    git(repository, "init", "--quiet")
    text = 'entry_points: {main: {parameters: {seed: int}, command: "echo $PWD WHO >> $OUT"}}'
    commits = []
    for who in ("first", "second"):
        (repository / "MLproject").write_text(text.replace("WHO", who))
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "--message", who)
        git(repository, "tag", who)
        commits.append(git(repository, "rev-parse", "HEAD"))
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    out = tmp_path / "out"
    settings = {**environment(tmp_path), "MLFLOW_TRACKING_URI": store, "OUT": str(out)}
    design = {"name": "theirs", "project": {}, "default": {"rate": 1}, "axes": {"rate": [1]}}

    def run(version: str, seeds: int) -> str:
        command = [sys.executable, "-m", "mlflow", "run", f"file://{repository}", "--version", version,
                   "-b", "multiplicity", "--backend-config", json.dumps({**design, "seeds": seeds}),
                   "--env-manager", "local"]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=settings, check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "2 cells: 2 trained" in run("first", 2)
    assert "3 cells: 1 trained, 2 were finished" in run("second", 3)
    lines = [line.split()[:2] for line in out.read_text().splitlines()]
    assert [who for _, who in lines] == ["first", "first", "second"]
    assert lines[0] == lines[1]  # one checkout for both
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("theirs")
    assert experiment is not None
    cells = client.search_runs([experiment.experiment_id], "tags.`mm.kind` = 'cell'")
    assert sorted(run.data.tags["mlflow.source.git.commit"] for run in cells) == sorted(
        [commits[0], commits[0], commits[1]]
    )
    assert {run.data.tags["mm.project"] for run in cells} == {"theirs"}
