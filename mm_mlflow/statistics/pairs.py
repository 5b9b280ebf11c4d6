"""Two experiments A and B of the same configurations: did the spread within configurations change, and
did the means?

Everything is paired by configuration, and centred within it: configurations have means of their own in
either experiment, and a test on all runs at once takes those for spread. Nor are the runs of one
configuration taken for pairs of their own: the differences of one configuration have its effect in
common. Each configuration therefore gives one difference, B - A, and the test is of their mean:

- spread: the mean absolute deviation of a configuration's runs from their median (Brown and Forsythe,
  1974, "Robust tests for the equality of variances"), by a t test with C - 1 degrees of freedom. Beside
  it stands the exact test that swaps A and B in whole configurations, which can reach 5% from six
  configurations on. Of a configuration with more runs in one experiment, only as many are
  judged as the other has: with all of them, even with deviations corrected for their number, false
  alarms were seen to reach 9% (3 runs against 20, 5% of them collapsed);
- means: the mean difference of a configuration's runs, by the same t test.

By simulation both keep 5% for normal, skew and heavy-tailed values, with collapsed runs, and whether the
runs of A and B are correlated or not; the t test with two configurations too, where it has little power.
They rest on one thing: that the runs of different configurations are independent. Where equal seeds move
all configurations together, and otherwise in B than in A, 5% becomes 8% (that effect half as large as
the run-to-run SD) to 25% (as large).

Not here, because they do not keep what they promise: the ratio of variances, correlation of sums and
differences of pairs, the bootstrap of pairs, and anything on all runs uncentred.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import scipy

from mm_mlflow.errors import InvalidInput
from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.means import pooled_variance
from mm_mlflow.statistics.records import Interval, Record, SignificanceTest, known

MOST_ENUMERATED = 15  # configurations of which all 2^C swaps are gone through
DRAWS = 9_999  # random swaps beyond that
_SEED = 0  # of the generator of those, so that p is the same each time
_LEAST_SWAPPED = 6  # configurations from which 2 / 2^C is at most 5%
_LEAST_T = 2  # configurations that a t test needs


class SpreadChange(Record):
    """Spread within configurations, of A and of B, over the configurations with two runs in both."""

    configurations: int
    runs_a: int
    runs_b: int
    runs_judged: int
    """Of A, and as many of B: of each configuration, what both have."""
    sd_a: float | None
    """Pooled within configurations: square root of the sum of squares over its degrees of freedom, of all
    runs."""
    sd_b: float | None
    ratio: float | None
    """``sd_b / sd_a``; None where that is not finite."""
    deviation_a: float | None
    """Mean over configurations of the mean absolute deviation of runs from their configuration's median, of
    the runs that are judged: what is tested."""
    deviation_b: float | None
    difference: float | None
    """``deviation_b - deviation_a``."""
    interval: Interval | None
    """Of ``difference``."""
    test: SignificanceTest
    """Of no difference: t test over configurations."""
    swap: SignificanceTest
    """The same, with whole configurations swapped between A and B."""


class MeanChange(Record):
    """Means of A and of B, each configuration counting once."""

    configurations: int
    cells: int
    """Pairs of runs."""
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    """``mean_b - mean_a``."""
    interval: Interval | None
    test: SignificanceTest


def spread_change(x: np.ndarray, y: np.ndarray) -> SpreadChange:
    """Whether the runs of a configuration lie further apart in B than in A.

    Args:
        x: ``(C, S)`` values of A by configuration and run, NaN where there is none.
        y: ``(C, S')`` values of B, its rows the same configurations. Where one has more runs of a
            configuration, its first ones are judged: runs that belong together stand first, in one order.

    Raises:
        InvalidInput: not two tables of the same configurations.
    """
    x, y = _tables(x, y)
    x, y = (table[_runs_of(x, y).min(axis=0) >= 2] for table in (x, y))
    runs = _runs_of(x, y)
    least = runs.min(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        of_a, of_b = deviations(x, least), deviations(y, least)
        sd_a, sd_b = _pooled_sd(x), _pooled_sd(y)
        differences = of_b - of_a
        ratio = known(sd_b / sd_a) if sd_a else None
    slack = _slack(x, y)
    test, interval = _t_test(
        "Brown-Forsythe, paired by configuration: t test of the configurations' mean absolute "
        "deviations from their medians",
        differences,
        slack,
        "no two runs of a configuration differ, in neither experiment"
        if max(of_a.max(initial=0), of_b.max(initial=0)) <= slack
        else "",
    )
    return SpreadChange(
        configurations=len(x),
        runs_a=int(runs[0].sum()),
        runs_b=int(runs[1].sum()),
        runs_judged=int(least.sum()),
        sd_a=known(sd_a),
        sd_b=known(sd_b),
        ratio=ratio,
        deviation_a=_mean(of_a),
        deviation_b=_mean(of_b),
        difference=_mean(differences),
        interval=interval,
        test=test,
        swap=swap_configurations(differences, slack=slack),
    )


def mean_change(x: np.ndarray, y: np.ndarray) -> MeanChange:
    """Whether values of B are higher than those of the same cells of A.

    The cells of a configuration are not independent of one another where the change does more to one
    configuration than to another, so the test and its interval are of the configurations' mean
    differences: t with C - 1 degrees of freedom.

    Args:
        x: ``(C, S)`` values of A by configuration and seed.
        y: ``(C, S)`` values of B in the same cells. A cell counts where both have a value, NaN is none.

    Raises:
        InvalidInput: not two tables of the same cells.
    """
    x, y = _tables(x, y)
    if x.shape != y.shape:
        raise InvalidInput(f"y of shape {y.shape} is not allowed: that of x is, {x.shape}")
    both = np.isfinite(x) & np.isfinite(y)
    used = both.any(axis=1)
    x, y, both = x[used], y[used], both[used]
    cells = both.sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        of_a, of_b = (np.where(both, table, 0).sum(axis=1) / cells for table in (x, y))
        differences = np.where(both, y, 0).sum(axis=1) - np.where(both, x, 0).sum(axis=1)
        differences = differences / cells
    slack = _slack(np.where(both, x, np.nan), np.where(both, y, np.nan))
    test, interval = _t_test(
        "t test of the configurations' mean differences, paired by cell",
        differences,
        slack,
        "every configuration has the same mean in both experiments",
    )
    return MeanChange(
        configurations=len(x),
        cells=int(cells.sum()),
        mean_a=_mean(of_a),
        mean_b=_mean(of_b),
        difference=_mean(differences),
        interval=interval,
        test=test,
    )


def swap_configurations(differences: np.ndarray, *, slack: float = 0.0) -> SignificanceTest:
    """Test of no difference by swapping A and B in whole configurations: each of the ``(C,)``
    ``differences`` changes its sign or not.

    All 2^C ways up to C = 15, else 9,999 drawn ones, from a fixed generator, with (1 + count) / (9,999 + 1).
    Two-sided: the share of ways whose sum lies as far from 0 as the one that was found, or further.

    Args:
        differences: B - A, one per configuration.
        slack: differences up to this are ties, in the unit of the values: rounding.
    """
    name = "Brown-Forsythe, whole configurations swapped between the experiments"
    number = len(differences)
    reason = ""
    if number < 1:
        reason = "no configuration has two runs in both experiments"
    elif not np.isfinite(differences).all():
        reason = "values are too large to be subtracted"
    elif not np.abs(differences).max() > slack:
        reason = "no configuration's spread differs"
    draws = DRAWS if number > MOST_ENUMERATED else None
    smallest = None
    if number:
        smallest = 1 / (DRAWS + 1) if draws else min(1.0, 2 / 2**number)
    needs = _LEAST_SWAPPED if number < _LEAST_SWAPPED else None
    test = SignificanceTest(
        name=name, statistic=None, p=None, smallest_p=smallest, draws=draws, needs=needs, reason=reason
    )  # fmt: skip
    if reason:
        return test
    found = float(differences.sum())
    # The sum over all configurations has their rounding too.
    bound = abs(found) - number * slack - 1e-12 * np.abs(differences).sum()
    if draws is None:
        p = float((np.abs(_half_of_all_signs(number) @ differences) >= bound).mean())
    else:
        signs = np.random.default_rng(_SEED).integers(0, 2, (DRAWS, number), dtype=np.int8)
        count = int((np.abs((1 - 2 * signs) @ differences) >= bound).sum())
        p = (1 + count) / (DRAWS + 1)
    return test.model_copy(update={"statistic": found / number, "p": p})


def deviations(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``(C,)`` mean absolute deviations from their median of the first ``(C,)`` ``sizes`` finite values in
    the rows of ``(C, S)`` ``values``."""
    order = np.argsort(~np.isfinite(values), axis=1, kind="stable")
    first = np.take_along_axis(values, order, axis=1)
    found = np.empty(len(values))
    for size in np.unique(sizes).tolist():
        judged = first[sizes == size, :size]
        found[sizes == size] = np.abs(judged - np.median(judged, axis=1, keepdims=True)).mean(
            axis=1
        )
    return found


@cache
def _half_of_all_signs(number: int) -> np.ndarray:
    """``(2^(number - 1), number)`` of -1 and 1: the other half is this one with all signs changed, and
    gives the same absolute sums."""
    bits = np.arange(2 ** (number - 1))[:, None] >> np.arange(number) & 1
    return np.asarray(1.0 - 2.0 * bits)


def _tables(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64.

    Raises:
        InvalidInput: no tables, infinite values, or not of the same configurations.
    """
    found = []
    for name, table in (("x", x), ("y", y)):
        values = np.asarray(table, dtype=np.float64)
        if values.ndim != 2:
            raise InvalidInput(
                f"{name} of shape {values.shape} is not allowed: (configurations, runs) is"
            )
        if np.isinf(values).any():
            raise InvalidInput(
                f"{name} with infinite values is not allowed: NaN where there is none"
            )
        found.append(values)
    one, other = found
    if len(one) != len(other):
        raise InvalidInput(
            f"y of {len(other)} configurations is not allowed: those of x are, {len(one)}"
        )
    return one, other


def _runs_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(2, C)``: runs of every configuration in A and in B."""
    return np.stack([np.isfinite(table).sum(axis=1) for table in (x, y)])


def _pooled_sd(values: np.ndarray) -> float:
    """Within the rows of a ``(C, S)`` table; NaN without degrees of freedom, or where no float holds it."""
    with np.errstate(over="ignore", invalid="ignore"):
        variance, _ = pooled_variance([row[np.isfinite(row)] for row in values])
    return math.sqrt(variance) if variance >= 0 else math.nan


def _slack(x: np.ndarray, y: np.ndarray) -> float:
    """What rounding makes of differences of values as large as these."""
    largest = max(np.nanmax(np.abs(table), initial=0.0) for table in (x, y))
    return 16 * float(np.spacing(largest))


def _t_test(
    name: str, differences: np.ndarray, slack: float, equal: str
) -> tuple[SignificanceTest, Interval | None]:
    """That the mean of the ``(C,)`` differences is 0, and its interval; ``equal`` says why they are all 0,
    if they are."""
    number = len(differences)
    reason = ""
    if number < _LEAST_T:
        reason = f"{number} configuration{'' if number == 1 else 's'} to compare"
    elif not np.isfinite(differences).all():
        reason = "values are too large to be subtracted"
    elif np.ptp(differences) <= max(slack, 1e-12 * np.abs(differences).max()):
        same = "every configuration differs by the same, which leaves nothing to judge chance by"
        reason = equal if np.abs(differences).max() <= slack and equal else same
    needs = _LEAST_T if number < _LEAST_T else None
    if reason:
        undefined = SignificanceTest(name=name, statistic=None, p=None, needs=needs, reason=reason)
        return undefined, None
    found = scipy.stats.ttest_1samp(differences, 0.0)
    # Its p has no smallest value: the differences can be as equal as may be.
    test = SignificanceTest(
        name=name, statistic=known(found.statistic), p=known(found.pvalue), smallest_p=0.0
    )
    level = 1 - ALPHA
    ends = found.confidence_interval(level)
    return test, Interval(low=float(ends.low), high=float(ends.high), level=level, method="t")


def _mean(values: np.ndarray) -> float | None:
    with np.errstate(over="ignore", invalid="ignore"):
        return known(values.mean()) if len(values) else None
