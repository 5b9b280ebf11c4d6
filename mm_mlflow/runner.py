"""Run one cell (train, evaluate, log), and run a design (planned minus finished, on the engine)."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from mm_mlflow import (
    artifacts,
    datasets,
    engine,
    provenance,
    registry,
    sampling,
    tracking,
    training,
)
from mm_mlflow.design import Cell, Design
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation import Evaluation, Task, evaluate, plan
from mm_mlflow.frame import RawRun, is_finished
from mm_mlflow.split import Split
from mm_mlflow.tracking import Store

# One training at a time in a process: torch's random state is global.
_TRAINING = threading.Lock()

# Imported by new workers while the driver still plans; torch.optim pulls in torch._dynamo only when
# the first optimizer is made (1.2 s, seen).
PRELOAD = ("mm_mlflow.runner", "torch._dynamo")


@dataclass(frozen=True)
class Job:
    """One cell to be done; small, because it travels to a worker.

    Attributes:
        sweep: id of the sweep run, None for a single training.
        dataset: digest of the training split that a finished cell must have.
        run_id: a bare project run that is to be the cell, or None for a new one.
        trusted: the folder whose modules names may be import paths of, or None (``--trust-code``).
    """

    store: Store
    design: Design
    cell: Cell
    sweep: str | None
    dataset: str
    run_id: str | None = None
    trusted: str | None = None


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    Attributes:
        status: ``trained``, ``present`` (somebody had finished it meanwhile) or ``failed``.
        started: seconds since 1970; ``busy`` are the seconds of training and evaluation.
        error: one line, where it failed.
    """

    label: str
    run_id: str | None
    status: Literal["trained", "present", "failed"]
    started: float
    busy: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did. ``killed`` are abandoned attempts of earlier sweeps that it marked."""

    store: Store
    run_id: str
    planned: int
    cells: tuple[CellResult, ...]
    killed: int
    notes: tuple[str, ...]

    @property
    def failed(self) -> list[CellResult]:
        """Cells that ended FAILED."""
        return [cell for cell in self.cells if cell.status == "failed"]


@dataclass(frozen=True, eq=False)
class Material:
    """What all cells of a design share: its data and the metrics to take."""

    splits: Mapping[str, Split]
    tasks: tuple[Task, ...]

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def evaluated(self) -> dict[str, Split]:
        """The splits on which something is measured."""
        return artifacts.evaluated(self.tasks)


def prepare(design: Design) -> Material:
    """Open the data of a bound design and check every name and parameter in it, before any training.

    Raises:
        InvalidInput: the first thing that is not allowed.
    """
    material = _open(design)
    kinds = {cell.training.model_dump_json(): cell.training for cell in design.cells()}
    for settings in kinds.values():
        training.check(settings, material.train)
    if design.selection is not None:
        measured = [task.key for task in material.tasks]
        for key in (*design.selection.rules()[1], *design.selection.report):
            if key not in measured:
                raise unknown("metric in selection", key, measured)
    return material


def _open(design: Design) -> Material:
    splits = datasets.open_splits(design.dataset)
    if "train" not in splits:
        raise InvalidInput(
            f"dataset {design.dataset.name!r} has no split 'train' (it has {', '.join(splits)}): "
            "it can be the data of an intervention, not of a design"
        )
    return Material(splits, tuple(plan(design.interventions, splits, datasets.open_splits)))


@lru_cache(maxsize=4)
def _material(design_json: str) -> Material:
    """Opened and planned once per process: a worker takes many cells of one design."""
    return _open(Design.model_validate_json(design_json))


# ---- one cell ----


def run_cell(job: Job) -> CellResult:
    """Train, evaluate and log one cell, unless MLflow says that it is finished.

    A failure ends the run FAILED with its traceback as an artifact and is returned, not raised.
    """
    with registry.trusting(job.trusted):
        return _run_cell(job)


def _run_cell(job: Job) -> CellResult:
    torch.set_num_threads(1)
    started = time.time()
    store, cell = job.store, job.cell
    for run in tracking.runs_of_cell(store, cell.id):
        if is_finished(run, job.dataset):
            return CellResult(cell.label, run.run_id, "present", started)
        if reason := tracking.abandoned(run, job.sweep):
            tracking.kill(store, run, reason)
    run_id = _start(job)
    clock = _Clock()
    try:
        with _TRAINING, tracking.heartbeat(store, run_id):
            _work(job, run_id, clock)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is a result: the sweep goes on
        text = traceback.format_exc()
        try:
            tracking.log_files(store, run_id, iter([("traceback.txt", text.encode())]))
        finally:  # a store that takes no artifacts is the likely reason
            tracking.finish(store, run_id, "FAILED")
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return CellResult(cell.label, run_id, "failed", started, error=line)
    except BaseException:  # interrupted: not a failure of the cell
        tracking.finish(store, run_id, "KILLED")
        raise
    return CellResult(cell.label, run_id, "trained", started, clock.busy)


class _Clock:
    """Seconds of training and evaluation of one cell."""

    train = 0.0
    evaluate = 0.0

    @property
    def busy(self) -> float:
        return self.train + self.evaluate

    @contextlib.contextmanager
    def measure(self, name: Literal["train", "evaluate"]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        setattr(self, name, time.perf_counter() - start)


def _start(job: Job) -> str:
    tags = {
        "mm.kind": "cell",
        "mm.cell": job.cell.id,
        "mm.design": job.design.name,
        "mm.design_id": job.design.id,
        "mm.dataset": job.dataset,
        "mm.worker": tracking.worker_name(),
        "mm.heartbeat": str(tracking.now_ms()),
        "mm.env": provenance.environment(),
    }
    if job.sweep is not None:
        tags["mm.sweep"] = job.sweep
    params = tracking.cell_params(job.cell)
    if job.run_id is not None:
        params = tracking.missing_params(job.store, job.run_id, job.cell, job.design)
    run_id = tracking.create_run(job.store, job.cell.label, tags, job.run_id)
    tracking.log(job.store, run_id, params=params)
    return run_id


def _work(job: Job, run_id: str, clock: _Clock) -> None:
    store, cell = job.store, job.cell
    material = _material(job.design.model_dump_json())
    if material.train.digest != job.dataset:
        raise RuntimeError(
            f"this worker's training data has digest {material.train.digest[:12]}, "
            f"the sweep's {job.dataset[:12]}: do they share the dataset's folder and cache?"
        )
    _log_inputs(store, run_id, job.design, material)
    device = provenance.default_device()
    with clock.measure("train"):
        trained = training.train(cell, material.train, device=device)
    with clock.measure("evaluate"):
        evaluation = evaluate(trained.model, material.tasks, device=device)
    tracking.log_files(store, run_id, _files(job, trained, evaluation, material))
    tracking.log(
        store,
        run_id,
        metrics={
            **evaluation.values,
            "system/train_seconds": clock.train,
            "system/evaluate_seconds": clock.evaluate,
        },
        series={"train_loss": trained.losses},
        tags={"mm.health": _health(trained, evaluation)},
    )
    tracking.finish(store, run_id)


def _health(trained: training.Trained, evaluation: Evaluation) -> str:
    """``ok`` or ``diverged``, and what self-checks found; cut short, the whole is in metrics.json."""
    reasons = [trained.diverged] if trained.diverged else []
    diverged = bool(reasons) or evaluation.health == "diverged"
    found = [*reasons, *evaluation.checks["failed"]]
    return "; ".join(["diverged" if diverged else "ok", *found])[:500]


def _files(
    job: Job, trained: training.Trained, evaluation: Evaluation, material: Material
) -> Iterator[tuple[str, bytes]]:
    yield from artifacts.cell_files(job.cell, trained, evaluation, material.tasks, job.design.keep)
    if job.sweep is None:
        yield "examples.parquet", artifacts.examples(material.evaluated)


def _log_inputs(store: Store, run_id: str, design: Design, material: Material) -> None:
    used = {"train": material.train, **material.evaluated}
    provenance.log_inputs(store, run_id, design.dataset.name, material.splits, used)


# ---- a design ----


def run_design(
    design: Design,
    store: Store,
    material: Material,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    smoke: bool = False,
    on_start: Callable[[Sequence[Cell], int, Sequence[str]], None] = lambda *_: None,
    on_result: Callable[[CellResult], None] = lambda _: None,
) -> SweepResult:
    """Train every planned cell of a bound design that has no FINISHED run in the experiment.

    ``material`` is what :func:`prepare` returned for the design.
    ``on_start`` is told the cells to do, how many are planned, and notes; ``on_result`` each result.
    The sweep run is written first: it holds the design, and logs the dataset inputs before workers
    do (two workers that log one new dataset at once race: seen).
    """
    cells = sampling.enumerate_cells(design)
    runs = tracking.read_runs(store)
    todo, notes = remaining(cells, runs, material.train.digest)
    notes += advice(design, material.train)
    killed = _kill_abandoned(store, runs, {cell.id for cell in cells})
    results: list[CellResult] = []
    status = "KILLED"
    run_id = _start_sweep(design, store, material, smoke=smoke)
    try:
        _store_sweep(design, store, material, run_id)
        tracking.mark_launcher(store, run_id)
        on_start(todo, len(cells), notes)
        with tracking.heartbeat(store, run_id):
            for result in _work_off(design, store, run_id, material, todo, jobs, scheduler):
                results.append(result)
                on_result(result)
        status = "FAILED" if any(result.status == "failed" for result in results) else "FINISHED"
    finally:
        _end_sweep(store, run_id, status, len(cells), results)
    return SweepResult(store, run_id, len(cells), tuple(results), killed, tuple(notes))


def _end_sweep(
    store: Store, run_id: str, status: str, planned: int, results: Sequence[CellResult]
) -> None:
    try:
        for run in tracking.running_cells(store, run_id):
            tracking.kill(store, run, "its worker was lost, or the sweep was interrupted")
        count = {word: sum(r.status == word for r in results) for word in ("trained", "failed")}
        counts = {"planned": planned, **count}
        if status != "KILLED":
            counts["present"] = planned - sum(count.values())
        tracking.log(store, run_id, metrics={f"cells/{key}": n for key, n in counts.items()})
    finally:
        tracking.finish(store, run_id, status)


def _work_off(
    design: Design,
    store: Store,
    run_id: str,
    material: Material,
    todo: Sequence[Cell],
    jobs: int | None,
    scheduler: str | None,
) -> Iterator[CellResult]:
    """The results of ``todo`` as they come; no workers are started for nothing."""
    if not todo:
        return
    # Long cells first, so that no worker ends alone with a long one.
    kinds = {cell.configuration: cell.training for cell in todo}
    cost = {name: training.cost(settings, material.train) for name, settings in kinds.items()}
    todo = sorted(todo, key=lambda cell: cost[cell.configuration], reverse=True)
    digest, trusted = material.train.digest, registry.trusted()
    items = [
        (f"{cell.id}-{run_id}", Job(store, design, cell, run_id, digest, trusted=trusted))
        for cell in todo
    ]
    labels = {key: job.cell.label for key, job in items}
    with engine.workers(jobs, scheduler, PRELOAD) as client:
        for key, result in engine.run(client, run_cell, items, hold_back=scheduler is None):
            yield _lost(labels[key], result) if isinstance(result, BaseException) else result


def remaining(
    cells: Sequence[Cell], runs: Sequence[RawRun], dataset: str
) -> tuple[list[Cell], list[str]]:
    """The cells that no FINISHED run has, and a note for cells finished on other data."""
    done = {run.tags.get("mm.cell") for run in runs if is_finished(run, dataset)}
    todo = [cell for cell in cells if cell.id not in done]
    ids = {cell.id for cell in todo}
    other = [
        run for run in runs
        if run.kind == "cell" and run.status == "FINISHED" and run.tags.get("mm.cell") in ids
    ]  # fmt: skip
    notes = []
    if other:
        digests = sorted({run.tags.get("mm.dataset", "none")[:12] for run in other})
        notes.append(
            f"{len({run.tags['mm.cell'] for run in other})} cells have runs on other training data "
            f"(digest {', '.join(digests)}; now {dataset[:12]}): they are trained again"
        )
    return todo, notes


def advice(design: Design, split: Split) -> list[str]:
    """Sentences about settings of the design that are known to train badly."""
    sentences: dict[str, None] = {}
    for cell in design.cells():
        for sentence in training.advice(cell.training, len(split)):
            sentences.setdefault(f"{cell.configuration}: {sentence}", None)
    return list(sentences)


def _kill_abandoned(store: Store, runs: Sequence[RawRun], planned: set[str]) -> int:
    number = 0
    for run in runs:
        ours = run.kind == "sweep" or run.tags.get("mm.cell") in planned
        if ours and (reason := tracking.abandoned(run)):
            tracking.kill(store, run, reason)
            number += 1
    return number


def _start_sweep(design: Design, store: Store, material: Material, *, smoke: bool) -> str:
    tags = {
        "mm.kind": "sweep",
        "mm.design": design.name,
        "mm.design_id": design.id,
        "mm.dataset": material.train.digest,
        "mm.worker": tracking.worker_name(),
        "mm.heartbeat": str(tracking.now_ms()),
        "mm.env": provenance.environment(),
    }
    if smoke:
        tags["mm.smoke"] = "true"
    name = f"sweep {design.name}" + (" (smoke)" if smoke else "")
    return tracking.create_run(store, name, tags, tracking.project_run(store))


def _store_sweep(design: Design, store: Store, material: Material, run_id: str) -> None:
    # The design first: it is the plan that readers go by.
    files = [
        ("design.yaml", design.dump().encode()),
        ("examples.parquet", artifacts.examples(material.evaluated)),
    ]
    tracking.log_files(store, run_id, iter(files))
    _log_inputs(store, run_id, design, material)


def _lost(label: str, error: BaseException) -> CellResult:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return CellResult(label, None, "failed", time.time(), error=line)


def train_one(design: Design, store: Store, material: Material, cell: Cell) -> CellResult:
    """Train a single cell of a bound design in this process, without a sweep.

    Under ``mlflow run`` the project run is the cell, where it lies in the experiment.
    """
    project_run, trusted = tracking.project_run(store), registry.trusted()
    job = Job(store, design, cell, None, material.train.digest, project_run, trusted)
    result = run_cell(job)
    if result.run_id is not None:
        tracking.mark_launcher(store, result.run_id)
    return result
