"""The sampling floor against statsmodels, identities and slow versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q

from mm_mlflow.statistics import floor
from mm_mlflow.statistics.floor import Floor, binomial_guide, cochran_q, sampling_floor
from mm_mlflow.statistics.ranges import d2


def correct(seed: int, runs: int, examples: int, hard: float = 1.5) -> np.ndarray:
    """``(runs, examples)`` of 0 and 1; each example has a chance of its own."""
    generator = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-2 - hard * generator.standard_normal(examples)))
    return (generator.random((runs, examples)) < chance).astype(float)


def configurations(*sizes: int) -> list[np.ndarray]:
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def known_floor(outcomes: np.ndarray, groups: list[np.ndarray], **more: np.ndarray) -> Floor:
    found = sampling_floor(outcomes, groups, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(("runs", "examples"), [(2, 40), (5, 300), (15, 100), (45, 1000)])
def test_q_is_statsmodels(runs: int, examples: int) -> None:
    """To 1e-9."""
    outcomes = correct(runs, runs, examples)
    peer = cochrans_q(outcomes.T)
    q, freedom = cochran_q(outcomes)
    assert (q, freedom) == pytest.approx((peer.statistic, peer.df), rel=1e-9)


def test_q_is_summed_within_configurations() -> None:
    """Statistic and degrees of freedom are sums of statsmodels' per configuration; p is chi-square's."""
    outcomes, groups = correct(1, 16, 1000), configurations(5, 3, 8)
    peers = [cochrans_q(outcomes[group].T) for group in groups]
    found = known_floor(outcomes, groups)
    assert found.method == "formula"
    assert found.test.draws is None
    assert found.test.statistic == pytest.approx(sum(peer.statistic for peer in peers), rel=1e-9)
    p = stats.chi2.sf(sum(peer.statistic for peer in peers), sum(peer.df for peer in peers))
    assert found.test.p == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_permuted_q_agrees_with_chi_square(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Where both hold (many flips); within 4 standard errors of the draws and what Q's lattice takes."""
    outcomes, groups = correct(seed, 45, 1000), configurations(*[5] * 9)
    outcomes[:5] = np.where(
        np.random.default_rng(seed).random((5, 1000)) < 0.02 * seed, 0, outcomes[:5]
    )
    by_formula = known_floor(outcomes, groups).test.p
    monkeypatch.setattr(floor, "FEW_EXAMPLES", 2000)
    permuted = known_floor(outcomes, groups).test
    assert permuted.draws == floor.DRAWS
    assert by_formula is not None
    error = math.sqrt(by_formula * (1 - by_formula) / floor.DRAWS)
    assert permuted.p == pytest.approx(by_formula, abs=4 * error + 0.01)


def test_permutation_against_every_arrangement() -> None:
    """Three runs, five examples: 6^5 ways to permute columns; p within 4 standard errors of the draws."""
    outcomes = np.array([[1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0]], dtype=float)
    orders = list(itertools.permutations(range(3)))
    seen = []
    for chosen in itertools.product(orders, repeat=5):
        moved = np.column_stack([outcomes[list(order), i] for i, order in enumerate(chosen)])
        seen.append(moved.sum(axis=1).var())
    exact = np.mean(np.array(seen) >= outcomes.sum(axis=1).var() - 1e-12)
    found = known_floor(outcomes, configurations(3)).test
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / floor.DRAWS))


@pytest.mark.parametrize("real", [False, True])
def test_permuting_columns_keeps_their_sums(real: bool) -> None:
    """Only who was right changes, not how many; and every run is as likely as another."""
    outcomes = correct(2, 8, 60)
    if real:
        outcomes = np.random.default_rng(0).beta(2, 1, outcomes.shape)
    parts = [floor._Group(outcomes[group]) for group in configurations(5, 3)]
    for part, drawn in zip(parts, floor._permuted(parts, 60), strict=True):
        assert drawn.shape == (floor.DRAWS, part.n)
        assert drawn.sum(axis=1) * 60 == pytest.approx(part.values.sum(), rel=1e-6)
        sd = math.sqrt(part.flips / floor.DRAWS) / 60
        assert drawn.mean(axis=0) == pytest.approx(part.values.mean(), abs=4 * sd)


def test_independent_runs_have_the_pooled_variance() -> None:
    """Ddof 1 within configurations, whatever their sizes; whole examples flip."""
    outcomes = correct(3, 12, 80)
    parts = [floor._Group(outcomes[group]) for group in configurations(2, 3, 7)]
    found = known_floor(outcomes, configurations(2, 3, 7))
    drawn = floor._independent(parts, 40, 80)
    assert drawn.var(axis=1, ddof=1).mean() == pytest.approx(found.run_sd**2, rel=0.03)
    assert drawn * 80 == pytest.approx(np.round(drawn * 80), abs=1e-9)


@pytest.mark.parametrize(("share", "by"), [(0.8, 0.1), (0.3, 0.0), (-0.7, 0.9)])
def test_real_outcomes_are_permuted_as_answers_are(share: float, by: float) -> None:
    """The same p for outcomes of 0 and 1 and any two other numbers, ties everywhere included."""
    outcomes, groups = correct(4, 15, 30), configurations(5, 5, 5)
    once, moved = known_floor(outcomes, groups), known_floor(share * outcomes + by, groups)
    assert once.test.p == moved.test.p
    assert moved.run_sd == pytest.approx(abs(share) * once.run_sd)
    assert moved.distribution_wise_variance == pytest.approx(
        share**2 * (once.distribution_wise_variance or 0.0)
    )


def test_distribution_wise_variance_is_the_mean_covariance_of_two_examples() -> None:
    """Over ordered pairs of different examples, averaged over configurations by degrees of freedom."""
    outcomes, groups = correct(5, 9, 12), configurations(6, 3)
    pairs = []
    for group in groups:
        covariance = np.cov(outcomes[group].T)
        pairs.append(covariance[~np.eye(12, dtype=bool)].mean())
    found = known_floor(outcomes, groups)
    assert found.distribution_wise_variance == pytest.approx(np.average(pairs, weights=[5, 2]))
    assert found.distribution_wise_variance is not None
    if found.distribution_wise_variance < 0:
        assert found.distribution_wise_sd is None


def test_with_copies_it_is_the_mean_covariance_of_two_that_are_none() -> None:
    """Copies of unequal numbers."""
    outcomes = correct(6, 7, 9)
    copies = np.array([0, 0, 0, 1, 2, 2, 3, 4, 5])
    outcomes = outcomes[:, copies]
    covariance = np.cov(outcomes.T)[copies[:, None] != copies]
    found = known_floor(outcomes, configurations(7), copies=copies)
    assert found.distribution_wise_variance == pytest.approx(covariance.mean())
    assert (found.n_examples, found.units) == (9, 6)


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("examples", [100, 240])
def test_every_example_twice_tells_no_more_than_once(times: int, examples: int) -> None:
    """Where copies are known: same test, floor and distribution-wise variance; else a false alarm."""
    outcomes, groups = correct(7, 45, examples), configurations(*[5] * 9)
    once = known_floor(outcomes, groups)
    copies = np.tile(np.arange(examples), times)
    doubled = np.tile(outcomes, (1, times))
    again = known_floor(doubled, groups, copies=copies)
    assert (again.test.p, again.method, again.units) == (once.test.p, once.method, examples)
    for name in ("run_sd", "variance", "distribution_wise_variance"):
        assert getattr(again, name) == pytest.approx(getattr(once, name), rel=1e-9)
    assert again.all_runs is not None
    assert once.all_runs is not None
    assert again.all_runs.expected == pytest.approx(once.all_runs.expected, rel=0.03)
    blind = known_floor(doubled, groups)
    assert blind.test.statistic == pytest.approx(times * (once.test.statistic or 0.0))


def test_copies_do_not_hide_that_flips_are_few() -> None:
    """Four independent flips, five times each, are as few as four."""
    outcomes = correct(8, 5, 600, hard=0.1)
    outcomes[:, 40:] = 1.0
    copies = np.repeat(np.arange(600), 5)
    once = known_floor(outcomes, configurations(5))
    again = known_floor(np.repeat(outcomes, 5, axis=1), configurations(5), copies=copies)
    assert once.flips is not None
    assert again.flips is not None
    assert once.flips < floor.FEW_FLIPS < again.flips
    assert once.method == again.method == "permutation"


def test_test_on_copies_is_that_of_cluster_totals() -> None:
    """Q of sums over clusters of unequal size, computed slowly."""
    outcomes = correct(9, 5, 60)
    copies = np.random.default_rng(0).integers(0, 25, 60)
    outcomes = outcomes[:, copies]
    totals = np.stack(
        [outcomes[:, copies == unit].sum(axis=1) for unit in np.unique(copies)], axis=1
    )
    slow = 4 * totals.sum(axis=1).var(ddof=1) / totals.var(axis=0, ddof=1).sum()
    found = known_floor(outcomes, configurations(5), copies=copies)
    assert found.test.statistic == pytest.approx(slow)
    assert found.test.draws == floor.DRAWS


def test_expected_ranges_by_formula() -> None:
    """d2 times the deviation by flips, per configuration for the mean of their ranges."""
    outcomes, groups = correct(10, 11, 2000), configurations(5, 4, 2)
    found = sampling_floor(outcomes, groups, single=[3, 2, 3, 12])
    assert found is not None
    deviations = [math.sqrt(outcomes[g].var(axis=0, ddof=1).sum()) / 2000 for g in groups]
    assert found.all_runs is not None
    assert found.run_to_run is not None
    pooled = math.sqrt(np.average(np.square(deviations), weights=[4, 3, 1]))
    assert found.run_sd == pytest.approx(pooled)
    assert found.all_runs.expected == pytest.approx(d2(11) * pooled)
    assert [one.sizes for one in found.single] == [(2,), (3,)]  # not of more runs than there are
    assert [one.expected for one in found.single] == pytest.approx([d2(2) * pooled, d2(3) * pooled])
    mean = np.mean([d2(n) * sd for n, sd in zip((5, 4, 2), deviations, strict=True)])
    assert found.run_to_run.expected == pytest.approx(mean)
    values = outcomes.mean(axis=1)
    assert found.all_runs.observed == pytest.approx(np.ptp(values))
    assert found.run_to_run.observed == pytest.approx(np.mean([np.ptp(values[g]) for g in groups]))
    assert found.delta_above_floor == pytest.approx(
        math.sqrt(max(0.0, np.ptp(values) ** 2 - found.all_runs.expected**2))
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.randoms())
def test_floor_knows_no_order_of_examples(seed: int, chance: object) -> None:
    """Nor of runs within a configuration: statistic, deviation and variances stay."""
    outcomes = correct(seed, 6, 300)
    runs, examples = list(range(3)), list(range(300))
    chance.shuffle(runs)  # type: ignore[attr-defined]
    chance.shuffle(examples)  # type: ignore[attr-defined]
    moved = outcomes[[*runs, 3, 4, 5]][:, examples]
    once, again = (
        known_floor(outcomes, configurations(3, 3)),
        known_floor(moved, configurations(3, 3)),
    )
    for name in ("run_sd", "flips", "variance", "distribution_wise_variance"):
        assert getattr(once, name) == pytest.approx(getattr(again, name), abs=1e-12)
    assert once.test.statistic == pytest.approx(again.test.statistic)


def test_interval_of_the_excess_is_chi_squares() -> None:
    """(M-1) Var / chi2 less the floor, clipped at 0."""
    outcomes = correct(11, 20, 400)
    outcomes[:5] = outcomes[:5] * (np.random.default_rng(0).random((5, 400)) < 0.9)
    found = known_floor(outcomes, configurations(20))
    variance = outcomes.mean(axis=1).var(ddof=1)
    assert found.distribution_wise_interval is not None
    for end, tail in (
        (found.distribution_wise_interval.low, 0.975),
        (found.distribution_wise_interval.high, 0.025),
    ):
        slow = 19 * variance / stats.chi2.ppf(tail, 19) - found.run_sd**2
        assert end == pytest.approx(max(0.0, slow), rel=1e-9)


def test_binomial_guide() -> None:
    """sqrt(p (1 - p) / n) of the mean value, and no test."""
    values = np.array([0.9, 0.92, 0.88, 0.9])
    found = binomial_guide(values, configurations(2, 2), 250)
    assert found is not None
    assert found.run_sd == pytest.approx(math.sqrt(0.9 * 0.1 / 250))
    assert found.all_runs is not None
    assert found.all_runs.expected == pytest.approx(d2(4) * found.run_sd)


def test_more_runs_than_a_byte_counts() -> None:
    """300 runs of one configuration are permuted like five."""
    outcomes = (np.random.default_rng(0).random((300, 40)) < 0.9).astype(float)
    found = floor.sampling_floor(outcomes, [np.arange(300)])
    assert found is not None
    assert found.test.draws == floor.DRAWS
    assert 0 < (found.test.p or 0) <= 1
