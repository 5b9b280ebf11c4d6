"""What a dataset is: arguments that say what to build, and a cache that all workers map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from mm_mlflow.datasets import cache
from mm_mlflow.errors import unknown
from mm_mlflow.split import Split, content_digest


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a dataset builds for one split: see :class:`~mm_mlflow.split.Split` for shapes."""

    images: np.ndarray
    labels: np.ndarray
    example_ids: np.ndarray
    groups: Mapping[str, np.ndarray]


class Dataset(BaseModel, ABC):
    """Base of all datasets: the fields are the arguments that design files may give.

    A subclass writes :meth:`build`, and raises ``version`` whenever equal arguments would build
    something else. The first split is ``train``: its mean and standard deviation per channel
    normalise every split. A dataset without it cannot be trained on, but serves interventions as data
    of another distribution; models normalise those with the statistics of their own training data.

    Attributes:
        locations: arguments that say where things are, not what they are.
        cache: folder of the cache; by default ``$MM_MLFLOW_CACHE``, else the user's cache folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    locations: ClassVar[frozenset[str]] = frozenset({"cache"})
    version: ClassVar[int] = 1
    summary: ClassVar[str] = ""

    # The alias of a path, not its content: two machines share ids whatever their folders are.
    cache: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_arguments(cls, data: object) -> object:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown("argument", key, cls.model_fields)
        return data

    @abstractmethod
    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """Make all splits, at least one, ``train`` first if it is there, and the class names."""

    def fingerprint(self) -> str:
        """What identifies the source beside the arguments: override where files are read."""
        return ""

    def statistics(
        self, parts: Mapping[str, Arrays]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, in [0, 1] units, that normalise every split."""
        own = parts["train"] if "train" in parts else next(iter(parts.values()))
        return channel_statistics(own.images)

    def splits(self) -> dict[str, Split]:
        """All splits, memory-mapped from the cache, which is built where it is not there or broken."""
        key = {
            "dataset": f"{type(self).__module__}.{type(self).__qualname__}",
            "version": self.version,
            "arguments": self.model_dump(mode="json", exclude=set(self.locations)),
            "fingerprint": self.fingerprint(),
        }
        folder = cache.folder(self.cache, type(self).__name__, key)
        return cache.load_or_build(folder, self._finished)

    def _finished(self) -> dict[str, Split]:
        parts, class_names = self.build()
        mean, std = self.statistics(parts)
        return {
            name: Split(
                name=name,
                images=part.images,
                labels=part.labels.astype(np.int64),
                example_ids=part.example_ids,
                class_names=class_names,
                groups=part.groups,
                mean=mean,
                std=std,
                digest=content_digest(part.images, part.labels, part.example_ids, part.groups),
            )
            for name, part in parts.items()
        }


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of ``(N, C, H, W)`` images, in [0, 1] units.

    In blocks, so that a memory map of any size passes through; exact sums for uint8.
    """
    total = np.zeros(images.shape[1])
    square = np.zeros(images.shape[1])
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024].astype(np.float64)
        total += block.sum(axis=(0, 2, 3))
        square += (block**2).sum(axis=(0, 2, 3))
    count = images.size / images.shape[1]
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())
