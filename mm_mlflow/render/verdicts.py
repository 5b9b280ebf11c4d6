"""Is it more than chance? The answers in words that can be acted on, for every format.

The rules behind the words are :data:`mm_mlflow.statistics.verdict.RULES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mm_mlflow.render import words
from mm_mlflow.sheet import Sheet, SheetTable
from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.describe import SheetStatistics, TableStatistics
from mm_mlflow.statistics.floor import ChanceRange, Floor
from mm_mlflow.statistics.page import PageCount
from mm_mlflow.statistics.records import SignificanceTest
from mm_mlflow.statistics.verdict import BLOCKED, RULES, Verdict, decisive

TITLE = "More than chance?"


def probability(test: SignificanceTest) -> str:
    """``p = 0.004, q = 0.02``: Holm's p where there is one."""
    p = decisive(test)
    parts = [] if p is None else [words.equals("p", p)]
    if test.q is not None:
        parts.append(words.equals("q", test.q))
    return ", ".join(parts)


def _more(test: SignificanceTest) -> str:
    """``more than chance (p = 0.004, q = 0.02)``; by itself, where the page's q is above the level."""
    alone = " by itself" if test.q is not None and test.q > ALPHA else ""
    return f"more than chance{alone} ({probability(test)})"


def sentences(
    sheet: Sheet, statistics: SheetStatistics, tables: Sequence[TableStatistics], how: words.Numbers
) -> Iterator[str]:
    """The verdicts of a sheet: what varies run to run, then its axes, then equal seeds."""
    by_axis = {table.axis: table for table in tables}
    axes = [verdict for verdict in statistics.verdicts if verdict.subject == "axis"]
    for verdict in statistics.verdicts:
        if verdict.subject == "run_to_run":
            yield _run_to_run(verdict, statistics, how)
    for verdict in axes:
        if verdict.kind == "more_than_chance":
            table = by_axis[verdict.axis or ""]
            apart = table.delta_of_means
            between = (
                "" if apart is None else f"; the means of its levels lie {how.points(apart)} apart"
            )
            ends = _ends(next(t for t in sheet.tables if t.axis == verdict.axis))
            yield f"{_name(verdict)}: {_more(table.test)}{between}{ends}."
    none = [verdict for verdict in axes if verdict.kind == "no_more_than_chance"]
    if none:
        each = ", ".join(
            f"{_name(verdict) if i == 0 else _lower(_name(verdict))} "
            f"({probability(by_axis[verdict.axis or ''].test)})"
            for i, verdict in enumerate(none)
        )
        yield f"{each}: not clearly more than chance{_power(sheet, statistics, how)}."
    for verdict in axes:
        if verdict.kind == "cannot_be_told":
            yield f"{_name(verdict)}: {cannot(verdict, sheet.column_kind)}."
    for verdict in statistics.verdicts:
        if verdict.subject == "shared_seed":
            yield _shared(verdict, sheet, statistics)


def cannot(verdict: Verdict, runs: str = "runs") -> str:
    """``cannot be told with these runs (needs 4 seeds per level)``."""
    if verdict.needs is not None:
        where = {"axis": "per level", "run_to_run": "per configuration"}.get(verdict.subject, "")
        what = runs if verdict.subject != "shared_seed" else "configurations"
        return (
            f"cannot be told with these runs (needs {verdict.needs} {what} {where}".rstrip() + ")"
        )
    return f"cannot be told: {words.clean(verdict.reason).rstrip('.')}"


def _power(sheet: Sheet, statistics: SheetStatistics, how: words.Numbers) -> str:
    """What so many runs would have found, for those who read "not clearly" as "none"."""
    present = statistics.planning.present if statistics.planning else None
    if present is None:
        return ""
    difference = how.points(present.detectable)
    return f"; {present.seeds} {sheet.column_kind} find a difference of about {difference} 4 times in 5"


def _ends(table: SheetTable) -> str:
    """Which levels have the highest and the lowest mean."""
    healthy = [row[np.isfinite(row)] for row in table.healthy]
    means = {i: float(row.mean()) for i, row in enumerate(healthy) if len(row)}
    if len(means) < 2:
        return ""
    labels = words.level_labels(table.levels)
    high, low = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return f" ({words.clip(labels[high], 40)} highest, {words.clip(labels[low], 40)} lowest)"


def _name(verdict: Verdict) -> str:
    return words.axis_label(verdict.axis or "")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _run_to_run(verdict: Verdict, statistics: SheetStatistics, how: words.Numbers) -> str:
    seen, floor = statistics.run_to_run.mean_delta, statistics.floor
    if seen is None:
        return f"Run to run: {cannot(verdict)}."
    text = f"Run to run: {how.points(seen)} between the runs of a configuration, on average"
    if floor is None or floor.run_to_run is None:
        return f"{text}; whether that is more than chance {cannot(verdict)}."
    if floor.source == "binomial":
        return f"{text}; whether that is more than chance {cannot(verdict)}. {_guide(floor, how)}"
    by = f"{words.plural(floor.n_examples, 'test example')} alone would give"
    what = "changes" if floor.probabilities else "flips"
    text = f"{text}; {what} of the {by} {_band(floor.run_to_run, how)}"
    if verdict.kind == "cannot_be_told":
        return f"{text}; {cannot(verdict)}."
    if verdict.kind == "more_than_chance":
        return f"{text}: {_more(floor.test)}."
    beyond = (
        floor.run_to_run.observed is not None and floor.run_to_run.observed > floor.run_to_run.high
    )
    judged_by = "; it is judged by the variance, not by Δ" if beyond else ""
    return f"{text}: not clearly more than chance ({probability(floor.test)}){judged_by}."


def _guide(floor: Floor, how: words.Numbers) -> str:
    """An upper guide, and called one."""
    if floor.run_to_run is None:
        return ""
    return (
        f"As an upper guide, {words.plural(floor.n_examples, 'test example')} drawn anew for every run "
        f"would give {how.points(floor.run_to_run.expected)}."
    )


def _band(found: ChanceRange, how: words.Numbers) -> str:
    return (
        f"{how.value(found.low)} to {how.value(found.high)} (expected {how.value(found.expected)})"
    )


def _shared(verdict: Verdict, sheet: Sheet, statistics: SheetStatistics) -> str:
    test = statistics.run_to_run.shared_seed
    if sheet.column_kind != "seeds" or verdict.kind == "cannot_be_told":
        return f"Equal seeds: {cannot(verdict)}."
    if verdict.kind == "no_more_than_chance":
        return (
            "Equal seeds share nothing across configurations that is clearly more than chance "
            f"({probability(test)})."
        )
    text = f"Equal seeds share something across configurations: {_more(test)}"
    others = {one.kind for one in statistics.verdicts if one.subject == "run_to_run"}
    alike = "; as run to run is not clearly more than flips, equal seeds seem to flip alike"
    less = "; axes are then found less often than they could be"
    return (
        f"{text}{alike if 'no_more_than_chance' in others else ''}"
        f"{'' if statistics.shared_seed_declared else less}."
    )


BY_CHANCE = (
    "“By chance” is the Δ that all runs are expected to show if they differed by independent flips of single "
    "test examples alone; with ≤, an upper guide from the number of examples."
)


def judged(count: PageCount) -> str:
    """How much was judged on a page, and how many false claims to expect."""
    sheets = words.plural(count.sheets, "sheet")
    if not count.tests:
        return f"Nothing could be judged in {sheets}: each says what is lacking."
    questions = words.plural(count.tests, "question")
    return (
        f"{questions} could be judged in {sheets}; “more than chance” is the answer to {count.claims}. If "
        f"nothing were, up to {count.expected_false:.1f} false claims would be expected (5% of "
        f"{count.families} sets of tests); q beside p is the expected share of false ones among all claims "
        "at least as clear."
    )


def rules(*, blocked: bool = False) -> list[tuple[str, str]]:
    """The rules behind the words; ``blocked`` where the design declares the seed as shared."""
    return [*RULES.items(), *([("Here", BLOCKED)] if blocked else [])]


def short(sheet: Sheet) -> str:
    """The verdicts of a sheet in one short line, for a summary; empty without statistics."""
    if sheet.statistics is None:
        return ""
    kinds: dict[str, list[str]] = {}
    for verdict in sheet.statistics.verdicts:
        name = {"run_to_run": "run to run", "shared_seed": "equal seeds"}.get(verdict.subject)
        kinds.setdefault(verdict.kind, []).append(name or _lower(_name(verdict)))
    texts = {
        "more_than_chance": "more than chance",
        "no_more_than_chance": "not clearly",
        "cannot_be_told": "cannot be told",
    }
    parts = [f"{texts[kind]}: {', '.join(kinds[kind])}" for kind in texts if kind in kinds]
    return "; ".join(parts)
