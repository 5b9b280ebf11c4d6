"""Small real material for tests of evaluation: scikit-learn's digits, and a conv net trained on them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from mm_mlflow.split import Split, content_digest


class Net(nn.Module):
    """Two convolutions with batch norm; normalisation inside; 8 x 8 images in [0, 1] to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        logits: torch.Tensor = self.network((images - 0.3) / 0.38)
        return logits


class Tally(list[int]):
    """Numbers that a model and its copies write to one list: evaluation folds a copy."""

    def __deepcopy__(self, _memo: object) -> Tally:
        return self


def make_split(images: np.ndarray, labels: np.ndarray, name: str = "test") -> Split:
    """A split with two group attributes, whose statistics are its own."""
    ids = np.array([f"{name}-{i}" for i in range(len(labels))])
    rng = np.random.default_rng(len(labels))
    groups = {
        "race": np.where(rng.random(len(labels)) < 0.7, "White", "Asian"),
        "age": rng.choice(["0-20", "21-58", "59-116"], len(labels)),
    }
    return Split(
        name=name,
        images=images,
        labels=labels,
        example_ids=ids,
        class_names=tuple("0123456789"),
        groups=groups,
        mean=tuple(images.mean(axis=(0, 2, 3)).tolist()),
        std=tuple(images.std(axis=(0, 2, 3)).tolist()),
        digest=content_digest(images, labels, ids, groups),
    )


@lru_cache(maxsize=1)
def digits() -> tuple[Split, Split]:
    """900 images to train on and 897 to test on, float32 ``(N, 1, 8, 8)``."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:900], order[900:]
    split = make_split(images[test], labels[test])
    return make_split(images[train], labels[train], "train"), split


@lru_cache(maxsize=1)
def _weights() -> dict[str, torch.Tensor]:
    split, _ = digits()
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(12):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net.state_dict()


def trained_net() -> Net:
    """A fresh copy of the net, trained once per process (about two seconds), in eval mode."""
    with torch.random.fork_rng(devices=[]):
        net = Net()
    net.load_state_dict(_weights())
    return net.eval()


def first(split: Split, examples: int) -> Split:
    """The first examples of a split, as a split of their own."""
    part = make_split(split.images[:examples], split.labels[:examples], split.name)
    return replace(part, groups={k: v[:examples] for k, v in split.groups.items()})
