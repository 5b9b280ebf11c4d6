"""Clean accuracy on all examples, on a group, and on data of another distribution."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from mm_mlflow import outcomes
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation.base import LogitsIntervention, slug

if TYPE_CHECKING:
    from mm_mlflow.split import Split


@dataclass(frozen=True, kw_only=True, repr=False)
class Accuracy(LogitsIntervention):
    """Accuracy on all examples of a split (Section 3.1)."""

    name: ClassVar[str] = "accuracy"
    metric: ClassVar[str] = "accuracy"

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return outcomes.accuracy(logits, labels)

    @property
    def title(self) -> str:
        return "Accuracy"

    def describe(self) -> str:
        return "The fraction of examples that the model classifies correctly."


@dataclass(frozen=True, kw_only=True, repr=False)
class GroupAccuracy(LogitsIntervention):
    """Accuracy on one group, or on an intersection of groups: fairness (Section 3.2).

    In design files, ``groups`` lists them (``[{skew: gs_minority}, {race: Asian, age: 59-116}]``)
    and ``by`` names attributes whose every value, or every combination that occurs, is a group
    (``[skew, [race, age]]``).

    Attributes:
        group: the value of each attribute; several attributes are an intersection, and the key names
            them in the order given.
    """

    name: ClassVar[str] = "group_accuracy"
    metric: ClassVar[str] = "group_accuracy"

    group: Mapping[str, str]

    def __post_init__(self) -> None:
        if not isinstance(self.group, Mapping) or not self.group:
            raise InvalidInput(
                f"group {self.group!r} is not allowed: a mapping from attributes to values"
            )
        plain = {str(attribute): str(value) for attribute, value in self.group.items()}
        object.__setattr__(self, "group", plain)

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return outcomes.accuracy(logits, labels)

    def key_parts(self) -> list[str]:
        return [f"{slug(attribute)}-{slug(value)}" for attribute, value in self.group.items()]

    def select(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """Members of the group.

        Raises:
            InvalidInput: an unknown attribute or value, values that share a slug, or an empty group.
        """
        mask = split.mask(self.group)
        for attribute in self.group:
            _refuse_shared_slugs(attribute, np.unique(split.groups[attribute]).tolist())
        members: np.ndarray = indices[mask[indices]]
        if not len(members):
            raise InvalidInput(
                f"no example of split {split.name!r} that is evaluated is in group {self._words}"
            )
        return members

    @classmethod
    def expand(cls, parameters: Mapping[str, Any], split: Split) -> list[Self]:
        """One intervention per listed group and per value, or combination, that ``by`` names."""
        for word in parameters:
            if word not in {"groups", "by"}:
                raise unknown(f"parameter of {cls.name}", word, ["groups", "by"])
        groups, by = parameters.get("groups", []), parameters.get("by", [])
        if not isinstance(groups, list | tuple | Mapping):
            raise InvalidInput(f"groups {groups!r} is not allowed: a list of mappings")
        if not isinstance(by, list | tuple | str):
            raise InvalidInput(
                f"by {by!r} is not allowed: a list of attributes, or of lists of them"
            )
        found = [
            cls(group=group) for group in ([groups] if isinstance(groups, Mapping) else groups)
        ]
        for attributes in [by] if isinstance(by, str) else by:
            names = list(attributes) if isinstance(attributes, list | tuple) else [attributes]
            if not names:
                raise InvalidInput(f"by {by!r} is not allowed: an empty list of attributes")
            found += [cls(group=group) for group in combinations_present(names, split)]
        if not found:
            raise InvalidInput(
                f"{cls.name} needs groups or by: known attributes of split "
                f"{split.name!r} are {', '.join(split.groups) or 'none'}"
            )
        return found

    @property
    def _words(self) -> str:
        return ", ".join(f"{attribute} = {value}" for attribute, value in self.group.items())

    @property
    def title(self) -> str:
        return f"Group accuracy, {self._words}"

    def describe(self) -> str:
        return (
            "The fraction of examples that the model classifies correctly, "
            f"among those with {self._words}."
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class OODAccuracy(LogitsIntervention):
    """Accuracy on data of another distribution: another dataset or split (Section 3.3).

    Attributes:
        source: the name of those data in the key. In design files it follows from ``dataset`` and
            ``split``: the dataset's name if there is one, else the split's.
    """

    name: ClassVar[str] = "ood_accuracy"
    metric: ClassVar[str] = "ood_accuracy"
    names_data: ClassVar[bool] = True

    source: str

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return outcomes.accuracy(logits, labels)

    def key_parts(self) -> list[str]:
        return [slug(self.source)]

    @classmethod
    def expand(cls, parameters: Mapping[str, Any], split: Split) -> list[Self]:
        """The one intervention on ``split``, which must not be the design's own test split."""
        for word in parameters:
            raise unknown(f"parameter of {cls.name}", word, ["dataset", "split", "examples"])
        if split.name == "test":
            raise InvalidInput(
                f"{cls.name} on split 'test' is accuracy: name another split or a dataset"
            )
        return [cls(source=split.name)]

    @property
    def title(self) -> str:
        return f"Out-of-distribution accuracy, {self.source}"

    def describe(self) -> str:
        return (
            "The fraction of examples that the model classifies correctly, "
            f"on data of another distribution ({self.source})."
        )


def combinations_present(attributes: Sequence[str], split: Split) -> list[dict[str, str]]:
    """The groups by ``attributes``: every combination of values that some example has, sorted.

    Raises:
        InvalidInput: an attribute that the split lacks.
    """
    for attribute in attributes:
        if attribute not in split.groups:
            raise unknown(f"group attribute of split {split.name!r}", attribute, split.groups)
    rows = set(zip(*(split.groups[attribute].tolist() for attribute in attributes), strict=True))
    return [dict(zip(attributes, map(str, row), strict=True)) for row in sorted(rows)]


def _refuse_shared_slugs(attribute: str, values: list[str]) -> None:
    for one, other in itertools.combinations(values, 2):
        if slug(one) == slug(other):
            raise InvalidInput(
                f"values {one!r} and {other!r} of group {attribute!r} are both {slug(one)!r} "
                "in a metric key: rename one"
            )
