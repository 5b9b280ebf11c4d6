"""A selection beside random choices, on halves of the test examples, on resampled ones; regret."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.statistics.regret import half_regrets, regret
from mm_mlflow.statistics.resampling import (
    bootstrap,
    chosen,
    examples_of,
    halved,
    halves,
    resampled,
    weighted,
)
from mm_mlflow.statistics.split_half import split_half
from mm_mlflow.statistics.stability import stability
from mm_mlflow.statistics.subsets import DRAWS, subset_effect

STATISTICS = {"mean": np.mean, "worst": np.min, "range": np.ptp}


def mask_of(n: int, *places: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[list(places)] = True
    return mask


def outcomes(values: np.ndarray, metric: str = "a", first: int = 0, **other: object) -> Outcomes:
    """Runs ``r0``, ``r1``, ... on examples numbered from ``first``."""
    runs, examples = values.shape
    ids = np.array([str(first + i) for i in range(examples)])
    return Outcomes(metric, tuple(f"r{i}" for i in range(runs)), ids, values.astype(float), **other)


def best(values: np.ndarray) -> np.ndarray:
    """The run that is best in the first metric."""
    return values[:, 0] == values[:, 0].max()


# ---- random choices ----


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_single_runs_against_all_subsets(seed: int, sign: float) -> None:
    """Every subset counted one by one, ties included; where less is better, all is mirrored."""
    rng = np.random.default_rng(seed)
    n, k = 9, int(rng.integers(2, 8))
    values = np.round(rng.random(n), 1) + (1.0 if seed % 2 else 0.0)
    selected = mask_of(n, *rng.choice(n, k, replace=False))
    found = subset_effect(sign * values, selected, range(n), higher_is_better=sign > 0)
    subsets = [list(rows) for rows in itertools.combinations(range(n), k)]
    for name, function in STATISTICS.items():
        statistic = getattr(found, name)
        every = np.array([function(values[rows]) for rows in subsets])
        observed = function(values[selected])
        if name == "range":
            share = np.mean(every <= observed + 1e-9)
            turned = 1.0
        else:
            share, turned = np.mean(every >= observed - 1e-9), sign
        assert statistic.runs.p == pytest.approx(share, abs=1e-9)
        assert statistic.runs.draws is None
        assert statistic.runs.smallest_p == pytest.approx(1 / len(subsets))
        assert statistic.observed == pytest.approx(turned * observed)
        assert statistic.expected == pytest.approx(turned * every.mean())
        assert statistic.configurations is None  # every configuration has one run
        assert statistic.test is statistic.runs


@pytest.mark.parametrize("seed", range(8))
def test_whole_configurations_against_all_permutations(seed: int) -> None:
    """Flags move as a whole, between configurations of equal size alone; expected values too."""
    rng = np.random.default_rng(seed)
    labels = ["a"] * 3 + ["b"] * 2 + ["c"] * 3 + ["d"] * 2 + ["e"] * 3 + ["f"]
    places = {name: [i for i, label in enumerate(labels) if label == name] for name in "abcdef"}
    values = np.round(rng.random(len(labels)), 1)
    selected = rng.random(len(labels)) < 0.5
    if selected.sum() < 2 or selected.all():
        selected = mask_of(len(labels), 0, 5, 6)
    found = subset_effect(values, selected, labels)
    every: dict[str, list[float]] = {name: [] for name in STATISTICS}
    patterns = set()
    for threes in itertools.permutations("ace"):
        for twos in itertools.permutations("bd"):
            source = dict(zip("acebd", [*threes, *twos], strict=True)) | {"f": "f"}
            flags = np.zeros(len(labels), dtype=bool)
            for name, members in places.items():
                flags[members] = selected[places[source[name]]]
            patterns.add(tuple(flags))
            for name, function in STATISTICS.items():
                every[name].append(function(values[flags]))
    for name, function in STATISTICS.items():
        statistic = getattr(found, name)
        observed = function(values[selected])
        drawn = np.array(every[name])
        share = np.mean(drawn <= observed + 1e-9 if name == "range" else drawn >= observed - 1e-9)
        assert statistic.configurations is not None
        assert statistic.test is statistic.configurations
        assert statistic.configurations.p == pytest.approx(share)
        assert statistic.configurations.draws is None
        assert statistic.configurations.smallest_p == pytest.approx(1 / len(patterns))
        assert statistic.expected_by_configuration == pytest.approx(drawn.mean())


def test_drawn_choices_agree_with_exact_ones() -> None:
    """45 runs of 9 configurations: p of the drawn ones within 4 standard errors of theory."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=45)
    selected = values + rng.normal(size=45) > 0.8
    labels = np.repeat(np.arange(9), 5)
    found = subset_effect(values, selected, labels.tolist())
    k = int(selected.sum())
    # The mean of a subset of 45 normal values is normal, with the finite population's correction.
    spread = values.std(ddof=1) * math.sqrt((1 - k / 45) / k)
    theory = stats.norm.sf((values[selected].mean() - values.mean()) / spread)
    p = found.mean.runs.p
    assert p is not None
    assert abs(p - theory) < 4 * math.sqrt(theory * (1 - theory) / DRAWS) + 0.002
    whole = found.mean.configurations
    assert whole is not None
    assert whole.draws == found.mean.runs.draws == DRAWS
    assert whole.smallest_p == pytest.approx(1 / (DRAWS + 1))
    assert found == subset_effect(values, selected, labels.tolist())  # a fixed generator


def test_what_is_undefined_says_why() -> None:
    """Nothing or one run selected, all of them, equal values: no p, and a warning below five."""
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for places, reason in [
        ((), "no run selected"), ((2,), "only 1 run selected"), (range(6), "every run is selected"),
    ]:  # fmt: skip
        found = subset_effect(values, mask_of(6, *places), "aabbcc")
        assert found.reason == reason
        for name in STATISTICS:
            statistic = getattr(found, name)
            assert statistic.runs.p is statistic.configurations.p is None
            assert statistic.test.reason == reason
    assert subset_effect(values, mask_of(6, 0, 1), "aaaaaa").mean.configurations is None
    assert subset_effect(values, mask_of(6), "abcdef").mean.observed is None
    assert subset_effect(np.ones(6), mask_of(6, 0, 1), "abcdef").reason == "all values are equal"
    few, enough = (subset_effect(values, mask_of(6, *range(n)), "abcdef").few for n in (4, 5))
    assert (few, enough) == (True, False)


def test_configurations_that_cannot_be_moved() -> None:
    """Of unequal size, or alike in what is selected: no p of theirs, and none of single runs instead."""
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for labels, selected in [("abbccc", mask_of(6, 4, 5)), ("aabbcc", mask_of(6, 0, 2, 4))]:
        mean = subset_effect(values, selected, labels).mean
        assert mean.test.p is None
        assert mean.test.reason.startswith("no two configurations with equally many runs differ")
        assert mean.runs.p is not None


def test_a_metric_of_unknown_direction_has_its_range_alone() -> None:
    """Nothing says which mean would be better."""
    values = np.random.default_rng(0).random(12)
    found = subset_effect(values, mask_of(12, 1, 2, 3, 4, 5), range(12), higher_is_better=None)
    assert found.mean.test.p is found.worst.test.p is None
    assert found.mean.test.reason == "nothing says whether more of it is better"
    assert found.range.test.p is not None


def test_many_runs_of_strangers_are_not_slow() -> None:
    """10,000 runs in pairs: fewer draws, said so, and a smallest p that follows from them."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000)
    found = subset_effect(values, values > 0, np.repeat(np.arange(5_000), 2).tolist())
    for test in (found.mean.runs, found.mean.configurations):
        assert test is not None
        assert test.draws is not None
        assert 999 <= test.draws < DRAWS
        assert test.p == test.smallest_p == 1 / (test.draws + 1)


def rejections(sd: float, rho: float, sheets: int, seed: int) -> np.ndarray:
    """``(2, 3)`` shares of p ≤ 5%: single runs and whole configurations; mean, worst, range.

    9 configurations x 5 runs; top 33% of every one of 3 metrics that correlate by .5, and with the
    held-out one by ``rho``; configurations differ by ``sd`` of the runs' own.
    """
    rng = np.random.default_rng(seed)
    table = np.full((4, 4), rho)
    table[:3, :3] = 0.5
    np.fill_diagonal(table, 1.0)
    root = np.linalg.cholesky(table)
    labels = np.repeat(np.arange(9), 5)
    hits, judged = np.zeros((2, 3)), 0
    for _ in range(sheets):
        values = rng.normal(size=(45, 4)) @ root.T
        values += sd * (rng.normal(size=(9, 4)) @ root.T)[labels]
        last = np.sort(values[:, :3], axis=0)[-15]
        found = subset_effect(values[:, 3], (values[:, :3] >= last).all(axis=1), labels.tolist())
        if found.reason:
            continue
        judged += 1
        for i, which in enumerate(("runs", "configurations")):
            for j, name in enumerate(STATISTICS):
                test = getattr(getattr(found, name), which)
                hits[i, j] += test.p is not None and test.p <= 0.05
    assert judged > 0.9 * sheets
    return hits / judged


def test_calibration_in_small() -> None:
    """Criterion 13: 5% where nothing relates the metrics, whatever configurations do, if these are moved
    as a whole; single runs alarm too often there. R = 400, standard error 1.1 points."""
    nothing = rejections(0.0, 0.0, 400, seed=1)
    assert (nothing <= 0.05 + 4 * 0.0109).all()
    apart = rejections(2.0, 0.0, 400, seed=2)
    assert (apart[1] <= 0.05 + 4 * 0.0109).all()
    assert apart[0, 0] > 0.10  # why they are not believed
    power = rejections(0.0, 0.7, 100, seed=3)
    assert power[0, 0] > 0.90
    assert power[0, 2] < 0.5  # "whose power is poor"


# ---- parts of the test examples ----


def test_halves_are_even_in_every_metric() -> None:
    """Each half has half of all examples and of every metric's, to within one per stratum; halves of
    one call differ."""
    strata = np.repeat([0, 1, 2, 3], [7, 100, 1, 50])
    found = halves(strata, 20, np.random.default_rng(0))
    assert found.shape == (20, 158)
    assert (found.sum(axis=1) == 79).all()
    for stratum, size in enumerate((7, 100, 1, 50)):
        inside = found[:, strata == stratum].sum(axis=1)
        assert (np.abs(inside - size / 2) <= 1).all()
    assert len({row.tobytes() for row in found}) == 20
    assert abs(found.mean(axis=0) - 0.5).max() < 0.5  # nobody is always on one side


def test_an_example_is_one_in_every_metric_and_with_its_copies() -> None:
    """Ids are examples, whatever the order; copies are one unit; strata are what examples are behind."""
    one = outcomes(np.ones((2, 4)), "one", copies=np.array([5, 9, 5, 7]))
    ids = np.array(["3", "0", "77"])
    other = Outcomes("other", ("r1", "r0"), ids, np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    found = examples_of([one, other], ("r0", "r1"))
    assert found.units == 4  # 0 and 2 are copies; 1; 3; 77
    first, second = found.places
    assert first[0] == first[2]
    assert len(set(first.tolist())) == 3
    assert second[0] == first[3]
    assert second[1] == first[0]
    assert second[2] not in first
    np.testing.assert_array_equal(found.values[1], [[0.4, 0.5, 0.6], [0.1, 0.2, 0.3]])
    strata = found.strata
    assert strata[first[0]] == strata[first[3]] != strata[first[1]]
    assert strata[second[2]] not in (strata[first[0]], strata[first[1]])


def test_values_on_parts_are_means_over_them() -> None:
    """Against a loop; a metric without examples there has no value."""
    rng = np.random.default_rng(1)
    values = (rng.random((3, 10)) < 0.7).astype(float)
    found = examples_of([outcomes(values), outcomes(values[:, :1], "b")], ("r0", "r1", "r2"))
    weights = bootstrap(10, 5, rng)
    assert (weights.sum(axis=1) == 10).all()
    weights[0, found.places[1][0]] = 0
    first, second = weighted(found, weights)
    order = found.places[0]
    for i, row in enumerate(weights):
        for m in range(3):
            repeated = np.repeat(values[m], row[order])
            assert first[i, m] == pytest.approx(repeated.mean())
    assert np.isnan(second[0]).all()
    masks = chosen(best, [second])
    assert not masks[0].any()


def test_halves_by_hand() -> None:
    """Two examples: whoever is right on one is chosen there, and wrong on the other."""
    found = halved([outcomes(np.array([[1, 0], [0, 1]]))], ("r0", "r1"), 10)
    told = split_half(found, 1, best, [1.0])
    (gain,) = told.gains
    assert (told.halvings, told.n_runs, told.n_examples) == (10, 2, 2)
    assert (told.empty, told.n_selected) == (0.0, 1.0)
    assert (gain.same_half, gain.other_half, gain.optimism) == (0.5, -0.5, 1.0)
    assert gain.whole == 0.0  # equal on both: both are chosen
    mirrored = split_half(found, 1, lambda v: v[:, 0] == v[:, 0].min(), [-1.0]).gains[0]
    assert (mirrored.same_half, mirrored.other_half) == (0.5, -0.5)
    none = split_half(found, 1, lambda v: v[:, 0] > 2, [1.0])
    assert (none.empty, none.n_selected, none.gains) == (1.0, None, ())
    assert split_half(found, 1, best, [None]).gains == ()


def optimism(n: int, tau: float, sheets: int, seed: int, halvings: int = 1) -> np.ndarray:
    """``(sheets, 3)``, in points: gain of the best of 45 runs on its own half, on the other half, and what
    it truly is: accuracies of logit-normal runs with spread ``tau`` on ``n`` examples."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(sheets):
        logit = rng.normal(2.2, 1.0, size=n) + tau * rng.normal(size=(45, 1))
        right = rng.random((45, n)) < 1 / (1 + np.exp(-logit))
        values = halved([outcomes(right)], [f"r{i}" for i in range(45)], halvings)
        (gain,) = split_half(values, 1, best, [1.0]).gains
        found.append((gain.same_half, gain.other_half, gain.optimism))
    return 100 * np.array(found)


def test_half_split_removes_optimism_in_small() -> None:
    """Criterion 14, R = 150: nothing is left on the other half where runs do not differ, within 4
    standard errors; on the same half there are 4 points at N = 250 and 2 at 1,000."""
    for n, least in ((250, 4.0), (1000, 2.0)):
        same, other, difference = optimism(n, 0.0, 150, seed=n).T
        assert abs(other.mean()) < 4 * other.std(ddof=1) / math.sqrt(150)
        assert same.mean() >= least - 4 * same.std(ddof=1) / math.sqrt(150)
        np.testing.assert_allclose(difference, same - other)


def test_stability_by_hand() -> None:
    """Runs that are right or wrong everywhere are chosen always or never; equal ones always tie."""
    sure = resampled([outcomes(np.array([[1] * 8, [0] * 8, [1] * 8]))], ("r0", "r1", "r2"))
    told = stability(sure, best)
    assert [(run.run_id, run.selected, run.share) for run in told.runs] == [
        ("r0", True, 1.0), ("r1", False, 0.0), ("r2", True, 1.0),
    ]  # fmt: skip
    assert (told.resamples, told.jaccard, told.core, told.empty) == (200, 1.0, 2, 0.0)
    # Random pairs of 3: with {0, 2}, one is the same and two share one of three.
    assert told.jaccard_by_chance == pytest.approx((1 + 2 / 3) / 3)
    nothing = stability(sure, lambda v: v[:, 0] > 1)
    assert (nothing.jaccard, nothing.jaccard_by_chance, nothing.empty) == (None, None, 1.0)


def test_stability_is_that_of_resampled_examples() -> None:
    """Against a loop over the same weights; a coin toss between runs is half a chance."""
    rng = np.random.default_rng(4)
    values = (rng.random((6, 40)) < 0.8).astype(float)
    run_ids = [f"r{i}" for i in range(6)]
    told = stability(resampled([outcomes(values)], run_ids, 50), best)
    examples = examples_of([outcomes(values)], run_ids)
    weights = bootstrap(40, 50, np.random.default_rng(9))
    sets = []
    for row in weights:
        sums = [
            sum(row[u] * v for u, v in zip(examples.places[0], run, strict=True)) for run in values
        ]
        sets.append({i for i, total in enumerate(sums) if total == max(sums)})
    for i, run in enumerate(told.runs):
        assert run.share == pytest.approx(np.mean([i in chosen_ for chosen_ in sets]))
    actual = set(np.flatnonzero(values.sum(axis=1) == values.sum(axis=1).max()).tolist())
    assert told.jaccard == pytest.approx(np.mean([len(s & actual) / len(s | actual) for s in sets]))
    assert told.core == sum(run.share >= 0.8 for run in told.runs)


# ---- regret ----


def test_regret_by_hand() -> None:
    """Two runs tie for the best accuracy: their mean counts; a gap is better where it is small."""
    accuracy = np.array([0.9, 0.9, 0.8, 0.7])
    robust = np.array([0.2, 0.4, 0.6, 0.4])
    told = regret(("accuracy", accuracy, 1.0), ("robust", robust, 1.0))
    assert (told.chosen, told.best, told.mean) == pytest.approx((0.3, 0.6, 0.4))
    assert (told.regret, told.random_regret) == pytest.approx((0.3, 0.2))
    gap = regret(("accuracy", accuracy, 1.0), ("gap", robust, -1.0))
    assert (gap.chosen, gap.best, gap.regret, gap.random_regret) == pytest.approx(
        (0.3, 0.2, 0.1, 0.2)
    )
    loss = regret(("loss", -accuracy, -1.0), ("robust", robust, 1.0))
    assert loss.regret == pytest.approx(0.3)


def test_regret_on_halves_is_not_inflated() -> None:
    """Where runs do not differ, there is nothing to regret: on the same examples the best of 45 beats the
    run of the best accuracy by points, on the other half by nothing, within 4 standard errors."""
    rng = np.random.default_rng(0)
    same, other, random = [], [], []
    run_ids = [f"r{i}" for i in range(45)]
    for _ in range(80):
        one, two = (rng.random((45, 400)) < 0.9 for _ in range(2))
        there = [outcomes(one, "accuracy"), outcomes(two, "b", first=1000)]
        told = half_regrets(halved(there, run_ids, 5), 0, [1.0, 1.0])["b"]
        same.append(
            regret(("accuracy", one.mean(axis=1), 1.0), ("b", two.mean(axis=1), 1.0)).regret
        )
        other.append(told.regret)
        random.append(told.random_regret)
    assert np.mean(same) > 0.02
    for found in (other, random):
        assert abs(np.mean(found)) < 4 * np.std(found, ddof=1) / math.sqrt(80)
