"""Outcomes of single examples, read back from runs: the logged metrics to the bit, or a reason."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import Command, predictions, runs_of
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow import datasets, experiment, tracking
from mm_mlflow.datasets.base import Arrays
from mm_mlflow.datasets.digits_skewed import DigitsSkewed
from mm_mlflow.design import Design
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.frame import Frame
from mm_mlflow.tracking import Store, StoredOutcomes
from mm_mlflow.tracking import outcomes as reading

EVERYTHING = """
  - accuracy
  - {name: accuracy, split: twins}
  - {name: group_accuracy, by: [skew, [skew, half]]}
  - {name: ood_accuracy, split: grayscale}
  - {name: output_perturbation, lambda: [0, 3]}
  - {name: output_perturbation, lambda: 3, examples: 200}
  - {name: input_perturbation, lambda: 1}
  - {name: pgd, delta: [0.0, 0.02], examples: 100, steps: 2}
  - {name: corruption, kind: gaussian_blur, severity: 0.5}
  - {name: worst_group_accuracy, by: [skew]}
  - {name: group_accuracy_gap, by: [[skew, half]]}
  - {name: true_positive_rate_gap, by: [half]}
  - {name: false_positive_rate_gap, by: [half]}"""
FEW = """
  - accuracy
  - {name: group_accuracy, groups: [{skew: gs_minority}]}
  - {name: output_perturbation, lambda: 3}
  - {name: input_perturbation, lambda: 1}"""
KEYS = (
    "accuracy",
    "group_accuracy/skew-gs_minority",
    "output_perturbation_accuracy/lambda-3",
    "input_perturbation_accuracy/lambda-1",
)
GAPS = {
    "worst_group_accuracy/skew",
    "group_accuracy_gap/skew.half",
    "true_positive_rate_gap/half",
    "false_positive_rate_gap/half",
}
COLUMN = KEYS[-1]  # its outcomes are stored, those of the others recomputed


class Twins(DigitsSkewed):
    """Digits below 5, or not; ``twins`` holds the test images, three of them twice and one thrice."""

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """With an attribute that has nothing to do with the images."""
        parts, _ = super().build()
        found = {name: _binary(part, np.arange(len(part.labels))) for name, part in parts.items()}
        number = len(parts["test"].labels)
        again = np.concatenate([np.arange(number), [0, 100, 200, 300, 300]])
        found["twins"] = _binary(parts["test"], again)
        return found, ("large", "small")


def _binary(part: Arrays, rows: np.ndarray) -> Arrays:
    return Arrays(
        images=part.images[rows],
        labels=(part.labels[rows] < 5).astype(np.int64),
        example_ids=np.array([f"image-{row}-{place}" for place, row in enumerate(rows)]),
        groups={
            "skew": part.groups["skew"][rows],
            "half": np.where(np.arange(len(rows)) % 2, "odd", "even"),
        },
    )


@pytest.fixture(autouse=True)
def _twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.DATASETS, "twins", f"{__name__}:Twins")


def design(interventions: str = FEW, logits: str = "float32", rates: str = "0.1, 0.05") -> Path:
    """Two levels and two seeds: four cells."""
    path = Path("design.yaml")
    path.write_text(
        f"""
name: small
dataset: {{name: twins}}
training: {{epochs: 2, batch_size: 256}}
default: {{learning_rate: 0.1, architecture: mlp}}
axes: {{learning_rate: [{rates}], architecture: [mlp]}}
seeds: 2
keep: {{logits: {logits}}}
interventions:{interventions}
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "store"


@pytest.fixture
def swept(command: Command, in_process: None, _kept: Path, tmp_path: Path) -> None:
    """Four cells with few metrics, to be read: swept once, then copied.

    What is written by MLflow's client afterwards would go to the first copy, which it remembers.
    """
    del in_process
    if not _kept.exists():
        command("sweep", design())
        shutil.copytree(tmp_path, _kept)
        (_kept / "origin").write_text(str(tmp_path), encoding="utf-8")
        return
    shutil.copytree(_kept, tmp_path, dirs_exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        paths = (tmp_path / "origin").read_text(encoding="utf-8"), str(tmp_path)
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", paths)


def read(*metrics: str) -> tuple[StoredOutcomes, Frame]:
    """Of the experiment; without names, of all metrics that have a sheet."""
    store, frame = opened()
    return tracking.read_outcomes(store, frame, metrics or frame.metrics), frame


def opened() -> tuple[Store, Frame]:
    store = tracking.open_store(None, "small")
    return store, experiment.read(store)[0]


def parquet(run: Run, name: str = "predictions.parquet") -> Path:
    (path,) = Path(run.info.artifact_uri.removeprefix("file://")).rglob(name)
    return path


def rewrite(run: Run, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """A run's predictions, changed on disk."""
    path = parquet(run)
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    return path


def cells() -> list[Run]:
    """In the frame's order."""
    by_id = {run.info.run_id: run for run in runs_of("cell")}
    return [by_id[run_id] for run_id in opened()[1].cells["run_id"]]


def assert_equal(one: StoredOutcomes, other: StoredOutcomes) -> None:
    """Metric by metric, example by example, to the bit, whatever order the examples are in."""
    assert list(one.found) == list(other.found)
    for key, mine in one.found.items():
        theirs = other.found[key]
        assert mine.run_ids == theirs.run_ids
        order = [np.argsort(item.example_ids) for item in (mine, theirs)]
        assert np.array_equal(mine.example_ids[order[0]], theirs.example_ids[order[1]])
        assert np.array_equal(mine.values[:, order[0]], theirs.values[:, order[1]])


# ---- what is found ----


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("logits", ["float32", "float16", "none"])
def test_outcomes_give_every_logged_metric(command: Command, logits: str) -> None:
    """To the bit in every run: means, and for gaps numbers that pandas makes of outcomes and groups;
    whatever is kept of the logits. What pandas makes of predictions alone is the same."""
    command("sweep", design(EVERYTHING, logits))
    stored, frame = read()
    assert stored.missing == {}
    assert list(stored.found) == frame.metrics
    assert len(stored.found) == 26
    (sweep,) = runs_of("sweep")
    table = pd.read_parquet(parquet(sweep, "examples.parquet")).set_index(["split", "example_id"])
    for key, found in stored.found.items():
        record = frame.records[key]
        assert found.metric == key
        assert found.run_ids == tuple(frame.cells["run_id"])
        assert found.values.shape == (4, record["n"])
        assert found.values.dtype == np.float64
        assert found.is_mean == (key not in GAPS)
        logged = [MlflowClient().get_run(run_id).data.metrics[key] for run_id in found.run_ids]
        if found.is_mean:
            assert [float(np.mean(row)) for row in found.values] == logged
        else:
            about = table.loc[record["split"]].loc[found.example_ids]
            by = [f"group:{word}" for word in record["parameters"]["by"]]
            rates = [about.assign(row=row).groupby(by)["row"].mean() for row in found.values]
            worst = key.startswith("worst")
            assert [r.min() if worst else r.max() - r.min() for r in rates] == logged
        assert (found.copies is None) == (logits == "none")
        assert found.binary == (not key.startswith("output_") or "lambda-0" in key)
    assert (GAPS | {"accuracy/split-twins"}) <= set(stored.found)
    for run, row in zip(cells(), stored.found["accuracy"].values, strict=True):
        test = predictions(run).query("split == 'test'").set_index("example_id")
        test = test.loc[stored.found["accuracy"].example_ids]
        if logits != "none":
            answers = np.stack(test["logits"].to_list()).argmax(axis=1)
            assert np.array_equal(row, (answers == test["label"]).astype(float))
        noisy = stored.found[COLUMN].values[
            list(stored.found[COLUMN].run_ids).index(run.info.run_id)
        ]
        assert np.array_equal(noisy, test[COLUMN])


@pytest.mark.usefixtures("in_process")
def test_copies_in_the_test_data_are_found(command: Command) -> None:
    """The images that ``twins`` holds more than once, in every metric over it, and no others; also
    beside runs that diverged, which answer all images alike."""
    extra = "\n  - {name: input_perturbation, lambda: 1, split: twins, examples: 600}"
    command("sweep", design(f"{EVERYTHING}{extra}", rates="0.1, 1.0e+30"))
    stored, frame = read()
    assert set(frame.cells["status"]) == {"ok", "diverged"}
    assert len(stored.found["accuracy"].run_ids) == 4
    for key, found in stored.found.items():
        assert found.copies is not None
        assert found.copies.dtype == np.int64
        assert set(found.copies) == set(range(found.copies.max() + 1))
        images = pd.Series([name.split("-")[1] for name in found.example_ids])
        together = images.groupby(found.copies)
        assert (together.first() == together.last()).all()
        assert together.ngroups == images.nunique()
        twice = (together.size() > 1).sum()
        assert (twice > 0) == ("twins" in key)
        if key == "accuracy/split-twins":
            assert twice == 4
            assert together.size().max() == 3


@pytest.mark.usefixtures("swept")
def test_models_that_give_labels_have_no_copies() -> None:
    """Equal answers of few are no sign of equal images: nothing is said."""
    for run in cells():
        rewrite(run, lambda table: table.assign(logits=table["logits"].map(_one_hot)))
    stored, _ = read("accuracy")
    assert stored.found["accuracy"].copies is None


def _one_hot(logits: np.ndarray) -> np.ndarray:
    return np.eye(len(logits), dtype=np.float32)[logits.argmax()]


@pytest.mark.usefixtures("in_process")
def test_metrics_that_were_added_later_are_found(command: Command) -> None:
    """By ``evaluate``, on groups of a split that the sweep did not measure; also where only some runs
    have them: these, in the frame's order."""
    command("sweep", design())
    one, *_ = opened()[1].cells["run_id"]
    added = "{name: group_accuracy, split: twins, by: [half]}", "{name: pgd, delta: 0.02, steps: 2}"
    base = ["evaluate", "--experiment-name", "small", "--jobs", "1"]
    command(*base, "--intervention", added[1], "--run", one)
    command(*base, "--intervention", added[0])
    stored, frame = read()
    assert stored.missing == {}
    for key in ("group_accuracy/half-odd.split-twins", "group_accuracy/half-even.split-twins"):
        found = stored.found[key]
        assert found.run_ids == tuple(frame.cells["run_id"])
        assert found.values.mean(axis=1).tolist() == frame.values[key].tolist()
        assert found.copies is not None
    assert stored.found["pgd_accuracy/delta-0.02.steps-2"].run_ids == (one,)
    command(*base, "--intervention", added[1])
    found = read()[0].found["pgd_accuracy/delta-0.02.steps-2"]
    assert found.run_ids == tuple(frame.cells["run_id"])


@pytest.mark.usefixtures("in_process")
def test_a_cell_without_a_sweep_describes_its_examples_itself(command: Command) -> None:
    """``train`` stores their groups on the cell."""
    path = design()
    command("train", path, "--seed", "0")
    command("train", path, "--seed", "1")
    assert not runs_of("sweep")
    store = tracking.open_store(None, "small")
    frame = experiment.read(store, datasets.bind(Design.load(path)))[0]
    stored = tracking.read_outcomes(store, frame, frame.metrics)
    assert set(stored.found) == set(KEYS)
    assert stored.found[KEYS[1]].values.shape[0] == 2


@pytest.mark.usefixtures("swept")
def test_runs_that_list_examples_in_another_order() -> None:
    """Are aligned by their ids; means are taken in the order in which the run took them."""
    before, _ = read()
    run = cells()[2]
    metric = KEYS[2]
    logged = run.data.metrics[metric]
    table = predictions(run)
    for seed in range(50):
        shuffled = table.sample(frac=1, random_state=seed)
        own = before.found[metric]
        row = pd.Series(own.values[2], own.example_ids)[shuffled["example_id"]].to_numpy()
        if float(np.mean(row)) != logged:
            break
    else:
        pytest.fail("sums do not depend on the order: another test is needed")
    # As a run that measured them in this order would have logged it.
    path = parquet(run)
    shuffled.to_parquet(path, index=False)
    frame = opened()[1]
    frame.values.loc[frame.cells["run_id"] == run.info.run_id, metric] = float(np.mean(row))
    document = path.with_name("metrics.json")
    written = json.loads(document.read_text())
    written["values"][metric] = float(np.mean(row))
    document.write_text(json.dumps(written))
    after = tracking.read_outcomes(opened()[0], frame, frame.metrics)
    assert after.missing == {}
    assert_equal(before, after)
    assert (after.found["accuracy"].example_ids == before.found["accuracy"].example_ids).all()


@pytest.mark.usefixtures("swept")
def test_a_part_of_the_runs() -> None:
    """Those of the frame, in its order."""
    store, frame = opened()
    chosen = frame[frame.cells["seed"] == 1]
    stored = tracking.read_outcomes(store, chosen, ["accuracy", "accuracy"])
    assert list(stored.found) == ["accuracy"]
    expected = frame.cells.loc[frame.cells["seed"] == 1, "run_id"]
    assert stored.found["accuracy"].run_ids == tuple(expected)


@pytest.mark.usefixtures("swept")
def test_artifacts_elsewhere_are_fetched_and_those_here_are_not_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same outcomes either way, and nothing is left in the folder for temporary files."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    store, frame = opened()
    targets: list[str | None] = []
    original = LocalArtifactRepository.download_artifacts

    def noting(self: LocalArtifactRepository, path: str, target: str | None = None) -> str:
        targets.append(target)
        found: str = original(self, path, target)
        return found

    monkeypatch.setattr(LocalArtifactRepository, "download_artifacts", noting)
    here = tracking.read_outcomes(store, frame, KEYS)
    assert targets
    assert set(targets) == {None}
    targets.clear()
    monkeypatch.setattr(tracking.reading, "LocalArtifactRepository", int)
    elsewhere = tracking.read_outcomes(store, frame, KEYS)
    assert targets
    assert all(str(target).startswith(str(temporary)) for target in targets)
    assert list(temporary.iterdir()) == []
    assert_equal(here, elsewhere)


BLOCKED = """
import json, sys
class Block:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"torch", "torchvision", "optuna", "dask", "distributed"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from mm_mlflow import experiment, tracking
store = tracking.open_store(None, "small")
frame, _ = experiment.read(store)
stored = tracking.read_outcomes(store, frame, frame.metrics)
print(json.dumps({key: found.values.mean(axis=1).tolist() for key, found in stored.found.items()}))
"""


@pytest.mark.usefixtures("in_process")
def test_reading_needs_no_torch_optuna_or_dask(command: Command) -> None:
    """All metrics, with all of them blocked from import."""
    command("sweep", design(EVERYTHING), "--smoke")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    stored, _ = read()
    expected = {key: found.values.mean(axis=1).tolist() for key, found in stored.found.items()}
    assert json.loads(done.stdout) == expected
    assert len(expected) == 26


# ---- runs that measured something else ----


@pytest.mark.usefixtures("swept")
def test_other_examples_are_refused_by_name() -> None:
    """One less, or another of the same number: metric, both runs, and what differs."""
    one, other = cells()[0], cells()[3]
    path = rewrite(other, lambda table: table.iloc[1:])
    first, second = one.info.run_id, other.info.run_id
    with pytest.raises(InvalidInput) as caught:
        read("accuracy")
    assert str(caught.value) == (
        "accuracy: runs were measured on other examples: "
        f"run {first} has 719 examples, run {second} 718"
    )
    shutil.copy(parquet(one), path)
    rewrite(other, lambda table: table.replace({"example_id": {"image-7-7": "strange"}}))
    with pytest.raises(InvalidInput) as caught:
        read(COLUMN, "accuracy")
    assert str(caught.value) == (
        f"{COLUMN}: runs were measured on other examples: "
        f"run {second} has 1 that run {first} has not, 'strange' among them"
    )


@pytest.mark.usefixtures("swept")
def test_other_labels_are_refused_by_name() -> None:
    """Also where the order of examples differs."""
    one, other = cells()[0], cells()[1]

    def change(table: pd.DataFrame) -> pd.DataFrame:
        at = table["example_id"] == "image-7-7"
        return table.assign(label=table["label"].where(~at, 1 - table["label"])).iloc[::-1]

    label = predictions(one).set_index("example_id").loc["image-7-7", "label"]
    rewrite(other, change)
    with pytest.raises(InvalidInput) as caught:
        read("accuracy")
    assert str(caught.value) == (
        "accuracy: runs were measured under other labels: example 'image-7-7' has label "
        f"{label} in run {one.info.run_id}, {1 - label} in run {other.info.run_id}"
    )


@pytest.mark.usefixtures("swept")
def test_outcomes_that_are_not_those_of_the_logged_value() -> None:
    """A single example that was flipped: the metric has none, the others have theirs."""
    run = cells()[1]

    def change(table: pd.DataFrame) -> pd.DataFrame:
        at = table["example_id"] == "image-7-7"
        return table.assign(**{COLUMN: table[COLUMN].where(~at, 1 - table[COLUMN])})

    rewrite(run, change)
    stored, _ = read()
    assert set(stored.found) == set(KEYS) - {COLUMN}
    said = stored.missing[COLUMN]
    assert said.startswith(f"3 of 4 runs have usable outcomes: run {run.info.run_id}: ")
    value = float(predictions(run)[COLUMN].mean())
    assert f"its outcomes give {value!r}, and {run.data.metrics[COLUMN]!r} was logged" in said
    assert list(stored.missing) == [COLUMN]


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("bad", [np.nan, 1.5])
def test_outcomes_that_are_no_probabilities(bad: float) -> None:
    """Gaps in a column, or numbers above 1: the run is named."""
    run = cells()[1]
    rewrite(run, lambda table: table.assign(**{COLUMN: [bad, *table[COLUMN][1:]]}))
    stored, _ = read()
    assert list(stored.missing) == [COLUMN]
    assert run.info.run_id in stored.missing[COLUMN]
    assert "gaps, or outcomes outside of 0 to 1" in stored.missing[COLUMN]


@pytest.mark.usefixtures("swept")
def test_runs_that_measured_with_other_parameters() -> None:
    """Such a sheet is refused unless the user insists; its outcomes are not one metric's."""
    runs = cells()
    path = parquet(runs[2], "metrics.json")
    document = json.loads(path.read_text())
    document["metrics"]["accuracy"]["version"] = 99
    path.write_text(json.dumps(document))
    stored, _ = read()
    assert stored.missing == {
        "accuracy": (
            f"runs {runs[0].info.run_id} and {runs[2].info.run_id} measured it in different ways"
        )
    }


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "accuracy was recorded as version 1, this is 2"),
        ({"intervention": "unheard_of"}, "unknown intervention 'unheard_of'"),
        ({"parameters": {"split": "test"}}, "its record is not whole: KeyError('examples')"),
        ({"parameters": None}, "its record is not whole"),
        ({"n": 700}, "it stored 719 examples, and its record says 700"),
    ],
)
def test_records_that_this_version_cannot_read(change: dict[str, object], said: str) -> None:
    """Of an older version, of an intervention that is not installed here, or cut short: a reason."""
    for run in cells():
        path = parquet(run, "metrics.json")
        document = json.loads(path.read_text())
        document["metrics"]["accuracy"] |= change
        path.write_text(json.dumps(document))
    stored, _ = read()
    assert set(stored.found) == set(KEYS) - {"accuracy"}
    assert stored.missing["accuracy"].startswith("0 of 4 runs have usable outcomes: run ")
    assert said in stored.missing["accuracy"]


# ---- what is not there ----


@pytest.mark.usefixtures("swept")
def test_predictions_that_only_some_runs_have() -> None:
    """How many of how many have them, and one that has not."""
    run = cells()[2]
    parquet(run).unlink()
    stored, _ = read()
    assert stored.found == {}
    for said in stored.missing.values():
        assert said.startswith(f"3 of 4 runs have usable outcomes: run {run.info.run_id}: ")
        assert "predictions.parquet cannot be fetched" in said
    assert set(stored.missing) == set(KEYS)


@pytest.mark.usefixtures("swept")
def test_artifacts_out_of_reach() -> None:
    """Gone since the frame was read, or the whole run with them: a reason, and no crash."""
    store, frame = opened()
    first, second = cells()[:2]
    shutil.rmtree(first.info.artifact_uri.removeprefix("file://"))
    said = tracking.read_outcomes(store, frame, KEYS).missing["accuracy"]
    assert said.startswith(f"3 of 4 runs have usable outcomes: run {first.info.run_id}: no pass")
    for run in (first, second):
        MlflowClient().delete_run(run.info.run_id)
        MlflowClient()._tracking_client.store._hard_delete_run(run.info.run_id)
    stored = tracking.read_outcomes(store, frame, KEYS)
    assert stored.found == {}
    assert stored.missing["accuracy"].startswith("2 of 4 runs have usable outcomes")
    assert first.info.run_id in stored.missing["accuracy"]


@pytest.mark.usefixtures("swept")
def test_groups_that_are_described_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Without examples.parquet the groups' metrics have a reason, and the others their outcomes; the
    same where the file is about other examples."""
    (sweep,) = runs_of("sweep")
    path = parquet(sweep, "examples.parquet")
    table = pd.read_parquet(path)
    table.replace({"example_id": {"image-7-7": "strange"}}).to_parquet(path, index=False)
    other, _ = read()
    path.unlink()
    none, _ = read()
    for stored in (other, none):
        assert set(stored.found) == set(KEYS) - {KEYS[1]}
        assert "no examples.parquet describes its examples" in stored.missing[KEYS[1]]
    assert not caplog.records


@pytest.mark.usefixtures("swept")
def test_metrics_that_other_programs_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a record nothing is fetched; nor for a metric that no run has."""
    for run in cells():
        MlflowClient().log_metric(run.info.run_id, "val_acc", 0.5)
    store, frame = opened()

    def fails(*_: object) -> None:
        raise AssertionError("nothing is to be read")

    monkeypatch.setattr(reading, "run_files", fails)
    stored = tracking.read_outcomes(store, frame, ["val_acc", "system/train_seconds", "none"])
    assert stored.found == {}
    assert list(stored.missing) == ["val_acc", "system/train_seconds", "none"]
    assert stored.missing["val_acc"].startswith("no record says how it was measured")
    assert stored.missing["none"] == "no run has it"


@pytest.mark.usefixtures("swept")
def test_runs_whose_columns_are_gone() -> None:
    """Neither a column nor float32 logits; clean logits say nothing of noise on the input."""
    for run in cells():
        rewrite(run, lambda table: table.drop(columns=[COLUMN]))
    stored, _ = read()
    assert list(stored.missing) == [COLUMN]
    assert "its outcomes are stored in a column" in stored.missing[COLUMN]
    for run in cells():
        rewrite(run, lambda table: table.drop(columns=["logits"]))
    stored, _ = read()
    assert set(stored.missing) == set(KEYS)
    assert "it stored neither outcomes nor float32 logits" in stored.missing["accuracy"]


@pytest.mark.usefixtures("swept")
def test_a_split_that_is_not_in_the_file() -> None:
    """As a file of another pass has it: a reason."""
    rewrite(cells()[0], lambda table: table.assign(split="elsewhere"))
    stored, _ = read()
    assert "predictions.parquet has no split 'test'" in stored.missing["accuracy"]


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _text(path: Path) -> None:
    path.write_text("no parquet")


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:-2000] = bytes(len(data) - 2100)
    path.write_bytes(data)


def _twice(path: Path) -> None:
    table = pd.read_parquet(path)
    pd.concat([table, table.iloc[:1]]).to_parquet(path, index=False)


def _without(column: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        pd.read_parquet(path).drop(columns=[column]).to_parquet(path, index=False)

    return drop


def _logits(value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        table = pd.read_parquet(path)
        first = value if value is None or isinstance(value, float) else table["logits"][0][:-1]
        rest = [0.0] * (len(table) - 1) if isinstance(value, float) else table["logits"][1:]
        table.assign(logits=[first, *rest]).to_parquet(path, index=False)

    return change


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncated, ""),
        (_text, ""),
        (_damaged, ""),
        (_twice, "it lists an example twice"),
        (_without("label"), "it has no column 'label'"),
        (_without("example_id"), "it has no column 'example_id'"),
        (_logits(None), "its logits have gaps"),
        (_logits("short"), "its logits have gaps"),
        (_logits(0.5), "its logits are double, no lists of numbers"),
    ],
)
def test_predictions_that_are_malformed(damage: Callable[[Path], None], said: str) -> None:
    """One line that names the run and the file."""
    run = cells()[1]
    path = parquet(run)
    damage(path)
    with pytest.raises(TrackingError) as caught:
        read("accuracy", COLUMN)
    line = str(caught.value)
    place = "/".join(path.parts[-3:])
    assert line.startswith(f"run {run.info.run_id}: {place} cannot be read: ")
    assert said in line
    assert "\n" not in line


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("damage", [_truncated, _text, _without("digest"), _without("class_name")])
def test_descriptions_of_examples_that_are_malformed(damage: Callable[[Path], None]) -> None:
    """As for predictions."""
    (sweep,) = runs_of("sweep")
    damage(parquet(sweep, "examples.parquet"))
    with pytest.raises(TrackingError) as caught:
        read("accuracy")
    said = f"run {sweep.info.run_id}: examples.parquet cannot be read: "
    assert str(caught.value).startswith(said)


@pytest.mark.usefixtures("swept")
def test_what_is_read_is_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file once, and of its columns those of the metrics that are asked for."""
    asked: list[list[str]] = []
    original = pq.ParquetFile.read

    def noting(self: pq.ParquetFile, columns: list[str], **more: object) -> object:
        asked.append(columns)
        return original(self, columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read", noting)
    stored, _ = read("accuracy", KEYS[1])
    assert set(stored.found) == {"accuracy", KEYS[1]}
    about, *files = sorted(asked, key=lambda columns: "digest" not in columns)
    assert "digest" in about
    assert files == [["split", "example_id", "label", "logits"]] * 4
    asked.clear()
    found = read(COLUMN)[0].found[COLUMN]
    assert sum(COLUMN in columns for columns in asked) == 4
    assert found.values.shape == (4, 719)
