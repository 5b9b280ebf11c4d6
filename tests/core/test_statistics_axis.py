"""Axis and seed tests and variance components against scipy, statsmodels and slow enumerations."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from mm_mlflow.statistics import axis


def slow_partitions(sizes: tuple[int, ...]) -> set[frozenset[frozenset[int]]]:
    """Every way to part the positions, from all orders of the labels."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    found = set()
    for order in set(itertools.permutations(labels)):
        parts = [
            frozenset(i for i, label in enumerate(order) if label == which)
            for which in range(len(sizes))
        ]
        found.add(frozenset(parts))
    return found


@pytest.mark.parametrize(
    "sizes",
    [(1, 1), (1, 3), (2, 2), (3, 3), (2, 2, 2), (1, 2, 3), (1, 1, 4), (2, 2, 3), (1, 2, 2, 2)],
)
def test_every_partition_once(sizes: tuple[int, ...]) -> None:
    """Against a slow enumeration; groups of equal size are interchangeable."""
    found = [
        frozenset(frozenset(int(i) for i in group[row]) for group in axis._groups(sizes))
        for row in range(len(axis._groups(sizes)[0]))
    ]
    assert len(found) == len(set(found)) == axis.partitions(sizes)
    assert set(found) == slow_partitions(sizes)


def test_partitions_are_the_printed_numbers() -> None:
    """STATISTICS, criterion 5: 126 and 126,126; beyond 200,000 they are drawn from."""
    assert axis.partitions([5, 5]) == len(axis._groups((5, 5))[0]) == 126
    assert axis.partitions([5, 5, 5]) == len(axis._groups((5, 5, 5))[0]) == 126_126
    assert axis.partitions([10, 10]) == 92_378
    assert axis.partitions([5] * 4) > axis.MOST


def between(*groups: np.ndarray, axis: int = -1) -> np.ndarray:
    """Sum of squares between groups, rounded so that ties are ties."""
    whole = np.concatenate(groups, axis=axis).mean(axis=axis)
    squares = [g.shape[axis] * (g.mean(axis=axis) - whole) ** 2 for g in groups]
    return np.round(np.sum(squares, axis=0), 9)


TABLES = [
    ((5, 5), "real"), ((5, 5), "ties"), ((3, 5), "real"), ((2, 6), "ties"), ((4, 4), "shift"),
    ((3, 3, 3), "real"), ((3, 3, 3), "ties"), ((2, 3, 4), "ties"), ((2, 2, 4), "shift"),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "kind"), TABLES)
def test_exact_p_is_scipys(sizes: tuple[int, ...], kind: str) -> None:
    """To 1e-12, with unequal numbers and ties everywhere."""
    generator = np.random.default_rng(sum(sizes))
    groups = [generator.standard_normal(size) for size in sizes]
    if kind == "ties":
        groups = [np.round(group * 0.8) / 10 for group in groups]
    if kind == "shift":
        groups[-1] += 2
    peer = stats.permutation_test(
        groups,
        between,
        permutation_type="independent",
        n_resamples=np.inf,
        alternative="greater",
        vectorized=True,
    )
    found = axis.axis_test(groups)
    assert found.draws is None
    assert found.p == pytest.approx(peer.pvalue, abs=1e-12)
    assert found.statistic == pytest.approx(stats.f_oneway(*groups).statistic, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.7, 1.5])
def test_drawn_p_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    """Within 4 standard errors of 9,999 draws, and it says how many it drew."""
    generator = np.random.default_rng(4)
    groups = [generator.standard_normal(5) for _ in range(3)]
    groups[0] += shift
    exact = axis.axis_test(groups)
    monkeypatch.setattr(axis, "MOST", 10)
    drawn = axis.axis_test(groups)
    assert (exact.draws, drawn.draws, drawn.smallest_p) == (None, 9_999, 1e-4)
    assert exact.p is not None
    error = math.sqrt(exact.p * (1 - exact.p) / axis.DRAWS) + 1e-4
    assert drawn.p == pytest.approx(exact.p, abs=4 * error)


def test_many_partitions_are_drawn_from_a_fixed_generator() -> None:
    """Equal numbers each time; p is never 0."""
    groups = [np.arange(8.0) + 100 * level for level in range(3)]
    first, again = axis.axis_test(groups), axis.axis_test(groups)
    assert first == again
    assert (first.p, first.draws) == (1 / 10_000, 9_999)


small = st.lists(
    st.lists(st.integers(-20, 20).map(lambda k: k / 16), min_size=2, max_size=4),
    min_size=2,
    max_size=3,
)


@settings(deadline=None)
@given(small, st.integers(-8, 8), st.sampled_from([-2.0, 0.25, 8.0]), st.randoms())
def test_p_knows_neither_unit_nor_order(
    rows: list[list[float]], by: int, times: float, chance: object
) -> None:
    """A constant, a factor, the order of runs and of levels change nothing."""
    groups = [np.array(row) for row in rows]
    moved = [times * np.array(chance.sample(row, len(row))) + by for row in rows]  # type: ignore[attr-defined]
    assert axis.axis_test(groups).p == axis.axis_test(moved[::-1]).p


def long(table: np.ndarray) -> pd.DataFrame:
    """One row per cell that has a value."""
    rows = [
        (float(value), level, seed)
        for level, row in enumerate(table)
        for seed, value in enumerate(row)
        if np.isfinite(value)
    ]
    return pd.DataFrame(rows, columns=["y", "level", "seed"])


@pytest.mark.parametrize("shape", [(2, 2), (2, 5), (3, 5), (4, 3)])
def test_two_way_is_statsmodels(shape: tuple[int, int]) -> None:
    """F, p and mean squares of the additive ANOVA; holes leave their column out."""
    table = np.random.default_rng(1).standard_normal(shape) + np.arange(shape[0])[:, None]
    peer = anova_lm(ols("y ~ C(level) + C(seed)", long(table)).fit())
    holed = np.column_stack([table, np.full(shape[0], np.nan)])
    holed[0, -1] = 5.0
    for values in (table, holed):
        found = axis.two_way_test(values)
        assert found.statistic == pytest.approx(peer.loc["C(level)", "F"], rel=1e-9)
        assert found.p == pytest.approx(peer.loc["C(level)", "PR(>F)"], rel=1e-9)
    squares = peer["sum_sq"] / peer["df"]
    parts = axis.components(table)
    assert parts.not_shared == pytest.approx(squares["Residual"], rel=1e-9)
    levels = (squares["C(level)"] - squares["Residual"]) / shape[1]
    assert parts.between_levels == pytest.approx(levels, rel=1e-9)
    shared = (squares["C(seed)"] - squares["Residual"]) / shape[0]
    assert parts.shared_by_seed == pytest.approx(shared, rel=1e-9)


@pytest.mark.parametrize("holes", [0, 3])
def test_one_way_components_are_statsmodels(holes: int) -> None:
    """Mean squares of the one-way ANOVA, unequal numbers included, and ω² by its textbook formula."""
    table = np.random.default_rng(2).standard_normal((3, 5)) + np.arange(3)[:, None]
    table[0, : holes - 1 if holes else 0] = np.nan
    table[2, -1:] = np.nan if holes else table[2, -1:]
    peer = anova_lm(ols("y ~ C(level)", long(table)).fit())
    sum_sq, df = peer["sum_sq"], peer["df"]
    within = sum_sq["Residual"] / df["Residual"]
    n = np.isfinite(table).sum(axis=1)
    size = (n.sum() - (n**2).sum() / n.sum()) / 2
    found = axis.components(table, paired=False)
    assert found.run_to_run == pytest.approx(within, rel=1e-9)
    between_levels = (sum_sq["C(level)"] / df["C(level)"] - within) / size
    assert found.between_levels == pytest.approx(between_levels, rel=1e-9)
    omega = (sum_sq["C(level)"] - df["C(level)"] * within) / (sum_sq.sum() + within)
    assert found.omega_squared == pytest.approx(omega, rel=1e-9)


@pytest.mark.parametrize("holes", [False, True])
def test_components_are_unbiased(holes: bool) -> None:
    """Means over 4,000 tables within 4 standard errors of the truth, negative ones kept."""
    generator = np.random.default_rng(3)
    found = []
    for _ in range(4000):
        table = generator.standard_normal((3, 5)) * math.sqrt(0.5)
        table += math.sqrt(0.25) * generator.standard_normal((1, 5))
        table += math.sqrt(0.1) * generator.standard_normal((3, 1))
        if holes:
            table[0, 0] = table[1, 3] = np.nan
        one = axis.components(table)
        found.append((one.between_levels, one.run_to_run, one.shared_by_seed, one.not_shared))
    values = np.array(found, dtype=float)
    # With holes, levels are compared by all runs, and what equal seeds share is taken for chance.
    truth = np.array([0.1 - (0.25 / 5 if holes else 0.0), 0.75, 0.25, 0.5])
    error = values.std(axis=0) / math.sqrt(len(values))
    error[0] += 0.003 if holes else 0  # numbers of runs are not quite 5
    assert (np.abs(values.mean(axis=0) - truth) <= 4 * error).all()
    assert (values < 0).any()


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=2, max_size=4))
def test_run_to_run_is_shared_and_not_shared(rows: list[list[float]]) -> None:
    """In a complete table the two parts sum to the whole."""
    found = axis.components(np.array(rows))
    assert found.shared_by_seed is not None
    assert found.not_shared is not None
    assert found.run_to_run == pytest.approx(found.shared_by_seed + found.not_shared, abs=1e-12)


def slow_seed_p(values: np.ndarray) -> tuple[float, float]:
    """Share of all arrangements within rows as extreme as this one, and as the most extreme."""
    places = [np.flatnonzero(np.isfinite(row)) for row in values]
    counts = np.isfinite(values).sum(axis=0)
    ways = [
        list(itertools.permutations(row[there])) for row, there in zip(values, places, strict=True)
    ]
    centre = [row[there].mean() for row, there in zip(values, places, strict=True)]
    found = []
    for arrangement in itertools.product(*ways):
        sums = np.zeros(values.shape[1])
        for there, row, mean in zip(places, arrangement, centre, strict=True):
            sums[there] += np.array(row) - mean
        found.append((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    squares = np.array(found)
    return float((squares >= squares[0] - 1e-9).mean()), float(
        (squares >= squares.max() - 1e-9).mean()
    )


nan = np.nan
HOLES = {
    "3 x 3": np.ones((3, 3)),
    "2 x 4": np.ones((2, 4)),
    "one hole": np.array([[1, 1, 1], [1, 1, nan], [1, 1, 1]]),
    "nested": np.array([[1, 1, 1, 1, 1], [1, 1, 1, nan, nan]]),
    "pairs": np.array([[1, 1, nan], [nan, 1, 1], [1, nan, 1]]),
    "two columns": np.ones((4, 2)),
    "two blocks": np.array([[1, 1, 1, nan, nan], [1, 1, 1, nan, nan], [nan, nan, nan, 1, 1],
                            [nan, nan, nan, 1, 1]]),
    "a bridge": np.array([[1, 1, nan, nan], [nan, nan, 1, 1], [1, nan, 1, 1]]),
    "nothing shared": np.array([[1, 1, nan, nan], [nan, nan, 1, 1]]),
}  # fmt: skip


@pytest.mark.parametrize("case", HOLES)
def test_seed_test_against_all_arrangements(case: str) -> None:
    """Its p lies within 4 standard errors of the draws; the smallest p that it names is the one there is."""
    values = HOLES[case] * np.random.default_rng(5).standard_normal(HOLES[case].shape)
    found = axis.shared_seed_test(values)
    exact, smallest = slow_seed_p(values)
    assert found.p == pytest.approx(
        exact, abs=4 * math.sqrt(exact * (1 - exact) / axis.DRAWS) + 1e-4
    )
    assert found.smallest_p == pytest.approx(max(smallest, 1e-4), rel=1e-9)
    assert found.p is not None
    assert found.p >= smallest - 1e-12


def test_smallest_seed_p_is_the_printed_one() -> None:
    """STATISTICS, section 3: rows of 5 and 3 by permuting within rows; what it takes to reach 5%."""
    generator = np.random.default_rng(0)
    three = axis.shared_seed_test(generator.standard_normal((3, 3)))
    assert (three.smallest_p, three.needs) == (pytest.approx(1 / 36), None)
    pairs = axis.shared_seed_test(generator.standard_normal((3, 2)))
    assert (pairs.smallest_p, pairs.needs) == (0.25, 6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(-8, 8), st.sampled_from([-2.0, 0.25, 8.0]))
def test_seed_p_knows_no_unit(seed: int, by: int, times: float) -> None:
    """Row effects, a constant and a factor change nothing."""
    table = np.random.default_rng(seed).integers(-9, 9, (4, 3)) / 8
    effects = np.arange(4)[:, None]
    assert axis.shared_seed_test(table).p == axis.shared_seed_test(times * table + by + effects).p


@pytest.mark.parametrize("levels", [2, 3])
def test_needed_runs_reach_the_level_and_one_less_does_not(levels: int) -> None:
    """Four for two levels at 5%; five under Holm over up to six tables."""
    for alpha in (0.05, 0.05 / 5, 0.05 / 6, 0.05 / 7):
        runs = axis.needed_runs(levels, alpha)
        smallest = [
            axis.axis_test([np.arange(n) + 9.0 * level for level in range(levels)]).p
            for n in (runs - 1, runs)
        ]
        assert smallest[0] is not None
        assert smallest[1] is not None
        assert smallest[0] > alpha >= smallest[1]
    if levels == 2:
        assert [axis.needed_runs(2, 0.05 / k) for k in (1, 5, 6, 7)] == [4, 5, 5, 6]


def test_what_is_offered() -> None:
    """No permutation within columns, no Friedman, no interaction, no pretest: they keep no 5%."""
    functions = {
        name
        for name, found in inspect.getmembers(axis, inspect.isfunction)
        if not name.startswith("_") and found.__module__ == axis.__name__
    }
    assert functions == {
        "axis_test", "components", "needed_runs", "partitions", "shared_seed_test", "two_way_test",
    }  # fmt: skip


def test_many_levels_of_one_run_are_parted_at_once() -> None:
    """23 runs of which three share a level: 1,771 partitions, and no detour by millions of others."""
    values = np.random.default_rng(0).normal(size=23)
    found = axis.axis_test([*(values[i : i + 1] for i in range(20)), values[20:]])
    assert found.draws is None
    assert found.smallest_p == pytest.approx(1 / 1771)


def test_hundreds_of_levels_need_two_runs_each() -> None:
    """More partitions than floats reach."""
    assert axis.needed_runs(200) == 2
    found = axis.axis_test([np.array([float(i)]) for i in range(200)])
    assert (found.p, found.reason) == (None, "one run per level says nothing about chance")


def test_ties_are_told_from_what_runs_could_give() -> None:
    """One value that differs: every partition is as clear as any other."""
    found = axis.axis_test([np.array([1.0, 0, 0, 0, 0]), np.zeros(5)])
    assert found.p == found.smallest_p == 1.0
