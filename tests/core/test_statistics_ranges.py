"""Ranges, spans and tolerance against tables, closed forms, scipy and slow versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mm_mlflow.errors import InvalidInput
from mm_mlflow.statistics import ranges

# Montgomery, Introduction to Statistical Quality Control, appendix VI (also ASTM MNL 7, table of factors
# for control charts): d2 for 2 to 25 observations.
D2 = (1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078, 3.173, 3.258, 3.336, 3.407, 3.472,
      3.532, 3.588, 3.640, 3.689, 3.735, 3.778, 3.819, 3.858, 3.895, 3.931)  # fmt: skip
# Tippett, Biometrika 17 (1925), table X: mean range of large samples.
TIPPETT = {
    2: 1.12838,
    10: 3.07751,
    20: 3.73495,
    100: 5.01519,
    200: 5.49209,
    500: 6.07340,
    1000: 6.48287,
}
# Printed in STATISTICS: 95% of ranges over their mean.
BANDS = {2: (0.04, 2.8), 3: (0.18, 2.2), 5: (0.36, 1.81), 10: (0.54, 1.56), 15: (0.61, 1.46),
         45: (0.74, 1.32)}  # fmt: skip

values_of = st.lists(st.integers(-1000, 1000), min_size=5, max_size=12).map(
    lambda found: np.array(found) / 1000
)


@pytest.mark.parametrize(("n", "published"), list(enumerate(D2, start=2)))
def test_d2_is_the_published_one(n: int, published: float) -> None:
    """To the three decimals printed."""
    assert ranges.d2(n) == pytest.approx(published, abs=0.0006)


@pytest.mark.parametrize(("n", "published"), TIPPETT.items())
def test_d2_of_large_samples_is_tippetts(n: int, published: float) -> None:
    """To the five decimals of the first table of all."""
    assert ranges.d2(n) == pytest.approx(published, abs=1.1e-5)


def test_d2_has_its_closed_forms() -> None:
    """2/√π for two, 3/√π for three; and the order statistics of ten thousand, by another integral."""
    assert ranges.d2(2) == pytest.approx(2 / math.sqrt(math.pi), abs=1e-12)
    assert ranges.d2(3) == pytest.approx(3 / math.sqrt(math.pi), abs=1e-12)
    x = np.linspace(-12, 12, 400_001)
    highest = 10_000 * x * stats.norm.pdf(x) * stats.norm.cdf(x) ** 9_999
    assert ranges.d2(10_000) == pytest.approx(2 * np.trapezoid(highest, x), rel=1e-7)


def test_one_value_has_no_range() -> None:
    """The error names the argument, what it was, and what is allowed."""
    for call in (lambda: ranges.d2(1), lambda: ranges.tolerance_share(1)):
        with pytest.raises(InvalidInput, match=r"n 1 is not allowed: .* at least 2"):
            call()
    assert ranges.adjusted(0.1, 1) is None


@pytest.mark.parametrize("n", BANDS)
def test_band_of_one_range(n: int) -> None:
    """Against the printed one, and 100,000 simulated ranges."""
    band = ranges.chance_band((n,))
    assert band == pytest.approx(BANDS[n], abs=0.03)
    drawn = np.ptp(np.random.default_rng(1).standard_normal((100_000, n)), axis=1)
    inside = (drawn >= band[0] * ranges.d2(n)) & (drawn <= band[1] * ranges.d2(n))
    assert inside.mean() == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / 100_000))


@pytest.mark.parametrize("sizes", [(5,) * 9, (3, 5, 10), (2, 2)])
def test_band_of_a_mean_of_ranges(sizes: tuple[int, ...]) -> None:
    """Against ranges drawn by another generator; tails of the band's own 20,000 draws allowed for."""
    low, high = ranges.chance_band(sizes)
    generator = np.random.default_rng(2)
    drawn = np.mean([np.ptp(generator.standard_normal((50_000, n)), axis=1) for n in sizes], axis=0)
    drawn /= np.mean([ranges.d2(n) for n in sizes])
    error = math.sqrt(0.025 * 0.975 * (1 / 50_000 + 1 / 20_000))
    assert (drawn < low).mean() == pytest.approx(0.025, abs=4 * error)
    assert (drawn > high).mean() == pytest.approx(0.025, abs=4 * error)


@pytest.mark.parametrize("n", [2, 5, 10, 45, 65, 100, 10_000])
def test_tolerance_share_solves_its_equation(n: int) -> None:
    """It is n β^(n-1) - (n-1) β^n = 5%."""
    share = ranges.tolerance_share(n)
    assert n * share ** (n - 1) - (n - 1) * share**n == pytest.approx(0.05, abs=1e-9)


def test_tolerance_is_rounded_down() -> None:
    """89% for 45 runs, 87% for 35: never more than what holds."""
    for n, percent in ((45, 89), (35, 87), (5, 34)):
        assert ranges.spread(np.arange(n) / n).tolerance_percent == percent
        assert percent / 100 <= ranges.tolerance_share(n) < (percent + 1) / 100


@pytest.mark.parametrize(("n", "m"), [(5, 2), (6, 5), (8, 4), (9, 9), (12, 5)])
def test_subset_range_is_the_mean_over_all_subsets(n: int, m: int) -> None:
    """Enumerated."""
    values = np.random.default_rng(n * m).standard_normal(n)
    slow = np.mean([np.ptp(subset) for subset in itertools.combinations(values, m)])
    assert ranges.subset_range(values, m) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("m", [1, 6])
def test_a_subset_has_between_two_and_all_values(m: int) -> None:
    """One line that names m."""
    with pytest.raises(InvalidInput, match=f"m {m} is not allowed: from 2 to 5"):
        ranges.subset_range(np.arange(5.0), m)


def test_jackknife_on_the_log() -> None:
    """Against the slow version: every value left out in turn."""
    values = 0.9 + 0.01 * np.random.default_rng(3).standard_normal(45)
    logs = np.log([ranges.subset_range(np.delete(values, i), 5) for i in range(45)])
    error = math.sqrt(44 / 45 * ((logs - logs.mean()) ** 2).sum())
    factor = math.exp(stats.t.ppf(0.975, 44) * error)
    found = ranges.subset_range_interval(values, 5)
    assert found is not None
    whole = ranges.subset_range(values, 5)
    assert (found.low, found.high) == pytest.approx((whole / factor, whole * factor), rel=1e-8)


def slow_bca(values: np.ndarray) -> tuple[float, float]:
    """Efron's BCa of the span from the 10th to the 90th percentile, as in the book, same resamples."""
    resamples = 1999
    which = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))

    def span(sample: np.ndarray) -> float:
        return float(np.quantile(sample, 0.9) - np.quantile(sample, 0.1))

    whole = span(values)
    drawn = np.array([span(values[places]) for places in which])
    share = (np.sum(drawn < whole) + np.sum(drawn <= whole)) / (2 * resamples)
    shift = stats.norm.ppf(share)
    left = np.array([span(np.delete(values, i)) for i in range(len(values))])
    left = left.mean() - left
    bend = (left**3).sum() / (6 * (left**2).sum() ** 1.5)
    ends = []
    for tail in (0.025, 0.975):
        z = shift + stats.norm.ppf(tail)
        ends.append(float(np.quantile(drawn, stats.norm.cdf(shift + z / (1 - bend * z)))))
    return ends[0], ends[1]


@pytest.mark.parametrize("seed", range(3))
def test_span_interval_is_bca(seed: int) -> None:
    """It is scipy's with its own settings and, by formula, a slow version."""
    values = np.random.default_rng(seed).gamma(2, size=45)
    found = ranges.span_interval(values)
    assert found is not None
    assert found.method == "BCa bootstrap"
    peer = stats.bootstrap(
        (values,),
        lambda x, axis: np.subtract(*np.percentile(x, (90, 10), axis=axis)),
        n_resamples=1999,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(peer), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(slow_bca(values), rel=1e-9)


def test_ten_thousand_runs_are_spread_in_no_time() -> None:
    """No array of n x n values: the percentile bootstrap there, and so it says."""
    found = ranges.spread(np.random.default_rng(0).standard_normal(10_000))
    assert found.span_interval is not None
    assert found.span_interval.method == "percentile bootstrap"
    assert found.span_interval.low < 2 * stats.norm.ppf(0.9) < found.span_interval.high
    assert found.adjusted_delta == pytest.approx(1.0, abs=0.15)


@settings(deadline=None)
@given(values_of, st.integers(-50, 50), st.integers(1, 50))
def test_spread_moves_with_the_values(values: np.ndarray, by: int, times: int) -> None:
    """A constant changes no distance; a factor changes all alike."""
    once, moved = ranges.spread(values), ranges.spread(times * values + by)
    for name in ("delta", "adjusted_delta", "span", "subset_range"):
        assert getattr(moved, name) == pytest.approx(times * getattr(once, name), abs=1e-9)
    assert moved.tolerance_percent == once.tolerance_percent
    assert moved.low == pytest.approx(times * values.min() + by)


@settings(deadline=None)
@given(values_of, st.randoms())
def test_spread_does_not_know_the_order(values: np.ndarray, chance: object) -> None:
    """Runs have none."""
    other = list(values)
    chance.shuffle(other)  # type: ignore[attr-defined]
    once, again = ranges.spread(values), ranges.spread(other)
    assert once.model_dump() == pytest.approx(again.model_dump())


@settings(deadline=None)
@given(values_of)
def test_mean_range_grows_with_m(values: np.ndarray) -> None:
    """From pairs to the range of all."""
    found = [ranges.subset_range(values, m) for m in range(2, len(values) + 1)]
    assert (np.diff(found) >= -1e-12).all()
    assert found[-1] == pytest.approx(np.ptp(values), abs=1e-12)
