"""The sampling floor: how far runs lie apart if they differ by independent flips of single examples.

Every run answers the same N examples. C_mi is run m's outcome on example i, A_m the mean of its
outcomes. If outcomes varied from run to run example by example, each by itself, the variance of A_m
would be N⁻² Σ_i Var_m(C_mi), and a range of M runs d2(M) times its root on average. Variances are taken
within configurations: between them, examples are not equally hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy

from mm_mlflow.statistics.means import Pooled
from mm_mlflow.statistics.means import pooled as pooled_within
from mm_mlflow.statistics.means import variance as variance_of
from mm_mlflow.statistics.ranges import chance_band, d2
from mm_mlflow.statistics.records import Interval, Record, SignificanceTest, Source, known

FEW_FLIPS = 5.0  # Σ_i Var_i below which d2's formula is off by more than 5%
FEW_EXAMPLES = 250
DRAWS = 999
_CHUNK = 2**22
_VALUES = 2**25  # outcomes drawn for a range of all runs, at most (but for a fifth of the draws)
_TIE = 1e-5  # equal Q differ by this much where sums of probabilities are taken in float32


class ChanceRange(Record):
    """What the floor gives for a range, or for the mean of several."""

    sizes: tuple[int, ...]
    """Numbers of runs: one for a single range; several where it is the mean of their ranges."""
    observed: float | None
    expected: float
    low: float
    """2.5% of what chance alone gives lies below."""
    high: float
    """2.5% of what chance alone gives lies above."""


class Floor(Record):
    """The sampling floor of a metric."""

    source: Source
    """``predictions``: from per-example outcomes. ``binomial``: sqrt(p (1 - p) / n) of the mean value p,
    an *upper guide*, as if every run had been tested on examples of its own."""
    method: str
    """``formula`` or ``permutation`` (few flips or few examples, where the formula is off)."""
    n_examples: int
    units: int
    """Examples that are not copies of one another; copies flip together and count as one unit."""
    probabilities: bool = False
    """Outcomes are probabilities, which do not flip but vary, each by itself."""
    flips: float | None
    """Σ_i Var_m(C_mi), pooled within configurations; null for the binomial guide."""
    run_sd: float
    """Standard deviation of one run's value by flips alone."""
    all_runs: ChanceRange | None
    """Δ over all runs."""
    run_to_run: ChanceRange | None
    """The mean of the configurations' Δ over their runs."""
    single: tuple[ChanceRange, ...]
    """A single Δ over so many runs, for every number that a row or a column of the tables has."""
    variance: float | None
    """Plain variance within configurations, pooled (of all healthy runs with predictions)."""
    distribution_wise_variance: float | None
    """N/(N-1) [variance - floor]: what would remain with a test set without end; unbiased and signed.
    Negative: not above the floor. With copies, N²/(N² - Σ c²), c the number of copies of each."""
    distribution_wise_sd: float | None
    """Its root; null where it is negative."""
    distribution_wise_interval: Interval | None
    """Of that variance, clipped at 0; null for the binomial guide, and where flips are so few that p is by
    permutation: chi-square does not hold there."""
    delta_above_floor: float | None
    """sqrt(max(0, Δ² - expected²)) for all runs: the Δ that flips alone do not account for."""
    test: SignificanceTest
    """More than the floor?"""


@dataclass(frozen=True, eq=False)
class _Group:
    """Runs of one configuration: ``(n, units)`` sums of outcomes over the copies of a unit."""

    values: np.ndarray

    @property
    def n(self) -> int:
        return len(self.values)

    @cached_property
    def moving(self) -> np.ndarray:
        """``(n, moving units)``: the columns that differ between runs."""
        return self.values[:, np.ptp(self.values, axis=0) > 0]

    @cached_property
    def flips(self) -> float:
        """Σ over units of the variance (ddof 1) over runs."""
        return float(self.moving.var(axis=0, ddof=1).sum())


def sampling_floor(
    outcomes: np.ndarray,
    groups: Sequence[np.ndarray],
    *,
    copies: np.ndarray | None = None,
    observed: np.ndarray | None = None,
    single: Sequence[int] = (),
    within: Pooled | None = None,
) -> Floor | None:
    """The floor of a metric that is the mean of ``outcomes``; None where no configuration has two runs.

    Args:
        outcomes: ``(M, N)`` in [0, 1].
        groups: per configuration, positions of its runs among the M.
        copies: ``(N,)`` numbers: examples of one number are copies of one another.
        observed: ``(M,)`` logged values; the means of the outcomes by default.
        single: numbers of runs for which a single range's floor is wanted, each at least 2.
        within: the variance within configurations, where more is known of it than ``groups`` tell.
    """
    examples = outcomes.shape[1]
    useful = [np.asarray(group) for group in groups if len(group) > 1]
    if not useful or examples < 2:
        return None
    values = outcomes.mean(axis=1) if observed is None else observed
    units = _collapse(outcomes, copies)
    parts = [_Group(units[group]) for group in useful]
    freedom = np.array([part.n - 1 for part in parts])
    flips = float(freedom @ [part.flips for part in parts] / freedom.sum())
    within = pooled_within([values[group] for group in useful]) if within is None else within
    variance = within.variance
    run_sd = math.sqrt(flips) / examples
    n = units.shape[1]
    excess = (variance - run_sd**2) / _pairs(examples, copies) if n > 1 else math.nan
    alone = flips if copies is None else _independent_flips(parts, copies)
    few = alone < FEW_FLIPS or n < FEW_EXAMPLES
    binary = n == examples and bool(np.isin(units, (0.0, 1.0)).all())
    permuted = _permuted(parts, examples) if (few or not binary) and flips > 0 else None
    return Floor(
        source="predictions",
        method="permutation" if few else "formula",
        n_examples=examples,
        units=n,
        probabilities=not bool(np.isin(outcomes, (0.0, 1.0)).all()),
        flips=flips,
        run_sd=run_sd,
        variance=variance,
        distribution_wise_variance=known(excess),
        distribution_wise_sd=math.sqrt(excess) if excess >= 0 else None,
        distribution_wise_interval=None
        if n < FEW_EXAMPLES or (few and binary)
        else _excess_interval(within, run_sd**2),
        test=_test(parts, useful, values, examples, permuted),
        **_chance_ranges(
            values,
            useful,
            [math.sqrt(part.flips) / examples for part in parts],
            run_sd,
            (permuted, parts, examples) if few and permuted else None,
            single,
        ),
    )


def _chance_ranges(
    values: np.ndarray,
    groups: Sequence[np.ndarray],
    deviations: Sequence[float],
    pooled: float,
    drawn: tuple[Sequence[np.ndarray], Sequence[_Group], int] | None,
    single: Sequence[int],
) -> dict[str, Any]:
    """What the floor gives for the ranges of a sheet: by draws where there are any, else by d2.

    Args:
        values: ``(M,)`` of all runs.
        groups: per configuration of two runs or more, positions of its runs.
        deviations: per such configuration, the deviation of a run by flips alone.
        pooled: the same over all configurations.
        drawn: per such configuration, ``(draws, n)`` values after permutation; the configurations; the
            number of examples.
        single: as of :func:`sampling_floor`.
    """
    number = len(values)
    delta = float(np.ptp(values)) if number > 1 else None
    sizes = tuple(len(group) for group in groups)
    whole = None
    if drawn:
        permuted, parts, examples = drawn
        # The permutations of one configuration of all runs are its independent runs already.
        whole = permuted[0] if sizes == (number,) else _independent(parts, number, examples)

    def one(n: int, found: float | None = None) -> ChanceRange:
        if whole is None:
            return _by_formula(found, (n,), pooled * d2(n))
        apart = whole[:, : number // n * n].reshape(-1, n)
        return _drawn(found, (n,), np.ptp(apart, axis=1))

    all_runs = one(number, delta) if number > 1 else None
    run_to_run = None
    if sizes:
        mean = float(np.mean([float(np.ptp(values[group])) for group in groups]))
        if drawn:
            ranges = [np.ptp(values_by_chance, axis=1) for values_by_chance in drawn[0]]
            run_to_run = _drawn(mean, sizes, np.mean(ranges, axis=0))
        else:
            each = [d2(n) * sd for n, sd in zip(sizes, deviations, strict=True)]
            run_to_run = _by_formula(mean, sizes, float(np.mean(each)))
    above = None
    if all_runs is not None and delta is not None:
        above = math.sqrt(max(0.0, delta**2 - all_runs.expected**2))
    return {
        "all_runs": all_runs,
        "run_to_run": run_to_run,
        "single": tuple(one(n) for n in sorted(set(single)) if n <= number),
        "delta_above_floor": above,
    }


def binomial_guide(
    values: np.ndarray,
    groups: Sequence[np.ndarray],
    n_examples: int,
    single: Sequence[int] = (),
) -> Floor | None:
    """An upper guide from the number of test examples alone, where there are no predictions.

    Runs that are tested on the same examples agree on most of them, so flips are fewer than n draws of
    a coin would give. No test is made with it.

    Args:
        values: ``(M,)`` means over ``n_examples`` examples, in [0, 1].
        groups: per configuration, positions of its runs among the M.
        n_examples: at least 1.
        single: as of :func:`sampling_floor`.
    """
    if not len(values) or values.min() < 0 or values.max() > 1:
        return None
    mean = float(values.mean())
    run_sd = math.sqrt(mean * (1 - mean) / n_examples)
    useful = [np.asarray(group) for group in groups if len(group) > 1]
    ranges = _chance_ranges(values, useful, [run_sd] * len(useful), run_sd, None, single)
    return Floor(
        source="binomial",
        method="formula",
        n_examples=n_examples,
        units=n_examples,
        flips=None,
        run_sd=run_sd,
        variance=None,
        distribution_wise_variance=None,
        distribution_wise_sd=None,
        distribution_wise_interval=None,
        test=SignificanceTest(
            name=_NAME,
            statistic=None,
            p=None,
            reason="there are no predictions: the binomial guide is an upper guide, and no test",
        ),
        **{**ranges, "delta_above_floor": None},
    )


_NAME = "Cochran's Q within configurations"
_PERMUTED = "permutation of every example's outcomes within configurations"


def cochran_q(outcomes: np.ndarray) -> tuple[float, int]:
    """Cochran's Q of ``(M, N)`` outcomes of one configuration, and its degrees of freedom.

    (M-1) Var_m(A_m) / [N⁻² Σ_i Var_m(C_mi)]: chi-square with M-1 degrees of freedom where runs differ
    by independent flips alone (Cochran, Biometrika 37, 1950). 0 and no freedom where nothing flips.
    """
    number, examples = outcomes.shape
    flips = _Group(outcomes).flips / examples**2 if number > 1 else 0.0
    if not flips > 0:
        return 0.0, 0
    return (number - 1) * variance_of(outcomes.mean(axis=1)) / flips, number - 1


def _test(
    parts: Sequence[_Group],
    groups: Sequence[np.ndarray],
    values: np.ndarray,
    examples: int,
    permuted: Sequence[np.ndarray] | None,
) -> SignificanceTest:
    floors = [part.flips / examples**2 for part in parts]
    live = [i for i, floor in enumerate(floors) if floor > 0]
    if not live:
        return SignificanceTest(
            name=_NAME, statistic=None, p=None, reason="no example's outcome varies between runs"
        )
    freedom = sum(parts[i].n - 1 for i in live)
    q = math.fsum((parts[i].n - 1) * variance_of(values[groups[i]]) / floors[i] for i in live)
    if permuted is None:
        return SignificanceTest(name=_NAME, statistic=q, p=float(scipy.stats.chi2.sf(q, freedom)))
    drawn = np.sum(
        [(parts[i].n - 1) * permuted[i].var(axis=1, ddof=1) / floors[i] for i in live], axis=0
    )
    count = int((drawn >= q * (1 - _TIE)).sum())
    # The largest Q that these flips could give: all on the same runs.
    most = math.fsum((parts[i].n - 1) * _aligned(parts[i], examples) / floors[i] for i in live)
    clearest = int((drawn >= most * (1 - _TIE)).sum())
    return SignificanceTest(
        name=_PERMUTED,
        statistic=q,
        p=(1 + count) / (DRAWS + 1),
        smallest_p=(1 + clearest) / (DRAWS + 1),
        draws=DRAWS,
    )


def _aligned(part: _Group, examples: int) -> float:
    """Variance over runs if every example were answered best by the same run, and so on."""
    return variance_of(np.sort(part.values, axis=0).sum(axis=1) / examples)


def _collapse(outcomes: np.ndarray, copies: np.ndarray | None) -> np.ndarray:
    """``(M, units)``: outcomes summed over copies."""
    if copies is None:
        return outcomes
    _, unit = np.unique(copies, return_inverse=True)
    number = int(unit.max()) + 1 if len(unit) else 0
    if number == outcomes.shape[1]:
        return outcomes
    summed = np.zeros((len(outcomes), number))
    for row, total in zip(outcomes, summed, strict=True):
        np.add.at(total, unit, row)
    return summed


def _independent_flips(parts: Sequence[_Group], copies: np.ndarray) -> float:
    """Flips, pooled within configurations, where those of copies count as one: (Σ v)² / Σ v w² for units
    of variance v and w copies."""
    freedom = np.array([part.n - 1 for part in parts])
    each = [part.values.var(axis=0, ddof=1) for part in parts]
    variance = np.tensordot(freedom / freedom.sum(), each, axes=1)
    if not variance.any():
        return 0.0
    _, counts = np.unique(copies, return_counts=True)
    return float(variance.sum() ** 2 / (variance @ counts.astype(float) ** 2))


def _pairs(examples: int, copies: np.ndarray | None) -> float:
    """Share of the N² pairs of examples that are not copies of one another: (N-1)/N without copies."""
    if copies is None:
        return 1 - 1 / examples
    _, counts = np.unique(copies, return_counts=True)
    return 1 - float((counts**2).sum()) / examples**2


def _permuted(parts: Sequence[_Group], examples: int) -> list[np.ndarray]:
    """Per configuration, ``(DRAWS, n)`` run values after every example's outcomes have been permuted.

    Each column is turned by a random number of places: under the null hypothesis its outcomes are
    exchangeable, so they are under this subgroup too, and turning is one matrix product per place.
    """
    generator = np.random.default_rng(0)
    found = []
    for part in parts:
        moving, columns = part.moving, part.moving.shape[1]
        # By how much a column that is turned by some places differs from one that is not. float32 holds
        # counts of examples exactly, and sums of probabilities to six digits.
        moved = [
            (np.roll(moving, places, axis=0) - moving).T.astype(np.float32)
            for places in range(1, part.n)
        ]
        sums = np.tile(part.values.sum(axis=1), (DRAWS, 1))
        small = np.uint8 if part.n <= 256 else np.uint32
        rows = max(1, _CHUNK // max(1, columns))
        for start in range(0, DRAWS, rows):
            chunk = sums[start : start + rows]
            places = generator.integers(0, part.n, (len(chunk), columns), dtype=small)
            for place, difference in enumerate(moved, start=1):
                chunk += (places == place).astype(np.float32) @ difference
        found.append(sums / examples)
    return found


def _by_formula(observed: float | None, sizes: tuple[int, ...], expected: float) -> ChanceRange:
    low, high = (expected * factor for factor in chance_band(sizes))
    return ChanceRange(sizes=sizes, observed=observed, expected=expected, low=low, high=high)


def _drawn(observed: float | None, sizes: tuple[int, ...], ranges: np.ndarray) -> ChanceRange:
    low, high = map(float, np.quantile(ranges, (0.025, 0.975)))
    expected = float(ranges.mean())
    return ChanceRange(sizes=sizes, observed=observed, expected=expected, low=low, high=high)


def _independent(parts: Sequence[_Group], runs: int, examples: int) -> np.ndarray:
    """``(draws, runs)`` values of independent runs of one mean that differ by flips alone.

    A run's outcome on an example is drawn from that example's outcomes in one configuration. Every draw
    takes a new sample of the examples of all configurations, example k of n runs with weight
    n / Σ (n - 1): the variance of a run is then the pooled one (ddof 1) on average, and whole examples
    flip. The sample is systematic along the order of variances, so that draws hardly differ in it.
    """
    generator = np.random.default_rng(1)
    freedom = sum(part.n - 1 for part in parts)
    moving = [part.moving.T for part in parts]
    order = np.argsort(np.concatenate([column.var(axis=1, ddof=1) for column in moving]))
    size = np.concatenate([np.full(len(column), column.shape[1]) for column in moving])
    start = (np.cumsum(size) - size)[order]
    pool, size = np.concatenate([column.ravel() for column in moving]), size[order]
    weight = np.cumsum(size / freedom)
    draws = int(np.clip(_VALUES // (runs * weight[-1]), DRAWS // 5, DRAWS))
    found = np.empty((draws, runs))
    steps = np.arange(math.ceil(weight[-1]))
    rows = max(1, _CHUNK // (runs * len(steps)))
    for first in range(0, draws, rows):
        chunk = found[first : first + rows]
        places = generator.random((len(chunk), 1)) + steps
        there = places < weight[-1]
        taken = np.searchsorted(weight, np.where(there, places, 0.0), side="right")
        uniform = generator.random((len(chunk), runs, len(steps)), dtype=np.float32)
        entry = (uniform * size[taken].astype(np.float32)[:, None]).astype(np.int64)
        chunk[:] = np.einsum("dmk,dk->dm", pool[start[taken][:, None] + entry], there)
    return found / examples


def _excess_interval(found: Pooled, floor: float, level: float = 0.95) -> Interval | None:
    """Interval for the variance above ``floor``, a variance too; None where nothing varies."""
    if not found.variance > 0:
        return None
    tail = (1 - level) / 2
    return Interval(
        low=max(0.0, found.lower(tail) - floor),
        high=max(0.0, found.upper(tail) - floor),
        level=level,
        method="limits of the variance less the floor, clipped at 0",
    )
