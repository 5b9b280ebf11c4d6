"""``reproduce``: the cell of a run trained again, linked to it, and every metric compared."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import Command, artifact, artifacts, fails, predictions, runs_of
from http_store import serve
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow import artifacts as files
from mm_mlflow import datasets, models, provenance, runner, tracking
from mm_mlflow.datasets import bind, open_splits
from mm_mlflow.design import Design, InterventionSpec
from mm_mlflow.evaluation import evaluate, plan

PGD = "pgd_accuracy/delta-0.02.steps-2.examples-100"


@pytest.fixture
def cell(small: Path, command: Command) -> Run:
    """A finished cell that is not the default."""
    command("train", small, "--set", "learning_rate=0.05", "--seed", "3")
    (run,) = runs_of("cell")
    return run


def stored(run: Run) -> tuple[Any, ...]:
    """All that MLflow holds of a run."""
    fresh = MlflowClient().get_run(run.info.run_id)
    contents = {path: artifact(fresh, path) for path in artifacts(fresh)}
    return fresh.to_dictionary(), contents


def path_of(run: Run, pattern: str) -> Path:
    return next(Path(run.info.artifact_uri.removeprefix("file://")).glob(pattern))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_reproduction_equals_its_original_to_the_bit(cell: Run, command: Command) -> None:
    """By MLflow and pandas alone: metrics, logits, columns of outcomes; the old run stays as it was."""
    before = stored(cell)
    said = command("reproduce", cell.info.run_id).output
    (new,) = runs_of("reproduction")
    assert stored(cell) == before
    assert new.info.status == "FINISHED"
    timeless = {k: v for k, v in cell.data.metrics.items() if not k.startswith("system/")}
    assert len(timeless) == 8
    assert timeless.items() <= new.data.metrics.items()
    pd.testing.assert_frame_equal(predictions(cell), predictions(new), check_exact=True)
    assert artifact(cell, "cell.json") == artifact(new, "cell.json")
    assert "All 8 metrics are equal to the bit." in said
    assert "All logits are equal to the bit" in said
    assert "environment (mm.env) is the same" in said


def test_a_reproduction_links_to_its_original_and_is_no_cell(cell: Run, command: Command) -> None:
    """Tags, params, description and document; ``--json`` prints what is stored."""
    printed = json.loads(command("reproduce", cell.info.run_id, "--json").stdout)
    (new,) = runs_of("reproduction")
    tags = new.data.tags
    assert tags["mm.reproduces"] == cell.info.run_id
    assert tags["mm.reproduced"] == "true"
    assert "mm.cell" not in tags
    assert new.data.params == cell.data.params
    link = f"(#/experiments/{cell.info.experiment_id}/runs/{cell.info.run_id})"
    assert link in tags["mlflow.note.content"]
    document = json.loads(artifact(new, "reproduction.json"))
    assert printed == document
    assert document["run_id"] == new.info.run_id
    assert document["cell"] == cell.data.tags["mm.cell"]
    assert document["equal"]
    assert {item["metric"] for item in document["metrics"]} == {
        key for key in cell.data.metrics if not key.startswith("system/")
    }


@pytest.mark.usefixtures("in_process")
def test_readers_ignore_reproductions(small: Path, command: Command) -> None:
    """Sheets, selection, status and what is left to train are as if it were not there."""
    command("sweep", small)
    asked = (
        ["sheet", "--experiment-name", "small", "--json"],
        ["status", "--experiment-name", "small", "--json"],
        ["select", "--experiment-name", "small", "--top", "50%", "--on", "accuracy", "--json"],
    )

    def answers() -> list[Any]:
        found = [json.loads(command(*words).stdout) for words in asked]
        return [{**item, "report_run_id": None} for item in found]

    before = answers()
    command("reproduce", runs_of("cell")[0].info.run_id)
    assert answers() == before
    assert "0 trained, 6 were finished" in command("sweep", small).output


def test_a_metric_that_was_altered_is_detected(cell: Run, command: Command) -> None:
    """That one alone, and by how much; exit status 1, also in the tag and the description."""
    key = "accuracy"
    altered = float(np.nextafter(cell.data.metrics[key], 1))
    MlflowClient().log_metric(cell.info.run_id, key, altered)
    result = command("reproduce", cell.info.run_id, code=1)
    assert "1 of 8 metrics differ, most of all accuracy" in result.output
    (new,) = runs_of("reproduction")
    assert new.data.tags["mm.reproduced"] == "false"
    assert "1 of 8 metrics differ" in new.data.tags["mlflow.note.content"]
    document = json.loads(artifact(new, "reproduction.json"))
    (differing,) = (item for item in document["metrics"] if not item["equal"])
    assert differing == {
        "metric": key, "original": altered, "reproduction": new.data.metrics[key],
        "difference": altered - new.data.metrics[key], "equal": False,
    }  # fmt: skip
    assert all(item["equal"] for item in document["logits"].values())


def test_another_training_is_detected(
    cell: Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that draws other weights: its loss, its logits and metrics tell."""
    original = runner.training.stream_seed
    monkeypatch.setattr(
        runner.training, "stream_seed", lambda name, seed: original(name, seed + (name == "init"))
    )
    document = json.loads(command("reproduce", cell.info.run_id, "--json", code=1).stdout)
    differing = {item["metric"] for item in document["metrics"] if not item["equal"]}
    assert {"train_loss", "accuracy", "output_perturbation_accuracy/lambda-3"} <= differing
    assert min(item["largest_difference"] for item in document["logits"].values()) > 0.01
    assert not document["environment"]


def test_another_evaluation_is_detected(
    cell: Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stronger attack than recorded: PGD alone differs."""
    original = runner.evaluate

    def stronger(model: Any, tasks: Any, **kwargs: Any) -> Any:
        for task in tasks:
            if task.key == PGD:
                object.__setattr__(task.intervention, "steps", 5)
        return original(model, tasks, **kwargs)

    monkeypatch.setattr(runner, "evaluate", stronger)
    document = json.loads(command("reproduce", cell.info.run_id, "--json", code=1).stdout)
    assert [item["metric"] for item in document["metrics"] if not item["equal"]] == [PGD]


def test_one_stored_logit_that_differs_is_detected(cell: Run, command: Command) -> None:
    """Although no metric does."""
    path = path_of(cell, "evaluations/*/predictions.parquet")
    table = pd.read_parquet(path)
    table.at[0, "logits"] = table.loc[0, "logits"] + np.float32(1e-3)
    table.to_parquet(path)
    said = command("reproduce", cell.info.run_id, code=1).output
    assert "All 8 metrics are equal to the bit." in said
    assert "Logits differ by up to 0.001 (test)" in said


def test_a_cell_behind_a_server_is_reproduced(
    cell: Run, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers keep their bits on the way there and back."""
    with serve(monkeypatch, f"sqlite:///{tmp_path / 'mlflow.db'}") as server:
        said = command("reproduce", cell.info.run_id, "--tracking-uri", server.uri).output
    assert "All 8 metrics are equal to the bit." in said
    assert "All logits are equal to the bit" in said


def test_another_environment_is_named_key_by_key(
    cell: Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs and nothing else; equal metrics stay equal."""
    environment = {**json.loads(provenance.environment()), "torch": "9.9", "cpu_capability": "NONE"}
    monkeypatch.setattr(provenance, "environment", lambda: json.dumps(environment))
    document = json.loads(command("reproduce", cell.info.run_id, "--json").stdout)
    assert set(document["environment"]) == {"torch", "cpu_capability"}
    assert document["environment"]["torch"]["reproduction"] == "9.9"
    assert document["equal"]


@pytest.mark.parametrize("batch_size", [None, 50])
def test_back_filled_metrics_are_taken_again(
    cell: Run, command: Command, small: Path, batch_size: int | None
) -> None:
    """Those of a second pass too, in the batches that it says; all of them equal."""
    splits = open_splits(bind(Design.load(small)).dataset)
    specs = [
        InterventionSpec(name="pgd", delta=0.05, steps=3, examples=60),
        InterventionSpec(name="group_accuracy", by=["skew", ["skew", "class"]]),
        InterventionSpec(name="worst_group_accuracy", by=[["skew", "class"]]),
        InterventionSpec(name="corruption", kind="gaussian_blur", severity=0.5, split="grayscale"),
    ]
    tasks = plan(specs, splits, open_splits)
    model, _ = models.from_bytes(artifact(cell, "model.safetensors"))
    later = evaluate(model, tasks, batch_size=batch_size)
    store = tracking.open_store(None, "small")
    tracking.log_files(
        store,
        cell.info.run_id,
        files.evaluation_files(later, tasks, "float32"),
    )
    tracking.log(store, cell.info.run_id, metrics=later.values)
    document = json.loads(command("reproduce", cell.info.run_id, "--json").stdout)
    assert set(later.values) < {item["metric"] for item in document["metrics"]}
    assert len(document["metrics"]) == 8 + len(later.values.keys() - cell.data.metrics.keys())
    assert document["equal"]
    (new,) = runs_of("reproduction")
    passes = [json.loads(artifact(new, p)) for p in artifacts(new) if p.endswith("metrics.json")]
    sizes = {64} if batch_size is None else {64, batch_size}
    assert {item["batch_size"] for item in passes} == sizes
    assert len(document["logits"]) == 2 * len(sizes)


def test_data_of_another_dataset_are_found_where_they_were(
    small: Path, command: Command, tmp_path: Path
) -> None:
    """The record of a metric says where its data are, which is no part of its parameters."""
    place = tmp_path / "elsewhere"
    other = f"{{name: digits_skewed, test_skew: 0.8, cache: {place}}}"
    small.write_text(
        small.read_text().replace("split: grayscale", f"split: grayscale, dataset: {other}")
    )
    command("train", small, "--seed", "0")
    (run,) = runs_of("cell")
    record = json.loads(path_of(run, "evaluations/*/metrics.json").read_text())["metrics"][
        "ood_accuracy/digits_skewed_grayscale"
    ]
    assert record["locations"] == {"cache": str(place)}
    assert "cache" not in record["parameters"]["dataset"]
    shutil.rmtree(place)
    datasets._open_splits.cache_clear()
    assert "All 8 metrics are equal" in command("reproduce", run.info.run_id).output
    assert any(place.iterdir())


def test_a_metric_that_nothing_describes_is_no_equal_one(cell: Run, command: Command) -> None:
    """Somebody logged it: it cannot be taken again, which is said, and is no success."""
    MlflowClient().log_metric(cell.info.run_id, "judged_by_hand", 0.5)
    said = command("reproduce", cell.info.run_id, code=1).output
    assert "All 8 metrics are equal to the bit." in said
    assert "Not taken again" in said
    assert "judged_by_hand" in said


def test_the_project_run_is_the_reproduction(
    cell: Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it lies in the experiment of the original, whatever is named; else it links to it."""
    client = MlflowClient()
    tags = {"mlflow.project.entryPoint": "reproduce"}
    inside = client.create_run(cell.info.experiment_id, tags=tags)
    client.log_param(inside.info.run_id, "run_id", cell.info.run_id)
    outside = client.create_run("0", tags=tags)
    for run in (inside, outside):
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        command("reproduce", cell.info.run_id, "--experiment-name", "another")
    assert client.get_experiment_by_name("another") is None
    reproductions = {run.info.run_id for run in runs_of("reproduction")}
    assert len(reproductions) == 2
    assert inside.info.run_id in reproductions
    assert client.get_run(outside.info.run_id).data.tags["mm.kind"] == "launcher"
    assert client.get_run(outside.info.run_id).data.tags["mm.work"] in reproductions


def test_a_reproduction_that_fails_ends_failed(
    cell: Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its traceback, one line, and nothing left RUNNING."""

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no luck")

    monkeypatch.setattr(runner.training, "train", broken)
    result = command("reproduce", cell.info.run_id, "--json", code=1)
    assert "reproduction of learning_rate=0.05 seed=3 failed: ValueError: no luck" in result.stderr
    assert json.loads(result.stdout)["equal"] is False
    (new,) = runs_of("reproduction")
    assert new.info.status == "FAILED"
    assert "no luck" in artifact(new, "traceback.txt").decode()


@pytest.mark.usefixtures("in_process")
def test_an_abandoned_reproduction_is_marked_killed(small: Path, command: Command) -> None:
    """By the next sweep, like a cell whose process is gone."""
    command("sweep", small, "--smoke")
    store = tracking.open_store(None, "small")
    worker = {**json.loads(tracking.worker_name()), "pid": 2**22 + 1}
    tags = {"mm.kind": "reproduction", "mm.worker": json.dumps(worker)}
    run_id = tracking.create_run(store, "x", tags)
    command("sweep", small, "--smoke")
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_a_run_without_weights_or_logits_is_reproduced(small: Path, command: Command) -> None:
    """It needs neither: the cell is trained again, and what there is is compared."""
    small.write_text(small.read_text() + "keep: {weights: none, logits: none}\n")
    command("train", small, "--seed", "0")
    (run,) = runs_of("cell")
    said = command("reproduce", run.info.run_id).output
    assert "All 8 metrics are equal" in said
    assert "No logits are kept to compare" in said


def test_runs_that_cannot_be_reproduced_are_refused(cell: Run, command: Command) -> None:
    """One line each, before anything is trained or written."""
    client, run_id = MlflowClient(), cell.info.run_id
    experiment = cell.info.experiment_id
    store = tracking.open_store(None, "small")

    def made(**tags: str) -> str:
        named = {f"mm.{key}": value for key, value in tags.items()}
        return tracking.create_run(store, "x", {**named, "mm.schema": tags.get("schema", "1")})

    report, later = made(kind="report"), made(kind="cell", schema="2")
    running, failed = made(kind="cell"), made(kind="cell")
    tracking.finish(store, failed, "FAILED")
    foreign = client.create_run(experiment).info.run_id
    deleted = client.create_run(experiment).info.run_id
    client.delete_run(deleted)
    command("reproduce", run_id)
    (again,) = runs_of("reproduction")
    number = len(client.search_runs([experiment]))
    for wanted, message in [
        ("0" * 32, "is no run of sqlite"),
        ("../x y", "is no run of sqlite"),
        (report, "is of kind 'report'"),
        (later, "has schema '2'"),
        (running, "is RUNNING: only FINISHED"),
        (failed, "is FAILED: only FINISHED"),
        (foreign, "is of another program"),
        (deleted, "is deleted"),
        (again.info.run_id, f"is a reproduction itself, of run {run_id}"),
    ]:
        assert message in fails("reproduce", wanted)
    assert len(client.search_runs([experiment])) == number


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("pattern", "change", "message", "code"),
    [
        ("cell.json", _set("training", "epochs", value=3), "its tag mm.cell says", 2),
        ("cell.json", _set("id_version", value=2), "id_version 2 is not allowed", 2),
        ("cell.json", _set("seeds", "order", value=4), "are not allowed: one whole number", 2),
        ("cell.json", _set("seeds", value=None), "cell.json cannot be used", 2),
        ("cell.json", _set("training", "epoch", value=3), "did you mean 'epochs'", 2),
        ("cell.json", _set("project", value={"name": "x"}), "trained by that project only", 2),
        ("cell.json", None, "cell.json", 1),
        ("evaluations/*/metrics.json", None, "metrics.json", 1),
        ("evaluations/*/metrics.json", _set("metrics", value={}), "no metrics.json says how", 1),
        ("evaluations/*/metrics.json", _set("metrics", value=None), "metrics.json cannot be read", 1),
        ("evaluations/*/metrics.json", _set("metrics", PGD, "version", value=99), "version 99", 2),
        ("evaluations/*/metrics.json", _set("metrics", PGD, "n", value=99), "its record makes", 2),
        ("evaluations/*/metrics.json", _set("metrics", PGD, "parameters", value=3), "not whole", 2),
        ("evaluations/*/metrics.json", _set("metrics", PGD, "parameters", "norm", value="l2"),
         "its record has norm 'l2', which this version cannot take again", 2),
        ("evaluations/*/metrics.json", _set("metrics", PGD, "intervention", value="os:x"),
         "--trust-code", 2),
        ("evaluations/*/metrics.json", _set("metrics", PGD, "split_digest", value="0" * 64),
         "these are other data", 2),
    ],
)  # fmt: skip
def test_artifacts_that_do_not_give_the_cell_back(
    cell: Run,
    pattern: str,
    change: Callable[[dict[str, Any]], None] | None,
    message: str,
    code: int,
) -> None:
    """Altered, of another version, or gone: said in a line, and nothing is trained."""
    path = path_of(cell, pattern)
    if change is None:
        path.unlink()
    else:
        edit(path, change)
    assert message in fails("reproduce", cell.info.run_id, code=code)
    assert not runs_of("reproduction")


def test_other_training_data_are_refused(cell: Run) -> None:
    """By digest: a number from other data is no reproduction."""
    MlflowClient().set_tag(cell.info.run_id, "mm.dataset", "0" * 64)
    assert "these are other data" in fails("reproduce", cell.info.run_id)
    assert not runs_of("reproduction")


@pytest.mark.usefixtures("in_process")
def test_cells_of_every_kind_come_back_from_their_document(small: Path, command: Command) -> None:
    """Bundles of settings, whole numbers written as decimals, arguments of a dataset."""
    text = small.read_text().replace(
        "{name: digits_skewed}", "{name: digits_skewed, test_skew: 0.9}"
    )
    bundle = "{name: scaled, training: {optimizer: adam, learning_rate_scale: 0.1}}"
    text = text.replace("architecture: [mlp]", f"architecture: [mlp]\n  optimizer: [sgd, {bundle}]")
    small.write_text(text.replace("architecture: mlp}", "architecture: mlp, optimizer: sgd}"))
    command("train", small, "--seed", "1", "--set", "optimizer=scaled")
    (run,) = runs_of("cell")
    assert "All 8 metrics are equal" in command("reproduce", run.info.run_id).output
    examples = pd.read_parquet(io.BytesIO(artifact(runs_of("reproduction")[0], "examples.parquet")))
    assert set(examples["split"]) == {"test", "grayscale"}
