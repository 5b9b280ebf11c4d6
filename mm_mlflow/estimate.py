"""What a sweep would take: cells, disk, and time where finished cells tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mm_mlflow import models, sweeping
from mm_mlflow.design import Cell, Design
from mm_mlflow.frame import RawRun
from mm_mlflow.sweeping import Adoption

if TYPE_CHECKING:
    from mm_mlflow.runner import Material

_LOGIT_BYTES = {"float32": 4, "float16": 2, "none": 0}


@dataclass(frozen=True)
class Forecast:
    """What is left of a design.

    Attributes:
        todo: cells without a finished run.
        planned: number of planned cells.
        bytes: artifacts of the cells to do, before compression.
        seconds: wall time of the cells to do; None where no finished cell tells it.
        notes: as a sweep would print them.
    """

    todo: tuple[Cell, ...]
    planned: int
    bytes: int
    seconds: float | None
    notes: tuple[str, ...]

    def sentence(self) -> str:
        """One line for people."""
        time = (
            "time unknown: no cell is finished"
            if self.seconds is None
            else f"about {self.seconds:.0f} s"
        )
        return (
            f"{self.planned} cells planned, {len(self.todo)} to train; "
            f"about {self.bytes / 1e6:.1f} MB of artifacts; {time}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "planned": self.planned,
            "todo": [{"cell": cell.id, "name": cell.label} for cell in self.todo],
            "bytes": self.bytes,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def forecast(
    design: Design,
    material: Material,
    runs: Sequence[RawRun],
    jobs: int,
    adopted: Adoption | None = None,
) -> Forecast:
    """What a sweep of ``design`` with ``jobs`` workers would do, given the runs that are there.

    A cell takes what finished cells of its configuration took on average, or all finished cells
    where there is none of its configuration.
    """
    cells = design.cells()
    filled = adopted.runs if adopted else {}
    todo, notes = sweeping.remaining(cells, runs, material.digest, filled)
    sizes: dict[str, int] = {}
    for cell in todo:
        sizes.setdefault(cell.configuration, _cell_bytes(design, material, cell))
    by_id = {cell.id: cell.configuration for cell in cells}
    seconds: dict[str, list[float]] = {}
    for run in runs:
        configuration = by_id.get(run.tags.get("mm.cell", ""))
        if configuration and run.seconds and run.status == "FINISHED":
            seconds.setdefault(configuration, []).append(run.seconds)
    everything = [value for values in seconds.values() for value in values]
    busy = [_mean(seconds.get(cell.configuration, everything)) for cell in todo if everything]
    return Forecast(
        todo=tuple(todo),
        planned=len(cells),
        bytes=sum(sizes[cell.configuration] for cell in todo),
        seconds=sum(busy) / jobs if everything else None,
        notes=(*notes, *(adopted.notes if adopted else ()), *material.advice(design)),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell_bytes(design: Design, material: Material, cell: Cell) -> int:
    settings = cell.settings
    spec = models.specification(
        settings.architecture, settings.architecture_arguments, material.train
    )
    total = len(models.to_bytes(models.build(spec), spec)) if design.keep.weights == "all" else 0
    stored = [
        task for task in material.tasks
        if design.keep.logits != "float32" or task.stored
    ]  # fmt: skip
    for split in material.evaluated.values():
        total += len(split) * len(split.class_names) * _LOGIT_BYTES[design.keep.logits]
        total += 8 * len(split) * len(stored)
    return total
