"""An experiment read back: its frame and design, and the report run that shows them.

Nothing here needs torch, Optuna or Dask.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mm_mlflow import tracking
from mm_mlflow.design import Design, canonical_json
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.frame import Frame, RawRun, conform
from mm_mlflow.inference import Asked, infer
from mm_mlflow.plan import Plan, plan_of
from mm_mlflow.render import digest, report_files, selection_digest, selection_files
from mm_mlflow.report import Report
from mm_mlflow.selection import Selection
from mm_mlflow.tracking import Store

logger = logging.getLogger(__name__)


def read(
    store: Store, design: Design | None = None, *, asked: Asked | None = None
) -> tuple[Frame, Plan]:
    """The experiment as a frame, and its plan: that of ``design`` (bound), else of the newest sweep's
    design; where there is no sweep, or more is ``asked`` than a design tells, the one that the params
    of runs imply.

    Raises:
        InvalidInput: a design together with what only inference can give.
        TrackingError: the store cannot be read.
    """
    explicit = asked is not None and asked.explicit
    if design is not None and explicit:
        raise InvalidInput(
            f"design {design.name!r} says what the axes, the seed and the default are: leave it out, or "
            "the options that say otherwise"
        )
    runs = tracking.read_runs(store)
    if design is None and (explicit or not any(run.kind == "sweep" for run in runs)):
        try:
            return infer(tracking.with_records(store, runs), store.experiment, asked)
        except InvalidInput as error:
            raise InvalidInput(
                f"experiment {store.experiment.name!r}, read by the params of its runs: {error}"
            ) from error
    frame, design = read_planned(store, design, runs=runs)
    return frame, plan_of(design)


def read_planned(
    store: Store,
    design: Design | None = None,
    *,
    records: bool = True,
    runs: Sequence[RawRun] | None = None,
) -> tuple[Frame, Design]:
    """The experiment as a frame of ``design`` (bound), or of its newest sweep's design.

    With ``records`` false, what artifacts say of the metrics is not fetched: enough to tell which
    cells are there. ``runs`` are the experiment's, where they have been read.
    """
    runs = tracking.read_runs(store) if runs is None else runs
    design = _named(design, runs) if design else tracking.newest_design(store, runs)
    dataset = tracking.newest_dataset(store, runs, design)
    if records:
        planned = {cell.id for cell in design.cells()}
        ours = [run for run in runs if run.tags.get("mm.cell") in planned]
        others = [run for run in runs if run.tags.get("mm.cell") not in planned]
        runs = tracking.with_records(store, ours) + others
    adopted = tracking.adopted_runs(store, runs)
    return conform(runs, design, store.experiment, dataset, adopted), design


def _named(design: Design, runs: Sequence[RawRun]) -> Design:
    """A project's design is bound to its project by its sweep, and until then its file has no name."""
    if design.project is None or design.project.name is not None:
        return design
    sweeps = [run for run in runs if run.kind == "sweep" and "mm.project" in run.tags]
    newest = max(sweeps, key=lambda run: run.start_time, default=None)
    name = newest.tags["mm.project"] if newest else None
    project = design.project.model_copy(update={"name": name})
    return design.model_copy(update={"project": project})


def choose_metrics(frame: Frame, patterns: Sequence[str]) -> list[str]:
    """Metric keys that match any of the patterns (``*`` and ``?`` as in file names), in sheet order.

    Patterns are for what is measured; what is about training itself (``train_*``, ``system/*``) is
    chosen by its whole name only.

    Raises:
        InvalidInput: a pattern that matches none; the nearest key is named.
    """
    if not frame.counted.any():
        raise InvalidInput(
            f"experiment {frame.experiment.name!r} holds no finished cell of the design "
            f"({len(frame.cells)} planned)"
        )
    if not frame.metrics:
        raise InvalidInput(
            f"the {int(frame.counted.sum())} finished cells of experiment {frame.experiment.name!r} "
            "have no metric that a sheet could show"
        )
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [key for key in frame.metrics if fnmatch.fnmatchcase(key, pattern)]
        if not found and pattern in frame.values:
            found = [pattern]
        if not found:
            raise unknown("metric", pattern, frame.metrics)
        chosen.update(dict.fromkeys(found))
    return list(chosen) or frame.metrics


def publish(store: Store, report: Report, arguments: dict[str, Any]) -> str:
    """Write ``report`` as a report run and mark older ones of the same arguments; returns its id."""
    deltas = {f"delta_all/{row.metric}": row.delta_all for row in report.summary}
    return _publish(
        store, "sheets", report.plan, arguments, digest(report), report_files(report), deltas
    )


def publish_selection(
    store: Store, selection: Selection, plan: Plan, arguments: dict[str, Any]
) -> str:
    """Write ``selection`` as a report run of its own, and tag the runs it chose; returns its id.

    The tag ``mm.selected.<rule>`` holds the report run's id. Runs that an earlier selection by the
    same rule chose and this one does not lose it.
    """
    numbers: dict[str, float] = {}
    for choice in selection.choices:
        numbers[f"selected/{choice.rule.name}"] = len(choice.run_ids)
        for effect in choice.effects:
            numbers[_fit(f"delta_all_selected/{choice.rule.name}/{effect.metric}")] = (
                effect.after.delta
            )
    text = selection_digest(selection)
    run_id = _publish(
        store, "selection", plan, arguments, text, selection_files(selection), numbers
    )
    for choice in selection.choices:
        tag = f"mm.selected.{choice.rule.name}"
        if lost := tracking.tag_only(store, tag, run_id, choice.run_ids):
            logger.warning("%d runs of an earlier selection lose the tag %s", lost, tag)
    return run_id


def _fit(key: str) -> str:
    """``key`` within the 250 characters that MLflow takes, with six hex digits of it where it is cut."""
    return key if len(key) <= 250 else f"{key[:243]}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"


def _publish(
    store: Store,
    kind: str,
    plan: Plan,
    arguments: dict[str, Any],
    description: str,
    files: Iterator[tuple[str, bytes]],
    metrics: Mapping[str, float],
) -> str:
    asked = canonical_json(arguments)
    if len(asked) > 400:
        asked = hashlib.sha256(asked.encode()).hexdigest()
    report = f"{kind} {asked}" if arguments else kind
    tags = {
        "mm.kind": "report",
        "mm.report": report,
        "mm.design": plan.name,
        "mm.design_id": plan.id,
        "mlflow.note.content": description,
    }
    run_id = tracking.create_run(store, "report" if kind == "sheets" else kind, tags)
    try:
        tracking.log_files(store, run_id, files)
        finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
        tracking.log(store, run_id, metrics=finite)
    except BaseException:
        tracking.finish(store, run_id, "FAILED")
        raise
    tracking.finish(store, run_id)
    tracking.mark_launcher(store, run_id)
    tracking.supersede(store, run_id, report)
    return run_id


def save(folder: Path, shown: Report | Selection) -> list[str]:
    """Write the files of a report or a selection below ``folder`` and nothing to MLflow; returns
    their paths.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    files = report_files(shown) if isinstance(shown, Report) else selection_files(shown)
    try:
        return tracking.write_files(folder, files)
    except OSError as error:
        raise InvalidInput(f"out {str(folder)!r} cannot be written: {error}") from error


def status(frame: Frame) -> dict[str, list[dict[str, Any]]]:
    """Which planned cells are there, failed, missing; and what else the experiment holds."""
    cells: dict[str, list[dict[str, Any]]] = {
        "planned": [],
        "finished": [],
        "failed": [],
        "missing": [],
    }
    for cell_id in map(str, frame.cells.index):
        row = frame.cells.loc[cell_id].to_dict()
        entry = {
            "cell": cell_id,
            "name": row["label"],
            "axes": frame.axes.loc[cell_id].to_dict(),
            "seed": int(row["seed"]),
        }
        state = "finished" if row["status"] in {"ok", "diverged"} else row["status"]
        attempts = [
            {"run_id": run.run_id, "status": run.status, "reason": run.tags.get("mm.killed")}
            for run in frame.attempts.get(cell_id, ())
        ]
        detail: dict[str, Any] = {"run_id": row["run_id"]} if row["run_id"] else {}
        if cell_id in frame.adopted:
            detail["adopted"] = True
        if state != "finished" and attempts:
            detail["attempts"] = attempts
        cells["planned"].append(entry)
        cells[state].append({**entry, **detail})
    return {
        **cells,
        "extra": [_brief(run) for run in (*frame.extra, *frame.mismatched)],
        "foreign": [
            {
                **_brief(run),
                "cell": frame.named[run.run_id],
                "adopted": run.run_id in frame.adopted.values(),
            }
            for run in frame.foreign
        ],
        "duplicates": [
            {"cell": d.cell, "counted": d.counted, "others": list(d.others)}
            for d in frame.duplicates
        ],
    }


def _brief(run: RawRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "status": run.status,
        "cell": run.tags.get("mm.cell"),
        "params": dict(run.params),
    }
