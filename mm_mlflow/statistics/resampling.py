"""Test examples dealt into halves, or drawn anew: what a run's metrics become.

An example is known by its id, whatever split it stands in: the grayscale version of a test image is in
the same half as the image, and examples that are copies of one another stay together too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mm_mlflow.errors import InvalidInput
from mm_mlflow.statistics.outcomes import Outcomes

HALVINGS = 50
RESAMPLES = 200
_BLOCK = 2**22  # weights held at once

Choose = Callable[[np.ndarray], np.ndarray]
"""``(M, K)`` finite values of the K metrics selected on -> ``(M,)`` booleans."""


@dataclass(frozen=True, eq=False)
class Examples:
    """The test examples behind several metrics of the same runs.

    Attributes:
        values: per metric, ``(M, N_j)`` outcomes of the same M runs in one order.
        places: per metric, ``(N_j,)`` numbers of the units that its examples belong to.
        units: how many there are; a unit is an example, or several that are copies.
        strata: ``(units,)``: units of one number are behind the same metrics.
    """

    values: tuple[np.ndarray, ...]
    places: tuple[np.ndarray, ...]
    units: int
    strata: np.ndarray


def examples_of(outcomes: Sequence[Outcomes], run_ids: Sequence[str]) -> Examples:
    """Bring the outcomes of ``run_ids`` together, example by example.

    Raises:
        InvalidInput: outcomes that lack one of the runs.
    """
    ids = np.unique(np.concatenate([np.asarray(o.example_ids, dtype=str) for o in outcomes]))
    found = [np.searchsorted(ids, np.asarray(o.example_ids, dtype=str)) for o in outcomes]
    pairs = [_copies(o, places) for o, places in zip(outcomes, found, strict=True)]
    ends = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.intp)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(ids), len(ids)))
    units, unit_of = connected_components(graph, directed=False)
    places = tuple(unit_of[positions] for positions in found)
    member = np.zeros((units, len(outcomes)), dtype=bool)
    for j, positions in enumerate(places):
        member[positions, j] = True
    return Examples(
        values=tuple(_rows(o, run_ids) for o in outcomes),
        places=places,
        units=int(units),
        strata=np.unique(member, axis=0, return_inverse=True)[1].reshape(-1),
    )


def _copies(outcomes: Outcomes, places: np.ndarray) -> np.ndarray:
    """``(pairs, 2)``: each copy beside the first example of its number."""
    if outcomes.copies is None:
        return np.empty((0, 2), dtype=np.intp)
    _, first, number = np.unique(outcomes.copies, return_index=True, return_inverse=True)
    return np.column_stack([places[first][number], places]).astype(np.intp)


def _rows(outcomes: Outcomes, run_ids: Sequence[str]) -> np.ndarray:
    place = {run_id: i for i, run_id in enumerate(outcomes.run_ids)}
    lacking = [run_id for run_id in run_ids if run_id not in place]
    if lacking:
        raise InvalidInput(f"outcomes of {outcomes.metric!r} lack run {lacking[0]!r}")
    values: np.ndarray = outcomes.values[[place[run_id] for run_id in run_ids]]
    return values


def halves(strata: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """``(number, units)`` booleans: random halves, each as even as it can be.

    Units of one stratum are dealt out in turn, one to this half and one to the other, so that each half
    has half of all units, and half of those behind each metric, to within one per stratum.
    """
    found = np.zeros((number, len(strata)), dtype=bool)
    for half in found:
        ranks = generator.permutation(int(strata.max()) + 1)
        order = np.lexsort((generator.random(len(strata)), ranks[strata]))
        half[order[int(generator.integers(2)) :: 2]] = True
    return found


def bootstrap(units: int, number: int, generator: np.random.Generator) -> np.ndarray:
    """``(number, units)`` weights: how often each unit comes where as many as there are are drawn with
    replacement (Efron, Ann. Statist. 7, 1979)."""
    return generator.multinomial(units, np.full(units, 1 / units), size=number)


@dataclass(frozen=True, eq=False)
class Values:
    """Values of several metrics for the same runs, on parts of the test examples.

    Attributes:
        metrics: keys.
        n_examples: per metric, all its examples.
        run_ids: the M runs.
        units: examples that are not copies of one another, over all metrics.
        whole: per metric, ``(M,)`` values on all examples.
        one: per metric, ``(R, M)`` values on one half, or on examples drawn with replacement.
        other: per metric, ``(R, M)`` values on the other half; empty for examples drawn.
    """

    metrics: tuple[str, ...]
    n_examples: tuple[int, ...]
    run_ids: tuple[str, ...]
    units: int
    whole: tuple[np.ndarray, ...]
    one: tuple[np.ndarray, ...]
    other: tuple[np.ndarray, ...] = ()


def halved(outcomes: Sequence[Outcomes], run_ids: Sequence[str], number: int = HALVINGS) -> Values:
    """Values on ``number`` random halves of the examples (:func:`halves`) and on what each leaves, the
    same for every run and metric, from a fixed generator.

    Raises:
        InvalidInput: fewer than two test examples, or outcomes that lack one of the runs.
    """
    examples = examples_of(outcomes, run_ids)
    if examples.units < 2:
        raise InvalidInput(f"{examples.units} test examples cannot be halved: 2 at least")
    generator = np.random.default_rng(8)
    one: list[list[np.ndarray]] = []
    other: list[list[np.ndarray]] = []
    for rows in _blocks(examples.units, number):
        half = halves(examples.strata, rows, generator)
        one.append(weighted(examples, half))
        other.append(weighted(examples, ~half))
    return _values(outcomes, run_ids, examples, one, other)


def resampled(
    outcomes: Sequence[Outcomes], run_ids: Sequence[str], number: int = RESAMPLES
) -> Values:
    """Values on ``number`` bootstrap samples of the examples (:func:`bootstrap`), the same for every
    run and metric, from a fixed generator.

    Raises:
        InvalidInput: outcomes that lack one of the runs.
    """
    examples = examples_of(outcomes, run_ids)
    generator = np.random.default_rng(9)
    drawn = [
        weighted(examples, bootstrap(examples.units, rows, generator))
        for rows in _blocks(examples.units, number)
    ]
    return _values(outcomes, run_ids, examples, drawn, [])


def _blocks(units: int, number: int) -> Iterator[int]:
    """Rows of weights at a time: 200,000 examples need no gigabytes."""
    step = max(1, _BLOCK // units)
    for start in range(0, number, step):
        yield min(step, number - start)


def _values(
    outcomes: Sequence[Outcomes],
    run_ids: Sequence[str],
    examples: Examples,
    one: Sequence[Sequence[np.ndarray]],
    other: Sequence[Sequence[np.ndarray]],
) -> Values:
    def joined(blocks: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
        return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))

    return Values(
        metrics=tuple(outcome.metric for outcome in outcomes),
        n_examples=tuple(values.shape[1] for values in examples.values),
        run_ids=tuple(run_ids),
        units=examples.units,
        whole=tuple(values.mean(axis=1) for values in examples.values),
        one=joined(one),
        other=joined(other),
    )


def chosen(choose: Choose, values: Sequence[np.ndarray]) -> np.ndarray:
    """``(R, M)`` booleans: the choice by ``(R, M)`` values of each metric selected on; none where a
    metric has no value, because none of its examples is there."""
    masks = []
    for row in zip(*values, strict=True):
        table = np.column_stack(row)
        whole = bool(np.isfinite(table).all())
        masks.append(choose(table) if whole else np.zeros(len(table), dtype=bool))
    return np.array(masks, dtype=bool)


def weighted(examples: Examples, weights: np.ndarray) -> list[np.ndarray]:
    """Per metric, ``(R, M)``: its value for every run where units weigh ``(R, units)``; NaN where none
    of its examples has a weight."""
    found = []
    for values, places in zip(examples.values, examples.places, strict=True):
        each = weights[:, places].astype(float)
        total = each.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(each @ values.T / total)
    return found
