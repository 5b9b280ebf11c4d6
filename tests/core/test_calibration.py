"""Do procedures keep their promises? Every criterion at small size (full size: `pytest -m bench`).

Seeds are fixed; of some 400 sheets, a rate that lies more than 4 standard errors from what it should
be fails. What is simulated stands in `calibration.py`.
"""

from __future__ import annotations

import calibration
import numpy as np
import pytest

from mm_mlflow.statistics import axis, floor


@pytest.mark.parametrize("name", calibration.CRITERIA)
def test_rates_are_what_they_should_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each quantity of the criterion is within 4 standard errors of its expected value or target."""
    # Fewer draws than usual: p is coarser, and holds its level as well. Bands need more of them: their
    # ends are quantiles of the draws.
    monkeypatch.setattr(floor, "DRAWS", 299 if name == "12" else 99)
    monkeypatch.setattr(axis, "DRAWS", 999)
    simulate, _ = calibration.CRITERIA[name]
    rows = list(simulate(400))
    assert rows
    assert not [str(row) for row in rows if not row.plausible]


def test_a_wrong_rate_is_not_plausible() -> None:
    """The check can fail: 85% coverage of a bootstrap of five values is found at 400 sheets."""
    hits = np.arange(400) < 340
    assert not calibration.rate(1, "bootstrap", hits, low=0.94, high=0.96, expected=0.95).plausible
    assert not calibration.rate(5, "t", ~hits, high=0.06, expected=0.05).plausible
    assert calibration.rate(5, "conservative", hits[:20] < 0, high=0.06).plausible


@pytest.mark.parametrize("levels", [2, 3])
def test_the_copy_for_many_sheets_equals_the_axis_test(levels: int) -> None:
    """On sheets with and without ties."""
    generator = np.random.default_rng(0)
    tables = generator.standard_normal((6, levels, 5))
    tables[3:] = np.round(tables[3:])
    found = [axis.axis_test(list(table)).p for table in tables]
    assert calibration.many_axis(tables) == pytest.approx(found, abs=1e-12)
    some = calibration.many_axis(tables, partitions=100)
    assert (some >= 1 / 100).all()  # that of the table itself is one of them
    assert np.abs(some - found).max() < 4 * np.sqrt(0.25 / 100)


def test_the_copy_for_many_sheets_equals_the_seed_test() -> None:
    """It draws the same permutations."""
    generator = np.random.default_rng(0)
    tables = generator.standard_normal((6, 9, 5))
    tables[3:] = np.round(tables[3:])
    found = [axis.shared_seed_test(table).p for table in tables]
    assert calibration.many_seed(tables) == pytest.approx(found, abs=1e-12)
