"""docs/statistics.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from calibration import CRITERIA

from mm_mlflow.statistics.verdict import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")


def test_the_page_holds_the_rules() -> None:
    """Word for word, whatever the line breaks."""
    flat = " ".join(PAGE.split())
    for name, rule in RULES.items():
        assert f"**{name}** {rule}" in flat


def test_all_sixteen_criteria_have_rows() -> None:
    """Each with a number that was measured; those of this table's simulations are all there."""
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert {int(row[0]) for row in rows} == set(range(1, 17))
    assert all(re.search(r"\d", row[3]) for row in rows)
    assert len(CRITERIA) > 10
