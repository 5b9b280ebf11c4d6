"""The page about the paper's printed numbers holds what its script computes, and that is right."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(
        **runpy.run_path(str(DOCS / "paper_numbers.py"), run_name="paper_numbers")
    )


def test_the_page_holds_the_scripts_table(script: SimpleNamespace) -> None:
    """Word for word."""
    assert script.table() in (DOCS / "paper_numbers.md").read_text(encoding="utf-8")


def test_disagreement_gives_the_printed_range(script: SimpleNamespace) -> None:
    """Runs that flip so often, simulated example by example, span the printed Δ on average."""
    generator = np.random.default_rng(0)
    for item in script.PRINTED[:2]:
        # Half of the examples never flip; on the others two runs differ twice as often.
        half = item.n // 2
        share = script.disagreement(item) * item.n / half
        p = 0.5 * (1 - np.sqrt(1 - 2 * share))  # 2 p (1 - p) = share
        answers = generator.random((500_000 // half, item.runs, half), dtype=np.float32) < p
        ranges = np.ptp(answers.sum(axis=2) / item.n, axis=1)
        assert 100 * ranges.mean() == pytest.approx(item.delta, rel=0.04)


def test_guide_is_what_separate_test_sets_give(script: SimpleNamespace) -> None:
    """Runs tested on examples of their own: mean and 95% of the simulated ranges."""
    item = script.PRINTED[0]
    expected, low, high = script.guide(item)
    generator = np.random.default_rng(0)
    drawn = generator.binomial(item.n, item.rate, (20_000, item.runs)) / item.n
    ranges = 100 * np.ptp(drawn, axis=1)
    assert expected == pytest.approx(ranges.mean(), rel=0.01)
    assert [low, high] == pytest.approx(np.quantile(ranges, [0.025, 0.975]), rel=0.02)
