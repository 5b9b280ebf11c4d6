"""What a run stores as files: the bytes of a cell's and a sweep's artifacts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mm_mlflow import models
from mm_mlflow.design import Cell, Keep
from mm_mlflow.evaluation import Evaluation, Task, metric_records
from mm_mlflow.split import Split
from mm_mlflow.training import Trained

Logits = Literal["float32", "float16", "none"]


def evaluated(tasks: Sequence[Task]) -> dict[str, Split]:
    """The splits on which something is measured, by name."""
    return {task.split.name: task.split for task in tasks}


def cell_files(cell: Cell, trained: Trained, keep: Keep) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of what a cell stores of its training: enough to know and rebuild it alone."""
    document = {**cell.canonical(), "locations": cell.data.locations or {}}
    yield "cell.json", _json(document)
    if keep.weights == "all":
        yield "model.safetensors", models.to_bytes(trained.model, trained.specification)


def evaluation_files(
    evaluation: Evaluation, tasks: Sequence[Task], logits: Logits
) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of one pass of evaluation, enough to know and measure it again; without
    ``metrics.json`` there is no pass."""
    folder = evaluation_folder(evaluation)
    yield f"{folder}/predictions.parquet", predictions(evaluation, tasks, logits)
    records = {
        "schema": 1,
        "metrics": metric_records(tasks),
        # Of a pass that was killed before it logged them, or overtaken, the run has others.
        "values": dict(evaluation.values),
        "batch_size": evaluation.batch_size,
        "checks": evaluation.checks,
    }
    yield f"{folder}/metrics.json", _json(records)


def evaluation_folder(evaluation: Evaluation) -> str:
    """Where a pass of evaluation lies among a run's artifacts."""
    return f"evaluations/{evaluation.id}"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def predictions(evaluation: Evaluation, tasks: Sequence[Task], logits: Logits) -> bytes:
    """``predictions.parquet``: split, example_id, label, logits, and one column of outcomes per metric
    that float32 logits alone do not give (null for examples that the metric is not over)."""
    tables = []
    for name, split in evaluated(tasks).items():
        columns: dict[str, pa.Array] = {
            "split": pa.array([name] * len(split)),
            "example_id": pa.array(split.example_ids.tolist()),
            "label": pa.array(split.labels),
        }
        if logits != "none":
            values = evaluation.logits[name].astype(logits)
            flat = pa.array(values.ravel())
            columns["logits"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]).cast(
                pa.list_(flat.type)  # splits may differ in their number of classes
            )
        for task in tasks:
            if logits != "float32" or task.stored:
                column = np.full(len(split), np.nan)
                if task.split.name == name:
                    column[task.indices] = evaluation.outcomes[task.key]
                columns[task.key] = pa.array(column, mask=np.isnan(column))
        tables.append(pa.table(columns))
    return _parquet(pa.concat_tables(tables))


def examples(splits: Mapping[str, Split]) -> bytes:
    """``examples.parquet``: split, digest, example_id, label, class and one column per group attribute."""
    attributes = sorted({attribute for split in splits.values() for attribute in split.groups})
    tables = []
    for name, split in splits.items():
        columns = {
            "split": pa.array([name] * len(split)),
            "digest": pa.array([split.digest] * len(split)),
            "example_id": pa.array(split.example_ids.tolist()),
            "label": pa.array(split.labels),
            "class_name": pa.array([split.class_names[label] for label in split.labels]),
        }
        for attribute in attributes:
            values = split.groups.get(attribute)
            columns[f"group:{attribute}"] = (
                pa.array(values.tolist())
                if values is not None
                else pa.nulls(len(split), pa.string())
            )
        tables.append(pa.table(columns))
    return _parquet(pa.concat_tables(tables))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
