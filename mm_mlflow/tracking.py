"""The only reader and writer of MLflow runs. What is done, and what came out, is MLflow's answer."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Set before MLflow is imported: it would draw a bar for every small file, and print two lines for
# every run that ends, into the middle of --json.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import requests
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import get_tracking_uri
from sqlalchemy.exc import SQLAlchemyError

from mm_mlflow.design import Cell, Design, canonical_json
from mm_mlflow.errors import InvalidInput, TrackingError, UnknownExperiment, unknown
from mm_mlflow.frame import SCHEMA, ExperimentRef, RawRun

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 600.0
_CONNECT_SECONDS = 5.0
_NOTE = "mlflow.note.content"
_KIND = "custom_model_development"


@dataclass(frozen=True)
class Store:
    """An experiment in a tracking store: small enough to travel to a worker.

    Attributes:
        uri: the tracking URI, with relative sqlite paths made absolute.
        experiment: where runs are read and written.
    """

    uri: str
    experiment: ExperimentRef

    @property
    def client(self) -> MlflowClient:
        """A client of this store; MLflow keeps the connections behind it, one per process."""
        return MlflowClient(tracking_uri=self.uri)


def connect(uri: str | None = None) -> str:
    """The tracking URI to use, after one quick attempt to reach a server.

    Raises:
        TrackingError: nothing answers (MLflow itself would go on trying for minutes: seen).
    """
    uri = uri or get_tracking_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    address = urlsplit(uri)
    if address.scheme in {"http", "https"}:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        try:  # a connection only: certificates, proxies and patience are MLflow's own business
            socket.create_connection((address.hostname or "", port), _CONNECT_SECONDS).close()
        except OSError as error:
            raise TrackingError(
                f"tracking server {uri!r} does not answer ({type(error).__name__}); "
                "start it, or name another with --tracking-uri or MLFLOW_TRACKING_URI"
            ) from error
    return uri


@contextmanager
def reading_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into one line that says what to do."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, requests.RequestException) as error:
        text = " ".join(str(error).split())
        hint = ""
        if "out-of-date database schema" in text:
            hint = "; copy the database and run `mlflow db upgrade` on the copy"
        elif "MLFLOW_ALLOW_FILE_STORE" in text:
            hint = "; `mlflow migrate-filestore` moves it to a database"
        raise TrackingError(f"tracking store {uri!r}: {text[:300]}{hint}") from error


def open_store(
    uri: str | None, experiment_name: str | None, fallback: str | None = None, create: bool = False
) -> Store:
    """The experiment to work in: the one named, else the one that MLflow's environment names (by id
    or name, unless that is just Default: a bare ``mlflow run`` sets id 0), else ``fallback``.

    Raises:
        InvalidInput: no experiment is named, or it does not exist and ``create`` is false.
        TrackingError: the store cannot be read or written.
    """
    uri = connect(uri)
    with reading_errors(uri):
        client = MlflowClient(tracking_uri=uri)
        name = experiment_name or _named_by_environment(client) or fallback
        if name is None:
            raise InvalidInput(
                "no experiment is named: --experiment-name NAME, MLFLOW_EXPERIMENT_NAME, or a design does"
            )
        found = client.get_experiment_by_name(name)
        if found is None and not create:
            known = [item.name for item in client.search_experiments(max_results=1000)]
            raise UnknownExperiment(f"{unknown('experiment', name, known)} in {uri}")
        if found is None:
            found = client.get_experiment(_create_experiment(client, name))
        if found.lifecycle_stage != "active":
            raise InvalidInput(f"experiment {name!r} is deleted: restore it, or name another")
    return Store(uri=uri, experiment=ExperimentRef(id=str(found.experiment_id), name=found.name))


def _create_experiment(client: MlflowClient, name: str) -> str:
    try:
        # The UI opens experiments of unknown kind as GenAI, with a table that shows no params.
        return str(client.create_experiment(name, tags={"mlflow.experimentKind": _KIND}))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another sweep made it meanwhile
        if found is None:
            raise
        return str(found.experiment_id)


def _named_by_environment(client: MlflowClient) -> str | None:
    identifier = os.environ.get("MLFLOW_EXPERIMENT_ID")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if identifier and identifier != "0":
        try:
            return str(client.get_experiment(identifier).name)
        except MlflowException as error:
            raise InvalidInput(
                f"MLFLOW_EXPERIMENT_ID {identifier!r} is no experiment of this store"
            ) from error
    return name if name and name != "Default" else None


# ---- the run that `mlflow run` made ----


def project_run(store: Store) -> str | None:
    """The run that ``mlflow run`` made for this process, if it lies in the store's experiment and is
    still bare; such a run *is* the sweep or the cell. Elsewhere it is marked by :func:`mark_launcher`.
    """
    run = _project_run(store)
    if run is None or run.info.experiment_id != store.experiment.id or "mm.kind" in run.data.tags:
        return None
    return str(run.info.run_id)


def mark_launcher(store: Store, run_id: str) -> None:
    """Link a project run in another experiment to the run that holds its work, and back."""
    run = _project_run(store)
    if run is None or run.info.run_id == run_id or "mm.kind" in run.data.tags:
        return
    name = store.experiment.name
    note = f"Started the work that is in experiment **{name}**, run `{run_id}`."
    for key, value in [("mm.kind", "launcher"), ("mm.work", run_id), (_NOTE, note)]:
        store.client.set_tag(run.info.run_id, key, value)
    store.client.set_tag(run_id, "mm.launcher", run.info.run_id)


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
        store.client.log_artifacts(run_id, folder)
    return paths


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


def supersede(store: Store, run_id: str, report: str) -> None:
    """Tag earlier reports of the same kind and arguments with the run that replaces them."""
    start = store.client.get_run(run_id).info.start_time
    for run in read_runs(store, "tags.`mm.kind` = 'report'"):
        if (
            run.start_time <= start
            and run.tags.get("mm.report") == report
            and run.run_id != run_id
            and "mm.superseded_by" not in run.tags
        ):
            store.client.set_tag(run.run_id, "mm.superseded_by", run_id)


def tag_only(store: Store, key: str, value: str, run_ids: Collection[str]) -> int:
    """Set a tag on these runs, and take it from every other run of the experiment; returns from how
    many."""
    others = [run for run in read_runs(store, f"tags.`{key}` != ''") if run.run_id not in run_ids]
    for run in others:
        store.client.delete_tag(run.run_id, key)
    for run_id in run_ids:
        store.client.set_tag(run_id, key, value)
    return len(others)


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


def registered(store: Store, name: str) -> dict[str, str]:
    """Versions of a registered model that cells gave, by the cell's run id."""
    versions = store.client.search_model_versions(f"name='{name}'")
    return {
        version.tags["mm.cell_run"]: str(version.version)
        for version in versions
        if "mm.cell_run" in version.tags
    }


def register_model(
    store: Store,
    run_id: str,
    name: str,
    model: Any,
    example: Any,
    path: str,
    tags: Mapping[str, str],
) -> str:
    """Store a torch model as an MLflow model of a run, and register it as a version of ``name``.

    It is stored as a traced graph (``pt2``), which loads without this package and without unpickling.

    Args:
        store: the experiment.
        run_id: the run that stores it.
        name: of the registered model, made where there is none.
        model: an ``nn.Module`` on the CPU, in eval mode.
        example: ``(n, C, H, W)`` float32 images, at least two, so that batches may have any size.
        path: of the model among the run's artifacts.
        tags: of the version.

    Returns:
        The version.
    """
    import mlflow.pytorch

    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        target = Path(folder) / "model"
        mlflow.pytorch.save_model(
            model, target, serialization_format="pt2", input_example=example,
            pip_requirements=[f"torch=={version('torch')}", f"mlflow=={version('mlflow')}"],
        )  # fmt: skip
        store.client.log_artifacts(run_id, str(target), path)
    try:
        store.client.create_registered_model(name)
    except MlflowException:
        store.client.get_registered_model(name)  # raises where that was not the reason
    made = store.client.create_model_version(
        name, source=f"runs:/{run_id}/{path}", run_id=run_id, tags=dict(tags)
    )
    return str(made.version)


@contextmanager
def heartbeat(store: Store, run_id: str) -> Iterator[None]:
    """Refresh ``mm.heartbeat`` (milliseconds since 1970) every ten seconds while the body runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            try:
                store.client.set_tag(run_id, "mm.heartbeat", str(now_ms()))
            except (MlflowException, SQLAlchemyError, requests.RequestException) as error:
                # The work itself goes on: a store that is back in ten minutes has lost nothing.
                logger.warning("heartbeat of run %s failed: %s", run_id, error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# ---- cells ----


def worker_name() -> str:
    """Host and process of this worker, as ``mm.worker`` holds it."""
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()})


def runs_of_cell(store: Store, cell_id: str) -> list[RawRun]:
    """All runs that carry this cell's id, whatever their state."""
    return read_runs(store, f"tags.`mm.cell` = '{cell_id}'")


def running_cells(store: Store, sweep: str) -> list[RawRun]:
    """Attempts of a sweep that are RUNNING: once all its tasks have ended, lost workers left them."""
    query = f"tags.`mm.sweep` = '{sweep}' and attributes.status = 'RUNNING'"
    return [run for run in read_runs(store, query) if run.kind == "cell"]


def abandoned(run: RawRun, sweep: str | None = None) -> str | None:
    """Why a RUNNING cell or sweep has no process any more; None if it may have one.

    Its process on this host is gone; or it is an earlier attempt of the same sweep (a worker takes
    up a cell again only when its first worker was lost); or its heartbeat is older than 10 minutes.
    """
    if run.kind not in {"cell", "sweep"} or run.status != "RUNNING":
        return None
    try:
        worker = json.loads(run.tags.get("mm.worker", "{}"))
        age = (now_ms() - int(run.tags.get("mm.heartbeat", run.start_time))) / 1000
    except ValueError:
        return None
    if worker.get("host") == socket.gethostname() and not _alive(worker.get("pid")):
        return f"its process ({worker.get('pid')} on {worker.get('host')}) is gone"
    if sweep is not None and run.tags.get("mm.sweep") == sweep:
        return "its worker was lost, and another took the cell up"
    if age > STALE_SECONDS:
        return f"its last heartbeat is {age / 60:.0f} minutes old"
    return None


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, TypeError, ValueError):
        return True  # somebody's, or not told
    return True


def kill(store: Store, run: RawRun, reason: str) -> None:
    """Mark an abandoned attempt KILLED, with the reason; unless it has ended meanwhile."""
    if store.client.get_run(run.run_id).info.status != "RUNNING":
        return
    store.client.set_tag(run.run_id, "mm.killed", reason)
    finish(store, run.run_id, "KILLED")


def cell_params(cell: Cell) -> dict[str, Any]:
    """The params of a cell: every axis under its own name, the seed, and what bundles override."""
    bundled = {f"training.{key}": value for key, value in cell.bundled.items()}
    return {**cell.axes, "seed": cell.seed, **bundled}


def missing_params(store: Store, run_id: str, cell: Cell, design: Design) -> dict[str, Any]:
    """The params of ``cell`` that a project run does not carry yet (``mlflow run -P`` logged some).

    Raises:
        InvalidInput: a param on the run names another level than the cell's.
    """
    present = store.client.get_run(run_id).data.params
    wanted = cell_params(cell)
    for name in present.keys() & wanted.keys():
        is_axis = name in cell.axes
        level = design.axis(name).level(present[name]).name if is_axis else present[name]
        if str(level) != str(wanted[name]):
            raise InvalidInput(f"param {name}={present[name]} is on the run, not {wanted[name]}")
    return {name: value for name, value in wanted.items() if name not in present}


# ---- reading ----


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
        if run.kind != "cell" or run.status != "FINISHED":
            return run
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
