"""Made-up experiments for trying renderers: a realistic one, and sheets that are hard to render.

Every renderer, ours or a third party's, must turn each of :data:`SHEETS` into the same bytes twice.
The values are drawn, nothing was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from mm_mlflow.chance import Evidence
from mm_mlflow.design import Cell, Design
from mm_mlflow.frame import ExperimentRef, Frame, RawRun, conform
from mm_mlflow.report import Report, build_report
from mm_mlflow.rules import Require, Rule, Threshold, Top
from mm_mlflow.selection import Selection, build_selection
from mm_mlflow.sheet import Sheet, build_sheet
from mm_mlflow.statistics.outcomes import Outcomes

STAR = """
name: digits_skewed
dataset: {name: digits_skewed}
training: {epochs: 30}
default: {learning_rate: 0.1, batch_size: 64, augmentation: randaugment, optimizer: sgd,
          architecture: conv}
axes:
  learning_rate: [0.1, 0.05, 0.01]
  batch_size: [64, 32, 160]
  augmentation: [randaugment, trivialaugment]
  optimizer: [sgd, {name: adam_scaled, training: {optimizer: adam}}]
  architecture: [conv, resnet8, mlp]
seeds: 5
"""
SMALL = """
name: small
dataset: {name: digits_skewed}
training: {epochs: 1}
default: {learning_rate: 0.1}
axes: {learning_rate: [0.1, 0.05, 0.01]}
seeds: 2
"""
# key, title, what it is, examples, mean, sd of configurations and of runs
METRICS: tuple[tuple[str, str, str, int, float, float, float], ...] = (
    ("accuracy", "Accuracy", "The part of the test examples that a model classifies correctly",
     719, 0.972, 0.003, 0.004),
    ("group_accuracy/skew-minority", "Group accuracy (skew minority)",
     "Accuracy on the test examples of one group only: skew minority", 110, 0.914, 0.01, 0.018),
    ("group_accuracy/skew-majority", "Group accuracy (skew majority)",
     "Accuracy on the test examples of one group only: skew majority", 609, 0.982, 0.002, 0.003),
    ("ood_accuracy/grayscale", "OOD accuracy (grayscale)",
     "Accuracy on data from another distribution than the training data's", 719, 0.9, 0.02, 0.02),
    ("output_perturbation_accuracy/lambda-3", "Output perturbation accuracy (λ = 3)",
     "Expected accuracy when exponential noise of scale 3 is added to every logit", 719, 0.8, 0.02,
     0.008),
    ("output_perturbation_accuracy/lambda-5", "Output perturbation accuracy (λ = 5)",
     "Expected accuracy when exponential noise of scale 5 is added to every logit", 719, 0.62, 0.03,
     0.01),
    ("input_perturbation_accuracy/lambda-1", "Input perturbation accuracy (λ = 1)",
     "Accuracy when exponential noise of scale 1 is added to every normalised pixel", 719, 0.54,
     0.03, 0.02),
    ("pgd_accuracy/delta-0.015", "PGD accuracy (δ = 0.015)",
     "Accuracy under an attack that changes no pixel by more than 0.015 (L∞, 20 steps)", 719, 0.82,
     0.02, 0.015),
    ("pgd_accuracy/delta-0.03", "PGD accuracy (δ = 0.03)",
     "Accuracy under an attack that changes no pixel by more than 0.03 (L∞, 20 steps)", 719, 0.53,
     0.03, 0.02),
)  # fmt: skip


def frame(
    design: Design,
    metrics: Sequence[tuple[str, str, str, int, float, float, float]] = METRICS,
    *,
    missing: int = 0,
    diverged: int = 0,
    unit: str = "fraction",
) -> Frame:
    """Runs of every cell of ``design`` but the last ``missing``, which failed or never ran; the
    first ``diverged`` after the default's have outputs that are not finite."""
    records = {
        key: {"intervention": key.split("/")[0], "title": title, "description": what, "n": n,
              "unit": unit, "higher_is_better": True}
        for key, title, what, n, *_ in metrics
    }  # fmt: skip
    random = np.random.default_rng(0)
    cells = design.cells()
    shifts = {
        name: random.normal(size=len(metrics))
        for name in dict.fromkeys(cell.configuration for cell in cells)
    }
    runs = []
    first = len(design.seeds)
    for i, cell in enumerate(cells):
        noise = random.normal(size=len(metrics))
        values = {
            key: round((mean + a * shifts[cell.configuration][k] + b * noise[k]) * n) / n
            if unit == "fraction"
            else mean + a * shifts[cell.configuration][k] + b * noise[k]
            for k, (key, _, _, n, mean, a, b) in enumerate(metrics)
        }
        bad = first <= i < first + diverged
        if bad:
            values = dict.fromkeys(values, 71 / 719)
        lost = i >= len(cells) - missing
        if lost and i % 2:
            continue
        runs.append(_run(cell, i, {} if lost else values, records, lost=lost, bad=bad))
    return conform(runs, design, ExperimentRef("1", design.name))


def _run(
    cell: Cell,
    i: int,
    values: Mapping[str, float],
    records: Mapping[str, Mapping[str, Any]],
    *,
    lost: bool,
    bad: bool,
) -> RawRun:
    return RawRun(
        run_id=f"{i:04x}{cell.id[:28]}",
        name=cell.label,
        status="FAILED" if lost else "FINISHED",
        start_time=1_000 * i,
        end_time=1_000 * i + 900,
        params={},
        tags={
            "mm.kind": "cell",
            "mm.schema": "1",
            "mm.cell": cell.id,
            "mm.health": "diverged" if bad else "ok",
        },
        metrics=values,
        records=records,
    )


def report(text: str = STAR, *, predictions: bool = False, **arguments: Any) -> Report:
    """A report of nine metrics, with what chance would give where there are ``predictions`` (of all but
    the last two metrics); ``arguments`` are those of :func:`frame`."""
    design = Design.parse(text)
    shown = frame(design, **arguments)
    evidence = Evidence(outcomes(shown, METRICS[:-2])) if predictions else None
    return build_report(shown, design, evidence=evidence)


def sheet(text: str = STAR, metric: int = 0, **arguments: Any) -> Sheet:
    """The sheet of one of :data:`METRICS`; ``arguments`` are those of :func:`frame`."""
    design = Design.parse(text)
    chosen = METRICS[metric]
    return build_sheet(frame(design, [chosen], **arguments), design, chosen[0])


HOSTILE = (
    "<script>alert('x')</script> & \"q\" | `c` *b* _u_ \\input{x} $1% #{} ~^ Δ é 日本 🦊\x00\n"
)


def _hostile() -> Sheet:
    whole = sheet(SMALL)
    long = HOSTILE + "x" * 300
    table = whole.tables[0]
    table = replace(
        table,
        axis=HOSTILE,
        levels=(HOSTILE, long, "=1+1"),
        run_names=tuple(tuple(HOSTILE for _ in row) for row in table.run_names),
    )
    return replace(
        whole,
        metric=HOSTILE,
        title=long,
        description=long,
        seed_axis=HOSTILE,
        experiment=ExperimentRef(HOSTILE, HOSTILE),
        tables=(table,),
    )


def _hole() -> Sheet:
    """A row without any value."""
    design = Design.parse(SMALL)
    full = frame(design, METRICS[:1])
    values = full.values.copy()
    values.iloc[2:4] = np.nan
    return build_sheet(replace(full, values=values), design, "accuracy")


def _nothing() -> Sheet:
    """No value anywhere."""
    design = Design.parse(SMALL)
    full = frame(design, METRICS[:1])
    return build_sheet(replace(full, values=full.values * np.nan), design, "accuracy")


def _overflow() -> Sheet:
    """Values that floats hold, and whose differences they do not."""
    design = Design.parse(SMALL)
    full = frame(design, METRICS[:1], unit="raw")
    values = full.values.copy()
    values["accuracy"] = [1e308, -1e308, 0.0, 1.5e308, -1e308, 1.0]
    return build_sheet(replace(full, values=values), design, "accuracy")


def _brackets() -> Sheet:
    """Levels that LaTeX would take for arguments of the commands before them."""
    sizes = SMALL.replace("0.1, 0.05, 0.01", "none, '*', '[64, 32]'")
    return sheet(
        sizes.replace("learning_rate: 0.1", "learning_rate: none").replace(
            "learning_rate", "augmentation"
        )
    )


def _within() -> Sheet:
    design = Design.parse(STAR)
    return build_sheet(frame(design, METRICS[:1]).near_best(0.01), design, "accuracy")


def _large() -> Sheet:
    """60 levels, some with long names, and 30 seeds."""
    levels = ", ".join(f"policy-{i}{'-and-more' * (i % 7)}" for i in range(60))
    text = SMALL.replace("learning_rate: [0.1, 0.05, 0.01]", f"augmentation: [{levels}]")
    text = text.replace("learning_rate: 0.1", "augmentation: policy-0").replace(
        "seeds: 2", "seeds: 30"
    )
    return sheet(text)


def judged(text: str = STAR, *, predictions: bool = True, **arguments: Any) -> Sheet:
    """As :func:`sheet`, of accuracy, with what chance would give; ``arguments`` are those of
    :func:`frame`."""
    design = Design.parse(text)
    shown = frame(design, METRICS[:1], **arguments)
    evidence = Evidence(outcomes(shown, METRICS[:1]) if predictions else {})
    (found,) = build_report(shown, design, [METRICS[0][0]], evidence=evidence).sheets
    return found


def _judged_hostile() -> Sheet:
    """The hostile sheet, with statistics that name it."""
    whole, named = judged(SMALL.replace("seeds: 2", "seeds: 4")), _hostile()
    found, table = whole.statistics, whole.tables[0]
    if found is None or table.statistics is None:  # it was made with statistics
        return named
    long = HOSTILE + "x" * 300
    table = replace(
        table,
        axis=HOSTILE,
        levels=named.tables[0].levels,
        statistics=table.statistics.model_copy(update={"axis": HOSTILE}),
    )
    verdicts = [
        one.model_copy(update={"axis": HOSTILE if one.axis else None, "reason": long})
        for one in found.verdicts
    ]
    verdicts.append(verdicts[1].model_copy(update={"kind": "cannot_be_told"}))
    configurations = [one.model_copy(update={"name": long}) for one in found.configurations]
    changed = {
        "verdicts": tuple(verdicts),
        "configurations": tuple(configurations),
        "floor_reason": long,
    }
    return replace(
        whole,
        metric=HOSTILE,
        title=long,
        description=long,
        tables=(table,),
        statistics=found.model_copy(update=changed),
    )


def many_metrics() -> Report:
    """A report of 100 metrics with long names, on ten runs."""
    metrics = [
        (
            f"group_accuracy/attribute_{i % 9}-group_{i}{'.and-another-group' * (i % 4)}",
            f"Group accuracy, attribute {i % 9} = group_{i}{', and-another = group' * (i % 4)}",
            f"Accuracy on the test examples of group {i} only",
            20 + 7 * i, 0.5 + i / 250, 0.01, 0.02,
        )
        for i in range(99)
    ]  # fmt: skip
    design = Design.parse(SMALL.replace("seeds: 2", "seeds: 4"))
    return build_report(frame(design, [METRICS[0], *metrics], missing=1), design)


def selection() -> Selection:
    """Two rules over the realistic experiment, and one that nothing fulfils; with predictions."""
    design = Design.parse(STAR)
    on = [METRICS[1][0], METRICS[3][0]]
    rules: list[Rule] = [
        Top(Fraction(3, 4)),
        Top(Fraction(1, 2)),
        Require((Threshold(on[0], ">=", 1.0),)),
    ]
    full = frame(design)
    groups = {METRICS[1][0]: "minority", METRICS[2][0]: "majority"}
    records = {
        key: {
            **record,
            "split_digest": "grayscale" if key == METRICS[3][0] else "test",
            "group": {"skew": groups[key]} if key in groups else None,
            "parameters": {"dataset": {"name": "gray"} if key == METRICS[3][0] else None},
        }
        for key, record in full.records.items()
    }
    full = replace(full, records=records)
    kept = outcomes(full, METRICS[:-1])
    return build_selection(
        full, design.id, rules, on, outcomes=kept, missing={METRICS[-1][0]: "no predictions"}
    )


def outcomes(
    full: Frame, metrics: Sequence[tuple[str, str, str, int, float, float, float]]
) -> dict[str, Outcomes]:
    """Outcomes of every run of ``full`` that counts, by metric key: as many are right as its value says,
    the easy examples more often."""
    random = np.random.default_rng(1)
    counted = full.cells[full.counted]
    run_ids = tuple(counted["run_id"])
    found = {}
    for key, _, _, n, *_ in metrics:
        ease = random.normal(size=n)
        right = np.zeros((len(run_ids), n))
        for row, value in zip(right, full.values.loc[counted.index, key], strict=True):
            row[np.argsort(ease + random.normal(size=n))[: round(value * n)]] = 1.0
        ids = np.array([f"{key if key.startswith('ood') else ''}{i}" for i in range(n)])
        found[key] = Outcomes(key, run_ids, ids, right)
    return found


def _raw(factor: float) -> Sheet:
    metric = ("loss", "Loss", "Cross-entropy on the test examples", 719, 0.21 * factor,
              0.01 * factor, 0.02 * factor)  # fmt: skip
    design = Design.parse(SMALL)
    return build_sheet(frame(design, [metric], unit="raw"), design, "loss")


SHEETS: dict[str, Callable[[], Sheet]] = {
    "complete": sheet,
    "small": lambda: sheet(SMALL),
    "incomplete": lambda: sheet(SMALL, missing=3),
    "diverged": lambda: sheet(SMALL, diverged=1),
    "diverged and incomplete": lambda: sheet(missing=7, diverged=2),
    "all diverged": lambda: sheet(SMALL, diverged=4),
    "one seed": lambda: sheet(SMALL.replace("seeds: 2", "seeds: 1")),
    "raw": lambda: _raw(1.0),
    "raw tiny": lambda: _raw(1e-9),
    "raw huge": lambda: _raw(1e12),
    "hostile": _hostile,
    "row without values": _hole,
    "nothing": _nothing,
    "raw overflow": _overflow,
    "brackets": _brackets,
    "within": _within,
    "mixed": lambda: replace(sheet(SMALL), mixed=True),
    "large": _large,
    "judged": lambda: judged(SMALL.replace("seeds: 2", "seeds: 5")),
    "judged by a guide": lambda: judged(SMALL, predictions=False),
    "judged, one seed": lambda: judged(SMALL.replace("seeds: 2", "seeds: 1")),
    "judged, incomplete and diverged": lambda: judged(
        SMALL.replace("seeds: 2", "seeds: 5"), missing=3, diverged=1
    ),
    "judged, hostile": _judged_hostile,
}
