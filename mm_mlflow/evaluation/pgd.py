"""Accuracy under attack by projected gradient descent: security."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation.base import Intervention, check_strength, check_whole, number

if TYPE_CHECKING:
    from mm_mlflow.evaluation.probe import Batch, Probe

_GRANULE = 8  # batches shrink in steps of so many images


@dataclass(frozen=True, kw_only=True, repr=False)
class PGD(Intervention):
    """Accuracy under an L∞ attack by projected gradient descent: security (Section 3.5).

    Madry et al. (arXiv:1706.06083): from the clean image, steps along the sign of the gradient of
    the cross-entropy, each projected on the ball of radius δ and on [0, 1]. The paper names δ only;
    number and size of steps are ours. The value at a δ depends on no other δ.

    Attributes:
        delta: δ, the budget in L∞, in units of [0, 1] pixels; 0 is clean accuracy.
        steps: number of steps.
        step_size: in units of [0, 1] pixels; None is 2.5 δ / steps, as in Madry et al.'s code.
        until: ``any``: an example counts as correct only if neither the clean image nor any iterate
            is misclassified; ``last``: if the last iterate is not, as the paper and torchattacks do.
    """

    name: ClassVar[str] = "pgd"
    metric: ClassVar[str] = "pgd_accuracy"
    needs: ClassVar[Literal["logits", "inputs", "gradients"]] = "gradients"
    strengths: ClassVar[tuple[str, ...]] = ("delta",)
    monotone: ClassVar[bool] = True

    delta: float
    steps: int = 20
    step_size: float | None = None
    until: Literal["any", "last"] = "any"

    def __post_init__(self) -> None:
        check_strength("delta", self.delta, 1.0)
        check_whole("steps", self.steps, 1)
        if self.step_size is not None:
            check_strength("step_size", self.step_size, 1.0)
            if self.step_size == 0:
                raise InvalidInput("step_size 0 is not allowed: the attack would never move")
        if self.until not in {"any", "last"}:
            raise InvalidInput(f"until {self.until!r} is not allowed: any or last")

    @property
    def budget(self) -> float:
        return self.delta

    def outcomes(self, probe: Probe) -> np.ndarray:
        if self.delta == 0:
            return probe.clean_outcomes.copy()
        correct = np.zeros(len(probe))
        start = np.flatnonzero(probe.clean_outcomes) if self.until == "any" else None
        for batch in probe.batches(start):
            correct[self._attack(batch, probe)] = 1.0
        return correct

    def _attack(self, batch: Batch, probe: Probe) -> np.ndarray:
        """Positions of the examples of ``batch`` that stay correct."""
        step_size = 2.5 * self.delta / self.steps if self.step_size is None else self.step_size
        images = batch.images
        low, high = (images - self.delta).clamp_(min=0), (images + self.delta).clamp_(max=1)
        ascent = probe.clean_ascent(batch)
        alive = batch.labels >= 0  # all
        for step in range(self.steps):
            images = images.add(ascent, alpha=step_size).clamp_(low, high)
            if step == self.steps - 1:
                alive = alive & probe.classify(images, batch)
                break
            correct, ascent = probe.ascent(images, batch)
            if self.until == "any":
                alive = alive & correct
                # What is misclassified once needs no further step. A few of these stay, though, to
                # keep to few batch sizes: each new one costs oneDNN some milliseconds.
                left = int(alive.sum())
                size = math.ceil(left / _GRANULE) * _GRANULE
                if size < len(batch):
                    kept = alive.argsort(descending=True, stable=True)[:size]
                    batch, alive, images = batch.take(kept), alive[kept], images[kept]
                    low, high, ascent = low[kept], high[kept], ascent[kept]
                if left == 0:
                    break
        positions: np.ndarray = batch.positions[alive.cpu()].numpy()
        return positions

    @property
    def title(self) -> str:
        return f"PGD accuracy, δ = {number(self.delta)}"

    def describe(self) -> str:
        judged = "at no step of" if self.until == "any" else "after the last step of"
        outcome = "misclassified" if self.until == "any" else "still classified correctly"
        return (
            f"The fraction of examples that are {outcome} {judged} a {self.steps}-step PGD attack "
            f"that may change every pixel by up to {number(self.delta)} of the range from 0 to 1."
        )
