"""Reading runs and their artifacts back."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Run,
    ViewType,
)
from mlflow.exceptions import MlflowException

from mm_mlflow.design import Design, canonical_json
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.frame import ExperimentRef, RawRun
from mm_mlflow.tracking.store import Store, connect, explain, reading_errors

logger = logging.getLogger(__name__)

ADOPTED = "mm.adopted"  # on sweeps that were told whether to count runs of other programs

# What MLflow answers for an id that it does not know, and for one that can be none.
_NO_SUCH_RUN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


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


def open_run(uri: str | None, run_id: str) -> tuple[Store, RawRun]:
    """A run by its id, and the experiment that it lies in.

    Raises:
        InvalidInput: there is no such run, or it is deleted.
        TrackingError: the store cannot be read.
    """
    uri = connect(uri)
    with reading_errors(uri):
        client = MlflowClient(tracking_uri=uri)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in _NO_SUCH_RUN:
                raise
            raise InvalidInput(f"run {run_id!r} is no run of {uri}") from error
        if run.info.lifecycle_stage != "active":
            raise InvalidInput(f"run {run_id} is deleted: restore it, or name another")
        found = client.get_experiment(run.info.experiment_id)
    return Store(uri, ExperimentRef(id=str(found.experiment_id), name=found.name)), _raw(run)


def read_run(store: Store, run_id: str) -> RawRun:
    """A run as it is now."""
    with reading_errors(store.uri):
        return _raw(store.client.get_run(run_id))


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
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RawRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        params=run.data.params,
        tags=run.data.tags,
        metrics=run.data.metrics,
        datasets=tuple(sorted({item.dataset.digest for item in inputs})),
    )


def with_records(store: Store, runs: Sequence[RawRun]) -> list[RawRun]:
    """The same runs; finished cells with what their ``metrics.json`` files say.

    A run that was deleted since ``runs`` were read is left out, which is said: its cell is missing
    now, as the next reading would find it.
    """

    def complete(run: RawRun) -> RawRun | None:
        if run.kind != "cell" or run.status != "FINISHED" or "mm.project" in run.tags:
            return run  # a project's cell says nothing of its metrics
        try:
            records, checks = _records(store, run.run_id)
        except TrackingError:
            if _exists(store, run.run_id):
                raise
            logger.warning(
                "run %s (%s) was deleted while it was read: it is left out", run.run_id, run.name
            )
            return None
        return replace(run, records=records, checks=checks)

    with reading_errors(store.uri), ThreadPoolExecutor(max_workers=8) as pool:
        return [run for run in pool.map(complete, runs) if run is not None]


def _records(store: Store, run_id: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    records: dict[str, Any] = {}
    checks: list[str] = []
    for _, document in evaluations(store, run_id):
        try:
            records |= document["metrics"]
            checks += document["checks"]["failed"]
        except (KeyError, TypeError) as error:
            raise TrackingError(f"run {run_id}: metrics.json cannot be read: {error!r}") from error
    if not records:
        raise TrackingError(
            f"run {run_id} is a finished cell without its metrics.json: "
            "are its artifacts where this machine can read them?"
        )
    return records, tuple(checks)


def _exists(store: Store, run_id: str) -> bool:
    try:
        return bool(store.client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_RUN:
            raise
        return False


def evaluations(store: Store, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The folder and ``metrics.json`` of every evaluation pass of a run: the sweep's own and
    back-fills.

    Raises:
        TrackingError: they cannot be read.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        try:
            for item in store.client.list_artifacts(run_id, "evaluations"):
                path = store.client.download_artifacts(run_id, f"{item.path}/metrics.json", folder)
                found.append((item.path, json.loads(Path(path).read_text(encoding="utf-8"))))
        except (OSError, ValueError, MlflowException) as error:
            raise TrackingError(
                f"run {run_id}: metrics.json cannot be read: {explain(error)}"
            ) from error
    return found


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


def adopted_runs(store: Store, runs: Sequence[RawRun]) -> dict[str, str]:
    """By cell id, the runs of other programs that sweeps were told to count.

    The newest sweep that was told, either way, says it for all.

    Raises:
        TrackingError: its ``adopted.json`` cannot be read.
    """
    told = [run for run in runs if run.kind == "sweep" and ADOPTED in run.tags]
    newest = max(told, key=lambda run: run.start_time, default=None)
    if newest is None or newest.tags[ADOPTED] != "true":
        return {}
    try:
        found = json.loads(artifact(store, newest.run_id, "adopted.json"))["adopted"]
        return {str(cell): str(run_id) for cell, run_id in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrackingError(
            f"run {newest.run_id}: adopted.json cannot be read: {error!r}"
        ) from error


def read_design(store: Store, run_id: str) -> Design:
    """The ``design.yaml`` of a sweep run."""
    text = artifact(store, run_id, "design.yaml").decode("utf-8")
    return Design.parse(text, source=f"run {run_id}: design.yaml")
