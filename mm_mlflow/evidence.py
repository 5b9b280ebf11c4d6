"""What statistics are made from: which of an experiment's runs' predictions are read, and when."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mm_mlflow import tracking
from mm_mlflow.chance import Evidence
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.evaluation.planning import is_mean
from mm_mlflow.frame import Frame
from mm_mlflow.plan import Plan
from mm_mlflow.tracking import Store

logger = logging.getLogger(__name__)

MOST_VALUES, MOST_PREDICTIONS = 1_000, 200  # runs with statistics that nobody asked for

SKIPPED = f"Above {MOST_VALUES:,} runs, what chance would give is computed on request: --statistics values."


def gather(
    store: Store,
    frame: Frame,
    plan: Plan,
    metrics: Sequence[str],
    *,
    asked: str | None = None,
    n_examples: int | None = None,
) -> Evidence | None:
    """What statistics are made from; None where there are to be none.

    Args:
        store: where the runs are.
        frame: the experiment.
        plan: its plan.
        metrics: keys that sheets are made of.
        asked: ``values`` (of runs alone), ``predictions`` (per-example outcomes too) or None: predictions
            where a design plans at most 200 runs, else values, and nothing above 1,000 runs.
        n_examples: of metrics that do not tell it.

    Raises:
        TrackingError: predictions that were asked for cannot be read.
        InvalidInput: runs whose examples differ, where predictions were asked for.
    """
    number = int(frame.counted.sum())
    if asked is None and number > MOST_VALUES:
        return None
    gaps = frozenset(key for key, record in frame.records.items() if not _is_share(record))
    wanted = asked or ("values" if plan.inferred or number > MOST_PREDICTIONS else "predictions")
    if wanted == "values":
        unread = dict.fromkeys(
            frame.records, "predictions were not read (--statistics predictions)"
        )
        return Evidence(missing=unread, n_examples=n_examples, no_shares=gaps)
    try:
        stored = tracking.read_outcomes(store, frame, metrics)
    except (InvalidInput, TrackingError) as error:
        if asked is not None:
            raise
        # Nobody asked for them: the sheets stand without, and say why.
        logger.warning("predictions are left out: %s", error)
        unread = dict.fromkeys(metrics, f"predictions cannot be used: {error}")
        return Evidence(missing=unread, n_examples=n_examples, no_shares=gaps)
    return Evidence(stored.found, stored.missing, n_examples, gaps)


def _is_share(record: Mapping[str, Any]) -> bool:
    """Whether a metric is the share of test examples that are right, as far as this version knows."""
    try:
        return is_mean(record)
    except InvalidInput:
        # Of another version, or of a package that is not here: no guide is given for it.
        return False
