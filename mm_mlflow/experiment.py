"""An experiment read back: its frame and design, and the report run that shows them.

Nothing here needs torch, Optuna or Dask.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mm_mlflow import tracking
from mm_mlflow.change import Change
from mm_mlflow.design import Design, canonical_json
from mm_mlflow.errors import InvalidInput, TrackingError, unknown
from mm_mlflow.frame import Frame, RawRun, conform
from mm_mlflow.inference import Asked, infer
from mm_mlflow.plan import Plan, plan_of
from mm_mlflow.render import change_files, digest, report_files, selection_digest, selection_files
from mm_mlflow.render.md import escape
from mm_mlflow.report import Report
from mm_mlflow.selection import Selection
from mm_mlflow.tracking import Store

logger = logging.getLogger(__name__)

SMOKE = (
    "Only a smoke of the design was swept: every level once, one seed. Its cells are the plan here; "
    "--design says another."
)


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
    smoke = design is None and all("mm.smoke" in run.tags for run in runs if run.kind == "sweep")
    frame, design = read_planned(store, design, runs=runs)
    plan = plan_of(design)
    if smoke:
        plan = replace(plan, notes=(*plan.notes, SMOKE))
    return frame, plan


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

    Patterns are for what is measured; what is about training itself (``train_*``) is chosen by those
    that match nothing else, and ``system/*`` by its whole name only.

    Raises:
        InvalidInput: a pattern that matches none; the nearest key is named.
    """
    if not frame.counted.any():
        raise InvalidInput(
            f"experiment {frame.experiment.name!r} holds no finished cell of the design "
            f"({len(frame.cells)} planned)"
        )
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [key for key in frame.metrics if fnmatch.fnmatchcase(key, pattern)]
        found = found or [
            key
            for key in map(str, frame.values)
            if key == pattern
            or (fnmatch.fnmatchcase(key, pattern) and not key.startswith("system/"))
        ]
        if not found:
            raise unknown("metric", pattern, frame.metrics)
        chosen.update(dict.fromkeys(found))
    if not chosen and not frame.metrics:
        raise InvalidInput(
            f"the {int(frame.counted.sum())} finished cells of experiment {frame.experiment.name!r} "
            "have no metric that a sheet could show"
        )
    return list(chosen) or frame.metrics


class Refused(TrackingError):
    """A report that MLflow did not take. Its files are in ``folder``."""

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__(text)
        self.folder = folder


def report_store(store: Store, into: str | None) -> Store:
    """The experiment that reports go to: ``into`` (made if it is not there), else the source's own."""
    return store if into is None else tracking.open_store(store.uri, into, create=True)


def publish(
    store: Store, report: Report, arguments: dict[str, Any], *, into: str | None = None
) -> str:
    """Write ``report`` as a report run and mark older ones of the same arguments; returns its id.

    ``into`` names another experiment for the report run than the one that it is about.

    Raises:
        Refused: the run could not be written; the files are on disk.
        TrackingError: it is written, and older ones could not be marked.
    """
    deltas: dict[str, float] = {}
    for name in ("delta_all", "delta_all_adjusted", "delta_all_above_floor"):
        for row in report.summary:
            value = getattr(row, name)
            deltas[_fit(f"{name}/{row.metric}")] = math.nan if value is None else value
    return _publish(
        store,
        into,
        "sheets",
        report.plan,
        arguments,
        digest(report),
        report_files(report),
        deltas,
    )


def publish_selection(
    store: Store,
    selection: Selection,
    plan: Plan,
    arguments: dict[str, Any],
    *,
    into: str | None = None,
    tag_others: bool = False,
) -> str:
    """Write ``selection`` as a report run of its own, and tag the runs it chose; returns its id.

    The tag ``mm.selected.<rule>`` holds the report run's id. Runs that an earlier selection by the
    same rule chose and this one does not lose it. Runs that another program made get it only with
    ``tag_others``.

    Raises:
        Refused: the run could not be written; the files are on disk.
        TrackingError: it is written, and runs could not be tagged.
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
        store, into, "selection", plan, arguments, text, selection_files(selection), numbers
    )
    with written(run_id, "the selected runs could not be tagged"):
        ours = {run.run_id for run in tracking.read_runs(store) if run.kind == "cell"}
        for choice in selection.choices:
            tag = f"mm.selected.{choice.rule.name}"
            chosen = [run for run in choice.run_ids if tag_others or run in ours]
            if others := len(choice.run_ids) - len(chosen):
                logger.warning(
                    "selected runs of other programs, not tagged (--tag does it): %d", others
                )
            if lost := tracking.tag_only(store, tag, run_id, chosen):
                logger.warning("%d runs of an earlier selection lose the tag %s", lost, tag)
    return run_id


def _fit(key: str) -> str:
    """``key`` within the 250 characters that MLflow takes, with six hex digits of it where it is cut."""
    return key if len(key) <= 250 else f"{key[:243]}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"


def _publish(
    source: Store,
    into: str | None,
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
        "mm.experiment": source.experiment.id,
        "mm.design": plan.name,
        "mm.design_id": plan.id,
    }
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        tracking.write_files(Path(folder), files)
        try:
            target = report_store(source, into)
            if target.experiment != source.experiment:
                description = f"{_about(source)}\n\n{description}"
            name = "report" if kind == "sheets" else kind
            run_id = _write(target, name, tags, description, Path(folder), metrics)
        except InvalidInput:
            raise
        except Exception as error:
            reason = f"{source.uri!r} did not take the report: {tracking.explain(error)}"
            try:
                kept = _keep(Path(folder), source.experiment.name)
            except OSError as second:
                raise TrackingError(
                    f"{reason}; nor does this folder take its files ({second}): use --out DIR"
                ) from error
            raise Refused(f"{reason}; its files are in {kept}/", kept) from error
    with written(run_id, "older reports could not be marked as superseded"):
        tracking.mark_launcher(target, run_id)
        tracking.supersede(target, run_id, report, source.experiment.id)
    with written(run_id, "the experiment's description could not be refreshed"):
        tracking.refresh_page(target)
    return run_id


def _about(source: Store) -> str:
    name = escape(source.experiment.name)
    return f"About experiment [{name}]({tracking.runs_page(source)})."


def _write(
    target: Store,
    name: str,
    tags: Mapping[str, str],
    description: str,
    folder: Path,
    metrics: Mapping[str, float],
) -> str:
    """A FINISHED run with these contents; FAILED, if it can be, where one of them is refused, and KILLED
    where it is interrupted."""
    run_id = tracking.create_run(target, name, tags)
    try:
        link = f"[Open the report]({tracking.report_page(target, run_id)})"
        tracking.log(target, run_id, tags={tracking.NOTE: f"{link}\n\n{description}"})
        tracking.log_folder(target, run_id, folder)
        finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
        tracking.log(target, run_id, metrics=finite)
        tracking.finish(target, run_id)
    except BaseException as reason:
        try:
            tracking.finish(target, run_id, "FAILED" if isinstance(reason, Exception) else "KILLED")
        except Exception as error:  # noqa: BLE001 - what was refused first is the reason to tell
            logger.warning("run %s stays RUNNING: %s", run_id, tracking.explain(error))
        raise
    return run_id


@contextmanager
def written(run_id: str, failure: str) -> Iterator[None]:
    """Name the report run in errors of what comes after it."""
    try:
        yield
    except Exception as error:
        raise TrackingError(
            f"report run {run_id} is written, but {failure}: {tracking.explain(error)}"
        ) from error


def _keep(files: Path, experiment: str) -> Path:
    """Copy ``files`` to a new folder of the working folder, never into one that is there."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", experiment)[:80].strip("._") or "report"
    for number in itertools.count(1):
        target = Path(f"multiplicity-{slug}" + (f"-{number}" if number > 1 else ""))
        try:
            target.mkdir()
        except FileExistsError:
            continue
        shutil.copytree(files, target, dirs_exist_ok=True)
        break
    return target


# Of every page that this program writes.
_OURS = " – multiplicity</title>"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything, unless its ``index.html`` is an earlier report's.

    Raises:
        InvalidInput: writing there would replace files of others, or it is no folder.
    """
    index = folder / "index.html"
    try:
        earlier = index.is_file() and _OURS in index.read_text("utf-8", errors="replace")
        taken = folder.exists() and not earlier and any(folder.iterdir())
    except OSError as error:
        raise InvalidInput(f"out {str(folder)!r} cannot be written: {error}") from error
    if taken:
        raise InvalidInput(
            f"out {str(folder)!r} holds files, and no earlier report: name a new or an empty folder"
        )


def save(folder: Path, shown: Report | Selection | Change) -> list[str]:
    """Write the files of a report, a selection or a comparison below ``folder`` and nothing to MLflow;
    returns their paths.

    Raises:
        InvalidInput: the folder cannot be written, or as :func:`check_folder`.
    """
    check_folder(folder)
    try:
        return tracking.write_files(folder, _files(shown))
    except OSError as error:
        raise InvalidInput(f"out {str(folder)!r} cannot be written: {error}") from error


def _files(shown: Report | Selection | Change) -> Iterator[tuple[str, bytes]]:
    if isinstance(shown, Report):
        return report_files(shown)
    return selection_files(shown) if isinstance(shown, Selection) else change_files(shown)


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
