"""One cell: what a worker needs to do it, and the bracket around its work.

How a cell is done, and what all cells share, differs between trainings of this package
(:mod:`mm_mlflow.runner`) and other people's projects (:mod:`mm_mlflow.project`): subclasses of
:class:`Job` and :class:`Material` say it.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mm_mlflow import registry, tracking
from mm_mlflow.design import Cell, Design
from mm_mlflow.errors import MultiplicityError
from mm_mlflow.frame import is_finished
from mm_mlflow.tracking import Store

logger = logging.getLogger(__name__)


class CellFailed(MultiplicityError):
    """The work of a cell ended badly, and its text says how; ``files`` are kept as artifacts."""

    def __init__(self, text: str, files: Mapping[str, bytes]) -> None:
        super().__init__(text)
        self.files = files


@dataclass(frozen=True)
class Job(ABC):
    """One cell to be done; small, because it travels to a worker.

    Attributes:
        sweep: id of the sweep run, None for a single training.
        dataset: digest of the training split that a finished cell must have; None where a project
            trains.
        run_id: a bare project run that is to be the cell, or None for a new one.
        trusted: the folder whose modules names may be import paths of, or None (``--trust-code``).
    """

    store: Store
    design: Design
    cell: Cell
    sweep: str | None
    dataset: str | None
    run_id: str | None = None
    trusted: str | None = None

    @abstractmethod
    def tags(self) -> dict[str, str]:
        """Tags of the cell from its start on, beside those that every cell has."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Params of the cell from its start on."""

    @abstractmethod
    def work(self, run_id: str, clock: Clock) -> None:
        """Do the cell and log it on its run, all but the run's end.

        Raises:
            CellFailed: with one line for people; any other exception is kept with its traceback.
        """


class Clock:
    """Seconds of training and evaluation of one cell."""

    train = 0.0
    evaluate = 0.0

    @property
    def busy(self) -> float:
        """Seconds of work."""
        return self.train + self.evaluate

    @contextlib.contextmanager
    def measure(self, name: Literal["train", "evaluate"]) -> Iterator[None]:
        """Take the seconds of the block."""
        start = time.perf_counter()
        yield
        setattr(self, name, time.perf_counter() - start)


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


class Material(ABC):
    """What all cells of a design share: data and metrics, or a project's folder.

    ``preload`` names modules that new workers import before they take work.
    """

    preload: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def digest(self) -> str | None:
        """Digest of the training data that a finished cell must have; None where there is none."""

    @abstractmethod
    def job(
        self, store: Store, design: Design, cell: Cell, sweep: str | None, run_id: str | None = None
    ) -> Job:
        """What a worker needs to do one cell."""

    @abstractmethod
    def tags(self) -> dict[str, str]:
        """Tags of the sweep run, beside those that every sweep has."""

    @abstractmethod
    def begin(self, store: Store, run_id: str, design: Design) -> None:
        """Log on the sweep run what cells share, and get ready what workers must not all do at
        once."""

    @property
    @abstractmethod
    def metrics(self) -> Sequence[str]:
        """Keys of the metrics that every cell has; empty where nothing is known of them."""

    @abstractmethod
    def costs(self, cells: Sequence[Cell]) -> Mapping[str, float]:
        """Relative cost by configuration."""

    @abstractmethod
    def advice(self, design: Design) -> list[str]:
        """Sentences about the design that people should read before it runs."""


def run_cell(job: Job) -> CellResult:
    """Do one cell, unless MLflow says that it is finished.

    A failure ends the run FAILED with its traceback as an artifact and is returned, not raised.
    """
    with registry.trusting(job.trusted):
        started = time.time()
        store, cell = job.store, job.cell
        for run in tracking.runs_of_cell(store, cell.id):
            if is_finished(run, job.dataset):
                return CellResult(cell.label, run.run_id, "present", started)
            if reason := tracking.abandoned(run, job.sweep):
                tracking.kill(store, run, reason)
        run_id = _start(job)

        def work(clock: Clock) -> None:
            job.work(run_id, clock)
            tracking.finish(store, run_id)

        return attempt(store, run_id, cell.label, work, started=started)


def attempt(
    store: Store, run_id: str, label: str, work: Callable[[Clock], None], *, started: float
) -> CellResult:
    """Do the ``work`` of a RUNNING run, which ends it FINISHED, with a heartbeat meanwhile.

    A failure ends the run FAILED with its traceback as an artifact and is returned, not raised.
    """
    clock = Clock()
    try:
        with tracking.heartbeat(store, run_id):
            work(clock)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is a result: the sweep goes on
        if isinstance(error, CellFailed):
            line, files = str(error), error.files
        else:
            line = f"{type(error).__name__}: {error}"
            files = {"traceback.txt": traceback.format_exc().encode()}
        with _only_logged("files", run_id):
            tracking.log_files(store, run_id, iter(files.items()))
        with _only_logged("the end", run_id):
            tracking.finish(store, run_id, "FAILED")
        return CellResult(label, run_id, "failed", started, error=" ".join(line.split()))
    except BaseException:  # interrupted: not a failure of the cell
        with _only_logged("the end", run_id):
            tracking.finish(store, run_id, "KILLED")
        raise
    return CellResult(label, run_id, "trained", started, clock.busy)


@contextlib.contextmanager
def _only_logged(what: str, run_id: str) -> Iterator[None]:
    """An error in the block is logged, not raised: the store may be why the work went wrong, and people
    must be told the first reason."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, another is being told
        logger.warning("%s of run %s not written: %s", what, run_id, tracking.explain(error))


def _start(job: Job) -> str:
    tags = {
        **working_tags("cell", job.design.name, job.design.id),
        **job.tags(),
        "mm.cell": job.cell.id,
    }
    if job.sweep is not None:
        tags["mm.sweep"] = job.sweep
    params = job.params()
    run_id = tracking.create_run(job.store, job.cell.label, tags, job.run_id)
    tracking.log(job.store, run_id, params=params)
    return run_id


def working_tags(kind: str, design: str, design_id: str) -> dict[str, str]:
    """Tags of a run that works: what it is, and who works on it."""
    return {
        "mm.kind": kind,
        "mm.design": design,
        "mm.design_id": design_id,
        "mm.worker": tracking.worker_name(),
        "mm.heartbeat": str(tracking.now_ms()),
    }
