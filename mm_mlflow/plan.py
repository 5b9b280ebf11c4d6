"""What a sheet lays out: tables of cells, whether a design plans them or runs of others imply them.

Pure data. A design gives its plan with :func:`plan_of`; :mod:`mm_mlflow.inference` makes one from runs
that other programs left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mm_mlflow.design import Design, Scalar, SelectionSpec

# What the columns of tables are: values of the seed, numbered runs, or levels of another axis.
ColumnKind = Literal["seeds", "runs", "levels"]


@dataclass(frozen=True)
class TablePlan:
    """One table: levels of an axis by columns, which are seeds unless the plan says otherwise.

    Attributes:
        axis: name of the axis.
        levels: names of the levels, top to bottom; ``default`` is the index of the default one, or
            None.
        columns: left to right.
        cells: ``(levels, columns)`` of ids of cells: an entry shows the mean of their values. Several
            where runs are pooled, none where no such run was ever planned.
        paired: whether the runs of a column have something in common (a seed, a level): else a Δ
            over the levels of one column means nothing, and is not given.
        binned: whether the levels are bins of a number.
    """

    axis: str
    levels: tuple[Scalar, ...]
    default: int | None
    columns: tuple[Scalar, ...]
    cells: tuple[tuple[tuple[str, ...], ...], ...]
    paired: bool = True
    binned: bool = False


@dataclass(frozen=True)
class Plan:
    """The layout of every sheet of an experiment.

    Attributes:
        id: hash of what the plan is made from.
        name: of the design, or of the experiment.
        layout: ``star`` (one axis at a time around the default), ``factorial`` (combinations),
            ``repeats`` (one table, a row per configuration), ``bins`` (all runs, grouped by a number)
            or ``none`` (no table).
        axes: levels by axis, in order.
        default: the default configuration; empty where there is none.
        seed_axis: what the columns of tables are: ``seed``, a param, or ``replicate``; and their kind,
            which no name tells.
        columns: the values of that axis.
        dataset: name of the dataset, None where nothing tells it.
        selection: what the design selects, if it does.
        inferred: whether runs imply the plan; the rest is about such plans only.
        ignored: params and tags that are no axis, with the reason.
        candidates: numeric params with (nearly) as many values as runs, which are axes on request.
        notes: sentences about the layout, the gravest first.
        pooled: what an entry is the mean over, as a phrase; empty where each is one run.
        shared_seed: whether the design declares that runs of equal seeds share something.
        replicated: whether repeated runs of one cell stand side by side.
    """

    id: str
    name: str
    layout: str
    axes: Mapping[str, tuple[Scalar, ...]]
    default: Mapping[str, Scalar]
    seed_axis: str
    columns: tuple[Scalar, ...]
    tables: tuple[TablePlan, ...]
    column_kind: ColumnKind = "seeds"
    dataset: str | None = None
    selection: SelectionSpec | None = None
    inferred: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict)
    candidates: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pooled: str = ""
    shared_seed: bool = False
    replicated: bool = False


def plan_of(design: Design | Plan) -> Plan:
    """The plan of a design; a plan is its own."""
    if isinstance(design, Plan):
        return design
    default = design.default_levels
    return Plan(
        id=design.id,
        name=design.name,
        layout=design.layout,
        axes={axis.name: axis.names for axis in design.axes},
        default=default,
        seed_axis="seed",
        columns=design.seeds,
        tables=tuple(
            TablePlan(
                axis=table.axis.name,
                levels=table.axis.names,
                default=table.axis.names.index(default[table.axis.name]),
                columns=table.seeds,
                cells=tuple(tuple((cell.id,) for cell in row) for row in table.cells),
            )
            for table in design.tables()
        ),
        dataset=design.dataset.name if design.dataset else None,
        selection=design.selection,
        shared_seed=design.shared_seed,
    )
