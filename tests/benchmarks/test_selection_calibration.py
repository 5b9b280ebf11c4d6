"""Criteria 13 and 14 at full size: how often a selection is said to do something where it does nothing.

Prints rows of a table: criterion | quantity | target | measured | R | standard error.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_subsets import STATISTICS, optimism, rejections

from mm_mlflow.statistics.subsets import subset_effect

pytestmark = pytest.mark.bench
NAMES = tuple(STATISTICS)


def tell(criterion: int, quantity: str, target: str, measured: str, size: int, error: str) -> None:
    print(f"| {criterion} | {quantity} | {target} | {measured} | {size} | {error} |")


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def tell_rate(quantity: str, target: str, rate: float, size: int, nominal: float = 0.05) -> None:
    error = math.sqrt(nominal * (1 - nominal) / size)
    tell(13, quantity, target, percent(rate), size, percent(error))


def test_false_alarms_against_random_subsets() -> None:
    """Visible and held-out metrics unrelated, runs alike: 6.5% at most, for every statistic."""
    found = rejections(0.0, 0.0, 2000, seed=11)
    for i, kind in enumerate(("single runs", "whole configurations")):
        for j, name in enumerate(NAMES):
            tell_rate(f"false alarms, {kind}, {name}", "<= 6.5%", found[i, j], 2000)
    assert (found <= 0.065).all()


def test_false_alarms_where_configurations_differ() -> None:
    """Configuration SD twice the runs' own: whole configurations hold 6.7%, single runs do not."""
    for sd in (1.0, 2.0):
        found = rejections(sd, 0.0, 1500, seed=12)
        for j, name in enumerate(NAMES):
            text = f"configuration SD {sd:g}, whole configurations, {name}"
            tell_rate(text, "<= 6.7%", found[1, j], 1500)
        for j, name in enumerate(NAMES):
            text = f"configuration SD {sd:g}, single runs, {name}"
            tell_rate(text, "not believed", found[0, j], 1500)
        assert (found[1] <= 0.067).all()
    assert found[0, 0] > 0.10


def test_power() -> None:
    """Held-out metrics that follow the visible ones by .7: the mean finds 96%, the range a quarter."""
    found = rejections(0.0, 0.7, 2000, seed=13)
    for i, kind in enumerate(("single runs", "whole configurations")):
        for j, name in enumerate(NAMES):
            target = ">= 96%" if (i, j) == (0, 0) else "-"
            tell_rate(f"power at rho .7, {kind}, {name}", target, found[i, j], 2000, found[i, j])
    assert found[0, 0] >= 0.96


@pytest.mark.parametrize("shared", [True, False])
def test_examples_in_common(shared: bool) -> None:
    """A fifth of the examples as held-out metric, of the same or of others; runs do not differ. The
    program makes no such test where examples are shared."""
    rng = np.random.default_rng(14)
    hits = np.zeros(3)
    sheets = 1000
    for _ in range(sheets):
        right = rng.random((45, 1200)) < 0.9
        visible = right[:, :1000].mean(axis=1)
        held_out = right[:, :200] if shared else right[:, 1000:]
        selected = visible >= np.sort(visible)[-15]
        found = subset_effect(held_out.mean(axis=1), selected, range(45))
        hits += [getattr(found, name).runs.p <= 0.05 for name in NAMES]
    for name, rate in zip(NAMES, hits / sheets, strict=True):
        what = "shares its examples (refused)" if shared else "has examples of its own"
        target = "not believed" if shared else "<= 6.7%"
        tell_rate(f"held-out metric {what}, {name}", target, rate, sheets)
    assert (hits[0] > 0.4 * sheets) if shared else (hits <= 0.067 * sheets).all()


@pytest.mark.parametrize(
    ("n", "most", "least"), [(250, 0.06, 4.0), (1000, 0.03, 2.0)], ids=["250", "1000"]
)
@pytest.mark.parametrize("halvings", [1, 10])
def test_half_split(n: int, most: float, least: float, halvings: int) -> None:
    """Best of 45 runs that do not differ: nothing is left on the other half; averaging over more halves
    adds no bias."""
    sheets = 1500
    same, other, _ = optimism(n, 0.0, sheets, seed=n + halvings, halvings=halvings).T
    errors = [float(part.std(ddof=1)) / math.sqrt(sheets) for part in (same, other)]
    text = f"N = {n}, {halvings} halving{'s' if halvings > 1 else ''} both ways"
    tell(14, f"{text}: same half, points", f">= {least:g}", f"{same.mean():.2f}", sheets,
         f"{errors[0]:.3f}")  # fmt: skip
    tell(14, f"{text}: other half, points", f"|.| <= 3 SE, SE <= {most:g}", f"{other.mean():+.3f}",
         sheets, f"{errors[1]:.3f}")  # fmt: skip
    assert abs(other.mean()) <= 3 * errors[1]
    assert errors[1] <= most
    assert same.mean() >= least
