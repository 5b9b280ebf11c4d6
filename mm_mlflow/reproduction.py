"""Train the cell of a finished run again, in a new run that links to it, and compare the two."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mm_mlflow import datasets, runner, tracking, training
from mm_mlflow.comparison import Comparison, Outcome, compare
from mm_mlflow.design import Cell, Keep
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.evaluation import plan_recorded
from mm_mlflow.frame import SCHEMA, RawRun
from mm_mlflow.render.comparison import digest
from mm_mlflow.runner import CellResult, Clock, Material, Passes
from mm_mlflow.tracking import Store

KIND = "reproduction"


@dataclass(frozen=True, eq=False)
class Original:
    """A run that can be reproduced.

    Attributes:
        store: its own experiment.
        run: as MLflow returns it.
        cell: rebuilt from its ``cell.json``; its id is the run's ``mm.cell``.
        records: by batch size, what ``metrics.json`` of all passes (the sweep's and back-fills) says
            of the metrics that are on the run.
    """

    store: Store
    run: RawRun
    cell: Cell
    records: Mapping[int, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Reproduction:
    """What became of it. ``comparison`` is None where ``result`` is a failure."""

    original: Original
    result: CellResult
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """``reproduction.json``, and what ``--json`` prints."""
        found = self.comparison.to_dict() if self.comparison else {"equal": False}
        return {
            "schema": 1,
            "reproduces": self.original.run.run_id,
            "run_id": self.result.run_id,
            "cell": self.original.cell.id,
            "status": self.result.status,
            "error": self.result.error,
            **found,
        }


def load(uri: str | None, run_id: str) -> Original:
    """The run, checked: a finished cell whose artifacts tell how to train and measure it again.

    Raises:
        InvalidInput: no such run, no finished cell of this schema, or one that its artifacts do not
            give back.
        TrackingError: its artifacts cannot be read.
    """
    store, run = tracking.open_run(uri, run_id)
    _refuse_others(run)
    try:
        document = json.loads(tracking.artifact(store, run_id, "cell.json"))
        locations = document.pop("locations", {})
        cell = Cell.from_canonical(document, locations, run.name)
    except (ValueError, AttributeError, TypeError) as error:  # InvalidInput is a ValueError
        raise InvalidInput(f"run {run_id}: cell.json cannot be used: {error}") from error
    if cell.id != run.tags.get("mm.cell"):
        raise InvalidInput(
            f"run {run_id}: its cell.json makes cell {cell.id[:12]}, its tag mm.cell says "
            f"{run.tags.get('mm.cell', 'nothing')[:12]}: one of them was changed"
        )
    records: dict[int, dict[str, Mapping[str, Any]]] = {}
    try:
        for _, found in tracking.evaluations(store, run):
            wanted = {key: item for key, item in found["metrics"].items() if key in run.metrics}
            if wanted:
                records.setdefault(int(found["batch_size"]), {}).update(wanted)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrackingError(f"run {run_id}: metrics.json cannot be read: {error!r}") from error
    if not records:
        raise TrackingError(
            f"run {run_id}: no metrics.json says how its metrics were measured: "
            "are its artifacts where this machine can read them?"
        )
    return Original(store, run, cell, records)


def _refuse_others(run: RawRun) -> None:
    name = f"run {run.run_id}"
    if run.kind == KIND:
        raise InvalidInput(
            f"{name} is a reproduction itself, of run {run.tags.get('mm.reproduces')}: name that one"
        )
    if run.kind != "cell":
        what = f"of kind {run.kind!r}" if run.kind else "of another program"
        raise InvalidInput(f"{name} is {what}: only cells (mm.kind 'cell') can be reproduced")
    if run.tags.get("mm.schema") != SCHEMA:
        raise InvalidInput(
            f"{name} has schema {run.tags.get('mm.schema')!r}: this version reads {SCHEMA!r}"
        )
    if run.status != "FINISHED":
        raise InvalidInput(f"{name} is {run.status}: only FINISHED cells can be reproduced")


def prepare(original: Original) -> tuple[Material, Passes]:
    """Open the data of the cell, and plan every recorded metric again, before any training.

    Raises:
        InvalidInput: data or names that are not there, data of other content, or a metric of another
            version.
    """
    run, cell = original.run, original.cell
    splits = datasets.open_splits(cell.data)
    if "train" not in splits:
        raise InvalidInput(f"dataset {cell.data.name!r} has no split 'train'")
    found, expected = splits["train"].digest, run.tags.get("mm.dataset", "")
    if found != expected:
        raise InvalidInput(
            f"run {run.run_id} was trained on data with digest {expected[:12]}, and "
            f"{cell.data.name!r} has {found[:12]} here: these are other data"
        )
    training.check(cell.settings, splits["train"])
    passes = [
        (plan_recorded(records, splits, datasets.open_splits), batch_size)
        for batch_size, records in original.records.items()
    ]
    return Material(splits, tuple(task for tasks, _ in passes for task in tasks)), passes


def reproduce(original: Original, material: Material, passes: Passes) -> Reproduction:
    """Train and measure the cell in a new run of the same experiment (under ``mlflow run`` the
    project run, if it lies there), and store the comparison with it. The original stays as it is."""
    store, old = original.store, original.run
    started = time.time()
    run_id = _start(original)
    found: list[Comparison] = []

    def work(clock: Clock) -> None:
        runner.train_and_log(
            store, run_id, original.cell, material, passes, Keep(), clock, examples=True
        )
        # From what MLflow returns, on both sides.
        _, new = tracking.open_run(store.uri, run_id)
        comparison = compare(outcome(store, old), outcome(store, new))
        done = CellResult(new.name, run_id, "trained", started, clock.busy)
        document = Reproduction(original, done, comparison).to_dict()
        content = json.dumps(document, indent=1, allow_nan=False).encode()
        tracking.log_files(store, run_id, iter([("reproduction.json", content)]))
        tags = {
            "mm.reproduced": str(comparison.equal).lower(),
            "mlflow.note.content": digest(comparison, old.name, _link(original)),
        }
        tracking.log(store, run_id, tags=tags)
        tracking.finish(store, run_id)
        found.append(comparison)

    result = runner.attempt(store, run_id, f"reproduction of {old.name}", work, started=started)
    tracking.mark_launcher(store, run_id)
    return Reproduction(original, result, found[0] if found else None)


def _start(original: Original) -> str:
    store, old = original.store, original.run
    tags = {
        **runner.working_tags(
            KIND,
            old.tags.get("mm.design", ""),
            old.tags.get("mm.design_id", ""),
            old.tags["mm.dataset"],
        ),
        "mm.reproduces": old.run_id,
        "mlflow.note.content": f"Reproduction of run [`{old.run_id}`]({_link(original)}).",
    }
    run_id = tracking.create_run(
        store, f"reproduction of {old.name}", tags, tracking.project_run(store)
    )
    # The original's, so that the two stand side by side in the UI's table.
    params = {key: value for key, value in old.params.items() if key not in _present(store, run_id)}
    tracking.log(store, run_id, params=params)
    return run_id


def _present(store: Store, run_id: str) -> Mapping[str, str]:
    return tracking.open_run(store.uri, run_id)[1].params


def _link(original: Original) -> str:
    return f"#/experiments/{original.store.experiment.id}/runs/{original.run.run_id}"


def outcome(store: Store, run: RawRun) -> Outcome:
    """What a cell or a reproduction gave, as MLflow returns it.

    Raises:
        TrackingError: its predictions cannot be read.
    """
    documents = tracking.evaluations(store, run)
    sizes = {document["batch_size"] for _, document in documents}
    logits: dict[str, np.ndarray] = {}
    for folder, document in documents:
        # Logits of one split may differ in their last bits between batch sizes.
        suffix = f", batches of {document['batch_size']}" if len(sizes) > 1 else ""
        data = tracking.artifact(store, run.run_id, f"{folder}/predictions.parquet")
        for split, values in _logits(data).items():
            logits[f"{split}{suffix}"] = values
    return Outcome(run.metrics, logits, json.loads(run.tags.get("mm.env", "{}")))


def _logits(parquet: bytes) -> dict[str, np.ndarray]:
    """``(N, K)`` logits of every split of a ``predictions.parquet``; none where they are not kept."""
    table = pq.read_table(io.BytesIO(parquet))
    if "logits" not in table.column_names:
        return {}
    split = np.array(table["split"].to_pylist())
    rows = table["logits"].to_numpy()
    return {name: np.stack(list(rows[split == name])) for name in sorted(set(split.tolist()))}
