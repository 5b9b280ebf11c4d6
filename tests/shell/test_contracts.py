"""Promises between this program, MLflow and its readers that no single number shows."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import Command, artifact, runs_of
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mm_mlflow import runner, tracking
from mm_mlflow.datasets import bind, open_splits
from mm_mlflow.design import Design
from mm_mlflow.tracking import Store


@pytest.mark.usefixtures("in_process")
def test_a_cell_is_written_in_an_order_that_makes_finished_mean_whole(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Artifacts, then metrics, then FINISHED."""
    events: list[str] = []

    def noting(name: str, original: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            events.append(name if name != "log" else f"log {','.join(sorted(kwargs))}")
            return original(*args, **kwargs)

        return wrapped

    for name in ("create_run", "log_files", "log", "finish"):
        monkeypatch.setattr(tracking, name, noting(name, getattr(tracking, name)))
    command("train", small, "--seed", "0")
    assert events == ["create_run", "log params", "log_files", "log metrics,series,tags", "finish"]


def test_the_heartbeat_is_refreshed_while_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag changes until the block ends; a store that fails is no reason to stop working."""
    store = tracking.open_store(None, "beats", create=True)
    run_id = tracking.create_run(store, "x", {"mm.heartbeat": "0"})
    beats: list[str] = []
    threads: set[threading.Thread] = set()
    enough = threading.Event()
    original = MlflowClient.set_tag

    def set_tag(client: MlflowClient, run: str, key: str, value: str) -> None:
        original(client, run, key, value)
        beats.append(value)
        threads.add(threading.current_thread())
        if len(beats) == 2:
            raise MlflowException("the store is away")
        if len(beats) >= 4:
            enough.set()

    monkeypatch.setattr(tracking.cells, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(MlflowClient, "set_tag", set_tag)
    with tracking.heartbeat(store, run_id):
        assert enough.wait(timeout=60)
    (thread,) = threads
    assert not thread.is_alive()  # so that no beat can come any more
    assert MlflowClient().get_run(run_id).data.tags["mm.heartbeat"] == beats[-1]
    assert int(beats[-1]) > 0


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"torch", "torchvision", "optuna", "dask", "distributed"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import json
from mm_mlflow.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        print("exit", end.code)
"""


@pytest.mark.usefixtures("in_process")
def test_reading_needs_no_torch_optuna_or_dask(small: Path, command: Command) -> None:
    """``status``, ``sheet`` and ``select`` with all of them blocked from import, by a design or by the
    params of runs; ``sweep`` does need them."""
    command("sweep", small, "--smoke")
    pareto = ["select", "--experiment-name", "small", "--pareto", "--on", "accuracy"]
    sheet = ["sheet", "--experiment-name", "small", "--metric"]
    words = [
        ["status", str(small)], [*sheet, "accuracy"], [*sheet, "acc*", "--level", "top"], pareto,
        ["sweep", str(small)],
    ]  # fmt: skip
    asked = [sys.executable, "-c", BLOCKED, json.dumps(words)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert codes == ["exit 0"] * 4 + ["exit 1"], done.stderr
    assert "is blocked" in done.stderr
    assert len(runs_of("report")) == 3


@pytest.mark.usefixtures("in_process")
def test_the_experiment_that_the_environment_names(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name or id, unless it is Default; an option wins; reading creates nothing."""
    client = MlflowClient()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ghost")
    assert "unknown experiment 'ghost'" in command("sheet", code=2).output
    assert "unknown experiment 'ghost'" in command("status", small, code=2).output
    command("sweep", small, "--dry-run")
    assert client.get_experiment_by_name("ghost") is None
    command("sweep", small, "--smoke")
    assert len(runs_of("cell", "ghost")) == 3
    command("sweep", small, "--smoke", "--experiment-name", "option")
    assert len(runs_of("cell", "option")) == 3
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    found = client.get_experiment_by_name("option")
    assert found is not None
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", found.experiment_id)
    assert "'option'" in command("status").output
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    assert "MLFLOW_EXPERIMENT_ID '77'" in command("status", code=2).output
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    command("sweep", small, "--smoke")
    assert len(runs_of("cell", "small")) == 3


@pytest.mark.usefixtures("in_process")
def test_options_of_sheet(small: Path, command: Command) -> None:
    """``--axis``, ``--within`` and ``--mixed`` reach the sheets, and are said in them."""
    command("sweep", small)
    base = ["sheet", "--experiment-name", "small", "--json", "--metric", "accuracy"]
    (sheet,) = json.loads(command(*base, "--axis", "batch_size").output)["sheets"]
    assert [table["axis"] for table in sheet["tables"]] == ["batch_size"]
    (sheet,) = json.loads(command(*base, "--within", "0.0").output)["sheets"]
    assert sheet["within"] == 0
    assert sheet["n_runs"] + sheet["n_excluded"] == 6
    assert sheet["n_runs"] < 6
    path = next(Path.cwd().glob("mlruns/**/metrics.json"))
    document = json.loads(path.read_text())
    document["metrics"]["accuracy"]["version"] = 99
    path.write_text(json.dumps(document))
    assert "--mixed" in command("sheet", "--experiment-name", "small", code=2).output
    (sheet,) = json.loads(command(*base, "--mixed").output)["sheets"]
    assert sheet["mixed"]


@pytest.mark.usefixtures("in_process")
def test_an_explicit_design_counts_only_runs_on_its_data(small: Path, command: Command) -> None:
    """The newest sweep of that design tells which; without one, several sets of data are said."""
    command("sweep", small)
    run = runs_of("cell")[0]
    MlflowClient().set_tag(run.info.run_id, "mm.dataset", "0" * 64)
    status = json.loads(command("status", small, "--json").output)
    assert (len(status["finished"]), len(status["missing"]), len(status["extra"])) == (5, 1, 1)
    for sweep in runs_of("sweep"):
        MlflowClient().delete_run(sweep.info.run_id)
    said = command("sheet", "--experiment-name", "small", "--design", small).output
    assert "trained on 2 different sets of data" in said


@pytest.mark.usefixtures("in_process")
def test_artifacts_that_cannot_be_read_are_no_empty_records(small: Path, command: Command) -> None:
    """A database copied without its artifacts: refused by name, not shown as raw numbers."""
    command("sweep", small, "--smoke")
    path = next(Path.cwd().glob("mlruns/**/metrics.json"))
    path.write_text("{")
    assert (
        "metrics.json cannot be read"
        in command("sheet", "--experiment-name", "small", code=1).output
    )
    path.unlink()
    line = command("sheet", "--experiment-name", "small", code=1).output
    assert path.parts[-5] in line
    assert "metrics.json" in line


@pytest.mark.usefixtures("in_process")
def test_a_sweep_killed_at_its_start_hides_no_older_plan(small: Path, command: Command) -> None:
    """Its run is there, its design.yaml is not: the sweep before it is the plan."""
    command("sweep", small)
    store = tracking.open_store(None, "small")
    tracking.create_run(store, "sweep", {"mm.kind": "sweep", "mm.design_id": "x"})
    assert (
        len(json.loads(command("status", "--json", "--experiment-name", "small").output)["planned"])
        == 6
    )


@pytest.mark.usefixtures("in_process")
def test_a_store_that_takes_no_artifacts_leaves_nothing_running(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep and the cell end, and the reason is one line."""

    def fails(*_: Any) -> None:
        raise MlflowException("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", fails)
        said = command("sweep", small, "--smoke", code=1)
        assert "no space left" in said.stderr
        assert "Traceback" not in said.output
        said = command("train", small, "--seed", "0", code=1)
        (line,) = (line for line in said.stderr.splitlines() if line.startswith("Error: "))
        assert line.startswith("Error: default seed=0 failed: MlflowException: no space left (run ")
    states = {run.info.status for kind in ("sweep", "cell") for run in runs_of(kind)}
    assert states == {"KILLED", "FAILED"}


@pytest.mark.usefixtures("in_process")
def test_the_first_reason_is_told_whatever_fails_after_it(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Work that fails where its traceback cannot be stored, nor its run be ended: a result all the same,
    and what could not be written is logged."""

    def fails(error: Exception) -> Any:
        def raises(*_: Any, **__: Any) -> None:
            raise error

        return raises

    monkeypatch.setattr(runner.training, "train", fails(ValueError("the real reason")))
    monkeypatch.setattr(MlflowClient, "log_artifacts", fails(NotADirectoryError("artifacts")))
    said = command("train", small, "--seed", "0", "--json", code=1)
    document = json.loads(said.stdout)
    assert document["status"] == "failed"
    assert document["error"] == "ValueError: the real reason"
    assert f"files of run {document['run_id']} not written: artifacts" in caplog.text
    assert MlflowClient().get_run(document["run_id"]).info.status == "FAILED"
    monkeypatch.setattr(MlflowClient, "set_terminated", fails(MlflowException("away")))
    said = command("train", small, "--seed", "1", "--json", code=1)
    assert json.loads(said.stdout)["error"] == "ValueError: the real reason"
    assert "not written: away" in caplog.text


def _log_dataset(store: Store, run_id: str, start: Any, errors: Any) -> None:
    start.wait()
    try:
        tracking.log_dataset(store, run_id, "data", "d" * 64, "training", {})
    except Exception as error:  # noqa: BLE001 - what is asked is whether there is any
        errors.put(repr(error))


def test_two_processes_may_log_one_new_dataset_at_once() -> None:
    """MLflow refuses one of them (seen); it asks again."""
    store = tracking.open_store(None, "race", create=True)
    context = multiprocessing.get_context("spawn")
    barrier, errors = context.Barrier(2), context.Queue()
    runs = [tracking.create_run(store, "x", {}) for _ in range(2)]
    processes = [
        context.Process(target=_log_dataset, args=(store, run, barrier, errors)) for run in runs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert errors.empty()
    for run in runs:
        assert len(MlflowClient().get_run(run).inputs.dataset_inputs) == 1


@pytest.mark.usefixtures("in_process")
def test_an_ended_run_is_never_marked_killed(small: Path, command: Command) -> None:
    """A run read as RUNNING may have ended since."""
    command("train", small, "--seed", "0")
    store = tracking.open_store(None, "small")
    (run,) = tracking.read_runs(store)
    tracking.kill(store, run, "a stale reading")
    assert MlflowClient().get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("in_process")
def test_a_run_id_of_another_store_is_not_used(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable left over from somewhere else stops nothing."""
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    command("sweep", small, "--smoke")
    assert len(runs_of("cell")) == 3


@pytest.mark.usefixtures("in_process")
def test_a_failed_sweep_with_sheet_is_a_failure_not_bad_usage(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 1 where every cell failed, and the document is still printed."""

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("no luck")

    monkeypatch.setattr(runner.training, "train", fails)
    result = command("sweep", small, "--sheet", "--json", code=1)
    assert len(json.loads(result.stdout)["failed"]) == 6


def test_cells_are_found_by_content_whatever_text_arguments_look_like(small: Path) -> None:
    """The text 007 is a name, not a number, wherever it is no level."""
    text = small.read_text().replace("{name: digits_skewed}", '{name: x, tag: "007"}')
    other = text.replace('"007"', "7")
    ids = [Design.parse(t).cells()[0].id for t in (text, other)]
    assert ids[0] != ids[1]


@pytest.mark.usefixtures("in_process")
def test_every_input_of_a_run_is_logged(small: Path, command: Command) -> None:
    """The training data and each split that is measured, by 32 digits of their digests."""
    command("train", small, "--seed", "0")
    (run,) = runs_of("cell")
    splits = open_splits(bind(Design.load(small)).dataset)
    found = {item.dataset.digest for item in run.inputs.dataset_inputs}
    assert found == {split.digest[:32] for split in splits.values()}
    assert json.loads(artifact(run, "cell.json"))["id_version"] == 1


@pytest.mark.usefixtures("in_process")
def test_json_is_one_document_and_nothing_else(small: Path) -> None:
    """Also against a server, for which MLflow would print two lines per run that ends."""
    import os

    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    words = [sys.executable, "-m", "mm_mlflow", "train", str(small), "--seed", "0", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "trained"


@pytest.mark.usefixtures("in_process")
def test_a_report_of_some_metrics_says_nothing_of_the_others(small: Path, command: Command) -> None:
    """Self-checks of metrics that are not shown stay away."""
    text = small.read_text().replace(
        "groups: [{skew: gs_minority}]", "groups: [{skew: gs_minority, class: 3}]"
    )
    small.write_text(text)
    command("sweep", small, "--smoke")
    base = ["sheet", "--experiment-name", "small", "--out", "out"]
    assert "below 30" in command(*base).output
    assert "below 30" not in command(*base, "--metric", "accuracy").output


def test_an_experiment_without_cells_of_the_design_is_said(small: Path, command: Command) -> None:
    """Not that a metric is unknown."""
    tracking.open_store(None, "small", create=True)
    words = ["sheet", "--design", str(small), "--metric", "accuracy"]
    assert "holds no finished cell of the design" in command(*words, code=2).output
