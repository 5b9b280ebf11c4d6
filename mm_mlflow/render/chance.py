"""What chance would give beside a sheet, as text: the numbers behind the verdicts, for every format."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mm_mlflow.render import verdicts, words
from mm_mlflow.sheet import Sheet
from mm_mlflow.statistics.describe import SheetStatistics, TableStatistics
from mm_mlflow.statistics.floor import Floor
from mm_mlflow.statistics.ranges import d2
from mm_mlflow.statistics.records import Interval, SignificanceTest

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
        verdicts=tuple(verdicts.sentences(sheet, statistics, tables, how)),
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
        yield name, *map(words.probability, numbers), _by(test)


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
