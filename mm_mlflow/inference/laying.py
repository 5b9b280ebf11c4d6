"""Which tables an experiment gives, and why not others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mm_mlflow.errors import InvalidInput
from mm_mlflow.inference.asked import Asked
from mm_mlflow.inference.axes import Roles, level_of
from mm_mlflow.inference.columns import Column
from mm_mlflow.inference.grid import (
    Grid,
    binned,
    binned_table,
    choose_default,
    configurations_table,
    crossed_tables,
    star_tables,
    words,
)
from mm_mlflow.inference.placing import Placed
from mm_mlflow.plan import TablePlan

_MANY = 8  # levels of a number, above which it was hardly chosen from a grid


def refuse_nothing(placed: Placed, role: Roles, asked: Asked) -> None:
    """Refuse runs of which nothing but their start tells one from another.

    Raises:
        InvalidInput: no axis, no candidate and no seed varies, and nobody asked for replicates.
    """
    varies = role.axes or role.held or role.candidates or asked.bins or role.seed is not None
    if varies or asked.duplicates == "as-replicates":
        return
    unique = [
        name for name, reason in role.ignored.items() if reason.startswith(("unique", "path"))
    ]
    hint = (
        f"; different in every run: {', '.join(unique[:8])} (--axis makes one an axis)"
        if unique
        else ""
    )
    raise InvalidInput(
        f"no axis varies in {placed.finished} runs{hint}; --duplicates as-replicates shows them as runs "
        "of one configuration"
    )


def lay_out(
    placed: Placed, role: Roles, found: Mapping[str, Column], asked: Asked
) -> tuple[list[TablePlan], str, int | None, list[str]]:
    """The tables, the layout, the default configuration (None without one), and sentences about them.

    Args:
        placed: runs in their cells.
        role: what every column is.
        found: all columns of the finished runs, by name.
        asked: what the user wants otherwise.

    Raises:
        InvalidInput: something asked for that no run has.
    """
    grid = placed.grid
    if asked.bins:
        return _binned_tables(placed, found, asked), "bins", None, _bins_notes(asked)
    default = choose_default(grid, _fixed(role, asked)) if role.axes and not role.held else None
    tables: list[TablePlan] = []
    if default is not None:
        tables = (
            crossed_tables(grid, default, columns=asked.columns, pool=asked.pool)
            if asked.pool or asked.columns
            else star_tables(grid, default)
        )
    if tables and default is not None:
        inside = set(np.concatenate(grid.stars(default)).tolist())
        finished = set(np.flatnonzero(grid.counts).tolist())
        layout = "star" if inside >= finished else "factorial"
        notes = _layout_notes(grid, role, tables, default, asked, layout)
        return tables, layout, default, notes
    dropped = _dropped_notes(asked)
    if (grid.counts > 1).any():
        return (
            [configurations_table(grid)],
            "repeats",
            None,
            [*dropped, *_repeats_notes(placed, role, asked)],
        )
    return [], "none", None, [*dropped, *_search_notes(placed, role, asked)]


def _fixed(role: Roles, asked: Asked) -> dict[int, int]:
    """Codes that the default must have, by position of the axis."""
    axes = {item.name: (i, item) for i, item in enumerate(role.axes)}
    fixed = {}
    for name, text in asked.default.items():
        position, item = axes[name]
        fixed[position] = item.levels.index(level_of(item, text))
    return fixed


def _binned_tables(placed: Placed, found: Mapping[str, Column], asked: Asked) -> list[TablePlan]:
    runs = placed.runs[: placed.finished]
    counted = {same[0].run_id: cell for cell, same in placed.by_cell.items()}
    cells = [counted.get(run.run_id) for run in runs]
    return [binned_table(binned(found[name], number), cells) for name, number in asked.bins.items()]


def _layout_notes(
    grid: Grid,
    role: Roles,
    tables: Sequence[TablePlan],
    default: int | None,
    asked: Asked,
    layout: str,
) -> list[str]:
    assert default is not None
    notes = []
    how = "as asked" if asked.default else "chosen so that most tables have it (--default)"
    if not asked.pool:
        notes.append(f"Default configuration, {how}: {words(grid.levels(default))}.")
    shown = {table.axis for table in tables}
    without = [item.name for item in role.axes if item.name not in {*shown, asked.columns}]
    if without:
        notes.append(
            f"No table for {', '.join(without)}: "
            + (
                "no two of its levels were tried with the same combination of the other params."
                if asked.pool
                else "no two runs differ in one of these alone, with the others at the default."
            )
        )
    if layout == "factorial" and not asked.pool and not asked.columns:
        notes.append(
            "Runs that differ from the default in several params are in no table; Δ over all counts "
            "them (--pool averages over them)."
        )
    if role.candidates:
        notes.append(
            f"{', '.join(list(role.candidates)[:8])} differ in (nearly) every run and are not held "
            "fixed: within a row they vary too."
        )
    return notes


def _bins_notes(asked: Asked) -> list[str]:
    names = ", ".join(asked.bins)
    return [f"All runs, grouped by {names} alone: whatever else differs, differs within a row too."]


def _dropped_notes(asked: Asked) -> list[str]:
    """What was asked for and gave no table."""
    options = {"--pool": asked.pool, "--columns": asked.columns}
    named = [name for name, value in options.items() if value]
    why = "no two levels of an axis were tried with the same combination of the other params"
    return [f"{' and '.join(named)} gave no table: {why}."] if named else []


def _where(asked: Asked) -> str:
    if not asked.default:
        return "a default"
    return f"the default asked for ({words(asked.default)})"


def _repeats_notes(placed: Placed, role: Roles, asked: Asked) -> list[str]:
    number = int((placed.grid.counts > 0).sum())
    if number == 1:
        if role.candidates:
            names = ", ".join(list(role.candidates)[:8])
            return [
                f"{names} differ in (nearly) every run and are not held fixed: all runs are one row."
            ]
        seed = " but the seed" if role.seed is not None else ""
        return [f"No param varies{seed}: these are runs of one configuration."]
    names = ", ".join(item.name for item in placed.grid.axes[:8])
    text = (
        f"No table around {_where(asked)}: no other of the {number} configurations differs from it in one "
        f"param alone ({names}). One table shows a row per configuration{_bins_hint(placed)}."
    )
    return [text]


def _bins_hint(placed: Placed) -> str:
    """That a number with many levels can be cut into bins, as one that was drawn at random has to be."""
    many = [item.name for item in placed.grid.axes if item.numeric and item.distinct > _MANY]
    return f"; --bins {many[0]}=4 groups all runs by one of them" if many else ""


def _search_notes(placed: Placed, role: Roles, asked: Asked) -> list[str]:
    names = [*role.candidates, *(item.name for item in role.axes)]
    numeric = next(iter(role.candidates), None)
    hint = f"; --bins {numeric}=4 groups runs by one of them" if numeric else ""
    text = (
        f"No table around {_where(asked)}: no two of {placed.finished} runs differ in one param alone, as "
        f"in a random search over {', '.join(names[:8])}{hint}."
        if not asked.default
        else f"No table around {_where(asked)}: no run differs from it in one param alone{hint}."
    )
    return [text]


def pooled(asked: Asked, *, seeded: bool) -> str:
    """What the entries of tables are the mean over; empty where each is one run.

    ``seeded`` is whether runs share seeds: what numbered runs have in common nobody knows.
    """
    if asked.columns and not seeded:
        return "its runs"
    if asked.pool:
        return "runs with all combinations of the other params that every level has"
    return "the seeds that every entry has" if asked.columns else ""
