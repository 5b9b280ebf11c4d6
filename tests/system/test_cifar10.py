"""CIFAR10-Skewed on the real images: counts, and a killed sweep that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow.datasets.cifar10_skewed import CLASSES, Cifar10Skewed
from mm_mlflow.split import Split

pytestmark = pytest.mark.system

DATA = Path(os.environ.get("MM_MLFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))
DESIGN = """
name: cifar
dataset: {name: cifar10_skewed, subset: 2000, folder: FOLDER}
training: {epochs: 3, architecture: resnet8, architecture_arguments: {stem_stride: 2}}
default: {learning_rate: 0.1, augmentation: randaugment}
axes: {learning_rate: [0.1, 0.05], augmentation: [randaugment, trivialaugment]}
seeds: 2
interventions: [accuracy, {name: pgd, delta: 0.005, examples: 200, steps: 3}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (DATA / "cifar10").is_dir():
        return DATA / "cifar10"
    place = tmp_path_factory.mktemp("images") / "cifar10"
    with zipfile.ZipFile(DATA / "cifar10-images.zip") as archive:
        archive.extractall(place)
    return place


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def splits(folder: Path, cache: Path) -> dict[str, Split]:
    return Cifar10Skewed(folder=folder, cache=cache).splits()


def test_counts_equal_the_papers(splits: dict[str, Split]) -> None:
    """4,750 and 250 of every class in training, 950 and 50 in test; 250 in the GS minority."""
    for name, major, minor in [("train", 4750, 250), ("test", 950, 50)]:
        split = splits[name]
        found = Counter(
            zip(split.groups["class"].tolist(), split.groups["colour"].tolist(), strict=True)
        )
        expected = {
            (label, colour): major if (i < 5) == (colour == "colour") else minor
            for i, label in enumerate(CLASSES)
            for colour in ("colour", "grayscale")
        }
        assert found == expected
    assert (splits["test"].groups["skew"] == "gs_minority").sum() == 250
    assert len(splits["cifar10_gs"]) == 10_000
    pixels = splits["cifar10_gs"].images
    assert (np.asarray(pixels[:, 0]) == np.asarray(pixels[:, 2])).all()


def cells(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cifar")
    if experiment is None:
        return []
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return [run for run in found if run.data.tags.get("mm.kind") == "cell"]


def outcome(uri: str, run: Run, folder: Path) -> tuple[dict[str, float], pd.DataFrame]:
    client = MlflowClient(uri)
    place = client.list_artifacts(run.info.run_id, "evaluations")[0].path
    path = client.download_artifacts(run.info.run_id, f"{place}/predictions.parquet", str(folder))
    metrics = {k: v for k, v in run.data.metrics.items() if not k.startswith("system/")}
    return metrics, pd.read_parquet(path)


def test_a_killed_smoke_sweep_resumes_to_the_same_bits(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    """SIGKILL while a cell is RUNNING and another is done; what a second sweep completes equals an
    undisturbed one: metrics, logits and outcomes."""
    (tmp_path / "design.yaml").write_text(DESIGN.replace("FOLDER", str(folder)))
    stores = {name: f"sqlite:///{tmp_path / name}.db" for name in ("killed", "whole")}
    environment = {**os.environ, "MM_MLFLOW_CACHE": str(cache)}
    Cifar10Skewed(folder=folder, cache=cache, subset=2000).splits()

    def start(uri: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mm_mlflow", "sweep", "design.yaml", "--smoke",
                   "--jobs", "1", "--tracking-uri", uri]  # fmt: skip
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    child = start(stores["killed"])
    while True:
        assert child.poll() is None, "the sweep ended before it could be killed"
        state = Counter(run.info.status for run in cells(stores["killed"]))
        if state["FINISHED"] >= 1 and state["RUNNING"] >= 1:
            break
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = {run.info.run_id for run in cells(stores["killed"]) if run.info.status == "FINISHED"}
    for uri in stores.values():
        again = start(uri)
        said, _ = again.communicate()
        assert again.returncode == 0, said
    found = {}
    for name, uri in stores.items():
        finished = [run for run in cells(uri) if run.info.status == "FINISHED"]
        assert len(finished) == 3  # the default and one other level of each axis
        found[name] = {run.data.tags["mm.cell"]: (uri, run) for run in finished}
    assert before < {run.info.run_id for _, run in found["killed"].values()}
    assert found["killed"].keys() == found["whole"].keys()
    for key, (uri, run) in found["killed"].items():
        (metrics, table), (expected, other) = (
            outcome(u, r, tmp_path) for u, r in [(uri, run), found["whole"][key]]
        )
        assert metrics == expected
        pd.testing.assert_frame_equal(table, other, check_exact=True)
