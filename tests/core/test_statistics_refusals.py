"""What must not be promised (STATISTICS' last section), and odd input: said in words, never NaN."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from typing import Any

import numpy as np
import pytest

from mm_mlflow import statistics
from mm_mlflow.statistics import axis, floor, means, multiple, planning, ranges
from mm_mlflow.statistics.records import Interval, Record

FIVE = 0.9 + 0.01 * np.random.default_rng(0).standard_normal(5)


def numbers(found: Any) -> list[float]:
    """Every number of a record, those of records within it too."""
    if isinstance(found, Record):
        found = found.model_dump()
    if isinstance(found, dict):
        return [number for value in found.values() for number in numbers(value)]
    if isinstance(found, list | tuple):
        return [number for value in found for number in numbers(value)]
    return [found] if isinstance(found, int | float) else []


def finite(found: Any) -> bool:
    return all(math.isfinite(number) for number in numbers(found))


# ---- refused by name ----


def test_no_range_has_an_interval() -> None:
    """A bootstrap of it covers 3 to 60%: Δ and adjusted Δ come without, and say their n."""
    with_interval = {
        name
        for name, field in ranges.Spread.model_fields.items()
        if "Interval" in str(field.annotation)
    }
    assert with_interval == {"span_interval", "subset_range_interval"}
    for record in (floor.ChanceRange, means.Configuration):
        fields = {n for n, f in record.model_fields.items() if "Interval" in str(f.annotation)}
        assert fields <= {"interval"}
    assert ranges.spread(FIVE).n == 5


@pytest.mark.parametrize("n", [5, 20, 44])
def test_no_interval_of_the_span_below_45_runs(n: int) -> None:
    """It covers 88.6 to 93.3% at 20."""
    values = np.random.default_rng(n).standard_normal(n)
    assert ranges.span_interval(values) is None
    assert ranges.spread(values).span is not None


@pytest.mark.parametrize(("n", "m"), [(44, 5), (45, 6), (45, 20), (17, 2)])
def test_no_interval_of_a_mean_range_of_too_many(n: int, m: int) -> None:
    """For m above n/9."""
    values = np.random.default_rng(n).standard_normal(n)
    assert ranges.subset_range_interval(values, m) is None
    assert ranges.subset_range(values, m) > 0


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.9], [0.1] * 5])
def test_no_interval_of_a_mean_that_has_no_spread(values: list[float]) -> None:
    """Below two values, or all equal: no interval, never one of zero width."""
    assert means.t_interval(np.array(values)) is None
    assert means.configuration("a", np.array(values)).interval is None


def test_no_bootstrap_of_few_values() -> None:
    """Means have t, deviations chi-square; one function of the package resamples, from 45 runs on."""
    found = means.configuration("a", FIVE).interval
    assert found is not None
    assert found.method == "t"
    interval = means.sd_interval(means.Pooled(((0.01**2, 4),)))
    assert interval is not None
    assert interval.method == "chi-square"
    users = [
        module.name
        for module in pkgutil.iter_modules(statistics.__path__)
        if "stats.bootstrap"
        in inspect.getsource(importlib.import_module(f"mm_mlflow.statistics.{module.name}"))
    ]
    assert users == ["ranges"]
    assert inspect.getsource(ranges).count("stats.bootstrap") == 1


def test_no_interval_of_the_total_deviation() -> None:
    """For configurations in general, from nine: 68 to 84%. Only what is within them is pooled."""
    far = [FIVE, FIVE + 5, FIVE - 5]
    variance, freedom = means.pooled_variance(far)
    assert freedom == 12
    assert math.sqrt(variance) == pytest.approx(FIVE.std(ddof=1))


@pytest.mark.parametrize(
    ("levels", "runs", "reach"), [(2, 3, False), (2, 4, True), (3, 2, False), (3, 3, True)]
)
def test_a_test_that_cannot_reach_5_percent_says_what_it_needs(
    levels: int, runs: int, reach: bool
) -> None:
    """The smallest p is told, and the runs per level that would do."""
    found = axis.axis_test([np.arange(runs) + 9.0 * level for level in range(levels)])
    assert found.smallest_p == found.p
    assert found.p is not None
    assert (found.p <= 0.05) == reach
    assert (found.needs is None) == reach


def test_after_holm_more_runs_are_needed() -> None:
    """Two levels of five runs serve six tables, not seven."""
    groups = [FIVE, FIVE + 1]
    assert axis.axis_test(groups, alpha=0.05 / 6).needs is None
    assert axis.axis_test(groups, alpha=0.05 / 7).needs == 6
    rows = np.random.default_rng(0).standard_normal((2, 3))
    assert axis.shared_seed_test(rows).needs == 3


def test_the_axis_test_of_five_seeds_is_not_that_within_columns() -> None:
    """Within columns 2/2^5 = 6.25% at best; this one 0.8%."""
    found = axis.axis_test([FIVE, FIVE + 1])
    assert found.p == pytest.approx(1 / 126)


def test_blocks_are_used_where_asked_and_said_so() -> None:
    """No function chooses by the values; the name of the two-way test says who declared."""
    assert "declared" in axis.two_way_test(np.random.default_rng(0).random((2, 5))).name
    assert "unrestricted" in axis.axis_test([FIVE, FIVE + 1]).name


def test_negative_variances_are_kept() -> None:
    """Components and the distribution-wise variance, whose root is then undefined."""
    table = np.array([[1.0, 2, 3], [3.0, 1, 2], [2, 3, 1]])
    found = axis.components(table)
    assert found.between_levels is not None
    assert found.shared_by_seed is not None
    assert found.omega_squared is not None
    assert max(found.between_levels, found.shared_by_seed, found.omega_squared) < 0
    outcomes = np.eye(4)  # all runs are equally good, by different examples
    floors = floor.sampling_floor(outcomes, [np.arange(4)])
    assert floors is not None
    assert floors.distribution_wise_variance is not None
    assert floors.distribution_wise_variance < 0
    assert floors.distribution_wise_sd is None
    assert floors.delta_above_floor == 0.0


def test_few_flips_are_permuted() -> None:
    """The formula is off by up to 24% there."""
    outcomes = np.ones((5, 1000))
    outcomes[0, :3] = outcomes[1, 3:5] = 0
    found = floor.sampling_floor(outcomes, [np.arange(5)])
    assert found is not None
    assert found.flips is not None
    assert found.flips < floor.FEW_FLIPS
    assert found.method == "permutation"


def test_one_range_of_five_is_not_judged_by_a_ratio() -> None:
    """Chance alone gives up to 1.8 times the expected one: the band is always there."""
    outcomes = (np.random.default_rng(0).random((5, 2000)) < 0.8).astype(float)
    found = floor.sampling_floor(outcomes, [np.arange(5)])
    assert found is not None
    assert found.all_runs is not None
    assert found.all_runs.high / found.all_runs.expected == pytest.approx(1.8, abs=0.01)
    assert found.all_runs.low / found.all_runs.expected == pytest.approx(0.365, abs=0.01)


def test_the_binomial_guide_is_no_floor() -> None:
    """Labelled; no test, no variance, no Δ above it."""
    found = floor.binomial_guide(FIVE, [np.arange(5)], 250)
    assert found is not None
    assert found.source == "binomial"
    assert found.test.p is None
    assert "upper guide" in found.test.reason
    assert found.delta_above_floor is None
    assert found.distribution_wise_variance is None


# ---- odd input ----

nan, inf = math.nan, math.inf
GROUPS: dict[str, tuple[list[list[float]], str]] = {
    "nothing": ([], "two levels"),
    "one level": ([[0.1, 0.2, 0.3]], "two levels"),
    "a level without runs": ([[0.1, 0.2], []], "two levels"),
    "a level of holes": ([[0.1, 0.2], [nan, inf]], "two levels"),
    "one seed": ([[0.1], [0.2], [0.3]], "one run per level"),
    "constant": ([[0.1] * 3, [0.1] * 3], "equal"),
    "constant with a last bit": ([[0.7] * 5, [0.7] * 5, [0.7] * 5], "equal"),
    "unequal numbers": ([[0.1, 0.2, 0.4], [0.3], [0.5, 0.1]], ""),
    "missing cells": ([[0.1, nan, 0.3], [0.2, 0.4, nan]], ""),
    "outside of 0 to 1": ([[-3.0, 250.0], [1e6, -1e6]], ""),
    "ties everywhere": ([[0.1, 0.1, 0.2], [0.1, 0.2, 0.2]], ""),
    "levels without any spread": ([[0.1] * 3, [0.3] * 3], ""),
}


@pytest.mark.parametrize("case", GROUPS)
def test_axis_test_of_odd_tables(case: str) -> None:
    """P, or a reason in words; no exception, no NaN."""
    rows, reason = GROUPS[case]
    found = axis.axis_test([np.array(row) for row in rows])
    assert finite(found)
    assert (found.p is None) == bool(reason)
    assert reason in found.reason
    assert bool(found.reason) == bool(reason)


TABLES: dict[str, np.ndarray] = {
    "one seed": np.array([[0.1], [0.2], [0.3]]),
    "one level": np.array([[0.1, 0.2, 0.3]]),
    "constant": np.full((3, 3), 0.1),
    "constant, five": np.full((9, 5), 0.7),
    "all holes": np.full((3, 3), nan),
    "no complete column": np.array([[0.1, 0.2, nan], [0.3, nan, 0.4], [nan, 0.1, 0.5]]),
    "an empty level": np.array([[0.1, 0.2, 0.4], [nan, nan, nan], [0.2, 0.1, 0.5]]),
    "an infinite value": np.array([[0.1, inf, 0.4], [0.3, 0.5, 0.2], [0.2, 0.1, 0.5]]),
    "levels alone": np.repeat([[0.1], [0.2], [0.4]], 3, axis=1),
    "seeds alone": np.repeat([[0.1, 0.2, 0.4]], 3, axis=0),
    "outside of 0 to 1": np.array([[-5.0, 7e5, 3], [9, -1e7, 4]]),
    "ties": np.array([[0.1, 0.1, 0.2], [0.2, 0.1, 0.2]]),
    "one run each": np.array([[0.1, nan, nan], [nan, 0.3, nan], [nan, nan, 0.2]]),
}
UNDEFINED = {
    "two-way": {"one seed", "one level", "constant", "constant, five", "all holes",
                "no complete column", "levels alone", "seeds alone", "one run each"},
    "seeds": {"one seed", "one level", "constant", "constant, five", "all holes", "levels alone",
              "one run each"},
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_seed_tests_and_components_of_odd_tables(case: str) -> None:
    """P, or a reason in words; components are numbers or None, exactly 0 where nothing varies."""
    two_way, seeds = axis.two_way_test(TABLES[case]), axis.shared_seed_test(TABLES[case])
    parts = axis.components(TABLES[case])
    assert finite([two_way, seeds, parts])
    assert (two_way.p is None) == bool(two_way.reason) == (case in UNDEFINED["two-way"])
    assert (seeds.p is None) == bool(seeds.reason) == (case in UNDEFINED["seeds"])
    if case.startswith("constant"):
        assert (parts.between_levels, parts.run_to_run, parts.omega_squared) == (0.0, 0.0, None)
    if case in {"one seed", "all holes", "one run each"}:
        assert parts.run_to_run is None


SPREADS = {
    "nothing": [], "one": [0.5], "two": [0.1, 0.3], "constant": [0.1] * 50, "holes": [nan, 0.1, inf, 0.4],
    "only holes": [nan, nan], "one of fifty": [0.0] * 49 + [1.0], "two values": [0.0] * 23 + [1.0] * 22,
    "one in three": [0.0] * 30 + [1.0] * 15, "few others": [0.0] * 40 + [1.0] * 5,
    "outside of 0 to 1": [-1e9, 3.0, 1e9], "nine equal": [0.7] * 9,
}  # fmt: skip


@pytest.mark.parametrize("case", SPREADS)
def test_spread_of_odd_values(case: str) -> None:
    """No warning, no NaN, and an interval only where there is one of some width."""
    found = ranges.spread(SPREADS[case])
    assert finite(found)
    assert found.n == sum(map(math.isfinite, SPREADS[case]))
    for interval in (found.span_interval, found.subset_range_interval):
        assert interval is None or interval.low < interval.high
    assert (found.delta is None) == (found.n < 2)


def outcomes_of(kind: str) -> np.ndarray:
    generator = np.random.default_rng(0)
    return {
        "always right": np.ones((6, 300)),
        "always a third": np.full((6, 300), 1 / 3),
        "one example flips": np.column_stack([np.eye(6)[:, 0], np.ones((6, 299))]),
        "two examples": generator.integers(0, 2, (6, 2)).astype(float),
        "one example": generator.random((6, 1)),
        "no example": np.ones((6, 0)),
        "probabilities": generator.random((6, 300)),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "p"),
    [("always right", False), ("always a third", False), ("one example flips", True),
     ("two examples", True), ("one example", None), ("no example", None), ("probabilities", True)],
)  # fmt: skip
def test_floor_of_odd_outcomes(kind: str, p: bool | None) -> None:
    """A floor, one without a test and why, or none."""
    groups = [np.arange(3), np.arange(3, 5), np.array([5])]
    found = floor.sampling_floor(outcomes_of(kind), groups)
    assert (found is None) == (p is None)
    if found is not None:
        assert finite(found)
        assert (found.test.p is not None) == p
        assert bool(found.test.reason) != p
        assert found.distribution_wise_variance != 0 or not p


def test_outcomes_that_never_vary_have_no_excess() -> None:
    """Exactly 0, not 1e-33 above the floor."""
    found = floor.sampling_floor(np.full((6, 300), 0.1), [np.arange(3), np.arange(3, 6)])
    assert found is not None
    assert (found.variance, found.distribution_wise_variance) == (0.0, 0.0)
    assert found.distribution_wise_interval is None


def test_runs_alone_in_their_configurations_have_no_floor() -> None:
    """Nor has one run."""
    outcomes = outcomes_of("probabilities")
    assert floor.sampling_floor(outcomes, [np.array([i]) for i in range(6)]) is None
    assert floor.sampling_floor(outcomes[:1], [np.array([0])]) is None
    assert floor.cochran_q(outcomes[:1]) == (0.0, 0)


@pytest.mark.parametrize("values", [[], [0.5, 1.2], [-0.1, 0.3]])
def test_no_binomial_guide_outside_of_0_to_1(values: list[float]) -> None:
    """None, not the root of a negative number."""
    assert floor.binomial_guide(np.array(values), [np.arange(len(values))], 250) is None


def test_all_right_has_a_guide_of_zero() -> None:
    """P (1 - p) = 0."""
    found = floor.binomial_guide(np.ones(4), [np.arange(4)], 250)
    assert found is not None
    assert finite(found)


def test_many_tests_at_once_of_none() -> None:
    """No tests, or none that could be made."""
    for adjust in (multiple.holm, multiple.benjamini_hochberg):
        assert adjust([]) == []
        assert adjust([None, None]) == [None, None]
        assert adjust([None, 0.5]) == [None, 0.5]


def test_no_plan_without_a_deviation() -> None:
    """Zero, unknown, or without degrees of freedom."""
    for sd, freedom in ((0.0, 4), (nan, 4), (0.1, 0)):
        assert planning.plan_seeds(means.Pooled(((sd**2, freedom),) if freedom else ())) is None
        assert means.sd_interval(means.Pooled(((sd**2, freedom),) if freedom else ())) is None


def test_intervals_say_how_they_were_made() -> None:
    """Method and level are in each."""
    for interval in (means.t_interval(FIVE), means.sd_interval(means.Pooled(((0.01, 4),)))):
        assert isinstance(interval, Interval)
        assert interval.method
        assert interval.level == 0.95
