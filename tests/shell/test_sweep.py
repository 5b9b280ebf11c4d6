"""The main job through the real doors: sweep, MLflow, sheet; and what is read back.

The sheet's numbers are checked by code that imports mlflow, pandas and json, and nothing of ours.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers import Command, artifact, artifacts, predictions, runs_of
from mlflow import MlflowClient

from mm_mlflow import evaluation, jobs, models, outcomes, provenance, runner, tracking
from mm_mlflow.datasets import bind, open_splits
from mm_mlflow.design import Design
from mm_mlflow.experiment import read
from mm_mlflow.tracking import Store


@pytest.mark.pictures
def test_sweep_and_sheet_with_real_workers(small: Path, command: Command) -> None:
    """Every planned cell once, by other processes; a second sweep trains nothing; sheet.json equals
    what ``mlflow.search_runs`` alone gives."""
    said = command("sweep", small, "--jobs", "2").output
    assert "6 cells planned, 0 finished, 6 to train" in said
    assert "start-up took" in said
    assert "6 cells: 6 trained, 0 were finished, 0 failed" in said
    cells = runs_of("cell")
    assert {run.info.status for run in cells} == {"FINISHED"}
    assert len(cells) == len({run.data.tags["mm.cell"] for run in cells}) == 6
    pids = {json.loads(run.data.tags["mm.worker"])["pid"] for run in cells}
    assert os.getpid() not in pids
    assert "6 cells: 0 trained, 6 were finished, 0 failed" in command("sweep", small).output
    assert len(runs_of("cell")) == 6
    assert len(runs_of("sweep")) == 2

    document = json.loads(command("sheet", "--experiment-name", "small", "--json").output)
    (report,) = runs_of("report")
    assert document["report_run_id"] == report.info.run_id
    independent_check(document["sheets"])
    for sheet in document["sheets"]:
        slug = sheet["metric"].replace("/", "__")
        assert json.loads(artifact(report, f"sheets/{slug}/sheet.json")) == sheet
        assert report.data.metrics[f"delta_all/{sheet['metric']}"] == sheet["delta_all"]
    files = artifacts(report)
    assert {"index.html", "summary.csv", "summary.json", "cells.csv"} <= files
    for form in ("html", "png", "pdf", "csv", "tex", "md", "json"):
        assert f"sheets/accuracy/sheet.{form}" in files
    note = report.data.tags["mlflow.note.content"]
    assert "Accuracy" in note
    assert len(note) < 7500


def independent_check(sheets: list[dict[str, Any]]) -> None:
    """Values and Δ of every sheet, from params and metrics of the runs."""
    table = mlflow.search_runs(experiment_names=["small"])
    table = table[(table["tags.mm.kind"] == "cell") & (table["status"] == "FINISHED")]
    default = {"learning_rate": "0.1", "batch_size": "256", "architecture": "mlp"}
    assert len(sheets) == 7
    for sheet in sheets:
        column = "metrics." + sheet["metric"]
        assert sheet["delta_all"] == table[column].max() - table[column].min()
        assert sheet["n_runs"] == 6
        assert [part["axis"] for part in sheet["tables"]] == list(default)
        for part in sheet["tables"]:
            values = []
            for level in part["levels"]:
                wanted = {**default, part["axis"]: str(level)}
                rows = table
                for axis, value in wanted.items():
                    rows = rows[rows[f"params.{axis}"] == value]
                row = [rows[rows["params.seed"] == str(s)][column].item() for s in part["seeds"]]
                values.append(row)
            assert part["values"] == values
            assert part["delta_by_level"] == [max(row) - min(row) for row in values]
            columns = list(zip(*values, strict=True))
            if len(values) > 1:
                assert part["delta_by_seed"] == [max(c) - min(c) for c in columns]
            frame = pd.DataFrame(values)
            assert part["mean"] == pytest.approx(frame.mean(axis=1).tolist(), rel=1e-12)
            assert part["sd"] == pytest.approx(frame.std(axis=1).tolist(), rel=1e-9)


@pytest.mark.usefixtures("in_process")
def test_a_cell_stores_all_that_later_work_stands_on(small: Path, command: Command) -> None:
    """Params, tags, metrics, inputs and artifacts as DESIGN section 4 lists them."""
    command("sweep", small)
    design = bind(Design.load(small))
    (sweep,) = runs_of("sweep")
    train = open_splits(design.dataset)["train"]
    for run in runs_of("cell"):
        tags = run.data.tags
        levels = {k: v for k, v in run.data.params.items() if k != "seed"}
        cell = design.cell(levels, int(run.data.params["seed"]))
        assert tags["mm.cell"] == cell.id
        assert run.info.run_name == cell.label
        assert tags["mm.schema"] == "1"
        assert tags["mm.design"] == "small"
        assert tags["mm.design_id"] == design.id
        assert tags["mm.sweep"] == sweep.info.run_id
        assert tags["mm.dataset"] == train.digest
        assert tags["mm.health"].startswith("ok")
        assert "mlflow.parentRunId" not in tags  # nested runs leave the UI's table empty
        assert {"mm_mlflow", "python", "torch", "torchvision", "numpy", "device", "cpu_capability",
                "threads", "git_commit"} == set(json.loads(tags["mm.env"]))  # fmt: skip
        history = MlflowClient().get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in history] == [1, 2]
        assert run.data.metrics["system/train_seconds"] > 0
        assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"digits_skewed"}
        document = json.loads(artifact(run, "cell.json"))
        locations = document.pop("locations")
        assert locations == {}
        assert document == cell.canonical()
        model, spec = models.from_bytes(artifact(run, "model.safetensors"))
        assert spec["architecture"] == "mlp"
        table = predictions(run)
        test = table[table["split"] == "test"]
        images = open_splits(design.dataset)["test"].batch(slice(None))
        logits = np.stack(test["logits"].to_list())
        assert logits.dtype == np.float32
        assert np.allclose(model(images).detach().numpy(), logits, atol=1e-5)
    assert Design.parse(artifact(sweep, "design.yaml").decode()) == design
    examples = pd.read_parquet(io.BytesIO(artifact(sweep, "examples.parquet")))
    assert examples.groupby("split").size().to_dict() == {"test": 719, "grayscale": 719}
    assert (examples[examples["split"] == "test"]["group:skew"] == "gs_minority").sum() == 55
    counts = {
        name: value for name, value in sweep.data.metrics.items() if name.startswith("cells/")
    }
    assert counts == {"cells/planned": 6, "cells/present": 0, "cells/trained": 6, "cells/failed": 0}


@pytest.mark.usefixtures("in_process")
def test_logged_metrics_are_recomputed_from_stored_outcomes_to_the_bit(
    small: Path, command: Command
) -> None:
    """From float32 logits and numpy where that is enough, else from the metric's own column."""
    command("sweep", small, "--smoke")
    (sweep,) = runs_of("sweep")
    examples = pd.read_parquet(io.BytesIO(artifact(sweep, "examples.parquet")))
    for run in runs_of("cell"):
        table = predictions(run).merge(examples, on=["split", "example_id", "label"])
        assert len(table) == 2 * 719
        (path,) = (path for path in artifacts(run) if path.endswith("metrics.json"))
        records = json.loads(artifact(run, path))["metrics"]
        assert set(records) <= set(run.data.metrics)
        for key, record in records.items():
            rows = table[table["split"] == record["split"]]
            for attribute, value in (record["group"] or {}).items():
                rows = rows[rows[f"group:{attribute}"] == value]
            if key in table:
                found = rows[key].dropna().to_numpy()
            else:
                logits, labels = np.stack(rows["logits"].to_list()), rows["label"].to_numpy()
                scale = record["parameters"].get("lambda", 0)
                found = outcomes.output_perturbation(logits, labels, scale)
            assert len(found) == record["n"], key
            assert float(np.mean(found)) == run.data.metrics[key], key


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("keep", "logits", "columns", "weights"),
    [("float32", np.float32, 3, True), ("float16", np.float16, 7, True), ("none", None, 7, False)],
)
def test_what_is_kept(
    small: Path, command: Command, keep: str, logits: type | None, columns: int, weights: bool
) -> None:
    """Unless logits are float32, every metric gets its column of outcomes."""
    text = (
        small.read_text() + f"keep: {{logits: {keep}, weights: {'all' if weights else 'none'}}}\n"
    )
    small.write_text(text)
    command("sweep", small, "--smoke")
    run = runs_of("cell")[0]
    table = predictions(run)
    fixed = {"split", "example_id", "label"} | ({"logits"} if logits else set())
    assert len(set(table) - fixed) == columns
    if logits:
        assert table["logits"][0].dtype == logits
    assert ("model.safetensors" in artifacts(run)) == weights
    rows = table[table["split"] == "test"]
    key = "pgd_accuracy/delta-0.02.steps-2.examples-100"
    assert rows[key].notna().sum() == 100
    assert rows[key].mean() == pytest.approx(run.data.metrics[key])


@pytest.mark.usefixtures("in_process")
def test_a_failed_cell_is_recorded_retried_and_does_not_stop_the_sweep(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAILED with its traceback as an artifact; the next sweep trains that cell alone."""
    original = runner.training.train

    def fails_once(cell: Any, split: Any, **kwargs: Any) -> Any:
        if cell.label == "learning_rate=0.05 seed=1":
            raise ValueError("a deliberate mistake")
        return original(cell, split, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runner.training, "train", fails_once)
        result = command("sweep", small, code=1)
    assert "6 cells: 5 trained, 0 were finished, 1 failed" in result.output
    assert "learning_rate=0.05 seed=1: ValueError: a deliberate mistake" in result.output
    (failed,) = (run for run in runs_of("cell") if run.info.status == "FAILED")
    assert "deliberate mistake" in artifact(failed, "traceback.txt").decode()
    assert [run.info.status for run in runs_of("sweep")] == ["FAILED"]
    status = json.loads(command("status", "--experiment-name", "small", "--json").output)
    assert [cell["name"] for cell in status["failed"]] == ["learning_rate=0.05 seed=1"]
    assert status["failed"][0]["attempts"][0]["run_id"] == failed.info.run_id
    assert len(status["finished"]) == 5
    shown = command("sheet", "--experiment-name", "small").output
    assert "1 of 6 planned cells have runs that all failed" in shown
    assert "≥" in shown
    assert "6 cells: 1 trained, 5 were finished" in command("sweep", small).output
    assert len(runs_of("cell")) == 7


@pytest.mark.usefixtures("in_process")
def test_a_diverged_model_is_a_finished_cell(small: Path, command: Command) -> None:
    """Its metrics are 0 under every intervention, its health says why, and sheets mark it."""
    small.write_text(small.read_text().replace("[0.1, 0.05]", "[0.1, 1.0e+25]"))
    command("sweep", small, "--smoke")
    (run,) = (r for r in runs_of("cell") if r.data.params["learning_rate"] == "1e+25")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mm.health"].startswith("diverged; the training loss was not finite")
    accuracies = [v for k, v in run.data.metrics.items() if "accuracy" in k]
    assert len(accuracies) == 7
    assert set(accuracies) == {0.0}
    document = json.loads(command("sheet", "--experiment-name", "small", "--json").output)
    sheet = document["sheets"][0]
    assert sheet["tables"][0]["status"] == [["ok"], ["diverged"]]
    assert sheet["delta_all_healthy"] < sheet["delta_all"]


@pytest.mark.usefixtures("in_process")
def test_more_seeds_or_levels_train_only_the_difference(small: Path, command: Command) -> None:
    """Cells are recognised by what they are, not by the design they came from."""
    command("sweep", small)
    small.write_text(small.read_text().replace("seeds: 2", "seeds: 3"))
    assert "9 cells: 3 trained, 6 were finished" in command("sweep", small).output
    small.write_text(small.read_text().replace("[0.1, 0.05]", "[0.1, 0.05, 0.02]"))
    assert "12 cells: 3 trained, 9 were finished" in command("sweep", small).output
    small.write_text(small.read_text().replace("epochs: 2", "epochs: 1"))
    assert "12 cells: 12 trained, 0 were finished" in command("sweep", small).output
    status = json.loads(command("status", small, "--json").output)
    assert {name: len(cells) for name, cells in status.items()} == {
        "planned": 12, "finished": 12, "failed": 0, "missing": 0, "extra": 12, "foreign": 0,
        "duplicates": 0,
    }  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_smoke_has_every_level_and_is_not_the_plan(small: Path, command: Command) -> None:
    """A smoke's cells count for the real sweep; its design is not what readers go by, unless it is
    all there is."""
    command("sweep", small, "--smoke")
    status = json.loads(command("status", "--experiment-name", "small", "--json").output)
    assert (len(status["planned"]), len(status["finished"])) == (3, 3)
    assert (
        "Only a smoke of the design was swept"
        in command("sheet", "--experiment-name", "small").output
    )
    assert "6 cells: 3 trained, 3 were finished" in command("sweep", small).output
    command("sweep", small, "--smoke")
    status = json.loads(command("status", "--experiment-name", "small", "--json").output)
    assert len(status["planned"]) == 6
    assert "Only a smoke" not in command("sheet", "--experiment-name", "small").output


@pytest.mark.usefixtures("in_process")
def test_other_training_data_is_not_counted_and_both_digests_are_named(
    small: Path, command: Command
) -> None:
    """Same id, other content: the data changed under the design's feet."""
    command("sweep", small, "--smoke")
    run = runs_of("cell")[0]
    MlflowClient().set_tag(run.info.run_id, "mm.dataset", "0123456789abcdef" * 4)
    said = command("sweep", small, "--smoke").output
    assert "0123456789ab" in said
    assert open_splits(bind(Design.load(small)).dataset)["train"].digest[:12] in said
    assert "3 cells: 1 trained, 2 were finished" in said


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("last", ["smoke", "more seeds"])
def test_what_the_last_sweep_saw_is_the_data(small: Path, command: Command, last: str) -> None:
    """Runs on files that were broken meanwhile do not count, though the design that is named was
    never swept itself: ``status`` and ``sheet`` agree with what ``sweep`` would do."""
    command("sweep", small, "--smoke")
    broken = runs_of("cell")
    for run in broken:
        MlflowClient().set_tag(run.info.run_id, "mm.dataset", "0123456789abcdef" * 4)
    command("sweep", small, "--smoke")
    if last == "more seeds":
        small.write_text(small.read_text().replace("seeds: 2", "seeds: 3"))
    # The newest of each cell is broken: times of runs cannot be changed, so they trade places.
    repaired = [run for run in runs_of("cell") if run.data.tags["mm.dataset"][:4] != "0123"]
    digest = repaired[0].data.tags["mm.dataset"]
    for run in repaired:
        MlflowClient().set_tag(run.info.run_id, "mm.dataset", "0123456789abcdef" * 4)
    for run in broken:
        MlflowClient().set_tag(run.info.run_id, "mm.dataset", digest)
    client = MlflowClient()
    stranger = client.create_run(
        broken[0].info.experiment_id,
        tags={"mm.kind": "sweep", "mm.dataset": "0" * 64, "mm.design_id": "another version's"},
    )
    client.log_text(stranger.info.run_id, "name: what nobody can read", "design.yaml")
    good = {run.info.run_id for run in broken}
    status = json.loads(command("status", small, "--json").output)
    assert {cell["run_id"] for cell in status["finished"]} == good
    assert len(status["extra"]) == 3
    assert not status["duplicates"]
    command("sheet", "--design", small, "--out", "out")
    document = json.loads(Path("out/sheets/accuracy/sheet.json").read_text())
    shown = {i for table in document["tables"] for row in table["run_ids"] for i in row if i}
    assert shown == good


@pytest.mark.usefixtures("in_process")
def test_a_finished_twin_is_found_before_training(small: Path, command: Command) -> None:
    """Two sweeps at once, or a task that Dask runs twice: MLflow is asked first."""
    command("sweep", small, "--smoke")
    design = bind(Design.load(small))
    store = tracking.open_store(None, "small")
    digest = open_splits(design.dataset)["train"].digest
    job = runner.Job(store, design, design.cells()[0], "another sweep", digest)
    assert jobs.run_cell(job).status == "present"
    assert len(runs_of("cell")) == 3


@pytest.mark.usefixtures("in_process")
def test_duplicates_are_reported_and_one_counts(small: Path, command: Command) -> None:
    """Two sweeps raced: both runs are FINISHED, one is in the sheet."""
    command("sweep", small, "--smoke")
    design = bind(Design.load(small))
    store = tracking.open_store(None, "small")
    digest = open_splits(design.dataset)["train"].digest
    first = runs_of("cell")[0]
    MlflowClient().set_tag(first.info.run_id, "mm.dataset", "hidden")
    label = first.info.run_name
    (cell,) = (cell for cell in design.cells() if cell.label == label)
    jobs.run_cell(runner.Job(store, design, cell, "another", digest))
    MlflowClient().set_tag(first.info.run_id, "mm.dataset", digest)
    status = json.loads(command("status", "--experiment-name", "small", "--json").output)
    assert len(status["finished"]) == 3
    (duplicate,) = status["duplicates"]
    assert duplicate["others"] == [first.info.run_id]
    assert "more than one finished run" in command("sheet", "--experiment-name", "small").output


@pytest.mark.usefixtures("in_process")
def test_abandoned_attempts_are_marked_killed(small: Path, command: Command) -> None:
    """A RUNNING cell whose process is gone, or whose heartbeat is old; others are left alone."""
    design = bind(Design.load(small))
    store = tracking.open_store(None, "small", create=True)
    host = json.loads(tracking.worker_name())["host"]
    now = tracking.now_ms()

    def running(worker: object, beat: int) -> str:
        tags = {"mm.kind": "cell", "mm.cell": design.cells()[0].id, "mm.heartbeat": str(beat),
                "mm.worker": json.dumps(worker)}  # fmt: skip
        return tracking.create_run(store, "attempt", tags)

    gone = running({"host": host, "pid": 2**22 + 1}, now)
    stale = running({"host": "elsewhere", "pid": 1}, now - 700_000)
    alive = running({"host": "elsewhere", "pid": 1}, now - 300_000)
    odd = [running(worker, now) for worker in ([], {"host": host, "pid": 10**30}, {"host": host})]
    assert "2 abandoned attempts marked KILLED" in command("sweep", small, "--smoke").output
    client = MlflowClient()
    assert [client.get_run(i).info.status for i in (gone, stale, alive, *odd)] == [
        "KILLED", "KILLED", "RUNNING", "RUNNING", "RUNNING", "RUNNING",
    ]  # fmt: skip
    assert "is gone" in client.get_run(gone).data.tags["mm.killed"]
    assert "minutes old" in client.get_run(stale).data.tags["mm.killed"]


@pytest.mark.usefixtures("in_process")
def test_train_makes_one_cell_and_knows_it_again(small: Path, command: Command) -> None:
    """The same cell as the sweep's; ``--AXIS LEVEL`` is how ``mlflow run`` passes params."""
    said = command("train", small, "--set", "learning_rate=0.05", "--seed", "1").output
    assert "learning_rate=0.05 seed=1: trained" in said
    (run,) = runs_of("cell")
    assert {"cell.json", "model.safetensors", "examples.parquet"} <= artifacts(run)
    again = command("train", small, "--learning_rate", "0.050", "--seed", "1").output
    assert "is finished already" in again
    assert len(runs_of("cell")) == 1
    assert "6 cells: 5 trained, 1 were finished" in command("sweep", small).output


PROJECT = {"mlflow.project.entryPoint": "main"}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("theirs", ["metric", "artifact", "description", "no project"])
def test_a_run_that_somebody_works_on_is_never_taken(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    """It stays RUNNING with its name and its description, in the experiment of the sweep and elsewhere."""
    client = MlflowClient()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("small"))
    for experiment in (client.get_experiment_by_name("small").experiment_id, "0"):  # type: ignore[union-attr]
        run = client.create_run(
            experiment, tags={} if theirs == "no project" else PROJECT, run_name="mine"
        )
        run_id = run.info.run_id
        if theirs == "metric":
            client.log_metric(run_id, "loss", 1.0)
        elif theirs == "artifact":
            client.log_text(run_id, "text", "notes/mine.txt")
        client.set_tag(
            run_id, "mlflow.note.content", "my text"
        ) if theirs == "description" else None
        before = client.get_run(run_id).data.tags.get("mlflow.note.content")
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        command("sweep", small, "--smoke", "--experiment-name", "small")
        now = client.get_run(run_id)
        assert (now.info.status, now.info.run_name) == ("RUNNING", "mine")
        assert "mm.kind" not in now.data.tags  # else it would count as ours
        assert now.data.tags.get("mlflow.note.content") == before


@pytest.mark.usefixtures("in_process")
def test_under_mlflow_run_the_project_run_is_the_work(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project run in the experiment becomes the sweep, or the cell; in Default it gets a note."""
    client = MlflowClient()
    experiment = client.create_experiment("small")
    project = client.create_run(experiment, tags=PROJECT)
    monkeypatch.setenv("MLFLOW_RUN_ID", project.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    command("sweep", small, "--smoke")
    assert [run.info.run_id for run in runs_of("sweep")] == [project.info.run_id]

    project = client.create_run(experiment, tags=PROJECT)
    for name, value in [("learning_rate", "0.050"), ("seed", "7"), ("design", "x")]:
        client.log_param(project.info.run_id, name, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", project.info.run_id)
    command("train", small, "--seed", "7", "--learning_rate", "0.050")
    cell = client.get_run(project.info.run_id)
    assert cell.data.tags["mm.kind"] == "cell"
    assert cell.data.params["learning_rate"] == "0.050"
    assert cell.data.params["batch_size"] == "256"
    assert cell.info.status == "FINISHED"

    project = client.create_run("0", tags=PROJECT)
    monkeypatch.setenv("MLFLOW_RUN_ID", project.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    command("sweep", small, "--smoke")
    launcher = client.get_run(project.info.run_id).data.tags
    assert launcher["mm.kind"] == "launcher"
    assert launcher["mm.work"] in launcher["mlflow.note.content"]
    assert launcher["mm.work"] in {run.info.run_id for run in runs_of("sweep")}


@pytest.mark.usefixtures("in_process")
def test_newer_reports_supersede_older_ones_of_the_same_arguments(
    small: Path, command: Command
) -> None:
    """A report of other arguments stands beside it; ``--out`` writes nothing to MLflow."""
    command("sweep", small, "--smoke")
    first = json.loads(command("sheet", "--experiment-name", "small", "--json").output)
    command("sheet", "--experiment-name", "small", "--metric", "accuracy")
    second = json.loads(command("sheet", "--experiment-name", "small", "--json").output)
    superseded = {
        run.info.run_id: run.data.tags.get("mm.superseded_by") for run in runs_of("report")
    }
    assert superseded.pop(first["report_run_id"]) == second["report_run_id"]
    assert list(superseded.values()) == [None, None]
    out = Path("files")
    command("sheet", "--experiment-name", "small", "--out", str(out), "--metric", "pgd*")
    assert len(runs_of("report")) == 3
    assert len(list(out.glob("sheets/*/sheet.html"))) == 2
    assert (out / "index.html").is_file()


@pytest.mark.usefixtures("in_process")
def test_only_what_was_asked_for_in_the_same_words_is_superseded(
    small: Path, command: Command
) -> None:
    """The report of a smoke, which is never the plan, leaves the full one; nor is a width of 0 none."""
    command("sweep", small, "--sheet")
    command("sweep", small, "--smoke", "--sheet")
    command("sheet", "--experiment-name", "small", "--within", "0")
    assert len(runs_of("report")) == 3
    assert not any("mm.superseded_by" in run.data.tags for run in runs_of("report"))
    command("sweep", small, "--smoke", "--sheet")
    command("sheet", "--experiment-name", "small")
    named = [run.data.tags["mm.report"] for run in runs_of("report")
             if "mm.superseded_by" in run.data.tags]  # fmt: skip
    smoke = bind(Design.load(small)).smoke().id
    assert sorted(named) == ["sheets", f'sheets {{"smoke":"{smoke}"}}']


@pytest.mark.usefixtures("in_process")
def test_the_ten_lines_of_python(small: Path, command: Command) -> None:
    """What the README shows: an experiment read back in Python."""
    command("sweep", small)
    from mm_mlflow import build_sheet, open_store

    store = open_store(None, "small")
    assert isinstance(store, Store)
    frame, design = read(store)
    sheet = build_sheet(frame, design, "accuracy")
    assert sheet.to_frame()["value"].between(0, 1).all()
    assert f"{100 * sheet.delta_all:.2f}" in sheet._repr_html_()


@pytest.mark.usefixtures("in_process")
def test_dry_run_says_what_would_be_done_and_does_nothing(small: Path, command: Command) -> None:
    """Cells, disk, and time where finished cells tell it."""
    said = command("sweep", small, "--dry-run").output
    assert "6 cells planned, 6 to train" in said
    assert "time unknown" in said
    assert MlflowClient().get_experiment_by_name("small") is None
    command("sweep", small, "--smoke")
    document = json.loads(command("sweep", small, "--dry-run", "--json").output)
    assert len(document["todo"]) == 3
    assert document["seconds"] > 0
    run = runs_of("cell")[0]
    stored = sum(len(artifact(run, path)) for path in artifacts(run))
    assert document["bytes"] / 3 == pytest.approx(stored, rel=0.5)


def test_an_intervention_without_a_docstring_is_listed(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another package's, say: its name is all there is to say."""
    module = types.ModuleType("somebody")
    module.Bare = type("Bare", (), {"__doc__": None})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody", module)
    monkeypatch.setitem(evaluation.INTERVENTIONS, "bare", "somebody:Bare")
    assert "\nbare " in command("interventions").output
    listed = json.loads(command("interventions", "--json").output)
    assert {"name": "bare", "summary": ""} in listed


@pytest.mark.parametrize("tracked", [True, False])
def test_the_commit_is_that_of_the_repository_that_holds_the_code(
    tmp_path: Path, tracked: bool
) -> None:
    """Not of one that merely surrounds it, as a virtual environment lies in somebody's project."""
    file = tmp_path / "venv" / "code.py"
    file.parent.mkdir()
    file.touch()
    (tmp_path / ".gitignore").write_text("" if tracked else "venv\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance._git_commit(file) == (done.stdout.strip() if tracked else None)


def test_lists_name_everything(command: Command) -> None:
    """Datasets and interventions, with a line each."""
    assert "digits_skewed" in command("datasets").output
    listed = json.loads(command("interventions", "--json").output)
    assert {item["name"] for item in listed} >= {
        "accuracy", "group_accuracy", "ood_accuracy", "output_perturbation", "input_perturbation", "pgd",
    }  # fmt: skip
    assert all(item["summary"] for item in listed)
