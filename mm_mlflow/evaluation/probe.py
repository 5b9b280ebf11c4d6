"""A model as interventions see it: on some examples of a split, with what they share cached.

An intervention reaches the model through a :class:`Probe` only, which therefore sees every image
that is fed to it: how far it lies from the original, and whether it left [0, 1].
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mm_mlflow import outcomes
from mm_mlflow.errors import InvalidInput
from mm_mlflow.split import Split


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples of a probe.

    Attributes:
        positions: ``(b,)`` int64 on the CPU, positions among the probe's examples.
        labels: ``(b,)`` int64 on the device.
    """

    positions: Tensor
    labels: Tensor
    _originals: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def images(self) -> Tensor:
        """A copy of the clean images, ``(b, C, H, W)`` float32 in [0, 1] on the device."""
        return self._originals.clone()

    def take(self, rows: Tensor) -> Batch:
        """The examples in ``rows``, int64 positions in this batch, in that order."""
        return Batch(self.positions[rows.cpu()], self.labels[rows], self._originals[rows])

    def join(self, other: Batch) -> Batch:
        """The examples of both, this batch's first."""
        mine, others = vars(self).values(), vars(other).values()
        return Batch(*(torch.cat(pair) for pair in zip(mine, others, strict=True)))


class Watch:
    """What the images fed to a model were like, kept on the device until it is read."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None  # lowest, -highest, -distance: one running minimum

    def look(self, images: Tensor, originals: Tensor) -> None:
        """Take in one batch; NaN anywhere makes every number NaN."""
        lowest, highest = images.aminmax()
        down, up = (images - originals).aminmax()  # seven times as fast as torch.dist
        seen = torch.stack([lowest, -highest, torch.minimum(down, -up)])
        self._seen = seen if self._seen is None else torch.minimum(self._seen, seen)

    def read(self) -> tuple[float, float, float] | None:
        """Lowest and highest pixel, and largest ‖x' - x‖∞; None if no image was fed to the model."""
        if self._seen is None:
            return None
        lowest, highest, distance = self._seen.tolist()
        return lowest, -highest, -distance


class Probe:
    """A model, in eval mode with frozen parameters, on some examples of a split.

    Attributes:
        split: where the examples are from.
        indices: ``(n,)`` sorted, into the split.
        labels: ``(n,)`` int64.
        example_ids: ``(n,)`` strings.
        logits: ``(n, K)`` float32 of the clean images.
        batch_size: how many examples may reach the model at once.
        clean_outcomes: ``(n,)`` float64, 1.0 where the clean image is classified correctly.
        judged: ``(n,)`` booleans: examples whose gradient at the clean image was asked for.
        zero_gradients: for how many of them it is zero everywhere.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        indices: np.ndarray,
        split_logits: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.split = split
        self.indices = indices
        self.labels = np.asarray(split.labels[indices])
        self.example_ids = np.asarray(split.example_ids[indices])
        self.logits = split_logits[indices]
        self.clean_outcomes = outcomes.accuracy(self.logits, self.labels)
        self.zero_gradients: int = 0
        self.judged = np.zeros(len(indices), dtype=bool)
        self._model = model
        self._split_logits = split_logits
        self.batch_size = batch_size
        self._device = device
        # By set of examples: where each stands in it, -1 if nowhere, and the signs of its gradient.
        self._ascents: dict[bytes, tuple[np.ndarray, Tensor]] = {}
        self._prepared = np.full(len(indices), -1), torch.empty(0, dtype=torch.int8)
        self._watch = Watch()

    def __len__(self) -> int:
        return len(self.indices)

    def first(self, examples: int) -> Probe:
        """A fresh probe of the first ``examples`` alone."""
        return Probe(
            self._model,
            self.split,
            self.indices[:examples],
            self._split_logits,
            batch_size=self.batch_size,
            device=self._device,
        )

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watch]:
        """While open, what is fed to the model is seen by the watch given."""
        before, self._watch = self._watch, Watch()
        try:
            yield self._watch
        finally:
            self._watch = before

    def batches(self, positions: np.ndarray | None = None) -> Iterator[Batch]:
        """The examples at ``positions`` (default: all), in order and in batches of fixed size."""
        chosen = np.arange(len(self)) if positions is None else positions
        for start in range(0, len(chosen), self.batch_size):
            yield self.batch(chosen[start : start + self.batch_size])

    def batch(self, positions: np.ndarray) -> Batch:
        """The examples at ``positions``, in that order; at most ``batch_size`` should be asked for."""
        return Batch(
            torch.from_numpy(positions),
            torch.from_numpy(self.labels[positions]).to(self._device),
            self.split.batch(self.indices[positions]).to(self._device),
        )

    def classify(self, images: Tensor, batch: Batch) -> Tensor:
        """``(b,)`` booleans: which perturbed images of ``batch`` the model classifies correctly."""
        self._watch.look(images, batch._originals)  # noqa: SLF001 - a batch is the probe's own
        with torch.no_grad():
            return _correct(forward(self._model, images), batch.labels)

    def ascent(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which of the images are classified correctly, and the way up the loss from each.

        Returns:
            ``(b,)`` booleans, and ``(b, C, H, W)`` signs (-1, 0, 1) of the gradient of each
            example's cross-entropy, 0 where the gradient is not a number.
        """
        self._watch.look(images, batch._originals)  # noqa: SLF001
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = forward(self._model, images)
        correct = _correct(logits.detach(), batch.labels)
        if not logits.requires_grad:  # the model cut the graph: no gradient at all
            return correct, torch.zeros_like(images)
        direction = loss_direction(logits.detach(), batch.labels)
        (gradient,) = torch.autograd.grad(logits, images, direction, materialize_grads=True)
        return correct, gradient.sign().nan_to_num_(0.0)

    def prepare_ascent(self, positions: np.ndarray) -> None:
        """Compute :meth:`clean_ascent` of exactly these examples, in full batches, once for all tasks.

        The last bits of a gradient depend on the size of its batch: in batches that hold what other
        tasks left over, a task's value would depend on the others.
        """
        key = positions.tobytes()
        if key not in self._ascents:
            rows = np.full(len(self), -1)
            rows[positions] = np.arange(len(positions))
            # Signs as bytes: a quarter of the float32 images.
            signs = torch.zeros((len(positions), *self.split.images.shape[1:]), dtype=torch.int8)
            for part in self.batches(positions):
                found = self.ascent(part.images, part)[1].to("cpu", torch.int8)
                places = part.positions.numpy()
                signs[torch.from_numpy(rows[places])] = found
                zero = ~found.flatten(1).any(dim=1).numpy()
                self.zero_gradients += int((zero & ~self.judged[places]).sum())
                self.judged[places] = True
            self._ascents[key] = rows, signs
        self._prepared = self._ascents[key]

    def clean_ascent(self, batch: Batch) -> Tensor:
        """The signs of :meth:`ascent` at the clean images, computed once for all interventions."""
        positions = batch.positions.numpy()
        if (self._prepared[0][positions] < 0).any():
            self.prepare_ascent(positions)
        rows, signs = self._prepared
        return signs[torch.from_numpy(rows[positions])].to(self._device, torch.float32)


def loss_direction(logits: Tensor, labels: Tensor) -> Tensor:
    """``(b, K)``: the gradient of each example's cross-entropy, times a positive number.

    That gradient, softmax minus one-hot, falls below the smallest float32 on a confident example
    (gradient masking by rounding). Divided by the largest probability of a wrong class it cannot,
    and the sign of what is propagated from it stays the same.
    """
    column = labels[:, None]
    others = logits.scatter(1, column, -math.inf)
    weights = (others - others.amax(dim=1, keepdim=True)).exp()
    return weights.scatter(1, column, -weights.sum(dim=1, keepdim=True)).nan_to_num_(0.0)


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """``(b, K)`` float32 logits.

    Raises:
        InvalidInput: the model returns anything else than ``(b, K)`` logits.
    """
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InvalidInput(
            f"the model returns {got} for images {tuple(images.shape)}: (n, K) logits are needed"
        )
    return logits.float()


def clean_logits(
    model: nn.Module, split: Split, *, batch_size: int, device: torch.device
) -> np.ndarray:
    """``(N, K)`` float32 logits of all the examples of a split."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(split), batch_size):
            images = split.batch(slice(start, start + batch_size)).to(device)
            parts.append(forward(model, images).cpu().numpy())
    return np.concatenate(parts)


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    """As :func:`mm_mlflow.outcomes.accuracy`: the first of equal logits, and finite ones only."""
    finite = (logits.amax(dim=1) - logits.amin(dim=1)).isfinite()
    return (logits.argmax(dim=1) == labels) & finite
