"""Reading runs and their artifacts back."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Run,
    ViewType,
)
from mlflow.exceptions import MlflowException

from mm_mlflow.design import Design, canonical_json
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.frame import RawRun
from mm_mlflow.tracking.store import Store, reading_errors

logger = logging.getLogger(__name__)

EVALUATED = "evaluated.json"  # of an evaluation run: the runs that it was to measure


def artifact(store: Store, run_id: str, path: str) -> bytes:
    """The content of one artifact.

    Raises:
        TrackingError: it cannot be read.
    """
    with reading_errors(store.uri), tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        try:
            return Path(store.client.download_artifacts(run_id, path, folder)).read_bytes()
        except OSError as error:
            raise TrackingError(f"run {run_id}: {path} cannot be read: {error}") from error


def has_artifact(store: Store, run_id: str, path: str) -> bool:
    """Whether a run has an artifact called ``path`` at its top."""
    with reading_errors(store.uri):
        return any(item.path == path for item in store.client.list_artifacts(run_id))


def read_runs(store: Store, filter_string: str = "") -> list[RawRun]:
    """Every active run of the experiment that matches, without what lies in artifacts."""
    runs: list[RawRun] = []
    token = None
    with reading_errors(store.uri):
        while True:
            page = store.client.search_runs(
                [store.experiment.id],
                filter_string=filter_string,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            runs += [_raw(run) for run in page]
            token = page.token
            if not token:
                return runs


def read_run(store: Store, run_id: str) -> RawRun | None:
    """One run, without what lies in artifacts; None if it is deleted, or was never there."""
    with reading_errors(store.uri):
        try:
            run = store.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    return _raw(run) if run.info.lifecycle_stage == "active" else None


def _raw(run: Run) -> RawRun:
    return RawRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        params=run.data.params,
        tags=run.data.tags,
        metrics=run.data.metrics,
    )


def evaluated_runs(store: Store, runs: Sequence[RawRun]) -> set[str]:
    """Ids of runs of other programs that ``evaluate`` was to measure: some may have no metrics of it.

    Args:
        store: the experiment.
        runs: all its runs; those of kind ``evaluation`` tell it, in their ``evaluated.json``.
    """
    cells = {run.run_id for run in runs if run.kind == "cell"}
    named: set[str] = set()
    for run in runs:
        # One that was killed at its very start has not written its list.
        if run.kind == "evaluation" and has_artifact(store, run.run_id, EVALUATED):
            try:
                document = json.loads(artifact(store, run.run_id, EVALUATED))
                named |= {str(entry["run_id"]) for entry in document["runs"]}
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("evaluation %s is passed over: %s: %r", run.run_id, EVALUATED, error)
    return named - cells


def with_records(store: Store, runs: Sequence[RawRun]) -> list[RawRun]:
    """The same runs; finished cells, and runs of other programs that :func:`evaluated_runs` names, with
    what their ``metrics.json`` files say."""
    others = evaluated_runs(store, runs)

    def complete(run: RawRun) -> RawRun:
        known = run.kind == "cell" or run.run_id in others
        return with_own_records(store, run) if known and run.status == "FINISHED" else run

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(complete, runs))


def with_own_records(store: Store, run: RawRun) -> RawRun:
    """The same run with what its ``metrics.json`` files say; a cell has to have some.

    Raises:
        TrackingError: they cannot be read.
    """
    records: dict[str, Any] = {}
    checks: list[str] = []
    with reading_errors(store.uri):
        try:
            for document in _evaluations(store, run.run_id):
                records |= document["metrics"]
                checks += document["checks"]["failed"]
            records = by_intervention(records)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MlflowException) as error:
            raise TrackingError(
                f"run {run.run_id}: metrics.json cannot be read: {error}"
            ) from error
    if not records and run.kind == "cell":
        raise TrackingError(
            f"run {run.run_id} is a finished cell without its metrics.json: "
            "are its artifacts where this machine can read them?"
        )
    return replace(run, records=records, checks=tuple(dict.fromkeys(checks)))


def _evaluations(store: Store, run_id: str) -> Iterator[dict[str, Any]]:
    """The ``metrics.json`` of every pass, the one with the most metrics (the sweep's, mostly) first."""
    found = []
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        for item in store.client.list_artifacts(run_id, "evaluations"):
            name = f"{item.path}/metrics.json"
            try:
                path = store.client.download_artifacts(run_id, name, folder)
            except (OSError, MlflowException):
                listed = store.client.list_artifacts(run_id, item.path)
                if any(file.path == name for file in listed):
                    raise
                continue  # a back-fill was killed while it wrote: its metrics are not there either
            found.append(json.loads(Path(path).read_text(encoding="utf-8")))
    yield from sorted(found, key=lambda document: len(document["metrics"]), reverse=True)


def by_intervention(records: Mapping[str, Any]) -> dict[str, Any]:
    """The same records, those of one intervention together: a δ that was added stands with the others."""
    order = list(dict.fromkeys(record.get("intervention") for record in records.values()))
    return dict(sorted(records.items(), key=lambda item: order.index(item[1].get("intervention"))))


def newest_design(store: Store, runs: Sequence[RawRun]) -> Design:
    """The design of the newest sweep that is no smoke (of the newest smoke where there is no other).

    Raises:
        InvalidInput: the experiment has no sweep.
    """
    sweeps = sorted(
        (run for run in runs if run.kind == "sweep" and "mm.design_id" in run.tags),
        key=lambda run: ("mm.smoke" not in run.tags, run.start_time),
    )
    if not sweeps:
        raise InvalidInput(
            f"experiment {store.experiment.name!r} holds no sweep ({len(runs)} runs): "
            "name its design with --design"
        )
    for newest in reversed(sweeps):
        # A sweep that was killed at its very start has not stored its design.
        if has_artifact(store, newest.run_id, "design.yaml"):
            return read_design(store, newest.run_id)
    raise TrackingError(
        f"no sweep of experiment {store.experiment.name!r} has its design.yaml: "
        "are its artifacts where this machine can read them? Else name the design with --design"
    )


def newest_dataset(store: Store, runs: Sequence[RawRun], design: Design) -> str | None:
    """The digest of the training data that the newest sweep on the design's dataset saw, whatever
    else its own design or a smoke says; None without one.

    Files change while a dataset's name and arguments stay: what a sweep saw last is what is there.
    """
    same = {design.id: True}
    sweeps = [run for run in runs if run.kind == "sweep" and "mm.dataset" in run.tags]
    for run in sorted(sweeps, key=lambda run: run.start_time, reverse=True):
        design_id = run.tags.get("mm.design_id", "")
        if design_id not in same:
            if not has_artifact(store, run.run_id, "design.yaml"):
                continue  # killed at its very start
            try:
                found = read_design(store, run.run_id).dataset
            except InvalidInput as error:  # of another version, say: this design can do without it
                logger.warning("sweep %s is passed over: %s", run.run_id, error)
                continue
            same[design_id] = canonical_json(found.identity()) == canonical_json(
                design.dataset.identity()
            )
        if same[design_id]:
            return run.tags["mm.dataset"]
    return None


def read_design(store: Store, run_id: str) -> Design:
    """The ``design.yaml`` of a sweep run."""
    text = artifact(store, run_id, "design.yaml").decode("utf-8")
    return Design.parse(text, source=f"run {run_id}: design.yaml")
