"""Runs of other programs as cells of a design: which cell their params name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mm_mlflow.design import Axis, Cell, Design, Level, Scalar, normalise
from mm_mlflow.errors import InvalidInput


def spelled(value: Any) -> str:
    """One spelling for each value: 1, 1.0 and "1" are one, as are True and "true"."""
    try:
        text = str(normalise(value))
    except InvalidInput:  # a list, say: settings may be that
        return str(value)
    return text.lower() if text.lower() in {"true", "false"} else text


def cell_named_by(params: Mapping[str, str], design: Design) -> Cell | None:
    """The cell whose levels and seed these params name, if nothing else among them says otherwise.

    Every axis must be there, under its own name, or (a bundle of a project's design) by all the
    parameters that the level sets. A param that is called like a training setting or a fixed parameter
    of the design, and has another value, is a contradiction: such a run is no run of the cell.
    """
    seed = _seed(params, design)
    if seed is None:
        return None
    levels: dict[str, Scalar] = {}
    for axis in design.axes:
        level = _level(params, axis)
        if level is None:
            return None
        levels[axis.name] = level.name
    try:
        cell = design.cell(levels, seed)
    except InvalidInput:  # levels that do not go together
        return None
    said = {name: value for name, value in settings(cell, design).items() if name in params}
    if any(spelled(params[name]) != spelled(value) for name, value in said.items()):
        return None
    return cell


def _seed(params: Mapping[str, str], design: Design) -> int | None:
    names = ["seed"] if design.project is None else [design.project.seed_parameter, "seed"]
    for name in names:
        if name in params:
            seed = normalise(params[name])
            return seed if type(seed) is int else None
    return None


def _level(params: Mapping[str, str], axis: Axis) -> Level | None:
    named = spelled(params[axis.name]) if axis.name in params else None
    for level in axis.levels:
        if named is not None and named == spelled(level.name):
            return level
        if level.parameters and all(
            name in params and spelled(params[name]) == spelled(value)
            for name, value in level.parameters.items()
        ):
            return level
    return None


def settings(cell: Cell, design: Design) -> dict[str, Any]:
    """What a cell is made with beside its levels and its seed: training settings, or parameters of a
    project's entry point."""
    axes = {axis.name for axis in design.axes}
    found = cell.settings.identity() if cell.project is None else cell.project.parameters
    return {name: value for name, value in found.items() if name not in axes}
