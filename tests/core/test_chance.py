"""What chance would give, from runs to words: each run once, verdicts by their rules, honest refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from worlds import STAR, judged, kinds, world

from mm_mlflow.chance import Evidence
from mm_mlflow.design import Design
from mm_mlflow.plan import plan_of
from mm_mlflow.render import samples
from mm_mlflow.render import view as views
from mm_mlflow.render.verdicts import short
from mm_mlflow.report import build_report
from mm_mlflow.sheet import Sheet
from mm_mlflow.statistics.axis import axis_test
from mm_mlflow.statistics.floor import sampling_floor
from mm_mlflow.statistics.multiple import benjamini_hochberg, holm
from mm_mlflow.statistics.ranges import d2
from mm_mlflow.statistics.verdict import RULES


def said(sheet: Sheet) -> list[str]:
    found = views.view(sheet).chance
    assert found is not None
    return list(found.verdicts)


# ---- each run once ----


def test_every_number_is_of_the_distinct_runs() -> None:
    """45 runs stand in 65 entries: statistics equal those of the 45 to 1e-12, computed here by hand."""
    frame, outcomes = world(axis=2, run=1)
    (sheet,) = build_report(frame, STAR, evidence=Evidence({"accuracy": outcomes})).sheets
    found, values = sheet.statistics, frame.values["accuracy"].to_numpy()
    assert found is not None
    assert sum(table.values.size for table in sheet.tables) == 65
    assert found.spread.n == 45
    assert found.spread.adjusted_delta == pytest.approx(np.ptp(values) / d2(45), rel=1e-12)
    assert len(found.configurations) == 9
    by_configuration = frame.cells.assign(value=values).groupby("configuration")["value"]
    variance = float((by_configuration.var(ddof=1) * 4).sum() / 36)
    assert found.run_to_run.freedom == 36
    assert found.run_to_run.sd == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert found.planning is not None
    assert found.planning.freedom == 36
    places = [
        np.flatnonzero(frame.cells["configuration"] == name) for name in by_configuration.groups
    ]
    floor = sampling_floor(outcomes.values, places)
    assert found.floor is not None
    assert floor is not None
    assert found.floor.test.p == pytest.approx(floor.test.p, rel=1e-12)
    assert found.floor.flips == pytest.approx(floor.flips, rel=1e-12)


def test_tables_are_tested_by_themselves_and_adjusted_together() -> None:
    """P of a table is that of its own rows; Holm over the five tables; q over the page's own p."""
    report = judged(axis=3, run=1)
    (sheet,) = report.sheets
    tests = [table.statistics.test for table in sheet.tables if table.statistics]
    for table, test in zip(sheet.tables, tests, strict=True):
        assert test.p == axis_test(list(table.values)).p
    assert [t.adjusted_p for t in tests] == holm([t.p for t in tests])
    assert sheet.statistics is not None
    assert sheet.statistics.floor is not None
    first = [sheet.statistics.floor.test, sheet.statistics.run_to_run.shared_seed]
    p = [*(t.p for t in first), *(t.adjusted_p for t in tests)]
    assert [t.q for t in (*first, *tests)] == benjamini_hochberg(p)
    assert all((t.q or 0) >= (t.adjusted_p or 0) for t in tests)
    count = report.judged
    assert count is not None
    assert (count.sheets, count.tests, count.families) == (1, 7, 3)
    assert count.expected_false == pytest.approx(0.15)
    assert count.claims == sum(kind == "more_than_chance" for kind in kinds(sheet).values())


def test_plain_delta_stays_first_and_unchanged() -> None:
    """With statistics or without, every number of the paper's sheet is the same; plain json has none."""
    frame, outcomes = world(axis=1)
    (plain,) = build_report(frame, STAR).sheets
    (sheet,) = build_report(frame, STAR, evidence=Evidence({"accuracy": outcomes})).sheets
    data, before = sheet.to_dict(), plain.to_dict()
    assert "statistics" not in json.dumps(before)
    assert data.pop("statistics")
    for table in data["tables"]:
        assert table.pop("statistics")
    assert data == before
    assert views.view(plain).chance is None
    assert list(sheet.to_dict())[-1] == "statistics"


def test_a_sheet_with_statistics_can_be_read_again() -> None:
    """``from_dict`` gives back every record, through JSON."""
    (sheet,) = judged(run=1).sheets
    again = Sheet.from_dict(json.loads(json.dumps(sheet.to_dict(), allow_nan=False)))
    assert again.statistics == sheet.statistics
    assert again.tables[0].statistics == sheet.tables[0].statistics
    assert said(again) == said(sheet)


# ---- verdicts ----


def test_verdicts_where_the_truth_is_known() -> None:
    """Of four worlds each is called what it is (large effects; ``docs/statistics.md`` has the rates)."""
    nothing, axis, run, both = (
        kinds(judged(**effects).sheets[0])
        for effects in ({"random": 4}, {"axis": 6}, {"run": 3}, {"axis": 20, "run": 3})
    )
    assert set(nothing.values()) == {"no_more_than_chance"}
    assert axis["learning_rate"] == both["learning_rate"] == "more_than_chance"
    assert axis["run_to_run"] == "no_more_than_chance"
    assert run["run_to_run"] == both["run_to_run"] == "more_than_chance"
    assert run["learning_rate"] == "no_more_than_chance"


def test_shared_seeds_are_named_and_never_called_the_seed() -> None:
    """What equal seeds share is found; pure run-to-run noise does not read "seed 0%"."""
    (sheet,) = judged(seed=3).sheets
    assert kinds(sheet)["shared_seed"] == "more_than_chance"
    assert said(sheet)[-1].startswith("Equal seeds share something across configurations")
    (sheet,) = judged(run=3).sheets
    assert kinds(sheet)["run_to_run"] == "more_than_chance"
    text = " ".join([*said(sheet), *(" ".join(f) for f in views.view(sheet).chance.facts)])  # type: ignore[union-attr]
    assert "Run to run" in text
    assert "seed 0" not in text


def test_cannot_be_told_names_how_many_runs_it_needs() -> None:
    """Two levels by three seeds can never reach 5%: that is never "no more than chance"."""
    design = Design.parse(samples.SMALL.replace("[0.1, 0.05, 0.01]", "[0.1, 0.01]").replace(
        "seeds: 2", "seeds: 3"))  # fmt: skip
    (sheet,) = judged(design, axis=30).sheets
    assert kinds(sheet)["learning_rate"] == "cannot_be_told"
    assert "Learning rate: cannot be told with these runs (needs 4 seeds per level)." in said(sheet)
    assert not any("not clearly" in line for line in said(sheet) if "Learning" in line)
    four = Design.parse(samples.SMALL.replace("[0.1, 0.05, 0.01]", "[0.1, 0.01]").replace(
        "seeds: 2", "seeds: 4"))  # fmt: skip
    assert kinds(judged(four, axis=30).sheets[0])["learning_rate"] == "more_than_chance"


def test_what_holm_asks_of_many_tables_is_said() -> None:
    """With ten two-level tables the first step of Holm, 0.5%, is out of reach of five seeds."""
    axes = ", ".join(f"a{i}: [0, 1]" for i in range(10))
    default = ", ".join(f"a{i}: 0" for i in range(10))
    text = "name: x\nproject: {name: theirs}\nseeds: 5\n"
    design = Design.parse(text + f"default: {{{default}}}\naxes: {{{axes}}}\n")
    frame = samples.frame(design, samples.METRICS[:1])
    (sheet,) = build_report(frame, design, evidence=Evidence()).sheets
    found = kinds(sheet)
    assert {kind for name, kind in found.items() if name.startswith("a")} <= {"cannot_be_told"}
    assert any("needs 6 seeds per level" in line for line in said(sheet))


def test_the_rules_name_every_kind() -> None:
    """What is printed at the foot of a page speaks of everything that verdicts may say."""
    text = " ".join([*RULES, *RULES.values()]).lower()
    for word in (
        "run to run",
        "axis",
        "equal seeds",
        "not clearly more than chance",
        "cannot be told",
        "holm",
        "5%",
    ):
        assert word in text


def test_two_way_only_where_the_design_declares_it() -> None:
    """A shared effect of seeds hides a level from the unrestricted test; the declared design finds it."""
    text = samples.SMALL.replace("seeds: 2", "seeds: 5")
    effects: dict[str, Any] = {"axis": -5, "seed": 8, "examples": 4000, "random": 3}
    (sheet,) = judged(Design.parse(text), **effects).sheets
    declared = Design.parse(text + "shared_seed: true\n")
    (blocked,) = judged(declared, **effects).sheets
    one, other = (s.tables[0].statistics for s in (sheet, blocked))
    assert one is not None
    assert other is not None
    assert "permutation" in one.test.name
    assert "two-way F" in other.test.name
    assert (one.test.p or 0) > 0.05 > (other.test.p or 1)
    assert declared.id != Design.parse(text).id
    assert Design.parse(text + "shared_seed: false\n").id == Design.parse(text).id
    assert plan_of(declared).shared_seed


# ---- without predictions ----


def test_without_predictions_there_is_a_guide_and_no_test() -> None:
    """The binomial guide is larger than the floor, called an upper guide, and judges nothing."""
    frame, outcomes = world()
    (sheet,) = build_report(frame, STAR, evidence=Evidence()).sheets
    (full,) = build_report(frame, STAR, evidence=Evidence({"accuracy": outcomes})).sheets
    guide, floor = (s.statistics and s.statistics.floor for s in (sheet, full))
    assert guide is not None
    assert floor is not None
    assert (guide.source, guide.test.p, guide.flips) == ("binomial", None, None)
    assert guide.run_sd > floor.run_sd
    assert kinds(sheet)["run_to_run"] == "cannot_be_told"
    assert "upper guide" in said(sheet)[0]
    assert "not clearly" not in said(sheet)[0]


def test_why_there_is_no_floor_is_said() -> None:
    """A reason that the reader of predictions gives reaches the page; so does the lack of n."""
    frame, _ = world()
    bare = replace(frame, records={"accuracy": {**frame.records["accuracy"], "n": None}})
    for evidence, reason in [
        (Evidence(), "nothing tells how many test examples there are"),
        (Evidence(missing={"accuracy": "2 of 45 runs lack predictions"}), "2 of 45 runs lack"),
    ]:
        (sheet,) = build_report(bare, STAR, evidence=evidence).sheets
        assert reason in said(sheet)[0]
    (sheet,) = build_report(bare, STAR, evidence=Evidence(n_examples=1000)).sheets
    assert sheet.statistics is not None
    assert sheet.statistics.floor is not None
    assert sheet.statistics.floor.n_examples == 1000


def test_a_metric_that_is_no_mean_has_no_floor() -> None:
    """A gap between groups is no mean over examples: no floor, no guide, and said so."""
    frame, outcomes = world()
    (sheet,) = build_report(
        frame, STAR, evidence=Evidence({"accuracy": replace(outcomes, is_mean=False)})
    ).sheets
    assert sheet.statistics is not None
    assert sheet.statistics.floor is None
    assert "no mean over examples" in said(sheet)[0]


# ---- what runs may look like ----

SMALL5 = Design.parse(samples.SMALL.replace("seeds: 2", "seeds: 5"))


def of_values(values: Sequence[float], design: Design = SMALL5, **changes: Any) -> Sheet:
    frame = samples.frame(design, samples.METRICS[:1])
    exact = frame.values.copy()
    exact["accuracy"] = list(values)
    (sheet,) = build_report(
        replace(frame, values=exact, **changes), design, evidence=Evidence()
    ).sheets
    return sheet


def test_a_constant_metric() -> None:
    """All equal: no interval, no test, no division by zero, and a reason."""
    sheet = of_values([0.9] * 15)
    found = sheet.statistics
    assert found is not None
    assert all(one.interval is None for one in found.configurations)
    assert (found.run_to_run.sd, found.run_to_run.interval, found.planning) == (0.0, None, None)
    assert found.spread.adjusted_delta == 0
    assert set(kinds(sheet).values()) == {"cannot_be_told"}
    assert any("all values are equal" in line for line in said(sheet))


def test_one_seed_and_one_level() -> None:
    """Nothing varies within: nothing is tested, and what is lacking is named."""
    one_seed = Design.parse(samples.SMALL.replace("seeds: 2", "seeds: 1"))
    sheet = of_values([0.9, 0.8, 0.7], one_seed)
    assert set(kinds(sheet).values()) == {"cannot_be_told"}
    assert "needs 2 runs per configuration" in said(sheet)[0]
    values = [0.9, 0.91, 0.92, 0.93, 0.94] + [math.nan] * 10
    sheet = of_values(values)
    assert kinds(sheet)["learning_rate"] == "cannot_be_told"
    assert "a difference between levels needs two levels" in " ".join(said(sheet))


def test_holes_and_unequal_numbers_of_seeds() -> None:
    """Missing cells leave groups of unequal size, which are tested as they are."""
    values = np.random.default_rng(0).normal(0.9, 0.01, 15)
    values[[3, 4, 9]] = np.nan
    sheet = of_values(values)
    table = sheet.tables[0].statistics
    assert table is not None
    grid = values.reshape(3, 5)
    assert table.test.p == axis_test([row[np.isfinite(row)] for row in grid]).p
    assert table.adjusted_by_level[0] == pytest.approx(np.ptp(grid[0, :3]) / d2(3))
    assert table.components.shared_by_seed is not None
    assert sheet.statistics is not None
    assert [one.n for one in sheet.statistics.configurations] == [3, 4, 5]


def test_diverged_runs_are_left_out_and_counted() -> None:
    """Statistics are of the healthy runs: one collapsed run would be all that they see."""
    frame = samples.frame(SMALL5, samples.METRICS[:1], diverged=1)
    (sheet,) = build_report(frame, SMALL5, evidence=Evidence()).sheets
    found = sheet.statistics
    assert found is not None
    assert (found.n_left_out, found.spread.n, sheet.n_runs) == (1, 14, 15)
    assert found.spread.delta == pytest.approx(sheet.delta_all_healthy)
    assert ("Left out", "1 run that diverged") in views.view(sheet).chance.facts  # type: ignore[union-attr]


def test_metrics_outside_of_0_and_1() -> None:
    """A loss has every statistic of values, and neither floor nor guide; of ±1e308 there is no
    variance, and nothing is said."""
    metric = ("loss", "Loss", "Cross-entropy", 719, 2.0, 0.1, 0.2)
    frame = samples.frame(SMALL5, [metric], unit="raw")
    (sheet,) = build_report(frame, SMALL5, evidence=Evidence()).sheets
    assert sheet.statistics is not None
    assert sheet.statistics.floor is None
    assert sheet.statistics.spread.adjusted_delta
    exact = frame.values.copy()
    exact["loss"] = [1e308, -1e308, 0.0, 1.5e308, -1e308] * 3
    (sheet,) = build_report(replace(frame, values=exact), SMALL5, evidence=Evidence()).sheets
    json.dumps(sheet.to_dict(), allow_nan=False)
    assert sheet.statistics is None


def test_ties_everywhere() -> None:
    """Two values only: p is a probability, and no interval is of zero width."""
    sheet = of_values([0.9, 0.9, 0.9, 0.9, 0.91] * 3)
    for table in sheet.tables:
        assert table.statistics is not None
        assert 0 < (table.statistics.test.p or 0) <= 1
        for interval in table.statistics.intervals:
            assert interval is None or interval.high > interval.low


def test_numbered_runs_share_no_seed() -> None:
    """Where columns only number runs, nothing is said of shared seeds, and no Δ of columns is adjusted."""
    plan = plan_of(SMALL5)
    tables = tuple(replace(table, paired=False) for table in plan.tables)
    plan = replace(plan, column_kind="runs", tables=tables)
    frame = samples.frame(SMALL5, samples.METRICS[:1])
    (sheet,) = build_report(frame, plan, evidence=Evidence()).sheets
    assert kinds(sheet)["shared_seed"] == "cannot_be_told"
    table = sheet.tables[0].statistics
    assert table is not None
    assert set(table.adjusted_by_seed) == {None}
    assert table.components.shared_by_seed is None
    assert "columns are no seeds" in said(sheet)[-1]


def test_means_of_several_runs_are_not_tested() -> None:
    """Entries that are means over other axes are no runs: refused, with the reason."""
    plan = plan_of(SMALL5)
    table = plan.tables[0]
    pooled = tuple(tuple((*ids, *table.cells[0][0]) for ids in row) for row in table.cells)
    plan = replace(plan, tables=(replace(table, cells=pooled),), pooled="everything else")
    (sheet,) = build_report(
        samples.frame(SMALL5, samples.METRICS[:1]), plan, evidence=Evidence()
    ).sheets
    assert kinds(sheet)["learning_rate"] == "cannot_be_told"
    assert any("means over several runs" in line for line in said(sheet))


def test_summary_tells_what_chance_would_give() -> None:
    """The row of a metric has the adjusted Δ, the one by chance, the part above it, and verdicts."""
    report = judged(axis=6, run=2)
    (row,) = report.summary
    (sheet,) = report.sheets
    found = sheet.statistics
    assert found is not None
    assert found.floor is not None
    assert found.floor.all_runs is not None
    assert row.delta_all_adjusted == found.spread.adjusted_delta
    assert row.delta_all_by_chance == found.floor.all_runs.expected
    assert row.delta_all_above_floor == pytest.approx(
        math.sqrt(row.delta_all**2 - found.floor.all_runs.expected**2)
    )
    assert row.verdicts["axis:learning_rate"] == "more_than_chance"
    assert short(sheet).startswith("more than chance: run to run, learning rate")


# ---- what is no sample that chance could have drawn ----


def test_runs_that_were_kept_by_their_accuracy_are_not_judged_by_it() -> None:
    """Real run-to-run multiplicity would read "not clearly" in a band that cuts it off: nothing is said."""
    frame, outcomes = world(run=2)
    kept = frame.near_best(2.2 * float(frame.values["accuracy"].std()))
    (whole,) = build_report(frame, STAR, evidence=Evidence({"accuracy": outcomes})).sheets
    (cut,) = build_report(kept, STAR, evidence=Evidence({"accuracy": outcomes})).sheets
    assert kinds(whole)["run_to_run"] == "more_than_chance"
    assert set(kinds(cut).values()) == {"cannot_be_told"}
    assert "kept by this very value" in " ".join(said(cut))
    found = cut.statistics
    assert found is not None
    assert (found.planning, found.run_to_run.interval, found.spread.tolerance_percent) == (
        None,
    ) * 3
    assert {one.interval for one in found.configurations} == {None}
    assert found.floor is not None
    assert found.floor.distribution_wise_interval is None


def test_flips_that_could_never_reach_5_percent() -> None:
    """One example that flips in one run: no arrangement is clearer, and that is not "not clearly"."""
    frame, outcomes = world(SMALL5, examples=200)
    values = np.ones_like(outcomes.values)
    values[0, 0] = 0
    exact = frame.values.copy()
    exact["accuracy"] = values.mean(axis=1)
    evidence = Evidence({"accuracy": replace(outcomes, values=values)})
    (sheet,) = build_report(replace(frame, values=exact), SMALL5, evidence=evidence).sheets
    assert sheet.statistics is not None
    assert sheet.statistics.floor is not None
    assert sheet.statistics.floor.test.smallest_p == 1.0
    assert kinds(sheet)["run_to_run"] == "cannot_be_told"
    assert kinds(sheet)["learning_rate"] == "cannot_be_told"


def test_no_guide_for_what_is_no_share_of_examples() -> None:
    """A loss and an AUC in [0, 1], and a gap between groups: their n says nothing of their spread."""
    for name, guided in [
        ("val_acc", True),
        ("accuracy", True),
        ("auc", False),
        ("val_loss", False),
    ]:
        metric = (name, name, "as logged", 500, 0.6, 0.02, 0.01)
        frame = samples.frame(SMALL5, [metric], unit="raw")
        (sheet,) = build_report(frame, SMALL5, evidence=Evidence(n_examples=500)).sheets
        assert sheet.statistics is not None
        assert (sheet.statistics.floor is not None) == guided, name
        assert ("no shares of test examples" in said(sheet)[0]) != guided
    frame, _ = world()
    evidence = Evidence(no_shares=frozenset({"accuracy"}))
    (sheet,) = build_report(frame, STAR, evidence=evidence).sheets
    assert sheet.statistics is not None
    assert sheet.statistics.floor is None


def test_repeated_runs_of_one_cell_are_not_judged_as_independent() -> None:
    """Side by side they look like more seeds; identical copies would alarm in a third of sheets."""
    plan = replace(plan_of(SMALL5), replicated=True)
    frame = samples.frame(SMALL5, samples.METRICS[:1])
    (sheet,) = build_report(frame, plan, evidence=Evidence()).sheets
    assert set(kinds(sheet).values()) == {"cannot_be_told"}
    assert "no independent runs" in " ".join(said(sheet))
