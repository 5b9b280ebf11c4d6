"""One run: load its model, measure what it lacks, log it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from typing import Any, Literal

import torch

from mm_mlflow import artifacts, loading, provenance, registry, tracking
from mm_mlflow.backfill.work import Job, RunResult, nothing_to_do, planned
from mm_mlflow.errors import InvalidInput, MultiplicityError, TrackingError
from mm_mlflow.evaluation import Evaluation, Task, evaluate, split_tasks

DELETED = "it was deleted meanwhile"


def evaluate_run(job: Job) -> RunResult:
    """Measure and log what one run lacks; whatever goes wrong is a result, not raised."""
    started = time.time()
    with registry.trusting(job.trusted):
        try:
            with tracking.reading_errors(job.store.uri):
                return _evaluate_run(job, started)
        except Exception as error:  # noqa: BLE001 - the others go on
            if _is_deleted(job):
                return RunResult(job.label, job.run_id, "impossible", started, error=DELETED)
            kind = "" if isinstance(error, MultiplicityError) else f"{type(error).__name__}: "
            line = " ".join(f"{kind}{error}".split())
            return RunResult(
                job.label,
                job.run_id,
                "failed",
                started,
                error=line,
                traceback=traceback.format_exc(),
            )


def _is_deleted(job: Job) -> bool:
    try:
        return tracking.read_run(job.store, job.run_id) is None
    except TrackingError:
        return False  # nobody knows: what went wrong first is what is told


def _evaluate_run(job: Job, started: float) -> RunResult:
    torch.set_num_threads(1)

    def ended(status: Literal["evaluated", "present", "impossible"], **more: Any) -> RunResult:
        return RunResult(job.label, job.run_id, status, started, **more)

    run = tracking.read_run(job.store, job.run_id)
    if run is None:
        return ended("impossible", error=DELETED)
    tasks = planned(job.measurement.model_dump_json())
    lacking = [task for task in tasks if task.key in job.keys and task.key not in run.metrics]
    if not lacking:
        return ended("present")
    for task in lacking:
        if task.split.digest != job.digests[task.split.name]:
            raise RuntimeError(
                f"this worker's split {task.split.name!r} has digest {task.split.digest[:12]}, "
                f"evaluate's {job.digests[task.split.name][:12]}: do they share the dataset's files?"
            )
    try:
        with loading.opened(job.store, job.run_id, job.stored, lacking, job.consent) as model:
            doable, unable = split_tasks(lacking, model)
            skipped = {**job.skipped, **unable}
            if not doable:
                return nothing_to_do(ended, run, tasks, skipped)
            # What torch.export made stays where it was made.
            on_cpu = job.stored is not None and job.stored.form != "pickle"
            device = "cpu" if on_cpu else provenance.default_device()
            clock = time.perf_counter()
            evaluation = evaluate(model, doable, device=device)
            busy = time.perf_counter() - clock
    except InvalidInput as error:
        return ended("impossible", error=str(error))
    if not _log(job, evaluation, doable):
        return ended("present", busy=busy)
    keys = tuple(evaluation.values)
    return ended("evaluated", busy=busy, metrics=keys, skipped=skipped)


def _log(job: Job, evaluation: Evaluation, tasks: Sequence[Task]) -> bool:
    """Write a pass; false if another ``evaluate`` has written all of it meanwhile."""
    tracking.add_files(
        job.store,
        job.run_id,
        artifacts.evaluation_folder(evaluation),
        artifacts.evaluation_files(evaluation, tasks, job.keep.logits),
    )
    run = tracking.read_run(job.store, job.run_id)
    there = run.metrics if run is not None else {}
    values = {key: value for key, value in evaluation.values.items() if key not in there}
    tracking.log(job.store, job.run_id, metrics=values)
    return bool(values)
