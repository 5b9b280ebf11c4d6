"""Selection of models (Section 4), and what it does to metrics that it did not look at (Figure 9).

A rule gives booleans by cell id, so that ``frame[mask]`` is again a frame. Beside every effect stands
what a random subset of the same size would show: fewer runs span a smaller range by chance alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from mm_mlflow.distribution import Distribution, Strip
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import ExperimentRef, Frame, band, flipped_label_maps
from mm_mlflow.rules import Pareto, Require, Rule, Threshold, Top, parse_top

FEW = 5  # selected runs below which a range says little


# ---- masks ----


def eligible(frame: Frame, metrics: Iterable[str]) -> pd.Series:
    """Booleans by cell id: runs with a finite value of every one of ``metrics``.

    Raises:
        InvalidInput: a metric that no run has.
    """
    names = list(metrics)
    for metric in names:
        frame.require(metric)
    return frame.counted & frame.values[names].notna().all(axis=1)


def top_fraction(
    frame: Frame, metrics: Sequence[str], fraction: Fraction | float | str
) -> pd.Series:
    """Runs among the best ⌈``fraction`` n⌉ of *every* metric, n being the eligible runs; ties kept.

    ``fraction`` is in (0, 1], and the count exact: 0.07 of 100 runs are 7, though the double nearest
    to 0.07 is a little more.
    """
    among = eligible(frame, metrics)
    share = fraction if isinstance(fraction, Fraction) else parse_top(fraction).fraction
    count = math.ceil(share * int(among.sum()))
    mask = among.copy()
    for metric in metrics:
        oriented = _oriented(frame, metric)[among]
        if count and len(oriented):
            mask[among] &= oriented >= np.sort(oriented.to_numpy())[-count]
    return mask


def pareto_front(frame: Frame, metrics: Sequence[str]) -> pd.Series:
    """Eligible runs that no other dominates: at least as good in every metric, better in one."""
    among = eligible(frame, metrics)
    points = np.column_stack([_oriented(frame, metric)[among].to_numpy() for metric in metrics])
    dominated = [
        bool(((points >= point).all(axis=1) & (points > point).any(axis=1)).any())
        for point in points
    ]
    mask = among.copy()
    mask[among] = ~np.array(dominated, dtype=bool)
    return mask


def thresholds(frame: Frame, bounds: Sequence[Threshold]) -> pd.Series:
    """Runs that keep every bound; a run without a value does not."""
    mask = eligible(frame, [bound.metric for bound in bounds])
    for bound in bounds:
        values = frame.values[bound.metric]
        mask &= values >= bound.bound if bound.sense == ">=" else values <= bound.bound
    return mask


def select(frame: Frame, rule: Rule, on: Sequence[str]) -> pd.Series:
    """The mask of ``rule`` on the metrics ``on``."""
    if isinstance(rule, Top):
        return top_fraction(frame, on, rule.fraction)
    if isinstance(rule, Pareto):
        return pareto_front(frame, on)
    return thresholds(frame, rule.thresholds) & eligible(frame, on)


def _oriented(frame: Frame, metric: str) -> pd.Series:
    """Values turned so that higher is better."""
    values = frame.values[metric].astype(float)
    higher = frame.higher_is_better(metric)
    if higher is None:
        raise InvalidInput(
            f"nothing says whether more of metric {metric!r} is better: --maximize or --minimize it, or "
            "use --require"
        )
    return values if higher else -values


# ---- what chance does ----


@dataclass(frozen=True)
class Chance:
    """Random subsets of a fixed size, each as likely as any other; exact, not sampled.

    Attributes:
        low, high: mean of their lowest and of their highest value.
        delta: mean of their ranges.
        share: of them, those whose range is at most as large as the one that was found.
    """

    low: float
    high: float
    delta: float
    share: float


def random_subsets(values: np.ndarray, size: int, found: float) -> Chance:
    """What the subsets of ``size`` of the ``(n,)`` values span, beside the range ``found``.

    With the values in order, C(i-1, size-1) of the C(n, size) subsets have the i-th as their
    highest; and C(j-i, size-1) have the i-th as lowest and end at the j-th or before.

    Raises:
        InvalidInput: ``size`` is not from 1 to n.
    """
    n = len(values)
    if not 1 <= size <= n:
        raise InvalidInput(f"size {size} is not allowed: 1 to {n}")
    ordered = np.sort(values)
    ranks = np.arange(n)
    weights = np.exp(_log_choose(ranks, size - 1) - _log_choose(np.array(n), size))
    high = float(weights @ ordered)
    low = float(weights @ ordered[::-1])
    # A hair of slack, on the scale of the values: a difference of fractions is rounded.
    slack = 16 * np.spacing(np.abs(ordered).max())
    ends = np.searchsorted(ordered, ordered + found + slack, side="right") - 1
    shares = np.exp(_log_choose(ends - ranks, size - 1) - _log_choose(np.array(n), size))
    return Chance(low=low, high=high, delta=high - low, share=min(1.0, float(shares.sum())))


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    """Log C(n, k), minus infinity where k > n."""
    n = np.asarray(n, dtype=float)
    enough = n >= k
    safe = np.where(enough, n, k)
    value: np.ndarray = gammaln(safe + 1) - gammaln(k + 1) - gammaln(safe - k + 1)
    return np.where(enough, value, -np.inf)


# ---- effects ----


@dataclass(frozen=True)
class Spread:
    """``n`` values of one metric; NaN where there are too few."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def delta(self) -> float:
        """Highest minus lowest; NaN below two values."""
        return self.high - self.low if self.n > 1 else math.nan


@dataclass(frozen=True)
class Effect:
    """One metric before and after one selection.

    Attributes:
        before: over all eligible runs that have the metric.
        after: over the selected ones.
        chance: random subsets as large as ``after``; None where it is empty.
    """

    metric: str
    title: str
    unit: str
    n_examples: int | None
    selected_on: bool
    before: Spread
    after: Spread
    chance: Chance | None


@dataclass(frozen=True, eq=False)
class Choice:
    """What one rule chose.

    Attributes:
        mask: booleans by cell id.
        reason: why it is empty, or what makes it hard to read; empty otherwise.
    """

    rule: Rule
    mask: pd.Series
    run_ids: tuple[str, ...]
    labels: tuple[str, ...]
    effects: tuple[Effect, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Selection:
    """Rules on the same metrics, side by side.

    Attributes:
        on: metric keys that were selected on.
        shown: metric keys whose distributions are shown.
        eligible: number of runs with a finite value of every metric of ``on``.
        within: only runs this close to the best accuracy were considered, or None.
        choices: one per rule.
        distributions: one per metric of ``shown``: all runs, then each choice.
        cells: tidy: run, configuration, seed, one column of booleans per rule, one per metric.
        notes: sentences about what readers must know.
    """

    experiment: ExperimentRef
    design_id: str
    on: tuple[str, ...]
    shown: tuple[str, ...]
    eligible: int
    within: float | None
    choices: tuple[Choice, ...]
    distributions: tuple[Distribution, ...]
    cells: pd.DataFrame
    notes: tuple[str, ...]


def build_selection(
    frame: Frame,
    design_id: str,
    rules: Sequence[Rule],
    on: Sequence[str],
    shown: Sequence[str] = (),
    *,
    mixed: bool = False,
    confirm_labels: bool = False,
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
    _refuse_percents(frame, rules)
    shown = tuple(shown) or tuple(
        key for key in frame.metrics if key not in on and key not in refused
    )
    choices = tuple(_choice(frame, rule, among, on, shown) for rule in rules)
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
        notes=_notes(frame, among, on, shown),
    )


def _refuse_percents(frame: Frame, rules: Sequence[Rule]) -> None:
    """98 for an accuracy can only be meant as percent, and no run would keep it."""
    for threshold in (t for rule in rules if isinstance(rule, Require) for t in rule.thresholds):
        if frame.unit(threshold.metric) == "fraction" and threshold.bound > 1:
            raise InvalidInput(
                f"require {threshold.text!r} is not allowed: {threshold.metric} is a fraction from "
                f"0 to 1; write {threshold.text}%"
            )


def _choice(
    frame: Frame, rule: Rule, among: pd.Series, on: Sequence[str], shown: Sequence[str]
) -> Choice:
    mask = select(frame, rule, on)
    chosen = frame.cells[mask]
    return Choice(
        rule=rule,
        mask=mask,
        run_ids=tuple(chosen["run_id"]),
        labels=tuple(chosen["label"]),
        effects=tuple(
            _effect(frame, metric, among, mask, selected_on=metric in on)
            for metric in dict.fromkeys([*shown, *on])
        ),
        reason=_reason(frame, rule, among, mask, on),
    )


def _reason(frame: Frame, rule: Rule, among: pd.Series, mask: pd.Series, on: Sequence[str]) -> str:
    number, all_of = int(mask.sum()), int(among.sum())
    if number >= FEW:
        return ""
    if number:
        return "a range over so few runs says little"
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
    frame: Frame, metric: str, among: pd.Series, mask: pd.Series, *, selected_on: bool
) -> Effect:
    before = _values(frame, metric, among).to_numpy()
    after = _values(frame, metric, mask).to_numpy()
    chance = random_subsets(before, len(after), float(np.ptp(after))) if len(after) else None
    return Effect(
        metric=metric,
        title=frame.title(metric),
        unit=frame.unit(metric),
        n_examples=frame.records.get(metric, {}).get("n"),
        selected_on=selected_on,
        before=_spread(before),
        after=_spread(after),
        chance=chance,
    )


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


def _notes(
    frame: Frame, among: pd.Series, on: Sequence[str], shown: Sequence[str]
) -> tuple[str, ...]:
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
    digests = {_data(frame.records.get(metric, {})) for metric in on} - {None}
    shared = [
        key for key in shown if key not in on and _data(frame.records.get(key, {})) in digests
    ]
    if shared:
        titles = "; ".join(map(frame.title, shared[:6]))
        more = f", and {len(shared) - 6} more" if len(shared) > 6 else ""
        notes.append(
            f"Measured on the same data as what was selected on: {titles}{more}. Such a metric "
            "moves with the selection even where runs differ by chance alone."
        )
    return tuple(notes)


def _data(record: Mapping[str, Any]) -> object:
    return record.get("split_digest")
