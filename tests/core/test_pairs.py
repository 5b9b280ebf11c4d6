"""Spread and means of two experiments, paired by configuration: oracles, properties, bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_sheets import sheets
from scipy import stats

from mm_mlflow.errors import InvalidInput
from mm_mlflow.statistics import pairs
from mm_mlflow.statistics.pairs import (
    deviations,
    mean_change,
    spread_change,
    swap_configurations,
)

NAN = math.nan


def distances(table: np.ndarray) -> np.ndarray:
    """Mean absolute deviation of each row from its median, with numpy alone."""
    return np.array([np.abs(row - np.median(row)).mean() for row in table])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("configurations", "runs"), [(2, 5), (9, 5), (4, 2), (6, 4)])
def test_spread_is_a_paired_t_test_of_the_configurations_deviations(
    seed: int, configurations: int, runs: int
) -> None:
    """Against scipy's ``ttest_rel`` on deviations made with numpy, interval included."""
    x, y = np.random.default_rng(seed).normal(0.9, 0.01, (2, configurations, runs))
    found = spread_change(x, y)
    oracle = stats.ttest_rel(distances(y), distances(x))
    assert found.test.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert found.test.statistic == pytest.approx(oracle.statistic, rel=1e-9)
    ends = oracle.confidence_interval(0.95)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))
    assert found.difference == pytest.approx((distances(y) - distances(x)).mean())
    assert (found.configurations, found.runs_a) == (configurations, configurations * runs)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("configurations", [6, 9])
def test_swapping_equals_scipys_permutation_test(seed: int, configurations: int) -> None:
    """All swaps of pairs of deviations, exactly."""
    x, y = np.random.default_rng(seed).normal(size=(2, configurations, 5)) * [[[1]], [[1.4]]]
    found = spread_change(x, y).swap
    oracle = stats.permutation_test(
        (distances(x), distances(y)),
        lambda one, other, axis: (other - one).mean(axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert found.p == pytest.approx(oracle.pvalue, abs=1e-12)
    assert found.draws is None
    assert found.smallest_p == 2 / 2**configurations


def test_many_configurations_are_swapped_at_random() -> None:
    """16 and more: (1 + count) / (9,999 + 1), the same each time, near the exact p."""
    difference = np.random.default_rng(3).normal(0.4, 1, 16)
    found = swap_configurations(difference)
    signs = np.array([*itertools.product([1, -1], repeat=16)])
    exact = (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean()
    assert found.p is not None
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 9_999))
    assert found.p * 10_000 == pytest.approx(round(found.p * 10_000))
    assert (found.draws, found.smallest_p) == (9_999, 1 / 10_000)
    assert swap_configurations(difference) == found
    assert swap_configurations(np.full(16, 1.0)).p == pytest.approx(1e-4, abs=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_means_are_a_paired_t_test_of_the_configurations_means(seed: int) -> None:
    """Against scipy's ``ttest_rel``; the 45 cells are not taken for 45 differences."""
    x, y = np.random.default_rng(seed).normal(0.9, 0.01, (2, 9, 5))
    found = mean_change(x, y)
    oracle = stats.ttest_rel(y.mean(axis=1), x.mean(axis=1))
    assert found.test.p == pytest.approx(oracle.pvalue, rel=1e-9)
    ends = oracle.confidence_interval(0.95)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))
    assert (found.configurations, found.cells) == (9, 45)
    assert found.difference == pytest.approx(y.mean() - x.mean())
    assert found.test.p != pytest.approx(stats.ttest_rel(y.ravel(), x.ravel()).pvalue)


def test_only_as_many_runs_are_judged_as_both_have() -> None:
    """The first of them, holes passed over; SDs are of all."""
    x = np.array([[1.0, 5, 2, 8], [3, NAN, 4, 9], [1, 2, 3, 4]])
    y = np.array([[NAN, 1, 7], [2, 4, 4], [0, 5, 6]])
    found = spread_change(x, y)
    judged = [[[1, 5], [3, 4, 9], [1, 2, 3]], [[1, 7], [2, 4, 4], [0, 5, 6]]]
    expected = [[np.abs(np.array(r) - np.median(r)).mean() for r in table] for table in judged]
    assert found.deviation_a == pytest.approx(np.mean(expected[0]))
    assert found.test.p == pytest.approx(stats.ttest_rel(*expected).pvalue)
    assert (found.runs_a, found.runs_b, found.runs_judged) == (11, 8, 8)
    assert found.sd_a == pytest.approx(spread_change(x, np.hstack([y, y])).sd_a)
    assert deviations(x, np.array([2, 3, 3])).tolist() == pytest.approx(expected[0])


def test_more_runs_in_one_experiment_are_no_larger_spread() -> None:
    """3 runs against 30 of the same spread: deviations of all would differ by more than a third."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3000, 3)), rng.normal(size=(3000, 30))
    found = spread_change(x, y)
    assert distances(y).mean() / distances(x).mean() > 1.3
    assert found.deviation_a is not None
    assert found.deviation_b == pytest.approx(found.deviation_a, rel=0.04)
    assert found.test.p is not None
    assert found.test.p > 0.01
    assert found.swap.p is not None


def test_pooled_sd() -> None:
    """Squares of what is left after each configuration's own mean, over its degrees of freedom."""
    x = np.array([[1.0, 2, 3, NAN], [5, 7, NAN, NAN], [1, 1, 1, 5]])
    y = np.array([[2.0, 4, 6], [5, 7, NAN], [0, 0, 9]])
    found = spread_change(x, y)
    assert found.sd_a == pytest.approx(math.sqrt((2 + 2 + 12) / 6))
    assert found.sd_b == pytest.approx(math.sqrt((8 + 2 + 54) / 5))
    assert found.ratio == pytest.approx(found.sd_b / found.sd_a)  # type: ignore[operator]


NUMBERS = st.integers(0, 20).map(lambda n: n / 20)
TABLES = st.tuples(st.integers(2, 6), st.integers(2, 5)).flatmap(
    lambda shape: st.tuples(
        *2
        * [
            st.lists(
                st.lists(NUMBERS, min_size=shape[1], max_size=shape[1]),
                min_size=shape[0], max_size=shape[0],
            ).map(np.array)
        ]
    )
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_swapping_a_and_b_mirrors(tables: tuple[np.ndarray, np.ndarray]) -> None:
    """The same p; differences and intervals change their sign."""
    x, y = tables
    for function in (spread_change, mean_change):
        one, other = function(x, y), function(y, x)
        assert (one.test.p is None) == (other.test.p is None)
        assert one.difference == pytest.approx(-other.difference)  # type: ignore[operator]
        if one.test.p is not None:
            assert one.test.p == pytest.approx(other.test.p)
            assert one.interval is not None
            assert other.interval is not None
            assert one.interval.low == pytest.approx(-other.interval.high)
    assert spread_change(x, y).swap.p == spread_change(y, x).swap.p


@settings(max_examples=100, deadline=None)
@given(TABLES, st.sampled_from([-3.0, 0.1, 1000.0]))
def test_a_constant_changes_no_spread(
    tables: tuple[np.ndarray, np.ndarray], constant: float
) -> None:
    """Added to one experiment, or to configurations one by one; nor does the order of runs."""
    x, y = tables
    moved = x + constant * np.arange(1, len(x) + 1)[:, None]
    before, after = spread_change(x, y), spread_change(moved[:, ::-1], y + constant)
    assert (before.test.p is None) == (after.test.p is None)
    if before.test.p is not None:
        assert after.test.p == pytest.approx(before.test.p, rel=1e-6, abs=1e-9)
    assert after.swap.p == before.swap.p
    assert after.sd_a == pytest.approx(before.sd_a, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_the_unit_changes_nothing(tables: tuple[np.ndarray, np.ndarray]) -> None:
    """Percent or fractions: the same p; differences in that unit."""
    x, y = tables
    for function in (spread_change, mean_change):
        one, other = function(x, y), function(100 * x, 100 * y)
        assert other.difference == pytest.approx(100 * one.difference)  # type: ignore[operator]
        if one.test.p is not None:
            assert other.test.p == pytest.approx(one.test.p, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("configurations", [1, 2, 3, 5, 6])
def test_each_test_says_how_far_it_reaches(configurations: int) -> None:
    """Swaps of C configurations give 2 / 2^C at best: 5% from six on. The t test needs two."""
    x = np.tile([0.0, 1.0, 2.0], (configurations, 1))
    y = x * np.linspace(2, 3, configurations)[:, None]
    found = spread_change(x, y)
    assert found.swap.p == found.swap.smallest_p == min(1, 2 / 2**configurations)
    assert found.swap.needs == (None if configurations >= 6 else 6)
    assert (found.test.p is None) == (configurations < 2)
    assert found.test.needs == (2 if configurations < 2 else None)
    assert (found.test.reason == "1 configuration to compare") == (configurations == 1)
    assert mean_change(x, y).test.needs == (2 if configurations < 2 else None)


def test_no_two_runs_of_a_configuration() -> None:
    """Nothing to judge a spread by; means are compared all the same."""
    x, y = np.random.default_rng(0).normal(size=(2, 6, 1))
    found = spread_change(x, y)
    assert found.configurations == 0
    assert found.test.p is None
    assert found.test.needs == 2
    assert found.test.reason == "0 configurations to compare"
    assert found.swap.reason == "no configuration has two runs in both experiments"
    assert (found.sd_a, found.ratio, found.deviation_b, found.interval) == (None,) * 4
    assert mean_change(x, y).test.p is not None


def test_configurations_without_two_runs_in_both_do_not_count() -> None:
    """Nor do means of cells that one experiment lacks."""
    x = np.array([[1.0, 2, 4], [1, NAN, NAN], [1, 5, 2], [NAN, NAN, NAN]])
    y = np.array([[1.0, 3, 7], [1, 2, 3], [2, 2, 3], [4, 5, 6]])
    found = spread_change(x, y)
    assert found == spread_change(x[[0, 2]], y[[0, 2]])
    assert found.configurations == 2
    means = mean_change(x, y)
    assert (means.configurations, means.cells) == (3, 7)
    differences = [np.mean([0, 1, 3]), 0, np.mean([1, -3, 1])]
    assert means.difference == pytest.approx(np.mean(differences))
    assert means.test.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert means.mean_b == pytest.approx(np.mean([11 / 3, 1, 7 / 3]))


def test_constant_values_have_no_p() -> None:
    """All runs of a configuration equal in both: said so; 0.1 + 0.2 and 0.3 are equal, too."""
    x = np.array([[0.3, 0.1 + 0.2, 0.3]] * 7)
    found = spread_change(x, x + 0.1)
    assert found.test.p is None
    assert found.test.reason == "no two runs of a configuration differ, in neither experiment"
    assert found.swap.p is None
    assert found.swap.reason == "no configuration's spread differs"
    assert (
        mean_change(x, x).test.reason == "every configuration has the same mean in both experiments"
    )
    assert "differs by the same" in mean_change(x, x + 0.1).test.reason
    assert mean_change(x, x + 0.1).difference == pytest.approx(0.1)
    equal = np.full((7, 3), 0.95)
    zero = spread_change(equal, equal)
    assert (zero.sd_a, zero.ratio, zero.deviation_a, zero.difference) == (0, None, 0, 0)


def test_a_spread_that_appears() -> None:
    """No spread in A: no ratio, and a p all the same."""
    y = np.random.default_rng(0).normal(size=(9, 5))
    found = spread_change(np.full((9, 5), 0.95), y)
    assert found.sd_a == 0
    assert found.ratio is None
    assert found.test.p is not None
    assert found.test.p < 0.001
    assert found.swap.p == 2 / 2**9


def test_values_too_large_to_subtract() -> None:
    """None where no float holds it, and no warning."""
    x = np.random.default_rng(0).normal(size=(6, 4))
    found = spread_change(x, 1.7e308 * np.sign(x))
    assert found.test.p is None
    assert found.test.reason == found.swap.reason == "values are too large to be subtracted"
    assert mean_change(x, 1.7e308 * np.sign(x)).difference is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(3), np.zeros((3, 2)), "x of shape (3,) is not allowed"),
        (
            np.zeros((3, 2)),
            np.zeros((4, 2)),
            "y of 4 configurations is not allowed: those of x are, 3",
        ),
        (
            np.zeros((2, 2)),
            np.array([[0, math.inf], [1, 2]]),
            "y with infinite values is not allowed",
        ),
    ],
)
def test_bad_input(x: np.ndarray, y: np.ndarray, message: str) -> None:
    """One line that names what is wrong."""
    for function in (spread_change, mean_change):
        with pytest.raises(InvalidInput) as caught:
            function(x, y)
        assert message in str(caught.value)


def test_means_need_the_same_cells() -> None:
    """Tables of different widths are no pairs of cells; spreads may have them."""
    with pytest.raises(InvalidInput, match=r"y of shape \(3, 2\) is not allowed: that of x is"):
        mean_change(np.zeros((3, 4)), np.zeros((3, 2)))


def test_empty_tables() -> None:
    """No configuration: nothing is known, and nothing fails."""
    assert spread_change(np.zeros((0, 5)), np.zeros((0, 3))).test.p is None
    assert mean_change(np.full((2, 2), NAN), np.zeros((2, 2))).configurations == 0


def test_refused_procedures_are_not_here() -> None:
    """STATISTICS, "what cannot be demanded": ratio of variances, Pitman and Morgan, bootstrap, tests on
    runs that are not centred."""
    public = {name for name in vars(pairs) if not name.startswith("_")}
    functions = {
        name for name in public if getattr(vars(pairs)[name], "__module__", "") == pairs.__name__
    }
    assert functions == {
        "SpreadChange", "MeanChange", "spread_change", "mean_change", "swap_configurations", "deviations"
    }  # fmt: skip
    source = pairs.__loader__.get_source(pairs.__name__)  # type: ignore[union-attr]
    for word in ("f.sf", "f_oneway", "levene", "fligner", "pearsonr", "bootstrap(", "ravel"):
        assert word not in source


# ---- calibration, small: tests/benchmarks/test_pairs_calibration.py has the full size ----

SHEETS = 400


@pytest.mark.parametrize("shape", ["normal", "skew", "collapsed"])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_false_alarms(shape: str, correlation: float) -> None:
    """5% of sheets where nothing changed, within 4 standard errors."""
    x, y = sheets(np.random.default_rng(7), SHEETS, shape=shape, correlation=correlation)
    found = [spread_change(*pair) for pair in zip(x, y, strict=True)]
    error = 4 * math.sqrt(0.05 * 0.95 / SHEETS)
    for alarms in ([item.test.p for item in found], [item.swap.p for item in found]):
        assert abs(np.mean(np.array(alarms, dtype=float) <= 0.05) - 0.05) <= error
    means = [mean_change(*pair).test.p for pair in zip(x, y, strict=True)]
    assert abs(np.mean(np.array(means, dtype=float) <= 0.05) - 0.05) <= error


@pytest.mark.parametrize(("correlation", "least"), [(0.0, 0.50), (0.5, 0.59), (0.9, 0.96)])
def test_power(correlation: float, least: float) -> None:
    """At an SD ratio of 1.5, what STATISTICS measured, less 4 standard errors."""
    x, y = sheets(np.random.default_rng(8), SHEETS, correlation=correlation, ratio=1.5)
    found = [spread_change(*pair) for pair in zip(x, y, strict=True)]
    more = [item.test.p <= 0.05 and item.difference > 0 for item in found]  # type: ignore[operator]
    assert np.mean(more) >= least - 4 * math.sqrt(least * (1 - least) / SHEETS)
