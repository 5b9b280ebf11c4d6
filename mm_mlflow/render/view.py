"""A sheet as text and positions, before any format: every renderer but csv and json draws this.

Percent, decimals, marks and emphasis are decided here once, so that no two formats disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mm_mlflow.render import words
from mm_mlflow.render.chance import ChanceView, chance
from mm_mlflow.sheet import Sheet, SheetTable, delta


@dataclass(frozen=True)
class Delta:
    """A Δ as text.

    Attributes:
        text: with its mark, where it is a lower bound.
        healthy: the same without diverged runs, where the two can differ.
        share: its part of Δ over the whole sheet (without diverged runs, which would dwarf all
            else), in [0, 1]; 0 where there is none.
    """

    text: str
    healthy: str | None
    share: float

    @property
    def bracketed(self) -> str | None:
        """``healthy`` as it stands in tables, beside the number with diverged runs."""
        return None if self.healthy is None else f"({self.healthy})"

    @property
    def whole(self) -> str:
        """Both numbers on one line."""
        return " ".join(filter(None, [self.text, self.bracketed]))


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        position: where its value lies between the lowest and the highest, None without a shade.
        end: whether it is the lowest or the highest value of the whole sheet.
        run: name and id of its run, empty without one.
    """

    text: str
    position: float | None
    status: str
    end: bool
    run: str


@dataclass(frozen=True)
class Row:
    """One level of an axis; ``raw`` is its spelling in MLflow."""

    label: str
    raw: str
    default: bool
    entries: tuple[Entry, ...]
    mean_sd: str
    delta: Delta


@dataclass(frozen=True)
class TableView:
    """One table; ``deltas`` are those of its columns, none where its columns only number runs."""

    title: str
    axis: str
    seeds: tuple[str, ...]
    rows: tuple[Row, ...]
    deltas: tuple[Delta, ...]


@dataclass(frozen=True)
class SheetView:
    """A sheet, ready to be drawn.

    Attributes:
        lead: plain sentences that say what the sheet shows.
        delta_words: the one of them about Δ over all runs.
        unit: what the numbers of the tables are in.
        scale: the values at the two ends of the shading, None where nothing is shaded.
        legend: marks that occur, with their meaning.
        seed_word, seeds_word: what the columns are, and what a Δ of a row is over.
        chance: what chance would give, None where that was not computed; ``blocked`` whether its axes are
            tested with seeds as blocks.
    """

    metric: str
    title: str
    lead: str
    delta_words: str
    delta_all: Delta
    numbers: words.Numbers
    unit: str
    seed_word: str
    seeds_word: str
    scale: tuple[str, str] | None
    notices: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    tables: tuple[TableView, ...]
    chance: ChanceView | None = None
    blocked: bool = False


def view(sheet: Sheet) -> SheetView:
    """``sheet`` as people read it."""
    low, high = _range(sheet, healthy=False) if sheet.tables else sheet.ends or (math.nan, math.nan)
    how = words.numbers(sheet.unit, low, high)
    scale = _range(sheet, healthy=True)
    shaded = math.isfinite(scale[0])
    sentences = [
        words.sentence(words.clip(sheet.description, 600)),
        words.examples_sentence(sheet),
        words.figure_sentence(sheet.figure),
    ]
    return SheetView(
        metric=words.clean(sheet.metric),
        title=words.clip(words.clean(sheet.title), 160),
        lead=" ".join(filter(None, sentences)),
        delta_words=words.delta_sentence(sheet, how),
        delta_all=_delta(
            sheet, how, sheet.delta_all, sheet.delta_all_healthy, sheet.n_diverged > 0
        ),
        numbers=how,
        unit="Values in percent, Δ in points (percentage points)."
        if how.percent
        else "Values as logged.",
        seed_word=words.clip(words.axis_label(sheet.seed_axis), 16),
        seeds_word=sheet.column_kind,
        scale=(how.with_unit(scale[0]), how.with_unit(scale[1])) if shaded else None,
        notices=tuple(words.notices(sheet, how)),
        legend=tuple(_legend(sheet)),
        tables=tuple(_table(sheet, table, how, scale) for table in sheet.tables),
        chance=chance(sheet, how),
        blocked=sheet.statistics is not None and sheet.statistics.shared_seed_declared,
    )


def _range(sheet: Sheet, *, healthy: bool) -> tuple[float, float]:
    """Ends of the one scale of all tables. A diverged run must not wash out all the others."""
    grids = [table.healthy if healthy else table.values for table in sheet.tables]
    values = np.concatenate([np.ravel(grid) for grid in grids] or [np.array([])])
    finite = values[np.isfinite(values)]
    if finite.size:
        return float(finite.min()), float(finite.max())
    return _range(sheet, healthy=False) if healthy else (math.nan, math.nan)


def _table(
    sheet: Sheet, table: SheetTable, how: words.Numbers, scale: tuple[float, float]
) -> TableView:
    healthy = table.healthy
    by_level, by_seed = np.asarray(delta(healthy, axis=1)), table.delta_by_seed_healthy
    diverged = np.array(table.status) == "diverged"
    labels = words.level_labels(table.levels)
    mean, sd, all_by_level = table.mean, table.sd, table.delta_by_level
    return TableView(
        title=words.axis_label(table.axis),
        axis=words.clean(table.axis),
        seeds=tuple(map(str, table.seeds)),
        rows=tuple(
            Row(
                label=labels[i],
                raw=f"{words.clean(table.axis)}={words.clean(level)}",
                default=i == table.default,
                entries=tuple(_entries(sheet, table, i, how, scale)),
                mean_sd=how.mean_sd(mean[i], sd[i]),
                delta=_delta(sheet, how, all_by_level[i], by_level[i], diverged[i].any()),
            )
            for i, level in enumerate(table.levels)
        ),
        deltas=tuple(
            _delta(sheet, how, value, by_seed[j], diverged[:, j].any())
            for j, value in enumerate(table.delta_by_seed)
        )
        if table.paired
        else (),
    )


def _entries(
    sheet: Sheet, table: SheetTable, i: int, how: words.Numbers, scale: tuple[float, float]
) -> Iterator[Entry]:
    ends = set(sheet.ends or ())
    for j, status in enumerate(table.status[i]):
        value, run = table.values[i, j], table.run_ids[i][j]
        if status in words.HOLES:
            text, position = words.HOLES[status][0], None
        else:
            text, position = how.value(value), _position(value, scale)
        if status == "diverged":
            text, position = f"{text} {words.DIVERGED_MARK}", None
        name = words.clean(table.run_names[i][j] or "")
        yield Entry(
            text=text,
            position=position,
            status=status,
            end=value in ends,
            run=" · ".join(filter(None, [name, f"run {words.clean(run)}"])) if run else "",
        )


def _position(value: float, scale: tuple[float, float]) -> float | None:
    low, high = scale
    if not (math.isfinite(value) and math.isfinite(low)):
        return None
    if math.isinf(high - low):  # of ±1e308, say: of halves it is not
        value, low, high = value / 2, low / 2, high / 2
    return 0.5 if high <= low else (value - low) / (high - low)


def _delta(sheet: Sheet, how: words.Numbers, value: float, healthy: float, diverged: bool) -> Delta:
    known = math.isfinite(value)
    whole = sheet.delta_all_healthy if sheet.delta_all_healthy > 0 else sheet.delta_all
    return Delta(
        text=_bound(sheet, how, value),
        healthy=_bound(sheet, how, healthy) if diverged else None,
        share=min(1.0, value / whole) if known and math.isfinite(whole) and whole > 0 else 0.0,
    )


def _bound(sheet: Sheet, how: words.Numbers, value: float) -> str:
    mark = "" if sheet.complete or not math.isfinite(value) else f"{words.LOWER_BOUND} "
    return mark + how.value(value)


def _legend(sheet: Sheet) -> Iterator[tuple[str, str]]:
    found = {status for table in sheet.tables for row in table.status for status in row}
    for status, (mark, meaning) in words.HOLES.items():
        if status in found:
            yield mark, words.UNPLANNED if sheet.inferred and status == "missing" else meaning
    if "diverged" in found:
        yield (
            words.DIVERGED_MARK,
            "diverged: its loss or its outputs were not finite; such runs are not shaded",
        )
        yield "( )", "Δ without diverged runs"
    if not sheet.complete:
        yield words.LOWER_BOUND, "lower bound: runs are missing, and more runs can only widen it"
