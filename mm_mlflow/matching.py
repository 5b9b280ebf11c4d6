"""Which runs of two experiments stand beside which: configurations by their levels, runs by their seeds.

Pure. What cannot stand beside anything is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import Frame
from mm_mlflow.plan import Plan

Pairing = Literal["cells", "configurations"]


@dataclass(frozen=True, eq=False)
class Party:
    """One experiment: the ``frame`` of its runs, and the ``plan`` that lays them out."""

    frame: Frame
    plan: Plan

    @property
    def name(self) -> str:
        return self.frame.experiment.name

    @property
    def healthy(self) -> pd.Series:
        """Booleans by cell id: runs that are compared, if they have a counterpart."""
        return self.frame.cells["status"] == "ok"

    @property
    def seeded(self) -> bool:
        """Whether columns are seeds, and not numbers of runs."""
        return self.plan.column_kind == "seeds"

    @property
    def levels(self) -> dict[str, list[str]]:
        """By axis, the levels that runs have, as text: 1 and 1.0 have one spelling already."""
        there = self.frame.axes[self.healthy]
        return {str(axis): list(dict.fromkeys(map(str, there[axis]))) for axis in there}


@dataclass(frozen=True, eq=False)
class Matching:
    """Configurations in common, and where their runs stand in tables of configuration by run.

    Attributes:
        parties: A and B.
        labels: of the configurations, ``(C,)``.
        rows, columns: per experiment, by cell id, where its compared runs stand.
        pairs: ``(K,)`` cells of A and of B with the same configuration and seed, with their row and
            column; None where means are paired by configuration.
        only: per experiment, configurations that the other lacks.
        notes: what was done to match them, in sentences.
    """

    parties: tuple[Party, Party]
    labels: list[str]
    rows: tuple[pd.Series, pd.Series]
    columns: tuple[pd.Series, pd.Series]
    pairs: pd.DataFrame | None
    only: tuple[list[str], list[str]]
    notes: list[str]

    @property
    def pairing(self) -> Pairing:
        return "configurations" if self.pairs is None else "cells"

    def table(self, side: int, metric: str) -> np.ndarray:
        """``(C, S)`` values of one experiment by configuration and run, NaN where there is none."""
        rows, columns = self.rows[side], self.columns[side]
        values = self.parties[side].frame.values.loc[rows.index, metric]
        return self._laid_out(values, rows, columns)

    def paired(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """``(C, S)`` values of the cells in common, or ``(C, 1)`` means of the configurations."""
        if self.pairs is None:
            return _means(self.table(0, metric)), _means(self.table(1, metric))
        rows, columns = self.pairs["row"], self.pairs["column"]
        one, other = (
            self._laid_out(party.frame.values.loc[self.pairs[side], metric], rows, columns)
            for party, side in zip(self.parties, "ab", strict=True)
        )
        return one, other

    def _laid_out(self, values: pd.Series, rows: pd.Series, columns: pd.Series) -> np.ndarray:
        table = np.full((len(self.labels), int(columns.max()) + 1), np.nan)
        table[rows.to_numpy(), columns.to_numpy()] = values.to_numpy(dtype=float)
        return table


def _means(table: np.ndarray) -> np.ndarray:
    """``(C, 1)`` means of the rows of ``table``, NaN where a row has no value."""
    return pd.DataFrame(table).mean(axis=1).to_numpy()[:, None]


def match(a: Party, b: Party) -> Matching:
    """The runs of ``a`` and ``b`` side by side.

    Configurations match where their levels do. An axis with one level in A and one in B, the same or
    not, matches nothing out; of an axis that the other lacks only the default level is there.

    Raises:
        InvalidInput: no configuration in common; an axis in one alone, without a default; several runs
            of one configuration and seed.
    """
    axes, kept, notes = _matching_axes(a, b)
    keyed = tuple(_keyed(party, axes, held) for party, held in zip((a, b), kept, strict=True))
    common = [key for key in dict.fromkeys(keyed[0]["key"]) if key in set(keyed[1]["key"])]
    if not common:
        raise InvalidInput(
            f"experiments {a.name!r} and {b.name!r} have no configuration in common{_why(a, b, axes)}"
        )
    number = {key: row for row, key in enumerate(common)}
    inside = [cells[cells["key"].isin(number)] for cells in keyed]
    one, other = (
        _placed(cells, beside, number) for cells, beside in zip(inside, inside[::-1], strict=True)
    )
    pairs = None
    if a.seeded and b.seeded:
        pairs = one.reset_index(names="a").merge(
            other.reset_index(names="b")[["b", "key", "seed"]], on=["key", "seed"]
        )
    if pairs is None or pairs.empty:
        pairs = None
        notes.append(
            "The experiments share no seed: means are paired by configuration, with all their runs."
        )
    labels = one.drop_duplicates("key").set_index("key")["label"]
    return Matching(
        parties=(a, b),
        labels=[str(labels[key]) for key in common],
        rows=(one["row"], other["row"]),
        columns=(one["column"], other["column"]),
        pairs=pairs,
        only=(_only(a, one), _only(b, other)),
        notes=notes,
    )


def _placed(cells: pd.DataFrame, beside: pd.DataFrame, number: Mapping[str, int]) -> pd.DataFrame:
    """``cells`` with their row and column: of each configuration, the seeds that are ``beside`` too come
    first, in the same order."""
    both = pd.MultiIndex.from_frame(cells[["key", "seed"]]).isin(
        pd.MultiIndex.from_frame(beside[["key", "seed"]])
    )
    placed = cells.assign(row=cells["key"].map(number), alone=~both).sort_values(
        ["row", "alone", "seed"], kind="stable"
    )
    return placed.assign(column=placed.groupby("row").cumcount())


def _matching_axes(
    a: Party, b: Party
) -> tuple[list[str], tuple[dict[str, str], dict[str, str]], list[str]]:
    """The axes to match by; per experiment, the level that its own other axes are held at; notes."""
    of_a, of_b = a.levels, b.levels
    notes = []
    shared = []
    for axis in of_a:
        if axis not in of_b:
            continue
        if len(of_a[axis]) == len(of_b[axis]) == 1:
            if of_a[axis] != of_b[axis]:
                notes.append(f"{axis} is {of_a[axis][0]} in A and {of_b[axis][0]} in B.")
            continue
        shared.append(axis)
    held: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for party, own, others, kept in ((a, of_a, of_b, held[0]), (b, of_b, of_a, held[1])):
        for axis, levels in own.items():
            if axis in others or len(levels) == 1:
                continue
            if axis not in party.plan.default:
                raise InvalidInput(
                    f"axis {axis!r} is not allowed: it is in experiment {party.name!r} alone, with "
                    f"{len(levels)} levels, and no default says which to compare (--default {axis}=LEVEL)"
                )
            kept[axis] = str(party.plan.default[axis])
            side = "A" if party is a else "B"
            notes.append(
                f"{axis} is an axis of {side} alone: its runs at the default, {kept[axis]}, are compared."
            )
    return shared, held, notes


def _keyed(party: Party, axes: Sequence[str], held: Mapping[str, str]) -> pd.DataFrame:
    """Cells that a healthy run fills, at the levels that axes are ``held`` at, by cell id: ``key`` of the
    configuration, ``seed`` as text, ``label`` of the configuration.

    Raises:
        InvalidInput: two of them have the same key and seed.
    """
    frame = party.frame
    levels = frame.axes[party.healthy].astype(str)
    for axis, level in held.items():
        levels = levels[levels[axis] == level]
    cells = pd.DataFrame(
        {
            "key": ["\x1f".join(row) for row in levels[list(axes)].to_numpy(dtype=object)],
            "seed": frame.cells.loc[levels.index, "seed"].astype(str),
            "label": frame.cells.loc[levels.index, "configuration"],
        },
        index=levels.index,
    )
    twice = cells.duplicated(["key", "seed"])
    if twice.any():
        first = cells[twice].iloc[0]
        raise InvalidInput(
            f"experiment {party.name!r} has several runs of {first['label']!r} with seed {first['seed']}: "
            "a configuration and a seed name one run"
        )
    return cells


def _why(a: Party, b: Party, axes: Sequence[str]) -> str:
    """The axis without a level in common, if one is."""
    of_a, of_b = a.levels, b.levels
    for axis in axes:
        if not set(of_a[axis]) & set(of_b[axis]):
            one, other = first_few(of_a[axis]), first_few(of_b[axis])
            return f": {axis} is {one} in the first and {other} in the second"
    return ""


def first_few(names: Sequence[str], limit: int = 4) -> str:
    """The first ``limit`` names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _only(party: Party, compared: pd.DataFrame) -> list[str]:
    """Configurations none of whose runs is compared."""
    there = party.frame.cells.loc[party.healthy, "configuration"]
    inside = set(compared["label"])
    return [label for label in dict.fromkeys(map(str, there)) if label not in inside]
