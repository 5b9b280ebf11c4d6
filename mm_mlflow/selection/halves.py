"""Choosing on some of the test examples and looking at the others; the regret of choosing by accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mm_mlflow.frame import Frame
from mm_mlflow.selection.choosing import chooser
from mm_mlflow.selection.records import Choice
from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.statistics.regret import Regret, half_regrets, regret
from mm_mlflow.statistics.resampling import Values, halved, resampled
from mm_mlflow.statistics.split_half import split_half
from mm_mlflow.statistics.stability import stability

ACCURACY = "accuracy"  # what models are commonly chosen by


@dataclass(frozen=True, eq=False)
class Parts:
    """Metrics on parts of the test examples.

    Attributes:
        halves, resamples: None where a metric that is selected on has no outcomes.
        better: by key of ``halves``, 1.0 where more is better, -1.0 where less is, else None.
        missing: by metric key, why it is not there.
    """

    halves: Values | None
    resamples: Values | None
    better: Mapping[str, float | None]
    missing: Mapping[str, str]


def parts_of(
    frame: Frame,
    among: pd.Series,
    on: Sequence[str],
    shown: Sequence[str],
    outcomes: Mapping[str, Outcomes],
    missing: Mapping[str, str],
) -> Parts | None:
    """None where no predictions were asked for."""
    if not outcomes and not missing:
        return None
    wanted = dict.fromkeys([*on, *shown, *([ACCURACY] if ACCURACY in frame.values else [])])
    lacking = {key: missing.get(key, "no predictions") for key in wanted if key not in outcomes}
    lacking |= {
        key: "it is not the mean of its examples' outcomes"
        for key in wanted
        if key in outcomes and not outcomes[key].is_mean
    }
    run_ids = [
        str(run_id)
        for run_id in frame.cells.loc[among, "run_id"]
        if all(run_id in outcomes[key].run_ids for key in on if key not in lacking)
    ]
    for key in wanted:
        if key not in lacking:
            number = len(set(run_ids) - set(outcomes[key].run_ids))
            if number:
                lacking[key] = f"{number} of {len(run_ids)} runs have no predictions of it"
    there = [outcomes[key] for key in wanted if key not in lacking]
    better = {key: sign_or_none(frame, key) for key in wanted}
    if any(key in lacking for key in on) or len(run_ids) < 2:
        return Parts(None, None, better, lacking)
    selected_on = [outcomes[key] for key in on]
    return Parts(halved(there, run_ids), resampled(selected_on, run_ids), better, lacking)


def sign_or_none(frame: Frame, metric: str) -> float | None:
    """1.0 where more of the metric is better, -1.0 where less is, None where nothing says it."""
    higher = frame.higher_is_better(metric)
    return None if higher is None else 1.0 if higher else -1.0


def on_parts(frame: Frame, choice: Choice, on: Sequence[str], parts: Parts | None) -> Choice:
    """``choice`` with what choosing on halves and on resamples of the test examples shows."""
    if parts is None:
        return choice
    if parts.halves is None or parts.resamples is None:
        reasons = [f"{key}: {parts.missing[key]}" for key in on if key in parts.missing]
        return replace(choice, without="; ".join(reasons) or "fewer than 2 runs have predictions")
    choose = chooser(frame, choice.rule, on)
    return replace(
        choice,
        halves=split_half(
            parts.halves, len(on), choose, [parts.better[key] for key in parts.halves.metrics]
        ),
        stability=stability(parts.resamples, choose),
    )


def regrets(
    frame: Frame, among: pd.Series, metrics: Iterable[str], parts: Parts | None
) -> tuple[Regret, ...]:
    """What choosing by accuracy alone costs in every metric of a known direction."""
    first = sign_or_none(frame, ACCURACY)
    if ACCURACY not in frame.values or first is None:
        return ()
    on_halves = {}
    if parts and parts.halves and ACCURACY in parts.halves.metrics:
        keys = parts.halves.metrics
        better = [parts.better[key] for key in keys]
        on_halves = half_regrets(parts.halves, keys.index(ACCURACY), better)
    found = []
    for metric in metrics:
        sign = sign_or_none(frame, metric)
        both = frame.values.loc[among, [ACCURACY, metric]].astype(float).dropna()
        if metric == ACCURACY or sign is None or len(both) < 2:
            continue
        accuracy, values = both[ACCURACY].to_numpy(), both[metric].to_numpy()
        told = regret((ACCURACY, accuracy, first), (metric, values, sign))
        found.append(told.model_copy(update={"halves": on_halves.get(metric)}))
    return tuple(found)
