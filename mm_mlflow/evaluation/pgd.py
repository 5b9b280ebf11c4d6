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

    from mm_mlflow.evaluation.probe import Batch, Probe


@dataclass(frozen=True, eq=False)
class _Iterates:
    """Examples on their way: their iterates, ``(b, C, H, W)``, and how many ``(b,)`` steps each took."""

    batch: Batch
    images: Tensor
    steps: Tensor

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, mask: Tensor) -> _Iterates:
        if mask.all():
            return self
        rows = mask.nonzero()[:, 0]
        return _Iterates(self.batch.take(rows), self.images[rows], self.steps[rows])

    def join(self, other: _Iterates) -> _Iterates:
        if not len(other):
            return self
        import torch  # here: plans are made, and records read, without it

        return _Iterates(
            self.batch.join(other.batch),
            torch.cat([self.images, other.images]),
            torch.cat([self.steps, other.steps]),
        )

    def split(self, size: int) -> tuple[_Iterates, _Iterates]:
        """The first ``size``, and the others."""
        first = self.steps.new_ones(len(self)).cumsum(0) <= size
        return self.take(first), self.take(~first)


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
        correct = np.zeros(len(probe))
        for positions in self._attack(probe, todo):
            correct[positions.cpu().numpy()] = 1.0
        return correct

    def _attack(self, probe: Probe, todo: np.ndarray) -> Iterator[Tensor]:
        """Positions of those of ``todo`` that stay correct, as their last iterates are judged.

        What is misclassified once needs no further step, and a last iterate needs no gradient. The
        places that fall free go to the next examples, so that batches stay full, small enough for a
        processor's cache, and of one size (each new one costs oneDNN milliseconds).
        """
        size = probe.batch_size
        probe.prepare_ascent(todo)
        moving, rest = self._begin(probe, todo[:size]), todo[size:]
        ended = moving.take(moving.steps < 0)
        while len(moving) or len(ended) or len(rest):
            is_last = moving.steps == self.steps
            ended, moving = ended.join(moving.take(is_last)), moving.take(~is_last)
            free = size - len(moving)
            if free and len(rest):
                moving = moving.join(self._begin(probe, rest[:free]))
                rest = rest[free:]
            elif len(ended) >= size or not len(moving):
                judged, ended = ended.split(size)
                correct = probe.classify(judged.images, judged.batch)
                yield judged.batch.positions[correct.cpu()]
            else:
                correct, ascent = probe.ascent(moving.images, moving.batch)
                moved = _Iterates(
                    moving.batch,
                    self._step(moving.images, ascent, moving.batch),
                    moving.steps + 1,
                )
                moving = moved.take(correct) if self.until == "any" else moved

    def _begin(self, probe: Probe, positions: np.ndarray) -> _Iterates:
        """The first iterates of these examples."""
        batch = probe.batch(positions)
        images = self._step(batch.images, probe.clean_ascent(batch), batch)
        return _Iterates(batch, images, batch.labels.new_ones(len(batch)))

    def _step(self, images: Tensor, ascent: Tensor, batch: Batch) -> Tensor:
        """The next iterates: up the loss, then onto the ball and [0, 1]."""
        step_size = 2.5 * self.delta / self.steps if self.step_size is None else self.step_size
        low = batch.images.sub_(self.delta).clamp_(min=0)
        high = batch.images.add_(self.delta).clamp_(max=1)
        return images.add(ascent, alpha=step_size).clamp_(low, high)

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
