"""Back-fill: interventions that finished runs lack, measured on their models without training again.

``prepare`` finds out, and writes nothing, what each run lacks and what cannot be done; ``run`` has
workers do the rest. Each run gets its artifacts first and then its metrics in one batch: a run that has
the metrics is done, and nothing that is there is written again.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
import yaml

from mm_mlflow import artifacts, datasets, engine, loading, provenance, registry, tracking
from mm_mlflow.design import DatasetSpec, Keep
from mm_mlflow.errors import InvalidInput, MultiplicityError, TrackingError
from mm_mlflow.evaluation import Evaluation, Task, evaluate, metric_records, split_tasks
from mm_mlflow.frame import SCHEMA, RawRun, decisive
from mm_mlflow.request import Measurement, Request
from mm_mlflow.tracking import Consent, Store, StoredModel

PRELOAD = ("mm_mlflow.backfill",)
DELETED = "it was deleted meanwhile"


@dataclass(frozen=True)
class Job:
    """One run to be measured; small, because it travels to a worker.

    Attributes:
        label: what people call the run.
        stored: the model that another program logged; None for a cell of ours.
        keys: the metrics that it lacks.
        seconds: what evaluating it took before, where that is known.
        trusted: the folder whose modules names may be import paths of, or None (``--trust-code``).
    """

    store: Store
    run_id: str
    label: str
    stored: StoredModel | None
    measurement: Measurement
    keys: tuple[str, ...]
    seconds: float
    keep: Keep
    consent: Consent
    trusted: str | None


@dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Attributes:
        status: ``evaluated``, ``present`` (nothing was missing that its model can give),
            ``impossible`` or ``failed``.
        started: seconds since 1970; ``busy`` are the seconds of evaluation itself.
        error: one line: why it is impossible, or what failed.
        metrics: the keys that were logged.
        skipped: by metric key, why it was not taken from this run.
        traceback: of what failed.
    """

    label: str
    run_id: str
    status: Literal["evaluated", "present", "impossible", "failed"]
    started: float
    busy: float = 0.0
    error: str | None = None
    metrics: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    traceback: str | None = None


@dataclass(frozen=True)
class Work:
    """What an ``evaluate`` call is to do.

    Attributes:
        jobs: the runs that lack metrics which their models can give.
        settled: runs of which it is known already that there is nothing to do.
        measurements: what is taken, on which data; one for each kind of run.
        left_out: how many runs were not looked at because of their status, by status.
        abandoned: earlier evaluations whose process is gone, with the reason.
    """

    store: Store
    request: Request
    jobs: tuple[Job, ...]
    settled: tuple[RunResult, ...]
    measurements: tuple[Measurement, ...]
    left_out: Mapping[str, int]
    abandoned: tuple[tuple[RawRun, str], ...]


@dataclass(frozen=True)
class Outcome:
    """What an ``evaluate`` call did."""

    work: Work
    run_id: str
    results: tuple[RunResult, ...]

    def of(self, status: str) -> list[RunResult]:
        """The runs that ended so."""
        return [result for result in self.results if result.status == status]

    @property
    def good(self) -> bool:
        """Whether nothing failed, and some run has what was asked for."""
        return _good(self.results)


def _good(results: Sequence[RunResult]) -> bool:
    found = {result.status for result in results}
    return "failed" not in found and bool(found & {"evaluated", "present"})


# ---- planning ----


def prepare(
    store: Store,
    request: Request,
    *,
    only: Sequence[str] = (),
    model: str | None = None,
    consent: Consent,
    keep: Keep,
) -> Work:
    """What is missing from the FINISHED runs of an experiment: cells of ours, and runs of other programs.

    Args:
        store: the experiment.
        request: what is wanted, bound.
        only: ids of the runs to look at; none is all.
        model: which of a run's models to take, where it has several.
        consent: what loading a model may run.
        keep: which logits to store.

    Raises:
        InvalidInput: an intervention, dataset or label map that is not allowed, an unknown run, or an
            experiment without any run to measure.
    """
    everything = tracking.read_runs(store)
    candidates = [run for run in everything if run.kind in {"cell", None}]
    if missing := set(only) - {run.run_id for run in candidates}:
        raise InvalidInput(
            f"run {min(missing)!r} is no training run of experiment {store.experiment.name!r}"
        )
    chosen = [run for run in candidates if not only or run.run_id in only]
    finished = [run for run in chosen if run.status == "FINISHED"]
    if not finished:
        raise InvalidInput(
            f"experiment {store.experiment.name!r} has no FINISHED run to evaluate "
            f"({len(chosen)} runs)"
        )
    if request.dataset is not None:
        datasets.open_splits(request.dataset)
    by_run = _measurements(store, request, finished)
    others = [
        run.run_id
        for run in finished
        if run.kind is None and not isinstance(by_run[run.run_id], str)
    ]
    stored: Mapping[str, StoredModel | str] = (
        tracking.find_models(store, others, model) if others else {}
    )

    def judge(run: RawRun) -> Job | RunResult:
        return _judge(store, run, by_run[run.run_id], stored.get(run.run_id), consent, keep)

    with ThreadPoolExecutor(max_workers=8) as pool:
        judged = list(pool.map(judge, finished))
    used = [item for item in by_run.values() if isinstance(item, Measurement)]
    killed = ((run, tracking.abandoned(run)) for run in everything if run.kind == "evaluation")
    return Work(
        store=store,
        request=request,
        # Long ones first, so that no worker ends alone with one; what is not known may be long.
        jobs=tuple(
            sorted((j for j in judged if isinstance(j, Job)), key=lambda j: j.seconds, reverse=True)
        ),
        settled=tuple(item for item in judged if isinstance(item, RunResult)),
        measurements=tuple({item.model_dump_json(): item for item in used}.values()),
        left_out=Counter(run.status for run in chosen if run.status != "FINISHED"),
        abandoned=tuple((run, reason) for run, reason in killed if reason),
    )


def _measurements(
    store: Store, request: Request, runs: Sequence[RawRun]
) -> dict[str, Measurement | str]:
    """By run id, what to take of it, or why nothing can be.

    Raises:
        InvalidInput: what is asked for can be taken of no run at all.
    """
    groups: dict[str, list[RawRun]] = {}
    for run in runs:
        group = "other" if run.kind is None else f"cell {run.tags.get('mm.dataset')}"
        groups.setdefault(group, []).append(run)
    found: dict[str, Measurement | str] = {}
    refused: list[InvalidInput] = []
    for group, members in groups.items():
        of: Measurement | str | None
        of = request.of_others() if group == "other" else _of_cells(store, request, members)
        if of is None:
            of = "its data are not known: --dataset says which to evaluate it on"
            if len(groups) == 1:
                raise InvalidInput(f"{len(members)} runs of other programs: {of}")
        try:
            if isinstance(of, Measurement):
                _tasks(of.model_dump_json())
        except InvalidInput as error:
            refused.append(error)
            of = str(error)
        found |= dict.fromkeys((run.run_id for run in members), of)
    if refused and not any(isinstance(of, Measurement) for of in found.values()):
        raise refused[0]
    return found


def _of_cells(store: Store, request: Request, cells: Sequence[RawRun]) -> Measurement | str:
    """What to take of cells that were trained on one set of data; these must still be there."""
    own = None
    for run in sorted(cells, key=lambda run: run.start_time, reverse=True):
        try:
            document = json.loads(tracking.artifact(store, run.run_id, "cell.json"))
            own = DatasetSpec(**document["dataset"], locations=document["locations"])
            break
        except (TrackingError, ValueError, KeyError, TypeError):
            continue  # another cell of the same data will do
    if own is None:
        return "its cell.json cannot be read: are its artifacts where this machine can read them?"
    measurement = request.of_cells(own)
    try:
        train = datasets.open_splits(measurement.dataset)["train"]
    except (MultiplicityError, KeyError) as error:
        return f"its data cannot be read: {error}"
    trained_on = cells[0].tags.get("mm.dataset", "none")
    if train.digest != trained_on:
        return (
            f"its training data are not those that are here now "
            f"(digest {trained_on[:12]}; here {train.digest[:12]})"
        )
    return measurement


@lru_cache(maxsize=8)
def _tasks(measurement_json: str) -> tuple[Task, ...]:
    """Planned once per process: a worker takes many runs of one measurement."""
    return Measurement.model_validate_json(measurement_json).tasks(datasets.open_splits)


def _judge(
    store: Store,
    run: RawRun,
    of: Measurement | str,
    stored: StoredModel | str | None,
    consent: Consent,
    keep: Keep,
) -> Job | RunResult:
    """A run's job, or why there is none."""
    began = time.time()

    def settled(status: Literal["present", "impossible"], **more: Any) -> RunResult:
        return RunResult(run.name, run.run_id, status, began, **more)

    if isinstance(of, str):
        return settled("impossible", error=of)
    if isinstance(stored, str):
        return settled("impossible", error=stored)
    if run.kind == "cell" and run.tags.get("mm.schema") != SCHEMA:
        return settled(
            "impossible", error=f"schema {run.tags.get('mm.schema')!r} is not {SCHEMA!r}"
        )
    tasks = _tasks(of.model_dump_json())
    lacking = [task for task in tasks if task.key not in run.metrics]
    present = [task for task in tasks if task.key in run.metrics]
    try:
        skipped = _otherwise_measured(store, run, present)
    except TrackingError as error:
        return settled("impossible", error=str(error))
    doable, unable = split_tasks(lacking, stored)
    skipped |= unable
    if not doable:
        return _nothing_to_do(settled, run, tasks, skipped)
    if stored is not None and (reason := tracking.refusal(stored, consent)):
        return settled("impossible", error=reason)
    return Job(
        store=store,
        run_id=run.run_id,
        label=run.name,
        stored=stored,
        measurement=of,
        keys=tuple(task.key for task in lacking),
        seconds=run.metrics.get("system/evaluate_seconds", float("inf")),
        keep=keep,
        consent=consent,
        trusted=registry.trusted(),
    )


def _nothing_to_do(
    settled: Callable[..., RunResult],
    run: RawRun,
    tasks: Sequence[Task],
    skipped: Mapping[str, str],
) -> RunResult:
    """``present`` if the run has some of the metrics, else ``impossible`` for the reasons skipped."""
    if any(task.key in run.metrics for task in tasks):
        return settled("present", skipped=skipped)
    reasons = "; ".join(dict.fromkeys(skipped.values()))
    return settled("impossible", error=f"none of the interventions: {reasons}", skipped=skipped)


def _otherwise_measured(store: Store, run: RawRun, present: Sequence[Task]) -> dict[str, str]:
    """By key, of metrics that are there: why they are not what is asked for."""
    if not present:
        return {}
    records = tracking.with_own_records(store, run).records
    wanted = metric_records(present)
    found = {}
    for key, record in wanted.items():
        if key not in records:
            found[key] = "its own program logged it"
        elif decisive(records[key]) != decisive(record):
            found[key] = "it is there, measured with other parameters or on other data"
    return found


# ---- one run ----


def evaluate_run(job: Job) -> RunResult:
    """Measure and log what one run lacks; whatever goes wrong is a result, not raised."""
    started = time.time()
    with registry.trusting(job.trusted):
        try:
            return _evaluate_run(job, started)
        except Exception as error:  # noqa: BLE001 - the others go on
            if tracking.read_run(job.store, job.run_id) is None:
                return RunResult(job.label, job.run_id, "impossible", started, error=DELETED)
            line = " ".join(f"{type(error).__name__}: {error}".split())
            return RunResult(
                job.label,
                job.run_id,
                "failed",
                started,
                error=line,
                traceback=traceback.format_exc(),
            )


def _evaluate_run(job: Job, started: float) -> RunResult:
    torch.set_num_threads(1)

    def ended(status: Literal["evaluated", "present", "impossible"], **more: Any) -> RunResult:
        return RunResult(job.label, job.run_id, status, started, **more)

    run = tracking.read_run(job.store, job.run_id)
    if run is None:
        return ended("impossible", error=DELETED)
    tasks = _tasks(job.measurement.model_dump_json())
    lacking = [task for task in tasks if task.key in job.keys and task.key not in run.metrics]
    if not lacking:
        return ended("present")
    try:
        with loading.opened(job.store, job.run_id, job.stored, lacking, job.consent) as model:
            doable, skipped = split_tasks(lacking, model)
            if not doable:
                return _nothing_to_do(ended, run, tasks, skipped)
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


# ---- all runs ----


def run(
    work: Work,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    on_start: Callable[[Work], None] = lambda _: None,
    on_result: Callable[[RunResult], None] = lambda _: None,
) -> Outcome:
    """Do what ``work`` says, and keep it as a run of kind ``evaluation``, which is written first.

    ``on_start`` is told the work, ``on_result`` each result of a job.
    """
    store = work.store
    for run, reason in work.abandoned:
        tracking.kill(store, run, reason)
    results = list(work.settled)
    status = "KILLED"
    run_id = _start(work)
    try:
        _store(work, run_id)
        tracking.mark_launcher(store, run_id)
        on_start(work)
        with tracking.heartbeat(store, run_id):
            for result in _work_off(work, run_id, jobs, scheduler):
                results.append(result)
                on_result(result)
        status = "FINISHED" if _good(results) else "FAILED"
    finally:
        _end(work, run_id, status, results)
    return Outcome(work, run_id, tuple(results))


def _start(work: Work) -> str:
    tags = {
        "mm.kind": "evaluation",
        "mm.worker": tracking.worker_name(),
        "mm.heartbeat": str(tracking.now_ms()),
        "mm.env": provenance.environment(),
    }
    names = dict.fromkeys(spec.name for spec in work.request.interventions)
    name = f"evaluate {', '.join(names)}"[:200]
    return tracking.create_run(work.store, name, tags, tracking.project_run(work.store))


def _store(work: Work, run_id: str) -> None:
    listed = [
        {
            "run_id": job.run_id,
            "name": job.label,
            "kind": "cell" if job.stored is None else "other",
            "model": job.stored.uri if job.stored else None,
            "metrics": list(job.keys),
        }
        for job in work.jobs
    ]
    asked = yaml.safe_dump(
        work.request.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
    )
    files = [
        # First: by it, readers know which runs of other programs carry metrics of ours.
        (tracking.EVALUATED, json.dumps({"schema": 1, "runs": listed}, indent=1).encode()),
        ("evaluation.yaml", asked.encode()),
    ]
    for number, measurement in enumerate(work.measurements):
        used = artifacts.evaluated(_tasks(measurement.model_dump_json()))
        own = datasets.open_splits(measurement.dataset)
        provenance.log_inputs(work.store, run_id, measurement.dataset.name, own, used)
        name = f"examples{f'-{number + 1}' if number else ''}.parquet"
        files.append((name, artifacts.examples(used)))
    tracking.log_files(work.store, run_id, iter(files))


def _work_off(
    work: Work, run_id: str, jobs: int | None, scheduler: str | None
) -> Iterator[RunResult]:
    """The results of the jobs as they come; no workers are started for nothing."""
    if not work.jobs:
        return
    items = [(f"{job.run_id}-{run_id}", job) for job in work.jobs]
    by_key = dict(items)
    with engine.workers(jobs, scheduler, PRELOAD) as client:
        for key, result in engine.run(client, evaluate_run, items, hold_back=scheduler is None):
            if isinstance(result, BaseException):
                line = " ".join(f"{type(result).__name__}: {result}".split())
                job = by_key[key]
                yield RunResult(job.label, job.run_id, "failed", time.time(), error=line)
            else:
                yield result


def _end(work: Work, run_id: str, status: str, results: Sequence[RunResult]) -> None:
    store = work.store
    try:
        count = Counter(result.status for result in results)
        metrics = {f"runs/{word}": float(count[word])
                   for word in ("evaluated", "present", "impossible", "failed")}  # fmt: skip
        metrics["runs/planned"] = float(len(work.jobs) + len(work.settled))
        metrics["system/evaluate_seconds"] = sum(result.busy for result in results)
        tracking.log(store, run_id, metrics=metrics)
        document = json.dumps({"schema": 1, "runs": [vars(result) for result in results]}, indent=1)
        tracking.log_files(store, run_id, iter([("results.json", document.encode())]))
    finally:
        tracking.finish(store, run_id, status)
