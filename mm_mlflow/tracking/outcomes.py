"""Outcomes of single examples, read back from what finished runs stored."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from mm_mlflow.design import canonical_json
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.evaluation.planning import is_mean, recompute, recompute_value, recorded_indices
from mm_mlflow.frame import Frame
from mm_mlflow.split import Split
from mm_mlflow.statistics.copies import copies, numbered
from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.tracking.examples import StoredExamples
from mm_mlflow.tracking.predictions import (
    MALFORMED,
    Examples,
    Predictions,
    malformed,
    read_predictions,
)
from mm_mlflow.tracking.reading import RunFiles, evaluations_in, run_files
from mm_mlflow.tracking.store import Store, reading_errors

S = TypeVar("S")
T = TypeVar("T")
Record = Mapping[str, Any]

_THREADS = 8


@dataclass(frozen=True)
class StoredOutcomes:
    """What runs stored of single examples.

    Attributes:
        found: by metric key, outcomes of all counted runs that have the metric, in the frame's order.
        missing: by metric key, why there are none: one clause.
    """

    found: Mapping[str, Outcomes]
    missing: Mapping[str, str]


def read_outcomes(store: Store, frame: Frame, metrics: Sequence[str]) -> StoredOutcomes:
    """The outcomes of ``metrics``, from the predictions of the frame's counted runs.

    What is found makes the logged values again, to the bit, in every run that has the metric. Else
    nothing is: statistics over other outcomes, or over a part of the runs, would not be the sheet's.

    Raises:
        InvalidInput: runs that measured a metric on other examples, or under other labels: named.
        TrackingError: a file of predictions or examples that is not what this program writes.
    """
    asked = tuple(dict.fromkeys(metrics))
    missing = {key: reason for key in asked if (reason := _why_not_ask(frame, key)) is not None}
    logged = _logged(frame, [key for key in asked if key not in missing])
    collected = _Collected(logged, StoredExamples(store, list(logged)))
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for run in _ahead(pool, lambda run_id: _read_run(store, run_id, logged[run_id]), logged):
            collected.add(run)
    found = {}
    for key in asked:
        if key not in missing:
            outcomes = collected.outcomes(key)
            if isinstance(outcomes, Outcomes):
                found[key] = outcomes
            else:
                missing[key] = outcomes
    return StoredOutcomes(found, missing)


def _why_not_ask(frame: Frame, metric: str) -> str | None:
    """Why runs need not be asked for a metric; None where they have to be."""
    if metric not in frame.values or frame.values.loc[frame.counted, metric].isna().all():
        return "no run has it"
    if metric not in frame.records:
        return "no record says how it was measured: another program logged it"
    if metric in frame.conflicts:
        one, other = frame.conflicts[metric]
        return f"runs {one} and {other} measured it in different ways"
    return None


def _logged(frame: Frame, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """By run id, in the frame's order, the values of ``metrics``; runs that have none are left out."""
    run_ids = frame.cells.loc[frame.counted, "run_id"]
    rows = frame.values.loc[frame.counted, list(metrics)].to_numpy(float)
    found = {
        str(run_id): {
            metric: float(value)
            for metric, value in zip(metrics, row, strict=True)
            if not np.isnan(value)
        }
        for run_id, row in zip(run_ids, rows, strict=True)
    }
    return {run_id: values for run_id, values in found.items() if values}


def _ahead(pool: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """As ``pool.map``, but nothing is begun long before it is used: the logits of runs are large."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == _THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# ---- one run ----


class _Data(NamedTuple):
    """What predictions are of: equal for metrics whose examples can be compared."""

    split: str
    digest: str
    label_map: str


@dataclass(frozen=True, eq=False)
class _Part:
    """What one pass of evaluation stored of the metrics on one split.

    Attributes:
        records: by metric key.
        answers: ``(N,)`` :func:`numbered` logits; None where none are stored.
    """

    data: _Data
    records: Mapping[str, Record]
    predictions: Predictions
    answers: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Run:
    """What a run stored: its parts and, by metrics that are in none, why not, as a clause."""

    run_id: str
    parts: tuple[_Part, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


def _read_run(store: Store, run_id: str, logged: Mapping[str, float]) -> _Run:
    """The predictions behind the ``logged`` metrics.

    Raises:
        TrackingError: a file is there, and is not what this program writes.
    """
    reasons = dict.fromkeys(logged, "no pass of its evaluation has the value that was logged")
    parts: dict[str, _Part] = {}  # by metric
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        try:
            with reading_errors(store.uri):
                files = run_files(store, run_id, folder)
                passes = evaluations_in(files, logged)
        except TrackingError as error:
            reason = str(error).removeprefix(f"run {run_id}: ")
            return _Run(run_id, reasons=dict.fromkeys(logged, reason))
        for place, document in passes:
            told = document["metrics"]
            records = {key: told[key] for key in logged if key in told and key not in parts}
            found, why_not = _read_pass(store, files, f"{place}/predictions.parquet", records)
            reasons |= why_not
            parts |= {key: part for part in found for key in part.records}
    return _Run(
        run_id,
        tuple(dict.fromkeys(parts.values())),
        {key: reason for key, reason in reasons.items() if key not in parts},
    )


def _read_pass(
    store: Store, files: RunFiles, path: str, records: Mapping[str, Record]
) -> tuple[list[_Part], dict[str, str]]:
    """The parts in one file and, by metrics that are not in it, why not."""
    by_data: dict[_Data, dict[str, Record]] = {}
    reasons = {}
    for key, record in records.items():
        data = _data(record)
        if data is None:
            reasons[key] = "its record is not whole"
        else:
            by_data.setdefault(data, {})[key] = record
    wanted: dict[str, list[str]] = {}
    for data, members in by_data.items():
        wanted.setdefault(data.split, []).extend(members)
    if not wanted:
        return [], reasons
    try:
        with reading_errors(store.uri):
            local = files.fetched(path)
    except (TrackingError, OSError) as error:
        return [], {**reasons, **dict.fromkeys(records, f"{path} cannot be fetched: {error}")}
    try:
        stored = read_predictions(local, wanted)
    except MALFORMED as error:
        raise malformed(files.run_id, path, error) from error
    parts = []
    for data, members in by_data.items():
        predictions = stored.get(data.split)
        if predictions is None:
            reasons |= dict.fromkeys(members, f"{path} has no split {data.split!r}")
        else:
            logits = predictions.logits
            answers = None if logits is None else numbered(logits)
            parts.append(_Part(data, members, predictions, answers))
    return parts, reasons


def _data(record: Record) -> _Data | None:
    """None for a record that is not whole."""
    parameters = record.get("parameters")
    split, digest = record.get("split"), record.get("split_digest")
    if not (isinstance(parameters, dict) and isinstance(split, str) and isinstance(digest, str)):
        return None
    return _Data(split, digest, canonical_json(parameters.get("label_map")))


# ---- all runs ----


class _Collected:
    """Outcomes of run after run; the first run on some data says in which order examples stand."""

    def __init__(self, logged: Mapping[str, Mapping[str, float]], examples: StoredExamples):
        self._logged = logged
        self._examples = examples
        self._references: dict[_Data, _Reference] = {}
        self._measured: dict[str, tuple[_Reference, Record]] = {}
        self._rows: dict[str, dict[str, np.ndarray]] = {}
        self._reasons: dict[str, dict[str, str]] = {}

    def add(self, run: _Run) -> None:
        """Take in what a run stored.

        Raises:
            InvalidInput: its examples are not those of an earlier run.
        """
        for metric, reason in run.reasons.items():
            self._reasons.setdefault(metric, {})[run.run_id] = reason
        for part in run.parts:
            if part.data not in self._references:
                self._references[part.data] = self._reference(run.run_id, part)
            reference = self._references[part.data]
            order = reference.order(run.run_id, part)
            reference.note_answers(run.run_id, part, order)
            for metric, record in part.records.items():
                self._measured.setdefault(metric, (reference, record))
                try:
                    row = reference.row(metric, part, order, self._logged[run.run_id][metric])
                except InvalidInput as error:
                    self._reasons.setdefault(metric, {})[run.run_id] = str(error)
                else:
                    self._rows.setdefault(metric, {})[run.run_id] = row

    def outcomes(self, metric: str) -> Outcomes | str:
        """Those of all runs that have the metric, or why there are none."""
        runs = tuple(run_id for run_id, values in self._logged.items() if metric in values)
        rows = self._rows.get(metric, {})
        if lacking := [run_id for run_id in runs if run_id not in rows]:
            return (
                f"{len(rows)} of {len(runs)} runs have usable outcomes: run {lacking[0]}: "
                f"{self._reasons[metric][lacking[0]]}"
            )
        reference, record = self._measured[metric]
        indices = reference.indices(metric, record)
        alike = reference.copies
        return Outcomes(
            metric=metric,
            run_ids=runs,
            example_ids=reference.split.example_ids[indices],
            values=np.stack([rows[run_id] for run_id in runs]),
            is_mean=is_mean(record),
            copies=None if alike is None else numbered(alike[indices][:, None]),
        )

    def _reference(self, run_id: str, part: _Part) -> _Reference:
        predictions = part.predictions
        described = self._examples.of(part.data.split, part.data.digest, predictions)
        classes = next(iter(part.records.values())).get("classes")
        return _Reference(
            run_id, part, _split(part.data, predictions, described, classes), described
        )


def _split(
    data: _Data, predictions: Predictions, described: Examples | None, classes: int | None
) -> Split:
    """A split without images; without groups too where nothing describes its examples."""
    labels = predictions.labels
    number = max(int(labels.max()) + 1, classes if isinstance(classes, int) else 0)
    names = {label: str(label) for label in range(number)}
    if described is not None:
        names |= dict(zip(labels.tolist(), described.class_names.tolist(), strict=True))
    return Split(
        name=data.split,
        images=np.empty((len(labels), 1, 0, 0), np.float32),
        labels=labels,
        example_ids=np.array(predictions.ids.to_pylist()),
        class_names=tuple(names[label] for label in range(number)),
        groups={} if described is None else described.groups,
        mean=(),
        std=(),
        digest=data.digest,
    )


class _Reference:
    """The examples of some data as the first run lists them, by which those of others are aligned.

    Attributes:
        split: its examples, in that run's order.
    """

    def __init__(self, run_id: str, part: _Part, split: Split, described: Examples | None):
        self.split = split
        self._run_id = run_id
        self._ids: pa.Array = part.predictions.ids
        self._described = described is not None
        self._indices: dict[str, np.ndarray] = {}
        self._answers: dict[str, np.ndarray] = {}
        self._classes = 0

    def order(self, run_id: str, part: _Part) -> np.ndarray | None:
        """``(N,)`` positions here of the examples of another run; None where they are the same.

        Raises:
            InvalidInput: other examples, or other labels.
        """
        theirs = part.predictions
        differ = f"{next(iter(part.records))}: runs were measured on other examples: "
        if theirs.ids.equals(self._ids):
            order, expected = None, self.split.labels
        else:
            if len(theirs.ids) != len(self._ids):
                raise InvalidInput(
                    f"{differ}run {self._run_id} has {len(self._ids)} examples, "
                    f"run {run_id} {len(theirs.ids)}"
                )
            order = pd.Index(self.split.example_ids).get_indexer(theirs.ids.to_pylist())
            if (strange := np.flatnonzero(order < 0)).size:
                raise InvalidInput(
                    f"{differ}run {run_id} has {strange.size} that run {self._run_id} has not, "
                    f"{theirs.ids[strange[0]].as_py()!r} among them"
                )
            expected = self.split.labels[order]
        if (wrong := np.flatnonzero(theirs.labels != expected)).size:
            example = theirs.ids[wrong[0]].as_py()
            raise InvalidInput(
                f"{next(iter(part.records))}: runs were measured under other labels: example "
                f"{example!r} has label {expected[wrong[0]]} in run {self._run_id}, "
                f"{theirs.labels[wrong[0]]} in run {run_id}"
            )
        return order

    def note_answers(self, run_id: str, part: _Part, order: np.ndarray | None) -> None:
        """Keep what tells copies; of several passes of a run the first will do."""
        if part.answers is None or part.predictions.logits is None or run_id in self._answers:
            return
        answers = part.answers
        if order is not None:
            answers = np.empty_like(part.answers)
            answers[order] = part.answers
        self._answers[run_id] = answers.astype(np.int32)
        self._classes = max(self._classes, part.predictions.logits.shape[1])

    @cached_property
    def copies(self) -> np.ndarray | None:
        """As :func:`~mm_mlflow.statistics.copies.copies`, once all runs are in; None where no logits are
        stored."""
        answers = list(self._answers.values())
        return copies(np.stack(answers), self._classes) if answers else None

    def indices(self, metric: str, record: Record) -> np.ndarray:
        """``(n,)`` positions here of the examples that a metric is over.

        Raises:
            InvalidInput: what is stored does not tell them.
        """
        if metric not in self._indices:
            self._indices[metric] = self._select(record, self.split)
        return self._indices[metric]

    def row(self, metric: str, part: _Part, order: np.ndarray | None, logged: float) -> np.ndarray:
        """``(n,)`` outcomes of one run in the order of :meth:`indices`.

        Raises:
            InvalidInput: a clause that says what is wrong with what the run stored.
        """
        record, indices = part.records[metric], self.indices(metric, part.records[metric])
        if order is None:
            return _checked(metric, part, self.split, indices, logged)
        # In the run's own order, in which it took the mean: sums of floats depend on it.
        own = _reordered(self.split, order)
        chosen = self._select(record, own)
        everywhere = np.full(len(order), np.nan)
        everywhere[order[chosen]] = _checked(metric, part, own, chosen, logged)
        row: np.ndarray = everywhere[indices]
        if np.isnan(row).any():
            raise InvalidInput("it measured other examples of the same split")
        return row

    def _select(self, record: Record, split: Split) -> np.ndarray:
        try:
            is_mean(record)  # a record of another version is refused before groups are looked for
            indices = self._recorded_indices(record, split)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"its record is not whole: {error!r}") from error
        if len(indices) != record.get("n"):
            raise InvalidInput(
                f"it stored {len(indices)} examples, and its record says {record.get('n')}"
            )
        return indices

    def _recorded_indices(self, record: Record, split: Split) -> np.ndarray:
        try:
            return recorded_indices(record, split)
        except InvalidInput as error:
            if self._described:
                raise
            raise InvalidInput(f"no examples.parquet describes its examples: {error}") from error


def _reordered(split: Split, order: np.ndarray) -> Split:
    return replace(
        split,
        labels=split.labels[order],
        example_ids=split.example_ids[order],
        groups={attribute: values[order] for attribute, values in split.groups.items()},
    )


def _checked(
    metric: str, part: _Part, split: Split, indices: np.ndarray, logged: float
) -> np.ndarray:
    """``(n,)`` outcomes at ``indices``, which give the value that was logged.

    Raises:
        InvalidInput: they are not stored, or are others.
    """
    record, predictions = part.records[metric], part.predictions
    if metric in predictions.columns:
        outcomes: np.ndarray = predictions.columns[metric][indices]
        if not ((outcomes >= 0) & (outcomes <= 1)).all():
            raise InvalidInput("its column has gaps, or outcomes outside of 0 to 1")
    elif predictions.logits is not None and predictions.logits.dtype == np.float32:
        outcomes = recompute(record, predictions.logits[indices], predictions.labels[indices])
    else:
        raise InvalidInput("it stored neither outcomes nor float32 logits")
    value = recompute_value(record, outcomes, split, indices)
    if value != logged:
        raise InvalidInput(f"its outcomes give {value!r}, and {logged!r} was logged")
    return outcomes
