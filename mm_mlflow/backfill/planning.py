"""What finished runs lack, and what cannot be done about it: known before anything is written."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from mm_mlflow import datasets, registry, tracking
from mm_mlflow.backfill.work import Job, RunResult, Work, nothing_to_do, planned
from mm_mlflow.design import DatasetSpec, Keep, canonical_json
from mm_mlflow.errors import InvalidInput, MultiplicityError, TrackingError
from mm_mlflow.evaluation import Task, metric_records, split_tasks
from mm_mlflow.frame import SCHEMA, RawRun, decisive
from mm_mlflow.request import Measurement, Request
from mm_mlflow.tracking import Consent, Store, StoredModel


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

    trusted = registry.trusted()  # here: the threads below have contexts of their own

    def judge(run: RawRun) -> Job | RunResult:
        found = by_run[run.run_id], stored.get(run.run_id)
        return _judge(store, run, *found, consent=consent, keep=keep, trusted=trusted)

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
    others = [run for run in runs if run.kind is None]
    cells = _by_data(store, [run for run in runs if run.kind is not None])
    groups: list[tuple[Measurement | str, Sequence[RawRun]]] = [
        (_of_cells(request, own, members), members) for own, members in cells
    ]
    if others:
        unknown = "its data are not known: --dataset says which to evaluate it on"
        of_others = request.of_others()
        if of_others is None and not cells:
            raise InvalidInput(f"{len(others)} runs of other programs: {unknown}")
        groups.append((of_others or unknown, others))
    found: dict[str, Measurement | str] = {}
    refused: list[InvalidInput] = []
    for measurement, members in groups:
        of = measurement
        try:
            if isinstance(measurement, Measurement):
                planned(measurement.model_dump_json())
        except InvalidInput as error:
            refused.append(error)
            of = str(error)
        found |= dict.fromkeys((run.run_id for run in members), of)
    if refused and not any(isinstance(of, Measurement) for of in found.values()):
        raise refused[0]
    return found


def _by_data(
    store: Store, cells: Sequence[RawRun]
) -> list[tuple[DatasetSpec | None, list[RawRun]]]:
    """Cells of one dataset and one set of training data together, with the dataset as the newest of them
    says it (files move), or None where no cell of the design does."""
    newest_first = sorted(cells, key=lambda run: run.start_time, reverse=True)
    by_design: dict[tuple[str | None, str | None], list[RawRun]] = {}
    for run in newest_first:
        key = run.tags.get("mm.dataset"), run.tags.get("mm.design_id")
        by_design.setdefault(key, []).append(run)
    found: dict[tuple[str | None, str], tuple[DatasetSpec | None, list[RawRun]]] = {}
    for (trained_on, _), members in by_design.items():
        own = _own_dataset(store, members)
        # Test data are no part of the digest: two datasets may share their training data.
        identity = canonical_json(own.identity()) if own is not None else ""
        found.setdefault((trained_on, identity), (own, []))[1].extend(members)
    return list(found.values())


def _own_dataset(store: Store, cells: Sequence[RawRun]) -> DatasetSpec | None:
    """The dataset of cells of one design, by the first ``cell.json`` that can be read."""
    for run in cells:
        try:
            document = json.loads(tracking.artifact(store, run.run_id, "cell.json"))
            return DatasetSpec(**document["dataset"], locations=document["locations"])
        except (TrackingError, ValueError, KeyError, TypeError):
            continue  # another cell of the design will do
    return None


def _of_cells(
    request: Request, own: DatasetSpec | None, cells: Sequence[RawRun]
) -> Measurement | str:
    """What to take of cells that were trained on one set of data; these must still be there."""
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


def _judge(
    store: Store,
    run: RawRun,
    of: Measurement | str,
    stored: StoredModel | str | None,
    *,
    consent: Consent,
    keep: Keep,
    trusted: str | None,
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
    tasks = planned(of.model_dump_json())
    lacking = [task for task in tasks if task.key not in run.metrics]
    present = [task for task in tasks if task.key in run.metrics]
    try:
        skipped = _otherwise_measured(store, run, present)
    except TrackingError as error:
        return settled("impossible", error=str(error))
    doable, unable = split_tasks(lacking, stored)
    skipped |= unable
    if not doable:
        return nothing_to_do(settled, run, tasks, skipped)
    if stored is not None and (reason := tracking.refusal(stored, consent)):
        return settled("impossible", error=reason)
    return Job(
        store=store,
        run_id=run.run_id,
        label=run.name,
        stored=stored,
        measurement=of,
        keys=tuple(task.key for task in doable),
        skipped=skipped,
        seconds=run.metrics.get("system/evaluate_seconds", float("inf")),
        keep=keep,
        consent=consent,
        digests={task.split.name: task.split.digest for task in doable},
        trusted=trusted,
    )


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
