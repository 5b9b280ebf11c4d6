"""From what MLflow returns, strings, to typed cells: which are there, which are not, and why.

:func:`conform` is the only door: after it, levels are typed, each planned cell has one status, and
everything that was left out is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from mm_mlflow.design import Cell, Design, canonical_json
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.foreign import cell_named_by

T = TypeVar("T")

Unit = Literal["fraction", "raw"]
Status = Literal["ok", "missing", "failed", "diverged", "excluded", "absent"]

SCHEMA = "1"
_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class RawRun:
    """One run as MLflow returns it.

    Attributes:
        start_time, end_time: milliseconds since 1970; ``end_time`` is None while it runs.
        records: per metric key, what ``metrics.json`` says of it (empty for other programs' runs).
        checks: sentences that self-checks left with the run.
        datasets: digests of the data that MLflow knows as its inputs.
    """

    run_id: str
    name: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()

    @property
    def kind(self) -> str | None:
        """``mm.kind``; None for runs of other programs."""
        return self.tags.get("mm.kind")

    @property
    def seconds(self) -> float | None:
        """How long the run took, training and evaluation."""
        return None if self.end_time is None else (self.end_time - self.start_time) / 1000


def is_finished(run: RawRun, dataset: str | None) -> bool:
    """Whether a run is a whole cell, trained on the data with this digest (None: any).

    A project may end its run long before its process ends: its cells are whole once the worker has
    seen the process end well.
    """
    return (
        run.kind == "cell"
        and run.tags.get("mm.schema") == SCHEMA
        and run.status == "FINISHED"
        and ("mm.project" not in run.tags or run.tags.get("mm.exit_status") == "0")
        and (dataset is None or run.tags.get("mm.dataset") == dataset)
    )


def is_open(run: RawRun) -> bool:
    """Whether somebody may still be at work on a run; that of a project, whatever it says itself."""
    told = "mm.project" not in run.tags or run.kind != "cell" or "mm.exit_status" in run.tags
    return run.status == "RUNNING" or (not told and run.status == "FINISHED")


@dataclass(frozen=True)
class ExperimentRef:
    """An experiment's id and name."""

    id: str
    name: str


@dataclass(frozen=True)
class Duplicate:
    """A cell that several FINISHED runs have: the latest counts."""

    cell: str
    counted: str
    others: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """Planned cells and the runs that fill them.

    Attributes:
        experiment: where the runs are.
        cells: one row per planned cell, by cell id: ``label``, ``configuration`` (the label without
            the seed), ``seed``, ``status``, ``run_id``, ``run_name``, ``seconds``.
        axes: one row per planned cell: the typed level of every axis.
        values: one row per planned cell, one column per metric key; NaN where there is no value.
        records: per metric key, what ``metrics.json`` says of it.
        conflicts: metric keys whose runs disagree about parameters, with a run of either side.
        duplicates, extra, foreign, mismatched: what else was found (see :func:`conform`).
        attempts: per cell id, runs that were tried and did not finish.
        variants: per key of ``conflicts``, by run id, what each run's ``metrics.json`` says of it.
        checks: per run id, sentences that self-checks left.
        datasets, environments: per run id, the digest of its training data, and its ``mm.env`` tag.
        directions: by metric of which no record says it, whether more is better: what the user says.
        within: the width of the accuracy band that :meth:`near_best` kept, or None; and its unit.
        spread: per metric key, the largest difference between runs of one and the same cell; empty
            where every cell has one run.
        named: by run id, the planned cell that the params of a foreign run name.
        adopted: by cell id, the foreign run that fills it.
    """

    experiment: ExperimentRef
    cells: pd.DataFrame
    axes: pd.DataFrame
    values: pd.DataFrame
    records: Mapping[str, Mapping[str, Any]]
    conflicts: Mapping[str, tuple[str, str]]
    duplicates: tuple[Duplicate, ...]
    extra: tuple[RawRun, ...]
    foreign: tuple[RawRun, ...]
    mismatched: tuple[RawRun, ...]
    attempts: Mapping[str, tuple[RawRun, ...]]
    checks: Mapping[str, tuple[str, ...]]
    datasets: Mapping[str, str]
    environments: Mapping[str, str]
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    within: float | None = None
    within_unit: Unit = "fraction"
    directions: Mapping[str, bool] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    adopted: Mapping[str, str] = field(default_factory=dict)

    @property
    def counted(self) -> pd.Series:
        """Booleans by cell id: cells that a run fills, healthy or not."""
        return self.cells["status"].isin(["ok", "diverged"])

    @property
    def metrics(self) -> list[str]:
        """Metric keys that have a sheet by default: those of ``metrics.json`` in their order, then
        any other that is not about the training itself (``system/*``, ``train_*``); where there is
        nothing else, ``train_*`` after all."""
        known = [key for key in self.records if key in self.values]
        others = sorted(set(map(str, self.values)) - set(known))
        others = [key for key in others if not key.startswith("system/")]
        return known + [key for key in others if not key.startswith("train_")] or others

    def title(self, metric: str) -> str:
        """The metric's name for people."""
        return str(self.records.get(metric, {}).get("title", metric))

    def unit(self, metric: str) -> Unit:
        """``fraction`` where its record says so; else its values are shown as they were logged."""
        return "fraction" if self.records.get(metric, {}).get("unit") == "fraction" else "raw"

    def higher_is_better(self, metric: str) -> bool | None:
        """Whether more of the metric is better, by its record or else the user's word; None where
        neither says it."""
        found = self.records.get(metric, {}).get("higher_is_better", self.directions.get(metric))
        return None if found is None else bool(found)

    def with_directions(self, maximize: Sequence[str], minimize: Sequence[str]) -> Frame:
        """The same frame, told of which metrics more, and of which less, is better.

        Raises:
            InvalidInput: a metric in both, or one whose record says otherwise.
        """
        for metric in minimize:
            if metric in maximize:
                raise InvalidInput(f"minimize {metric!r} is not allowed: it is to be maximized too")
        told = {**dict.fromkeys(maximize, True), **dict.fromkeys(minimize, False)}
        for metric, higher in told.items():
            if self.records.get(metric, {}).get("higher_is_better", higher) != higher:
                option, truth = ("maximize", "less") if higher else ("minimize", "more")
                raise InvalidInput(f"{option} {metric!r} is not allowed: {truth} of it is better")
        return replace(self, directions=told)

    def __getitem__(self, mask: pd.Series) -> Frame:
        """The same plan with only the runs where ``mask`` (booleans by cell id) is true; the other
        runs are ``excluded``, which is not the same as missing, and nothing more is said of them."""
        dropped = self.counted & ~mask.reindex(self.cells.index, fill_value=False)
        cells = self.cells.copy()
        cells.loc[dropped, "status"] = "excluded"
        values = self.values.copy()
        values.loc[dropped] = np.nan
        gone = set(self.cells.loc[dropped, "run_id"])

        def kept(by_run: Mapping[str, T]) -> dict[str, T]:
            return {run_id: item for run_id, item in by_run.items() if run_id not in gone}

        records, conflicts, variants = _merged({k: kept(v) for k, v in self.variants.items()})
        settled = {key: runs for key, runs in self.conflicts.items() if key not in self.variants}
        return replace(
            self,
            cells=cells,
            values=values,
            records={**self.records, **records},
            conflicts={**settled, **conflicts},
            variants=variants,
            checks=kept(self.checks),
            datasets=kept(self.datasets),
            environments=kept(self.environments),
            adopted={cell: run_id for cell, run_id in self.adopted.items() if run_id not in gone},
        )

    def near_best(self, width: float, metric: str = "accuracy") -> Frame:
        """Only runs whose ``metric`` is at most ``width`` below the best: multiplicity is about
        models of similar accuracy (Section 1).

        Raises:
            InvalidInput: ``width`` is negative, or above 1 where the metric is a fraction; no run has
                the metric.
        """
        if metric not in self.values:
            raise InvalidInput(
                f"within {width!r} is not allowed: it is a width of {metric!r}, and no run has a metric of "
                "that name"
            )
        unit = self.unit(metric)
        if unit == "fraction" and not 0 <= width <= 1:
            raise InvalidInput(
                f"within {width!r} is not allowed: a fraction from 0 to 1 (0.01 is a point)"
            )
        if not width >= 0:
            raise InvalidInput(f"within {width!r} is not allowed: a number of at least 0")
        values = self.values[metric]
        # 1e-12: 0.95 - 0.94 is a hair above 0.01 in binary, and such a run belongs to the band.
        near = values >= values.max() - width - 1e-12
        return replace(self[near], within=width, within_unit=unit)

    def require(self, metric: str) -> None:
        """Refuse a metric that no counted run has, naming the nearest."""
        if metric not in self.values:
            raise unknown("metric", metric, self.metrics)


def band(width: float, unit: str) -> str:
    """How wide a band of values is, for people: ``1 point`` of a fraction, else as it was logged."""
    if unit != "fraction":
        return f"{width:g}"
    return "1 point" if width == 0.01 else f"{100 * width:g} points"


@dataclass(frozen=True)
class FlippedLabels:
    """A binary out-of-distribution metric whose data seem to have their two classes swapped.

    Attributes:
        median, own: medians over ``runs`` healthy runs of the metric and of accuracy.
    """

    metric: str
    median: float
    own: float
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.metric}: over {self.runs} healthy runs the median is {100 * self.median:.2f}% "
            f"where accuracy is {100 * self.own:.2f}%, as if the two classes of these data were "
            "swapped"
        )


def flipped_label_maps(frame: Frame) -> dict[str, FlippedLabels]:
    """By key, the metrics on data of another distribution whose label map seems to be flipped.

    Judged once per experiment (Section 3.3 has no such check; the threshold is ours): over the
    healthy runs that have both, the median binary out-of-distribution accuracy is below 0.5 while the
    median accuracy is above 0.8. A single run is never judged, nor are runs whose records do not
    tell the number of classes.
    """
    own = frame.records.get("accuracy", {})
    if own.get("classes") != 2 or "accuracy" not in frame.values:
        return {}
    found = {}
    for key, record in frame.records.items():
        if record.get("intervention") != "ood_accuracy" or record.get("classes") != 2:
            continue
        if key not in frame.values:
            continue
        healthy = frame.cells["status"] == "ok"
        both = frame.values.loc[healthy, [key, "accuracy"]].dropna()
        median, accuracy = float(both[key].median()), float(both["accuracy"].median())
        if len(both) > 1 and median < 0.5 and accuracy > 0.8:
            found[key] = FlippedLabels(key, median, accuracy, len(both))
    return found


def conform(
    runs: Sequence[RawRun],
    design: Design,
    experiment: ExperimentRef,
    dataset: str | None = None,
    adopted: Mapping[str, str] | None = None,
) -> Frame:
    """Match runs to the planned cells of ``design`` by cell id.

    Only runs of kind ``cell`` that are FINISHED count; of several, the latest (the others are
    ``duplicates``). A cell with attempts of which none finished is ``failed`` if one FAILED, else
    ``missing``. Cells that the plan lacks are ``extra``; runs of other programs whose params name a
    planned cell are ``foreign``. With ``dataset`` (a training digest), finished cells with another
    one are ``mismatched`` and do not count. ``adopted`` are foreign runs, by cell id, that a sweep was
    told to count: each fills its cell while the cell has no finished run of its own.
    """
    plan = {cell.id: cell for cell in design.cells()}
    found = _sorted_out(runs, design, plan, dataset)
    named, finished, attempts = found.named, found.finished, found.attempts
    own = {cell_id: same[0] for cell_id, same in finished.items()}
    wanted = {run_id: cell_id for cell_id, run_id in (adopted or {}).items() if cell_id not in own}
    taken = {
        named[run.run_id]: run
        for run in found.foreign
        if run.status == "FINISHED" and wanted.get(run.run_id) == named[run.run_id]
    }
    chosen = {**taken, **own}
    records, conflicts, variants = merge_records(
        [chosen[cell_id] for cell_id in plan if cell_id in chosen]
    )
    index = pd.Index(plan, name="cell")
    return Frame(
        experiment=experiment,
        cells=pd.DataFrame(
            [
                _row(cell, chosen.get(cell_id), attempts.get(cell_id, []))
                for cell_id, cell in plan.items()
            ],
            index=index,
            dtype=object,  # pandas would turn None into NaN
        ),
        axes=pd.DataFrame([dict(cell.axes) for cell in plan.values()], index=index, dtype=object),
        values=metric_values(plan, chosen),
        records=records,
        conflicts=conflicts,
        duplicates=tuple(
            Duplicate(cell_id, same[0].run_id, tuple(run.run_id for run in same[1:]))
            for cell_id, same in finished.items()
            if len(same) > 1
        ),
        extra=tuple(found.extra),
        foreign=tuple(found.foreign),
        mismatched=tuple(found.mismatched),
        attempts={cell_id: tuple(tried) for cell_id, tried in attempts.items()},
        checks={run.run_id: run.checks for run in chosen.values() if run.checks},
        datasets={run.run_id: run.tags.get("mm.dataset", "unknown") for run in own.values()},
        environments={run.run_id: run.tags.get("mm.env", "unknown") for run in own.values()},
        variants=variants,
        spread=spread(finished.values()),
        named=named,
        adopted={cell_id: run.run_id for cell_id, run in taken.items()},
    )


@dataclass(frozen=True)
class _Found:
    """Runs by what they are to a plan; the finished ones of a cell with the latest first."""

    finished: dict[str, list[RawRun]] = field(default_factory=dict)
    attempts: dict[str, list[RawRun]] = field(default_factory=dict)
    extra: list[RawRun] = field(default_factory=list)
    mismatched: list[RawRun] = field(default_factory=list)
    foreign: list[RawRun] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)


def _sorted_out(
    runs: Sequence[RawRun], design: Design, plan: Mapping[str, Cell], dataset: str | None
) -> _Found:
    found = _Found()
    ours = {run.run_id for run in runs if run.kind == "cell"}
    for run in runs:
        cell_id = run.tags.get("mm.cell", "")
        if run.kind is None:
            # A cell's project may keep runs of its own below the cell.
            cell = cell_named_by(run.params, design) if run.tags.get(_PARENT) not in ours else None
            if cell is not None and cell.id in plan:
                found.foreign.append(run)
                found.named[run.run_id] = cell.id
        elif run.kind != "cell" or run.tags.get("mm.schema") != SCHEMA:
            continue
        elif cell_id not in plan:
            found.extra.append(run)
        elif is_finished(run, dataset):
            found.finished.setdefault(cell_id, []).append(run)
        elif is_finished(run, None):
            found.mismatched.append(run)
        else:
            found.attempts.setdefault(cell_id, []).append(run)
    for same in found.finished.values():
        same.sort(key=lambda run: (run.end_time or 0, run.start_time, run.run_id), reverse=True)
    return found


def spread(cells: Iterable[Sequence[RawRun]]) -> dict[str, float]:
    """Per metric key, the largest difference between runs of the same cell, of whatever cell."""
    widest: dict[str, float] = {}
    for runs in cells:
        for key in {key for run in runs for key in run.metrics} if len(runs) > 1 else ():
            values = [finite(run.metrics.get(key, np.nan)) for run in runs]
            known = [value for value in values if not np.isnan(value)]
            if len(known) > 1:
                widest[key] = max(widest.get(key, 0.0), max(known) - min(known))
    return widest


def finite(value: float) -> float:
    """``value``, or NaN where it is not finite; MLflow returns infinities as the largest float."""
    return value if abs(value) < 1.797e308 else np.nan


def _row(cell: Cell, run: RawRun | None, attempts: list[RawRun]) -> dict[str, Any]:
    status: Status
    if run is not None:
        status = "diverged" if run.tags.get("mm.health", "").startswith("diverged") else "ok"
    else:
        status = "failed" if any(tried.status == "FAILED" for tried in attempts) else "missing"
    return {
        "label": cell.label,
        "configuration": cell.configuration,
        "seed": cell.seed,
        "status": status,
        "run_id": run.run_id if run else None,
        "run_name": run.name if run else None,
        "seconds": run.seconds if run else None,
    }


def metric_values(plan: Iterable[str], chosen: Mapping[str, RawRun]) -> pd.DataFrame:
    """One row per cell id of ``plan``, one column per metric key of the ``chosen`` runs."""
    plan = list(plan)
    keys = sorted({key for run in chosen.values() for key in run.metrics})
    nothing: Mapping[str, float] = {}
    rows = [
        [finite(metrics.get(key, np.nan)) for key in keys]
        for metrics in (chosen[cell].metrics if cell in chosen else nothing for cell in plan)
    ]
    values = np.array(rows, dtype=float).reshape(len(plan), len(keys))
    return pd.DataFrame(values, index=pd.Index(plan, name="cell"), columns=keys)


# What the value depends on; titles and descriptions may be worded anew.
DECISIVE = ("intervention", "version", "parameters", "split", "split_digest", "group", "n")


def decisive(record: Mapping[str, Any]) -> str:
    """What the value of a metric depends on, as text: equal records measure the same."""
    return canonical_json({name: record.get(name) for name in DECISIVE})


Records = dict[str, Mapping[str, Any]]
Conflicts = dict[str, tuple[str, str]]
Variants = dict[str, dict[str, Mapping[str, Any]]]


def merge_records(runs: Sequence[RawRun]) -> tuple[Records, Conflicts, Variants]:
    """The first run's record of every key; the keys about which a later run disagrees, with both; and
    all that is said of those keys, by run id."""
    told: Variants = {}
    for run in runs:
        for key, record in run.records.items():
            told.setdefault(key, {})[run.run_id] = record
    return _merged(told)


def _merged(
    told: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> tuple[Records, Conflicts, Variants]:
    records: Records = {}
    conflicts: Conflicts = {}
    for key, by_run in told.items():
        if not by_run:
            continue
        first, *others = by_run
        records[key], text = by_run[first], decisive(by_run[first])
        if other := next((run for run in others if decisive(by_run[run]) != text), None):
            conflicts[key] = (first, other)
    return records, conflicts, {key: dict(told[key]) for key in conflicts}
