"""What runs say of the examples that they were measured on: groups and names of classes."""

from __future__ import annotations

import fnmatch
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd

from mm_mlflow.errors import TrackingError
from mm_mlflow.tracking.predictions import (
    MALFORMED,
    Examples,
    Predictions,
    malformed,
    read_examples,
)
from mm_mlflow.tracking.reading import read_runs, run_files
from mm_mlflow.tracking.store import Store, reading_errors

logger = logging.getLogger(__name__)


class StoredExamples:
    """What runs say of the examples that they were measured on, read as far as it is asked for.

    Sweeps and ``evaluate`` store it on runs of their own, ``train`` on the cell.
    """

    def __init__(self, store: Store, run_ids: Sequence[str]):
        self._read: list[Examples] = []
        self._unread = self._all(store, run_ids)

    def of(self, split: str, digest: str, predictions: Predictions) -> Examples | None:
        """The description of all examples of ``predictions``, in their order; None if there is none.

        Raises:
            TrackingError: a file that is not what this program writes.
        """
        for found in chain(tuple(self._read), self._more()):
            if (found.split, found.digest) != (split, digest):
                continue
            order = pd.Index(found.ids.to_pylist()).get_indexer(predictions.ids.to_pylist())
            if len(found.ids) == len(order) and (order >= 0).all():
                labels = found.labels[order]
                if np.array_equal(labels, predictions.labels):
                    return replace(
                        found,
                        ids=predictions.ids,
                        labels=labels,
                        class_names=found.class_names[order],
                        groups={name: values[order] for name, values in found.groups.items()},
                    )
        return None

    def _more(self) -> Iterator[Examples]:
        for found in self._unread:
            self._read.append(found)
            yield found

    @staticmethod
    def _all(store: Store, run_ids: Sequence[str]) -> Iterator[Examples]:
        holders: list[str] = []
        for kind in ("sweep", "evaluation"):
            runs = read_runs(store, f"tags.`mm.kind` = '{kind}'")
            newest_first = sorted(runs, key=lambda run: run.start_time, reverse=True)
            holders += [run.run_id for run in newest_first]
        for run_id in (*holders, *run_ids):
            yield from _examples_of(store, run_id)


def _examples_of(store: Store, run_id: str) -> list[Examples]:
    """All that a run says of examples: nothing where its files are out of reach.

    Raises:
        TrackingError: a file that is not what this program writes.
    """
    found: list[Examples] = []
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        try:
            with reading_errors(store.uri):
                files = run_files(store, run_id, folder)
                names = [item.path for item in files.listed("")]
                paths = {
                    name: files.fetched(name)
                    for name in names
                    if fnmatch.fnmatchcase(name, "examples*.parquet")
                }
        except (TrackingError, OSError) as error:
            logger.warning("examples of run %s are passed over: %s", run_id, error)
            return []
        for name, path in paths.items():
            try:
                found += read_examples(path)
            except MALFORMED as error:
                raise malformed(run_id, name, error) from error
    return found
