"""Simulated experiments in which the truth is known: what varies, and by how much."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from mm_mlflow.chance import Evidence
from mm_mlflow.design import Design
from mm_mlflow.frame import Frame
from mm_mlflow.render import samples
from mm_mlflow.report import Report, build_report
from mm_mlflow.sheet import Sheet
from mm_mlflow.statistics.outcomes import Outcomes

STAR = Design.parse(samples.STAR)


def world(
    design: Design = STAR,
    *,
    axis: float = 0.0,
    run: float = 0.0,
    seed: float = 0.0,
    examples: int = 1000,
    random: int = 0,
) -> tuple[Frame, Outcomes]:
    """Runs that answer ``examples`` questions of different hardness, each by itself; with effects, in
    standard deviations of flips: of the learning rate 0.01, of each run, of each seed."""
    generator = np.random.default_rng(random)
    chance = generator.beta(8, 1, examples)
    scale = math.sqrt(float((chance * (1 - chance)).sum())) / examples
    cells = design.cells()
    seeds = {s: generator.normal() * seed * scale for s in design.seeds}
    answers = []
    for cell in cells:
        shift = axis * scale * (cell.axes["learning_rate"] == 0.01)
        shift += run * scale * generator.normal() + seeds[cell.seed]
        moved = chance + shift * chance * (1 - chance) / (chance * (1 - chance)).mean()
        answers.append(generator.random(examples) < np.clip(moved, 0, 1))
    values = np.array(answers, dtype=float)
    full = samples.frame(design, samples.METRICS[:1])
    exact = full.values.copy()
    exact["accuracy"] = values.mean(axis=1)
    ids = full.cells["run_id"]
    outcomes = Outcomes("accuracy", tuple(ids), np.arange(examples).astype(str), values)
    record = {**full.records["accuracy"], "n": examples}
    return replace(full, values=exact, records={"accuracy": record}), outcomes


def judged(design: Design = STAR, **effects: Any) -> Report:
    """A report with what chance would give, of :func:`world`."""
    frame, outcomes = world(design, **effects)
    return build_report(frame, design, evidence=Evidence({"accuracy": outcomes}))


def kinds(sheet: Sheet) -> dict[str, str]:
    """What is said, by what it is about."""
    assert sheet.statistics is not None
    return {v.axis or v.subject: v.kind for v in sheet.statistics.verdicts}
