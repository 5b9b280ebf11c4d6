"""Multiplicity sheets (Section 2.2): one table per axis, level by seed, and their Δ.

Three levels of readability: the raw values; Δmax of every row and column, the largest minus the
smallest value in it; Δmax over the whole sheet. A :class:`Sheet` holds fractions; percent, decimals
and emphasis live in ``render``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd

from mm_mlflow.design import Design, Scalar
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.figures import figure_of
from mm_mlflow.frame import Duplicate, ExperimentRef, Frame, Status, Unit
from mm_mlflow.plan import ColumnKind, Plan, TablePlan, plan_of
from mm_mlflow.statistics.describe import SheetStatistics, TableStatistics

R = TypeVar("R", SheetStatistics, TableStatistics)


@np.errstate(over="ignore")
def delta(values: np.ndarray, axis: int | None = None) -> Any:
    """Δmax: largest minus smallest value, NaN ignored; NaN where fewer than two values are, or so far
    apart that no float holds it."""
    finite = np.isfinite(values)
    high = np.where(finite, values, -np.inf).max(axis=axis, initial=-np.inf)
    low = np.where(finite, values, np.inf).min(axis=axis, initial=np.inf)
    enough = finite.sum(axis=axis) >= 2
    found = np.where(enough, high, 0) - np.where(enough, low, 0)
    return np.where(enough & np.isfinite(found), found, np.nan)


@np.errstate(over="ignore", invalid="ignore")
def _mean_sd(values: pd.Series | np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of finite values, NaN where there are too few of them, or
    where no float holds it."""
    mean = float(values.mean()) if len(values) else math.nan
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return mean if math.isfinite(mean) else math.nan, sd if math.isfinite(sd) else math.nan


@dataclass(frozen=True, eq=False)
class SheetTable:
    """One table: the levels of one axis by seeds, all other axes at their default.

    Attributes:
        axis: name of the axis.
        levels: names of the levels, top to bottom; ``default`` is the index of the default one, None
            where no level is.
        seeds: seeds, left to right; whatever ``Sheet.seed_axis`` names in plans that are inferred.
        values: ``(levels, seeds)`` float64, NaN where there is none.
        status: ``(levels, seeds)`` of ``ok | missing | failed | diverged | excluded | absent``, the last
            where no run was ever planned.
        run_ids, run_names: ``(levels, seeds)``, None where no run counts; where runs are pooled, no id,
            and how many they are.
        paired: whether the runs of a column have something in common; if not, no Δ is given for it.
        statistics: what chance would give, where it was computed (:mod:`mm_mlflow.chance`).
    """

    axis: str
    levels: tuple[Scalar, ...]
    default: int | None
    seeds: tuple[Scalar, ...]
    values: np.ndarray
    status: tuple[tuple[Status, ...], ...]
    run_ids: tuple[tuple[str | None, ...], ...]
    run_names: tuple[tuple[str | None, ...], ...]
    paired: bool = True
    statistics: TableStatistics | None = None

    @property
    def healthy(self) -> np.ndarray:
        """``values`` without diverged cells."""
        return np.where(np.array(self.status) == "ok", self.values, np.nan)

    @property
    def mean(self) -> np.ndarray:
        """``(levels,)`` mean over seeds, NaN where there is no value."""
        return np.array([_mean_sd(row[np.isfinite(row)])[0] for row in self.values])

    @property
    def sd(self) -> np.ndarray:
        """``(levels,)`` standard deviation over seeds (ddof 1), NaN below two values."""
        return np.array([_mean_sd(row[np.isfinite(row)])[1] for row in self.values])

    @property
    def delta_by_level(self) -> np.ndarray:
        """``(levels,)`` Δmax of each row: what changing the seed alone does."""
        return np.asarray(delta(self.values, axis=1))

    @property
    def delta_by_seed(self) -> np.ndarray:
        """``(seeds,)`` Δmax of each column: what changing the level alone does."""
        return self._over_levels(self.values)

    @property
    def delta_by_seed_healthy(self) -> np.ndarray:
        """``(seeds,)`` the same without diverged cells."""
        return self._over_levels(self.healthy)

    def _over_levels(self, values: np.ndarray) -> np.ndarray:
        by_column = np.asarray(delta(values, axis=0))
        return by_column if self.paired else np.full_like(by_column, np.nan)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Multiplicity of one metric over one experiment.

    Attributes:
        metric: metric key; ``title`` is the same for people.
        intervention: name of the intervention, None for metrics of other programs.
        description: one plain sentence that says what the number is.
        parameters: what ``metrics.json`` says of the metric.
        unit: ``fraction`` (shown as percent) or ``raw``.
        default: the default configuration.
        n_examples: how many examples each value is over, if known.
        n_diverged, n_excluded: of the planned runs, how many diverged or were left out on purpose.
        n_runs: distinct runs with a value: the default row of the paper's star is one row.
        complete: False if a planned cell has no value: every Δ is then a lower bound.
        delta_all: Δmax over all distinct runs, NaN below two; ``delta_all_healthy`` leaves out
            diverged ones.
        delta_all_runs: ids of the runs at the low and the high end, None below two.
        mean, sd: over all distinct runs.
        figure: number of the paper's figure that this sheet is, None if there is none.
        within: only runs this close to the best accuracy were kept, or None; and the unit of that.
        missing: planned cells without a run, with their status.
        pooled: what every entry of the tables is the mean over; empty where each is one run.
        duplicates: cells with several runs, of which one counts; ``spread`` says how far such runs lie
            apart, NaN where none has this metric twice.
        column_kind: what the columns of the tables are.
        inferred: whether the runs imply which cells there are; if not, a design plans them.
        statistics: what chance would give, where it was computed (:mod:`mm_mlflow.chance`).
    """

    metric: str
    title: str
    intervention: str | None
    description: str
    parameters: Mapping[str, Any]
    unit: Unit
    higher_is_better: bool | None
    experiment: ExperimentRef
    design_id: str
    layout: str
    default: Mapping[str, Scalar]
    seed_axis: str
    n_examples: int | None
    n_runs: int
    n_diverged: int
    n_excluded: int
    complete: bool
    delta_all: float
    delta_all_healthy: float
    delta_all_runs: tuple[str, str] | None
    ends: tuple[float, float] | None
    mean: float
    sd: float
    within: float | None
    mixed: bool
    figure: int | None
    tables: tuple[SheetTable, ...]
    missing: tuple[Mapping[str, Any], ...]
    duplicates: tuple[Duplicate, ...]
    pooled: str = ""
    spread: float = math.nan
    column_kind: ColumnKind = "seeds"
    inferred: bool = False
    within_unit: Unit = "fraction"
    statistics: SheetStatistics | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``sheet.json``; its JSON Schema is ``render/sheet.schema.json``."""
        return {
            "schema": 1,
            "metric": self.metric,
            "title": self.title,
            "description": self.description,
            "intervention": self.intervention,
            "parameters": dict(self.parameters),
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "experiment": {"id": self.experiment.id, "name": self.experiment.name},
            "design_id": self.design_id,
            "layout": self.layout,
            "default": dict(self.default),
            "inferred": self.inferred,
            "seed_axis": self.seed_axis,
            "column_kind": self.column_kind,
            "n_examples": self.n_examples,
            "n_runs": self.n_runs,
            "n_diverged": self.n_diverged,
            "n_excluded": self.n_excluded,
            "complete": self.complete,
            "within": self.within,
            "within_unit": self.within_unit,
            "mixed": self.mixed,
            "figure": self.figure,
            "mean": _plain(self.mean),
            "sd": _plain(self.sd),
            "delta_all": _plain(self.delta_all),
            "delta_all_healthy": _plain(self.delta_all_healthy),
            "delta_all_runs": list(self.delta_all_runs) if self.delta_all_runs else None,
            "delta_all_values": list(self.ends) if self.ends else None,
            "tables": [_table_dict(table) for table in self.tables],
            "missing": [dict(cell) for cell in self.missing],
            "duplicates": [
                {"cell": d.cell, "counted": d.counted, "others": list(d.others)}
                for d in self.duplicates
            ],
            "duplicates_spread": _plain(self.spread),
            "pooled": self.pooled,
            **_statistics(self.statistics),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The sheet that :meth:`to_dict` wrote: a ``sheet.json`` can be rendered again."""
        runs, ends = data["delta_all_runs"], data["delta_all_values"]
        numbers = ("mean", "sd", "delta_all", "delta_all_healthy")
        special = {
            *numbers,
            "experiment",
            "delta_all_runs",
            "ends",
            "tables",
            "missing",
            "duplicates",
            "figure",
            "pooled",
            "spread",
            "column_kind",
            "inferred",
            "within_unit",
            "statistics",
        }
        values: dict[str, Any] = {
            **{f.name: data[f.name] for f in fields(cls) if f.name not in special},
            # Sheets of the first release lack these.
            "figure": data.get("figure"),
            "pooled": data.get("pooled", ""),
            "spread": _number(data.get("duplicates_spread")),
            "column_kind": data.get(
                "column_kind", "runs" if data["seed_axis"] == "replicate" else "seeds"
            ),
            "inferred": data.get("inferred", False),
            "within_unit": data.get("within_unit", "fraction"),
            **{name: _number(data[name]) for name in numbers},
        }
        return cls(
            **values,
            experiment=ExperimentRef(**data["experiment"]),
            delta_all_runs=tuple(runs) if runs else None,
            ends=tuple(ends) if ends else None,
            tables=tuple(_table_from(table) for table in data["tables"]),
            missing=tuple(data["missing"]),
            statistics=_read(SheetStatistics, data),
            duplicates=tuple(
                Duplicate(item["cell"], item["counted"], tuple(item["others"]))
                for item in data["duplicates"]
            ),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per table entry: axis, level, seed, value, status, run_id.

        The default row stands in every table of a star, so a run may occur several times here;
        ``n_runs`` counts each once.
        """
        return pd.DataFrame(
            [
                (
                    table.axis,
                    level,
                    seed,
                    table.values[i, j],
                    table.status[i][j],
                    table.run_ids[i][j],
                )
                for table in self.tables
                for i, level in enumerate(table.levels)
                for j, seed in enumerate(table.seeds)
            ],
            columns=["axis", "level", "seed", "value", "status", "run_id"],
        )

    def _repr_html_(self) -> str:
        from mm_mlflow.render.html import fragment

        return fragment(self)


def build_sheet(
    frame: Frame,
    design: Design | Plan,
    metric: str,
    *,
    axes: Sequence[str] = (),
    mixed: bool = False,
) -> Sheet:
    """The sheet of ``metric`` over the cells that ``design`` plans.

    ``axes`` picks tables (all by default); Δ over the whole sheet is over all planned runs anyway.

    Raises:
        InvalidInput: no run has the metric; an axis that the design lacks; runs that disagree about
            the metric's parameters, unless ``mixed``.
    """
    plan = plan_of(design)
    _refuse(frame, plan, metric, axes, mixed=mixed)
    record = frame.records.get(metric, {})
    values = frame.values[metric].where(frame.counted)
    healthy = values.where(frame.cells["status"] == "ok")
    finite = values.dropna()
    mean, sd = _mean_sd(finite)
    ends = (str(finite.idxmin()), str(finite.idxmax())) if len(finite) > 1 else None
    run_ids = frame.cells["run_id"]
    pairs = zip(frame.cells["status"], values, strict=True)
    statuses = pd.Series([_status(*pair) for pair in pairs], index=frame.cells.index, dtype=object)
    return Sheet(
        metric=metric,
        title=frame.title(metric),
        intervention=record.get("intervention"),
        description=str(record.get("description", f"The metric {metric} as it was logged.")),
        parameters=record,
        unit=frame.unit(metric),
        higher_is_better=frame.higher_is_better(metric),
        experiment=frame.experiment,
        design_id=plan.id,
        layout=plan.layout,
        default=plan.default,
        seed_axis=plan.seed_axis,
        n_examples=record.get("n"),
        n_runs=len(finite),
        n_diverged=int((statuses == "diverged").sum()),
        n_excluded=int((statuses == "excluded").sum()),
        complete=not {"missing", "failed"} & set(statuses),
        delta_all=float(delta(values.to_numpy())),
        delta_all_healthy=float(delta(healthy.to_numpy())),
        delta_all_runs=(run_ids[ends[0]], run_ids[ends[1]]) if ends else None,
        ends=(float(finite[ends[0]]), float(finite[ends[1]])) if ends else None,
        mean=mean,
        sd=sd,
        within=frame.within,
        mixed=metric in frame.conflicts,
        figure=None if plan.dataset is None else figure_of(plan.dataset, record),
        tables=tuple(
            _table(table, frame, values, statuses)
            for table in plan.tables
            if not axes or table.axis in axes
        ),
        missing=_missing(frame, statuses),
        duplicates=frame.duplicates,
        pooled=plan.pooled,
        spread=frame.spread.get(metric, math.nan),
        column_kind=plan.column_kind,
        inferred=plan.inferred,
        within_unit=frame.within_unit,
    )


def _refuse(frame: Frame, plan: Plan, metric: str, axes: Sequence[str], *, mixed: bool) -> None:
    frame.require(metric)
    if metric in frame.conflicts and not mixed:
        one, other = frame.conflicts[metric]
        raise InvalidInput(
            f"metric {metric!r}: runs {one} and {other} were measured with different parameters; "
            "--mixed shows them in one sheet all the same"
        )
    for name in axes:
        if name not in plan.axes:
            raise unknown("axis", name, plan.axes)


def _missing(frame: Frame, statuses: pd.Series) -> tuple[Mapping[str, Any], ...]:
    """Levels, seed and status of the planned cells that leave a hole."""
    rows = zip(frame.axes.to_dict("records"), frame.cells["seed"], statuses, strict=True)
    return tuple(
        {
            **{
                f"param:{axis}" if axis in {"seed", "status"} else str(axis): level
                for axis, level in levels.items()
            },
            "seed": seed,
            "status": status,
        }
        for levels, seed, status in rows
        if status in {"missing", "failed"}
    )


def _status(status: Status, value: float) -> Status:
    """A run that counts but lacks this one metric leaves a hole in this one sheet."""
    return "missing" if status in {"ok", "diverged"} and not math.isfinite(value) else status


def _table(plan: TablePlan, frame: Frame, values: pd.Series, statuses: pd.Series) -> SheetTable:
    entries = [[_entry(ids, frame, values, statuses) for ids in row] for row in plan.cells]

    def grid(part: int) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(entry[part] for entry in row) for row in entries)

    shape = (len(plan.levels), len(plan.columns))
    return SheetTable(
        axis=plan.axis,
        levels=plan.levels,
        default=plan.default,
        seeds=plan.columns,
        values=np.array(grid(0), dtype=float).reshape(shape),
        status=grid(1),
        run_ids=grid(2),
        run_names=grid(3),
        paired=plan.paired,
    )


def _entry(
    ids: Sequence[str], frame: Frame, values: pd.Series, statuses: pd.Series
) -> tuple[float, Status, str | None, str | None]:
    """Value, status, run id and run name of one entry of a table."""
    if not ids:
        return math.nan, "absent", None, None
    if len(ids) == 1:
        run_id: Any = frame.cells.at[ids[0], "run_id"]
        run_name: Any = frame.cells.at[ids[0], "run_name"]
        return float(values[ids[0]]), statuses[ids[0]], run_id, run_name
    mean, _ = _mean_sd(values[list(ids)].to_numpy(dtype=float))
    states = set(statuses[list(ids)])
    # A mean of what is there would change with what is not.
    whole = states <= {"ok", "diverged"}
    status: Status = next(s for s in _GRAVEST_FIRST if s in states)
    return (mean if whole else math.nan), status, None, f"mean of {len(ids)} runs"


_GRAVEST_FIRST: tuple[Status, ...] = ("failed", "missing", "excluded", "diverged", "ok")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _table_from(data: Mapping[str, Any]) -> SheetTable:
    values = [[_number(value) for value in row] for row in data["values"]]

    def grid(name: str) -> tuple[tuple[Any, ...], ...]:
        return tuple(map(tuple, data[name]))

    return SheetTable(
        axis=data["axis"],
        levels=tuple(data["levels"]),
        default=data["default"],
        seeds=tuple(data["seeds"]),
        values=np.array(values, dtype=float),
        status=grid("status"),
        run_ids=grid("run_ids"),
        run_names=grid("run_names"),
        paired=data.get("paired", True),
        statistics=_read(TableStatistics, data),
    )


def _plain(value: Any) -> Any:
    """NumPy to JSON: NaN is null."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return float(value) if math.isfinite(value) else None


def _table_dict(table: SheetTable) -> dict[str, Any]:
    return {
        "axis": table.axis,
        "levels": list(table.levels),
        "default": table.default,
        "seeds": list(table.seeds),
        "values": _plain(table.values),
        "status": [list(row) for row in table.status],
        "run_ids": [list(row) for row in table.run_ids],
        "run_names": [list(row) for row in table.run_names],
        "mean": _plain(table.mean),
        "sd": _plain(table.sd),
        "delta_by_level": _plain(table.delta_by_level),
        "delta_by_seed": _plain(table.delta_by_seed),
        "delta_by_level_healthy": _plain(np.asarray(delta(table.healthy, axis=1))),
        "delta_by_seed_healthy": _plain(table.delta_by_seed_healthy),
        "paired": table.paired,
        **_statistics(table.statistics),
    }


def _statistics(record: SheetStatistics | TableStatistics | None) -> dict[str, Any]:
    return {} if record is None else {"statistics": record.model_dump(mode="json")}


def _read(kind: type[R], data: Mapping[str, Any]) -> R | None:
    found = data.get("statistics")
    return None if found is None else kind.model_validate(found)
