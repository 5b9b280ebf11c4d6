"""What classifiers of other libraries return (probabilities, decision values, labels) as logits.

Everything here is numpy and gives ``(n, K)`` float32. Column k is class k of the data; columns after
those of the data's classes are what a model may say besides, and are always wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from mm_mlflow.errors import InvalidInput

Output = Literal["logits", "probabilities", "labels"]

# Of a class that the model does not know: far below any score, and finite, as other logits must be.
ABSENT = -1e30
_SUM = 1e-3  # of probabilities: float16 rows of a thousand classes still are such


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Natural logarithms of ``(n, K)`` probabilities, ``(n, K)`` float32.

    Softmax of them gives the probabilities back, so they are a net's logits up to a constant per
    example, to which argmax and differences, and with them output perturbation, are blind. A
    probability of 0 becomes the logarithm of the smallest normal float64, -708.4: a logit has to be
    finite, and no noise of a scale in use bridges that.

    Raises:
        InvalidInput: numbers outside [0, 1]; NaN stays NaN, and such an example is wrong.
    """
    p = np.asarray(probabilities, np.float64)
    if (p < 0).any() or (p > 1 + _SUM).any():
        raise InvalidInput(
            f"probabilities from {p.min():.6g} to {p.max():.6g} are not allowed: 0 to 1"
        )
    return single_precision(np.log(np.maximum(p, np.finfo(np.float64).tiny)))


def decisions(values: np.ndarray) -> np.ndarray:
    """Decision values as logits: ``(n, K)`` as they are; ``(n,)`` of two classes f as ``[0, f]``.

    The margin of the second class is f, and at f = 0 the first one wins, as scikit-learn's
    ``predict`` has it.
    """
    values = np.asarray(values, np.float64)
    if values.ndim == 1:
        values = np.stack([np.zeros_like(values), values], axis=1)
    return single_precision(values)


def both(probabilities: np.ndarray) -> np.ndarray:
    """``(n, K)`` probabilities as they are; ``(n,)`` of the second of two classes as ``(n, 2)``."""
    p = np.asarray(probabilities, np.float64)
    return np.stack([1 - p, p], axis=1) if p.ndim == 1 else p


def told(sample: np.ndarray, classes: int) -> Output:
    """What a classifier returns, told by its form: labels ``(n,)``, else scores ``(n, K)``.

    Raises:
        InvalidInput: one column of numbers that are not whole, or another number of columns.
    """
    sample = np.asarray(sample)
    if sample.ndim == 1:
        if fractions(sample):
            raise InvalidInput(
                "the model gives one column of numbers: output says whether it is probabilities or "
                "logits (of the second of two classes)"
            )
        return "labels"
    if sample.ndim != 2 or sample.shape[1] != classes or sample.dtype.kind not in "fiu":
        raise InvalidInput(
            f"the model returns {sample.dtype} of shape {sample.shape}: "
            f"labels (n,) or scores (n, {classes}) are needed"
        )
    rows = sample[np.isfinite(sample).all(axis=1)]
    unit = len(rows) and (rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) <= _SUM).all()
    return "probabilities" if unit else "logits"


def fractions(values: np.ndarray) -> bool:
    """Whether any of these numbers, or names, is a number that is not whole (NaN is none)."""
    return bool(values.dtype.kind == "f" and (values != np.round(values)).any())


def one_hot(positions: np.ndarray, columns: int) -> np.ndarray:
    """``(n,)`` class positions as ``(n, columns)`` float32 of 0 and 1."""
    hot: np.ndarray = np.eye(columns, dtype=np.float32)[positions]
    return hot


def single_precision(scores: np.ndarray) -> np.ndarray:
    """``(n, K)`` scores rounded to float32, with every row's first largest still its first largest.

    Rounding can make two classes equal, and the first of equals counts: where that would change the
    answer, the winner is raised by the last digit.
    """
    with np.errstate(over="ignore"):
        rounded = np.asarray(scores).astype(np.float32)
    best = np.argmax(scores, axis=1)
    changed = np.flatnonzero(rounded.argmax(axis=1) != best)
    winners = changed, best[changed]
    rounded[winners] = np.nextafter(rounded[winners], np.float32(np.inf))
    return rounded


def text(value: object) -> str:
    """How a class is called: ``1``, ``1.0`` and ``numpy.int64(1)`` are one class."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def places(classes: Sequence[object], class_names: Sequence[str]) -> dict[str, int]:
    """The columns of a model's ``classes``, by :func:`text`.

    Classes are found by name; where not all are names and all are whole numbers from 0 to K - 1,
    they are positions. Others get columns of their own after those of the data's K classes.

    Raises:
        InvalidInput: no class of the model is one of the data's, or one is there twice.
    """
    names = [text(value) for value in classes]
    if len(set(names)) < len(names):
        raise InvalidInput(f"classes {_few(names)} of the model are not different")
    table = {name: position for position, name in enumerate(class_names)}
    indices = {str(position): position for position in range(len(class_names))}
    if not set(names) <= set(table) and set(names) <= set(indices):
        table = indices
    if not set(names) & set(table):
        raise InvalidInput(
            f"the model's classes ({_few(names)}) are none of the data's ({_few(class_names)})"
        )
    others = [name for name in names if name not in table]
    return {**table, **{name: len(table) + place for place, name in enumerate(others)}}


def arranged(scores: np.ndarray, columns: Sequence[int], total: int, missing: float) -> np.ndarray:
    """Scores of a model's classes, ``(n, M)``, as ``(n, total)`` in the data's order.

    Args:
        scores: one column per class of the model.
        columns: ``(M,)`` where each belongs: :func:`places`.
        total: number of columns to give.
        missing: the score of a class that the model does not know.

    Raises:
        InvalidInput: another number of columns than classes.
    """
    if scores.ndim != 2 or scores.shape[1] != len(columns):
        raise InvalidInput(
            f"the model returns scores of shape {scores.shape}: (n, {len(columns)}) are needed"
        )
    found = np.full((len(scores), total), missing, scores.dtype)
    found[:, list(columns)] = scores
    return found


def label_positions(labels: np.ndarray, table: Mapping[str, int], other: int) -> np.ndarray:
    """``(n,)`` int64 columns of ``(n,)`` labels by :func:`places`; ``other`` for what is not there."""
    return np.array([table.get(text(label), other) for label in labels.tolist()], np.int64)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])}, ... {names[-1]}"
