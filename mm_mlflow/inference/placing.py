"""Every run in its cell: a configuration, and a column that is its seed or its number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mm_mlflow.design import Scalar
from mm_mlflow.frame import RawRun
from mm_mlflow.inference.asked import Asked
from mm_mlflow.inference.axes import Roles
from mm_mlflow.inference.columns import Column, column, order, text_of, typed
from mm_mlflow.inference.grid import Grid, cell_id, numbered

REPEAT = re.compile(r" #\d+$")  # of a column: one seed of a configuration once more
REPLICATE = "replicate"


@dataclass(frozen=True, eq=False)
class Placed:
    """Runs in their cells.

    Attributes:
        runs: finished ones first, in order of their start; ``finished`` of them.
        cell: per run, its cell; ``column_word`` says what the columns are, and ``seeded`` whether that
            is a seed (a param may be called ``replicate``).
        by_cell: finished runs of every cell, the one that counts first; failed ones.
    """

    runs: Sequence[RawRun]
    finished: int
    grid: Grid
    cell: Sequence[str | None]
    column_word: str
    seeded: bool
    by_cell: Mapping[str, Sequence[RawRun]]
    failed: Mapping[str, Sequence[RawRun]]
    notes: tuple[str, ...]


def comparable(failed: Sequence[RawRun], role: Roles) -> list[RawRun]:
    """Failed runs that tell which cell they were to fill: only with every axis and a seed that others
    have too (a new one would be a column of holes that nobody planned)."""
    if role.seed is None:
        return []
    seeds = set(map(str, role.seed.levels))
    names = [item.name for item in [*role.axes, *role.held, role.seed] if item.is_set.all()]
    told = [run for run in failed if all(text_of(run, name) is not None for name in names)]
    return [run for run in told if str(typed(text_of(run, role.seed.name) or "")) in seeds]


def extended(role: Roles, members: Sequence[RawRun]) -> Roles:
    """The same roles over more runs: levels of which every run failed are levels too."""

    def again(item: Column) -> Column:
        return column(item.name, [text_of(run, item.name) for run in members])

    axes = tuple(again(item) for item in role.axes)
    applies = {item.name: item.is_set for item in axes if item.name in role.applies}
    seed = None if role.seed is None else again(role.seed)
    held = tuple(again(item) for item in role.held)
    return replace(role, seed=seed, axes=axes, held=held, applies=applies)


def place(members: Sequence[RawRun], finished: int, role: Roles, asked: Asked) -> Placed:
    """Put every run into its cell; the first ``finished`` of ``members`` are FINISHED."""
    axes = (*role.axes, *role.held)
    codes = np.array([item.codes for item in axes], dtype=np.int64)
    codes = codes.reshape(len(axes), len(members)).T
    _, first, of_run = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # by first run, which is what people would call the first
    configuration = rank[of_run.reshape(-1)].tolist()
    starts = np.sort(first)
    labels, seeds, notes = _columns(configuration, role, asked)
    seeded = seeds is not None and role.seed is not None
    word = REPLICATE if seeds is None or role.seed is None else role.seed.name
    pairs = list(zip(configuration, map(str, labels), strict=True))
    ids = {pair: cell_id(*pair) for pair in dict.fromkeys(pairs)}
    cell = [ids[pair] for pair in pairs]
    by_cell: dict[str, list[RawRun]] = {}
    failed: dict[str, list[RawRun]] = {}
    for i, run in enumerate(members):
        (by_cell if i < finished else failed).setdefault(cell[i], []).append(run)
    for same in by_cell.values():
        same.sort(key=lambda run: (run.end_time or 0, run.start_time, run.run_id), reverse=True)
    applies = [role.applies.get(item.name, np.ones(len(members), dtype=bool)) for item in axes]
    grid = Grid(
        axes=axes,
        codes=codes[starts],
        applies=np.stack(applies, axis=1)[starts] if applies else codes[starts].astype(bool),
        counts=np.bincount(configuration[:finished], minlength=len(starts)),
        cells=ids,
        done=frozenset(by_cell),
        columns=tuple(sorted({str(v): v for v in labels}.values(), key=order)),
        planned=frozenset() if seeds is None else frozenset(map(str, seeds)),
    )
    return Placed(members, finished, grid, cell, word, seeded, by_cell, failed, tuple(notes))


def _columns(
    configuration: Sequence[int], role: Roles, asked: Asked
) -> tuple[list[Scalar], list[Scalar] | None, list[str]]:
    """The column of every run; the seeds that are columns, None where runs are only numbered; and
    sentences about them."""
    seed, notes = role.seed, list(role.notes)
    if seed is not None:
        values = [seed.levels[code] for code in seed.codes.tolist()]
        holders: dict[str, set[int]] = {}
        for value, holder in zip(values, configuration, strict=True):
            holders.setdefault(str(value), set()).add(holder)
        if len(set(configuration)) == 1 or any(len(found) > 1 for found in holders.values()):
            if asked.duplicates == "latest":
                return values, values, notes
            return _apart(configuration, values), values, notes
        notes.append(
            f"No two configurations share a value of {seed.name}, so columns number the runs of each "
            "configuration."
        )
    return list(numbered(configuration)), None, notes


def _apart(configuration: Sequence[int], values: Sequence[Scalar]) -> list[Scalar]:
    """The seeds, and for a seed that a configuration has again a label that no seed is."""
    seeds = set(map(str, values))
    used: set[tuple[int, str]] = set()
    labels: list[Scalar] = []
    for holder, value in zip(configuration, values, strict=True):
        label, number = value, 1
        while (holder, str(label)) in used or (number > 1 and str(label) in seeds):
            number += 1
            label = f"{value} #{number}"
        used.add((holder, str(label)))
        labels.append(label)
    return labels
