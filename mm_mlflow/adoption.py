"""Adopting runs of other programs: which run is to stand for a planned cell, and what is taken on trust.

A sweep adopts when it is told to (``--adopt-foreign``) and stores what it adopted with its own run:
nothing is written to runs of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mm_mlflow.design import Design
from mm_mlflow.foreign import settings
from mm_mlflow.frame import Frame, RawRun


def adoptable(frame: Frame) -> dict[str, RawRun]:
    """By cell id, the run of another program that may stand for the cell: of those that are FINISHED,
    the latest."""
    found: dict[str, RawRun] = {}
    for run in sorted(
        frame.foreign, key=lambda run: (run.end_time or 0, run.start_time, run.run_id)
    ):
        if run.status == "FINISHED":
            found[frame.named[run.run_id]] = run
    return found


def unchecked(
    design: Design, adopted: Mapping[str, RawRun], metrics: Sequence[str]
) -> tuple[str, ...]:
    """Sentences about what nobody can check of runs that stand for cells, by cell id.

    ``metrics`` are the keys that a cell of the design has.
    """
    cells = {cell.id: cell for cell in design.cells()}
    pairs = [(cells[cell], run) for cell, run in adopted.items() if cell in cells]
    if not pairs:
        return ()
    silent = Counter(
        f"{name} {value}"
        for cell, run in pairs
        for name, value in settings(cell, design).items()
        if name not in run.params
    )
    lacking = Counter(key for _, run in pairs for key in metrics if key not in run.metrics)
    if design.project is not None:
        what = f"whether project {design.project.name!r} made it, and at which commit"
    else:
        what = f"whether its data were {design.dataset.name if design.dataset else 'none'!r}"
    sentences = [f"{filled(len(pairs))}, on trust: nothing says of such a run {what}"]
    if silent:
        sentences.append(
            f"adopted runs do not say (in how many): {_counted(silent)}; a sweep would use these values"
        )
    if lacking:
        sentences.append(f"adopted runs lack metrics (how many do): {_counted(lacking)}")
    return tuple(sentences)


def document(
    design: Design,
    adopted: Mapping[str, RawRun],
    metrics: Sequence[str],
    earlier: Mapping[str, str],
) -> dict[str, Any]:
    """The content of ``adopted.json``; ``earlier`` is what sweeps before this one have adopted, which
    holds on for cells that are not adopted anew."""
    labels = {cell.id: cell.label for cell in design.cells()}
    return {
        "schema": 1,
        "adopted": {**earlier, **{cell: run.run_id for cell, run in adopted.items()}},
        "cells": [
            {
                "cell": cell,
                "name": labels.get(cell),
                "run_id": run.run_id,
                "params": dict(run.params),
                "lacks": [key for key in metrics if key not in run.metrics],
            }
            for cell, run in adopted.items()
        ],
        "unchecked": list(unchecked(design, adopted, metrics)),
    }


def filled(number: int) -> str:
    """The beginning of a sentence about adopted runs."""
    cells = "1 cell is" if number == 1 else f"{number} cells are"
    return f"{cells} filled by runs of other programs"


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{text} ({number})" for text, number in found.items())
