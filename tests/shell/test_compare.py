"""``compare``: two experiments of one store; read, printed, written to files, and nothing to MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from foreign import Script, number
from helpers import Command, fails, runs_of
from mlflow import MlflowClient
from scipy import stats

from mm_mlflow.cli import main

PGD = "pgd_accuracy/delta-0.02.steps-2.examples-100"
GROUP = "group_accuracy/skew-gs_minority"
LEVELS = ("learning_rate", "batch_size", "architecture")


@pytest.fixture
def swept(small: Path, command: Command, in_process: None) -> None:
    """Two experiments of six cells that differ in their epochs, and in the steps of their attack."""
    del in_process
    command("sweep", small, "--jobs", "1")
    text = (
        small.read_text().replace("name: small", "name: longer").replace("epochs: 2", "epochs: 4")
    )
    small.write_text(text.replace("steps: 2", "steps: 3"))
    command("sweep", small, "--jobs", "1")


def everything() -> list[tuple[str, int, int]]:
    """All that a store holds, as far as writing would change it."""
    client = MlflowClient()
    return [
        (run.info.run_id, len(run.data.metrics), len(run.data.tags))
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]


def test_compare_recomputed_with_mlflow_and_scipy(swept: None, command: Command) -> None:
    """Spread and means of accuracy; what differs in its parameters is named; nothing is written."""
    del swept
    before = everything()
    document = json.loads(command("compare", "small", "longer", "--json").stdout)
    assert everything() == before
    tables = []
    for name in ("small", "longer"):
        cells: dict[tuple[str, ...], dict[str, float]] = {}
        for run in runs_of("cell", name):
            key = tuple(run.data.params[level] for level in LEVELS)
            cells.setdefault(key, {})[run.data.params["seed"]] = run.data.metrics["accuracy"]
        tables.append(np.array([[cells[k][s] for s in sorted(cells[k])] for k in sorted(cells)]))
    x, y = tables
    assert x.shape == (3, 2)
    accuracy = next(item for item in document["metrics"] if item["metric"] == "accuracy")
    distances = [np.ptp(table, axis=1) / 2 for table in (x, y)]
    assert accuracy["spread"]["deviation_b"] == pytest.approx(distances[1].mean())
    oracle = stats.ttest_rel(distances[1], distances[0])
    assert accuracy["spread"]["test"]["p"] == pytest.approx(oracle.pvalue)
    assert accuracy["spread"]["swap"]["needs"] == 6
    means = stats.ttest_rel(y.mean(axis=1), x.mean(axis=1))
    assert accuracy["mean"]["test"]["p"] == pytest.approx(means.pvalue)
    assert accuracy["mean"]["difference"] == pytest.approx(y.mean() - x.mean())
    assert accuracy["range_b"]["delta_all"] == pytest.approx(np.ptp(y))
    assert document["schema"] == 1
    assert [document[side]["experiment"] for side in "ab"] == ["small", "longer"]
    assert document["pairing"] == "cells"
    (left,) = [item for item in document["not_compared"] if item["metric"] == PGD]
    assert left["reason"] == "no run of B has a value"


def test_compare_tells_people(swept: None, command: Command) -> None:
    """Tables, sentences, and what cannot be compared."""
    del swept
    said = command(
        "compare", "small", "longer", "--metric", "accuracy", "--metric", "group_*"
    ).stdout
    assert said.startswith("A: small; B: longer. 3 configurations in common: all 6 runs of A")
    assert "Spread in B" in said
    assert "Of 2 metrics judged" in said
    assert "chance alone would call 0.1 of them changed" in said
    assert "cannot reach 5% with these runs (needs 6 configurations)" in said
    assert "Written to" not in said


def test_out_writes_files_and_nothing_else(swept: None, command: Command) -> None:
    """A page, Markdown, JSON; over an earlier one, never over files of others."""
    del swept
    before = everything()
    said = command("compare", "small", "longer", "--out", "out")
    assert everything() == before
    assert "Written to out: open index.html" in said.stdout
    assert {path.name for path in Path("out").iterdir()} == {
        "index.html",
        "change.md",
        "change.json",
    }
    document = json.loads(Path("out/change.json").read_text())
    assert document == json.loads(command("compare", "small", "longer", "--json").stdout)
    assert "<h1>What changed from A to B</h1>" in Path("out/index.html").read_text()
    command("compare", "longer", "small", "--out", "out", "--metric", GROUP)
    assert GROUP in Path("out/change.json").read_text()
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    assert "holds files, and no earlier report" in fails(
        "compare", "small", "longer", "--out", "mine"
    )


def test_runs_of_other_programs(command: Command) -> None:
    """Matched by what their params imply; inference options hold for both."""
    for name, width in (("one", 0.01), ("two", 0.2)):
        script = Script(name)
        for lr in ("0.1", "0.01", "0.001"):
            for seed in range(4):
                low = 0.5 - width / 2
                loss = number(name, lr, seed, low=low, high=low + width)
                script.run({"lr": lr, "which": seed}, {"loss": loss})
    document = json.loads(
        command("compare", "one", "two", "--seed-param", "which", "--json").stdout
    )
    assert document["configurations"] == ["default", "lr=0.01", "lr=0.001"]
    (item,) = document["metrics"]
    assert item["unit"] == "raw"
    assert item["spread"]["sd_b"] > 5 * item["spread"]["sd_a"]
    assert document["pairing"] == "cells"
    assert any("Nothing says how these were measured" in note for note in document["notes"])


def test_bad_input(swept: None) -> None:
    """One line each, exit status 2."""
    del swept
    assert "B 'small' is not allowed: it is A" in fails("compare", "small", "small")
    assert "unknown experiment 'smal'; did you mean 'small'?" in fails("compare", "smal", "longer")
    assert "unknown metric 'acuracy'; did you mean 'accuracy'?" in fails(
        "compare", "small", "longer", "--metric", "acuracy"
    )
    MlflowClient().create_experiment("empty")
    assert "empty" in fails("compare", "small", "empty")
    result = CliRunner().invoke(main, ["compare", "small", "longer", "--experiment-name", "x"])
    assert result.exit_code == 2
    assert "No such option" in result.output
