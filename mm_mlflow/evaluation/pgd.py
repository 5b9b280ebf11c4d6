"""Accuracy under attack by projected gradient descent: security."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation.base import Intervention, check_strength, check_whole, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from mm_mlflow.evaluation.probe import Probe


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
        todo = np.arange(len(probe))
        if self.until == "any":
            todo = np.flatnonzero(probe.clean_outcomes)
        survivors = [positions.cpu().numpy() for positions in self._attack(probe, todo)]
        correct = np.zeros(len(probe))
        correct[np.concatenate(survivors)] = 1.0
        return correct

    def _attack(self, probe: Probe, todo: np.ndarray) -> Iterator[Tensor]:
        """Positions of those of ``todo`` that stay correct, as they come to their last step.

        What is misclassified once needs no further step. Its place in the batch goes to the next
        example, so that batches stay full, small enough for a processor's cache, and of one size
        (each new one costs oneDNN milliseconds).
        """
        import torch  # here: plans are made, and records read, without it

        step_size = 2.5 * self.delta / self.steps if self.step_size is None else self.step_size
        probe.prepare_ascent(todo)
        batch, rest = probe.batch(todo[: probe.batch_size]), todo[probe.batch_size :]
        images, ascent = batch.images, probe.clean_ascent(batch)
        steps = torch.zeros_like(batch.labels)
        yield batch.positions[:0]
        while len(batch):
            low, high = (batch.images - self.delta), (batch.images + self.delta)
            images = images.add(ascent, alpha=step_size).clamp_(
                low.clamp_(min=0), high.clamp_(max=1)
            )
            steps += 1
            correct, ascent = probe.ascent(images, batch)
            done = steps == self.steps
            yield batch.positions[(done & correct).cpu()]
            stays = ~done & correct if self.until == "any" else ~done
            kept = stays.nonzero()[:, 0]
            if len(kept) < len(batch):
                new = probe.batch(rest[: len(batch) - len(kept)])
                rest = rest[len(new) :]
                batch = batch.take(kept).join(new)
                images = torch.cat([images[kept], new.images])
                ascent = torch.cat([ascent[kept], probe.clean_ascent(new)])
                steps = torch.cat([steps[kept], torch.zeros_like(new.labels)])

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
