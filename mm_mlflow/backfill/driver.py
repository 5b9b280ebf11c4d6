"""All runs: workers measure them, and a run of kind ``evaluation`` holds what was asked and came out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import yaml

from mm_mlflow import artifacts, datasets, engine, provenance, tracking
from mm_mlflow.backfill.work import Outcome, RunResult, Work, is_good, planned
from mm_mlflow.backfill.worker import evaluate_run

PRELOAD = ("mm_mlflow.backfill",)


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
    results = list(work.settled)
    status = "KILLED"
    with tracking.reading_errors(store.uri):
        for run, reason in work.abandoned:
            tracking.kill(store, run, reason)
        run_id = _start(work)
        try:
            _store(work, run_id)
            tracking.mark_launcher(store, run_id)
            on_start(work)
            with tracking.heartbeat(store, run_id):
                for result in _work_off(work, run_id, jobs, scheduler):
                    results.append(result)
                    on_result(result)
            status = "FINISHED" if is_good(results) else "FAILED"
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
        used = artifacts.evaluated(planned(measurement.model_dump_json()))
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
