"""Distributions over all runs (Figures 3, 6, 8 and 9): strips of points side by side.

Each strip is a condensed multiplicity sheet: the values of one metric over all distinct runs, each
run once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mm_mlflow.design import canonical_json
from mm_mlflow.frame import Frame, Unit


@dataclass(frozen=True, eq=False)
class Strip:
    """One metric, or one selection of its runs.

    Attributes:
        label: what tells it from its neighbours: a group, a λ, a selection.
        metric: the metric key.
        values: ``(n,)`` float64, finite: one per run, in the order of the plan.
        run_ids: ``(n,)``, the run of each value.
        n_examples: examples behind each value, None if unknown.
        note: a few words below the label, such as ``23 of 45 runs``.
        band: where a comparison (random subsets of the same size) has its lowest and highest value,
            or None.
    """

    label: str
    metric: str
    values: np.ndarray
    run_ids: tuple[str, ...]
    n_examples: int | None = None
    note: str = ""
    band: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Distribution:
    """Strips on one scale.

    Attributes:
        name: file name without its ending.
        title, description: for people; the description is one plain sentence.
        unit: ``fraction`` (shown as percent) or ``raw``.
        strips: left to right, or top to bottom.
        intervention: whose metrics these are; empty where they are of several.
        figure: number of the paper's figure that shows the same of its models, or None.
    """

    name: str
    title: str
    description: str
    unit: Unit
    strips: tuple[Strip, ...]
    intervention: str = ""
    figure: int | None = None


# Strengths by the names of design files, and their symbols.
_SYMBOLS = {"lambda": "λ", "delta": "δ", "severity": "severity"}
_FIGURES = {"group_accuracy": 3, "output_perturbation": 6, "pgd": 8}
_DATA = ("split", "examples", "dataset")


def build_distributions(frame: Frame, metrics: Sequence[str] = ()) -> tuple[Distribution, ...]:
    """The distributions of a frame: groups and their intersections, and every strength in rising order.

    Metrics of one intervention on the same examples that differ in their group, or in one strength
    alone, stand in one distribution, if there are two of them; clean accuracy on the same examples
    comes first, as the reference. What a metric is, its record says; those of other programs have
    none and stand in none.

    Args:
        frame: planned cells and the runs that fill them.
        metrics: metric keys to choose from; all by default.
    """
    keys = [key for key in (metrics or frame.metrics) if key in frame.records]
    families: dict[tuple[Any, ...], list[str]] = {}
    for key in keys:
        if family := _family(frame.records[key]):
            families.setdefault(family, []).append(key)
    names: dict[str, int] = {}
    found = []
    for members in families.values():
        if len(members) < 2:
            continue
        distribution = _distribution(frame, members)
        number = names[distribution.name] = names.get(distribution.name, 0) + 1
        if number > 1:  # the same strengths with other parameters, or on other data
            distribution = replace(distribution, name=f"{distribution.name}-{number}")
        found.append(distribution)
    return tuple(found)


def single_distributions(frame: Frame, metrics: Sequence[str]) -> tuple[Distribution, ...]:
    """One distribution per metric: all runs that have it, each once. For runs that no table can hold."""
    found = []
    for i, metric in enumerate(metrics):
        values = frame.values[metric].where(frame.counted).dropna()
        if len(values) < 2:
            continue
        name = re.sub(r"[^A-Za-z0-9_-]", "_", metric)[:80]
        run_ids = tuple(frame.cells.loc[values.index, "run_id"])
        found.append(
            Distribution(
                name=f"all_runs-{i + 1}-{name}",
                title=frame.title(metric),
                description="The values of all runs: a point is a run, each run counted once.",
                unit=frame.unit(metric),
                strips=(Strip("all runs", metric, values.to_numpy(dtype=float), run_ids),),
            )
        )
    return tuple(found)


def _family(record: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What the metrics of one distribution share; None for a metric that stands alone."""
    parameters = record.get("parameters", {})
    data = tuple(str(parameters.get(name)) for name in _DATA)
    intervention = record.get("intervention")
    if intervention == "group_accuracy" and record.get("group"):
        return (intervention, data, tuple(record["group"]))
    strength = _strength(record)
    if strength is None:
        return None
    others = {k: v for k, v in parameters.items() if k not in {strength, "step_size", *_DATA}}
    return (intervention, data, canonical_json(others))


def _strength(record: Mapping[str, Any]) -> str | None:
    return next((name for name in _SYMBOLS if name in record.get("parameters", {})), None)


def _distribution(frame: Frame, members: Sequence[str]) -> Distribution:
    record = frame.records[members[0]]
    intervention = str(record["intervention"])
    data = tuple(record["parameters"].get(name) for name in _DATA)
    strips = [_strip(frame, key, *_order_and_label(frame.records[key])) for key in members]
    strips.sort(key=lambda pair: pair[0])
    reference = _reference(frame, data)
    shown = [strip for _, strip in strips]
    if reference and not any(label in {"λ = 0", "δ = 0"} for label in (s.label for s in shown)):
        shown.insert(0, reference)
    if record.get("group"):
        by = " and ".join(record["group"])
        name = "groups-" + "-".join(record["group"])
        title = f"Group accuracy by {by}"
        what = f"Accuracy of all runs on every group by {by}"
    else:
        strength = _strength(record)
        symbol = _SYMBOLS[strength or "severity"]
        kind = record["parameters"].get("kind")
        name = intervention if kind is None else f"{intervention}-{kind}"
        title = str(record.get("title", intervention)).rsplit(",", 1)[0] + f" by {symbol}"
        what = f"The values of all runs at every {symbol}"
    return Distribution(
        name=re.sub(r"[^A-Za-z0-9_-]", "_", name),
        title=title,
        description=f"{what}: a point is a run, each run counted once.",
        unit=frame.unit(members[0]),
        strips=tuple(shown),
        intervention=intervention,
        figure=_FIGURES.get(intervention),
    )


def _order_and_label(record: Mapping[str, Any]) -> tuple[Any, str]:
    if group := record.get("group"):
        return tuple(map(str, group.values())), ", ".join(map(str, group.values()))
    strength = _strength(record) or ""
    value = record["parameters"][strength]
    return value, f"{_SYMBOLS[strength]} = {value:g}"


def _strip(frame: Frame, key: str, order: Any, label: str) -> tuple[Any, Strip]:
    values = frame.values[key].where(frame.counted).dropna()
    return order, Strip(
        label=label,
        metric=key,
        values=values.to_numpy(dtype=float),
        run_ids=tuple(frame.cells.loc[values.index, "run_id"]),
        n_examples=frame.records[key].get("n"),
    )


def _reference(frame: Frame, data: Sequence[Any]) -> Strip | None:
    """Clean accuracy on the same examples."""
    for key, record in frame.records.items():
        same = tuple(record.get("parameters", {}).get(name) for name in _DATA) == tuple(data)
        if record.get("intervention") == "accuracy" and same and key in frame.values:
            return _strip(frame, key, 0, "all, clean")[1]
    return None
