"""``predictions.parquet`` and ``examples.parquet`` as arrays: what :mod:`mm_mlflow.artifacts` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mm_mlflow.errors import TrackingError

_GROUP = "group:"
MALFORMED = (OSError, ValueError, pa.ArrowException)  # what reading such a file may raise


def malformed(run_id: str, path: str, error: Exception) -> TrackingError:
    """One of :data:`MALFORMED` as one line that names the run and the file."""
    what = " ".join(str(error).split())[:300]
    return TrackingError(f"run {run_id}: {path} cannot be read: {what}")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a pass of evaluation stored of one split.

    Attributes:
        ids: ``(N,)`` different strings.
        labels: ``(N,)`` int64.
        logits: ``(N, K)`` float32 or float16; None where they were not kept.
        columns: by metric key, ``(N,)`` float64 outcomes, NaN for examples that the metric is not over.
    """

    ids: pa.Array
    labels: np.ndarray
    logits: np.ndarray | None
    columns: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Examples:
    """What a run stored of the examples of one split.

    Attributes:
        split, digest: which.
        ids: ``(N,)`` different strings.
        labels: ``(N,)`` int64.
        class_names: ``(N,)`` strings, of the examples' labels.
        groups: per attribute, ``(N,)`` strings.
    """

    split: str
    digest: str
    ids: pa.Array
    labels: np.ndarray
    class_names: np.ndarray
    groups: Mapping[str, np.ndarray]


def read_predictions(path: str, wanted: Mapping[str, Sequence[str]]) -> dict[str, Predictions]:
    """Of the ``wanted`` splits, those that the file has.

    Args:
        path: the file.
        wanted: by name of split, keys of metrics whose columns to read, where there are such.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: it cannot be read, or is not what this program
            writes.
    """
    keys = {key for listed in wanted.values() for key in listed}
    table = _table(path, ("split", "example_id", "label"), lambda name: name in {"logits", *keys})
    found = {}
    for split, listed in wanted.items():
        rows = table.filter(pc.equal(table["split"], split))
        if len(rows):
            found[split] = Predictions(
                ids=_ids(rows),
                labels=_labels(rows),
                logits=_logits(rows["logits"]) if "logits" in rows.column_names else None,
                columns={
                    key: _whole(rows[key].cast(pa.float64())).to_numpy(zero_copy_only=False)
                    for key in listed
                    if key in rows.column_names
                },
            )
    return found


def read_examples(path: str) -> Iterator[Examples]:
    """Every split in the file.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: as :func:`read_predictions`.
    """
    needed = ("split", "digest", "example_id", "label", "class_name")
    table = _table(path, needed, lambda name: name.startswith(_GROUP))
    for split, digest in sorted(
        {*zip(*(table[name].to_pylist() for name in needed[:2]), strict=True)}
    ):
        both = pc.and_(pc.equal(table["split"], split), pc.equal(table["digest"], digest))
        rows = table.filter(both)
        yield Examples(
            split=split,
            digest=digest,
            ids=_ids(rows),
            labels=_labels(rows),
            class_names=np.array(rows["class_name"].to_pylist()),
            groups={
                name.removeprefix(_GROUP): np.array(rows[name].to_pylist())
                for name in rows.column_names
                if name.startswith(_GROUP) and not rows[name].null_count
            },
        )


def _table(path: str, needed: Sequence[str], other: Callable[[str], bool]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if lacking := [name for name in needed if name not in names]:
            raise ValueError(f"it has no column {lacking[0]!r}")
        # Not by pyarrow.parquet.read_table: that takes dots in names, which metric keys have, for paths.
        table = file.read([*needed, *(name for name in names if other(name))])
    for name in needed:
        if table[name].null_count:
            raise ValueError(f"its column {name!r} has gaps")
    return table


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)


def _ids(rows: pa.Table) -> pa.Array:
    ids = _whole(rows["example_id"].cast(pa.string()))
    if pc.count_distinct(ids).as_py() < len(ids):
        raise ValueError("it lists an example twice")
    return ids


def _labels(rows: pa.Table) -> np.ndarray:
    return np.asarray(_whole(rows["label"].cast(pa.int64())))


def _logits(column: pa.ChunkedArray) -> np.ndarray:
    lists = _whole(column)
    if not pa.types.is_list(lists.type) or not pa.types.is_floating(lists.type.value_type):
        raise ValueError(f"its logits are {lists.type}, no lists of numbers")
    numbers = lists.flatten()
    lengths = pc.list_value_length(lists)
    if lists.null_count or numbers.null_count or pc.count_distinct(lengths).as_py() != 1:
        raise ValueError("its logits have gaps")
    found: np.ndarray = numbers.to_numpy(zero_copy_only=False).reshape(len(lists), -1)
    return found
