"""MLflow's page of an experiment that we created: its description and saved view, and what of them we
never touch. Tags are read back with MLflow alone."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from helpers import Command, runs_of
from mlflow import MlflowClient

from mm_mlflow import tracking
from mm_mlflow.design import Design
from mm_mlflow.tracking import experiment_tags

NOTE = "mlflow.note.content"
VIEW = "mlflow.sharedViewState.multiplicity"

pytestmark = pytest.mark.usefixtures("in_process")


def experiment() -> Any:
    found = MlflowClient().get_experiment_by_name("small")
    assert found is not None
    return found


def state() -> dict[str, Any]:
    """What the saved view holds, decoded as MLflow's page decodes it."""
    view = json.loads(experiment().tags[VIEW])
    assert {type(view["name"]), type(view["state"])} == {str}
    assert {type(view["createdAt"]), type(view["updatedAt"])} == {int}
    packed = view["state"].removeprefix("deflate;")
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def linked() -> set[str]:
    """Runs that the description links."""
    return set(re.findall(r"/runs/([0-9a-f]{32})/", experiment().tags[NOTE]))


def test_the_description_follows_the_newest_report(small: Path, command: Command) -> None:
    """Without a report it says how to get one; then it links the newest of each kind, until somebody
    edits it."""
    command("sweep", str(small))
    assert "No report yet" in experiment().tags[NOTE]
    assert not linked()
    command("sheet", "--experiment-name", "small")
    (first,) = runs_of("report")
    assert "No report yet" not in experiment().tags[NOTE]
    assert linked() == {first.info.run_id}
    command("sheet", "--experiment-name", "small", "--metric", "accuracy")
    second = max(runs_of("report"), key=lambda run: run.info.start_time)
    assert linked() == {second.info.run_id} != {first.info.run_id}
    command("select", "--experiment-name", "small", "--top", "50%", "--on", "accuracy")
    (selected,) = (run for run in runs_of("report") if run.info.run_name == "selection")
    assert linked() == {second.info.run_id, selected.info.run_id}
    MlflowClient().create_experiment("other")
    command("sweep", str(small), "--smoke", "--experiment-name", "other")
    command("sheet", "--experiment-name", "other", "--report-experiment", "small")
    assert linked() == {second.info.run_id, selected.info.run_id}  # that one is about another
    mine = f"{experiment().tags[NOTE]} Mine."
    MlflowClient().set_experiment_tag(experiment().experiment_id, NOTE, mine)
    command("sheet", "--experiment-name", "small")
    assert experiment().tags[NOTE] == mine


@pytest.mark.parametrize("edit", ["all my own words", "{}\n\nand a line of mine", "mine\n\n{}", ""])
def test_an_edited_description_is_never_overwritten(edit: str) -> None:
    """A text of one's own, ours with a line more, or none at all: it stays to the letter."""
    store = tracking.open_store(None, "small", create=True)
    tracking.refresh_page(store)
    assert "Runs as charts" in experiment().tags[NOTE]
    text = edit.format(experiment().tags[NOTE])
    MlflowClient().set_experiment_tag(store.experiment.id, NOTE, text)
    tracking.refresh_page(store)
    assert experiment().tags[NOTE] == text


def test_experiments_of_others_are_left_alone(small: Path, command: Command) -> None:
    """One that was there before, with a description and without: no tag is added or changed."""
    MlflowClient().create_experiment("small")
    command("sweep", str(small))
    for tags in ({}, {NOTE: "theirs"}):
        for key, value in tags.items():
            MlflowClient().set_experiment_tag(experiment().experiment_id, key, value)
        command("sheet", "--experiment-name", "small")
        assert experiment().tags == tags


def test_the_saved_view_shows_the_design(small: Path, command: Command) -> None:
    """Cells only; a column for every axis that varies, the seed and every metric; all runs in the
    charts, which hold parallel coordinates and accuracy against every other metric."""
    command("sweep", str(small))
    view = state()
    assert view["searchFilter"] == "tags.`mm.kind` = 'cell'"
    found = MlflowClient().search_runs(
        [experiment().experiment_id], filter_string=view["searchFilter"]
    )
    assert len(found) == 6
    metrics = {key for key in found[0].data.metrics if not re.match(r"train_|system/", key)}
    params = ["params.`learning_rate`", "params.`batch_size`", "params.`seed`"]
    assert view["selectedColumns"][:3] == params  # architecture has one level only
    assert {*view["selectedColumns"][3:]} == {f"metrics.`{key}`" for key in metrics}
    assert view["runsHiddenMode"] == "SHOW_ALL"
    parallel, *scatters = view["compareRunCharts"]
    assert parallel["type"] == "PARALLEL"
    assert parallel["selectedParams"] == ["learning_rate", "batch_size", "seed"]
    assert {chart["xaxis"]["key"] for chart in scatters} == {"accuracy"}
    assert {chart["yaxis"]["key"] for chart in scatters} == metrics - {"accuracy"}
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections


@pytest.mark.parametrize("removed", [False, True])
def test_a_saved_view_that_was_changed_is_never_overwritten(removed: bool, small: Path) -> None:
    """MLflow's "Override saved view" writes its own envelope; removing the view removes it for good."""
    store = tracking.open_store(None, "small", create=True)
    design = Design.load(small)
    tracking.refresh_page(store, design, ["accuracy"])
    assert "metrics.`accuracy`" in state()["selectedColumns"]
    client, before = MlflowClient(), json.loads(experiment().tags[VIEW])
    theirs = json.dumps({**{key: before[key] for key in before if key != "mm"}, "updatedAt": 1})
    if removed:
        client.delete_experiment_tag(experiment().experiment_id, VIEW)
    else:
        client.set_experiment_tag(experiment().experiment_id, VIEW, theirs)
    tracking.refresh_page(store, design, ["accuracy", "ood_accuracy/x"])
    assert experiment().tags.get(VIEW) == (None if removed else theirs)
    assert ("viewStateShareKey" in tracking.runs_page(store)) == (not removed)
    assert ("viewStateShareKey" in experiment().tags[NOTE]) == (not removed)


def test_what_is_printed_opens_the_report_and_the_runs(small: Path, command: Command) -> None:
    """Addresses below the server's: the report's page, the runs as a table and as charts."""
    said = command("sweep", str(small), "--sheet").stdout
    (report,) = runs_of("report")
    here = f"http://127.0.0.1:5000/#/experiments/{experiment().experiment_id}/runs"
    assert f"{here}/{report.info.run_id}/artifacts/index.html?" in said
    assert f"{here}?workflowType=machine_learning&viewStateShareKey=multiplicity" in said
    assert "&compareRunsMode=CHART" in said


def test_many_and_hostile_names_fit_the_tag() -> None:
    """MLflow takes 20,000 characters; long names of 100 metrics and 30 axes stay far below."""
    axes = [f"axis {i} `\"'&<script> é" + "x" * 200 for i in range(30)]
    metrics = [f"group_accuracy/{'é' * 180}{i}" for i in range(100)]
    value = experiment_tags.envelope(experiment_tags.view_state(axes, metrics), 0)
    assert len(value) < 20_000
    assert experiment_tags.is_our_view(value)
    assert not experiment_tags.is_our_view(value.replace("deflate;", "deflate;x"))
