"""Rows of a table as a split, so that the interventions and keys of images serve them too.

A table of numbers has its features as channels of images of one pixel, ``(N, F, 1, 1)`` float64 in
their own units, with a standard deviation each: noise on the normalised image is noise on the
standardised features. Of other tables, and of predictions, images hold the number of the row alone:
their model can be asked about the rows as they are, and about nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation.planning import Task
from mm_mlflow.evaluation.scores import text
from mm_mlflow.split import Split, content_digest

PIXELS = "it changes pixels between 0 and 1, and a table has none"

_WHOLE = 2**53  # float64 holds every whole number up to it


@dataclass(frozen=True, eq=False)
class Examples:
    """What is known of the rows of a table besides their features.

    Attributes:
        name: of the split, which keys and noise depend on.
        labels: ``(N,)`` int64, indices into ``class_names``.
        class_names: name of every class.
        example_ids: ``(N,)`` different strings.
        groups: per attribute, ``(N,)`` strings.
    """

    name: str
    labels: np.ndarray
    class_names: tuple[str, ...]
    example_ids: np.ndarray
    groups: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Table:
    """A table as a split, and the way back.

    Attributes:
        split: with ``(N, F, 1, 1)`` or, of rows that cannot be changed, ``(N, 1, 1, 1)`` images.
        inputs: from ``(n, ...)`` images of the split to rows as the table has them: a DataFrame with
            its columns and types, or an array.
        unable: why the rows cannot be changed, under ``inputs``; empty if they can.
    """

    split: Split
    inputs: Callable[[np.ndarray], Any]
    unable: Mapping[str, str]


def of_features(
    features: pd.DataFrame | np.ndarray, examples: Examples, std: Mapping[str, float] | None = None
) -> Table:
    """A table of what a model takes.

    Args:
        features: ``(N, F)``; missing values (NaN) stay missing.
        examples: the rest of the table.
        std: standard deviation of features in the training data, by name (of arrays: by position);
            by default, and of those not named, that of the rows given.

    Raises:
        InvalidInput: a standard deviation of no feature, or one that is no finite number from 0 on.
    """
    frame = pd.DataFrame(features)
    others = [str(name) for name in frame.columns if not _is_number(frame[name])]
    if others or not len(frame.columns):
        what = f"features {', '.join(map(repr, others[:5]))} hold no numbers to add noise to"
        content = pd.util.hash_pandas_object(frame.astype(str), index=False).to_numpy()
        return _by_row(features, content, examples, {"inputs": what})
    values = frame.to_numpy(np.float64, na_value=np.nan)
    seen = np.ma.masked_invalid(values)
    deviations = seen.std(axis=0).filled(0.0)
    images = values[:, :, None, None]
    digest = _digest(images, examples)
    if std is not None:
        places = {str(name): place for place, name in enumerate(frame.columns)}
        for name, value in std.items():
            if str(name) not in places:
                raise unknown("feature of std", name, places)
            if not (np.isfinite(value) and value >= 0):
                raise InvalidInput(f"std {value!r} of {name!r} is not allowed: at least 0")
            deviations[places[str(name)]] = value
        # Outcomes under noise depend on it, and it is not told by the rows.
        digest = hashlib.sha256(f"{digest} {deviations.tolist()}".encode()).hexdigest()
    split = _split(images, examples, digest, seen.mean(axis=0).filled(0.0), deviations)
    if isinstance(features, np.ndarray):
        return Table(split, lambda x: _restored(x, features.dtype), {})
    return Table(split, lambda x: _frame(x, features), {})


def of_scores(scores: np.ndarray, examples: Examples) -> Table:
    """A table of what a model has said, ``(N,)`` or ``(N, K)``: there is no model to ask again."""
    content = scores if scores.dtype.kind in "fiub" else _hashed(scores)
    unable = {"inputs": "it needs the model, and there are its predictions only"}
    return _by_row(scores, content, examples, unable)


def class_names(
    labels: Sequence[object], known: Sequence[object] = (), columns: int | None = None
) -> tuple[str, ...]:
    """Names of classes in the order of a model's columns: numbers by size, others as text.

    Args:
        labels: of the data.
        known: the model's classes, where it tells.
        columns: how many scores the model gives, where it does.

    Raises:
        InvalidInput: more columns than classes are known, and labels that are no positions.
    """
    values = {text(value): value for value in [*labels, *known]}
    names = sorted(values, key=lambda name: _order(values[name]))
    if columns is None or len(names) == columns:
        return tuple(names)
    positions = [str(position) for position in range(columns)]
    if set(names) <= set(positions):
        return tuple(positions)
    raise InvalidInput(
        f"the model gives {columns} scores, and the targets have {len(names)} classes "
        f"({', '.join(names[:6])}): name all, in the order of columns, as classes"
    )


def label_indices(labels: Sequence[object], names: Sequence[str]) -> np.ndarray:
    """``(N,)`` int64 indices of labels into ``names``.

    Raises:
        InvalidInput: a label that is none of them, or a missing one.
    """
    missing = int(np.sum(pd.isna(np.asarray(labels, dtype=object))))
    if missing:
        raise InvalidInput(f"targets are missing in {missing} of {len(labels)} rows")
    places = {name: place for place, name in enumerate(names)}
    found = []
    for label in labels:
        if text(label) not in places:
            raise unknown("class in targets", text(label), names)
        found.append(places[text(label)])
    return np.array(found, np.int64)


def impossible(task: Task) -> str | None:
    """Why a task makes no sense on a table, or None: one that keeps pixels in [0, 1]."""
    intervention = task.intervention
    return PIXELS if intervention.bounded and intervention.needs != "logits" else None


def _by_row(
    rows: pd.DataFrame | np.ndarray,
    content: np.ndarray,
    examples: Examples,
    unable: Mapping[str, str],
) -> Table:
    images = np.arange(len(rows), dtype=np.float64)[:, None, None, None]
    split = _split(images, examples, _digest(content, examples), np.zeros(1), np.zeros(1))

    def inputs(numbers: np.ndarray) -> Any:
        at = numbers.reshape(-1).astype(np.int64)
        return rows[at] if isinstance(rows, np.ndarray) else rows.iloc[at]

    return Table(split, inputs, unable)


def _split(
    images: np.ndarray, examples: Examples, digest: str, mean: np.ndarray, std: np.ndarray
) -> Split:
    return Split(
        images=images,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        digest=digest,
        **vars(examples),
    )


def _digest(content: np.ndarray, examples: Examples) -> str:
    return content_digest(content, examples.labels, examples.example_ids, examples.groups)


def _hashed(values: np.ndarray) -> np.ndarray:
    hashed: np.ndarray = pd.util.hash_array(values.astype(str).astype(object))
    return hashed


def _frame(images: np.ndarray, like: pd.DataFrame) -> pd.DataFrame:
    values = images.reshape(len(images), -1)
    columns = [
        pd.Series(_restored(values[:, place], dtype)) for place, dtype in enumerate(like.dtypes)
    ]
    frame = pd.concat(columns, axis=1)
    frame.columns = like.columns
    return frame


def _restored(images: np.ndarray, dtype: Any) -> Any:
    """Values in the type they came in; whole numbers that have become fractions stay float64."""
    values = images.reshape(len(images), -1) if images.ndim > 1 else images
    floating = pd.api.types.is_float_dtype(dtype)
    known = values[~np.isnan(values)]
    if not floating and not (known == np.round(known)).all():
        return values
    if isinstance(dtype, np.dtype):
        return values.astype(dtype)
    return pd.Series(values).astype(dtype)  # pandas' own types, which have missing whole numbers


def _is_number(column: pd.Series[Any]) -> bool:
    """Whole numbers and fractions that float64 can hold; of booleans there is nothing between two."""
    kinds = pd.api.types
    if kinds.is_bool_dtype(column.dtype) or kinds.is_complex_dtype(column.dtype):
        return False
    if kinds.is_integer_dtype(column.dtype):
        return bool(column.dropna().between(-_WHOLE, _WHOLE).all())
    return kinds.is_numeric_dtype(column.dtype)


def _order(value: object) -> tuple[bool, float, str]:
    number = isinstance(value, int | float | np.number | np.bool_)
    return not number, float(value) if number else 0.0, str(value)  # type: ignore[arg-type]
