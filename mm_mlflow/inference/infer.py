"""From runs of any program to a frame and its plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mm_mlflow.design import Scalar, digest
from mm_mlflow.frame import (
    Duplicate,
    ExperimentRef,
    Frame,
    RawRun,
    merge_records,
    metric_values,
    spread,
)
from mm_mlflow.inference.asked import Asked
from mm_mlflow.inference.axes import Roles, is_seed_name, roles
from mm_mlflow.inference.columns import NOT_SET, columns, misspelt, order
from mm_mlflow.inference.grid import Grid, words
from mm_mlflow.inference.laying import lay_out, pooled, refuse_nothing
from mm_mlflow.inference.placing import REPEAT, REPLICATE, Placed, comparable, extended, place
from mm_mlflow.inference.runs import choose
from mm_mlflow.plan import ColumnKind, Plan, TablePlan


def infer(
    runs: Sequence[RawRun], experiment: ExperimentRef, asked: Asked | None = None
) -> tuple[Frame, Plan]:
    """The frame of runs that any program made, and the plan that their params imply.

    Every finished run counts once in what is over the whole sheet, in a table or not.

    Args:
        runs: of one experiment, whatever their state.
        experiment: where they are.
        asked: what the user wants otherwise.

    Raises:
        InvalidInput: fewer than two finished runs with metrics, no axis, a seed that cannot be told, or
            something asked for that no run has.
    """
    asked = asked or Asked()
    chosen = choose(runs, asked)
    found = columns(chosen.runs)
    role = roles(found, asked)
    members = [*chosen.runs, *comparable(chosen.failed, role)]
    role = extended(role, members)
    placed = place(members, len(chosen.runs), role, asked)
    refuse_nothing(placed, role, asked)
    tables, layout, default, notes = lay_out(placed, role, found, asked)
    shown = tuple(t for t in tables if not asked.axes or t.axis in asked.axes)
    seeds = [role.seed] if role.seed is not None else []
    ignored = dict(role.ignored)
    if role.seed is not None and not placed.seeded:
        ignored[role.seed.name] = "seed, shared by no two configurations"
    seed_axis, kind = _seed_axis(placed, layout, asked)
    plan = Plan(
        id=digest([experiment.id, layout, [[t.axis, list(t.levels)] for t in tables]]),
        name=experiment.name,
        layout=layout,
        axes=_axes(placed, role, tables),
        default={} if default is None else placed.grid.levels(default),
        seed_axis=seed_axis,
        column_kind=kind,
        columns=_columns(placed.grid, tables),
        tables=shown,
        inferred=True,
        ignored=ignored,
        candidates=role.candidates,
        notes=(
            *chosen.notes,
            *placed.notes,
            *notes,
            *misspelt([*role.axes, *seeds]),
        ),
        replicated=placed.seeded and any(REPEAT.search(str(c)) for c in placed.grid.columns),
        pooled=pooled(asked, seeded=placed.grid.paired) if layout in {"star", "factorial"} else "",
    )
    return _frame(placed, plan, default, experiment), plan


def _seed_axis(placed: Placed, layout: str, asked: Asked) -> tuple[str, ColumnKind]:
    """What the columns of the tables are, by name and by kind."""
    if layout == "bins":
        return REPLICATE, "runs"
    if asked.columns is not None and layout in {"star", "factorial"}:
        return asked.columns, "seeds" if is_seed_name(asked.columns) else "levels"
    return placed.column_word, "seeds" if placed.seeded else "runs"


def _axes(
    placed: Placed, role: Roles, tables: Sequence[TablePlan]
) -> dict[str, tuple[Scalar, ...]]:
    """Levels by axis: those of finished runs, those that tables show though all their runs failed, and
    bins. That an axis has no meaning for some runs is no level of it."""
    grid = placed.grid
    shown = {table.axis: set(map(str, table.levels)) for table in tables}
    axes: dict[str, tuple[Scalar, ...]] = {}
    for position, item in enumerate(role.axes):
        used = set(grid.codes[grid.counts > 0, position].tolist())
        axes[item.name] = tuple(
            level
            for code, level in enumerate(item.levels)
            if (code in used or str(level) in shown.get(item.name, ()))
            and not (level == NOT_SET and item.name in role.applies)
        )
    bins = {table.axis: table.levels for table in tables if table.binned}
    return axes | bins


def _columns(grid: Grid, tables: Sequence[TablePlan]) -> tuple[Scalar, ...]:
    """The columns of all tables; of the grid where there is no table."""
    if not tables:
        return grid.columns
    return tuple(sorted({str(c): c for t in tables for c in t.columns}.values(), key=order))


def _frame(placed: Placed, plan: Plan, default: int | None, experiment: ExperimentRef) -> Frame:
    grid = placed.grid
    planned = {cell for table in plan.tables for row in table.cells for ids in row for cell in ids}
    where = {cell: pair for pair, cell in grid.cells.items()}
    every = [(pair, cell) for pair, cell in grid.cells.items() if cell in placed.by_cell]
    holes = [cell for cell in sorted(planned) if cell not in placed.by_cell]
    for cell in holes:
        configuration, _, text = cell.partition("/")
        pair = where.get(cell) or (int(configuration), text)
        every.append((pair, cell))
    spelt = {str(column): column for column in grid.columns}
    counted = {cell: same[0] for cell, same in placed.by_cell.items()}
    index = pd.Index([cell for _, cell in every], name="cell")
    labels = [_label(grid, configuration, default) for (configuration, _), _ in every]
    # Where numbers of a random search vary within what tables show as one row, no two runs are alike.
    alone = plan.column_kind == "runs" and bool(plan.candidates or plan.layout == "bins")
    rows = [
        _row(
            f"{label} {placed.column_word}={spelt[pair[1]]}" if alone else label,
            label,
            spelt[pair[1]],
            placed.column_word,
            counted.get(cell),
            placed.failed.get(cell, ()),
        )
        for label, (pair, cell) in zip(labels, every, strict=True)
    ]
    records, conflicts, variants = merge_records(list(counted.values()))
    return Frame(
        experiment=experiment,
        cells=pd.DataFrame(rows, index=index, dtype=object),
        axes=pd.DataFrame(
            [grid.levels(configuration) for (configuration, _), _ in every],
            index=index,
            columns=[item.name for item in grid.axes],
            dtype=object,
        ),
        values=metric_values(index, counted),
        records=records,
        conflicts=conflicts,
        duplicates=tuple(
            Duplicate(cell, same[0].run_id, tuple(run.run_id for run in same[1:]))
            for cell, same in placed.by_cell.items()
            if len(same) > 1
        ),
        extra=(),
        foreign=(),
        mismatched=(),
        attempts={cell: tuple(tried) for cell, tried in placed.failed.items()},
        checks={run.run_id: run.checks for run in counted.values() if run.checks},
        datasets={run.run_id: _data(run) for run in counted.values()},
        environments={run.run_id: _environment(run) for run in counted.values()},
        variants=variants,
        spread=spread(placed.by_cell.values()),
    )


def _label(grid: Grid, configuration: int, default: int | None) -> str:
    levels = grid.levels(configuration)
    if default is None:
        return words(levels) or "all runs"
    usual = grid.levels(default)
    return words({k: v for k, v in levels.items() if v != usual[k]}) or "default"


def _row(
    configuration: str,
    levels: str,
    column: Scalar,
    word: str,
    run: RawRun | None,
    failed: Sequence[RawRun],
) -> dict[str, Any]:
    state = "failed" if failed else "missing"
    if run is not None:
        state = "diverged" if run.tags.get("mm.health", "").startswith("diverged") else "ok"
    return {
        "label": f"{levels} {word}={column}",
        "configuration": configuration,
        "seed": column,
        "status": state,
        "run_id": run.run_id if run else None,
        "run_name": run.name if run else None,
        "seconds": run.seconds if run else None,
    }


def _data(run: RawRun) -> str:
    return run.tags.get("mm.dataset") or ", ".join(run.datasets) or "unknown"


def _environment(run: RawRun) -> str:
    """``mm.env``, or what MLflow knows of the code that made the run."""
    if "mm.env" in run.tags:
        return run.tags["mm.env"]
    names = {"mlflow.source.git.commit": "git_commit", "mlflow.source.name": "source"}
    return json.dumps({word: run.tags[tag] for tag, word in names.items() if tag in run.tags})
