"""The rules behind the words: what is called more than chance, and when nothing may be said.

Fixed before any real data were looked at. ``docs/statistics.md`` has a confusion table over simulated
sheets.
"""

from __future__ import annotations

from typing import Literal

from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.records import Record, SignificanceTest

BLOCKED = (
    "The design declares that runs of equal seeds share something (shared_seed): axes are tested by a "
    "two-way F with seeds as blocks in place of permutations."
)

Kind = Literal["more_than_chance", "no_more_than_chance", "cannot_be_told"]
Subject = Literal["run_to_run", "axis", "shared_seed"]

RULES: dict[str, str] = {
    "Run to run": (
        "is all that varies between runs of one configuration, whatever causes it. It is called more than "
        "chance where it is more than single test examples that flip independently would give (Cochran's "
        "Q within configurations, p ≤ 5%)."
    ),
    "An axis": (
        "is called more than chance where its levels differ by more than the same runs dealt out to them "
        "at random would (exact permutation within its table; p ≤ 5% after Holm's correction for all "
        "tables of the sheet)."
    ),
    "Equal seeds": (
        "are said to share something where runs of equal seeds are more alike across configurations than "
        "runs dealt out at random within them (p ≤ 5%)."
    ),
    "By itself": (
        "more than chance on its sheet, but with q above 5%: among all tests of the page it may well be one "
        "of the false claims."
    ),
    "Not clearly more than chance": (
        "means that the test could have found a difference and did not. That is not the same as none: a "
        "smaller one may be there."
    ),
    "Cannot be told": (
        "means that no values whatever could have reached 5% with so few runs in a test that assumes "
        "nothing of their distribution, or that something that the test needs is not there. Intervals of "
        "means, which assume normal values, may lie apart all the same."
    ),
}


class Verdict(Record):
    """What is said of one question."""

    subject: Subject
    axis: str | None = None
    kind: Kind
    reason: str = ""
    """Why it cannot be told; empty otherwise."""
    needs: int | None = None
    """Runs per level with which it could be told; null where runs are not what lacks."""


def decisive(test: SignificanceTest) -> float | None:
    """The p that a verdict goes by: Holm's where the test is one of several."""
    return test.p if test.adjusted_p is None else test.adjusted_p


def judge(
    subject: Subject, test: SignificanceTest, *, axis: str | None = None, tests: int = 1
) -> Verdict:
    """The verdict on one test.

    Args:
        subject: what it is about.
        test: with Holm's ``adjusted_p``, where it is one of several.
        axis: name of the axis.
        tests: how many tests of its kind the sheet has.
    """
    p = decisive(test)
    if p is None:
        return Verdict(
            subject=subject, axis=axis, kind="cannot_be_told", reason=test.reason, needs=test.needs
        )
    if p <= ALPHA:
        return Verdict(subject=subject, axis=axis, kind="more_than_chance")
    if test.smallest_p is not None and test.smallest_p * tests > ALPHA:
        least = min(1.0, test.smallest_p * tests)
        reason = f"5% is hardly in reach here (the smallest p is {least:.2g})"
        return Verdict(
            subject=subject, axis=axis, kind="cannot_be_told", reason=reason, needs=test.needs
        )
    return Verdict(subject=subject, axis=axis, kind="no_more_than_chance")
