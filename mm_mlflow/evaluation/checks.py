"""Self-checks: what would make the numbers of an evaluation a lie, found and recorded with the run.

Each check adds numbers to a JSON-able record, and a sentence to ``failed`` where it does not hold.
Nothing here raises: a run with a failed check is still a result, and its sheets say so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mm_mlflow import outcomes
from mm_mlflow.evaluation.base import Intervention
from mm_mlflow.evaluation.planning import Task
from mm_mlflow.evaluation.probe import Probe, Watch, forward
from mm_mlflow.split import Split

ROUNDING = 1e-6  # float32 pixels: x + δ and back
SMALL_GROUP = 30
# A larger δ also changes the step size, so single examples may come back; more is a broken attack.
MONOTONE_SLACK = 0.005
BATCH_TOLERANCE = 1e-3  # of logits between batches of different size, relative to the largest


@dataclass
class Checks:
    """What was looked at, and what failed, in words."""

    record: dict[str, Any] = field(default_factory=lambda: defaultdict(dict))
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """``{"failed": [sentence, ...], check: {...}, ...}``."""
        return {"failed": list(self.failed), **self.record}

    def deterministic(
        self, model: nn.Module, split: Split, *, batch_size: int, device: torch.device
    ) -> None:
        """In eval mode the same images give the same logits, in whatever company they are."""
        training = sum(module.training for module in model.modules())
        if training:
            self.failed.append(f"{training} modules of the model are in train mode, despite eval()")
        images = split.batch(slice(0, batch_size)).to(device)
        with torch.no_grad():
            first, second = forward(model, images), forward(model, images)
            same = torch.equal(first.nan_to_num(), second.nan_to_num())
            alone = forward(model, images[: (len(images) + 1) // 2])
        difference = (alone - first[: len(alone)]).abs().nan_to_num().max().item()
        scale = 1 + first.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
        self.record["deterministic"] = {"same_twice": same, "largest_batch_effect": difference}
        if not same:
            self.failed.append("the model is not deterministic in eval mode: two passes differ")
        elif difference > BATCH_TOLERANCE * scale:
            self.failed.append(
                f"logits depend on the rest of the batch, by up to {difference:.3g}: "
                "is a layer in train mode?"
            )

    def non_finite(self, split: Split, logits: np.ndarray) -> bool:
        """Logits are finite. Returns whether all are."""
        broken = int((~outcomes.finite(logits)).sum())
        self.record["non_finite"][split.name] = broken
        if broken:
            self.failed.append(
                f"logits are not finite on {broken} of {len(logits)} {split.name} examples"
            )
        return not broken

    def images(self, key: str, intervention: Intervention, watch: Watch) -> None:
        """Perturbed images, as the model saw them, keep to the budget and to [0, 1]."""
        seen = watch.read()
        if seen is None:
            return
        lowest, highest, distance = seen
        budget = intervention.budget
        self.record["images"][key] = {
            "lowest": _json(lowest),
            "highest": _json(highest),
            "largest_change": _json(distance),
            "budget": budget,
        }
        if budget is not None and not distance <= budget + ROUNDING:
            self.failed.append(f"{key}: an image changed by {distance:.6g}, above {budget:.6g}")
        # Written so that NaN fails.
        inside = lowest >= -ROUNDING and highest <= 1 + ROUNDING
        if intervention.bounded and not inside:
            self.failed.append(
                f"{key}: perturbed pixels from {lowest:.6g} to {highest:.6g} leave [0, 1]"
            )

    def zero_strength(self, key: str, intervention: Intervention, probe: Probe, size: int) -> None:
        """At strength 0, and as perturbed images are judged, outcomes are those of clean logits."""
        if not intervention.strengths:
            return
        part = probe.first(size)
        none = replace(intervention, **dict.fromkeys(intervention.strengths, 0))
        different = int((none.outcomes(part) != part.clean_outcomes).sum())
        if intervention.needs != "logits":
            (batch,) = part.batches()
            judged = part.classify(batch.images, batch).cpu().numpy()
            different += int((judged != part.clean_outcomes).sum())
        if intervention.needs == "gradients":
            judged = part.ascent(batch.images, batch)[0].cpu().numpy()
            different += int((judged != part.clean_outcomes).sum())
        self.record["zero_strength"][key] = {"examples": len(part), "different": different}
        if different:
            self.failed.append(
                f"{key}: at strength 0, {different} outcomes differ from clean accuracy's"
            )

    def gradients(self, probe: Probe) -> None:
        """Gradients at clean images are not zero on most examples, or an attack measures nothing."""
        name, zero, n = probe.split.name, probe.zero_gradients, int(probe.judged.sum())
        if not n:
            return
        self.record["zero_gradients"][name] = {"examples": n, "zero": zero}
        if 2 * zero > n:
            self.failed.append(
                f"gradients are zero on {zero} of {n} {name} examples: attacks measure nothing there"
            )

    def monotone(self, tasks: Sequence[Task], values: Mapping[str, float]) -> None:
        """More strength never helps: a smaller δ that hurts more is a broken attack."""
        families: dict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            if task.intervention.monotone:
                (strength,) = task.intervention.strengths
                rest = replace(task.intervention, **{strength: 0})
                families[rest.key_on(task.split.name, task.parameters["examples"])].append(task)
        for family in families.values():
            family.sort(key=_strength)
            for weaker, stronger in zip(family, family[1:], strict=False):
                gain = values[stronger.key] - values[weaker.key]
                self.record["monotone"][f"{weaker.key} {stronger.key}"] = gain
                if gain > max(MONOTONE_SLACK, 1.5 / weaker.n):
                    self.failed.append(
                        f"{weaker.key} hurts more than {stronger.key}, by {gain:.4f}"
                    )

    def groups(self, tasks: Sequence[Task]) -> None:
        """Groups are large enough for a fraction to mean something."""
        for task in tasks:
            n = task.n if task.group is not None else task.smallest_group
            if n is None:
                continue
            self.record["groups"][task.key] = n
            if n < SMALL_GROUP:
                which = "" if task.group is not None else " in the smallest group"
                self.failed.append(f"{task.key}: n = {n}{which}, below {SMALL_GROUP}")


def _strength(task: Task) -> float:
    (strength,) = task.intervention.strengths
    value: float = getattr(task.intervention, strength)
    return value


def _json(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
