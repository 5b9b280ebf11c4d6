"""Runs that other programs made in an experiment: ``status`` names the cells that they are, and
``sweep --adopt-foreign`` counts them. The runs are made by plain MLflow code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from helpers import Command, artifact, artifacts, runs_of
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.usefixtures("in_process")

HERE = {"learning_rate": "0.1", "batch_size": 256, "architecture": "mlp", "seed": 0}


def stranger(
    params: dict[str, Any], accuracy: float = 0.5, name: str = "small", status: str = "FINISHED"
) -> str:
    """A run as somebody's script makes it; returns its id."""
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_params(params)
        mlflow.log_metric("accuracy", accuracy)
    client = MlflowClient()
    if status != "FINISHED":
        client.update_run(run.info.run_id, status=status)
    return str(run.info.run_id)


@pytest.fixture(autouse=True)
def _no_experiment_stays_active() -> Any:
    """``mlflow.set_experiment`` is a process's global state."""
    yield
    mlflow.tracking.fluent._active_experiment_id = None


def whole(run_id: str) -> tuple[Any, ...]:
    """All that MLflow has of a run, to tell whether anybody wrote to it."""
    run = MlflowClient().get_run(run_id)
    return run.info.status, run.info.end_time, run.data.to_dictionary(), artifacts(run)


def status(command: Command, *arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("status", *arguments, "--json").output)
    return found


def cell_of(run: Run) -> str:
    return str(run.data.tags["mm.cell"])


SPELLINGS = [
    {"learning_rate": "1e-1", "batch_size": 256.0, "seed": "0"},
    {"learning_rate": 0.10, "batch_size": "256", "seed": 0.0},
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_params_that_differ_only_by_type_name_the_same_cell(
    small: Path, command: Command, spelling: dict[str, Any]
) -> None:
    """1, 1.0 and "1" are one level, and one seed; the state of the run is told, in words too."""
    run = stranger({**HERE, **spelling, "host": "mine"})
    still = stranger({**HERE, **spelling}, status="FAILED")
    found = status(command, small)["foreign"]
    assert {(item["run_id"], item["status"], item["adopted"]) for item in found} == {
        (run, "FINISHED", False), (still, "FAILED", False),
    }  # fmt: skip
    assert len({item["cell"] for item in found}) == 1
    said = command("status", small).output
    assert f"foreign: default seed=0: {MlflowClient().get_run(run).info.run_name}" in said
    assert f"(run {still}, FAILED)" in said


OTHERS: list[dict[str, Any]] = [
    {"seed": 9},  # not planned
    {"seed": 0.5},
    {"seed": "zero"},
    {"learning_rate": 0.3},
    {"learning_rate": 0.05, "batch_size": 512},  # off the star
    {"epochs": 30},  # the design's are 2
    {"momentum": 0.5},  # the design's is 0.9, by default
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_a_run_that_says_otherwise_is_not_foreign(
    small: Path, command: Command, change: dict[str, Any]
) -> None:
    """Another level or seed than is planned, or a training setting with another value."""
    stranger({**HERE, **change})
    stranger({key: value for key, value in HERE.items() if key != "architecture"})
    found = status(command, small)
    assert not found["foreign"]
    assert not command("sweep", small, "--smoke", "--adopt-foreign").stderr.count("on trust")


def test_adopted_runs_are_counted_and_untouched(small: Path, command: Command) -> None:
    """The latest FINISHED run of a cell stands for it; what cannot be checked is said before anything
    is trained; sheets show its values and say so; nothing is written to it."""
    older, newer = stranger(HERE, 0.25), stranger({**HERE, "epochs": 2}, 0.75)
    failed = stranger({**HERE, "learning_rate": 0.05}, status="FAILED")
    before = {run: whole(run) for run in (older, newer, failed)}
    result = command("sweep", small, "--adopt-foreign")
    assert "6 cells: 5 trained, 1 were finished, 0 failed" in result.output
    assert "1 cell is filled by runs of other programs, on trust" in result.stderr
    assert "'digits_skewed'" in result.stderr
    assert "weight_decay 0.0005 (1)" in result.stderr
    assert "epochs" not in result.stderr  # the run says it, and it is the design's
    assert "pgd_accuracy/delta-0.02" in result.stderr
    assert "1 default seed=0" not in result.output

    (swept,) = runs_of("sweep")
    stored = json.loads(artifact(swept, "adopted.json"))
    assert list(stored["adopted"].values()) == [newer]
    assert stored["cells"][0]["name"] == "default seed=0"
    assert "accuracy" not in stored["cells"][0]["lacks"]
    assert "ood_accuracy/grayscale" in stored["cells"][0]["lacks"]

    found = status(command, small)
    assert (len(found["finished"]), len(found["missing"])) == (6, 0)
    (taken,) = (cell for cell in found["finished"] if cell.get("adopted"))
    assert (taken["name"], taken["run_id"]) == ("default seed=0", newer)
    assert {item["run_id"]: item["adopted"] for item in found["foreign"]} == {
        older: False, newer: True, failed: False,
    }  # fmt: skip
    assert f"(run {newer}, FINISHED, adopted)" in command("status", small).output

    command("sheet", "--experiment-name", "small", "--out", "out")
    sheet = json.loads(Path("out/sheets/accuracy/sheet.json").read_text())
    for table in sheet["tables"]:  # the default row is in each
        default = table["levels"].index(sheet["default"][table["axis"]])
        assert table["values"][default][0] == 0.75
        assert table["run_ids"][default][0] == newer
    assert sheet["complete"]
    lacking = json.loads(Path("out/sheets/ood_accuracy__grayscale/sheet.json").read_text())
    assert not lacking["complete"]
    page = Path("out/index.html").read_text()
    assert "Adopted: 1 cell is filled by runs of other programs" in page
    assert {run: whole(run) for run in before} == before


def test_what_was_adopted_holds_until_it_is_said_otherwise(small: Path, command: Command) -> None:
    """Sweeps after it train no adopted cell; ``--no-adopt-foreign`` does, and then a cell's own run
    counts; a run that is deleted meanwhile leaves its cell missing."""
    first, second = stranger(HERE), stranger({**HERE, "seed": 1})
    command("sweep", small, "--smoke", "--adopt-foreign")
    assert len(runs_of("cell")) == 2  # of the smoke's three cells, one is adopted
    said = command("sweep", small, "--dry-run")
    assert "6 cells planned, 3 to train" in said.output
    assert "1 cell is filled by runs of other programs, as an earlier sweep" in said.stderr
    assert "6 cells planned, 2 to train" in command(
        "sweep", small, "--dry-run", "--adopt-foreign"
    ).output  # fmt: skip
    command("sweep", small, "--adopt-foreign")
    assert len(runs_of("cell")) == 4
    assert "6 cells: 0 trained, 6 were finished" in command("sweep", small).output

    MlflowClient().delete_run(second)
    (missing,) = status(command, small)["missing"]
    assert missing["name"] == "default seed=1"
    assert "6 cells: 2 trained, 4 were finished" in command(
        "sweep", small, "--no-adopt-foreign"
    ).output  # fmt: skip
    found = status(command, small)
    assert not [cell for cell in found["finished"] if cell.get("adopted")]
    assert first not in {cell["run_id"] for cell in found["finished"]}
    assert [item["run_id"] for item in found["foreign"]] == [first]


def test_own_runs_win_over_adopted_ones(small: Path, command: Command) -> None:
    """What this program made is known; an adopted run only fills a hole."""
    command("sweep", small, "--smoke")
    (own,) = (run for run in runs_of("cell") if run.info.run_name == "default seed=0")
    stranger(HERE, 0.75)
    said = command("sweep", small, "--smoke", "--adopt-foreign").stderr
    assert "nothing to adopt" in said
    (finished,) = (c for c in status(command, small)["finished"] if c["cell"] == cell_of(own))
    assert finished["run_id"] == own.info.run_id


PROJECT = """
name: theirs
entry_points:
  main:
    parameters: {depth: int, width: int, random_state: int}
    command: "true {depth} {width} {random_state}"
"""
DESIGN: dict[str, Any] = {
    "name": "theirs",
    "project": {"seed_parameter": "random_state", "parameters": {"width": 8}},
    "default": {"model": "small"},
    "axes": {
        "model": [
            {"name": "small", "parameters": {"depth": 1}},
            {"name": "big", "parameters": {"depth": 10}},
        ]
    },
    "seeds": 3,
    "sweep": {"adopt_foreign": True},
}


def test_a_single_seed_project_gets_the_seeds_that_it_lacks(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of a project by hand are cells by the parameters of their bundle and by the project's own
    name for the seed; only the others are run. Runs nested in cells are none of them."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(PROJECT, encoding="utf-8")
    by_hand = {
        stranger({"depth": depth, "width": 8, "random_state": 0}, name="theirs")
        for depth in (1, 10.0)
    }
    stranger({"depth": 1, "width": 4, "random_state": 1}, name="theirs")  # another fixed width
    config = json.loads(json.dumps(DESIGN))
    mlflow.projects.run(
        str(folder), backend="multiplicity", backend_config=config, env_manager="local"
    )
    said = capsys.readouterr()
    assert "6 cells: 4 trained, 2 were finished, 0 failed" in said.out
    assert "project 'theirs'" in said.err
    found = status(command, "--experiment-name", "theirs")
    assert {item["run_id"] for item in found["foreign"]} == by_hand
    assert sum(bool(cell.get("adopted")) for cell in found["finished"]) == 2
    parent = runs_of("cell", "theirs")[0]
    client = MlflowClient()
    child = client.create_run(
        parent.info.experiment_id, tags={"mlflow.parentRunId": parent.info.run_id}
    )
    for name, value in [("depth", 1), ("random_state", 2)]:
        client.log_param(child.info.run_id, name, value)
    found = status(command, "--experiment-name", "theirs")
    assert {item["run_id"] for item in found["foreign"]} == by_hand
