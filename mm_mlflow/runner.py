"""Do one cell of a design of our own: train, evaluate, log; and what its cells share.

:mod:`mm_mlflow.sweeping` runs a whole design.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from mm_mlflow import artifacts, datasets, jobs, provenance, registry, tracking, training
from mm_mlflow.design import Cell, DatasetSpec, Design, Keep
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation import Evaluation, Task, evaluate, plan
from mm_mlflow.jobs import CellResult, Clock, run_cell
from mm_mlflow.split import Split
from mm_mlflow.tracking import Store

__all__ = [
    "CellResult", "Clock", "Job", "Material", "Passes", "attempt", "prepare", "train_and_log",
    "train_one", "working_tags",
]  # fmt: skip

# One training at a time in a process: torch's random state is global.
_TRAINING = threading.Lock()


@dataclass(frozen=True)
class Job(jobs.Job):
    """A cell that this package trains."""

    def tags(self) -> dict[str, str]:
        """The data and the environment."""
        return {"mm.dataset": self.dataset or "", "mm.env": provenance.environment()}

    def params(self) -> dict[str, Any]:
        """The cell's, but for those that a project run carries already."""
        if self.run_id is not None:
            return tracking.missing_params(self.store, self.run_id, self.cell, self.design)
        return tracking.cell_params(self.cell)

    def work(self, run_id: str, clock: Clock) -> None:
        """Train, evaluate and log."""
        with _alone():
            _work(self, run_id, clock)


@dataclass(frozen=True, eq=False)
class Material(jobs.Material):
    """What all cells of a design share: its data and the metrics to take."""

    splits: Mapping[str, Split]
    tasks: tuple[Task, ...]

    # Imported while the driver still plans; torch.optim pulls in torch._dynamo only when the first
    # optimizer is made (1.2 s, seen).
    preload = ("mm_mlflow.runner", "torch._dynamo")

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def evaluated(self) -> dict[str, Split]:
        """The splits on which something is measured."""
        return artifacts.evaluated(self.tasks)

    @property
    def digest(self) -> str:
        """Of the training split."""
        return self.train.digest

    def job(
        self, store: Store, design: Design, cell: Cell, sweep: str | None, run_id: str | None = None
    ) -> Job:
        """A training."""
        return Job(store, design, cell, sweep, self.digest, run_id, registry.trusted())

    def tags(self) -> dict[str, str]:
        """The data and the environment."""
        return {"mm.dataset": self.digest, "mm.env": provenance.environment()}

    def begin(self, store: Store, run_id: str, design: Design) -> None:
        """What the examples are, and the dataset inputs."""
        examples = artifacts.examples(self.evaluated)
        tracking.log_files(store, run_id, iter([("examples.parquet", examples)]))
        self.log_inputs(store, run_id, _dataset(design).name)

    def log_inputs(self, store: Store, run_id: str, dataset: str) -> None:
        """Record the data that a run saw; ``dataset`` is the name of the design's."""
        used = {"train": self.train, **self.evaluated}
        provenance.log_inputs(store, run_id, dataset, self.splits, used)

    @property
    def metrics(self) -> list[str]:
        """Of the tasks."""
        return [task.key for task in self.tasks]

    def costs(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Seconds of a forward pass times epochs."""
        kinds = {cell.configuration: cell.settings for cell in cells}
        return {name: training.cost(settings, self.train) for name, settings in kinds.items()}

    def advice(self, design: Design) -> list[str]:
        """About settings that are known to train badly."""
        sentences: dict[str, None] = {}
        for cell in design.cells():
            for sentence in training.advice(cell.settings, len(self.train)):
                sentences.setdefault(f"{cell.configuration}: {sentence}", None)
        return list(sentences)


def prepare(design: Design) -> Material:
    """Open the data of a bound design and check every name and parameter in it, before any training.

    Raises:
        InvalidInput: the first thing that is not allowed.
    """
    material = _open(design)
    kinds = {cell.settings.model_dump_json(): cell.settings for cell in design.cells()}
    for settings in kinds.values():
        training.check(settings, material.train)
    if design.selection is not None:
        measured = [task.key for task in material.tasks]
        for key in (*design.selection.rules()[1], *design.selection.report):
            if key not in measured:
                raise unknown("metric in selection", key, measured)
    return material


def _dataset(design: Design) -> DatasetSpec:
    if design.dataset is None:
        raise InvalidInput(
            f"design {design.name!r} is of an MLflow project, which `mlflow run PROJECT -b multiplicity "
            "--backend-config design.json` sweeps"
        )
    return design.dataset


def _open(design: Design) -> Material:
    dataset = _dataset(design)
    splits = datasets.open_splits(dataset)
    if "train" not in splits:
        raise InvalidInput(
            f"dataset {dataset.name!r} has no split 'train' (it has {', '.join(splits)}): "
            "it can be the data of an intervention, not of a design"
        )
    return Material(splits, tuple(plan(design.interventions, splits, datasets.open_splits)))


@lru_cache(maxsize=4)
def _material(design_json: str) -> Material:
    """Opened and planned once per process: a worker takes many cells of one design."""
    return _open(Design.model_validate_json(design_json))


# ---- one cell ----


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One training at a time, in one thread: equal cells give equal bits."""
    torch.set_num_threads(1)
    with _TRAINING:
        yield


def attempt(
    store: Store, run_id: str, label: str, work: Callable[[Clock], None], *, started: float
) -> CellResult:
    """As :func:`mm_mlflow.jobs.attempt`, for work that trains."""

    def alone(clock: Clock) -> None:
        with _alone():
            work(clock)

    return jobs.attempt(store, run_id, label, alone, started=started)


def working_tags(kind: str, design: str, design_id: str, dataset: str) -> dict[str, str]:
    """Tags of a run that trains: what it is, on which data, who works on it, and with what."""
    own = {"mm.dataset": dataset, "mm.env": provenance.environment()}
    return {**jobs.working_tags(kind, design, design_id), **own}


def _work(job: Job, run_id: str, clock: Clock) -> None:
    material = _material(job.design.model_dump_json())
    if material.train.digest != job.dataset:
        raise RuntimeError(
            f"this worker's training data has digest {material.train.digest[:12]}, "
            f"the sweep's {str(job.dataset)[:12]}: do they share the dataset's folder and cache?"
        )
    train_and_log(
        job.store,
        run_id,
        job.cell,
        material,
        [(material.tasks, None)],
        job.design.keep,
        clock,
        examples=job.sweep is None,
    )


Passes = Sequence[tuple[Sequence[Task], int | None]]


def train_and_log(
    store: Store,
    run_id: str,
    cell: Cell,
    material: Material,
    passes: Passes,
    keep: Keep,
    clock: Clock,
    *,
    examples: bool,
) -> None:
    """Train ``cell``, measure it, and log all of it on a run that is RUNNING and stays so.

    Args:
        store: the experiment.
        run_id: where it is logged.
        cell: what is trained.
        material: its data.
        passes: tasks to measure together, with the batch size to keep to (None: the default).
        keep: what is stored beside metrics.
        clock: takes the seconds.
        examples: whether the run stores ``examples.parquet`` itself, having no sweep that does.
    """
    material.log_inputs(store, run_id, cell.data.name)
    device = provenance.default_device()
    with clock.measure("train"):
        trained = training.train(cell, material.train, device=device)
    with clock.measure("evaluate"):
        evaluations = [
            evaluate(trained.model, tasks, batch_size=batch_size, device=device)
            for tasks, batch_size in passes
        ]

    def files() -> Iterator[tuple[str, bytes]]:
        yield from artifacts.cell_files(cell, trained, keep)
        for evaluation, (tasks, _) in zip(evaluations, passes, strict=True):
            yield from artifacts.evaluation_files(evaluation, tasks, keep.logits)
        if examples:
            yield "examples.parquet", artifacts.examples(material.evaluated)

    tracking.log_files(store, run_id, files())
    values = {key: value for item in evaluations for key, value in item.values.items()}
    tracking.log(
        store,
        run_id,
        metrics={
            **values,
            "system/train_seconds": clock.train,
            "system/evaluate_seconds": clock.evaluate,
        },
        series={"train_loss": trained.losses},
        tags={"mm.health": _health(trained, evaluations)},
    )


def _health(trained: training.Trained, evaluations: Sequence[Evaluation]) -> str:
    """``ok`` or ``diverged``, and what self-checks found; cut short, the whole is in metrics.json."""
    reasons = [trained.diverged] if trained.diverged else []
    diverged = bool(reasons) or any(item.health == "diverged" for item in evaluations)
    found = [*reasons, *(check for item in evaluations for check in item.checks["failed"])]
    return "; ".join(["diverged" if diverged else "ok", *found])[:500]


def train_one(design: Design, store: Store, material: Material, cell: Cell) -> CellResult:
    """Train a single cell of a bound design in this process, without a sweep.

    Under ``mlflow run`` the project run is the cell, where it lies in the experiment.
    """
    tracking.refresh_page(store, design, material.metrics)
    result = run_cell(material.job(store, design, cell, None, tracking.project_run(store)))
    if result.run_id is not None:
        tracking.mark_launcher(store, result.run_id)
    return result
