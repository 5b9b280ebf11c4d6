"""Rules applied, and what that does to metrics that were not looked at (Section 4, Figure 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mm_mlflow.distribution import Distribution, Strip
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import Frame, band, flipped_label_maps
from mm_mlflow.rules import Require, Rule
from mm_mlflow.selection.choosing import eligible, select, thresholds
from mm_mlflow.selection.halves import on_parts, parts_of, regrets
from mm_mlflow.selection.records import Choice, Effect, Selection, Spread
from mm_mlflow.selection.sharing import shared_examples, sharing_notes
from mm_mlflow.statistics.multiple import benjamini_hochberg
from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.statistics.subsets import FEW, Chance, random_subsets, subset_effect


def build_selection(
    frame: Frame,
    design_id: str,
    rules: Sequence[Rule],
    on: Sequence[str],
    shown: Sequence[str] = (),
    *,
    mixed: bool = False,
    confirm_labels: bool = False,
    outcomes: Mapping[str, Outcomes] | None = None,
    missing: Mapping[str, str] | None = None,
) -> Selection:
    """Apply ``rules`` on the metrics ``on``, and tell what that does to the metrics ``shown``.

    Args:
        frame: planned cells and the runs that fill them.
        design_id: of the design that planned them.
        rules: each gives a choice of its own.
        on: metric keys to select on.
        shown: metric keys to look at; by default every metric that is not selected on.
        mixed: whether runs may differ in how a metric was measured.
        confirm_labels: whether data whose two classes look swapped are as they should be.
        outcomes: by metric key, per-example outcomes, to choose on halves of the test examples.
        missing: by metric key, why there are none.

    Raises:
        InvalidInput: a metric that no run has, that runs measured differently, or whose labels seem
            to be flipped (:func:`~mm_mlflow.frame.flipped_label_maps`).
    """
    among = eligible(frame, on)
    for metric in shown:
        frame.require(metric)
    refused = {} if confirm_labels else {k: str(v) for k, v in flipped_label_maps(frame).items()}
    if not mixed:
        refused |= {
            key: f"{key}: runs {one} and {other} measured it with different parameters (--mixed)"
            for key, (one, other) in frame.conflicts.items()
        }
    for metric in (*on, *shown):
        if metric in refused:
            raise InvalidInput(f"{refused[metric]}: it cannot be part of a selection")
    _refuse_thresholds(frame, rules, on)
    shown = tuple(shown) or tuple(
        key for key in frame.metrics if key not in on and key not in refused
    )
    outcomes = outcomes or {}
    choices = tuple(_choice(frame, rule, among, on, shown, outcomes) for rule in rules)
    choices, judged = _with_q(choices)
    parts = parts_of(frame, among, on, shown, outcomes, missing or {})
    choices = tuple(on_parts(frame, choice, on, parts) for choice in choices)
    return Selection(
        experiment=frame.experiment,
        design_id=design_id,
        on=tuple(on),
        shown=shown,
        eligible=int(among.sum()),
        within=frame.within,
        choices=choices,
        distributions=tuple(
            _distribution(frame, metric, i, among, choices) for i, metric in enumerate(shown)
        ),
        cells=_tidy(frame, among, choices, [*on, *(key for key in shown if key not in on)]),
        notes=(*_notes(frame, among), *sharing_notes(choices)),
        regrets=regrets(frame, among, dict.fromkeys([*on, *shown]), parts),
        unhalved=parts.missing if parts else {},
        judged=judged,
        labels=dict(
            zip(frame.cells.loc[among, "run_id"], frame.cells.loc[among, "label"], strict=True)
        ),
    )


def _refuse_thresholds(frame: Frame, rules: Sequence[Rule], on: Sequence[str]) -> None:
    """98 for an accuracy can only be meant as percent, and no run would keep it; and what a rule looks
    at was selected on."""
    for threshold in (t for rule in rules if isinstance(rule, Require) for t in rule.thresholds):
        if threshold.metric not in on:
            raise InvalidInput(
                f"require {threshold.text!r} is not allowed: its metric is not among those selected on "
                f"({', '.join(on)})"
            )
        if frame.unit(threshold.metric) == "fraction" and threshold.bound > 1:
            raise InvalidInput(
                f"require {threshold.text!r} is not allowed: {threshold.metric} is a fraction from "
                f"0 to 1; write {threshold.text}%"
            )


def _choice(
    frame: Frame,
    rule: Rule,
    among: pd.Series,
    on: Sequence[str],
    shown: Sequence[str],
    outcomes: Mapping[str, Outcomes],
) -> Choice:
    mask = select(frame, rule, on)
    chosen = frame.cells[mask]
    return Choice(
        rule=rule,
        mask=mask,
        run_ids=tuple(chosen["run_id"]),
        labels=tuple(chosen["label"]),
        effects=tuple(
            _effect(frame, metric, among, mask, on, outcomes)
            for metric in dict.fromkeys([*shown, *on])
        ),
        reason=_reason(frame, rule, among, mask, on),
    )


def _reason(frame: Frame, rule: Rule, among: pd.Series, mask: pd.Series, on: Sequence[str]) -> str:
    number, all_of = int(mask.sum()), int(among.sum())
    if number >= FEW:
        return ""
    if number:
        return f"fewer than {FEW} runs: whatever they show is uncertain"
    if not all_of:
        return f"empty: no run has a finite value of every metric of {', '.join(on)}"
    if isinstance(rule, Require):
        best = "; ".join(
            f"{t.metric}: {int(thresholds(frame, [t])[among].sum())} of {all_of} runs keep {t.text}"
            for t in rule.thresholds
        )
        return f"empty: no run keeps every threshold ({best})"
    alone = "; ".join(f"{metric}: {int(select(frame, rule, [metric]).sum())}" for metric in on)
    return f"empty: no run is in the {rule.title} of every metric (each alone has {alone})"


def _values(frame: Frame, metric: str, mask: pd.Series) -> pd.Series:
    values: pd.Series = frame.values.loc[mask, metric].astype(float).dropna()
    return values


def _spread(values: np.ndarray) -> Spread:
    if not len(values):
        return Spread(0, math.nan, math.nan, math.nan)
    return Spread(len(values), float(values.mean()), float(values.min()), float(values.max()))


def _effect(
    frame: Frame,
    metric: str,
    among: pd.Series,
    mask: pd.Series,
    on: Sequence[str],
    outcomes: Mapping[str, Outcomes],
) -> Effect:
    values = _values(frame, metric, among)
    before, selected = values.to_numpy(), mask[values.index].to_numpy()
    after = before[selected]
    chance = random_subsets(before, len(after), float(np.ptp(after))) if len(after) else None
    sharing, shared = ("yes", ()) if metric in on else shared_examples(frame, metric, on, outcomes)
    subsets = None
    if sharing in {"no", "unknown"}:
        subsets = subset_effect(
            before,
            selected,
            frame.cells.loc[values.index, "configuration"].tolist(),
            higher_is_better=frame.higher_is_better(metric),
        )
    return Effect(
        metric=metric,
        title=frame.title(metric),
        unit=frame.unit(metric),
        n_examples=frame.records.get(metric, {}).get("n"),
        higher_is_better=frame.higher_is_better(metric),
        selected_on=metric in on,
        before=_spread(before),
        after=_spread(after),
        chance=chance,
        sharing=sharing,
        shares_with=tuple(frame.title(key) for key in shared),
        subsets=subsets,
    )


def _with_q(choices: Sequence[Choice]) -> tuple[tuple[Choice, ...], int]:
    """The choices with q beside the p of every mean, and how many have one."""
    p = [
        effect.subsets.mean.test.p if effect.subsets and effect.sharing == "no" else None
        for choice in choices
        for effect in choice.effects
    ]
    q = iter(benjamini_hochberg(p))
    done = tuple(
        replace(choice, effects=tuple(replace(effect, q=next(q)) for effect in choice.effects))
        for choice in choices
    )
    return done, sum(value is not None for value in p)


def _distribution(
    frame: Frame, metric: str, number: int, among: pd.Series, choices: Sequence[Choice]
) -> Distribution:
    ids = frame.cells["run_id"]

    def strip(label: str, mask: pd.Series, chance: Chance | None) -> Strip:
        values = _values(frame, metric, mask)
        return Strip(
            label=label,
            metric=metric,
            values=values.to_numpy(),
            run_ids=tuple(ids[values.index]),
            n_examples=frame.records.get(metric, {}).get("n"),
            note=f"{len(values)} of {int(among.sum())} runs",
            band=(chance.low, chance.high) if chance else None,
        )

    return Distribution(
        name=f"selection-{number}",
        title=frame.title(metric),
        description="",
        unit=frame.unit(metric),
        strips=(
            strip("all runs", among, None),
            *(
                strip(
                    choice.rule.title,
                    choice.mask,
                    next(e.chance for e in choice.effects if e.metric == metric),
                )
                for choice in choices
            ),
        ),
    )


def _tidy(
    frame: Frame, among: pd.Series, choices: Sequence[Choice], metrics: Sequence[str]
) -> pd.DataFrame:
    cells = frame.cells[among]
    columns: dict[str, Any] = {
        "run_id": cells["run_id"],
        "configuration": cells["configuration"],
        "seed": cells["seed"],
        **{
            f"selected:{choice.rule.name}": cells["run_id"].isin(choice.run_ids)
            for choice in choices
        },
    }
    for metric in metrics:
        name = metric
        while name in columns:
            name = f"metric:{name}"
        columns[name] = frame.values.loc[among, metric]
    return pd.DataFrame(columns).reset_index(drop=True)


def _notes(frame: Frame, among: pd.Series) -> tuple[str, ...]:
    notes = []
    left_out = int(frame.counted.sum() - among.sum())
    if left_out:
        notes.append(
            f"{left_out} of {int(frame.counted.sum())} runs lack a finite value of a metric that is "
            "selected on, and are left out."
        )
    if frame.within is not None:
        width = band(frame.within, frame.within_unit)
        excluded = int((frame.cells["status"] == "excluded").sum())
        notes.append(
            f"Only runs within {width} of the best accuracy are considered; {excluded} are left out "
            "on purpose."
        )
    if diverged := int((frame.cells["status"][among] == "diverged").sum()):
        notes.append(f"{diverged} runs diverged; they are ranked by their values like any other.")
    if frame.mismatched:
        notes.append(
            f"{len(frame.mismatched)} finished runs were trained on other data and do not count."
        )
    empty = int((~frame.counted & (frame.cells["status"] != "excluded")).sum())
    if empty:
        notes.append(f"{empty} of {len(frame.cells)} cells have no finished run.")
    return tuple(notes)
