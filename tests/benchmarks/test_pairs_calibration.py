"""Acceptance criterion 16 of the statistics at full size: two experiments paired by configuration.

``pytest -m bench tests/benchmarks/test_pairs_calibration.py -s`` prints target and measured.
"""

from __future__ import annotations

import numpy as np
import pytest
from paired_sheets import CORRELATIONS, SHAPES, sheets

from mm_mlflow.statistics.pairs import mean_change, spread_change

R = 3000  # standard error of a rate of 5%: 0.4 points
BAND = (0.037, 0.063)
POWER = {0.0: 0.46, 0.5: 0.55, 0.9: 0.94}  # at an SD ratio of 1.5, normal values


def tell(criterion: str, target: str, measured: str) -> None:
    """One line of the table."""
    print(f"\n{criterion} | {target} | {measured}", end="")


def rates(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Share of sheets with p at most 5%: the t test, and swaps of whole configurations (0 where they
    are not possible)."""
    found = [spread_change(*pair) for pair in zip(x, y, strict=True)]
    tests = [[item.test.p for item in found], [item.swap.p for item in found]]
    first, second = (float(np.mean(np.array(p, dtype=float) <= 0.05)) for p in tests)
    return first, second


@pytest.mark.bench
@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_false_alarms(shape: str, correlation: float) -> None:
    """16: in [3.7, 6.3]% where no spread changed, by either test; so do the means."""
    rng = np.random.default_rng(16)
    x, y = sheets(rng, R, shape=shape, correlation=correlation)
    by_t, by_swap = rates(x, y)
    means = [mean_change(*pair).test.p for pair in zip(x, y, strict=True)]
    of_means = float(np.mean(np.array(means, dtype=float) <= 0.05))
    tell(
        f"16 false alarms, {shape}, correlation {correlation}",
        "3.7 to 6.3%",
        f"t {by_t:.1%}, swaps {by_swap:.1%}, means {of_means:.1%}",
    )
    for rate in (by_t, by_swap, of_means):
        assert BAND[0] <= rate <= BAND[1]


@pytest.mark.bench
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_power(correlation: float) -> None:
    """16: at least 46/55/94% at an SD ratio of 1.5."""
    x, y = sheets(np.random.default_rng(17), R, correlation=correlation, ratio=1.5)
    by_t, by_swap = rates(x, y)
    target = POWER[correlation]
    tell(
        f"16 power at SD ratio 1.5, normal, correlation {correlation}",
        f"at least {target:.0%}",
        f"t {by_t:.1%}, swaps {by_swap:.1%}",
    )
    assert by_t >= target


@pytest.mark.bench
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("configurations", [2, 3, 5])
def test_few_configurations(shape: str, configurations: int) -> None:
    """Ours: the t test keeps 5% below six configurations, where swaps cannot reach it. It may be
    below."""
    x, y = sheets(np.random.default_rng(18), R, shape=shape, configurations=configurations)
    by_t, by_swap = rates(x, y)
    tell(
        f"false alarms, {shape}, {configurations} configurations",
        "at most 6.3%",
        f"t {by_t:.1%}, swaps {by_swap:.1%}",
    )
    assert by_t <= BAND[1]
    assert by_swap == 0


@pytest.mark.bench
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("runs", [(5, 10), (3, 20), (2, 5)])
def test_more_runs_in_one_experiment(shape: str, runs: tuple[int, int]) -> None:
    """Ours: 5% is kept where B has more runs of every configuration."""
    x, y = sheets(np.random.default_rng(19), R, shape=shape, runs=runs)
    by_t, _ = rates(x, y)
    tell(f"false alarms, {shape}, {runs[0]} and {runs[1]} runs", "at most 6.3%", f"t {by_t:.1%}")
    assert by_t <= BAND[1]


@pytest.mark.bench
@pytest.mark.parametrize("shared_seed", [0.3, 0.5, 1.0])
def test_shared_seeds_break_it(shared_seed: float) -> None:
    """Ours, what the page warns of: seeds that move all configurations together, otherwise in B."""
    x, y = sheets(np.random.default_rng(20), R, shared_seed=shared_seed)
    by_t, by_swap = rates(x, y)
    tell(
        f"false alarms, shared seed SD {shared_seed}",
        "warned of",
        f"t {by_t:.1%}, swaps {by_swap:.1%}",
    )
    assert by_t <= 0.3
