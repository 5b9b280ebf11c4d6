"""What chance would give, from MLflow to MLflow: what is read, what is written, and the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Command, artifact, artifacts, fails, runs_of
from mlflow import MlflowClient

from mm_mlflow import evidence
from mm_mlflow.errors import TrackingError

HERE = ["--experiment-name", "small"]
ACCURACY = ["--metric", "accuracy"]


@pytest.fixture
def swept(small: Path, command: Command, in_process: None) -> Path:
    """Six finished cells: three configurations, two seeds each."""
    del in_process
    command("sweep", small)
    return small


def sheets(command: Command, *options: str) -> dict[str, Any]:
    """By metric, ``sheet.json`` of a report that is written to MLflow."""
    document = json.loads(command("sheet", *HERE, "--json", *options).stdout)
    return {sheet["metric"]: sheet for sheet in document["sheets"]}


@pytest.mark.usefixtures("swept")
def test_sheets_of_a_design_say_what_chance_would_give(command: Command) -> None:
    """Every metric has its floor from the stored predictions, in json, in files and as metrics."""
    found = sheets(command)
    assert len(found) == 7
    for key, sheet in found.items():
        floor = sheet["statistics"]["floor"]
        assert floor["source"] == "predictions", key
        assert floor["n_examples"] == sheet["n_examples"], key
        assert sheet["tables"][0]["statistics"]["test"]["smallest_p"] is not None
    report = runs_of("report")[-1]
    for name in ("delta_all", "delta_all_adjusted"):
        assert {f"{name}/{key}" for key in found} <= set(report.data.metrics)
    page = artifact(report, "index.html").decode()
    assert "More than chance?" in page
    assert "How the words are chosen" in page
    assert "cannot be told with these runs (needs" in page
    summary = json.loads(artifact(report, "summary.json"))
    assert summary["judged"]["sheets"] == 7
    row = next(row for row in summary["metrics"] if row["metric"] == "accuracy")
    assert (
        row["delta_all_by_chance"]
        == found["accuracy"]["statistics"]["floor"]["all_runs"]["expected"]
    )


@pytest.mark.usefixtures("swept")
def test_plain_is_the_papers_sheet_alone(command: Command) -> None:
    """Nothing about chance in any file; every other number as ever; the other report stays the newest of
    its own arguments."""
    full = sheets(command)
    (first,) = runs_of("report")
    plain = sheets(command, "--plain")
    newest = next(run for run in runs_of("report") if run.info.run_id != first.info.run_id)
    for key, sheet in plain.items():
        assert "statistics" not in json.dumps(sheet)
        assert sheet["delta_all"] == full[key]["delta_all"]
    for path in artifacts(newest):
        if path.endswith((".html", ".md", ".tex", ".json", ".csv")):
            text = artifact(newest, path).decode()
            assert "chance?" not in text, path
            assert "adjusted" not in text or path.endswith(("summary.json", "summary.csv")), path
    assert "mm.superseded_by" not in MlflowClient().get_run(first.info.run_id).data.tags
    assert "--plain shows nothing about chance" in fails(
        "sheet", *HERE, "--plain", "--examples", "9"
    )


@pytest.mark.usefixtures("swept")
def test_predictions_are_not_read_where_values_are_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binomial guide stands in for the floor, and the page says how to get it."""

    def never(*_: Any) -> None:
        raise AssertionError("predictions were read")

    monkeypatch.setattr(evidence.tracking, "read_outcomes", never)
    found = sheets(command, *ACCURACY, "--statistics", "values")
    statistics = found["accuracy"]["statistics"]
    assert statistics["floor"]["source"] == "binomial"
    assert "--statistics predictions" in statistics["floor_reason"]


@pytest.mark.usefixtures("swept")
def test_many_runs_have_statistics_on_request_only(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limits nothing slows the plain sheet: it says what to ask for."""
    monkeypatch.setattr(evidence, "MOST_PREDICTIONS", 5)
    assert sheets(command, *ACCURACY)["accuracy"]["statistics"]["floor"]["source"] == "binomial"
    monkeypatch.setattr(evidence, "MOST_VALUES", 5)
    assert "statistics" not in sheets(command, *ACCURACY)["accuracy"]
    assert "--statistics values" in command("sheet", *HERE, *ACCURACY).stdout
    asked = sheets(command, *ACCURACY, "--statistics", "predictions")["accuracy"]
    assert asked["statistics"]["floor"]["source"] == "predictions"


@pytest.mark.usefixtures("swept")
def test_predictions_that_cannot_be_used_leave_the_sheet(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for them: the sheet stands on values and says why; asked for, it is an error."""

    def broken(*_: Any) -> None:
        raise TrackingError("run 1: predictions.parquet cannot be read: truncated")

    monkeypatch.setattr(evidence.tracking, "read_outcomes", broken)
    found = sheets(command, *ACCURACY)["accuracy"]["statistics"]
    assert found["floor"]["source"] == "binomial"
    assert "truncated" in found["floor_reason"]
    assert "truncated" in fails("sheet", *HERE, "--statistics", "predictions", code=1)


def test_repeated_runs_side_by_side_are_not_judged(command: Command) -> None:
    """Three copies of every run are no fifteen seeds."""
    client = MlflowClient()
    made = client.create_experiment("again")
    for lr in ("0.1", "0.01"):
        for seed in (0, 1):
            for _ in range(3):
                run = client.create_run(made)
                client.log_param(run.info.run_id, "lr", lr)
                client.log_param(run.info.run_id, "seed", seed)
                client.log_metric(run.info.run_id, "acc", 0.9 + 0.01 * seed + 0.001 * len(lr))
                client.set_terminated(run.info.run_id)
    asked = ["sheet", "--experiment-name", "again", "--json", "--duplicates", "as-replicates"]
    (sheet,) = json.loads(command(*asked).stdout)["sheets"]
    assert {v["kind"] for v in sheet["statistics"]["verdicts"]} == {"cannot_be_told"}


def test_strangers_runs_have_a_guide_if_told_how_many_examples(command: Command) -> None:
    """No predictions, no n: no floor; with ``--examples`` an upper guide, and no test of it."""
    client = MlflowClient()
    made = client.create_experiment("theirs")
    for lr in ("0.1", "0.01"):
        for seed in range(4):
            run = client.create_run(made)
            client.log_param(run.info.run_id, "lr", lr)
            client.log_param(run.info.run_id, "seed", seed)
            client.log_metric(run.info.run_id, "acc", 0.9 + 0.01 * seed + 0.05 * (lr == "0.1"))
            client.set_terminated(run.info.run_id)
    theirs = ["sheet", "--experiment-name", "theirs", "--json"]
    (bare,) = json.loads(command(*theirs).stdout)["sheets"]
    assert bare["statistics"]["floor"] is None
    assert bare["tables"][0]["statistics"]["test"]["p"] == pytest.approx(2 / 70)
    (told,) = json.loads(command(*theirs, "--examples", "500").stdout)["sheets"]
    assert told["statistics"]["floor"]["source"] == "binomial"
    assert told["statistics"]["floor"]["test"]["p"] is None


# ---- the gate ----


@pytest.mark.usefixtures("swept")
def test_the_gate_is_an_exit_status(command: Command) -> None:
    """0 where all bounds are kept, 1 where one is not or cannot be judged, 2 for what is no bound."""
    delta = sheets(command, *ACCURACY)["accuracy"]["delta_all"]
    reports = len(runs_of("report"))
    check = ["check", *HERE]
    kept = command(
        *check, "--max", f"delta_all/accuracy<={delta}", "--max", "delta_all_above_floor/*<=1"
    )
    assert "8 of 8 bounds are kept" in kept.stdout
    over = command(*check, "--max", "delta_all/accuracy<=0", "--max", "delta_all/*<=1", code=1)
    assert f"exceeded: delta_all/accuracy {delta:.6g} > 0" in over.stdout
    document = json.loads(
        command(*check, "--max", "delta_all/accuracy<=0", "--json", code=1).stdout
    )
    assert document["passed"] is False
    assert document["checks"][0]["outcome"] == "exceeded"
    assert "did you mean 'accuracy'" in fails(*check, "--max", "delta_all/acuracy<=1")
    assert "give at least one" in fails(*check)
    assert "QUANTITY/METRIC<=VALUE" in fails(*check, "--max", "accuracy<=1")
    assert len(runs_of("report")) == reports


@pytest.mark.usefixtures("in_process")
def test_a_gate_on_half_a_sweep_is_not_passed(small: Path, command: Command) -> None:
    """Runs that are missing could widen any Δ; only a word of the user lets that pass."""
    command("train", small, "--seed", "0")
    command("train", small, "--seed", "1")
    bound = ["check", *HERE, "--design", small, "--max", "delta_all/accuracy<=1"]
    assert "incomplete: delta_all/accuracy" in command(*bound, code=1).stdout
    command(*bound, "--allow-incomplete")
