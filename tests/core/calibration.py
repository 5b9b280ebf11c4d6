"""Simulated sheets: what each procedure keeps of its promise (docs/statistics.md has the table).

One function per acceptance criterion takes a number of sheets and gives rows of target and measured value.
`test_calibration.py` runs them small, `tests/benchmarks/test_full_calibration.py` at full size. They call the
functions of `mm_mlflow.statistics` on every sheet; where that takes too long, a copy that treats many
sheets at once is used, and `test_calibration.py` asserts that it equals the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from mm_mlflow.statistics import axis, floor, means, multiple, planning, ranges
from mm_mlflow.statistics.records import Interval

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NINE = [np.arange(5) + 5 * i for i in range(9)]  # nine configurations of five runs
ONE = {number: [np.arange(number)] for number in (5, 15, 45)}
TABLES = [
    (0, 1, 2),
    (0, 3, 4),
    (0, 5, 6),
    (0, 7),
    (0, 8),
]  # rows of five axes that share the default's


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured quantity.

    Attributes:
        low, high: the target.
        expected: what STATISTICS' simulation or theory gives, where the target is not the best guess.
        sheets: R.
        error: Monte-Carlo standard error of ``measured``.
        rate: whether the numbers are rates, printed in percent.
    """

    criterion: int
    quantity: str
    measured: float
    sheets: int
    error: float
    low: float = -math.inf
    high: float = math.inf
    expected: float | None = None
    rate: bool = True

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.low <= self.measured <= self.high

    @property
    def plausible(self) -> bool:
        """Whether it lies within 4 standard errors of what is expected: for few sheets."""
        low = high = self.expected
        if low is None or high is None:
            low, high = self.low, self.high
        above = self.measured >= low - 4 * self.error or not math.isfinite(self.low)
        return above and (self.measured <= high + 4 * self.error or not math.isfinite(self.high))

    def __str__(self) -> str:
        scale = 100 if self.rate else 1
        low, high, measured = (
            f"{scale * value:.1f}" if self.rate else f"{value:.4g}"
            for value in (self.low, self.high, self.measured)
        )
        if not math.isfinite(self.low):
            target = f"≤ {high}"
        elif not math.isfinite(self.high):
            target = f"≥ {low}"
        else:
            target = low if low == high else f"{low} to {high}"
        error = f"{scale * self.error:.{2 if self.rate else 4}f}" if self.error else "exact"
        percent = " (%)" if self.rate else ""
        cells = (
            self.criterion,
            self.quantity + percent,
            target,
            measured,
            self.sheets or "",
            error,
        )
        return "| " + " | ".join(map(str, cells)) + " |"


def rate(
    criterion: int,
    quantity: str,
    hits: Sequence[bool] | np.ndarray,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    expected: float | None = None,
) -> Row:
    """A share of sheets; its error is never 0 (two more of each kind are counted)."""
    number = len(hits)
    share = float(np.mean(hits))
    safe = (share * number + 2) / (number + 4)
    return Row(
        criterion=criterion,
        quantity=quantity,
        measured=share,
        sheets=number,
        error=math.sqrt(safe * (1 - safe) / number),
        low=low,
        high=high,
        expected=expected,
    )


def exact(criterion: int, quantity: str, measured: float, low: float, high: float) -> Row:
    """A number without chance."""
    return Row(
        criterion=criterion,
        quantity=quantity,
        measured=measured,
        sheets=0,
        error=0.0,
        low=low,
        high=high,
        rate=False,
    )


# ---- distributions: deviation 1 but for t and collapsed ----


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape)


def gamma(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Skewed to the left, as accuracies are: skewness -1.4; mean 0."""
    return (2 - generator.gamma(2, size=shape)) / math.sqrt(2)


def exponential(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Skewness -2, mean 0."""
    return 1 - generator.exponential(size=shape)


def heavy(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with five degrees of freedom."""
    return generator.standard_t(5, shape)


def uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.uniform(-1, 1, shape) * math.sqrt(3)


def collapsed(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One run in twenty is five deviations worse."""
    return generator.standard_normal(shape) - 5 * (generator.random(shape) < 0.05)


def binomial(examples: int, share: float) -> Draw:
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.binomial(examples, share, shape) / examples

    return draw


# ---- 1 to 3: intervals ----


def holds(interval: Interval | None, truth: float) -> bool:
    """Whether it covers; no interval covers nothing, which must not happen where it is asked for."""
    return interval is not None and interval.low <= truth <= interval.high


def criterion_1(sheets: int) -> Iterator[Row]:
    """Intervals of a configuration's mean."""
    generator = np.random.default_rng(101)
    cases: list[tuple[str, Draw, float]] = [
        ("normal", normal, 0.0),
        ("binomial (1000, 0.9)", binomial(1000, 0.9), 0.9),
    ]
    for seeds in (5, 10, 20):
        for name, draw, truth in cases:
            values = draw(generator, (sheets, seeds))
            hits = [holds(means.t_interval(row), truth) for row in values]
            yield rate(
                1, f"t interval of {seeds}, {name}", hits, low=0.94, high=0.96, expected=0.95
            )
    hits = [holds(means.t_interval(row), 0.0) for row in gamma(generator, (sheets, 5))]
    yield rate(1, "t interval of 5, left-skew gamma(2)", hits, low=0.90, expected=0.916)
    hits = [
        all(holds(means.t_interval(row, 1 - 0.05 / 9), 0.0) for row in table)
        for table in normal(generator, (sheets, 9, 5))
    ]
    yield rate(
        1,
        "all 9 t intervals at once (Bonferroni), normal",
        hits,
        low=0.94,
        high=0.96,
        expected=0.95,
    )


def criterion_2(sheets: int) -> Iterator[Row]:
    """What stands beside a range, from 45 runs: span, mean range of 5, tolerance."""
    generator = np.random.default_rng(102)
    span = np.diff(stats.norm.ppf((0.1, 0.9)))[0]
    cases: list[tuple[str, Draw, float, float, float]] = [
        ("normal", normal, span, 0.93, 0.950),
        ("gamma(2)", gamma, np.diff(stats.gamma(2).ppf((0.1, 0.9)))[0] / math.sqrt(2), 0.905, 0.93),
        ("t5", heavy, np.diff(stats.t(5).ppf((0.1, 0.9)))[0], 0.905, 0.955),
        ("uniform", uniform, 0.8 * 2 * math.sqrt(3), 0.905, 0.934),
    ]
    for name, draw, truth, low, expected in cases:
        hits = [holds(ranges.span_interval(row), truth) for row in draw(generator, (sheets, 45))]
        yield rate(2, f"p10-p90 span of 45 (BCa), {name}", hits, low=low, expected=expected)
    wholes: list[tuple[str, Draw, float, float]] = [
        ("normal", normal, 0.915, 0.939),
        ("gamma(2)", gamma, 0.875, 0.918),
        ("t5", heavy, 0.875, 0.927),
        ("5% collapsed", collapsed, 0.875, 0.902),
    ]
    for name, draw, low, expected in wholes:
        truth = np.ptp(draw(generator, (400_000, 5)), axis=1).mean()
        rows = draw(generator, (sheets, 45))
        estimates = np.array([ranges.subset_range(row, 5) for row in rows])
        yield Row(
            criterion=2,
            quantity=f"mean range of 5 of 45: ratio to the truth, {name}",
            measured=float(estimates.mean() / truth),
            sheets=sheets,
            error=float(estimates.std() / math.sqrt(sheets) / truth),
            low=0.98,
            high=1.02,
            expected=1.0,
            rate=False,
        )
        hits = [holds(ranges.subset_range_interval(row, 5), truth) for row in rows]
        yield rate(2, f"its interval (jackknife), {name}", hits, low=low, expected=expected)
    for number, share in ((5, 0.343), (10, 0.606), (15, 0.721), (20, 0.784), (45, 0.899)):
        found = ranges.tolerance_share(number)
        yield exact(2, f"tolerance: share for {number} runs", found, share - 0.001, share + 0.001)
        # Coverage does not depend on the distribution of a continuous metric.
        values = gamma(generator, (sheets, number)) * -math.sqrt(2) + 2
        ends = stats.gamma(2).cdf(np.stack([values.min(axis=1), values.max(axis=1)]))
        yield rate(
            2,
            f"tolerance: coverage for {number} runs, gamma(2)",
            ends[1] - ends[0] >= found,
            low=0.935,
            high=0.965,
            expected=0.95,
        )


def criterion_3(sheets: int) -> Iterator[Row]:
    """Run-to-run deviation pooled within nine configurations, and what shared seeds do to it."""
    generator = np.random.default_rng(103)
    for effect in (0, 1, 2):
        hits = []
        for table in normal(generator, (sheets, 9, 5)):
            shifted = table + effect * generator.standard_normal((9, 1))
            hits.append(holds(means.sd_interval(means.pooled(list(shifted))), 1.0))
        yield rate(
            3,
            f"pooled SD, 36 df, configuration SD {effect}",
            hits,
            low=0.935,
            high=0.965,
            expected=0.95,
        )
    for shared in (0.0, 0.5, 1.0, 2.0):
        hits, bounds, naive = [], [], []
        truth = math.hypot(1.0, shared)
        for table in normal(generator, (sheets, 9, 5)):
            values = table + shared * generator.standard_normal((1, 5))
            found = means.pooled(list(values), values)
            hits.append(holds(means.sd_interval(found), truth))
            bounds.append(found.upper(0.2) >= truth**2)
            naive.append(holds(means.sd_interval(means.pooled(list(values))), truth))
        yield rate(
            3,
            f"pooled SD with seeds apart, seed SD {shared}",
            hits,
            low=0.935,
            high=0.98,
            expected=0.955,
        )
        yield rate(
            3, f"its 80% bound, seed SD {shared}", bounds, low=0.78, high=0.90, expected=0.82
        )
        if shared == 1.0:
            yield rate(3, "(why) 36 df, seed SD 1.0", naive, low=0.0, high=0.85, expected=0.77)


def criterion_4(sheets: int) -> Iterator[Row]:
    """Why each run counts once: what 65 entries (the default's row five times) would give instead."""
    generator = np.random.default_rng(104)
    once, five = [], []
    for table in normal(generator, (sheets, 9, 5)):
        for rows, hits in ((table, once), (table[[0] * 5 + list(range(1, 9))], five)):
            hits.append((axis.shared_seed_test(rows).p or 0.0) <= axis.ALPHA)
    yield rate(4, "seed test, 45 distinct runs", once, low=0.04, high=0.06, expected=0.05)
    yield rate(4, "(why) the same from 65 entries", five, low=0.30, expected=0.45)


# ---- 5 to 9: tests ----


def many_axis(tables: np.ndarray, *, chunk: int = 16, partitions: int | None = None) -> np.ndarray:
    """``(R,)`` p of :func:`axis.axis_test` for ``(R, L, S)`` tables, L 2 or 3: a copy for many sheets.

    So many ``partitions``, that of the table itself and others drawn once for all tables, may stand for
    all: p is coarser then, and holds its level as well.
    """
    sheets, levels, seeds = tables.shape
    flat = tables.reshape(sheets, -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    total = (flat**2).sum(axis=1)
    found = (flat.reshape(tables.shape).sum(axis=2) ** 2).sum(axis=1) / seeds
    groups = axis._groups((seeds,) * levels)
    if partitions is not None and partitions < len(groups[0]):
        drawn = np.random.default_rng(0).choice(len(groups[0]) - 1, partitions - 1, replace=False)
        groups = tuple(group[[0, *(1 + drawn)]] for group in groups)
    subsets, place = np.unique(np.concatenate(groups), axis=0, return_inverse=True)
    members = np.zeros((flat.shape[1], len(subsets)))
    members[subsets.T, np.arange(len(subsets))] = 1
    number = len(groups[0])
    rows = np.tile(np.arange(number), levels)
    picks = sparse.csr_array(
        (np.ones(len(rows)), (rows, place.ravel())), shape=(number, len(subsets))
    )
    p = np.empty(sheets)
    for start in range(0, sheets, chunk):
        part = slice(start, start + chunk)
        sums = picks @ ((flat[part] @ members) ** 2 / seeds).T
        p[part] = (sums >= found[part] - axis._TIE * total[part]).mean(axis=0)
    return p


def many_seed(tables: np.ndarray) -> np.ndarray:
    """``(R,)`` p of :func:`axis.shared_seed_test` for ``(R, rows, S)`` tables without holes: a copy."""
    sheets, rows, seeds = tables.shape
    left = tables - tables.mean(axis=2, keepdims=True)
    total = (left**2).sum(axis=(1, 2))
    found = (left.sum(axis=1) ** 2).sum(axis=1) / rows
    generator = np.random.default_rng(0)
    order = np.stack(
        [
            generator.permuted(np.tile(np.arange(seeds), (axis.DRAWS, 1)), axis=1)
            for _ in range(rows)
        ],
        axis=1,
    )
    count = np.zeros(sheets)
    for draw in range(0, axis.DRAWS, 250):
        part = order[draw : draw + 250]
        statistic = np.zeros((len(part), sheets))
        for seed in range(seeds):
            which = np.zeros((len(part), rows, seeds))
            np.put_along_axis(which, part[:, :, [seed]], 1, axis=2)
            statistic += (which.reshape(len(part), -1) @ left.reshape(sheets, -1).T) ** 2 / rows
        count += (statistic >= found - axis._TIE * total).sum(axis=0)
    return (1 + count) / (axis.DRAWS + 1)


def shifted(tables: np.ndarray, by: float) -> np.ndarray:
    """The last level is ``by`` deviations better."""
    moved = tables.copy()
    moved[:, -1] += by
    return moved


def criterion_5(sheets: int) -> Iterator[Row]:
    """The axis test, unrestricted permutation."""
    generator = np.random.default_rng(105)
    low_high = {2: (0.037, 0.058, 6 / 126), 3: (0.04, 0.06, 0.05)}
    for levels, (low, high, size) in low_high.items():
        shape = (sheets, levels, 5)

        def alarms(tables: np.ndarray) -> np.ndarray:
            return many_axis(tables) <= axis.ALPHA

        yield rate(
            5,
            f"axis test, {levels} levels: false alarms, normal",
            alarms(normal(generator, shape)),
            low=low,
            high=high,
            expected=size,
        )
        seeds = generator.standard_normal((sheets, 1, 5))
        yield rate(
            5,
            f"axis test, {levels} levels: false alarms, seed SD 1",
            alarms(normal(generator, shape) + seeds),
            high=0.03,
            expected={2: 0.013, 3: 0.009}[levels],
        )
        yield rate(
            5,
            f"axis test, {levels} levels: false alarms, ties (binomial 100, 0.95)",
            alarms(binomial(100, 0.95)(generator, shape)),
            high=0.06,
            expected={2: 0.029, 3: 0.043}[levels],
        )
        half = shape if sheets < 1000 else (sheets // 2, *shape[1:])
        yield rate(
            5,
            f"axis test, {levels} levels: power at 2 SD",
            alarms(shifted(normal(generator, half), 2)),
            low={2: 0.73, 3: 0.80}[levels],
            expected={2: 0.77, 3: 0.83}[levels],
        )


def criterion_6(sheets: int) -> Iterator[Row]:
    """Two-way F where the design declares the seed as shared."""
    generator = np.random.default_rng(106)
    for levels in (2, 3):
        for effect in (0, 1, 2):
            tables = normal(generator, (sheets, levels, 5))
            tables += effect * generator.standard_normal((sheets, 1, 5))
            hits = [(axis.two_way_test(table).p or 0) <= axis.ALPHA for table in tables]
            yield rate(
                6,
                f"two-way F, {levels} levels: false alarms, seed SD {effect}",
                hits,
                low=0.04,
                high=0.06,
                expected=0.05,
            )
        half = sheets if sheets < 1000 else sheets // 2
        tables = normal(generator, (half, levels, 5)) + normal(generator, (half, 1, 5))
        hits = [(axis.two_way_test(table).p or 1) <= axis.ALPHA for table in shifted(tables, 2)]
        yield rate(
            6,
            f"two-way F, {levels} levels: power at 2 SD, seed SD 1",
            hits,
            low={2: 0.62, 3: 0.73}[levels],
            expected={2: 0.66, 3: 0.77}[levels],
        )


def criterion_7(_: int) -> Iterator[Row]:
    """The smallest p that runs can give."""
    five = axis.axis_test([np.arange(5.0), np.arange(5.0) + 9])
    yield exact(7, "smallest p, 2 levels of 5", five.smallest_p or 0, 1 / 126, 1 / 126)
    most = [k for k in range(1, 20) if axis.needed_runs(2, 0.05 / k) <= 5]
    yield exact(7, "tables of 2 levels of 5 under Holm, at most", max(most), 6, 6)
    three = axis.axis_test([np.arange(3.0), np.arange(3.0) + 9])
    yield exact(7, "smallest p, 2 levels of 3", three.smallest_p or 0, 0.1, 0.1)
    yield exact(7, "runs per level that it then needs", three.needs or 0, 4, 4)


def criterion_8(sheets: int) -> Iterator[Row]:
    """Do equal seeds share something: permutation within the nine distinct rows."""
    generator = np.random.default_rng(108)
    shape = (sheets, 9, 5)
    wide = np.ones((9, 1))
    wide[0] = 10
    cases = [
        ("normal", normal(generator, shape)),
        ("row effects of 2 SD", normal(generator, shape) + 2 * normal(generator, (sheets, 9, 1))),
        ("exponential skew", exponential(generator, shape)),
        ("one row's SD x 10", normal(generator, shape) * wide),
    ]
    for name, tables in cases:
        hits = many_seed(tables) <= axis.ALPHA
        yield rate(8, f"seed test: false alarms, {name}", hits, low=0.04, high=0.06, expected=0.05)
    half = sheets if sheets < 1000 else sheets // 2
    for effect, low, expected in ((0.5, 0.49, 0.54), (1.0, 0.87, 0.90)):
        tables = normal(generator, (half, 9, 5)) + effect * normal(generator, (half, 1, 5))
        yield rate(
            8,
            f"seed test: power at seed SD {effect}",
            many_seed(tables) <= axis.ALPHA,
            low=low,
            expected=expected,
        )


def holm_alarms(runs: np.ndarray, partitions: int | None) -> tuple[np.ndarray, np.ndarray]:
    """``(R, 5)`` p of five tables that share the default's row, and Holm's, for ``(R, 9, 5)`` runs."""
    p = np.stack([many_axis(runs[:, list(rows)], partitions=partitions) for rows in TABLES], axis=1)
    return p, np.array([multiple.holm(list(row)) for row in p], dtype=float)


def criterion_9(sheets: int) -> Iterator[Row]:
    """Holm over the five tables of a sheet."""
    generator = np.random.default_rng(109)
    partitions = 1000 if sheets < 1000 else None  # of 126,126 of three levels
    shape = (sheets, 9, 5)
    p, adjusted = holm_alarms(normal(generator, shape), partitions)
    yield rate(
        9,
        "five tables: any false alarm after Holm, normal",
        (adjusted <= axis.ALPHA).any(axis=1),
        high=0.06,
        expected=0.039,
    )
    yield rate(
        9,
        "(why) the same without adjustment",
        (p <= axis.ALPHA).any(axis=1),
        low=0.16,
        high=0.22,
        expected=0.19,
    )
    for name, runs, expected in (
        ("seed SD 1", normal(generator, shape) + normal(generator, (sheets, 1, 5)), 0.008),
        ("exponential skew", exponential(generator, shape), 0.045),
    ):
        _, adjusted = holm_alarms(runs, partitions)
        hits = (adjusted <= axis.ALPHA).any(axis=1)
        yield rate(
            9,
            f"five tables: any false alarm after Holm, {name}",
            hits,
            high=0.06,
            expected=expected,
        )
    half = sheets if sheets < 1000 else sheets // 2
    for name, table, low, expected in (("3 levels", 0, 0.91, 0.93), ("2 levels", 3, 0.72, 0.76)):
        runs = normal(generator, (half, 9, 5))
        runs[:, TABLES[table][-1]] += 3
        _, adjusted = holm_alarms(runs, partitions)
        yield rate(
            9,
            f"power after Holm at 3 SD, {name}",
            adjusted[:, table] <= axis.ALPHA,
            low=low,
            expected=expected,
        )


# ---- 10 to 12: the floor ----


def flips(
    generator: np.random.Generator,
    runs: int,
    examples: int,
    *,
    mean: float = 2.2,
    wide: float = 1.5,
    shared: float = 0.0,
    own: float = 0.0,
    effect: float = 0.0,
) -> np.ndarray:
    """``(runs, examples)`` outcomes: logits of correctness N(mean, wide²) per example.

    ``shared`` is the deviation of a run's shift of all logits (distribution-wise variance), ``own`` that of
    a configuration's shift of single logits (5 runs per configuration), ``effect`` that of its shift of
    all logits.
    """
    logits = mean + wide * generator.standard_normal((1, examples))
    logits = logits + shared * generator.standard_normal((runs, 1))
    if own or effect:
        number = runs // 5
        logits = logits + np.repeat(own * generator.standard_normal((number, examples)), 5, axis=0)
        logits = logits + np.repeat(effect * generator.standard_normal((number, 1)), 5, axis=0)
    chance = 1 / (1 + np.exp(-logits))
    return (generator.random((runs, examples)) < chance).astype(float)


EASY = {"mean": 5.0, "wide": 1.0}  # near the ceiling: few flips


def criterion_10(sheets: int) -> Iterator[Row]:
    """More than the floor: Q within configurations."""
    generator = np.random.default_rng(110)

    def alarms(number: int, groups: list[np.ndarray], examples: int, **how: float) -> list[bool]:
        runs = sum(map(len, groups))
        return [
            (found.test.p if found.test.p is not None else 1.0) <= axis.ALPHA
            for found in (
                floor.sampling_floor(flips(generator, runs, examples, **how), groups)
                for _ in range(number)
            )
            if found is not None
        ]

    few = sheets if sheets < 1000 else sheets // 2
    for number, examples, groups, name in (
        (sheets, 250, NINE, "9 x 5 runs"),
        (sheets, 1000, NINE, "9 x 5 runs"),
        (few // 2, 10_000, NINE, "9 x 5 runs"),
        (sheets, 1000, ONE[5], "5 runs"),
        (sheets, 1000, ONE[45], "45 runs"),
    ):
        yield rate(
            10,
            f"above the floor: false alarms, {name}, N={examples}",
            alarms(number, groups, examples),
            low=0.035,
            high=0.065,
            expected=0.05,
        )
    for examples in (250, 1000):
        yield rate(
            10,
            f"above the floor: false alarms, 9 x 5, means and difficulties differ, N={examples}",
            alarms(sheets, NINE, examples, own=1.0, effect=0.5),
            low=0.035,
            high=0.065,
            expected=0.05,
        )
    for examples, groups, name in (
        (50, NINE, "9 x 5 runs"),
        (100, NINE, "9 x 5 runs"),
        (50, ONE[5], "5 runs"),
        (50, ONE[45], "45 runs"),
    ):
        yield rate(
            10,
            f"above the floor by permutation: false alarms, {name}, N={examples}",
            alarms(few, groups, examples),
            high=0.065,
            expected=0.05,
        )
    for examples, groups, name in (
        (50, NINE, "9 x 5 runs"),
        (250, NINE, "9 x 5 runs"),
        (250, ONE[5], "5 runs"),
    ):
        yield rate(
            10,
            f"above the floor by permutation: false alarms near the ceiling, {name}, N={examples}",
            alarms(few, groups, examples, **EASY),
            high=0.065,
            expected=0.04,
        )
    yield rate(
        10,
        "above the floor by permutation: false alarms, 9 x 5, means and difficulties differ, N=100",
        alarms(few, NINE, 100, own=1.0, effect=0.5),
        low=0.03,
        high=0.065,
        expected=0.05,
    )
    shift = shared_deviation(1000)
    power = min(sheets, 400)
    for groups, name, low, expected in ((NINE, "36 df", 0.84, 0.89), (ONE[5], "4 df", 0.24, 0.31)):
        yield rate(
            10,
            f"above the floor: power where both deviations are equal, {name}",
            alarms(power, groups, 1000, shared=shift),
            low=low,
            expected=expected,
        )


def _curve(mean: float, wide: float, shift: np.ndarray | float) -> np.ndarray:
    """Expected accuracy with logits N(mean + shift, wide²)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    logits = mean + np.asarray(shift)[..., None] + wide * nodes
    return (1 / (1 + np.exp(-logits))) @ weights / weights.sum()


def distribution_wise(shared: float, mean: float = 2.2, wide: float = 1.5) -> float:
    """True distribution-wise variance of :func:`flips`: Var over runs of the expected accuracy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    values = _curve(mean, wide, shared * nodes)
    centre = values @ weights / weights.sum()
    return float((values - centre) ** 2 @ weights / weights.sum())


def shared_deviation(examples: int, mean: float = 2.2, wide: float = 1.5) -> float:
    """The shift for which distribution-wise variance equals the floor's."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    chance = 1 / (1 + np.exp(-(mean + wide * nodes)))
    single = float((chance * (1 - chance)) @ weights / weights.sum()) / examples
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if distribution_wise(middle) < single else (low, middle)
    return low


def criterion_11(sheets: int) -> Iterator[Row]:
    """Distribution-wise variance: unbiased, and its interval."""
    generator = np.random.default_rng(111)
    cases = [(1000, 45, 0.3, 1), (50, 45, 0.3, 4), (1000, 5, 0.3, 1), (250, 45, 0.0, 1)]
    for examples, runs, shared, times in cases:
        truth = distribution_wise(shared) if shared else 0.0
        estimates, hits = [], []
        for _ in range(times * sheets):
            found = floor.sampling_floor(flips(generator, runs, examples, shared=shared), ONE[runs])
            assert found is not None
            assert found.distribution_wise_variance is not None
            estimates.append(found.distribution_wise_variance)
            hits.append(holds(found.distribution_wise_interval, truth))
        mean, error = float(np.mean(estimates)), float(np.std(estimates)) / math.sqrt(len(hits))
        unit = truth or 1e-4
        yield Row(
            criterion=11,
            quantity=f"distribution-wise variance / {'truth' if truth else '1e-4 (truth 0)'},"
            f" N={examples}, {runs} runs",
            measured=mean / unit,
            sheets=len(hits),
            error=error / unit,
            low=(truth - 3 * error) / unit,
            high=(truth + 3 * error) / unit,
            rate=False,
        )
        if examples >= floor.FEW_EXAMPLES:  # below, chi-square does not hold, and there is none
            yield rate(
                11, f"its interval, N={examples}, {runs} runs", hits, low=0.905, expected=0.945
            )
        if not truth:
            below = np.array(estimates) < 0
            yield rate(11, "negative values are kept, truth 0", below, low=0.45, high=0.65)


def criterion_12(sheets: int) -> Iterator[Row]:
    """Expected range by chance, and its band, against simulated ranges."""
    generator = np.random.default_rng(112)
    cases: list[tuple[str, list[np.ndarray], int, dict[str, float], int]] = [
        ("5 runs, N=1000", ONE[5], 1000, {}, 1),
        ("45 runs, N=1000", ONE[45], 1000, {}, 4),
        ("5 runs, few flips, N=50", ONE[5], 50, {"mean": 3.5, "wide": 1.0}, 1),
        ("5 runs, few flips, N=250", ONE[5], 250, EASY, 1),
        ("45 runs, few flips, N=50", ONE[45], 50, {"mean": 3.5, "wide": 1.0}, 4),
        ("45 runs, few flips, N=250", ONE[45], 250, EASY, 4),
        ("9 x 5 runs, N=250", NINE, 250, {}, 4),
        ("9 x 5 runs, few flips, N=50", NINE, 50, {"mean": 3.5, "wide": 1.0}, 4),
        ("9 x 5 runs, few flips, N=250", NINE, 250, EASY, 4),
        ("9 x 5 runs, N=100", NINE, 100, {}, 4),
        ("9 x 5 runs, means differ, N=1000", NINE, 1000, {"effect": 1.0, "own": 1.0}, 4),
        ("9 x 5 runs, means differ, N=100", NINE, 100, {"effect": 1.0, "own": 1.0}, 4),
    ]
    for name, groups, examples, how, less in cases:
        number = sheets if sheets < 1000 else sheets // less
        keys = ["Δ over all"]
        if len(groups) > 1:
            keys += ["mean Δ within", "a single Δ of 5"]
        if "effect" in how:  # chance alone does not make means differ
            keys = ["mean Δ within"]
        observed: dict[str, list[float]] = {key: [] for key in keys}
        expected: dict[str, list[float]] = {key: [] for key in keys}
        inside: dict[str, list[bool]] = {key: [] for key in keys}
        for _ in range(number):
            outcomes = flips(generator, sum(map(len, groups)), examples, **how)
            found = floor.sampling_floor(outcomes, groups, single=[5])
            assert found is not None
            first = float(np.ptp(outcomes[:5].mean(axis=1)))
            ranges_of = {
                "Δ over all": found.all_runs,
                "mean Δ within": found.run_to_run,
                "a single Δ of 5": found.single[0].model_copy(update={"observed": first}),
            }
            for key in keys:
                one = ranges_of[key]
                assert one is not None
                assert one.observed is not None
                observed[key].append(one.observed)
                expected[key].append(one.expected)
                inside[key].append(one.low - 1e-12 <= one.observed <= one.high + 1e-12)
        for key in keys:
            seen = np.array(observed[key])
            ratio = float(np.mean(expected[key]) / seen.mean())
            yield Row(
                criterion=12,
                quantity=f"expected / simulated, {key}, {name}",
                measured=ratio,
                sheets=number,
                error=float(np.std(seen - np.array(expected[key]) / ratio))
                / math.sqrt(number)
                / float(seen.mean()),
                low=0.95,
                high=1.05,
                expected=1.0,
                rate=False,
            )
            yield rate(12, f"inside the band, {key}, {name}", inside[key], low=0.92, expected=0.95)
    for sizes, low, high in (((5,), 0.36, 1.81), ((45,), 0.74, 1.32)):
        found_low, found_high = ranges.chance_band(sizes)
        yield exact(12, f"band of {sizes[0]} runs: low", found_low, low - 0.01, low + 0.01)
        yield exact(12, f"band of {sizes[0]} runs: high", found_high, high - 0.01, high + 0.01)
    drawn = np.ptp(normal(generator, (5 * sheets, 9, 5)), axis=2).mean(axis=1) / ranges.d2(5)
    low, high = ranges.chance_band((5,) * 9)
    yield rate(
        12,
        "band of the mean of 9 ranges of 5, normal",
        (drawn >= low) & (drawn <= high),
        low=0.94,
        high=0.96,
        expected=0.95,
    )


# ---- 15: planning ----


def criterion_15(sheets: int) -> Iterator[Row]:
    """More seeds: the bound of the deviation, and whether the plan holds."""
    for freedom, factor in ((4, 1.56), (12, 1.24), (36, 1.12)):
        found = planning.bound_factor(freedom)
        yield exact(15, f"80% bound of the SD, {freedom} df", found, factor - 0.01, factor + 0.01)
    plan = planning.plan_seeds(means.Pooled(((1.0, 4),)))
    assert plan is not None
    yield exact(15, "90% band of the SD from 5, low", plan.sd_low_factor, 0.645, 0.655)
    yield exact(15, "90% band of the SD from 5, high", plan.sd_high_factor, 2.365, 2.375)
    generator = np.random.default_rng(115)
    for later in (10, 20, 50):
        values = normal(generator, (sheets, later))
        first = values[:, :5].std(axis=1, ddof=1)
        half = planning.half_width(later)
        kept = half * values.std(axis=1, ddof=1) <= half * planning.bound_factor(4) * first
        yield rate(
            15,
            f"{later} seeds are as narrow as the bound says",
            kept,
            low=0.78,
            expected={10: 0.88, 20: 0.83, 50: 0.81}[later],
        )


# ---- what STATISTICS leaves to be simulated ----


def probabilities(
    generator: np.random.Generator, runs: int, examples: int, *, spread: float = 1.5
) -> np.ndarray:
    """``(runs, examples)`` real outcomes as output perturbation gives: most near 0 or 1, by chance
    different from run to run, each example with a level of its own."""
    logits = 2.2 + 2 * generator.standard_normal((1, examples))
    logits = logits + spread * generator.standard_normal((runs, examples))
    return 1 / (1 + np.exp(-2 * logits))


def further(sheets: int) -> Iterator[Row]:
    """Real outcomes and copies: false alarms of the floor's test, and its expected range."""
    generator = np.random.default_rng(120)

    def measured(number: int, make: Callable[[], np.ndarray], groups: list[np.ndarray],
                 copies: np.ndarray | None = None) -> tuple[list[bool], float, float]:  # fmt: skip
        alarms, seen, expected = [], [], []
        for _ in range(number):
            found = floor.sampling_floor(make(), groups, copies=copies)
            assert found is not None
            assert found.all_runs is not None
            alarms.append((found.test.p if found.test.p is not None else 1.0) <= axis.ALPHA)
            seen.append(found.all_runs.observed or 0.0)
            expected.append(found.all_runs.expected)
        ratio = float(np.mean(expected) / np.mean(seen))
        error = float(np.std(np.array(seen) - np.array(expected) / ratio))
        return alarms, ratio, error / math.sqrt(number) / float(np.mean(seen))

    def rows(name: str, found: tuple[list[bool], float, float], low: float) -> Iterator[Row]:
        alarms, ratio, error = found
        yield rate(10, f"false alarms, {name}", alarms, low=low, high=0.065, expected=0.05)
        yield Row(
            criterion=12,
            quantity=f"expected / simulated Δ over all, {name}",
            measured=ratio,
            sheets=len(alarms),
            error=error,
            low=0.95,
            high=1.05,
            expected=1.0,
            rate=False,
        )

    few = sheets if sheets < 1000 else sheets // 2
    for groups, name in ((NINE, "9 x 5 runs"), (ONE[5], "5 runs")):
        runs = sum(map(len, groups))
        for examples in (50, 250):
            found = measured(few, lambda m=runs, n=examples: probabilities(generator, m, n), groups)
            yield from rows(f"probabilities as outcomes, {name}, N={examples}", found, 0.03)
    for times in (2, 5):
        copies = np.repeat(np.arange(300), times)
        found = measured(
            few,
            lambda by=times: np.repeat(flips(generator, 45, 300), by, axis=1),
            NINE,
            copies,
        )
        yield from rows(f"every example {times} times, known, 9 x 5 runs", found, 0.03)
    blind = [
        (one.test.p if one is not None and one.test.p is not None else 1.0) <= axis.ALPHA
        for one in (
            floor.sampling_floor(np.repeat(flips(generator, 45, 300), 2, axis=1), NINE)
            for _ in range(few)
        )
    ]
    yield rate(10, "(why) every example twice, not known", blind, low=0.40, expected=0.64)


CRITERIA: dict[str, tuple[Callable[[int], Iterator[Row]], int]] = {
    "1": (criterion_1, 4000),
    "2": (criterion_2, 2000),
    "3": (criterion_3, 2000),
    "4": (criterion_4, 2000),
    "5": (criterion_5, 4000),
    "6": (criterion_6, 4000),
    "7": (criterion_7, 0),
    "8": (criterion_8, 4000),
    "9": (criterion_9, 4000),
    "10": (criterion_10, 2000),
    "11": (criterion_11, 1800),
    "12": (criterion_12, 2000),
    "15": (criterion_15, 20_000),
    "further": (further, 2000),
}
"""By name: what to simulate, and the number of sheets at full size."""


def table(rows: Sequence[Row]) -> str:
    """The Markdown table of docs/statistics.md."""
    return "\n".join(
        [
            "| criterion | quantity | target | measured | R | SE |",
            "|---|---|---|---|---|---|",
            *map(str, rows),
        ]
    )
