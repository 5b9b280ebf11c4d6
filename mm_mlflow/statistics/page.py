"""All sheets of a page together: q, how much was judged, and how many false claims to expect."""

from __future__ import annotations

from collections.abc import Sequence

from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.describe import SheetStatistics, TableStatistics
from mm_mlflow.statistics.multiple import benjamini_hochberg
from mm_mlflow.statistics.records import Record, SignificanceTest
from mm_mlflow.statistics.verdict import decisive


class PageCount(Record):
    """How much was judged on one page."""

    sheets: int
    tests: int
    """Tests that could have found something: those that cannot be told are not counted."""
    families: int
    """Sets of tests that are kept at 5% together: of a sheet, its axes, its run-to-run, its seeds."""
    claims: int
    """Verdicts "more than chance"."""
    expected_false: float
    """False claims to expect if nothing at all were more than chance: at most 5% of the families."""


def judge_page(
    found: Sequence[tuple[SheetStatistics, tuple[TableStatistics, ...]]],
) -> tuple[list[tuple[SheetStatistics, tuple[TableStatistics, ...]]], PageCount]:
    """The same statistics with q over all tests of all sheets, and how many there are.

    q is made of the p that verdicts go by, Holm's where there is one: so it is never below that p.
    """
    tests = [test for one in found for test in _tests(*one)]
    q = iter(benjamini_hochberg([decisive(test) for test in tests]))
    marked = []
    for statistics, tables in found:
        updates: dict[str, object] = {}
        if statistics.floor is not None:
            updates["floor"] = statistics.floor.model_copy(
                update={"test": _with_q(statistics.floor.test, next(q))}
            )
        seeds = statistics.run_to_run
        updates["run_to_run"] = seeds.model_copy(
            update={"shared_seed": _with_q(seeds.shared_seed, next(q))}
        )
        new_tables = tuple(
            table.model_copy(update={"test": _with_q(table.test, next(q))}) for table in tables
        )
        marked.append((statistics.model_copy(update=updates), new_tables))
    told = [v for statistics, _ in found for v in statistics.verdicts if v.kind != "cannot_be_told"]
    families = sum(
        any(v.subject == subject and v.kind != "cannot_be_told" for v in statistics.verdicts)
        for statistics, _ in found
        for subject in ("run_to_run", "axis", "shared_seed")
    )
    return marked, PageCount(
        sheets=len(found),
        tests=len(told),
        families=families,
        claims=sum(v.kind == "more_than_chance" for s, _ in found for v in s.verdicts),
        expected_false=ALPHA * families,
    )


def _tests(
    statistics: SheetStatistics, tables: Sequence[TableStatistics]
) -> list[SignificanceTest]:
    floor = [statistics.floor.test] if statistics.floor is not None else []
    return [*floor, statistics.run_to_run.shared_seed, *(table.test for table in tables)]


def _with_q(test: SignificanceTest, q: float | None) -> SignificanceTest:
    return test.model_copy(update={"q": q})
