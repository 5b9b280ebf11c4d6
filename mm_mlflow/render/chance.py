"""Is it more than chance? What statistics say of a sheet, in words that can be acted on.

Everything is worded here once, for every format; the rules behind the words are
:data:`mm_mlflow.statistics.verdict.RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mm_mlflow.render import words
from mm_mlflow.sheet import Sheet, SheetTable
from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.describe import SheetStatistics, TableStatistics
from mm_mlflow.statistics.floor import ChanceRange, Floor
from mm_mlflow.statistics.page import PageCount
from mm_mlflow.statistics.ranges import d2
from mm_mlflow.statistics.records import Interval, SignificanceTest
from mm_mlflow.statistics.verdict import BLOCKED, RULES, Verdict, decisive

TITLE = "More than chance?"
TESTS_HEAD = ("More than chance?", "p", "Holm", "q", "smallest p", "by")
AXES_HEAD = (
    "Axis",
    "Δ over {seeds} / d2",
    "Δ over levels / d2",
    "between levels",
    "run to run",
    "ω²",
)
FLOOR_HEAD = ("One Δ by chance, over", "expected", "95% of chance")
MEANS_HEAD = ("Configuration", "runs", "mean ± sd", "95% interval")
TESTS_NOTE = (
    "p by itself, after Holm's correction for the axes of this sheet, and as q over all tests of the page. "
    "Smallest p: the clearest that these runs could give; above 0.05 nothing can be told."
)
AXES_NOTE = (
    "Δ / d2: the mean Δ divided by the expected range of as many normal values, so that rows and columns "
    "compare; where both are equal, the axis adds nothing to what varies run to run. Between levels and run "
    "to run are standard deviations; “< 0”: chance made the variance negative. ω²: the share of the variance "
    "that levels explain."
)
PLAN_NOTE = (
    "±: half of the 95% interval of a configuration's mean. Difference found: between two levels, with 80% "
    "power. With bound: at the 80% upper bound of the spread."
)
PLAN_HEAD = ("seeds", "± (95%)", "with bound", "difference found", "with bound")


@dataclass(frozen=True)
class ChanceView:
    """What chance would give, ready to be drawn.

    Attributes:
        verdicts: sentences, the one about what varies run to run first.
        facts: term and text.
        floor: rows of :data:`FLOOR_HEAD`, and how they are to be read.
        tests: rows of :data:`TESTS_HEAD`.
        axes: rows of :data:`AXES_HEAD`, whose head for this sheet is ``axes_head``.
        means: rows of :data:`MEANS_HEAD`.
        plan: one sentence about more seeds, empty without; ``plans`` are rows of :data:`PLAN_HEAD`.
    """

    verdicts: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    floor: tuple[tuple[str, ...], ...]
    floor_note: str
    tests: tuple[tuple[str, ...], ...]
    axes_head: tuple[str, ...]
    axes: tuple[tuple[str, ...], ...]
    means: tuple[tuple[str, ...], ...]
    plan: str
    plans: tuple[tuple[str, ...], ...]


def chance(sheet: Sheet, how: words.Numbers) -> ChanceView | None:
    """What the statistics of ``sheet`` say, its numbers written as ``how``; None without statistics."""
    statistics = sheet.statistics
    if statistics is None:
        return None
    tables = [table.statistics for table in sheet.tables if table.statistics is not None]
    return ChanceView(
        verdicts=tuple(_verdicts(sheet, statistics, tables, how)),
        facts=tuple(_facts(statistics, how)),
        floor=tuple(_floor_rows(statistics.floor, how)),
        floor_note=_floor_note(statistics.floor),
        tests=tuple(_tests(statistics, tables)),
        axes_head=tuple(head.format(seeds=sheet.column_kind) for head in AXES_HEAD),
        axes=tuple(_axis(table, how) for table in tables),
        means=tuple(
            (
                words.clip(words.clean(one.name), 80),
                str(one.n),
                how.mean_sd(one.mean, math.nan if one.sd is None else one.sd),
                "no interval"
                if one.interval is None
                else f"{how.value(one.interval.low)} to {how.value(one.interval.high)}",
            )
            for one in statistics.configurations[:MOST]
        ),
        plan=_plan(statistics, how),
        plans=tuple(
            (
                str(row.seeds),
                *map(
                    how.value,
                    (row.half_width, row.half_width_bound, row.detectable, row.detectable_bound),
                ),
            )
            for row in (statistics.planning.seeds if statistics.planning else ())
        ),
    )


MOST = 60  # configurations whose means are listed


# ---- verdicts ----


def probability(test: SignificanceTest) -> str:
    """``p = 0.004, q = 0.02``: Holm's p where there is one."""
    p = decisive(test)
    parts = [] if p is None else [f"p {_p(p)}"]
    if test.q is not None:
        parts.append(f"q {_p(test.q)}")
    return ", ".join(parts)


def _more(test: SignificanceTest) -> str:
    """``more than chance (p = 0.004, q = 0.02)``; by itself, where the page's q is above the level."""
    alone = " by itself" if test.q is not None and test.q > ALPHA else ""
    return f"more than chance{alone} ({probability(test)})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _bare(value: float | None) -> str:
    if value is None:
        return words.NOTHING
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def _verdicts(
    sheet: Sheet, statistics: SheetStatistics, tables: Sequence[TableStatistics], how: words.Numbers
) -> Iterator[str]:
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


# ---- numbers ----


def _facts(statistics: SheetStatistics, how: words.Numbers) -> Iterator[tuple[str, str]]:
    spread, runs, floor = statistics.spread, statistics.run_to_run, statistics.floor
    if spread.adjusted_delta is not None and spread.delta is not None:
        yield (
            "Δall, adjusted",
            (
                f"{how.points(spread.adjusted_delta)}: {how.value(spread.delta)} over {spread.n:,} runs, "
                f"divided by d2 = {d2(spread.n):.2f}, so that it compares with other numbers of runs"
            ),
        )
    if spread.span is not None and spread.p10 is not None and spread.p90 is not None:
        yield (
            "p10 to p90",
            (
                f"{how.points(spread.span)}{_interval(spread.span_interval, how)}, from "
                f"{how.with_unit(spread.p10)} to {how.with_unit(spread.p90)}"
            ),
        )
    if spread.subset_range is not None:
        yield (
            f"Any {spread.subset} runs",
            (
                f"have a Δ of {how.points(spread.subset_range)} on average"
                f"{_interval(spread.subset_range_interval, how)}"
            ),
        )
    if spread.tolerance_percent is not None and spread.low is not None and spread.high is not None:
        yield (
            "Further runs",
            (
                f"of these configurations: with 95% confidence at least {spread.tolerance_percent}% "
                "of them fall between "
                f"{how.with_unit(spread.low)} and {how.with_unit(spread.high)}"
            ),
        )
    if runs.sd is not None:
        configurations = sum(one.n > 1 for one in statistics.configurations)
        yield (
            "Run to run",
            (
                f"sd {how.points(runs.sd)}{_interval(runs.interval, how)}, pooled over "
                f"{words.plural(configurations, 'configuration')}"
            ),
        )
        if runs.components.between_levels is not None:
            yield "Between configurations", _root(runs.components.between_levels, how)
        if runs.components.shared_by_seed is not None:
            yield (
                "Of run to run, equal seeds share",
                (
                    f"{_root(runs.components.shared_by_seed, how)}; not shared: "
                    f"{_root(runs.components.not_shared, how)}"
                ),
            )
    if floor is not None:
        yield from _floor(floor, how)
    elif statistics.floor_reason:
        yield "Sampling floor", f"none: {words.clean(statistics.floor_reason)}"
    if statistics.n_left_out:
        yield "Left out", f"{words.plural(statistics.n_left_out, 'run')} that diverged"


def _floor(floor: Floor, how: words.Numbers) -> Iterator[tuple[str, str]]:
    if floor.delta_above_floor is not None:
        yield (
            "Δall above the floor",
            f"{how.points(floor.delta_above_floor)}: √(Δ² - chance²), since it is variances that add",
        )
    excess = floor.distribution_wise_variance
    if excess is not None:
        rest = "not above the floor" if excess < 0 else how.points(math.sqrt(excess))
        within = floor.distribution_wise_interval
        limits = (
            ""
            if within is None
            else f" (95%: {how.value(math.sqrt(within.low))} to {how.value(math.sqrt(within.high))})"
        )
        yield "Distribution-wise sd", f"{rest}{limits}: run to run if test data were endless"


def _floor_rows(floor: Floor | None, how: words.Numbers) -> Iterator[tuple[str, ...]]:
    if floor is None:
        return
    whole = floor.all_runs
    singles = [one for one in floor.single if whole is None or one.sizes != whole.sizes]
    for one in (*singles, *([whole] if whole else [])):
        runs = f"{'all ' if one is whole else ''}{words.plural(one.sizes[0], 'run')}"
        yield runs, how.value(one.expected), f"{how.value(one.low)} to {how.value(one.high)}"


def _floor_note(floor: Floor | None) -> str:
    if floor is None:
        return ""
    number = words.plural(floor.n_examples, "test example")
    if floor.source == "binomial":
        return (
            f"An upper guide: as if every run had {number} drawn anew. Runs tested on the same examples "
            "agree on most of them, and lie closer."
        )
    how = (
        "by permutation, since flips are few"
        if floor.method == "permutation"
        else "d2, the expected range of normal values"
    )
    copies = floor.n_examples - floor.units
    what = "independent changes in the outcomes" if floor.probabilities else "independent flips"
    text = f"If runs differed by {what} of {number} alone ({how})."
    if copies:
        others = "is a copy of another" if copies == 1 else "are copies of others"
        text += f" {copies:,} of them {others}, and counted with it."
    return text


def _interval(interval: Interval | None, how: words.Numbers) -> str:
    if interval is None:
        return ""
    return f" (95%: {how.value(interval.low)} to {how.value(interval.high)})"


def _root(variance: float | None, how: words.Numbers) -> str:
    if variance is None:
        return words.NOTHING
    if variance < 0:
        return "nothing (its variance comes out negative)"
    return f"sd {how.points(math.sqrt(variance))}"


def _tests(
    statistics: SheetStatistics, tables: Sequence[TableStatistics]
) -> Iterator[tuple[str, ...]]:
    named = [(words.axis_label(table.axis), table.test) for table in tables]
    if statistics.floor is not None and statistics.floor.source == "predictions":
        named.insert(0, ("Run to run", statistics.floor.test))
    for name, test in [*named, ("Equal seeds", statistics.run_to_run.shared_seed)]:
        numbers = (test.p, test.adjusted_p, test.q, test.smallest_p)
        yield name, *map(_bare, numbers), _by(test)


def _by(test: SignificanceTest) -> str:
    """How p was made, in a word or two."""
    if test.p is None:
        return words.NOTHING
    if test.draws is not None:
        return f"{test.draws:,} draws"
    if test.smallest_p is not None:
        return "all permutations"
    return "two-way F" if test.name.startswith("two-way") else "chi-square"


def _axis(table: TableStatistics, how: words.Numbers) -> tuple[str, ...]:
    def value(number: float | None) -> str:
        return words.NOTHING if number is None else how.value(number)

    parts = table.components
    return (
        words.axis_label(table.axis),
        value(table.mean_adjusted_by_level),
        value(table.mean_adjusted_by_seed),
        _signed_root(parts.between_levels, how),
        _signed_root(parts.run_to_run, how),
        words.NOTHING if parts.omega_squared is None else f"{parts.omega_squared:.2f}",
    )


def _signed_root(variance: float | None, how: words.Numbers) -> str:
    """A component as a standard deviation; "< 0" where chance made it negative."""
    if variance is None:
        return words.NOTHING
    return "< 0" if variance < 0 else how.value(math.sqrt(variance))


def _plan(statistics: SheetStatistics, how: words.Numbers) -> str:
    planning = statistics.planning
    if planning is None:
        return ""
    ten = next(row for row in planning.seeds if row.seeds == 10)
    return (
        f"If the spread really is what these runs show (sd {how.value(planning.sd)}), 10 seeds would give a "
        f"mean to ±{how.points(ten.half_width)}. The true spread may well be "
        f"{planning.sd_low_factor:.2f} to {planning.sd_high_factor:.2f} times that (90%), so plan with "
        f"{planning.bound_factor:.2f} times: 4 chances in 5 that 10 seeds are then as narrow as "
        f"±{how.points(ten.half_width_bound)}."
    )


# ---- a page ----

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
