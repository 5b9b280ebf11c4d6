"""What a selection does to a metric, beside random choices of as many runs.

Fewer runs span a smaller range by chance alone, and where configurations differ, a selection that takes
or leaves whole configurations moves the mean by chance alone: so the selected runs are compared with
random subsets of single runs, and, where a configuration has several runs, with the same pattern moved
between whole configurations. The second is the one to believe then: with runs of nine configurations
that differ, the first alarms in 14 to 18% where it promises 5%.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mm_mlflow.errors import InvalidInput
from mm_mlflow.statistics.ranges import highest_weights, log_choose
from mm_mlflow.statistics.records import Record, SignificanceTest, known

FEW = 5  # selected runs below which any statement is uncertain
DRAWS = 9_999  # random choices; fewer are all enumerated
_MOST_DRAWN = 2**24  # numbers drawn for one size of subset: of 10,000 runs, 1,677 subsets
_LEAST_DRAWS = 999
_SLACK = 64  # units in the last place: equal sums of values differ in their last bits

RUNS = "random subsets of single runs"
CONFIGURATIONS = "the selected runs' pattern moved between whole configurations"


# ---- ranges of random subsets: closed forms ----


@dataclass(frozen=True)
class Chance:
    """Random subsets of a fixed size, each as likely as any other; exact, not sampled.

    Attributes:
        low, high: mean of their lowest and of their highest value.
        delta: mean of their ranges.
        share: of them, those whose range is at most as large as the one that was found.
    """

    low: float
    high: float
    delta: float
    share: float


def random_subsets(values: np.ndarray, size: int, found: float) -> Chance:
    """What the subsets of ``size`` of the ``(n,)`` values span, beside the range ``found``.

    With the values in order, C(i-1, size-1) of the C(n, size) subsets have the i-th as their
    highest; and C(j-i, size-1) have the i-th as lowest and end at the j-th or before.

    Raises:
        InvalidInput: ``size`` is not from 1 to n.
    """
    n = len(values)
    if not 1 <= size <= n:
        raise InvalidInput(f"size {size} is not allowed: 1 to {n}")
    ordered = np.sort(values)
    ranks = np.arange(n)
    weights = highest_weights(n, size)
    high = float(weights @ ordered)
    low = float(weights @ ordered[::-1])
    # A hair of slack, on the scale of the values: a difference of fractions is rounded.
    slack = 16 * np.spacing(np.abs(ordered).max())
    ends = np.searchsorted(ordered, ordered + found + slack, side="right") - 1
    shares = np.exp(log_choose(ends - ranks, size - 1) - log_choose(np.array(n), size))
    return Chance(low=low, high=high, delta=high - low, share=min(1.0, float(shares.sum())))


# ---- the effect of a selection ----


class SubsetStatistic(Record):
    """One statistic of the selected runs, and its tests; p is one-sided, towards what a selection is
    meant to do: a better mean, a better worst run, a smaller range."""

    observed: float | None
    expected: float | None
    """Its mean over random subsets of single runs."""
    expected_by_configuration: float | None
    """Its mean where the pattern is moved between whole configurations; null where there is one, or every
    one has one run."""
    runs: SignificanceTest
    configurations: SignificanceTest | None
    """Null where every configuration has one run, which makes it the same as ``runs``, and where there is
    one configuration, whose runs differ by chance alone."""

    @property
    def test(self) -> SignificanceTest:
        """The one to believe: runs lie in configurations."""
        return self.configurations or self.runs


class SubsetEffect(Record):
    """A selection's effect on one metric that it did not look at."""

    n_selected: int
    n_runs: int
    n_configurations: int
    few: bool
    """Fewer than 5 runs are selected: a warning."""
    reason: str
    """Why it is undefined, such as ``1 run selected``; empty otherwise."""
    mean: SubsetStatistic
    worst: SubsetStatistic
    """The worst value: the lowest where more is better, else the highest."""
    range: SubsetStatistic
    """Its power is poor: 25% where that of the mean is 98%."""


def subset_effect(
    values: np.ndarray,
    selected: np.ndarray,
    configurations: Sequence[Hashable],
    *,
    higher_is_better: bool | None = True,
) -> SubsetEffect:
    """Compare the selected runs with random choices of as many.

    Args:
        values: ``(n,)``, finite.
        selected: ``(n,)`` booleans, made without looking at the examples behind ``values``.
        configurations: ``(n,)`` labels; the runs of one configuration stand in one order everywhere.
        higher_is_better: of the metric; None, where nobody knows, leaves only the range to be tested.
    """
    values, selected = np.asarray(values, dtype=float), np.asarray(selected, dtype=bool)
    n, k = len(values), int(selected.sum())
    sizes = Counter(configurations)
    reason = _undefined(values, k)
    sign = -1.0 if higher_is_better is False else 1.0
    several = len(sizes) > 1 and max(sizes.values()) > 1
    arrangements = _arrangements(selected, configurations) if several else None
    oriented = sign * values
    unknown = "nothing says whether more of it is better" if higher_is_better is None else ""

    def statistic(name: str, no_test: str) -> SubsetStatistic:
        return _statistic(name, oriented, selected, arrangements, sign, reason or no_test)

    return SubsetEffect(
        n_selected=k,
        n_runs=n,
        n_configurations=len(sizes),
        few=k < FEW,
        reason=reason,
        mean=statistic("mean", unknown),
        worst=statistic("worst", unknown),
        range=statistic("range", ""),
    )


def _undefined(values: np.ndarray, k: int) -> str:
    if k < 2:
        return ("no run" if not k else "only 1 run") + " selected"
    if k == len(values):
        return "every run is selected"
    return "" if np.ptp(values) > 0 else "all values are equal"


def _statistic(
    name: str,
    oriented: np.ndarray,
    selected: np.ndarray,
    arrangements: _Arrangements | None,
    sign: float,
    reason: str,
) -> SubsetStatistic:
    found = oriented[selected]
    k = len(found)
    turned = 1.0 if name == "range" else sign  # a range has no direction
    if not k:
        observed = expected = math.nan
    else:
        observed = float(_of(name, found[None, :])[0])
        chance = random_subsets(oriented, k, float(np.ptp(found)))
        means = {"mean": float(oriented.mean()), "worst": chance.low, "range": chance.delta}
        expected = means[name]
    by_configuration = tested = None
    if reason:
        runs = _no_test(RUNS, reason)
        tested = _no_test(CONFIGURATIONS, reason) if arrangements else None
    else:
        runs = _single_runs(name, oriented, selected, observed)
        if arrangements:
            drawn = _of(name, oriented[arrangements.rows])
            by_configuration = known(turned * float(drawn.mean()))
            tested = _moved(name, drawn, observed, oriented, arrangements)
    return SubsetStatistic(
        observed=known(turned * observed) if k > 1 or name != "range" else None,
        expected=known(turned * expected) if k > 1 or name != "range" else None,
        expected_by_configuration=by_configuration,
        runs=runs,
        configurations=tested,
    )


def _of(name: str, values: np.ndarray) -> np.ndarray:
    """``(R, k)`` values, more being better -> ``(R,)``."""
    if name == "mean":
        return np.asarray(values.mean(axis=1))
    return np.asarray(values.min(axis=1) if name == "worst" else np.ptp(values, axis=1))


def _as_good(name: str, drawn: np.ndarray, observed: float, oriented: np.ndarray) -> np.ndarray:
    """Which of ``drawn`` are at least as good as ``observed``, but for rounding."""
    slack = _SLACK * float(np.spacing(np.abs(oriented).max()))
    return drawn <= observed + slack if name == "range" else drawn >= observed - slack


def _no_test(name: str, reason: str) -> SignificanceTest:
    return SignificanceTest(name=name, statistic=None, p=None, reason=reason)


def _draws(n: int) -> int:
    """How many arrangements of ``n`` runs are drawn."""
    return int(np.clip(_MOST_DRAWN // n, _LEAST_DRAWS, DRAWS))


def _smallest(arrangements: int, draws: int | None) -> float:
    return 1 / arrangements if draws is None else max(1 / arrangements, 1 / (draws + 1))


# ---- single runs ----


def _single_runs(
    name: str, oriented: np.ndarray, selected: np.ndarray, observed: float
) -> SignificanceTest:
    """Exact for the range and the worst value, which have closed forms; the mean is drawn."""
    n, k = len(oriented), int(selected.sum())
    draws = None
    if name == "range":
        p = random_subsets(oriented, k, observed).share
    elif name == "worst":
        better = np.count_nonzero(_as_good(name, oriented, observed, oriented))
        p = float(np.exp(log_choose(np.array(better), k) - log_choose(np.array(n), k)))
    else:
        rows, draws = _subsets(n, k)
        p = _p(_as_good(name, _of(name, oriented[rows]), observed, oriented), draws)
    smallest = _smallest(math.comb(n, k), draws)
    return SignificanceTest(
        name=RUNS, statistic=None, p=min(1.0, p), smallest_p=smallest, draws=draws
    )


def _p(as_good: np.ndarray, draws: int | None) -> float:
    if draws is None:  # all of them, what was found among them
        return float(as_good.mean())
    return (1 + int(as_good.sum())) / (draws + 1)


@lru_cache(maxsize=2)
def _subsets(n: int, k: int) -> tuple[np.ndarray, int | None]:
    """``(R, k)`` positions: all subsets where they are few, else drawn from a fixed generator."""
    if math.comb(n, k) <= DRAWS:
        return np.array(list(itertools.combinations(range(n), k)), dtype=np.intp), None
    draws = _draws(n)
    generator = np.random.default_rng(0)
    rows = np.empty((draws, k), dtype=np.intp)
    step = max(1, 2**20 // n)
    for start in range(0, draws, step):
        number = min(step, draws - start)
        order = np.argpartition(generator.random((number, n)), k - 1, axis=1)
        rows[start : start + number] = order[:, :k]
    return rows, draws


# ---- whole configurations ----


@dataclass(frozen=True, eq=False)
class _Arrangements:
    """Ways to move the flags of whole configurations between configurations of equal size.

    Attributes:
        rows: ``(R, k)`` positions of the selected runs.
        draws: how many were drawn; None where all are there.
        distinct: how many there are that differ.
    """

    rows: np.ndarray
    draws: int | None
    distinct: int


def _arrangements(selected: np.ndarray, configurations: Sequence[Hashable]) -> _Arrangements:
    places: dict[Hashable, list[int]] = {}
    for i, label in enumerate(configurations):
        places.setdefault(label, []).append(i)
    by_size: dict[int, list[list[int]]] = {}
    for runs in places.values():
        by_size.setdefault(len(runs), []).append(runs)
    classes = [np.array(alike, dtype=np.intp) for alike in by_size.values()]
    counts = [math.factorial(len(members)) for members in classes]
    distinct = 1
    for members, count in zip(classes, counts, strict=True):
        equal = np.unique(selected[members], axis=0, return_counts=True)[1]
        distinct *= count // math.prod(math.factorial(int(m)) for m in equal)
    every = math.prod(counts)
    draws = None if every <= DRAWS else _draws(len(selected))
    flags = np.zeros((every if draws is None else draws, len(selected)), dtype=bool)
    generator = np.random.default_rng(1)
    before = 1
    for members, count in zip(classes, counts, strict=True):
        m = len(members)
        if draws is None:
            orders = np.array(list(itertools.permutations(range(m))), dtype=np.intp)
            orders = np.tile(np.repeat(orders, before, axis=0), (every // before // count, 1))
            before *= count
        else:
            orders = generator.permuted(np.tile(np.arange(m), (draws, 1)), axis=1)
        flags[:, members.ravel()] = selected[members][orders].reshape(len(flags), -1)
    rows = np.nonzero(flags)[1].reshape(len(flags), int(selected.sum()))
    return _Arrangements(rows, draws, distinct)


def _moved(
    name: str,
    drawn: np.ndarray,
    observed: float,
    oriented: np.ndarray,
    arrangements: _Arrangements,
) -> SignificanceTest:
    if arrangements.distinct < 2:
        return _no_test(
            CONFIGURATIONS,
            "no two configurations with equally many runs differ in which of them are selected",
        )
    draws = arrangements.draws
    return SignificanceTest(
        name=CONFIGURATIONS,
        statistic=None,
        p=_p(_as_good(name, drawn, observed, oriented), draws),
        smallest_p=_smallest(arrangements.distinct, draws),
        draws=draws,
    )
