"""Reading runs and their artifacts back."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    FileInfo,
    Run,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

from mm_mlflow.design import Design, canonical_json
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.frame import ExperimentRef, RawRun
from mm_mlflow.tracking.store import Store, connect, explain, reading_errors

logger = logging.getLogger(__name__)

EVALUATED = "evaluated.json"  # of an evaluation run: the runs that it was to measure
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


def read_run(store: Store, run_id: str) -> RawRun | None:
    """A run as it is now, without what lies in artifacts; None if it is deleted, or was never there."""
    with reading_errors(store.uri):
        try:
            run = store.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in _NO_SUCH_RUN:
                raise
            return None
    return _raw(run) if run.info.lifecycle_stage == "active" else None


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
    what their ``metrics.json`` files say.

    A run that was deleted since ``runs`` were read is left out, which is said: its cell is missing
    now, as the next reading would find it.
    """
    others = evaluated_runs(store, runs)

    def complete(run: RawRun) -> RawRun | None:
        known = run.kind == "cell" or run.run_id in others
        if not known or run.status != "FINISHED":
            return run
        try:
            return with_own_records(store, run)
        except TrackingError:
            if read_run(store, run.run_id) is not None:
                raise
            logger.warning(
                "run %s (%s) was deleted while it was read: it is left out", run.run_id, run.name
            )
            return None

    with reading_errors(store.uri), ThreadPoolExecutor(max_workers=8) as pool:
        return [run for run in pool.map(complete, runs) if run is not None]


def with_own_records(store: Store, run: RawRun) -> RawRun:
    """The same run with what its ``metrics.json`` files say; a cell has to have some, unless it is a
    project's, which says nothing of its metrics.

    Raises:
        TrackingError: they cannot be read.
    """
    records: dict[str, Any] = {}
    checks: list[str] = []
    # The pass with the most metrics (the sweep's, mostly) first.
    passes = sorted(
        evaluations(store, run), key=lambda found: len(found[1]["metrics"]), reverse=True
    )
    for _, document in passes:
        records |= document["metrics"]
        checks += document["checks"]["failed"]
    if not records and run.kind == "cell" and "mm.project" not in run.tags:
        raise TrackingError(
            f"run {run.run_id} is a finished cell without its metrics.json: "
            "are its artifacts where this machine can read them?"
        )
    return replace(run, records=by_intervention(records), checks=tuple(dict.fromkeys(checks)))


def evaluations(store: Store, run: RawRun) -> list[tuple[str, dict[str, Any]]]:
    """The folder and ``metrics.json`` of every evaluation pass of a run: the sweep's own and
    back-fills.

    A pass that was killed before its metrics were logged tells nothing about the run's, which another
    pass may have taken since: its records are left out.

    Raises:
        TrackingError: they cannot be read, or are not what this program writes.
    """
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        try:
            files = run_files(store, run.run_id, folder)
        except MlflowException as error:
            raise TrackingError(
                f"run {run.run_id}: its artifacts cannot be read: {explain(error)}"
            ) from error
        return evaluations_in(files, run.metrics)


@dataclass(frozen=True)
class RunFiles:
    """The artifacts of one run.

    Attributes:
        run_id: whose they are.
        listed: what lies in a folder.
        fetched: where a file is on this machine, after copying it there if need be.
    """

    run_id: str
    listed: Callable[[str], Sequence[FileInfo]]
    fetched: Callable[[str], str]


def run_files(store: Store, run_id: str, folder: str) -> RunFiles:
    """A run's artifacts, for reading many of them: copied to ``folder``, unless this machine has them.

    MLflow's client looks the run up anew for every file (4 ms in SQLite), and copies all of them.
    Artifacts of logged models are not seen.
    """
    repository = RunsArtifactRepository(f"runs:/{run_id}", tracking_uri=store.uri).repo
    target = None if isinstance(repository, LocalArtifactRepository) else folder
    return RunFiles(
        run_id,
        lambda path: repository.list_artifacts(path or None),
        lambda path: str(repository.download_artifacts(path, target)),  # type: ignore[no-untyped-call]
    )


def evaluations_in(
    files: RunFiles, metrics: Mapping[str, float]
) -> list[tuple[str, dict[str, Any]]]:
    """As :func:`evaluations`, of a run with these metrics."""
    found = []
    try:
        for item in files.listed("evaluations"):
            document = _metrics_json(files, item.path)
            if document is not None:
                found.append((item.path, document))
    except (OSError, ValueError, MlflowException) as error:
        raise TrackingError(
            f"run {files.run_id}: metrics.json cannot be read: {explain(error)}"
        ) from error
    return _logged(found, metrics)


def _logged(
    passes: Sequence[tuple[str, dict[str, Any]]], metrics: Mapping[str, float]
) -> list[tuple[str, dict[str, Any]]]:
    """Passes with the records of metrics that the run has, and where one of them gave the value that it
    has, of that pass alone (files of early versions hold no values)."""

    def gave(document: Mapping[str, Any], key: str) -> bool:
        values = document.get("values", {})
        return key not in values or values[key] == metrics[key]

    found = []
    for path, document in passes:
        records = {
            key: record
            for key, record in document["metrics"].items()
            if key in metrics
            and (
                gave(document, key)
                or not any(key in other["metrics"] and gave(other, key) for _, other in passes)
            )
        }
        if records:
            found.append((path, {**document, "metrics": records}))
    return found


def _metrics_json(files: RunFiles, path: str) -> dict[str, Any] | None:
    """One pass's document; None where a back-fill was killed before it wrote it, and its metrics."""
    name = f"{path}/metrics.json"
    try:
        file = files.fetched(name)
    except (OSError, MlflowException):
        if any(item.path == name for item in files.listed(path)):
            raise
        return None
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    metrics = document.get("metrics") if isinstance(document, dict) else None
    checks = document.get("checks") if isinstance(document, dict) else None
    values = document.get("values", {}) if isinstance(document, dict) else None
    whole = isinstance(metrics, dict) and all(map(_is_record, metrics.values()))
    if (
        not whole
        or not isinstance(values, dict)
        or not isinstance(checks, dict)
        or not isinstance(checks.get("failed"), list)
    ):
        raise ValueError(f"{name} has no metrics and checks as this program writes them")
    return dict(document)


def _is_record(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("intervention", ""), str)


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
            "name its design, `mm-mlflow status DESIGN`"
        )
    for newest in reversed(sweeps):
        # A sweep that was killed at its very start has not stored its design.
        if has_artifact(store, newest.run_id, "design.yaml"):
            return read_design(store, newest.run_id)
    raise TrackingError(
        f"no sweep of experiment {store.experiment.name!r} has its design.yaml: "
        "are its artifacts where this machine can read them? Else name the design itself"
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
