"""``select``: a report run of its own, tags on the chosen runs, models in the registry."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.pytorch
import numpy as np
import pytest
import torch
from helpers import Command, artifact, artifacts, predictions, runs_of
from mlflow import MlflowClient

from mm_mlflow import tracking

GROUP = "group_accuracy/skew-gs_minority"
PGD = "pgd_accuracy/delta-0.02.steps-2.examples-100"


@pytest.fixture
def swept(small: Path, command: Command, in_process: None) -> Path:
    """Six finished cells."""
    del in_process
    command("sweep", small, "--jobs", "1")
    return small


@pytest.mark.pictures
def test_select_writes_a_report_run_and_tags_what_it_chose(swept: Path, command: Command) -> None:
    """Recomputed with MLflow and numpy alone: the three best by accuracy that stay in on PGD too."""
    del swept
    said = command("select", "--experiment-name", "small", "--top", "50%", "--on", "accuracy")
    cells = runs_of("cell")
    third = sorted((run.data.metrics["accuracy"] for run in cells), reverse=True)[2]
    best = {run.info.run_id for run in cells if run.data.metrics["accuracy"] >= third}
    (report,) = runs_of("report")
    assert report.data.tags["mm.report"].startswith("selection ")
    assert report.info.status == "FINISHED"
    assert report.data.metrics["selected/top-50"] == len(best)
    tagged = {run.info.run_id for run in cells if run.data.tags.get("mm.selected.top-50")}
    assert tagged == best
    assert artifacts(report) == {
        "index.html", *(f"selection/selection.{kind}" for kind in ("csv", "json", "md", "png", "pdf"))
    }  # fmt: skip
    document = json.loads(artifact(report, "selection/selection.json"))
    assert set(document["selections"][0]["selected"]) == best
    by_key = {item["metric"]: item for item in document["selections"][0]["metrics"]}
    kept = [run.data.metrics[PGD] for run in cells if run.info.run_id in best]
    assert by_key[PGD]["after"]["delta"] == max(kept) - min(kept)
    name = f"delta_all_selected/top-50/{PGD}"
    assert report.data.metrics[name] == max(kept) - min(kept)
    assert f"Top 50%: {len(best)} of 6 runs" in said.output


def test_a_newer_selection_takes_the_place_of_the_older(swept: Path, command: Command) -> None:
    """By the same rule on another metric: tags move; the same arguments supersede the report."""
    del swept
    arguments = ["select", "--experiment-name", "small", "--top", "0.17"]
    command(*arguments, "--on", "accuracy")
    command(*arguments, "--on", PGD)
    reports = runs_of("report")
    assert not any("mm.superseded_by" in run.data.tags for run in reports)
    newest = reports[0].info.run_id
    cells = runs_of("cell")
    # ⌈0.17 * 6⌉ = 2 runs
    second = sorted((run.data.metrics[PGD] for run in cells), reverse=True)[1]
    for run in cells:
        tag = run.data.tags.get("mm.selected.top-17")
        assert tag == (newest if run.data.metrics[PGD] >= second else None)
    command(*arguments, "--on", PGD)
    assert sum("mm.superseded_by" in run.data.tags for run in runs_of("report")) == 1


def test_runs_that_lose_a_tag_are_counted(
    swept: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """A wider selection takes no tag away, a narrower one says from how many it does."""
    del swept
    best = max(run.data.metrics["accuracy"] for run in runs_of("cell"))
    fewer = sum(run.data.metrics["accuracy"] < best for run in runs_of("cell"))
    assert fewer
    arguments = ["select", "--experiment-name", "small", "--require"]
    command(*arguments, "accuracy>=0")
    assert "lose the tag" not in caplog.text
    command(*arguments, f"accuracy>={best - 1e-9:.12f}")
    assert f"{fewer} runs of an earlier selection lose the tag mm.selected.required" in caplog.text


def test_selected_models_are_registered(swept: Path, command: Command) -> None:
    """As versions that load without this package and give the logits that the run stored."""
    del swept
    result = command(
        "select", "--experiment-name", "small", "--top", "1%", "--on", "accuracy", "--register", "best",
        "--json",
    )  # fmt: skip
    document = json.loads(result.stdout)
    versions = MlflowClient().search_model_versions("name='best'")
    assert sorted(str(v.version) for v in versions) == sorted(document["versions"])
    assert len(versions) == len(document["selected"]) >= 1
    version = versions[0]
    assert version.run_id == document["report_run_id"]
    assert version.tags["mm.cell_run"] in document["selected"]
    cell = MlflowClient().get_run(version.tags["mm.cell_run"])
    assert version.tags["mm.cell"] == cell.data.tags["mm.cell"]
    model = mlflow.pytorch.load_model(f"models:/best/{version.version}")
    from mm_mlflow.datasets import open_splits
    from mm_mlflow.design import DatasetSpec

    split = open_splits(DatasetSpec(name="digits_skewed"))["test"]
    with torch.no_grad():
        logits = model(split.batch(slice(0, 7))).numpy()
    stored = predictions(cell)
    stored = stored[stored["split"] == "test"]["logits"].head(7)
    np.testing.assert_allclose(logits, np.stack(list(stored)), atol=1e-4)


def test_a_design_with_a_selection(small: Path, command: Command, in_process: None) -> None:
    """``sweep --sheet`` shows it, ``select`` without arguments is it, ``--out`` writes no run."""
    del in_process
    text = small.read_text()
    small.write_text(
        text + f"selection: {{pareto: true, on: [accuracy, {GROUP}], report: [{PGD}]}}\n"
    )
    command("sweep", small, "--jobs", "1", "--sheet")
    (report,) = runs_of("report")
    assert "selection/selection.png" in artifacts(report)
    assert 'id="selection"' in artifact(report, "index.html").decode()
    summary = json.loads(artifact(report, "summary.json"))
    nine = next(row for row in summary["figures"] if row["number"] == 9)
    assert nine["artifacts"] == ["selection/selection.png"]
    command("select", "--experiment-name", "small", "--split-half", "--out", "out")
    assert {path.name for path in Path("out").iterdir()} == {"index.html", "selection"}
    assert len(runs_of("report")) == 1
    assert not any("mm.selected.pareto" in run.data.tags for run in runs_of("cell"))
    alone = json.loads(Path("out/selection/selection.json").read_text())
    within = json.loads(artifact(report, "selection/selection.json"))
    assert alone["selections"] == within["selections"]
    assert alone["report"] == [PGD]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "75", "--on", "accuracy"], "top '75' is not allowed"),
        (["--top", "0%", "--on", "accuracy"], "top '0%' is not allowed"),
        (["--top", "75%", "--on", "acuracy"], "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (["--top", "75%", "--on", "accuracy", "--report", "x"], "unknown metric 'x'"),
        (["--top", "75%"], "on is empty"),
        (["--top", "75%", "--pareto", "--on", "accuracy"], "one of top, pareto and require"),
        (["--require", "accuracy"], "require 'accuracy' is not allowed"),
        (["--require", "accuracy>=98"], "is a fraction from 0 to 1; write accuracy>=98%"),
        (["--require", "accuracy>=1", "--register", "y"], "nothing to register: empty: no run"),
        ([], "has no selection: give --top, --pareto or --require"),
        (["--pareto", "--on", "accuracy", "--out", "x", "--register", "y"], "give one of them"),
        (["--top", "75%", "--top", "50%", "--on", "accuracy", "--register", "y"], "give one --top"),
    ],
)
def test_what_is_refused(
    small: Path, command: Command, in_process: None, arguments: list[str], message: str
) -> None:
    """One line, exit status 2, and no report."""
    del in_process
    command("train", small, "--seed", "0")
    from mm_mlflow.datasets import bind
    from mm_mlflow.design import Design

    assert bind(Design.load(small)).selection is None
    result = command("select", "--design", small, *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not runs_of("report")


def test_a_selection_metric_that_the_design_does_not_measure(small: Path, command: Command) -> None:
    """Said before anything is trained, with the nearest key."""
    small.write_text(small.read_text() + "selection: {top: 50%, on: [pgd_accuracy/delta-0.02]}\n")
    result = command("sweep", small, code=2)
    assert "unknown metric in selection 'pgd_accuracy/delta-0.02'; did you mean" in result.stderr


def test_selecting_needs_weights_only_to_register(
    small: Path, command: Command, in_process: None
) -> None:
    """``keep: {weights: none}``: selection works, registration says why it does not."""
    del in_process
    small.write_text(small.read_text() + "keep: {weights: none}\n")
    command("train", small, "--seed", "0")
    select = ["select", "--design", small, "--pareto", "--on", "accuracy"]
    command(*select)
    result = command(*select, "--register", "best", code=2)
    assert "keeps no model.safetensors" in result.stderr


def test_a_selection_on_what_older_runs_lack_leaves_the_sheets(
    small: Path, command: Command, in_process: None
) -> None:
    """A metric added to the design after its cells were trained: said in a note, all else is there."""
    del in_process
    command("sweep", small)
    more = "  - {name: pgd, delta: 0.05, steps: 2}\n"
    small.write_text(
        small.read_text() + more + "selection: {top: 50%, on: [pgd_accuracy/delta-0.05.steps-2]}\n"
    )
    said = command("sweep", small, "--sheet")
    (report,) = runs_of("report")
    assert "sheets/accuracy/sheet.html" in artifacts(report)
    assert "selection/selection.json" not in artifacts(report)
    assert said.exit_code == 0
    notes = json.loads(artifact(report, "summary.json"))["notes"]
    assert any(
        "selection is not shown: unknown metric 'pgd_accuracy/delta-0.05" in n for n in notes
    )


def test_globs_are_for_what_is_measured(swept: Path, command: Command) -> None:
    """``*`` is no training loss, and a loss has no best end that the program knows."""
    del swept
    select = ["select", "--experiment-name", "small"]
    result = command(*select, "--top", "50%", "--on", "*", "--out", "a", "--json")
    assert "train_loss" not in json.loads(result.stdout)["on"]
    refused = command(*select, "--top", "50%", "--on", "train_loss", code=2)
    assert "nothing says whether more of metric 'train_loss' is better" in refused.stderr
    command(*select, "--require", "train_loss<=100", "--out", "b")


def test_models_that_cannot_be_registered(
    swept: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report run is there, and the error names it."""
    del swept

    def fails(*_: object) -> None:
        raise RuntimeError("no graph")

    monkeypatch.setattr(tracking, "register_model", fails)
    select = ["select", "--experiment-name", "small", "--top", "1%", "--on", "accuracy"]
    result = command(*select, "--register", "best", code=1)
    (report,) = runs_of("report")
    assert report.info.status == "FINISHED"
    said = "is written, but the selected models could not be registered: no graph"
    assert result.stderr.strip() == f"Error: report run {report.info.run_id} {said}"


def test_registering_twice_adds_nothing_and_bad_names_write_nothing(
    swept: Path, command: Command
) -> None:
    """A version of the same run stays the one; a name that MLflow refuses is refused first."""
    del swept
    select = ["select", "--experiment-name", "small", "--top", "1%", "--on", "accuracy"]
    result = command(*select, "--register", "a/b", code=2)
    assert "register 'a/b' is not allowed" in result.stderr
    assert not runs_of("report")
    one = json.loads(command(*select, "--register", "best", "--json").stdout)["versions"]
    two = json.loads(command(*select, "--register", "best", "--json").stdout)["versions"]
    assert one == two
    assert len(MlflowClient().search_model_versions("name='best'")) == len(one)


def test_choosing_on_halves_of_the_test_examples(swept: Path, command: Command) -> None:
    """From the predictions of every run: the choice of the whole is the same as without them; a report of
    its own, for other arguments."""
    del swept
    select = ["select", "--experiment-name", "small", "--top", "50%", "--on", "accuracy"]
    plain = json.loads(command(*select, "--json").stdout)
    halves = json.loads(command(*select, "--split-half", "--json").stdout)
    assert plain["selected"] == halves["selected"]
    (without,), (chosen,) = plain["selections"], halves["selections"]
    assert without["split_half"] is without["stability"] is None
    gains = {gain["metric"]: gain for gain in chosen["split_half"]["gains"]}
    cells = runs_of("cell")
    best = [run for run in cells if run.info.run_id in plain["selected"]]
    means = [np.mean([run.data.metrics["accuracy"] for run in runs]) for runs in (best, cells)]
    assert gains["accuracy"]["whole"] == pytest.approx(means[0] - means[1])
    assert GROUP in gains
    assert chosen["stability"]["n_selected"] == len(best)
    assert not any("mm.superseded_by" in run.data.tags for run in runs_of("report"))
    said = command(*select, "--split-half", "--out", "halves").output
    assert "Chosen on one half of the test examples" in said
