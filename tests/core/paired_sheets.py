"""Made-up pairs of experiments as STATISTICS section 9 simulates them."""

from __future__ import annotations

import numpy as np
from scipy import stats

SHAPES = ("normal", "skew", "t5", "collapsed")
CORRELATIONS = (0.0, 0.5, 0.9)


def sheets(
    rng: np.random.Generator,
    number: int,
    *,
    shape: str = "normal",
    correlation: float = 0.0,
    ratio: float = 1.0,
    configurations: int = 9,
    runs: tuple[int, int] = (5, 5),
    shared_seed: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """``(number, C, S)`` values of A and ``(number, C, S')`` of B.

    Runs have SD 1 in A and ``ratio`` in B around configuration means of SD 1, which A and B do not
    share; ``shape`` is theirs, and runs of one cell have this ``correlation`` (of the normal values
    behind them). ``collapsed``: 5% of runs lie 5 SD lower, with this correlation in both. With
    ``shared_seed``, equal seeds move all configurations together, with that SD, in A and otherwise in B.
    """
    count_a, count_b = runs
    most = max(runs)
    one = rng.standard_normal((number, configurations, most))
    noise = rng.standard_normal(one.shape)
    other = correlation * one + np.sqrt(1 - correlation**2) * noise
    x, y = _shaped(one, shape), _shaped(other, shape)
    if shape == "collapsed":
        down = rng.random(one.shape) < 0.05
        alike = rng.random(one.shape) < correlation
        x, y = x - 5 * down, y - 5 * np.where(alike, down, rng.random(one.shape) < 0.05)
    x, y = x[..., :count_a], ratio * y[..., :count_b]
    means = rng.standard_normal((2, number, configurations, 1))
    seeds = shared_seed * rng.standard_normal((2, number, 1, most))
    return x + means[0] + seeds[0][..., :count_a], y + means[1] + seeds[1][..., :count_b]


def _shaped(normal: np.ndarray, shape: str) -> np.ndarray:
    """Mean 0 and variance 1."""
    if shape == "skew":  # to the left, as accuracies near their ceiling
        return np.asarray((2 - stats.gamma.ppf(stats.norm.cdf(normal), 2)) / np.sqrt(2))
    if shape == "t5":
        return np.asarray(stats.t.ppf(stats.norm.cdf(normal), 5) / np.sqrt(5 / 3))
    return normal
