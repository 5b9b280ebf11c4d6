"""Writing runs: create, log, end; and the run that ``mlflow run`` made."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT

from mm_mlflow.frame import SCHEMA
from mm_mlflow.tracking.experiment_tags import NOTE
from mm_mlflow.tracking.reading import artifact, read_runs
from mm_mlflow.tracking.store import Store

logger = logging.getLogger(__name__)

_LONGEST_TAG = 8000


# ---- the run that `mlflow run` made ----


def project_run(store: Store) -> str | None:
    """The run that ``mlflow run`` made for this process, if it lies in the store's experiment and is
    still bare; such a run *is* the sweep or the cell. Elsewhere it is marked by :func:`mark_launcher`.

    A run that somebody has logged to, or that no project started, is theirs and stays so.
    """
    run = _project_run(store)
    if run is None or run.info.experiment_id != store.experiment.id or not _is_bare(store, run):
        return None
    return str(run.info.run_id)


def mark_launcher(store: Store, run_id: str) -> None:
    """Link a bare project run in another experiment to the run that holds its work, and back."""
    run = _project_run(store)
    if run is None or run.info.run_id == run_id or not _is_bare(store, run):
        return
    name = store.experiment.name
    note = f"Started the work that is in experiment **{name}**, run `{run_id}`."
    for key, value in [("mm.kind", "launcher"), ("mm.work", run_id), (NOTE, note)]:
        store.client.set_tag(run.info.run_id, key, value)
    store.client.set_tag(run_id, "mm.launcher", run.info.run_id)


def _is_bare(store: Store, run: Run) -> bool:
    """Whether a project started the run, and nobody has logged more to it than ``mlflow run`` itself."""
    logged = run.data.metrics or {NOTE, "mm.kind"} & run.data.tags.keys()
    if MLFLOW_PROJECT_ENTRY_POINT not in run.data.tags or logged:
        return False
    return not store.client.list_artifacts(run.info.run_id)


def _project_run(store: Store) -> Run | None:
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    try:
        return store.client.get_run(run_id)
    except MlflowException:
        logger.warning("MLFLOW_RUN_ID %s is no run of %s: not used", run_id, store.uri)
        return None


# ---- writing ----


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def create_run(store: Store, name: str, tags: Mapping[str, str], run_id: str | None = None) -> str:
    """A new RUNNING run, or ``run_id`` (a bare project run) with this name and these tags."""
    tags = {"mm.schema": SCHEMA, **tags}
    if run_id is None:
        run = store.client.create_run(store.experiment.id, now_ms(), dict(tags), name)
        return str(run.info.run_id)
    pairs = [RunTag(key, value) for key, value in {**tags, "mlflow.runName": name}.items()]
    store.client.log_batch(run_id, tags=pairs)
    return run_id


def log(
    store: Store,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    series: Mapping[str, Sequence[float]] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """One batch: ``metrics`` at step 0, ``series`` from step 1 on, params and tags."""
    moment = now_ms()
    points = [Metric(key, value, moment, 0) for key, value in (metrics or {}).items()]
    for key, values in (series or {}).items():
        points += [Metric(key, value, moment, step) for step, value in enumerate(values, start=1)]
    store.client.log_batch(
        run_id,
        metrics=points,
        params=[Param(key, str(value)) for key, value in (params or {}).items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )


def log_files(store: Store, run_id: str, files: Iterator[tuple[str, bytes]]) -> list[str]:
    """Write ``(path, content)`` pairs as artifacts, in one upload; returns the paths."""
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        paths = write_files(Path(folder), files)
        log_folder(store, run_id, Path(folder))
    return paths


def log_folder(store: Store, run_id: str, folder: Path) -> None:
    """Write all that is in ``folder`` as artifacts."""
    store.client.log_artifacts(run_id, str(folder))


def add_files(store: Store, run_id: str, folder: str, files: Iterator[tuple[str, bytes]]) -> None:
    """As :func:`log_files`, but none is written again that is there with this content.

    A file of another content is what a killed process left half written. All lie in ``folder``.
    """
    there = {item.path for item in store.client.list_artifacts(run_id, folder)}
    log_files(
        store,
        run_id,
        (
            (path, content)
            for path, content in files
            if path not in there or artifact(store, run_id, path) != content
        ),
    )


def write_files(folder: Path, files: Iterator[tuple[str, bytes]]) -> list[str]:
    """Write ``(path, content)`` pairs below ``folder``; returns the paths."""
    paths = []
    for path, content in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        paths.append(path)
    return paths


def log_dataset(
    store: Store, run_id: str, name: str, digest: str, context: str, profile: Any
) -> None:
    """Record a dataset input. MLflow refuses digests above 36 characters, so the first 32 it is."""
    dataset = Dataset(
        name=name,
        digest=digest[:32],
        source_type="local",
        source=json.dumps({"dataset": name}),
        profile=json.dumps(profile),
    )
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
    try:
        store.client.log_inputs(run_id, datasets=inputs)
    except MlflowException:
        # Two that log one new dataset at once race for its row, and one is refused (seen): the row
        # is there now.
        store.client.log_inputs(run_id, datasets=inputs)


def finish(store: Store, run_id: str, status: str = "FINISHED") -> None:
    """End a run: FINISHED, FAILED or KILLED."""
    store.client.set_terminated(run_id, status)


def supersede(store: Store, run_id: str, report: str, source: str) -> None:
    """Mark earlier reports of the same kind and arguments about the experiment ``source`` (an id) as
    superseded by ``run_id``: in a tag, and in a line at the top of their description."""
    start = store.client.get_run(run_id).info.start_time
    line = f"Superseded by run [`{run_id}`](#/experiments/{store.experiment.id}/runs/{run_id}).\n\n"
    for run in read_runs(store, "tags.`mm.kind` = 'report'"):
        if (
            run.start_time <= start
            and run.tags.get("mm.report") == report
            and run.tags.get("mm.experiment", store.experiment.id) == source
            and run.run_id != run_id
            and "mm.superseded_by" not in run.tags
        ):
            tags = {"mm.superseded_by": run_id}
            note = line + run.tags.get(NOTE, "")
            if len(note) <= _LONGEST_TAG:  # MLflow would cut what somebody wrote below
                tags[NOTE] = note
            log(store, run.run_id, tags=tags)


def tag_only(store: Store, key: str, value: str, run_ids: Collection[str]) -> int:
    """Set a tag on these runs, and take it from every other run of the experiment; returns from how
    many."""
    others = [run for run in read_runs(store, f"tags.`{key}` != ''") if run.run_id not in run_ids]
    for run in others:
        store.client.delete_tag(run.run_id, key)
    for run_id in run_ids:
        store.client.set_tag(run_id, key, value)
    return len(others)
