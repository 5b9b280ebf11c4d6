"""Train one cell: the seed and the settings control everything, and equal cells give equal bits.

The recipe is the paper's (Section 3.1) with what it leaves open filled in as DESIGN says: SGD with
momentum, cosine schedule stepped once per epoch, cross-entropy, from scratch, no early stopping.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm_mlflow import models
from mm_mlflow.augmentation import AUGMENTATIONS, Augmentation
from mm_mlflow.design import Cell, TrainingSettings
from mm_mlflow.errors import unknown
from mm_mlflow.split import Split

_CHUNK_BYTES = 2**23  # images augmented at once: enough to share the work, little enough for cache


def _sgd(
    parameters: Any, learning_rate: float, settings: TrainingSettings
) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _adam(
    parameters: Any, learning_rate: float, settings: TrainingSettings
) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        parameters, learning_rate, weight_decay=settings.weight_decay, fused=True
    )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": _sgd, "adam": _adam}


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and how it went.

    Attributes:
        model: in eval mode.
        specification: what :func:`mm_mlflow.models.build` needs to build it again.
        losses: mean training loss of each epoch; shorter than asked for if training diverged.
        diverged: what was not finite, in words; None if all was well.
    """

    model: nn.Module
    specification: dict[str, Any]
    losses: tuple[float, ...]
    diverged: str | None


def stream_seed(stream: str, seed: int) -> int:
    """The seed of one named stream, 63 bits: ``init``, ``order`` and ``augment`` never share draws."""
    return int.from_bytes(hashlib.sha256(f"{stream}/{seed}".encode()).digest()[:8], "little") >> 1


def stream(name: str, seed: int) -> torch.Generator:
    """A generator of its own for one stream, on the CPU so that devices share draws."""
    return torch.Generator().manual_seed(stream_seed(name, seed))


def advice(settings: TrainingSettings, examples: int) -> list[str]:
    """Sentences about settings that are known to train badly; empty if there are none."""
    found = []
    rate = settings.learning_rate * settings.learning_rate_scale
    if settings.optimizer == "adam" and rate > 0.02:
        found.append(
            f"optimizer adam with learning rate {rate:g} is known to train badly: "
            "learning_rate_scale 0.1 brings 0.1 to 0.01"
        )
    if settings.optimizer == "sgd" and rate > 1:
        found.append(f"optimizer sgd with learning rate {rate:g} is known to diverge")
    if settings.batch_size > examples:
        found.append(
            f"batch_size {settings.batch_size} is larger than the {examples} training images: "
            "one step per epoch over all of them"
        )
    return found


def cost(settings: TrainingSettings, split: Split) -> float:
    """A rough relative cost of training: the seconds of one forward pass over 64 images, times epochs.

    Good enough to start long cells before short ones. Batch size and augmentation are not in it.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        spec = models.specification(settings.architecture, settings.architecture_arguments, split)
        model = models.build(spec).eval()
        images = split.batch(slice(0, 64))
        model(images)  # the first pass pays for set-up
        start = time.perf_counter()
        model(images)
        return (time.perf_counter() - start) * settings.epochs


def check(settings: TrainingSettings, split: Split) -> None:
    """Refuse names that nothing is registered under, before anything is trained.

    Raises:
        InvalidInput: an unknown optimizer, augmentation or architecture, or wrong arguments.
    """
    if settings.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", settings.optimizer, OPTIMIZERS)
    if settings.augmentation not in AUGMENTATIONS:
        raise unknown("augmentation", settings.augmentation, AUGMENTATIONS)
    with torch.random.fork_rng(devices=[]):
        models.build(
            models.specification(settings.architecture, settings.architecture_arguments, split)
        )


def initial_model(cell: Cell, split: Split) -> tuple[models.Classifier, dict[str, Any]]:
    """The untrained model of a cell, which the ``init`` stream alone determines."""
    settings = cell.settings
    spec = models.specification(settings.architecture, settings.architecture_arguments, split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("init", cell.seed))
        return models.build(spec), spec


def epochs(cell: Cell, split: Split) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Per epoch, the batches ``(images (n, C, H, W) float32 in [0, 1], labels (n,))`` of a cell.

    The ``order`` stream draws each epoch's permutation; the ``augment`` stream draws what happens to
    each image by its position in the split, so neither changes with the other.
    """
    settings = cell.settings
    augmentation = AUGMENTATIONS[settings.augmentation]()
    order, augment = stream("order", cell.seed), stream("augment", cell.seed)
    labels = torch.from_numpy(np.array(split.labels))
    for _ in range(settings.epochs):
        permutation = torch.randperm(len(split), generator=order)
        policy = augmentation.draw(len(split), augment)
        yield _batches(split, labels, permutation, augmentation, policy, settings.batch_size)


def _batches(
    split: Split,
    labels: Tensor,
    permutation: Tensor,
    augmentation: Augmentation,
    policy: Any,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    # Several batches are read and augmented at once; a chunk is a whole number of batches.
    image_bytes = 4 * math.prod(split.images.shape[1:])
    chunk_size = max(1, _CHUNK_BYTES // (image_bytes * batch_size)) * batch_size
    for indices in permutation.split(chunk_size):
        images = augmentation.apply(split.batch(indices.numpy()), policy[indices])
        yield from zip(images.split(batch_size), labels[indices].split(batch_size), strict=True)


def train(cell: Cell, split: Split, *, device: str = "cpu") -> Trained:
    """Train ``cell`` on ``split``; a loss that is not finite ends it early and is a result.

    Global random state is left as it was found. On the CPU, the same cell gives the same bits in
    any process and order (with one thread, as workers have).
    """
    settings = cell.settings
    model, spec = initial_model(cell, split)
    # Channels last: convolutions train 1.4 times as fast so, on a CPU and on a GPU.
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    rate = settings.learning_rate * settings.learning_rate_scale
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), rate, settings)
    schedule = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
        if settings.schedule == "cosine"
        else None
    )
    losses: list[float] = []
    diverged = None
    # Models with random layers (dropout) draw from the global generator.
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(stream_seed("layers", cell.seed))
        for number, batches in enumerate(epochs(cell, split), start=1):
            loss = _one_epoch(model, optimizer, batches, len(split), device)
            losses.append(loss)
            if not math.isfinite(loss):
                diverged = (
                    f"the training loss was not finite in epoch {number} of {settings.epochs}"
                )
                break
            if schedule is not None:
                schedule.step()
    return Trained(model.eval(), spec, tuple(losses), diverged)


def _one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    examples: int,
    device: str,
) -> float:
    total = torch.zeros((), device=device)
    for images, labels in batches:
        labels = labels.to(device)  # noqa: PLW2901
        images = images.to(device, memory_format=torch.channels_last)  # noqa: PLW2901
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(labels)
    return float(total) / examples
