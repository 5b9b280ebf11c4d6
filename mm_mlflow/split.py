"""A split: the images, labels and groups of one part of a dataset, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mm_mlflow.errors import InvalidInput, unknown

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset, read-only and shared by whoever maps the same cache.

    Attributes:
        name: ``train``, ``test``, or what an out-of-distribution set is called.
        images: ``(N, C, H, W)`` uint8 (255 is 1.0) or float32 in [0, 1]; may be memory-mapped. Of a
            table (:mod:`mm_mlflow.evaluation.table`) ``(N, F, 1, 1)`` float64 of any range.
        labels: ``(N,)`` int64, indices into ``class_names``.
        example_ids: ``(N,)`` unique strings that stay with an image whatever the split's order.
        class_names: name of every class.
        groups: per attribute, ``(N,)`` strings: which group each example belongs to.
        mean, std: per channel, of the *training* images in [0, 1] units.
        digest: sha256 of content (images, labels, ids, groups), in hexadecimal.
        label_map: what :meth:`relabelled` was given; None for labels as the dataset has them. The
            digest stays the dataset's.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    example_ids: np.ndarray
    class_names: tuple[str, ...]
    groups: Mapping[str, np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    label_map: Mapping[str, int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray | slice) -> torch.Tensor:
        """The images at ``indices`` as a new float32 tensor ``(n, C, H, W)`` in [0, 1]; a table's
        float64 as they are."""
        import torch

        images = torch.from_numpy(
            np.array(self.images[indices])
        )  # a copy: a memory map is read-only
        return images.float().div_(255) if images.dtype == torch.uint8 else images

    def mask(self, group: Mapping[str, str]) -> np.ndarray:
        """``(N,)`` booleans: examples whose every attribute in ``group`` has the value given.

        Raises:
            InvalidInput: an attribute that the split lacks, or a value that no example has.
        """
        mask = np.ones(len(self), dtype=bool)
        for attribute, value in group.items():
            if attribute not in self.groups:
                raise unknown(
                    f"attribute of groups in split {self.name!r}:", attribute, self.groups
                )
            if not (self.groups[attribute] == str(value)).any():
                raise unknown(
                    f"value of group {attribute!r}", value, np.unique(self.groups[attribute])
                )
            mask &= self.groups[attribute] == str(value)
        return mask

    def relabelled(self, label_map: Mapping[str, int]) -> Split:
        """The same examples with their labels as a model counts its classes.

        A map that changes nothing gives the split itself, and several classes may be one output.

        Args:
            label_map: for the name of every class, the index of the model's output that means it.

        Raises:
            InvalidInput: a class that the split lacks or the map leaves out, or what is no index.
        """
        for name, index in label_map.items():
            if name not in self.class_names:
                raise unknown("class in the label map", name, self.class_names)
            if type(index) is not int or index < 0:
                raise InvalidInput(
                    f"label map: {name!r}: {index!r} is not allowed: an output's index, 0 or more"
                )
        if missing := [name for name in self.class_names if name not in label_map]:
            raise InvalidInput(f"label map leaves out {', '.join(missing)}: every class is needed")
        outputs = np.array([label_map[name] for name in self.class_names], np.int64)
        if (outputs == np.arange(len(outputs))).all():
            return self
        names = [
            " or ".join(name for name in self.class_names if label_map[name] == index)
            for index in range(int(outputs.max()) + 1)
        ]
        return replace(
            self,
            labels=outputs[self.labels],
            class_names=tuple(name or f"output {index}" for index, name in enumerate(names)),
            label_map={name: label_map[name] for name in self.class_names},
        )

    def stratified(self, examples: int) -> np.ndarray:
        """``(examples,)`` sorted indices of a fixed part with the split's label proportions.

        Which examples are taken depends on their ids alone, and a smaller part lies, up to rounding
        of the proportions, inside a larger one.

        Raises:
            InvalidInput: fewer examples in the split than asked for.
        """
        if not 1 <= examples <= len(self):
            raise InvalidInput(
                f"examples {examples} is not allowed: 1 to {len(self)} in {self.name!r}"
            )
        return stratified(self.labels, self.example_ids, examples)


def stratified(strata: np.ndarray, example_ids: np.ndarray, examples: int) -> np.ndarray:
    """``(examples,)`` sorted indices of a fixed part with the proportions of ``strata``.

    Args:
        strata: ``(N,)``, which stratum each example belongs to.
        example_ids: ``(N,)`` strings, which alone decide who is taken: a smaller part lies, up to
            rounding of the proportions, inside a larger one.
        examples: how many.

    Raises:
        InvalidInput: more than there are, or none.
    """
    if not 1 <= examples <= len(strata):
        raise InvalidInput(f"subset {examples} is not allowed: 1 to {len(strata)}")
    rank = np.array(
        [hashlib.sha256(f"examples/{name}".encode()).hexdigest() for name in example_ids]
    )
    values, counts = np.unique(strata, return_counts=True)
    share = examples * counts / len(strata)
    quota = np.floor(share).astype(int)
    largest = np.argsort(-(share - quota), kind="stable")[: examples - quota.sum()]
    quota[largest] += 1
    taken = []
    for value, number in zip(values, quota, strict=True):
        members = np.flatnonzero(strata == value)
        taken.append(members[np.argsort(rank[members])][:number])
    return np.sort(np.concatenate(taken))


def content_digest(
    images: np.ndarray,
    labels: np.ndarray,
    example_ids: np.ndarray,
    groups: Mapping[str, np.ndarray],
) -> str:
    """sha256 over shapes, types and values of everything that a split holds."""
    digest = hashlib.sha256()
    for name, array in [("images", images), ("labels", labels)]:
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    for name, values in [("example_ids", example_ids), *sorted(groups.items())]:
        text = "\0".join(map(str, values))
        digest.update(f"{name} {len(values)} {len(text)}\n{text}".encode())
    return digest.hexdigest()
