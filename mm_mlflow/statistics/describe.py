"""All statistics of one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mm_mlflow.statistics.axis import (
    ALPHA,
    Components,
    axis_test,
    components,
    shared_seed_test,
    two_way_test,
)
from mm_mlflow.statistics.floor import Floor, binomial_guide, sampling_floor
from mm_mlflow.statistics.means import (
    Configuration,
    Pooled,
    configuration,
    pooled,
    sd_interval,
    t_interval,
)
from mm_mlflow.statistics.multiple import holm
from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.statistics.planning import Planning, plan_seeds
from mm_mlflow.statistics.ranges import Spread, adjusted, spread
from mm_mlflow.statistics.records import Interval, Record, SignificanceTest, known
from mm_mlflow.statistics.verdict import Verdict, judge


@dataclass(frozen=True, eq=False)
class Runs:
    """The distinct runs of a sheet, each once: healthy ones with a finite value.

    Attributes:
        run_ids: ``(n,)``.
        values: ``(n,)`` float64.
        configurations: ``(n,)`` names: all levels, without the seed.
        seeds: ``(n,)``; None where columns only number the runs, so that nothing is shared.
    """

    run_ids: tuple[str, ...]
    values: np.ndarray
    configurations: tuple[str, ...]
    seeds: tuple[object, ...] | None

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Positions of the runs of every configuration, in order of first appearance."""
        found: dict[str, list[int]] = {}
        for place, name in enumerate(self.configurations):
            found.setdefault(name, []).append(place)
        return {name: np.array(places) for name, places in found.items()}

    @property
    def by_seed(self) -> np.ndarray | None:
        """``(configurations, seeds)`` values, NaN where there is none; None without seeds, or where a
        configuration has a seed twice."""
        if self.seeds is None:
            return None
        columns = {seed: i for i, seed in enumerate(dict.fromkeys(self.seeds))}
        groups = self.groups
        table = np.full((len(groups), len(columns)), np.nan)
        for row, places in zip(table, groups.values(), strict=True):
            for place in places:
                column = columns[self.seeds[place]]
                if np.isfinite(row[column]):
                    return None
                row[column] = self.values[place]
        return table


@dataclass(frozen=True, eq=False)
class TableValues:
    """One table of a sheet.

    Attributes:
        axis: its name.
        values: ``(levels, columns)`` of healthy runs, NaN where there is none.
        paired: whether the runs of a column have a seed in common.
        refused: why no test can be made, such as entries that are means; empty if one can.
    """

    axis: str
    values: np.ndarray
    paired: bool = True
    refused: str = ""


class TableStatistics(Record):
    """What chance would give in one table."""

    axis: str
    adjusted_by_level: tuple[float | None, ...]
    """Δ of each row divided by d2 of its number of runs."""
    adjusted_by_seed: tuple[float | None, ...]
    """Δ of each column likewise; all null where columns only number runs."""
    mean_adjusted_by_level: float | None
    """Mean of ``adjusted_by_level``: what varies within a level."""
    mean_adjusted_by_seed: float | None
    """Mean of ``adjusted_by_seed``: equal to the other where the axis adds nothing."""
    intervals: tuple[Interval | None, ...]
    """t interval of each level's mean; null ("no interval") where all values are equal."""
    delta_of_means: float | None
    """Highest minus lowest mean of a level."""
    components: Components
    test: SignificanceTest
    """Do the levels differ by more than chance?"""


class RunToRun(Record):
    """All that varies between runs of one configuration."""

    sd: float | None
    """Pooled over configurations."""
    freedom: int
    interval: Interval | None
    """Interval of ``sd`` (normal values): chi-square, or Graybill and Wang's where all configurations have
    the same seeds, which may share something."""
    mean_delta: float | None
    """Mean of the configurations' Δ over their runs."""
    components: Components
    """Over all distinct runs: configurations as levels."""
    shared_seed: SignificanceTest
    """Do equal seeds share anything across configurations?"""


class SheetStatistics(Record):
    """Is it more than chance? Everything that is said beside a sheet's Δ."""

    n_left_out: int
    """Diverged runs, which are left out of all statistics."""
    spread: Spread
    configurations: tuple[Configuration, ...]
    run_to_run: RunToRun
    floor: Floor | None
    floor_reason: str
    """Why there is no floor, or only the binomial guide; empty where there is one."""
    shared_seed_declared: bool
    """The design declares that runs of equal seeds share something (a data split, say)."""
    planning: Planning | None
    verdicts: tuple[Verdict, ...]


def describe(
    runs: Runs,
    tables: Sequence[TableValues],
    *,
    outcomes: Outcomes | None = None,
    n_examples: int | None = None,
    why: str = "",
    shared_seed: bool = False,
    n_left_out: int = 0,
    is_share: bool = True,
    refused: str = "",
) -> tuple[SheetStatistics, tuple[TableStatistics, ...]]:
    """Statistics of a sheet and of each of its tables.

    Args:
        runs: the distinct runs.
        tables: its tables, in order.
        outcomes: per-example outcomes of these runs (others are passed over), if there are.
        n_examples: test examples behind each value, for the binomial guide where there are none.
        why: why there are no outcomes.
        shared_seed: whether the design declared, before any value was seen, that runs of equal seeds
            share something: then levels are tested with seeds as blocks.
        n_left_out: diverged runs that ``runs`` lacks.
        is_share: whether values are shares of test examples, so that a guide from their number can be.
        refused: why nothing may be judged at all, such as runs that were chosen by these very values;
            intervals, plans and statements about further runs are left out then too.
    """
    if refused:
        tables = [replace(table, refused=refused) for table in tables]
    described = _adjusted(
        [_table(table, shared_seed, _testable(tables), intervals=not refused) for table in tables]
    )
    groups = runs.groups
    parts = [runs.values[places] for places in groups.values()]
    by_seed = runs.by_seed
    found = pooled(parts, by_seed)
    sd = math.sqrt(found.variance) if found.variance >= 0 else math.nan
    ranges = [float(np.ptp(part)) for part in parts if len(part) > 1]
    if not is_share:
        n_examples, why = None, why or "values are no shares of test examples"
    floor, reason = _floor(runs, tables, found, outcomes, n_examples, why)
    if floor is not None and refused:
        untold = {"test": _untested(floor.test.name, refused), "distribution_wise_interval": None}
        floor = floor.model_copy(update=untold)
    spans = spread(runs.values)
    if refused:
        nothing = dict.fromkeys(("span_interval", "subset_range_interval", "tolerance_percent"))
        spans = spans.model_copy(update=nothing)
    statistics = SheetStatistics(
        n_left_out=n_left_out,
        spread=spans,
        configurations=tuple(
            configuration(name, part, interval=not refused)
            for name, part in zip(groups, parts, strict=True)
        ),
        run_to_run=RunToRun(
            sd=known(sd),
            freedom=found.freedom,
            interval=None if refused else sd_interval(found),
            mean_delta=known(float(np.mean(ranges))) if ranges else None,
            components=components(
                _padded(parts) if by_seed is None else by_seed, paired=by_seed is not None
            ),
            shared_seed=_shared_seed(runs, by_seed, refused),
        ),
        floor=floor,
        floor_reason=reason,
        shared_seed_declared=shared_seed,
        planning=None if refused else plan_seeds(found, _typical(parts)),
        verdicts=(),
    )
    verdicts = _verdicts(statistics, described, _testable(tables))
    return statistics.model_copy(update={"verdicts": verdicts}), described


def _untested(name: str, reason: str) -> SignificanceTest:
    return SignificanceTest(name=name, statistic=None, p=None, reason=reason)


def _shared_seed(runs: Runs, by_seed: np.ndarray | None, refused: str) -> SignificanceTest:
    name = "permutation within configurations (equal seeds share nothing)"
    if refused:
        return _untested(name, refused)
    if runs.seeds is None:
        return _untested(name, "columns are no seeds that runs could share")
    if by_seed is None:
        return _untested(name, "a configuration has several runs of one seed")
    return shared_seed_test(by_seed)


def _typical(parts: Sequence[np.ndarray]) -> int:
    """The most frequent number of runs of a configuration, of those that have two or more."""
    sizes = [len(part) for part in parts if len(part) > 1]
    return max(sorted(set(sizes)), key=sizes.count) if sizes else 0


def _testable(tables: Sequence[TableValues]) -> int:
    return sum(not table.refused for table in tables)


def _padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    table = np.full((len(parts), max(map(len, parts), default=0)), np.nan)
    for row, part in zip(table, parts, strict=True):
        row[: len(part)] = part
    return table


def _table(
    table: TableValues, shared_seed: bool, tests: int, *, intervals: bool
) -> TableStatistics:
    values = table.values
    rows = [row[np.isfinite(row)] for row in values]
    columns = [column[np.isfinite(column)] for column in values.T]
    by_level = tuple(_adjusted_range(row) for row in rows)
    by_seed = tuple(_adjusted_range(column) if table.paired else None for column in columns)
    means = [float(row.mean()) for row in rows if len(row)]
    return TableStatistics(
        axis=table.axis,
        adjusted_by_level=by_level,
        adjusted_by_seed=by_seed,
        mean_adjusted_by_level=_mean(by_level),
        mean_adjusted_by_seed=_mean(by_seed),
        intervals=tuple(t_interval(row) if intervals else None for row in rows),
        delta_of_means=max(means) - min(means) if len(means) > 1 else None,
        components=components(values, paired=table.paired),
        test=_axis_test(table, rows, shared_seed, tests),
    )


def _axis_test(
    table: TableValues, rows: Sequence[np.ndarray], shared_seed: bool, tests: int
) -> SignificanceTest:
    if table.refused:
        return _untested("axis test", table.refused)
    if shared_seed and table.paired:
        return two_way_test(table.values)
    return axis_test(rows, alpha=ALPHA / tests)


def _adjusted(tables: Sequence[TableStatistics]) -> tuple[TableStatistics, ...]:
    """With Holm's p over all of them."""
    found = holm([table.test.p for table in tables])
    return tuple(
        table.model_copy(update={"test": table.test.model_copy(update={"adjusted_p": p})})
        for table, p in zip(tables, found, strict=True)
    )


def _verdicts(
    statistics: SheetStatistics, tables: Sequence[TableStatistics], tests: int
) -> tuple[Verdict, ...]:
    floor = statistics.floor
    if statistics.run_to_run.sd is None:
        first = Verdict(
            subject="run_to_run",
            kind="cannot_be_told",
            reason="no configuration has two runs",
            needs=2,
        )
    elif floor is None or floor.source == "binomial":
        first = Verdict(subject="run_to_run", kind="cannot_be_told", reason=statistics.floor_reason)
    else:
        first = judge("run_to_run", floor.test)
    return (
        first,
        *(judge("axis", t.test, axis=t.axis, tests=max(tests, 1)) for t in tables),
        judge("shared_seed", statistics.run_to_run.shared_seed),
    )


def _floor(
    runs: Runs,
    tables: Sequence[TableValues],
    within: Pooled,
    outcomes: Outcomes | None,
    n_examples: int | None,
    why: str,
) -> tuple[Floor | None, str]:
    """The floor, or the binomial guide, or neither; and why it is not the first."""
    single = {n for t in tables for n in (*_counts(t.values), *_counts(t.values.T)) if n > 1}
    places = None if outcomes is None else {run: i for i, run in enumerate(outcomes.run_ids)}
    if outcomes is not None and places is not None and outcomes.is_mean:
        if lacking := [run for run in runs.run_ids if run not in places]:
            why = f"{len(lacking)} of {len(runs.run_ids)} runs have no predictions"
        else:
            rows = outcomes.values[[places[run] for run in runs.run_ids]]
            floor = sampling_floor(
                rows,
                list(runs.groups.values()),
                copies=outcomes.copies,
                observed=runs.values,
                single=sorted(single),
                within=within,
            )
            return floor, "" if floor else "no configuration has two runs"
    elif outcomes is not None:
        return None, "the metric is no mean over examples"
    if n_examples:
        guide = binomial_guide(runs.values, list(runs.groups.values()), n_examples, sorted(single))
        if guide is not None:
            return guide, why or "there are no predictions"
        why = why or "there are no predictions, and values that are no fractions of test examples"
    return (
        None,
        why or "there are no predictions, and nothing tells how many test examples there are",
    )


def _counts(values: np.ndarray) -> list[int]:
    return [int(n) for n in np.isfinite(values).sum(axis=1)]


def _adjusted_range(values: np.ndarray) -> float | None:
    return adjusted(float(np.ptp(values)), len(values)) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None
