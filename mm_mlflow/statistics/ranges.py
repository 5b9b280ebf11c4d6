"""Ranges that can be compared, and spreads that do not grow with the number of runs.

The expected range of n independent values grows with n: 1.13 standard deviations for two, 2.33 for
five, 4.42 for forty-five normal ones. So a Δ is divided by d2(n) before it is compared with another;
no interval is given for a range (a bootstrap of it covers 3 to 60%).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy

from mm_mlflow.errors import InvalidInput
from mm_mlflow.statistics.records import Interval, Record, known

FULL = 45  # runs from which the p10-p90 span has an interval that holds its promise
SUBSET = 5  # m of the mean range of m runs
_RESAMPLES = 1_999
_MANY = 1_000  # values from which BCa's jackknife (n² values) changes nothing that can be seen
_DRAWS = 20_000
_CHUNK = 2**22  # values resampled at once


@lru_cache(maxsize=1024)
def d2(n: int) -> float:
    """Expected range of ``n`` independent standard normal values: ∫ [1 - (1-Φ)^n - Φ^n].

    1.128, 1.693, 2.326 for n = 2, 3, 5 (Tippett, Biometrika 17, 1925, the tables of control charts).

    Raises:
        InvalidInput: ``n`` below 2.
    """
    if n < 2:
        raise InvalidInput(f"n {n!r} is not allowed: a range needs at least 2 values")

    def missed(x: float) -> float:
        return float(1.0 - scipy.special.ndtr(-x) ** n - scipy.special.ndtr(x) ** n)

    half, _ = scipy.integrate.quad(missed, 0.0, 40.0, epsabs=1e-13, epsrel=1e-12, limit=200)
    return float(2 * half)


def adjusted(delta: float, n: int) -> float | None:
    """``delta``, the range of ``n`` values, as a standard deviation: Δ/d2(n); None below two values."""
    return known(delta / d2(n)) if n >= 2 else None


@lru_cache(maxsize=256)
def chance_band(sizes: tuple[int, ...], level: float = 0.95) -> tuple[float, float]:
    """Where the mean of the ranges of independent groups lies, as multiples of its expectation.

    Args:
        sizes: number of normal values in every group, each at least 2.
        level: two-sided.

    Returns:
        Lower and upper factor: 0.36 and 1.81 for one group of five, 0.74 and 1.32 for one of 45.
    """
    tails = ((1 - level) / 2, (1 + level) / 2)
    expected = float(np.mean([d2(n) for n in sizes]))
    if len(sizes) == 1:
        # With the deviation known, the studentized range is the range.
        low, high = scipy.stats.studentized_range.ppf(tails, sizes[0], np.inf)
    else:
        generator = np.random.default_rng(0)
        ranges = [np.ptp(generator.standard_normal((_DRAWS, n)), axis=1) for n in sizes]
        low, high = np.quantile(np.mean(ranges, axis=0), tails)
    return float(low / expected), float(high / expected)


def tolerance_share(n: int, confidence: float = 0.95) -> float:
    """Share of further runs between the lowest and the highest of ``n``, with this confidence.

    Distribution-free and exact for independent runs of a continuous metric: the share β solves
    n β^(n-1) - (n-1) β^n = 1 - confidence (Wilks, Ann. Math. Statist. 12, 1941). 0.343 for 5 runs,
    0.899 for 45.
    """
    if n < 2:
        raise InvalidInput(f"n {n!r} is not allowed: two ends need at least 2 runs")
    # The content of [min, max] is Beta(n - 1, 2).
    return float(scipy.stats.beta.ppf(1 - confidence, n - 1, 2))


def subset_range(values: np.ndarray, m: int) -> float:
    """Mean range of the subsets of ``m`` of the ``(n,)`` values: unbiased for the expected range of m.

    With the values in order, C(i-1, m-1) of the C(n, m) subsets have the i-th as their highest.

    Raises:
        InvalidInput: ``m`` is not from 2 to n.
    """
    n = len(values)
    if not 2 <= m <= n:
        raise InvalidInput(f"m {m!r} is not allowed: from 2 to {n}")
    return float(np.sort(values) @ _range_weights(n, m))


@lru_cache(maxsize=256)
def _range_weights(n: int, m: int) -> np.ndarray:
    high = highest_weights(n, m)
    weights: np.ndarray = high - high[::-1]
    return weights


def highest_weights(n: int, m: int) -> np.ndarray:
    """``(n,)``: the share of the subsets of m of n ordered values that have the i-th as their highest."""
    found: np.ndarray = np.exp(log_choose(np.arange(n), m - 1) - log_choose(np.array(n), m))
    return found


def log_choose(n: np.ndarray, k: int) -> np.ndarray:
    """Log C(n, k), minus infinity where k > n."""
    n = np.asarray(n, dtype=float)
    enough = n >= k
    safe = np.where(enough, n, k)
    value: np.ndarray = scipy.special.gammaln(safe + 1) - scipy.special.gammaln(k + 1)
    return np.where(enough, value - scipy.special.gammaln(safe - k + 1), -np.inf)


def subset_range_interval(values: np.ndarray, m: int, level: float = 0.95) -> Interval | None:
    """A jackknife t interval on the log scale for :func:`subset_range`.

    None where it does not hold its promise: m above n/9, or a range of zero.
    """
    n = len(values)
    if m < 2 or m > n / 9:
        return None
    ordered = np.sort(values)
    whole = subset_range(ordered, m)
    # Without the i-th, those below keep their weight and those above get that of the place before.
    weights = _range_weights(n - 1, m)
    below = np.concatenate(([0.0], np.cumsum(ordered[:-1] * weights)))
    above = np.concatenate((np.cumsum((ordered[1:] * weights)[::-1])[::-1], [0.0]))
    left_out = below + above
    if whole <= 0 or left_out.min() <= 0:
        return None
    logs = np.log(left_out)
    error = math.sqrt((n - 1) / n * float(((logs - logs.mean()) ** 2).sum()))
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(
        low=whole * math.exp(-half),
        high=whole * math.exp(half),
        level=level,
        method="jackknife t on log",
    )


def _span(values: np.ndarray, axis: int = -1) -> np.ndarray:
    low, high = np.percentile(values, (10, 90), axis=axis)
    return np.asarray(high - low)


def span_interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """A BCa bootstrap interval for the span from the 10th to the 90th percentile (Efron, JASA 82, 1987);
    a percentile bootstrap above 1,000 values.

    None below :data:`FULL` values, where it is not known to hold, and where values are so tied that it
    does not exist.
    """
    if len(values) < FULL or not np.ptp(values) > 0:
        return None
    method = "BCa" if len(values) <= _MANY else "percentile"
    with warnings.catch_warnings():
        # Said by its result, NaN: the interval does not exist (leaving out one changes nothing).
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        found = scipy.stats.bootstrap(
            (values,),
            _span,
            confidence_level=level,
            n_resamples=_RESAMPLES,
            method=method,
            vectorized=True,
            batch=max(1, _CHUNK // len(values)),  # or 10,000 runs take gigabytes
            rng=np.random.default_rng(0),
        ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return None
    return Interval(
        low=float(found.low), high=float(found.high), level=level, method=f"{method} bootstrap"
    )


class Spread(Record):
    """How far the distinct runs lie apart, in ways that can be compared with other experiments."""

    n: int
    """Distinct runs with a value, each counted once; diverged ones are left out."""
    delta: float | None
    """Largest minus smallest value of these."""
    adjusted_delta: float | None
    """``delta`` divided by d2(n), the expected range of n standard normal values."""
    p10: float | None
    p90: float | None
    span: float | None
    """p90 - p10: it does not grow with n."""
    span_interval: Interval | None
    """BCa bootstrap (percentile above 1,000 runs); null below 45 runs."""
    subset: int
    """m of ``subset_range``."""
    subset_range: float | None
    """Mean range of m of the n runs."""
    subset_range_interval: Interval | None
    """Null where m is above n/9."""
    tolerance_percent: int | None
    """With 95% confidence, at least this percentage of further runs lies between the lowest and the
    highest value (rounded down)."""
    low: float | None
    high: float | None


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Everything that describes how far ``(n,)`` values lie apart, those that are not finite left out."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    n = len(found)
    if n == 0:
        nothing = dict.fromkeys(
            ("delta", "adjusted_delta", "p10", "p90", "span", "span_interval", "subset_range",
             "subset_range_interval", "tolerance_percent", "low", "high")
        )  # fmt: skip
        return Spread(n=0, subset=SUBSET, **nothing)
    p10, p90 = np.percentile(found, (10, 90))
    delta = float(np.ptp(found)) if n > 1 else math.nan
    return Spread(
        n=n,
        delta=known(delta),
        adjusted_delta=adjusted(delta, n),
        p10=known(p10) if n > 1 else None,
        p90=known(p90) if n > 1 else None,
        span=known(p90 - p10) if n > 1 else None,
        span_interval=span_interval(found),
        subset=SUBSET,
        subset_range=known(subset_range(found, SUBSET)) if n >= SUBSET else None,
        subset_range_interval=subset_range_interval(found, SUBSET),
        tolerance_percent=math.floor(100 * tolerance_share(n)) if n > 1 else None,
        low=known(found.min()),
        high=known(found.max()),
    )
