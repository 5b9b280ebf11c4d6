"""Reading runs and their artifacts back."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
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


def with_records(store: Store, runs: Sequence[RawRun]) -> list[RawRun]:
    """The same runs; finished cells with what their ``metrics.json`` files say."""

    def complete(run: RawRun) -> RawRun:
        if run.kind != "cell" or run.status != "FINISHED" or "mm.project" in run.tags:
            return run  # a project's cell says nothing of its metrics
        records: dict[str, Any] = {}
        checks: list[str] = []
        try:
            for document in _evaluations(store, run.run_id):
                records |= document["metrics"]
                checks += document["checks"]["failed"]
        except (OSError, ValueError, KeyError, MlflowException) as error:
            raise TrackingError(
                f"run {run.run_id}: metrics.json cannot be read: {error}"
            ) from error
        if not records:
            raise TrackingError(
                f"run {run.run_id} is a finished cell without its metrics.json: "
                "are its artifacts where this machine can read them?"
            )
        return replace(run, records=records, checks=tuple(checks))

    with reading_errors(store.uri), ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(complete, runs))


def _evaluations(store: Store, run_id: str) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        for item in store.client.list_artifacts(run_id, "evaluations"):
            path = store.client.download_artifacts(run_id, f"{item.path}/metrics.json", folder)
            yield json.loads(Path(path).read_text(encoding="utf-8"))


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
    if design.dataset is None:
        return None
    wanted = canonical_json(design.dataset.identity())
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
            same[design_id] = found is not None and canonical_json(found.identity()) == wanted
        if same[design_id]:
            return run.tags["mm.dataset"]
    return None


def read_design(store: Store, run_id: str) -> Design:
    """The ``design.yaml`` of a sweep run."""
    text = artifact(store, run_id, "design.yaml").decode("utf-8")
    return Design.parse(text, source=f"run {run_id}: design.yaml")
