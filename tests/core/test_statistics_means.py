"""Means, pooled deviations, many tests and planning against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower

from mm_mlflow.statistics import means, multiple, planning


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 9])
def test_t_interval_is_scipys(n: int, level: float) -> None:
    """With the configuration's own deviation."""
    values = 0.9 + 0.01 * np.random.default_rng(n).standard_normal(n)
    found = means.t_interval(values, level)
    assert found is not None
    peer = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), rel=1e-12)


def one(sd: float, freedom: int) -> means.Pooled:
    """A deviation with its degrees of freedom."""
    return means.Pooled(((sd**2, freedom),) if freedom else ())


def test_pooled_variance_is_the_residual_mean_square() -> None:
    """Of a one-way ANOVA by statsmodels, with unequal sizes and one lonely run."""
    generator = np.random.default_rng(0)
    groups = [generator.standard_normal(n) + n for n in (5, 3, 2, 1, 4)]
    which = np.repeat(range(5), [len(group) for group in groups])
    peer = ols("y ~ C(g)", pd.DataFrame({"y": np.concatenate(groups), "g": which})).fit()
    variance, freedom = means.pooled_variance(groups)
    assert (variance, freedom) == pytest.approx((peer.mse_resid, peer.df_resid), rel=1e-10)


@pytest.mark.parametrize("freedom", [4, 36])
def test_interval_of_a_deviation_holds_its_tails(freedom: int) -> None:
    """At either end of it, the observed one is at the 2.5% or 97.5% point of its distribution."""
    found = means.sd_interval(one(0.02, freedom))
    assert found is not None
    chances = [
        stats.chi2.cdf(freedom * (0.02 / end) ** 2, freedom) for end in (found.low, found.high)
    ]
    assert chances == pytest.approx([0.975, 0.025])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 0.9, 123.456])
@pytest.mark.parametrize("n", [2, 3, 5, 6, 9])
def test_equal_values_have_no_spread_at_all(value: float, n: int) -> None:
    """Not one of 1e-17 from the mean's last bit, which would have an interval and a plan."""
    values = np.full(n, value)
    found = means.configuration("a", values)
    assert found.sd == 0.0
    assert found.interval is None
    variance, freedom = means.pooled_variance([values, values])
    assert variance == 0.0
    assert means.sd_interval(one(math.sqrt(variance), freedom)) is None
    assert planning.plan_seeds(one(math.sqrt(variance), freedom)) is None


def test_one_run_says_nothing_of_its_spread() -> None:
    """No deviation, no interval, no NaN."""
    found = means.configuration("a", np.array([0.9]))
    assert (found.n, found.mean, found.sd, found.interval) == (1, 0.9, None, None)
    variance, freedom = means.pooled_variance([np.array([0.9]), np.array([0.8])])
    assert freedom == 0
    assert means.sd_interval(one(variance, freedom)) is None
    assert planning.plan_seeds(one(variance, freedom)) is None


chances = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12)


@settings(deadline=None, max_examples=40)
@given(chances)
def test_holm_is_statsmodels(p: list[float | None]) -> None:
    """To 1e-12; tests that could not be made stay None and count for nothing."""
    compared(p, multiple.holm(p), "holm")


@settings(deadline=None, max_examples=40)
@given(chances)
def test_q_is_statsmodels(p: list[float | None]) -> None:
    """Benjamini and Hochberg's, to 1e-12."""
    compared(p, multiple.benjamini_hochberg(p), "fdr_bh")


def compared(p: list[float | None], found: list[float | None], method: str) -> None:
    made = [value for value in p if value is not None]
    peer = list(multipletests(made, method=method)[1]) if made else []
    assert [value is None for value in found] == [value is None for value in p]
    assert [value for value in found if value is not None] == pytest.approx(peer, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 4, 12, 36])
def test_bound_of_the_deviation(freedom: int) -> None:
    """Four chances in five that the true one is below, by the distribution of the observed one."""
    factor = planning.bound_factor(freedom)
    assert stats.chi2.sf(freedom / factor**2, freedom) == pytest.approx(0.80)


@pytest.mark.parametrize("seeds", [2, 3, 5, 8, 10, 15, 20, 45, 200])
def test_detectable_difference_is_statsmodels(seeds: int) -> None:
    """Of a t test of two samples."""
    peer = TTestIndPower().power(planning.detectable(seeds), seeds, 0.05)
    assert peer == pytest.approx(0.80, abs=1e-6)


def test_plan_is_the_printed_one() -> None:
    """STATISTICS, section 8: half widths and differences in deviations; the bound scales all."""
    plan = planning.plan_seeds(one(0.5, 4))
    assert plan is not None
    printed = {5: (1.24, 2.02), 10: (0.72, 1.32), 20: (0.47, 0.91)}
    for row in plan.seeds:
        if row.seeds in printed:
            assert (row.half_width / 0.5, row.detectable / 0.5) == pytest.approx(
                printed[row.seeds], abs=0.006
            )
        assert row.half_width_bound == pytest.approx(plan.bound_factor * row.half_width)
        assert row.detectable_bound == pytest.approx(plan.bound_factor * row.detectable)
    assert [row.seeds for row in plan.seeds] == [5, 10, 20, 50]
    assert (plan.sd_low_factor, plan.sd_high_factor) == pytest.approx((0.65, 2.37), abs=0.005)
