"""Does a level matter, and do equal seeds share anything? Tests and components of one table.

The default test permutes values over all cells of a table, whatever their column: it is valid where
nothing but the level could matter, and conservative where equal seeds share an effect. Permuting within
columns cannot reach 5% with two levels and five seeds, and choosing between the two by looking at the
values does not keep 5%, so neither is offered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy

from mm_mlflow.statistics.means import centred
from mm_mlflow.statistics.records import Record, SignificanceTest

ALPHA = 0.05
MOST = 200_000  # partitions that are enumerated; more are drawn from
DRAWS = 9_999
_CHUNK = 2**21  # values permuted at once
_TIE = 1e-10  # of the total sum of squares: equal sums differ in their last bits


# ---- partitions ----


def partitions(sizes: Sequence[int]) -> int:
    """Ways to part Σ sizes values into groups of these sizes, those of equal size interchangeable."""
    number = math.factorial(sum(sizes))
    for size in sizes:
        number //= math.factorial(size)
    for size in set(sizes):
        number //= math.factorial(list(sizes).count(size))
    return number


@lru_cache(maxsize=8)
def _groups(sizes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Per group, ``(partitions, size)`` positions; every partition once. ``sizes`` descending."""
    left = sum(sizes)
    rest = np.arange(left)[None, :]
    found: list[np.ndarray] = []
    for i, size in enumerate(sizes):
        alike = (
            size == sizes[-1]
        )  # all that follow are interchangeable: this one has the first left
        fixed = (0,) if alike else ()
        others_of = range(len(fixed), left)
        chosen = np.array(
            [(*fixed, *more) for more in itertools.combinations(others_of, size - len(fixed))],
            dtype=np.intp,
        )
        others = np.array([np.setdiff1d(np.arange(left), row) for row in chosen], dtype=np.intp)
        found = [np.repeat(group, len(chosen), axis=0) for group in found]
        members = rest[:, chosen].reshape(-1, size)
        rest = rest[:, others].reshape(len(members), left - size)
        if i and sizes[i - 1] == size and not alike:
            # Interchangeable: the one with the smaller first value first.
            once = found[-1][:, 0] < members[:, 0]
            found, members, rest = [g[once] for g in found], members[once], rest[once]
        found.append(members)
        left -= size
    return tuple(found)


def needed_runs(levels: int, alpha: float = ALPHA) -> int:
    """The smallest number of runs per level with which :func:`axis_test` can reach ``alpha``: 4 for two
    levels at 5%."""
    # Whole numbers: there may be more partitions than floats reach.
    wanted = math.ceil(1 / alpha - 1e-9)
    return next(n for n in itertools.count(2) if partitions([n] * levels) >= wanted)


# ---- levels ----


def _finite(rows: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """The finite values of every row that has any."""
    found = [np.asarray(row, dtype=float) for row in rows]
    return [row[np.isfinite(row)] for row in found if np.isfinite(row).any()]


def _complete(values: np.ndarray) -> np.ndarray:
    """The columns that all rows have, rows without any value apart."""
    there = np.isfinite(values)
    used = there.any(axis=1)
    return np.asarray(values[used][:, there[used].all(axis=0)])


def _between(groups: Sequence[np.ndarray]) -> float:
    """Sum of squares between groups of values whose overall mean is 0."""
    return math.fsum(float(group.sum()) ** 2 / len(group) for group in groups)


def axis_test(groups: Sequence[np.ndarray], *, alpha: float = ALPHA) -> SignificanceTest:
    """Exact unrestricted permutation test of "the level makes no difference" (Fisher; one-way F).

    All partitions of the values into groups of these sizes are enumerated up to :data:`MOST`; beyond,
    :data:`DRAWS` are drawn from a fixed generator, and p is (1 + count) / (draws + 1).

    Args:
        groups: per level, ``(n_l,)`` values; those that are not finite are left out.
        alpha: the level that ``needs`` is about.
    """
    name = "unrestricted permutation of the values over the table (one-way F)"
    groups = _finite(groups)
    sizes = [len(group) for group in groups]
    if len(groups) < 2:
        return _undefined(name, "a difference between levels needs two levels with runs")
    number = partitions(sizes)
    draws = None if number <= MOST else DRAWS
    smallest = 1 / number if draws is None else max(1 / number, 1 / (draws + 1))
    needs = needed_runs(len(groups), alpha) if smallest > alpha else None
    if max(sizes) < 2:
        return _undefined(name, "one run per level says nothing about chance", smallest, needs)
    values = centred(np.concatenate(groups))
    total = float(values @ values)
    if not total > 0:
        return _undefined(name, "all values are equal", smallest, needs)
    ends = np.cumsum(sizes)[:-1]
    found = _between(np.split(values, ends))
    limit = found - _TIE * total
    if draws is None:
        sums = [
            values[group].sum(axis=1) ** 2 / group.shape[1]
            for group in _groups(tuple(sorted(sizes, reverse=True)))
        ]
        each = np.sum(sums, axis=0)
        p = float(np.mean(each >= limit))
        # Of tied values, several partitions are the clearest.
        smallest = float(np.mean(each >= each.max() - _TIE * total))
    else:
        p = (1 + _exceeding(values, ends, limit)) / (draws + 1)
    return SignificanceTest(
        name=name,
        statistic=_f(found, total, len(groups), len(values)),
        p=p,
        smallest_p=smallest,
        draws=draws,
        needs=needs,
    )


def _exceeding(values: np.ndarray, ends: np.ndarray, limit: float) -> int:
    """How many of :data:`DRAWS` random permutations have at least this sum of squares."""
    generator = np.random.default_rng(0)
    rows = max(1, _CHUNK // len(values))
    count = 0
    for start in range(0, DRAWS, rows):
        number = min(rows, DRAWS - start)
        drawn = generator.permuted(np.tile(values, (number, 1)), axis=1)
        parts = np.split(drawn, ends, axis=1)
        sums = [part.sum(axis=1) ** 2 / part.shape[1] for part in parts]
        count += int((np.sum(sums, axis=0) >= limit).sum())
    return count


def _f(between: float, total: float, levels: int, n: int) -> float | None:
    within = (total - between) / (n - levels) if n > levels else 0.0
    return between / (levels - 1) / within if within > _TIE * total else None


def _undefined(
    name: str, reason: str, smallest: float | None = None, needs: int | None = None
) -> SignificanceTest:
    return SignificanceTest(
        name=name, statistic=None, p=None, smallest_p=smallest, needs=needs, reason=reason
    )


def two_way_test(values: np.ndarray) -> SignificanceTest:
    """F test of the levels with seeds as blocks: only where the seed was *declared* shared beforehand.

    Deciding by looking at the values does not keep 5% (5.7 to 7.1%).

    Args:
        values: ``(levels, seeds)``; columns with a hole (NaN) are left out, and levels without runs.
    """
    name = "two-way F, seeds as blocks (declared as shared by the design)"
    whole = _complete(np.asarray(values, dtype=float))
    levels, seeds = whole.shape
    if levels < 2 or seeds < 2:
        return _undefined(name, "it needs two levels and two seeds that all levels have")
    table = _two_way(whole)
    if not table.residual > _TIE * float((centred(whole.ravel()) ** 2).sum()):
        return _undefined(name, "nothing varies but the levels and the seeds")
    statistic = table.levels / table.residual
    p = float(scipy.stats.f.sf(statistic, levels - 1, (levels - 1) * (seeds - 1)))
    return SignificanceTest(name=name, statistic=statistic, p=p)


class _MeanSquares(Record):
    levels: float
    seeds: float
    residual: float


def _two_way(whole: np.ndarray) -> _MeanSquares:
    """Mean squares of a complete ``(levels, seeds)`` table, both at least 2."""
    levels, seeds = whole.shape
    left = centred(whole.ravel()).reshape(whole.shape)
    rows, columns = left.mean(axis=1, keepdims=True), left.mean(axis=0, keepdims=True)
    rest = left - rows - columns
    return _MeanSquares(
        levels=float(seeds * (rows**2).sum() / (levels - 1)),
        seeds=float(levels * (columns**2).sum() / (seeds - 1)),
        residual=float((rest**2).sum() / ((levels - 1) * (seeds - 1))),
    )


# ---- seeds ----


def shared_seed_test(values: np.ndarray, *, alpha: float = ALPHA) -> SignificanceTest:
    """Permutation within rows of "equal seeds share nothing", over the distinct runs.

    Args:
        values: ``(configurations, seeds)``, each run once, NaN where there is none: holes stay.
        alpha: the level that ``needs`` is about.
    """
    name = "permutation within configurations (equal seeds share nothing)"
    rows = [row for row in np.asarray(values, dtype=float) if np.isfinite(row).sum() > 1]
    if len(rows) < 2:
        return _undefined(name, "it needs two configurations with two runs each")
    filled = np.isfinite(np.array(rows))
    left = np.zeros(filled.shape)
    for row, there, found_in_row in zip(left, filled, rows, strict=True):
        row[there] = centred(found_in_row[there])
    counts = np.maximum(filled.sum(axis=0), 1)
    smallest = max(1 / _arrangements(filled), 1 / (DRAWS + 1))
    needs = None
    if smallest > alpha:
        runs, wanted = int(filled.sum(axis=1).min()), math.ceil(1 / alpha - 1e-9)
        needs = next(k for k in itertools.count(2) if math.factorial(runs) ** (k - 1) >= wanted)
    total = float((left**2).sum())
    if not total > 0:
        return _undefined(name, "all runs of a configuration have equal values", smallest, needs)

    def statistic(sums: np.ndarray) -> np.ndarray:
        return np.asarray((sums**2 / counts).sum(axis=-1))

    found = float(statistic(left.sum(axis=0)))
    generator = np.random.default_rng(0)
    sums = np.zeros((DRAWS, left.shape[1]))
    for row, there in zip(left, filled, strict=True):
        places = np.flatnonzero(there)
        drawn = generator.permuted(np.tile(row[places], (DRAWS, 1)), axis=1)
        sums[:, places] += drawn
    count = int((statistic(sums) >= found - _TIE * total).sum())
    return SignificanceTest(
        name=name,
        statistic=found / total,
        # Draws may fall below what all arrangements together could give.
        p=max((1 + count) / (DRAWS + 1), smallest),
        smallest_p=smallest,
        draws=DRAWS,
        needs=needs,
    )


def _arrangements(filled: np.ndarray) -> int:
    """How many different statistics permuting within rows can give, whatever the values.

    Two arrangements agree where seeds with the same rows are relabelled in all of these at once; where
    rows have two values each, also where all are swapped: that changes the sign of every sum.

    Args:
        filled: ``(rows, seeds)``, at least two in every row.
    """
    ways = math.prod(math.factorial(int(row.sum())) for row in filled)
    for rows in _linked(filled):
        part = filled[rows][:, filled[rows].any(axis=0)]
        _, alike = np.unique(part, axis=1, return_counts=True)
        same = math.prod(math.factorial(int(number)) for number in alike)
        ways //= max(same, 2) if (part.sum(axis=1) == 2).all() else same
    return ways


def _linked(filled: np.ndarray) -> list[list[int]]:
    """Rows that share a seed, directly or by way of others."""
    found: list[list[int]] = []
    for row in range(len(filled)):
        touching = [part for part in found if (filled[part].any(axis=0) & filled[row]).any()]
        found = [part for part in found if part not in touching]
        found.append([*(i for part in touching for i in part), row])
    return found


# ---- components ----


class Components(Record):
    """Where the variance of a table comes from: unbiased, and so possibly negative."""

    between_levels: float | None
    """Variance between levels. With holes it is low where equal seeds share something: by that variance
    over the number of seeds."""
    run_to_run: float | None
    """All that varies within a level: what the rows of the paper's sheets show."""
    shared_by_seed: float | None
    """Of ``run_to_run``, what runs of equal seeds share across levels; null without complete columns."""
    not_shared: float | None
    """Of ``run_to_run``, the rest: chance that no seed repeats across levels."""
    omega_squared: float | None
    """ω², the share of the variance that levels explain (Hays 1963); may be negative."""


def components(values: np.ndarray, *, paired: bool = True) -> Components:
    """Variance components of a ``(levels, seeds)`` table, NaN where there is no value.

    ``paired`` says whether the runs of a column have a seed in common.
    """
    values = np.asarray(values, dtype=float)
    groups = _finite(values)
    n, levels = sum(map(len, groups)), len(groups)
    if n <= levels:
        return Components(
            between_levels=None,
            run_to_run=None,
            shared_by_seed=None,
            not_shared=None,
            omega_squared=None,
        )
    left = np.split(centred(np.concatenate(groups)), np.cumsum([len(g) for g in groups])[:-1])
    within = math.fsum(float((centred(g) ** 2).sum()) for g in groups) / (n - levels)
    between = omega = None
    if levels > 1:
        squares = _between(left)
        size = (n - sum(len(g) ** 2 for g in groups) / n) / (levels - 1)
        between = (squares / (levels - 1) - within) / size
        total = squares + within * (n - levels) + within
        omega = (squares - (levels - 1) * within) / total if total > 0 else None
    shared = not_shared = None
    whole = _complete(values)
    if paired and whole.shape[0] > 1 and whole.shape[1] > 1:
        squares_of = _two_way(whole)
        shared = (squares_of.seeds - squares_of.residual) / whole.shape[0]
        not_shared = squares_of.residual
        if whole.size == n:
            # What equal seeds share moves all levels alike: it is no part of the levels' own scatter.
            between = (squares_of.levels - squares_of.residual) / whole.shape[1]
    return Components(
        between_levels=between,
        run_to_run=within,
        shared_by_seed=shared,
        not_shared=not_shared,
        omega_squared=omega,
    )
