"""Configurations, the default among them, and the tables around it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mm_mlflow.design import Scalar
from mm_mlflow.errors import InvalidInput
from mm_mlflow.inference.columns import NOT_SET, Column
from mm_mlflow.plan import TablePlan

MOST_ROWS = 60  # of a table of configurations
_MOST_DEFAULTS = 500  # configurations that are tried as the default


@dataclass(frozen=True, eq=False)
class Grid:
    """Runs by configuration and column.

    Attributes:
        axes: the columns that make a configuration.
        codes: ``(C, A)`` int: the levels of every configuration, in order of its first run.
        applies: ``(C, A)`` booleans: where an axis has a meaning.
        counts: ``(C,)`` finished runs.
        cells: id of the cell by configuration and column, as text: to Python, True is 1.
        done: ids of cells that a finished run fills.
        columns: all column values, in order.
        planned: columns that are seeds, which configurations share, as text; none of them if columns
            only number runs.
    """

    axes: tuple[Column, ...]
    codes: np.ndarray
    applies: np.ndarray
    counts: np.ndarray
    cells: Mapping[tuple[int, str], str]
    done: frozenset[str]
    columns: tuple[Scalar, ...]
    planned: frozenset[str]

    @property
    def paired(self) -> bool:
        """Whether the runs of a column have their seed in common."""
        return bool(self.planned)

    def position(self, axis: str) -> int:
        """Of an axis among :attr:`axes`."""
        return next(i for i, item in enumerate(self.axes) if item.name == axis)

    def level(self, configuration: int, axis: int) -> Scalar:
        """The level of a configuration."""
        return self.axes[axis].levels[int(self.codes[configuration, axis])]

    def levels(self, configuration: int) -> dict[str, Scalar]:
        """The levels of a configuration, by axis."""
        return {item.name: self.level(configuration, i) for i, item in enumerate(self.axes)}

    def stars(self, default: int) -> list[np.ndarray]:
        """Per axis, the configurations that differ from ``default`` in that axis at most. An axis that
        has no meaning for a configuration is no difference."""
        same = (self.codes == self.codes[default]) | ~self.applies
        different = (~same).sum(axis=1)
        return [
            np.flatnonzero((different == 0) | ((different == 1) & ~same[:, axis]))
            for axis in range(len(self.axes))
        ]


def choose_default(grid: Grid, fixed: Mapping[int, int]) -> int:
    """The configuration around which most tables have at least two levels; of several, the one with
    most runs in its tables, then most runs of its own, then the first.

    Args:
        grid: the configurations.
        fixed: codes that it must have, by position of the axis.

    Raises:
        InvalidInput: no finished run has them together.
    """
    allowed = grid.counts > 0
    for axis, code in fixed.items():
        allowed &= grid.codes[:, axis] == code
    among = np.flatnonzero(allowed)
    if not len(among):
        asked = " and ".join(
            f"{grid.axes[a].name}={grid.axes[a].levels[c]}" for a, c in fixed.items()
        )
        raise InvalidInput(f"default {asked} is not allowed: no finished run has these levels")
    if len(among) > _MOST_DEFAULTS:
        among = among[np.argsort(-grid.counts[among], kind="stable")[:_MOST_DEFAULTS]]

    def score(configuration: int) -> tuple[int, int, int, int]:
        stars = grid.stars(configuration)
        tables = sum(_rows(grid, axis, star) > 1 for axis, star in enumerate(stars))
        runs = int(grid.counts[np.unique(np.concatenate(stars))].sum()) if stars else 0
        return tables, runs, int(grid.counts[configuration]), -configuration

    return int(max(among.tolist(), key=score))


def _rows(grid: Grid, axis: int, star: np.ndarray) -> int:
    """How many levels of an axis have a finished run in its star."""
    return len(np.unique(grid.codes[star[grid.counts[star] > 0], axis]))


def star_tables(grid: Grid, default: int) -> list[TablePlan]:
    """One table per axis of which at least two levels have a run, the others being at the default."""
    tables = []
    for axis, star in enumerate(grid.stars(default)):
        if _rows(grid, axis, star) < 2:
            continue
        # Where two configurations make one row, an axis has no meaning there: the nearest counts.
        nearest = sorted(star, key=lambda c: int((grid.codes[c] != grid.codes[default]).sum()))
        by_level: dict[int, int] = {}
        for configuration in nearest:
            by_level.setdefault(int(grid.codes[configuration, axis]), int(configuration))
        rows = [by_level[level] for level in sorted(by_level)]
        columns = _columns_of(grid, rows)
        tables.append(
            TablePlan(
                axis=grid.axes[axis].name,
                levels=tuple(grid.level(row, axis) for row in rows),
                default=rows.index(default),
                columns=columns,
                cells=_cells(grid, rows, columns),
                paired=grid.paired or len(columns) < 2,
            )
        )
    return tables


def _columns_of(grid: Grid, rows: Iterable[int]) -> tuple[Scalar, ...]:
    wanted = set(rows)
    there = {column for row, column in grid.cells if row in wanted}
    return tuple(column for column in grid.columns if str(column) in there)


def _cells(
    grid: Grid, rows: Sequence[int], columns: Sequence[Scalar]
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The entries of configurations and columns; a seed that has no run is a hole, unless most have none,
    as in a search: nobody planned those."""
    there = sum((row, str(column)) in grid.cells for row in rows for column in columns)
    planned = grid.planned if 2 * there >= len(rows) * len(columns) else frozenset()

    def entry(key: tuple[int, str]) -> tuple[str, ...]:
        if key[1] in planned or key in grid.cells:
            return (grid.cells.get(key, cell_id(*key)),)
        return ()

    return tuple(tuple(entry((row, str(column))) for column in columns) for row in rows)


def cell_id(configuration: int, column: str) -> str:
    """What the frame calls a cell of this plan."""
    return f"{configuration}/{column}"


def configurations_table(grid: Grid) -> TablePlan:
    """One table with a row per configuration: those with most runs, in the order of their levels."""
    most = np.argsort(-grid.counts, kind="stable")[:MOST_ROWS]
    rows = sorted(most[grid.counts[most] > 0].tolist(), key=lambda c: grid.codes[c].tolist())
    columns = _columns_of(grid, rows)
    names = [words(grid.levels(row), short=True) or "all runs" for row in rows]
    if len(set(names)) < len(names):
        names = [words(grid.levels(row)) for row in rows]
    return TablePlan(
        axis="configuration",
        levels=tuple(names),
        default=None,
        columns=columns,
        cells=_cells(grid, rows, columns),
        paired=grid.paired or len(columns) < 2,
    )


def words(levels: Mapping[str, Scalar], *, short: bool = False) -> str:
    """``lr=0.1 batch_size=32``; ``short`` cuts numbers to four digits."""

    def spelled(level: Scalar) -> str:
        return f"{level:.4g}" if short and isinstance(level, float) else str(level)

    return " ".join(f"{name}={spelled(level)}" for name, level in levels.items())


# ---- averages ----


def crossed_tables(grid: Grid, default: int, *, columns: str | None, pool: bool) -> list[TablePlan]:
    """Tables whose entries are means: over the seeds where another axis makes the columns, and over
    all other axes with ``pool``.

    A mean is over the combinations that every entry of its column has (with ``columns``: every entry
    of its table that has any): else a level would look better because it was tried in better company.
    """
    across = None if columns is None else grid.position(columns)
    same = (grid.codes == grid.codes[default]) | ~grid.applies
    tables = []
    for axis in range(len(grid.axes)):
        if axis == across:
            continue
        rest = [i for i in range(len(grid.axes)) if i not in {axis, across}]
        members: dict[tuple[int, str], dict[Hashable, str]] = {}
        for (configuration, column), cell in grid.cells.items():
            if cell not in grid.done or not (pool or same[configuration, rest].all()):
                continue
            context: list[Any] = grid.codes[configuration, rest].tolist() if pool else []
            where = column
            if across is not None:
                where = str(grid.level(configuration, across))
                context.append(column)
            key = (int(grid.codes[configuration, axis]), where)
            members.setdefault(key, {})[tuple(context)] = cell
        table = _averaged(grid, axis, across, members)
        if sum(any(row) for row in table.cells) > 1:  # else nothing is comparable
            tables.append(table)
    return tables


def _averaged(
    grid: Grid,
    axis: int,
    across: int | None,
    members: Mapping[tuple[int, str], Mapping[Hashable, str]],
) -> TablePlan:
    rows = sorted({row for row, _ in members})
    known = grid.columns if across is None else grid.axes[across].levels
    there = {column for _, column in members}
    columns = tuple(column for column in known if str(column) in there)
    # Numbered runs have nothing in common with those of the same number.
    comparable = grid.paired or across is None
    cells: list[list[tuple[str, ...]]] = [[() for _ in columns] for _ in rows]
    for j, column in enumerate(columns):
        inside = [
            set(found)
            for (_, other), found in members.items()
            if across is not None or other == str(column)
        ]
        common = set.intersection(*inside) if inside else set()
        for i, row in enumerate(rows):
            found = members.get((row, str(column)), {})
            kept = [cell for context, cell in found.items() if not comparable or context in common]
            cells[i][j] = tuple(kept)
    levels = tuple(grid.axes[axis].levels[row] for row in rows)
    return TablePlan(
        axis=grid.axes[axis].name,
        levels=levels,
        default=None,
        columns=columns,
        cells=tuple(map(tuple, cells)),
        paired=across is not None or grid.paired or len(columns) < 2,
    )


# ---- bins ----


def binned(item: Column, number: int) -> Column:
    """A numeric column cut into ``number`` bins of equally many runs; code -1 where it is not set.

    Bins that no run would fall into (many runs share one value) are left out.

    Raises:
        InvalidInput: not a number of at least 2, or not a numeric column.
    """
    if number < 2:
        raise InvalidInput(f"bins {item.name}={number} is not allowed: at least 2")
    if not item.numeric:
        raise InvalidInput(f"bins {item.name} is not allowed: its values are no numbers")
    own = np.array([_float(level) for level in item.levels])[item.codes]
    used = own[np.isfinite(own)]
    edges = np.unique(np.quantile(used, np.linspace(0, 1, number + 1)[1:-1]))
    codes = np.where(np.isfinite(own), np.searchsorted(edges, own, side="left"), len(edges) + 1)
    labels: list[str] = []
    final = np.full(len(codes), -1)
    for code in range(len(edges) + 1):
        inside = codes == code
        if inside.any():
            low, high = own[inside].min(), own[inside].max()
            final[inside] = len(labels)
            text = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
            labels.append(text if text not in labels else f"{low!r} to {high!r}")
    return replace(item, levels=tuple(labels), codes=final, spellings={})


def _float(level: Scalar) -> float:
    """NaN where there is no number, or one beyond all bounds."""
    try:
        return math.nan if level == NOT_SET else float(level)
    except OverflowError:
        return math.nan


def binned_table(item: Column, cells: Sequence[str | None]) -> TablePlan:
    """Rows are bins, an entry is a run; the columns number the runs of each bin.

    Args:
        item: as :func:`binned` made it.
        cells: ``(n,)`` the cell that each run fills, None where it fills none.
    """
    rows: list[list[str]] = [[] for _ in item.levels]
    for code, cell in zip(item.codes.tolist(), cells, strict=True):
        if code >= 0 and cell is not None:
            rows[code].append(cell)
    widest = max(map(len, rows), default=0)
    return TablePlan(
        axis=item.name,
        levels=item.levels,
        default=None,
        columns=tuple(range(1, widest + 1)),
        cells=tuple(
            tuple((row[j],) if j < len(row) else () for j in range(widest)) for row in rows
        ),
        paired=False,
        binned=True,
    )


def numbered(keys: Iterable[Hashable]) -> list[int]:
    """For each key in turn, how often it has come: 1, 2, ..."""
    seen: Counter[Hashable] = Counter()
    numbers = []
    for key in keys:
        seen[key] += 1
        numbers.append(seen[key])
    return numbers
