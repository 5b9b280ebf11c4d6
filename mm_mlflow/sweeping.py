"""Run a design: planned minus finished, on the engine."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mm_mlflow import engine, tracking
from mm_mlflow.adoption import adoptable, document, filled, unchecked
from mm_mlflow.design import Cell, Design
from mm_mlflow.frame import Frame, RawRun, conform, is_finished
from mm_mlflow.jobs import CellResult, Material, run_cell, working_tags
from mm_mlflow.tracking import Store

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Adoption:
    """Cells of a design that runs of other programs fill.

    Attributes:
        runs: by cell id.
        document: what is to be stored of it; None where the sweep was told nothing.
        notes: what people should know before the sweep runs.
    """

    runs: Mapping[str, RawRun]
    document: Mapping[str, Any] | None
    notes: tuple[str, ...]


def adoption(
    design: Design, store: Store, material: Material, runs: Sequence[RawRun], adopt: bool | None
) -> Adoption:
    """Which runs of other programs count.

    Args:
        design: the plan.
        store: the experiment.
        material: what was prepared for the design.
        runs: all runs of the experiment.
        adopt: True counts every FINISHED run whose params name a cell (of several, the latest), False
            none, None those that an earlier sweep was told to count.
    """
    earlier = tracking.adopted_runs(store, runs) if adopt is not False else {}
    if not earlier and adopt is not True:
        return Adoption({}, None if adopt is None else {"schema": 1, "adopted": {}}, ())

    def frame_with(chosen: Mapping[str, str]) -> Frame:
        return conform(runs, design, store.experiment, material.digest, chosen)

    frame = frame_with(earlier)
    if adopt:
        found = {cell: run.run_id for cell, run in adoptable(frame).items()}
        frame = frame_with({**earlier, **found})
    by_id = {run.run_id: run for run in runs}
    taken = {cell: by_id[run_id] for cell, run_id in frame.adopted.items()}
    if not adopt:
        text = f"{filled(len(taken))}, as an earlier sweep adopted them"
        return Adoption(taken, None, (text,) if taken else ())
    nothing = (
        "nothing to adopt: no FINISHED run of another program names a cell that has no run yet"
    )
    return Adoption(
        taken,
        document(design, taken, material.metrics, earlier),
        unchecked(design, taken, material.metrics) or (nothing,),
    )


def run_design(
    design: Design,
    store: Store,
    material: Material,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    smoke: bool = False,
    adopt: bool | None = None,
    on_start: Callable[[Sequence[Cell], int, Sequence[str]], None] = lambda *_: None,
    on_result: Callable[[CellResult], None] = lambda _: None,
) -> SweepResult:
    """Do every planned cell of a bound design that has no FINISHED run in the experiment.

    ``material`` is what was prepared for the design; for ``adopt`` see :func:`adoption`.
    ``on_start`` is told the cells to do, how many are planned, and notes; ``on_result`` each result.
    The sweep run is written first: it holds the design, and logs the dataset inputs before workers
    do (two workers that log one new dataset at once race: seen).
    """
    from mm_mlflow import sampling  # the driver alone needs Optuna

    cells = sampling.enumerate_cells(design)
    runs = tracking.read_runs(store)
    adopted = adoption(design, store, material, runs, adopt)
    todo, notes = remaining(cells, runs, material.digest, adopted.runs)
    notes += [*adopted.notes, *material.advice(design)]
    killed = _kill_abandoned(store, runs, {cell.id for cell in cells})
    results: list[CellResult] = []
    status = "KILLED"
    run_id = _start_sweep(design, store, material, smoke=smoke)
    try:
        # The design first: it is the plan that readers go by.
        tracking.log_files(store, run_id, iter([("design.yaml", design.dump().encode())]))
        if adopted.document is not None:
            content = json.dumps(adopted.document, indent=1).encode()
            tracking.log_files(store, run_id, iter([("adopted.json", content)]))
            tracking.log(store, run_id, tags={tracking.ADOPTED: str(bool(adopt)).lower()})
        material.begin(store, run_id, design)
        tracking.refresh_page(store, design, material.metrics)
        tracking.mark_launcher(store, run_id)
        on_start(todo, len(cells), notes)
        with tracking.heartbeat(store, run_id):
            for result in _work_off(design, store, run_id, material, todo, jobs, scheduler):
                results.append(result)
                on_result(result)
        status = "FAILED" if any(result.status == "failed" for result in results) else "FINISHED"
    finally:
        _end_sweep(store, run_id, status, len(cells), results, scheduler)
    return SweepResult(store, run_id, len(cells), tuple(results), killed, tuple(notes))


def _end_sweep(
    store: Store,
    run_id: str,
    status: str,
    planned: int,
    results: Sequence[CellResult],
    scheduler: str | None,
) -> None:
    try:
        left = tracking.running_cells(store, run_id)
        if status == "KILLED" and scheduler is not None and left:
            # A cluster ends what it has begun, whoever asked for it: these become FINISHED.
            logger.warning("cells that scheduler %s still works on: %d", scheduler, len(left))
            left = []
        for run in left:
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
    cost = material.costs(todo)
    todo = sorted(todo, key=lambda cell: cost[cell.configuration], reverse=True)
    items = [(f"{cell.id}-{run_id}", material.job(store, design, cell, run_id)) for cell in todo]
    labels = {key: job.cell.label for key, job in items}
    with engine.workers(jobs, scheduler, material.preload) as client:
        for key, result in engine.run(client, run_cell, items, hold_back=scheduler is None):
            yield _lost(labels[key], result) if isinstance(result, BaseException) else result


def remaining(
    cells: Sequence[Cell],
    runs: Sequence[RawRun],
    dataset: str | None,
    adopted: Collection[str] = (),
) -> tuple[list[Cell], list[str]]:
    """The cells that no FINISHED run has and no adopted one fills, and a note for cells finished on
    other data."""
    done = {run.tags.get("mm.cell") for run in runs if is_finished(run, dataset)} | set(adopted)
    todo = [cell for cell in cells if cell.id not in done]
    ids = {cell.id for cell in todo}
    other = [run for run in runs if run.tags.get("mm.cell") in ids and is_finished(run, None)]
    notes = []
    if other and dataset is not None:
        digests = sorted({run.tags.get("mm.dataset", "none")[:12] for run in other})
        notes.append(
            f"{len({run.tags['mm.cell'] for run in other})} cells have runs on other training data "
            f"(digest {', '.join(digests)}; now {dataset[:12]}): they are trained again"
        )
    return todo, notes


def _kill_abandoned(store: Store, runs: Sequence[RawRun], planned: set[str]) -> int:
    number = 0
    for run in runs:
        ours = run.kind in {"sweep", "reproduction"} or run.tags.get("mm.cell") in planned
        if ours and (reason := tracking.abandoned(run)):
            tracking.kill(store, run, reason)
            number += 1
    return number


def _start_sweep(design: Design, store: Store, material: Material, *, smoke: bool) -> str:
    tags = {**working_tags("sweep", design.name, design.id), **material.tags()}
    if smoke:
        tags["mm.smoke"] = "true"
    name = f"sweep {design.name}" + (" (smoke)" if smoke else "")
    return tracking.create_run(store, name, tags, tracking.project_run(store))


def _lost(label: str, error: BaseException) -> CellResult:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return CellResult(label, None, "failed", time.time(), error=line)
