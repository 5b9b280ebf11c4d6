"""Optuna's GridSampler as the enumerator of cells: one study in memory per table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import optuna

from mm_mlflow.design import Cell, Design, Scalar


def enumerate_cells(design: Design) -> list[Cell]:
    """Every planned cell once, as GridSampler visits the grids of the design.

    A star has one study per axis (its levels by the seeds, the others at default) and shares the
    default row among them; a factorial has one study over everything.

    Raises:
        AssertionError: the grids do not cover exactly the planned set.
    """
    cells: dict[str, Cell] = {}
    for space in _search_spaces(design):
        for point in _visit(space):
            seed = point.pop("seed")
            assert type(seed) is int
            cell = design.cell(point, seed)
            cells.setdefault(cell.id, cell)
    planned = {cell.id for cell in design.cells()}
    assert cells.keys() == planned, f"grid {len(cells)} cells, plan {len(planned)}"
    return list(cells.values())


def _search_spaces(design: Design) -> Iterable[Mapping[str, Sequence[Scalar]]]:
    seeds = list(design.seeds)
    if design.layout == "star":
        for axis in design.axes:
            yield {axis.name: list(axis.names), "seed": seeds}
    else:
        yield {**{axis.name: list(axis.names) for axis in design.axes}, "seed": seeds}


def _visit(space: Mapping[str, Sequence[Scalar]]) -> Iterable[dict[str, Scalar]]:
    found: list[dict[str, Scalar]] = []

    def objective(trial: optuna.Trial) -> float:
        found.append({name: _plain(trial.suggest_categorical(name, space[name])) for name in space})
        return 0.0

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(
        optuna.logging.WARNING
    )  # it tells of every study and trial otherwise
    try:
        # MLflow is the memory of what is done; this study only enumerates.
        sampler = optuna.samplers.GridSampler(dict(space), seed=0)
        optuna.create_study(sampler=sampler).optimize(objective)
    finally:
        optuna.logging.set_verbosity(level)
    return found


def _plain(value: Scalar | None) -> Scalar:
    assert value is not None  # a level is never None
    return value
