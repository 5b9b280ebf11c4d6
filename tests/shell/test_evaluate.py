"""Back-fill of our own cells: the bits of a sweep, only what is missing, killed and resumed.

What is compared is read back with MLflow alone; models are measured again by code of these tests.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers import Command, artifact, artifacts, pause, runs_of
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow import backfill, models, tracking
from mm_mlflow.design import Keep
from mm_mlflow.request import Request, parse_interventions
from mm_mlflow.tracking import Consent

FEW = "\n  - accuracy"
REST = """
  - {name: group_accuracy, by: [skew]}
  - {name: ood_accuracy, split: grayscale}
  - {name: output_perturbation, lambda: [3, 5]}
  - {name: input_perturbation, lambda: 1}
  - {name: corruption, kind: gaussian_blur, severity: 0.5}
  - {name: pgd, delta: [0.015, 0.03]}
  - {name: pgd, delta: 0.02, until: last}
  - {name: pgd, delta: 0.03, examples: 100, steps: 5}"""
DESIGN = """
name: NAME
dataset: {name: digits_skewed}
training: {epochs: EPOCHS}
default: {batch_size: 64, architecture: mlp}
axes:
  batch_size: [64]
  architecture: ARCHITECTURES
seeds: SEEDS
interventions:INTERVENTIONS
"""
# Group norm and average pooling sum in an order that depends on the memory layout.
PLAIN = """
from torch import nn

def plain(channels, size, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.GELU(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(2, 32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, classes))
"""
PGD = "{name: pgd, delta: 0.05}"
KEY = "pgd_accuracy/delta-0.05"


def write(
    folder: Path,
    name: str,
    interventions: str = FEW,
    architectures: str = "[mlp]",
    seeds: int = 2,
    epochs: int = 2,
) -> Path:
    """A design on the embedded digits."""
    text = DESIGN
    for word, value in [
        ("NAME", name),
        ("EPOCHS", epochs),
        ("ARCHITECTURES", architectures),
        ("SEEDS", seeds),
        ("INTERVENTIONS", interventions),
    ]:
        text = text.replace(word, str(value))
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def by_name(name: str) -> dict[str, Run]:
    return {run.info.run_name: run for run in runs_of("cell", name)}


def measured(run: Run) -> dict[str, float]:
    """Metrics without those of the training itself."""
    return {
        key: value
        for key, value in run.data.metrics.items()
        if not key.startswith(("system/", "train_"))
    }


def columns(run: Run) -> dict[str, np.ndarray]:
    """Every column of every pass: stored outcomes, and logits of each split."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(path for path in artifacts(run) if path.endswith("predictions.parquet")):
        table = pd.read_parquet(io.BytesIO(artifact(run, path)))
        for split, part in table.groupby("split"):
            ordered = part.sort_values("example_id")
            for column in set(part) - {"split", "example_id"}:
                values = np.array(ordered[column].to_list())
                if column != "logits" and np.isnan(values.astype(float)).all():
                    continue  # of another split
                key = f"{split} {column}"
                assert key not in found or same(found[key], values), key
                found[key] = values
    return found


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal to the bit; examples that a metric is not over have NaN."""
    return np.array_equal(one, other, equal_nan=True)


def evaluate(command: Command, name: str, *arguments: str, code: int = 0) -> Any:
    return command("evaluate", "--experiment-name", name, *arguments, code=code)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("by", ["design", "interventions"])
def test_values_are_those_of_a_sweep_to_the_bit(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """A sweep with all interventions, and one with accuracy alone plus a back-fill of the rest, by the
    design or one by one: equal metrics and stored outcomes, compared with ``==``, with and without
    batch norm and convolutions (one by one: of one net)."""
    monkeypatch.delitem(sys.modules, "plain_net", raising=False)
    (tmp_path / "plain_net.py").write_text(PLAIN)
    nets = "[mlp, conv, resnet8, 'plain_net:plain']" if by == "design" else "[mlp]"
    whole = write(tmp_path, "whole", FEW + REST, nets, seeds=1)
    few = write(tmp_path, "few", FEW, nets, seeds=1)
    command("sweep", whole, "--trust-code")
    command("sweep", few, "--trust-code")
    before = {name: set(measured(run)) for name, run in by_name("few").items()}
    assert all(keys == {"accuracy"} for keys in before.values())
    if by == "design":
        asked = ["--design", str(whole)]
        evaluate(command, "few", *asked, "--trust-code")
    else:
        specs = [line.removeprefix("  - ") for line in REST.strip("\n").splitlines()]
        for spec in specs:
            evaluate(command, "few", "--intervention", spec, "--trust-code")
    ours, theirs = by_name("few"), by_name("whole")
    assert set(ours) == set(theirs)
    assert len(ours) == (4 if by == "design" else 1)
    for name, run in ours.items():
        assert measured(run) == measured(theirs[name])
        assert len(measured(run)) == 1 + 4 + 1 + 2 + 1 + 1 + 4
        expected, found = columns(theirs[name]), columns(run)
        assert set(found) == set(expected)
        assert all(same(found[key], expected[key]) for key in expected)
        assert 0 < run.data.metrics["pgd_accuracy/delta-0.015"] < 1
        passes = {path.split("/")[1] for path in artifacts(run) if path.startswith("evaluations/")}
        assert len(passes) == 2 if by == "design" else 1 + len(specs)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch has two threads, as on a machine where nobody says otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("in_process", "two_threads")
def test_cells_are_trained_and_measured_by_one_thread(tmp_path: Path, command: Command) -> None:
    """Wherever they are: bits depend on it."""
    command("train", write(tmp_path, "few", FEW, seeds=1), "--seed", "0")
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    evaluate(command, "few", "--intervention", "{name: output_perturbation, lambda: 2}")
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("in_process")
def test_only_what_is_missing_is_measured_and_nothing_is_written_twice(
    tmp_path: Path, command: Command
) -> None:
    """A second call finds nothing to do; one that asks for more measures the difference alone; every
    metric is one point, and no file changes."""
    command("sweep", write(tmp_path, "small"))
    first = json.loads(evaluate(command, "small", "--intervention", PGD, "--json").output)
    assert [entry["metrics"] for entry in first["evaluated"]] == [[KEY], [KEY]]
    before = {run.info.run_id: files(run) for run in runs_of("cell")}
    tags = {run.info.run_id: run.data.tags for run in runs_of("cell")}
    said = evaluate(command, "small", "--intervention", PGD).output
    assert "0 runs to evaluate, 2 lack nothing, 0 not possible" in said
    assert {run.info.run_id: files(run) for run in runs_of("cell")} == before
    more = json.loads(
        evaluate(
            command, "small", "--intervention", "{name: pgd, delta: [0.05, 0.06]}", "--json"
        ).output
    )
    assert [entry["metrics"] for entry in more["evaluated"]] == [["pgd_accuracy/delta-0.06"]] * 2
    for run in runs_of("cell"):
        now = files(run)
        assert now | before[run.info.run_id] == now
        assert len(now) == len(before[run.info.run_id]) + 2
        assert run.data.tags == tags[run.info.run_id]
        for key in (KEY, "pgd_accuracy/delta-0.06", "accuracy"):
            assert len(MlflowClient().get_metric_history(run.info.run_id, key)) == 1


def files(run: Run) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and its content."""
    root = Path(run.info.artifact_uri)
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.usefixtures("in_process")
def test_an_evaluation_run_says_what_was_asked_and_came_out(
    tmp_path: Path, command: Command
) -> None:
    """Kind, list of runs, interventions, data, counts; and a sheet of the new metric beside its kin."""
    some = "\n  - {name: pgd, delta: 0.03}\n  - {name: output_perturbation, lambda: 3}"
    command("sweep", write(tmp_path, "small", FEW + some))
    evaluate(command, "small", "--intervention", PGD)
    (run,) = runs_of("evaluation")
    assert run.info.status == "FINISHED"
    assert set(json.loads(run.data.tags["mm.env"])) >= {"torch", "device", "threads"}
    listed = json.loads(artifact(run, "evaluated.json"))["runs"]
    cells = runs_of("cell")
    assert {entry["run_id"] for entry in listed} == {cell.info.run_id for cell in cells}
    assert all(entry["kind"] == "cell" and entry["metrics"] == [KEY] for entry in listed)
    assert b"delta: 0.05" in artifact(run, "evaluation.yaml")
    assert run.data.metrics["runs/evaluated"] == len(cells) == 2
    assert run.data.metrics["runs/failed"] == 0
    examples = pd.read_parquet(io.BytesIO(artifact(run, "examples.parquet")))
    assert examples["split"].unique().tolist() == ["test"]
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"digits_skewed"}
    document = json.loads(command("sheet", "--experiment-name", "small", "--json").output)
    metrics = [sheet["metric"] for sheet in document["sheets"]]
    assert metrics == [
        "accuracy",
        "pgd_accuracy/delta-0.03",
        KEY,
        "output_perturbation_accuracy/lambda-3",
    ]
    sheet = document["sheets"][2]
    assert sheet["complete"]
    assert sheet["n_runs"] == 2


@pytest.mark.usefixtures("in_process")
def test_a_dry_run_writes_nothing(tmp_path: Path, command: Command) -> None:
    """It names the metrics of every run, and leaves no run behind."""
    command("sweep", write(tmp_path, "small"))
    said = evaluate(command, "small", "--intervention", PGD, "--dry-run").output
    assert f"default seed=0: {KEY}" in said
    assert "2 runs to evaluate" in said
    document = json.loads(
        evaluate(command, "small", "--intervention", PGD, "--dry-run", "--json").output
    )
    assert [entry["metrics"] for entry in document["todo"]] == [[KEY], [KEY]]
    assert not runs_of("evaluation")
    assert all(KEY not in run.data.metrics for run in runs_of("cell"))


@pytest.mark.usefixtures("in_process")
def test_other_data_are_named_in_the_key_and_their_label_map_is_recorded(
    tmp_path: Path, command: Command
) -> None:
    """A cell on another dataset: its own accuracy is not in the way; images of a class that the map
    gives to another output are wrong there. Another map is another measurement, said and not mixed."""
    command("sweep", write(tmp_path, "small", seeds=2))
    other = "{name: digits_skewed, test_skew: 0.5}"
    key = "accuracy/split-digits_skewed"
    straight = {str(digit): digit for digit in range(10)}
    turned = {str(digit): (digit + 1) % 10 for digit in range(10)}
    asked = ["--intervention", "accuracy", "--dataset", other]
    for number, (mapping, low, high) in enumerate([(turned, 0.0, 0.2), (straight, 0.8, 1.0)]):
        name = f"copy{number}"
        command("sweep", write(tmp_path, name, seeds=1, epochs=10))
        evaluate(command, name, *asked, "--label-map", json.dumps(mapping))
        (run,) = runs_of("cell", name)
        assert low <= run.data.metrics[key] <= high
        record = records(run)[key]
        assert record["parameters"]["dataset"]["test_skew"] == 0.5
        assert record["parameters"].get("label_map") == (turned if mapping is turned else None)
    # Runs of one experiment that were measured under different maps make no sheet.
    first, second = runs_of("cell", "small")
    for run, mapping in [(first, turned), (second, straight)]:
        only = ["--label-map", json.dumps(mapping), "--run", run.info.run_id]
        evaluate(command, "small", *asked, *only)
    said = command("sheet", "--experiment-name", "small", "--metric", key, code=2).stderr
    assert key in said
    assert "--mixed" in said
    again = json.loads(evaluate(command, "copy0", *asked, "--json").output)
    (present,) = again["present"]
    assert "measured with other parameters" in present["skipped"][key]
    (run,) = runs_of("cell", "copy0")
    assert run.data.metrics[key] < 0.2


def records(run: Run) -> dict[str, Any]:
    """What all ``metrics.json`` of a run say."""
    found: dict[str, Any] = {}
    for path in artifacts(run):
        if path.endswith("metrics.json"):
            found |= json.loads(artifact(run, path))["metrics"]
    return found


@pytest.mark.usefixtures("in_process")
def test_the_same_dataset_by_name_is_the_runs_own(tmp_path: Path, command: Command) -> None:
    """No other key, no other record."""
    command("sweep", write(tmp_path, "small", seeds=1))
    evaluate(command, "small", "--intervention", PGD, "--dataset", "digits_skewed")
    (run,) = runs_of("cell")
    assert KEY in run.data.metrics
    assert records(run)[KEY]["parameters"]["dataset"] is None


@pytest.mark.usefixtures("in_process")
def test_runs_that_cannot_be_evaluated_are_listed_and_do_not_fail_the_others(
    tmp_path: Path, command: Command
) -> None:
    """Weights missing, truncated, of an unknown or an imported architecture (whose module does not run),
    or of other shapes: each with its reason; the others are measured and the exit status is 0."""
    command("sweep", write(tmp_path, "small", seeds=7))
    cells = by_name("small")
    weights = {
        name: Path(run.info.artifact_uri) / "model.safetensors" for name, run in cells.items()
    }
    weights["default seed=1"].unlink()
    data = weights["default seed=2"].read_bytes()
    weights["default seed=2"].write_bytes(data[: len(data) // 2])
    (tmp_path / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()"
    )
    for seed, change in [
        (3, {"architecture": "evil:make"}),
        (4, {"architecture": "nonesuch"}),
        (5, {"arguments": {"hidden": [9]}}),
    ]:
        path = weights[f"default seed={seed}"]
        model, spec = models.from_bytes(path.read_bytes())
        path.write_bytes(models.to_bytes(model, {**spec, **change}))
    weights["default seed=6"].write_bytes(b"\xff" * 100)
    document = json.loads(evaluate(command, "small", "--intervention", PGD, "--json").output)
    assert [entry["name"] for entry in document["evaluated"]] == ["default seed=0"]
    reasons = {entry["name"]: entry["reason"] for entry in document["impossible"]}
    for seed, part in [
        (1, "keeps no weights"),
        (2, "model.safetensors cannot be read"),
        (3, "'evil:make' is an import path"),
        (4, "unknown architecture 'nonesuch'"),
        (5, "model.safetensors cannot be read"),
        (6, "model.safetensors cannot be read"),
    ]:
        assert part in reasons.pop(f"default seed={seed}")
    assert not reasons
    assert not document["failed"]
    assert not (tmp_path / "ran").exists()
    said = evaluate(command, "small", "--intervention", PGD).output
    assert "not possible: it keeps no weights (model.safetensors) (default seed=1)" in said
    # With trust it does run: the check above can fail.
    evaluate(command, "small", "--intervention", PGD, "--trust-code")
    assert (tmp_path / "ran").exists()


@pytest.mark.usefixtures("in_process")
def test_data_that_have_changed_since_are_not_measured_on(tmp_path: Path, command: Command) -> None:
    """The digest of the training data is the cell's, or its values would not be a sweep's."""
    command("sweep", write(tmp_path, "small", seeds=2))
    changed, _ = runs_of("cell")
    MlflowClient().set_tag(changed.info.run_id, "mm.dataset", "0" * 64)
    document = json.loads(evaluate(command, "small", "--intervention", PGD, "--json").output)
    assert len(document["evaluated"]) == 1
    (entry,) = document["impossible"]
    assert entry["run_id"] == changed.info.run_id
    assert "training data are not those that are here now" in entry["reason"]


def jobs_of(name: str) -> tuple[backfill.Job, ...]:
    store = tracking.open_store(None, name)
    request = Request(interventions=parse_interventions([PGD]))
    return backfill.prepare(store, request, consent=Consent(), keep=Keep()).jobs


@pytest.mark.usefixtures("in_process")
def test_a_run_deleted_meanwhile_is_said_to_be(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is loaded, and between its artifacts and its metrics."""
    command("sweep", write(tmp_path, "small", seeds=2))
    first, second = jobs_of("small")
    MlflowClient().delete_run(first.run_id)
    result = backfill.evaluate_run(first)
    assert (result.status, result.error) == ("impossible", "it was deleted meanwhile")
    add_files = tracking.add_files

    def then_deleted(*arguments: Any) -> None:
        add_files(*arguments)
        MlflowClient().delete_run(second.run_id)

    monkeypatch.setattr(tracking, "add_files", then_deleted)
    result = backfill.evaluate_run(second)
    assert (result.status, result.error) == ("impossible", "it was deleted meanwhile")


@pytest.mark.usefixtures("in_process")
def test_what_fails_is_a_result_and_the_exit_status_1(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, nothing of the failed run is written, and its traceback is with the evaluation."""
    command("sweep", write(tmp_path, "small", seeds=2))
    broken = runs_of("cell")[0].info.run_id
    add_files = tracking.add_files

    def sometimes(store: Any, run_id: str, *arguments: Any) -> None:
        if run_id == broken:
            raise OSError("no space left on device")
        add_files(store, run_id, *arguments)

    monkeypatch.setattr(tracking, "add_files", sometimes)
    result = evaluate(command, "small", "--intervention", PGD, code=1)
    assert "1 evaluated" in result.output
    assert "no space left on device" in result.stderr
    (run,) = runs_of("evaluation")
    assert run.info.status == "FAILED"
    told = {entry["run_id"]: entry for entry in json.loads(artifact(run, "results.json"))["runs"]}
    assert "Traceback" in told[broken]["traceback"]
    assert {run.info.run_id for run in runs_of("cell") if KEY in run.data.metrics} == set(told) - {
        broken
    }


@pytest.mark.usefixtures("in_process")
def test_what_a_killed_worker_left_is_completed_and_read_over(
    tmp_path: Path, command: Command
) -> None:
    """Artifacts without metrics, whole or half written: sheets read on, the next call puts them right, and
    what was whole stays as it was."""
    command("sweep", write(tmp_path, "small", seeds=4))
    evaluate(command, "small", "--intervention", PGD)
    runs = runs_of("cell")
    expected = {run.info.run_id: files(run) for run in runs}
    values = {run.info.run_id: run.data.metrics[KEY] for run in runs}
    client = MlflowClient()
    for run in runs:  # as if the metrics had not been logged yet
        forget_metric(tmp_path, run.info.run_id)
    no_records, half, none, _whole = (Path(run.info.artifact_uri) for run in runs)
    (ours,) = {
        path.split("/")[1]
        for path, (_, content) in expected[runs[0].info.run_id].items()
        if path.endswith("metrics.json") and KEY.encode() in content
    }
    (no_records / "evaluations" / ours / "metrics.json").unlink()
    path = half / "evaluations" / ours / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:50])
    (half / "evaluations" / ours / "metrics.json").unlink()
    shutil.rmtree(none / "evaluations" / ours)
    command("sheet", "--experiment-name", "small", "--json")
    evaluate(command, "small", "--intervention", PGD)
    for run in runs_of("cell"):
        run_id = run.info.run_id
        assert run.data.metrics[KEY] == values[run_id]
        now = files(run)
        assert {name: content for name, (_, content) in now.items()} == {
            name: content for name, (_, content) in expected[run_id].items()
        }
    kept = files(runs[3])
    assert kept == expected[runs[3].info.run_id]
    assert client.get_run(runs[3].info.run_id).data.metrics[KEY] == values[runs[3].info.run_id]


def forget_metric(folder: Path, run_id: str, key: str = KEY) -> None:
    """Take a metric from the database: MLflow itself has no way to."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics"):
            database.execute(f"delete from {table} where run_uuid = ? and key = ?", (run_id, key))


@pytest.mark.usefixtures("in_process")
def test_records_of_a_killed_pass_are_not_those_of_the_next(
    tmp_path: Path, command: Command
) -> None:
    """A pass that was killed before it logged says nothing about the values that another pass of other
    keys and parameters took; sheets, further calls and reproductions go by the latter."""
    command("sweep", write(tmp_path, "small", seeds=1))
    few = "{name: input_perturbation, lambda: [1, 2]}"
    more = "{name: input_perturbation, lambda: [1, 2, 3]}"
    swapped = {str(label): (label + 1) % 10 for label in range(10)}
    asked = ["--dataset", "digits_skewed", "--label-map", json.dumps(swapped)]
    evaluate(command, "small", "--intervention", few, *asked)
    (run,) = runs_of("cell")
    keys = [f"input_perturbation_accuracy/lambda-{number}" for number in (1, 2)]
    for key in keys:
        forget_metric(tmp_path, run.info.run_id, key)
    evaluate(command, "small", "--intervention", more)
    third = json.loads(evaluate(command, "small", "--intervention", more, "--json").output)
    assert third["present"][0]["skipped"] == {}
    store, raw = tracking.open_run(None, run.info.run_id)
    records = tracking.with_own_records(store, raw).records
    assert all("label_map" not in records[key]["parameters"] for key in keys)
    assert "All 5 metrics are equal to the bit" in command("reproduce", run.info.run_id).output


@pytest.mark.usefixtures("in_process")
def test_every_cell_is_measured_on_its_own_test_data(tmp_path: Path, command: Command) -> None:
    """Two datasets may share their training data, and then the digest of it: values are those of a
    sweep on each."""
    specs = FEW + "\n  - {name: input_perturbation, lambda: 1}"
    for skew in ("0.85", "0.6"):
        for name, interventions in ((f"few{skew}", FEW), (f"whole{skew}", specs)):
            path = write(tmp_path, name, interventions, seeds=1)
            text = path.read_text().replace(
                "{name: digits_skewed}", f"{{name: digits_skewed, test_skew: {skew}}}"
            )
            path.write_text(text)
            into = "both" if name.startswith("few") else name
            command("sweep", path, "--experiment-name", into)
    assert len({run.data.tags["mm.dataset"] for run in runs_of("cell", "both")}) == 1
    evaluate(command, "both", "--intervention", "{name: input_perturbation, lambda: 1}")
    found = {run.data.tags["mm.cell"]: measured(run) for run in runs_of("cell", "both")}
    wholes = [run for skew in ("0.85", "0.6") for run in runs_of("cell", f"whole{skew}")]
    assert found == {run.data.tags["mm.cell"]: measured(run) for run in wholes}
    assert len({tuple(values.items()) for values in found.values()}) == 2


@pytest.mark.usefixtures("in_process")
def test_a_worker_with_other_data_measures_nothing(tmp_path: Path, command: Command) -> None:
    """A cluster's machines may not share the dataset's files."""
    command("sweep", write(tmp_path, "small", seeds=1))
    (job,) = jobs_of("small")
    result = backfill.evaluate_run(dataclasses.replace(job, digests={"test": "0" * 64}))
    assert result.status == "failed"
    assert "do they share the dataset's files?" in (result.error or "")
    assert KEY not in runs_of("cell")[0].data.metrics


# ---- killed and interrupted, in processes of its own ----

# Slow enough that a kill lands in the middle.
SLOW = "{name: pgd, delta: 0.05, steps: 150}"
SLOW_KEY = "pgd_accuracy/delta-0.05.steps-150"


def start(name: str, *, group: bool = False) -> subprocess.Popen[str]:
    # Shells start background jobs with SIGINT ignored, and children inherit that: a terminal does not.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mm_mlflow.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "evaluate", "--experiment-name", name]
    return subprocess.Popen(
        [*command, "--intervention", SLOW, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )


def done(name: str) -> list[Run]:
    return [run for run in runs_of("cell", name) if SLOW_KEY in run.data.metrics]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_halfway_and_run_again_it_ends_equal(
    tmp_path: Path, command: Command, how: signal.Signals
) -> None:
    """Killed, or interrupted from a terminal, when some runs are done: nothing is left at work, the next
    call measures the others, writes nothing anew, and values of both calls are those of their models
    measured here."""
    command("sweep", write(tmp_path, "small", "\n  - {name: accuracy}", seeds=6, epochs=8))
    child = start("small", group=how == signal.SIGINT)
    while len(done("small")) < 2:
        pause(child)
    family = psutil.Process(child.pid).children(recursive=True)
    if how == signal.SIGINT:
        os.killpg(child.pid, how)
    else:
        child.send_signal(how)
    said = child.communicate()
    psutil.wait_procs(family, timeout=60)
    (stopped,) = runs_of("evaluation")
    if how == signal.SIGINT:
        assert child.returncode == 130, said
        assert said[1].splitlines()[-1].startswith("Interrupted")
        assert "Traceback" not in said[1]
        assert stopped.info.status == "KILLED"
    else:
        assert stopped.info.status == "RUNNING"
    before = {run.info.run_id: files(run) for run in done("small")}
    assert 2 <= len(before) < 6
    again = command("evaluate", "--experiment-name", "small", "--intervention", SLOW).output
    assert f"{6 - len(before)} evaluated, {len(before)} lacked nothing" in again
    assert len(done("small")) == 6
    assert MlflowClient().get_run(stopped.info.run_id).info.status == "KILLED"
    for run in done("small"):
        if run.info.run_id in before:
            assert files(run) == before[run.info.run_id]
        assert len(MlflowClient().get_metric_history(run.info.run_id, SLOW_KEY)) == 1
    earlier, later = (
        next(run for run in done("small") if (run.info.run_id in before) == first)
        for first in (True, False)
    )
    for run in (earlier, later):
        assert run.data.metrics[SLOW_KEY] == recomputed(run)


def recomputed(run: Run) -> float:
    """The metric of a run's weights, measured in this process."""
    from mm_mlflow.datasets import bound, open_splits
    from mm_mlflow.design import DatasetSpec
    from mm_mlflow.evaluation import evaluate as measure
    from mm_mlflow.evaluation import plan

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    splits = open_splits(bound(DatasetSpec(name="digits_skewed")))
    tasks = plan(parse_interventions([SLOW]), splits, open_splits)
    model, _ = models.from_bytes(artifact(run, "model.safetensors"))
    try:
        return measure(model, tasks).values[SLOW_KEY]
    finally:
        torch.set_num_threads(threads)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "evaluate needs --intervention SPEC"),
        (["--intervention", "accuracy", "--design", "x.yaml"], "cannot be read"),
        (["--intervention", "{name: pgd"], "not YAML"),
        (["--intervention", "pgd"], "pgd needs delta"),
        (["--intervention", "pdg"], "did you mean 'pgd'?"),
        (["--intervention", "{name: pgd, delta: -1}"], "delta -1 is not allowed"),
        (["--intervention", "{nam: pgd}"], "name: Field required"),
        (["--intervention", PGD, "--dataset", "nonesuch"], "unknown dataset 'nonesuch'"),
        (["--intervention", PGD, "--dataset", "{name: digits_skewed, sede: 1}"], "'seed'"),
        (["--intervention", PGD, "--dataset", "evil:Data"], "--trust-code"),
        (["--intervention", PGD, "--label-map", "{'0': 1}"], "--label-map needs --dataset"),
        (["--intervention", PGD, "--dataset", "digits_skewed", "--label-map", "[1]"], "label map"),
        (
            ["--intervention", PGD, "--dataset", "digits_skewed", "--label-map", "{'0': 1}"],
            "label map leaves out 1, 2",
        ),
        (
            ["--intervention", PGD, "--dataset", "digits_skewed", "--label-map", "{cat: 1}"],
            "unknown class in the label map 'cat'",
        ),
        (["--intervention", PGD, "--run", "nonesuch"], "run 'nonesuch' is no training run"),
        (["--intervention", PGD, "--jobs", "0"], "jobs 0 is not allowed"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_bad_arguments_are_one_line(
    tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    """Status 2, the argument, the value and what is allowed; nothing is written."""
    command("sweep", write(tmp_path, "small", seeds=1))
    result = evaluate(command, "small", *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not runs_of("evaluation")
