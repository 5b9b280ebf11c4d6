"""Frames, sheets and reports: every number against a slow obvious version, and by properties."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_mlflow.design import Cell, Design, normalise
from mm_mlflow.errors import InvalidInput
from mm_mlflow.foreign import spelled
from mm_mlflow.frame import ExperimentRef, Frame, RawRun, conform
from mm_mlflow.report import build_report, slugs
from mm_mlflow.sheet import build_sheet, delta

DESIGN = Design.parse(
    """
name: small
dataset: {name: none}
training: {epochs: 1}
default: {learning_rate: 0.1, batch_size: 8}
axes:
  learning_rate: [0.1, 0.05, 0.01]
  batch_size: [4, 8]
seeds: [3, 5, 8]
"""
)
HERE = ExperimentRef("7", "an experiment")
RECORD = {"intervention": "accuracy", "title": "Accuracy", "unit": "fraction", "n": 100}


def run_of(cell: Cell, run_id: str | None = None, **changes: Any) -> RawRun:
    """A finished cell as MLflow returns it."""
    tags = {
        "mm.kind": "cell",
        "mm.schema": "1",
        "mm.cell": cell.id,
        "mm.dataset": "d",
        "mm.env": "{}",
    }
    values = {
        "run_id": run_id or f"run of {cell.label}",
        "name": cell.label,
        "status": "FINISHED",
        "start_time": 1000,
        "end_time": 2000,
        "params": {**{k: str(v) for k, v in cell.axes.items()}, "seed": str(cell.seed)},
        "tags": {**tags, "mm.health": "ok", **changes.pop("tags", {})},
        "metrics": changes.pop("metrics", {"accuracy": 0.9}),
        "records": {"accuracy": RECORD},
    }
    return RawRun(**{**values, **changes})


def frame_of(runs: Iterable[RawRun], design: Design = DESIGN, **kwargs: Any) -> Frame:
    return conform(list(runs), design, HERE, **kwargs)


def with_values(value: Callable[[int, Cell], float], design: Design = DESIGN) -> list[RawRun]:
    return [
        run_of(cell, metrics={"accuracy": value(i, cell)}) for i, cell in enumerate(design.cells())
    ]


def random_runs(seed: int) -> list[RawRun]:
    rng = np.random.default_rng(seed)
    return with_values(lambda *_: float(rng.random()))


def spread(values: Iterable[float]) -> float:
    """The slow obvious Δmax: over all pairs."""
    known = [value for value in values if not math.isnan(value)]
    return max((abs(a - b) for a in known for b in known), default=math.nan)


@pytest.mark.parametrize("seed", range(5))
def test_every_number_of_a_sheet_equals_the_slow_version(seed: int) -> None:
    """Values, Δ of rows, columns and sheet, mean and sd, from the runs' params alone."""
    runs = random_runs(seed)
    sheet = build_sheet(frame_of(runs), DESIGN, "accuracy")
    by_params = {
        (run.params["learning_rate"], run.params["batch_size"], run.params["seed"]): run
        for run in runs
    }
    defaults = {"learning_rate": "0.1", "batch_size": "8"}
    for table in sheet.tables:
        for i, level in enumerate(table.levels):
            for j, s in enumerate(table.seeds):
                levels = {**defaults, table.axis: str(level)}
                run = by_params[levels["learning_rate"], levels["batch_size"], str(s)]
                assert table.values[i, j] == run.metrics["accuracy"]
                assert table.run_ids[i][j] == run.run_id
        rows = table.values.tolist()
        assert table.delta_by_level.tolist() == [spread(row) for row in rows]
        assert table.delta_by_seed.tolist() == [
            spread(column) for column in zip(*rows, strict=True)
        ]
        assert table.mean.tolist() == pytest.approx([sum(row) / 3 for row in rows], rel=1e-12)
        expected = [math.sqrt(sum((v - sum(row) / 3) ** 2 for v in row) / 2) for row in rows]
        assert table.sd.tolist() == pytest.approx(expected, rel=1e-9)
    assert sheet.delta_all == spread(run.metrics["accuracy"] for run in runs)
    assert sheet.n_runs == 12
    assert sheet.complete
    assert sheet.delta_all_runs is not None
    low, high = (next(r for r in runs if r.run_id == end) for end in sheet.delta_all_runs)
    assert high.metrics["accuracy"] - low.metrics["accuracy"] == sheet.delta_all


@given(st.integers(0, 10**6), st.floats(-0.5, 0.5), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_properties_of_delta(seed: int, shift: float, scale: float) -> None:
    """Δall bounds every Δ; a constant added changes nothing; Δ scales with the values."""
    sheet = build_sheet(frame_of(random_runs(seed)), DESIGN, "accuracy")
    rng = np.random.default_rng(seed)
    moved_runs = with_values(lambda *_: scale * float(rng.random()) + shift)
    moved = build_sheet(frame_of(moved_runs), DESIGN, "accuracy")
    for table, other in zip(sheet.tables, moved.tables, strict=True):
        for ours, theirs in [
            (table.delta_by_level, other.delta_by_level),
            (table.delta_by_seed, other.delta_by_seed),
        ]:
            assert (ours <= sheet.delta_all).all()
            assert theirs == pytest.approx(scale * ours, abs=1e-9)
    assert moved.delta_all == pytest.approx(scale * sheet.delta_all, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_runs_and_seeds_changes_nothing(seed: int) -> None:
    """MLflow may return runs in any order; seeds may be listed in any order."""
    runs = random_runs(seed)
    rng = np.random.default_rng(seed)
    shuffled = [runs[i] for i in rng.permutation(len(runs))]
    one = build_sheet(frame_of(runs), DESIGN, "accuracy").to_dict()
    assert build_sheet(frame_of(shuffled), DESIGN, "accuracy").to_dict() == one
    turned = DESIGN.model_copy(update={"seeds": (8, 3, 5)})
    other = build_sheet(frame_of(runs, turned), turned, "accuracy")
    assert other.delta_all == one["delta_all"]
    for table, before in zip(other.tables, one["tables"], strict=True):
        assert table.delta_by_level.tolist() == before["delta_by_level"]
        assert sorted(table.delta_by_seed) == sorted(before["delta_by_seed"])


def test_holes_make_every_delta_a_lower_bound() -> None:
    """Missing and failed cells are named, apart, and the sheet is not complete."""
    runs = random_runs(0)
    gone, failed = runs[0], runs[4]
    attempt = run_of(DESIGN.cells()[4], "attempt", status="FAILED")
    frame = frame_of([run for run in runs if run not in (gone, failed)] + [attempt])
    sheet = build_sheet(frame, DESIGN, "accuracy")
    assert not sheet.complete
    assert {(hole["status"], hole["seed"]) for hole in sheet.missing} == {
        ("missing", 3),
        ("failed", 5),
    }
    assert sheet.n_runs == 10
    table = sheet.tables[0]
    assert table.status[0] == ("missing", "ok", "ok")
    assert math.isnan(table.values[0, 0])
    assert table.delta_by_level[0] == spread(table.values[0])
    notes = " ".join(build_report(frame, DESIGN).notes)
    assert "1 of 12 planned cells have no finished run" in notes
    assert "1 of 12 planned cells have runs that all failed" in notes
    assert "lower bound" in notes


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "SCHEDULED"])
def test_what_did_not_finish_is_missing(status: str) -> None:
    """Only FINISHED counts."""
    runs = [run_of(DESIGN.cells()[0], status=status, end_time=None)]
    assert (frame_of(runs).cells["status"] == "missing").all()


def test_of_several_finished_runs_the_latest_counts() -> None:
    """The others are reported, not averaged."""
    cell = DESIGN.cells()[0]
    runs = [
        run_of(cell, "old", end_time=10, metrics={"accuracy": 0.1}),
        run_of(cell, "new", end_time=30, metrics={"accuracy": 0.3}),
        run_of(cell, "mid", end_time=20, metrics={"accuracy": 0.2}),
    ]
    frame = frame_of(runs)
    assert frame.cells.at[cell.id, "run_id"] == "new"
    (duplicate,) = frame.duplicates
    assert (duplicate.counted, duplicate.others) == ("new", ("mid", "old"))


def test_runs_on_other_data_do_not_count() -> None:
    """Same id with another digest of the training data is not this cell."""
    cells = DESIGN.cells()
    runs = [run_of(cells[0]), run_of(cells[1], tags={"mm.dataset": "other"})]
    frame = frame_of(runs, dataset="d")
    assert frame.counted.tolist() == [True] + [False] * 11
    assert [run.tags["mm.dataset"] for run in frame.mismatched] == ["other"]


def test_other_kinds_extra_cells_and_strangers_are_told_apart() -> None:
    """A sweep or report is nothing; an unplanned cell is extra; a stranger's run may be foreign."""
    other = Design.parse(DESIGN.dump().replace("0.05", "0.07")).cells()[3]
    stranger = {"learning_rate": "0.10", "batch_size": "8.0", "seed": "3"}
    runs = [
        run_of(DESIGN.cells()[0], "sweep", tags={"mm.kind": "sweep"}),
        run_of(DESIGN.cells()[0], "reproduction", tags={"mm.kind": "reproduction"}),
        run_of(DESIGN.cells()[0], "schema", tags={"mm.schema": "2"}),
        run_of(other, "extra"),
        RawRun("foreign", "x", "FINISHED", 0, 1, stranger, {}, {"accuracy": 1.0}),
        RawRun("nothing", "x", "FINISHED", 0, 1, {"lr": "1"}, {}, {"accuracy": 1.0}),
        RawRun("level", "x", "FINISHED", 0, 1, {**stranger, "seed": "x"}, {}, {}),
    ]
    frame = frame_of(runs)
    assert not frame.counted.any()
    assert [run.run_id for run in frame.extra] == ["extra"]
    assert [run.run_id for run in frame.foreign] == ["foreign"]


def test_diverged_runs_count_and_delta_is_given_without_them() -> None:
    """A collapsed model is a result, and must not hide what the healthy ones do."""
    runs = random_runs(1)
    bad = run_of(
        DESIGN.cells()[2],
        metrics={"accuracy": 0.0},
        tags={"mm.health": "diverged; the loss was not finite"},
    )
    runs[2] = bad
    frame = frame_of(runs)
    sheet = build_sheet(frame, DESIGN, "accuracy")
    healthy = [run.metrics["accuracy"] for run in runs if run is not bad]
    assert sheet.delta_all == max(healthy)
    assert sheet.delta_all_healthy == spread(healthy)
    table = sheet.to_dict()["tables"][0]
    assert table["status"][0][2] == "diverged"
    assert table["delta_by_level"][0] == spread(run.metrics["accuracy"] for run in runs[:3])
    assert table["delta_by_level_healthy"][0] == spread(run.metrics["accuracy"] for run in runs[:2])
    assert any("Diverged: 1 runs" in note for note in build_report(frame, DESIGN).notes)


def test_diverged_runs_outside_the_tables_are_said_all_the_same() -> None:
    """Δall is over all runs, so a diverged one counts even where ``--axis`` hides its table."""
    from mm_mlflow.render import renderer

    runs = random_runs(1)
    cell = DESIGN.cells()[3]
    assert cell.axes["learning_rate"] == 0.05
    runs[3] = run_of(cell, metrics={"accuracy": 0.0}, tags={"mm.health": "diverged"})
    sheet = build_sheet(frame_of(runs), DESIGN, "accuracy", axes=["batch_size"])
    assert sheet.n_diverged == 1
    assert "1 run diverged" in renderer("md")(sheet).decode()


def test_within_keeps_models_of_similar_accuracy() -> None:
    """The band is closed, on purpose excluded runs are no holes, and Δ is over those that stay."""
    values = [0.95, 0.94, 0.9399, 0.90] * 3
    runs = with_values(lambda i, _: values[i])
    frame = frame_of(runs).near_best(0.01)
    sheet = build_sheet(frame, DESIGN, "accuracy")
    assert sheet.n_runs == 6
    assert sheet.delta_all == pytest.approx(0.01)
    assert sheet.complete
    assert not sheet.missing
    assert {status for table in sheet.tables for row in table.status for status in row} == {
        "ok",
        "excluded",
    }
    with pytest.raises(InvalidInput, match="within 2 is not allowed"):
        frame_of(runs).near_best(2)


def test_within_is_in_the_unit_of_the_metric() -> None:
    """Accuracies in percent, as other programs log them: points are no fractions of them."""
    percent = [replace(run, records={}) for run in with_values(lambda i, _: 97.0 + i / 4)]
    frame = frame_of(percent).near_best(2)
    assert int(frame.counted.sum()) == 9
    assert any(
        "Only runs within 2 of the best accuracy are shown; 3 were" in note
        for note in build_report(frame, DESIGN).notes
    )
    data = build_sheet(frame, DESIGN, "accuracy").to_dict()
    assert (data["within"], data["within_unit"]) == (2, "raw")
    for width in (-1, math.nan):
        with pytest.raises(InvalidInput, match="is not allowed: a number of at least 0"):
            frame_of(percent).near_best(width)


def test_nothing_is_said_of_runs_that_were_left_out() -> None:
    """Their checks, data, environments and ways of measuring are not those of the runs that stay."""
    runs = with_values(lambda i, _: 0.9 if i else 0.5)
    runs = [
        replace(
            run,
            tags={**run.tags, "mm.env": json.dumps({"torch": i > 0}), "mm.dataset": str(i > 0)},
            checks=("accuracy: odd",) if i < 3 else (),
            records={"accuracy": {**RECORD, "n": 100 if i else 50}},
        )
        for i, run in enumerate(runs)
    ]
    frame = frame_of(runs)
    notes = " ".join(build_report(frame, DESIGN, mixed=True).notes)
    for part in (
        "3 of 12 runs: accuracy: odd",
        "2 different sets",
        "torch",
        "parameters are mixed",
    ):
        assert part in notes
    kept = frame.near_best(0.1)
    notes = " ".join(build_report(kept, DESIGN).notes)
    assert "2 of 11 runs: accuracy: odd" in notes
    assert not any(part in notes for part in ("different sets", "torch", "mixed"))
    assert build_sheet(kept, DESIGN, "accuracy").n_examples == 100
    other = frame[~frame.counted | (frame.values["accuracy"] < 0.6)]
    assert build_sheet(other, DESIGN, "accuracy").n_examples == 50


def test_ratios_are_between_fractions() -> None:
    """Accuracy in percent, as other programs log it, is no measure of what was added as a fraction."""
    record = {**RECORD, "intervention": "pgd"}
    runs = [
        replace(run, metrics={"accuracy": 90.0 + i, "pgd": i / 100}, records={"pgd": record})
        for i, run in enumerate(with_values(lambda *_: 0.0))
    ]
    assert [row.ratio for row in build_report(frame_of(runs), DESIGN).summary] == [None, None]
    runs = [replace(run, records={"pgd": record, "accuracy": RECORD}) for run in runs]
    ratios = {row.metric: row.ratio for row in build_report(frame_of(runs), DESIGN).summary}
    assert ratios == {"accuracy": 1, "pgd": pytest.approx(0.01)}


@pytest.mark.parametrize("text", ["1e999", "-1e999", "9" * 400 + ".5", "9" * 5000])
def test_numbers_that_python_cannot_hold_are_text(text: str) -> None:
    """One such param of a stranger says nothing about the planned cells, and stops nobody."""
    assert normalise(text) == text
    assert spelled(text) == text
    params = {"learning_rate": "0.1", "batch_size": "8", "seed": "3"}
    strangers = [
        RawRun(name, name, "FINISHED", 0, 1, {**params, name: text}, {}, {"accuracy": 1.0})
        for name in ("seed", "learning_rate", "epochs")
    ]
    assert frame_of([*random_runs(0), *strangers]).foreign == ()


def test_values_that_are_no_numbers_are_holes() -> None:
    """NaN, and infinities, which MLflow returns as the largest float."""
    bad = [math.nan, math.inf, -math.inf, 1.7976931348623157e308]
    runs = with_values(lambda i, _: bad[i] if i < len(bad) else 0.5)
    sheet = build_sheet(frame_of(runs), DESIGN, "accuracy")
    assert sheet.n_runs == 8
    assert sheet.delta_all == 0
    json.dumps(sheet.to_dict(), allow_nan=False)


def test_a_range_needs_two_values() -> None:
    """One run has no Δ and no sd; null is not 0."""
    sheet = build_sheet(frame_of(random_runs(0)[:1]), DESIGN, "accuracy").to_dict()
    assert sheet["delta_all"] is None
    assert sheet["delta_all_runs"] is None
    assert sheet["tables"][0]["delta_by_level"] == [None, None, None]
    assert sheet["tables"][0]["sd"] == [None, None, None]
    assert math.isnan(delta(np.array([np.nan, 1.0])))
    assert delta(np.array([[1.0, np.nan, 3.0], [np.nan] * 3]), axis=1).tolist()[0] == 2


def test_runs_measured_differently_do_not_share_a_sheet() -> None:
    """Unless asked for, and then it is said."""
    runs = random_runs(0)
    odd = run_of(DESIGN.cells()[0], records={"accuracy": {**RECORD, "n": 50}})
    frame = frame_of([odd, *runs[1:]])
    with pytest.raises(InvalidInput, match="--mixed"):
        build_sheet(frame, DESIGN, "accuracy")
    assert build_sheet(frame, DESIGN, "accuracy", mixed=True).mixed
    assert any("mixed" in note for note in build_report(frame, DESIGN, mixed=True).notes)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    """A metric or an axis that is not there."""
    frame = frame_of(random_runs(0))
    with pytest.raises(InvalidInput, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        build_sheet(frame, DESIGN, "acuracy")
    with pytest.raises(InvalidInput, match="unknown axis 'batchsize'; did you mean 'batch_size'"):
        build_sheet(frame, DESIGN, "accuracy", axes=["batchsize"])
    with pytest.raises(InvalidInput, match="holds no finished cell"):
        build_report(frame_of([]), DESIGN)


def test_an_axis_can_be_picked() -> None:
    """Fewer tables, the same Δall: it is over all planned runs."""
    frame = frame_of(random_runs(0))
    whole = build_sheet(frame, DESIGN, "accuracy")
    part = build_sheet(frame, DESIGN, "accuracy", axes=["batch_size"])
    assert [table.axis for table in part.tables] == ["batch_size"]
    assert part.delta_all == whole.delta_all


def test_a_masked_frame_is_a_frame() -> None:
    """``frame[mask]`` needs no code of its own to become a sheet."""
    frame = frame_of(random_runs(0))
    kept = frame[frame.cells["seed"] != 3]
    sheet = build_sheet(kept, DESIGN, "accuracy")
    assert sheet.n_runs == 8
    assert sheet.complete
    assert build_sheet(frame, DESIGN, "accuracy").n_runs == 12


def test_to_frame_is_tidy() -> None:
    """One row per table entry, with the run it came from."""
    sheet = build_sheet(frame_of(random_runs(0)), DESIGN, "accuracy")
    tidy = sheet.to_frame()
    assert tidy.columns.tolist() == ["axis", "level", "seed", "value", "status", "run_id"]
    assert len(tidy) == 5 * 3
    assert tidy["run_id"].nunique() == 12
    assert tidy["value"].max() - tidy["value"].min() == sheet.delta_all


@pytest.mark.parametrize("gone", [0, 3, 11, 12])
def test_a_sheet_survives_its_json(gone: int) -> None:
    """What ``sheet.json`` holds is the whole sheet, holes included."""
    from mm_mlflow.sheet import Sheet

    if gone == 12:
        runs = random_runs(0)
        runs += [run_of(DESIGN.cells()[0], "twice", end_time=1)]
    else:
        runs = random_runs(0)[gone:]
    sheet = build_sheet(frame_of(runs), DESIGN, "accuracy")
    text = json.dumps(sheet.to_dict(), allow_nan=False)
    again = Sheet.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert again.ends == sheet.ends


def test_the_summary_equals_pandas_over_distinct_runs() -> None:
    """Mean and sd count each run once; the ratio is to accuracy's Δall."""
    rng = np.random.default_rng(0)
    values = rng.random((12, 2))
    runs = [
        run_of(cell, metrics={"accuracy": a, "pgd_accuracy/delta-0.1": b, "system/train_seconds": 3.0},
               records={"accuracy": RECORD, "pgd_accuracy/delta-0.1": {**RECORD, "title": "PGD"}})
        for cell, (a, b) in zip(DESIGN.cells(), values.tolist(), strict=True)
    ]  # fmt: skip
    report = build_report(frame_of(runs), DESIGN)
    assert [row.metric for row in report.summary] == ["accuracy", "pgd_accuracy/delta-0.1"]
    for row, column in zip(report.summary, values.T, strict=True):
        series = pd.Series(column)
        assert (row.mean, row.sd) == pytest.approx((series.mean(), series.std()))
        assert row.delta_all == column.max() - column.min()
        assert row.ratio == pytest.approx(np.ptp(column) / np.ptp(values[:, 0]))
        assert row.low is not None
        assert row.low[2] == column.min()
        assert row.low[1] == DESIGN.cells()[int(column.argmin())].label
    assert len(report.cells) == 24
    assert set(report.cells["configuration"]) == {
        "default", "learning_rate=0.05", "learning_rate=0.01", "batch_size=4",
    }  # fmt: skip
    json.dumps([row.to_dict() for row in report.summary], allow_nan=False)


def test_slugs_are_safe_and_distinct() -> None:
    """A slash becomes two underscores; what would collide, in any case of letters, gets six digits."""
    found = slugs(["a/b", "a__b", "A/b", "pgd_accuracy/delta-0.1", "..", "x y:z"])
    assert len({slug.lower() for slug in found.values()}) == 6
    assert found["pgd_accuracy/delta-0.1"] == "pgd_accuracy__delta-0.1"
    assert found["a/b"].startswith("a__b-")
    assert len(found["a/b"]) == len("a__b-") + 6
    assert not set(found[".."]) <= {"."}
    assert found["x y:z"] == "x_y_z"


def test_environments_that_differ_are_said() -> None:
    """Runs made with other versions or devices may differ for that reason."""
    runs = random_runs(0)
    env = json.dumps({"torch": "2.9", "device": "cpu"})
    other = json.dumps({"torch": "2.14", "device": "cpu"})
    runs = [
        run_of(cell, metrics=run.metrics, tags={"mm.env": env if i else other})
        for i, (cell, run) in enumerate(zip(DESIGN.cells(), runs, strict=True))
    ]
    notes = build_report(frame_of(runs), DESIGN).notes
    assert any("torch 2.14 / 2.9" in note and "device" not in note for note in notes)
