"""Which runs of an experiment are cells, and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import RawRun
from mm_mlflow.inference.asked import Asked

_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Chosen:
    """Runs that are cells.

    Attributes:
        runs: FINISHED, with metrics, in the order in which they started.
        failed: FAILED, of the same depth.
        notes: what was left out, counted.
    """

    runs: tuple[RawRun, ...]
    failed: tuple[RawRun, ...]
    notes: tuple[str, ...]


def choose(runs: Sequence[RawRun], asked: Asked) -> Chosen:
    """The runs that are cells: FINISHED, with metrics, at the depth of nesting that holds the most
    configurations (a search's trials are nested in one run; the folds of a cross-validation are nested
    in what is to be compared).

    Raises:
        InvalidInput: fewer than two are left.
    """
    # What this program itself keeps beside its cells: sweeps, reports, launchers, reproductions.
    ours = [run for run in runs if run.kind not in {None, "cell"}]
    others = sorted(
        (run for run in runs if run.kind in {None, "cell"}),
        key=lambda run: (run.start_time, run.run_id),
    )
    depths = _depths(others)
    finished = [run for run in others if run.status == "FINISHED" and run.metrics]
    depth = _depth(finished, depths, asked)
    chosen = tuple(run for run in finished if depths[run.run_id] == depth)
    failed = tuple(r for r in others if r.status == "FAILED" and depths[r.run_id] == depth)
    left = Counter(
        "finished without a metric" if run.status == "FINISHED" else run.status.lower()
        for run in others
        if not (run.status == "FINISHED" and run.metrics)
    )
    other_depth = len(finished) - len(chosen)
    parts = [f"{number} {word}" for word, number in sorted(left.items())]
    if other_depth:
        kind = "nested" if depth == 0 else "top-level or parent"
        parts.append(f"{other_depth} {kind}")
    if len(chosen) < 2:
        own = [f"{len(ours)} of this program itself (sweeps, reports)"] if ours else []
        details = f"; not counted: {', '.join(parts + own)}" if parts or own else ""
        raise InvalidInput(
            f"{len(chosen)} finished runs with metrics: a sheet needs at least 2{details}"
        )
    notes = [f"Runs left out: {', '.join(parts)}."] if parts else []
    return Chosen(chosen, failed, tuple(notes))


def _depths(runs: Sequence[RawRun]) -> dict[str, int]:
    """How deep each run is nested; a parent that is not there (deleted, say) counts as none."""
    parents = {run.run_id: run.tags.get(_PARENT) for run in runs}
    depths: dict[str, int] = {}
    for run_id, above_it in parents.items():
        path = [run_id]
        parent = above_it
        # A tag is a stranger's text: it may name a run of its own descent.
        while parent in parents and parent not in depths and parent not in path:
            path.append(parent)
            parent = parents[parent]
        above = depths[parent] + 1 if parent in depths else 0
        for i, found in enumerate(reversed(path)):
            depths[found] = above + i
    return depths


def _depth(finished: Sequence[RawRun], depths: Mapping[str, int], asked: Asked) -> int:
    settings: dict[int, set[frozenset[tuple[str, str]]]] = {}
    for run in finished:
        settings.setdefault(depths[run.run_id], set()).add(frozenset(run.params.items()))
    allowed = {
        depth: len(found)
        for depth, found in settings.items()
        if asked.level is None or (asked.level == "top") == (depth == 0)
    }
    return max(
        allowed,
        key=lambda depth: (allowed[depth], -depth),
        default=-1 if asked.level == "nested" else 0,
    )
