"""Two experiments A and B of the same configurations, metric by metric: what became more arbitrary?

Pure. Runs are matched by :mod:`mm_mlflow.matching`; the procedures are those of
:mod:`mm_mlflow.statistics.pairs`. What cannot be compared is named with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mm_mlflow.design import Design
from mm_mlflow.frame import DECISIVE, Frame, Unit, flipped_label_maps
from mm_mlflow.matching import Matching, Pairing, Party, first_few, match
from mm_mlflow.plan import Plan, plan_of
from mm_mlflow.sheet import delta
from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.multiple import benjamini_hochberg
from mm_mlflow.statistics.pairs import MeanChange, SpreadChange, mean_change, spread_change
from mm_mlflow.statistics.ranges import adjusted
from mm_mlflow.statistics.records import Record, SignificanceTest, known

SpreadVerdict = Literal["more", "less", "not shown", "cannot be told"]
MeanVerdict = Literal["higher", "lower", "not shown", "cannot be told"]


class Side(Record):
    """One of the two experiments, and how much of it is compared."""

    experiment_id: str
    experiment: str
    design_id: str
    planned: int
    """Planned cells; of plans that runs imply, cells that are there."""
    runs: int
    """Cells that a healthy run fills."""
    compared: int
    """Of these, runs of configurations that both experiments have."""
    unpaired: int
    """Of the compared runs, those whose seed the other experiment lacks in that configuration: they do
    not count for the means. All of them where means are paired by configuration."""
    diverged: int
    """Runs that diverged, which are not compared: one of them outweighs all that the others differ by."""
    only_here: list[str]
    """Configurations that are not compared, because the other experiment has no run of them."""


class Range(Record):
    """Δall over the compared runs of one experiment: highest minus lowest value."""

    n: int
    delta_all: float | None
    adjusted: float | None
    """``delta_all / d2(n)``: ranges of different numbers of runs compare. In units of the SD of normal
    values that have nothing in common."""


class MetricChange(Record):
    """One metric in both experiments; None where a number is undefined."""

    metric: str
    title: str
    unit: Unit
    higher_is_better: bool | None
    n_examples: int | None
    """Test examples behind each value; None if unknown."""
    range_a: Range
    range_b: Range
    spread: SpreadChange
    """Of runs within their configuration. The ``q`` of its test is over the spreads of all metrics."""
    verdict: SpreadVerdict
    """``more`` or ``less`` (B than A) where p of ``spread.test`` is at most 0.05; ``cannot be told`` where it
    has no p; else ``not shown``, which is not "unchanged"."""
    mean: MeanChange
    """The ``q`` of its test is over the means of all metrics."""
    mean_verdict: MeanVerdict


class NotCompared(Record):
    """A metric that is left out."""

    metric: str
    reason: str


class Change(Record):
    """What changed from experiment A to B: the content of ``change.json`` and of ``compare --json``, which
    begin with ``schema``, 1."""

    a: Side
    b: Side
    configurations: list[str]
    """Configurations that both have, as A calls them."""
    pairing: Pairing
    """What the means are paired by: cells of one configuration and seed, or, where the experiments
    share no seed, configurations with all their runs."""
    metrics: list[MetricChange]
    not_compared: list[NotCompared]
    judged: int
    """Metrics whose spread was judged: those with a p."""
    expected_false: float
    """How many of them would be called changed by chance if no spread had changed: ``0.05 judged``. True
    also where metrics go together."""
    notes: list[str]

    def verdicts(self, verdict: SpreadVerdict) -> list[MetricChange]:
        """The metrics of one verdict."""
        return [item for item in self.metrics if item.verdict == verdict]


def compare(
    frame_a: Frame,
    plan_a: Design | Plan,
    frame_b: Frame,
    plan_b: Design | Plan,
    metrics: Iterable[str] = (),
) -> Change:
    """What changed from A to B in ``metrics`` (by default all that have a sheet).

    Configurations match where their levels do. An axis with one level in A and one in B, the same or
    not, matches nothing out: it may be the very thing that was changed. Of an axis that the other
    experiment lacks only the default level is compared.

    Raises:
        InvalidInput: no configuration in common; an axis in one experiment alone, without a default;
            several runs of one configuration and seed; a metric that neither has.
    """
    a, b = Party(frame_a, plan_of(plan_a)), Party(frame_b, plan_of(plan_b))
    matching = match(a, b)
    keys = list(metrics) or [*dict.fromkeys([*frame_a.metrics, *frame_b.metrics])]
    reasons = {key: _refusal(frame_a, frame_b, key) for key in keys}
    compared = [_metric(matching, key) for key in keys if not reasons[key]]
    judged = sum(item.spread.test.p is not None for item in compared)
    return Change(
        a=_side(matching, 0),
        b=_side(matching, 1),
        configurations=matching.labels,
        pairing=matching.pairing,
        metrics=_with_q(compared),
        not_compared=[NotCompared(metric=key, reason=why) for key, why in reasons.items() if why],
        judged=judged,
        expected_false=ALPHA * judged,
        notes=[*matching.notes, *_notes(a, b, compared)],
    )


def _side(matching: Matching, side: int) -> Side:
    party = matching.parties[side]
    frame, plan = party.frame, party.plan
    compared = matching.rows[side].index
    paired = 0 if matching.pairs is None else len(matching.pairs)
    return Side(
        experiment_id=frame.experiment.id,
        experiment=frame.experiment.name,
        design_id=plan.id,
        planned=len(frame.cells),
        runs=int(party.healthy.sum()),
        compared=len(compared),
        unpaired=len(compared) - paired,
        diverged=int((frame.cells["status"] == "diverged").sum()),
        only_here=matching.only[side],
    )


# ---- metrics ----


def _refusal(frame_a: Frame, frame_b: Frame, metric: str) -> str:
    """Why ``metric`` is not compared; empty where it is.

    Raises:
        InvalidInput: neither experiment has it.
    """
    sides = (("A", frame_a), ("B", frame_b))
    if all(metric not in frame.values for _, frame in sides):
        frame_a.require(metric)
    for side, frame in sides:
        if metric not in frame.values or not frame.values[metric].notna().any():
            return f"no run of {side} has a value"
        if metric in frame.conflicts:
            return f"runs of {side} were measured with different parameters"
        if metric in flipped_label_maps(frame):
            return f"in {side} the two classes of its data seem to be swapped"
        if metric not in frame.records and any(metric in other.records for _, other in sides):
            return f"nothing says how it was measured in {side}"
    if differs := _difference(frame_a.records.get(metric, {}), frame_b.records.get(metric, {})):
        return differs
    directions = [frame.higher_is_better(metric) for _, frame in sides]
    if directions[0] is not directions[1]:
        words = {True: "more", False: "less", None: "nothing"}
        one, other = (words[found] for found in directions)
        return f"in A {one} is said to be better, in B {other}"
    return ""


# Of what a metric's value depends on, in words where its name is none.
_WORDS = {"split_digest": "data", "n": "number of examples"}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two records of a metric disagree about, of all that its value depends on."""
    for name in (*DECISIVE, "unit"):
        old, new = one.get(name), other.get(name)
        if old == new:
            continue
        what = _WORDS.get(name, name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            key = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
            what, old, new = key, old.get(key), new.get(key)
        return f"measured differently: {what} is {_brief(old)} in A and {_brief(new)} in B"
    return ""


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _metric(matching: Matching, metric: str) -> MetricChange:
    frame = matching.parties[0].frame
    x, y = matching.table(0, metric), matching.table(1, metric)
    spread = spread_change(x, y)
    mean = mean_change(*matching.paired(metric))
    n = frame.records.get(metric, {}).get("n")
    return MetricChange(
        metric=metric,
        title=frame.title(metric),
        unit=frame.unit(metric),
        higher_is_better=frame.higher_is_better(metric),
        n_examples=n,
        range_a=_range(x),
        range_b=_range(y),
        spread=spread,
        verdict=_verdict(spread.test, spread.difference, "more", "less"),
        mean=mean,
        mean_verdict=_verdict(mean.test, mean.difference, "higher", "lower"),
    )


def _verdict(test: SignificanceTest, difference: float | None, up: Any, down: Any) -> Any:
    if test.p is None or difference is None:
        return "cannot be told"
    if test.p > ALPHA:
        return "not shown"
    return up if difference > 0 else down


def _range(values: np.ndarray) -> Range:
    number, found = int(np.isfinite(values).sum()), float(delta(values))
    return Range(n=number, delta_all=known(found), adjusted=adjusted(found, number))


def _with_q(metrics: Sequence[MetricChange]) -> list[MetricChange]:
    """Benjamini and Hochberg's q, over the spreads and over the means of all metrics that have a p."""
    spreads = _false_discovery([item.spread.test for item in metrics])
    means = _false_discovery([item.mean.test for item in metrics])
    return [
        item.model_copy(
            update={
                "spread": item.spread.model_copy(update={"test": spread}),
                "mean": item.mean.model_copy(update={"test": mean}),
            }
        )
        for item, spread, mean in zip(metrics, spreads, means, strict=True)
    ]


def _false_discovery(tests: Sequence[SignificanceTest]) -> list[SignificanceTest]:
    found = benjamini_hochberg([test.p for test in tests])
    return [test.model_copy(update={"q": q}) for test, q in zip(tests, found, strict=True)]


# ---- notes ----


def _notes(a: Party, b: Party, compared: Sequence[MetricChange]) -> list[str]:
    """What readers must know before they read the numbers."""
    notes = []
    for side, party in (("A", a), ("B", b)):
        status = party.frame.cells["status"]
        if diverged := int((status == "diverged").sum()):
            notes.append(f"Diverged, and not compared: {_count(diverged, 'run')} of {side}.")
        if left := int((status == "excluded").sum()):
            notes.append(f"Left out on purpose: {_count(left, 'run')} of {side}.")
        if holes := int(status.isin(["missing", "failed"]).sum()):
            notes.append(f"Without a run: {holes} of the {_count(len(status), 'cell')} of {side}.")
        if doubles := len(party.frame.duplicates):
            notes.append(
                f"With several runs, of which the latest counts: {doubles} cells of {side}."
            )
        if party.plan.shared_seed:
            notes.append(
                f"The design of {side} declares that equal seeds share more than a label: where that moves "
                "all configurations together, and otherwise in the other experiment, chance calls a change "
                "more often than 5%."
            )
        notes += [f"{side}: {note}" for note in party.plan.notes]
    data = [set(party.frame.datasets.values()) for party in (a, b)]
    if all(data) and data[0] != data[1]:
        notes.append("The models of A and those of B were trained on different data.")
    if unsaid := [item.metric for item in compared if item.metric not in a.frame.records]:
        notes.append(
            "Nothing says how these were measured, so it is for you to know whether A and B did it alike: "
            f"{first_few(unsaid)}."
        )
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
