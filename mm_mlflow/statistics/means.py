"""Means of configurations and the spread within them, with intervals that hold at five seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from mm_mlflow.statistics.records import Interval, Record, known


def centred(values: np.ndarray) -> np.ndarray:
    """``values`` less their mean along the last axis: exactly 0 where all are equal.

    The mean of equal floats may differ from them in its last bit (0.1 three times), and what is then
    left would be taken for a spread.
    """
    equal = np.ptp(values, axis=-1, keepdims=True) == 0
    return np.where(equal, 0.0, values - values.mean(axis=-1, keepdims=True))


def variance(values: np.ndarray) -> float:
    """Variance (ddof 1) of ``(n,)`` values, n at least 2: exactly 0 where all are equal."""
    left = centred(values)
    return float(left @ left) / (len(left) - 1)


def t_interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """Student's t interval for the mean of ``(n,)`` finite values, with their own deviation.

    None below two values, and where all are equal: they tell nothing about how far others may lie.
    """
    n = len(values)
    if n < 2 or not np.ptp(values) > 0:
        return None
    mean, error = float(np.mean(values)), math.sqrt(variance(values) / n)
    half = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(low=mean - half, high=mean + half, level=level, method="t")


def pooled_variance(groups: Sequence[np.ndarray]) -> tuple[float, int]:
    """Variance within groups (ddof 1 in each), weighted by degrees of freedom, and those.

    Args:
        groups: ``(n_k,)`` finite values each; those below two values say nothing.

    Returns:
        The variance, NaN without any degree of freedom, and the degrees of freedom Σ (n_k - 1).
    """
    useful = [np.asarray(group, dtype=float) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in useful)
    if not freedom:
        return math.nan, 0
    squares = math.fsum((len(group) - 1) * variance(group) for group in useful)
    return squares / freedom, freedom


@dataclass(frozen=True)
class Pooled:
    """A variance within configurations as a sum of mean squares, which are independent.

    Attributes:
        terms: each mean square times its weight, with its degrees of freedom.
    """

    terms: tuple[tuple[float, int], ...]

    @property
    def variance(self) -> float:
        """Their sum; NaN without any."""
        return math.fsum(term for term, _ in self.terms) if self.terms else math.nan

    @property
    def freedom(self) -> int:
        """Degrees of freedom of all."""
        return sum(freedom for _, freedom in self.terms)

    def upper(self, tail: float) -> float:
        """Upper confidence limit of the variance, exceeded with probability ``tail`` (normal values).

        Graybill and Wang, J. Am. Stat. Assoc. 75 (1980): the sum plus the root of the sum of squares of
        what each term's own chi-square limit adds. One term: the chi-square limit itself.
        """
        more = [term * (f / float(scipy.stats.chi2.ppf(tail, f)) - 1) for term, f in self.terms]
        return self.variance + math.hypot(*more)

    def lower(self, tail: float) -> float:
        """The lower limit likewise, at least 0."""
        less = [term * (1 - f / float(scipy.stats.chi2.ppf(1 - tail, f))) for term, f in self.terms]
        return max(0.0, self.variance - math.hypot(*less))


def pooled(groups: Sequence[np.ndarray], by_seed: np.ndarray | None = None) -> Pooled:
    """The variance within groups, ready for limits that hold though equal seeds may share something.

    With chi-square and all degrees of freedom a 95% interval covers 76% where seeds share as much as they
    do not: five seeds say little about what seeds do. Two mean squares, of seeds and of the rest, keep
    95% (``docs/statistics.md``), and cost 8% of the width where seeds share nothing.

    Args:
        groups: per configuration, ``(n_k,)`` finite values.
        by_seed: ``(configurations, seeds)`` of the same values, where columns are seeds; taken only if
            every configuration has every seed.
    """
    whole = by_seed is not None and min(by_seed.shape) > 1 and bool(np.isfinite(by_seed).all())
    if by_seed is None or not whole:
        variance_within, freedom = pooled_variance(groups)
        return Pooled(((variance_within, freedom),) if freedom else ())
    rows, seeds = by_seed.shape
    left = centred(by_seed)
    shared = left.mean(axis=0)
    of_seeds = rows * float(shared @ shared) / (seeds - 1)
    of_rest = float(((left - shared) ** 2).sum()) / ((rows - 1) * (seeds - 1))
    return Pooled(
        ((of_seeds / rows, seeds - 1), (of_rest * (rows - 1) / rows, (rows - 1) * (seeds - 1)))
    )


def sd_interval(found: Pooled, level: float = 0.95) -> Interval | None:
    """Interval for a standard deviation (normal values).

    None where the deviation is zero or unknown.
    """
    if not found.variance > 0:
        return None
    tail = (1 - level) / 2
    return Interval(
        low=math.sqrt(found.lower(tail)),
        high=math.sqrt(found.upper(tail)),
        level=level,
        method="chi-square" if len(found.terms) == 1 else "Graybill-Wang, seeds and the rest",
    )


class Configuration(Record):
    """One configuration: the mean of its runs."""

    name: str
    n: int
    """Runs with a value."""
    mean: float
    sd: float | None
    """ddof 1."""
    interval: Interval | None
    """t interval of the mean with the configuration's own sd; null ("no interval") where all values are
    equal or there is one."""


def configuration(name: str, values: np.ndarray, *, interval: bool = True) -> Configuration:
    """What the ``(n,)`` finite values of one configuration say, n at least 1; without ``interval`` where
    runs were chosen by their values."""
    return Configuration(
        name=name,
        n=len(values),
        mean=float(np.mean(values)),
        sd=known(math.sqrt(variance(values))) if len(values) > 1 else None,
        interval=t_interval(values) if interval else None,
    )
