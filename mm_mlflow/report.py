"""A report: every sheet of an experiment, the summary over metrics, and what readers must know."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mm_mlflow.adoption import filled
from mm_mlflow.chance import Evidence, with_chance
from mm_mlflow.design import Design
from mm_mlflow.distribution import Distribution, build_distributions, single_distributions
from mm_mlflow.errors import InvalidInput
from mm_mlflow.figures import FigureRow, figure_rows
from mm_mlflow.frame import ExperimentRef, Frame, band, flipped_label_maps
from mm_mlflow.plan import Plan, plan_of
from mm_mlflow.selection import Selection, build_selection
from mm_mlflow.sheet import Sheet, build_sheet
from mm_mlflow.statistics.describe import SheetStatistics
from mm_mlflow.statistics.page import PageCount

_CONFIRM = "--confirm-labels"


@dataclass(frozen=True)
class SummaryRow:
    """One metric over all distinct runs.

    Attributes:
        n_examples: test examples behind each value, None if unknown.
        ratio: Δall divided by that of accuracy, None where that is unknown or 0. A larger ratio is
            also what a smaller ``n_examples`` gives by chance.
        low, high: the runs at the ends: ``(run id, run name, value)``; None below two runs.
        delta_all_adjusted: Δ over all healthy runs divided by d2 of their number; this and what follows
            are None where no statistics were computed.
        delta_all_by_chance: the Δ over all that flips of single test examples alone are expected to give,
            or the binomial upper guide, as ``floor`` says.
        delta_all_above_floor: the part of Δ over all that flips do not account for.
        verdicts: by what is judged (``run_to_run``, ``shared_seed``, axes as ``axis:NAME``), what is said.
    """

    metric: str
    title: str
    n_examples: int | None
    n_runs: int
    mean: float
    sd: float
    delta_all: float
    delta_all_healthy: float
    complete: bool
    unit: str
    ratio: float | None
    low: tuple[str, str, float] | None
    high: tuple[str, str, float] | None
    delta_all_adjusted: float | None = None
    delta_all_by_chance: float | None = None
    delta_all_above_floor: float | None = None
    floor: str | None = None
    verdicts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, NaN as null."""
        plain: dict[str, Any] = {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(self).items()
        }
        for end in ("low", "high"):
            if plain[end] is not None:
                plain[end] = dict(zip(("run_id", "run_name", "value"), plain[end], strict=True))
        return plain


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that a report run holds, before any rendering.

    Attributes:
        planned, counted: planned cells, and how many of them a run fills.
        sheets: one per metric, accuracy first.
        summary: one row per sheet, in the same order.
        cells: tidy: run, configuration, seed, metric, value; each run once.
        distributions: all runs per group and per strength (Figures 3, 6, 8).
        notes: sentences about holes, duplicates, checks and environments, the gravest first.
        selection: what the design selects, if it does (Section 4, Figure 9).
        judged: how much was judged, where the sheets have statistics.
    """

    experiment: ExperimentRef
    plan: Plan
    planned: int
    counted: int
    sheets: tuple[Sheet, ...]
    summary: tuple[SummaryRow, ...]
    cells: pd.DataFrame
    notes: tuple[str, ...]
    distributions: tuple[Distribution, ...] = ()
    selection: Selection | None = None
    judged: PageCount | None = None

    @property
    def figures(self) -> tuple[FigureRow, ...]:
        """Where each of the paper's figures is in this report."""
        pictures: dict[str, list[str]] = {}
        for item in self.distributions:
            pictures.setdefault(item.intervention, []).append(f"distributions/{item.name}.png")
        return figure_rows(
            self.plan.dataset,
            {f"sheets/{self.slug(s.metric)}/sheet.html": s.parameters for s in self.sheets},
            pictures,
            ("selection/selection.png",) if self.selection else (),
        )

    def slug(self, metric: str) -> str:
        """The folder of a metric's sheet."""
        return slugs([sheet.metric for sheet in self.sheets])[metric]


def slugs(keys: Sequence[str]) -> dict[str, str]:
    """A folder name per metric key: "/" as "__", and six hex digits wherever two would collide."""
    plain = {key: re.sub(r"[^A-Za-z0-9_.-]", "_", key.replace("/", "__"))[:120] for key in keys}
    # Case-folded: some artifact stores do not tell a from A.
    count = Counter(value.lower() for value in plain.values())
    return {
        key: f"{value}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
        if count[value.lower()] > 1 or set(value) <= {"."}
        else value
        for key, value in plain.items()
    }


def build_report(
    frame: Frame,
    design: Design | Plan,
    metrics: Iterable[str] = (),
    *,
    axes: Sequence[str] = (),
    mixed: bool = False,
    confirm_labels: bool = False,
    evidence: Evidence | None = None,
) -> Report:
    """Sheets of ``metrics`` (all by default) with their summary and notes.

    Metrics whose label map seems to be flipped (:func:`~mm_mlflow.frame.flipped_label_maps`) are left
    out with a note, unless ``confirm_labels`` says that it is as it should be. With ``evidence`` (an empty
    one will do) sheets say what chance would give; without, they are the paper's alone.

    Raises:
        InvalidInput: no planned cell has a run, a metric asked for by name seems to have its labels
            flipped, or as :func:`build_sheet`.
    """
    plan, counted = plan_of(design), frame.counted
    if not counted.any():
        raise InvalidInput(
            f"experiment {frame.experiment.name!r} holds no finished cell of design {plan.name!r} "
            f"({len(counted)} planned)"
        )
    asked = list(metrics)
    everything = _most_widespread(frame) if plan.inferred and not asked else frame.metrics
    flipped = {} if confirm_labels else flipped_label_maps(frame)
    for metric in asked:
        if metric in flipped:
            raise InvalidInput(f"{flipped[metric]}: map its labels, or confirm them ({_CONFIRM})")
    sheets = tuple(
        build_sheet(frame, plan, metric, axes=axes, mixed=mixed)
        for metric in (asked or [key for key in everything if key not in flipped])
    )
    left_out = () if asked else tuple(flipped.values())
    if not sheets and not left_out:
        raise InvalidInput(
            f"experiment {frame.experiment.name!r}: no run has a finite value of any metric"
        )
    judged = None
    if evidence is not None:
        sheets, judged = with_chance(sheets, frame, plan, evidence)
    reference = _reference(frame, plan)
    selection, not_shown = (
        (None, [])
        if asked
        else _selection(frame, plan, evidence, mixed=mixed, confirm_labels=confirm_labels)
    )
    keys = [sheet.metric for sheet in sheets]
    return Report(
        experiment=frame.experiment,
        plan=plan,
        planned=len(counted),
        counted=int(counted.sum()),
        sheets=sheets,
        summary=tuple(_summary(sheet, frame, reference) for sheet in sheets),
        cells=_tidy(frame, keys),
        notes=(
            *(
                f"Left out: {found}. Map its labels, or confirm them ({_CONFIRM})."
                for found in left_out
            ),
            *not_shown,
            *(_left_metrics(frame, everything) if plan.inferred and not asked else ()),
            *plan.notes,
            *_notes(frame, sheets, "" if plan.inferred else "planned "),
        ),
        distributions=(
            *build_distributions(frame, keys),
            *(single_distributions(frame, keys) if plan.layout in {"none", "bins"} else ()),
        ),
        selection=selection,
        judged=judged,
    )


def _reference(frame: Frame, plan: Plan) -> float:
    """Δall of accuracy, for every ratio, though its own sheet is not asked for; NaN where there is none
    that is a fraction: runs of others may log it in percent."""
    if "accuracy" not in frame.values or frame.unit("accuracy") != "fraction":
        return math.nan
    return float(build_sheet(frame, plan, "accuracy", mixed=True).delta_all)


def _selection(
    frame: Frame, plan: Plan, evidence: Evidence | None, *, mixed: bool, confirm_labels: bool
) -> tuple[Selection | None, list[str]]:
    """What the design selects, or why that is not shown."""
    if plan.selection is None:
        return None, []
    try:
        rules, on = plan.selection.rules()
        return build_selection(
            frame, plan.id, rules, on, plan.selection.report,
            mixed=mixed, confirm_labels=confirm_labels,
            outcomes=evidence.outcomes if evidence else None,
            missing=evidence.missing if evidence else None,
        ), []  # fmt: skip
    except InvalidInput as error:  # runs that lack a metric, say: the sheets stand all the same
        return None, [f"The design's selection is not shown: {error}."]


MOST_METRICS = 40  # sheets of runs of other programs, unless more are asked for


def _most_widespread(frame: Frame) -> list[str]:
    """The metrics that most runs have, in their usual order."""
    keys = frame.metrics
    have = frame.values[keys].notna().sum()
    most = sorted(keys, key=lambda key: -int(have[key]))[:MOST_METRICS]
    return [key for key in keys if key in set(most) and have[key]]


def _left_metrics(frame: Frame, shown: Sequence[str]) -> list[str]:
    """What of the runs' metrics has no sheet, and how to get one."""
    notes = []
    if left := [key for key in frame.metrics if key not in set(shown)]:
        notes.append(
            f"{len(left)} more metrics have no sheet here ({some(left)}): --metric chooses, and takes * "
            "and ?."
        )
    about = [key for key in map(str, frame.values) if key.startswith("train_")]
    if training := [key for key in about if key not in {*shown, *left}]:
        notes.append(
            f"Metrics about training itself have no sheet ({some(training)}): --metric "
            "'train_*' shows them."
        )
    return notes


def _summary(sheet: Sheet, frame: Frame, reference: float) -> SummaryRow:
    names = frame.cells.set_index("run_id")["run_name"]
    low = high = None
    if sheet.delta_all_runs and sheet.ends:
        low, high = (
            (run_id, str(names[run_id]), value)
            for run_id, value in zip(sheet.delta_all_runs, sheet.ends, strict=True)
        )
    known = sheet.unit == "fraction" and math.isfinite(reference) and reference > 0
    return SummaryRow(
        metric=sheet.metric,
        title=sheet.title,
        n_examples=sheet.n_examples,
        n_runs=sheet.n_runs,
        mean=sheet.mean,
        sd=sheet.sd,
        delta_all=sheet.delta_all,
        delta_all_healthy=sheet.delta_all_healthy,
        complete=sheet.complete,
        unit=sheet.unit,
        ratio=sheet.delta_all / reference if known and math.isfinite(sheet.delta_all) else None,
        low=low,
        high=high,
        **_chance(sheet.statistics),
    )


def _chance(statistics: SheetStatistics | None) -> dict[str, Any]:
    if statistics is None:
        return {}
    floor = statistics.floor
    by_chance = floor.all_runs if floor else None
    return {
        "delta_all_adjusted": statistics.spread.adjusted_delta,
        "delta_all_by_chance": by_chance.expected if by_chance else None,
        "delta_all_above_floor": floor.delta_above_floor if floor else None,
        "floor": floor.source if floor else None,
        "verdicts": {
            verdict.subject if verdict.axis is None else f"axis:{verdict.axis}": verdict.kind
            for verdict in statistics.verdicts
        },
    }


def _tidy(frame: Frame, metrics: Sequence[str]) -> pd.DataFrame:
    counted = frame.cells[frame.counted]
    taken = {"run_id", "configuration", "seed", "status", "metric", "value"}
    axes = frame.axes.rename(columns=lambda name: f"param:{name}" if name in taken else name)
    wide = axes.loc[counted.index].assign(
        run_id=counted["run_id"],
        configuration=counted["configuration"],
        seed=counted["seed"],
        status=counted["status"],
    )
    order = ["run_id", "configuration", *axes.columns, "seed", "status"]
    parts = [
        wide[order].assign(metric=metric, value=frame.values.loc[counted.index, metric])
        for metric in metrics
    ]
    return pd.concat(parts, ignore_index=True)


def _notes(frame: Frame, sheets: Sequence[Sheet], planned: str) -> list[str]:
    notes = _holes(frame, planned)
    if frame.adopted:
        labels = [str(frame.cells.at[cell, "label"]) for cell in frame.adopted]
        notes.append(
            f"Adopted: {filled(len(labels))}; nobody has checked their data and training settings "
            f"({some(labels)})."
        )
    if frame.mismatched:
        digests = sorted({run.tags.get("mm.dataset", "none")[:12] for run in frame.mismatched})
        notes.append(
            f"{len(frame.mismatched)} finished runs were trained on other data (digest "
            f"{', '.join(digests)}) and do not count."
        )
    datasets = set(frame.datasets.values())
    if len(datasets) > 1:
        notes.append(
            f"Runs were trained on {len(datasets)} different sets of data (digests "
            f"{', '.join(sorted(digest[:12] for digest in datasets))}): do not compare them."
        )
    if frame.duplicates:
        number = len(frame.duplicates)
        notes.append(
            f"{number} {'cell has' if number == 1 else 'cells have'} more than one finished run; the latest "
            "counts, and each sheet says how far they differ."
        )
    if frame.extra:
        notes.append(f"{len(frame.extra)} runs belong to no planned cell and are not shown.")
    notes += [
        f"{sheet.title}: runs measured with different parameters are mixed here."
        for sheet in sheets
        if sheet.mixed
    ]
    shown = {sheet.metric for sheet in sheets}
    notes += [
        f"Shown all the same, as confirmed: {found}."
        for key, found in flipped_label_maps(frame).items()
        if key in shown
    ]
    notes += _checks(frame, shown)
    if changed := _environments(set(frame.environments.values())):
        notes.append(f"Runs were made in different environments: {changed}.")
    return notes


def _holes(frame: Frame, planned: str) -> list[str]:
    """Cells without a run, with one that diverged, or with one that was left out."""
    notes = []
    status = frame.cells["status"].value_counts()
    for word, meaning in [
        ("missing", "no finished run"),
        ("failed", "runs that all failed"),
    ]:
        if number := int(status.get(word, 0)):
            labels = frame.cells.loc[frame.cells["status"] == word, "label"].tolist()
            notes.append(
                f"Incomplete: {number} of {len(frame.cells)} {planned}cells have {meaning}, so every "
                f"Δ is a lower bound ({some(labels)})."
            )
    if number := int(status.get("diverged", 0)):
        labels = frame.cells.loc[frame.cells["status"] == "diverged", "label"].tolist()
        notes.append(
            f"Diverged: {number} runs gave losses or logits that are not finite; they are marked, "
            f"and Δ is given with and without them ({some(labels)})."
        )
    if frame.within is not None:
        notes.append(
            f"Only runs within {band(frame.within, frame.within_unit)} of the best accuracy are shown; "
            f"{int(status.get('excluded', 0))} were left out on purpose."
        )
    return notes


def _checks(frame: Frame, shown: Container[str]) -> list[str]:
    """What self-checks found, but for what they say of metrics that are not shown."""
    others = [key for key in frame.records if key not in shown]
    found = Counter(
        text
        for texts in frame.checks.values()
        for text in texts
        if not any(text.startswith(f"{key}:") for key in others)
    )
    return [
        f"Self-check, {number} of {int(frame.counted.sum())} runs: {text}"
        for text, number in sorted(found.items())
    ]


def some(labels: Sequence[str], limit: int = 6) -> str:
    """The first few labels, and how many more there are."""
    more = f", and {len(labels) - limit} more" if len(labels) > limit else ""
    return ", ".join(labels[:limit]) + more


def _environments(environments: Iterable[str]) -> str:
    """What differs between ``mm.env`` tags, and which values it takes; empty if nothing does."""
    parsed: list[dict[str, Any]] = []
    for text in environments:
        try:
            value = json.loads(text)
        except ValueError:
            value = {"environment": text}
        parsed.append(value if isinstance(value, dict) else {"environment": text})
    parts = []
    for key in sorted({key for environment in parsed for key in environment}):
        values = sorted({str(environment.get(key, "unknown")) for environment in parsed})
        if len(values) > 1:
            parts.append(f"{key} {' / '.join(values)}")
    return "; ".join(parts)
