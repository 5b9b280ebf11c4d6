"""Fairness between groups as one number: the worst group, and gaps between groups (Section 3.2).

The paper measures accuracy of chosen groups; group fairness is "traditionally measured as the
difference in performance between groups". Outcomes here are those of accuracy, example by example;
the value is made from the rates of groups, and is no mean of outcomes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from mm_mlflow import outcomes
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation.accuracy import combinations_present
from mm_mlflow.evaluation.base import LogitsIntervention, slug

if TYPE_CHECKING:
    from mm_mlflow.split import Split


@dataclass(frozen=True, kw_only=True, repr=False)
class OverGroups(LogitsIntervention):
    """What a number made from the accuracies of groups needs.

    In design files ``by`` lists attributes, each a metric of its own; a list within the list is one
    metric over the combinations that occur (``[race, [race, age]]``). The groups are those of the
    whole split: one that has no example among those evaluated is refused, not left out.

    Attributes:
        by: attributes; every combination of their values that some example has is a group.
    """

    by: tuple[str, ...]

    def __post_init__(self) -> None:
        by = (self.by,) if isinstance(self.by, str) else self.by
        words = isinstance(by, list | tuple) and all(isinstance(word, str) for word in by)
        if not words or not by or len(set(by)) < len(by):
            raise InvalidInput(f"by {self.by!r} is not allowed: one or more different attributes")
        object.__setattr__(self, "by", tuple(by))

    @abstractmethod
    def reduce(self, rates: np.ndarray) -> float:
        """The value, from the fraction of correct examples in every group, ``(groups,)``."""

    def value(self, outcomes: np.ndarray, split: Split, indices: np.ndarray) -> float:
        members = self._members(split, indices)
        return self.reduce(np.array([np.mean(outcomes[rows]) for rows in members.values()]))

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return outcomes.accuracy(logits, labels)

    def select(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """All of ``indices``.

        Raises:
            InvalidInput: an unknown attribute, a single group, or one without examples.
        """
        members = self._members(split, indices)
        if len(members) < 2:
            raise InvalidInput(
                f"{self.name} by {self._by} is not allowed: split {split.name!r} has one group only"
            )
        for words, rows in members.items():
            if not len(rows):
                raise InvalidInput(f"{self.name}: {self._none_of} is in group {words}")
        return indices

    def smallest_group(self, split: Split, indices: np.ndarray) -> int:
        return min(len(rows) for rows in self._members(split, indices).values())

    def key_parts(self) -> list[str]:
        return [slug(attribute) for attribute in self.by]

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "by": list(self.by)}

    @classmethod
    def expand(cls, parameters: Mapping[str, Any], split: Split) -> list[Self]:
        """One intervention per entry of ``by``."""
        rest = {word: value for word, value in parameters.items() if word != "by"}
        for word in rest:
            raise unknown(f"parameter of {cls.name}", word, ["by"])
        return [cls(by=by) for by in cls._listed(parameters, split)]

    @classmethod
    def _listed(cls, parameters: Mapping[str, Any], split: Split) -> list[tuple[str, ...]]:
        by = parameters.get("by", [])
        if not isinstance(by, list | tuple | str):
            raise InvalidInput(
                f"by {by!r} is not allowed: a list of attributes, or of lists of them"
            )
        if not by:
            raise InvalidInput(
                f"{cls.name} needs by: known attributes of split "
                f"{split.name!r} are {', '.join(split.groups) or 'none'}"
            )
        found: dict[frozenset[str], tuple[str, ...]] = {}
        for entry in [by] if isinstance(by, str) else by:
            names = tuple(map(str, entry if isinstance(entry, list | tuple) else [entry]))
            if (same := frozenset(names)) in found:
                raise InvalidInput(
                    f"by {by!r} is not allowed: it names {' and '.join(names)} twice"
                )
            found[same] = names
        return list(found.values())

    def _members(self, split: Split, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Per group of the split, in words: positions of its members among ``indices``."""
        return {
            ", ".join(
                f"{attribute} = {value}" for attribute, value in group.items()
            ): np.flatnonzero(split.mask(group)[indices])
            for group in combinations_present(self.by, split)
        }

    @property
    def _by(self) -> str:
        return " and ".join(self.by)

    @property
    def _none_of(self) -> str:
        return "no example that is evaluated"

    def describe(self) -> str:
        return f"{self._what} among the groups by {self._by}."

    def describe_on(self, split: Split, indices: np.ndarray) -> str:
        groups, n = len(self._members(split, indices)), self.smallest_group(split, indices)
        examples = "example" if n == 1 else "examples"
        return (
            f"{self._what} among {groups} groups by {self._by}; "
            f"the smallest has {n} {self._counted}{examples}."
        )

    @property
    @abstractmethod
    def _what(self) -> str:
        """The start of a sentence that goes on ``among the groups``."""

    @property
    def _counted(self) -> str:
        """What comes between a number and ``examples``."""
        return ""


@dataclass(frozen=True, kw_only=True, repr=False)
class WorstGroupAccuracy(OverGroups):
    """Accuracy on the group where it is smallest: fairness (Section 3.2)."""

    name: ClassVar[str] = "worst_group_accuracy"
    metric: ClassVar[str] = "worst_group_accuracy"

    def reduce(self, rates: np.ndarray) -> float:
        return float(rates.min())

    @property
    def title(self) -> str:
        return f"Worst-group accuracy, {self._by}"

    @property
    def _what(self) -> str:
        return "The smallest accuracy"


@dataclass(frozen=True, kw_only=True, repr=False)
class GroupAccuracyGap(OverGroups):
    """Largest minus smallest accuracy among groups: fairness (Section 3.2), lower is better."""

    name: ClassVar[str] = "group_accuracy_gap"
    metric: ClassVar[str] = "group_accuracy_gap"
    higher_is_better: ClassVar[bool] = False

    def reduce(self, rates: np.ndarray) -> float:
        return float(rates.max() - rates.min())

    @property
    def title(self) -> str:
        return f"Accuracy gap between groups, {self._by}"

    @property
    def _what(self) -> str:
        return "The largest minus the smallest accuracy"


@dataclass(frozen=True, kw_only=True, repr=False)
class RateGap(OverGroups):
    """A gap between groups over the examples of one of two classes.

    With the examples of one class alone, accuracy is the rate at which they are recognised, so that
    outcomes, and the number of examples, are over these only.

    Attributes:
        positive: name of the positive class; None is the second of the two. The key names it only
            where it is the first.
    """

    higher_is_better: ClassVar[bool] = False
    of_positive: ClassVar[bool]
    rate: ClassVar[str]

    positive: str | None = None

    def reduce(self, rates: np.ndarray) -> float:
        return float(rates.max() - rates.min())

    def select(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """Those of ``indices`` whose label is the class that the rate is over.

        Raises:
            InvalidInput: not two classes, an unknown class, or as :meth:`OverGroups.select`.
        """
        if len(split.class_names) != 2:
            raise InvalidInput(
                f"{self.name} is not allowed on split {split.name!r} "
                f"of {len(split.class_names)} classes: two are needed"
            )
        if self.positive is not None and self.positive not in split.class_names:
            raise unknown(f"positive class of {self.name}", self.positive, split.class_names)
        positive = 1 if self.positive is None else split.class_names.index(self.positive)
        over = positive if self.of_positive else 1 - positive
        members: np.ndarray = indices[split.labels[indices] == over]
        return super().select(split, members)

    def key_parts(self) -> list[str]:
        positive = [] if self.positive is None else [f"positive-{slug(self.positive)}"]
        return super().key_parts() + positive

    @classmethod
    def expand(cls, parameters: Mapping[str, Any], split: Split) -> list[Self]:
        """One intervention per entry of ``by``."""
        for word in parameters:
            if word not in {"by", "positive"}:
                raise unknown(f"parameter of {cls.name}", word, ["by", "positive"])
        positive = parameters.get("positive")
        if isinstance(positive, list | tuple | Mapping):
            raise InvalidInput(f"positive {positive!r} is not allowed: the name of one class")
        if positive is not None and [str(positive)] == list(split.class_names[1:]):
            positive = None  # one key for one metric
        named = None if positive is None else str(positive)
        return [cls(by=by, positive=named) for by in cls._listed(parameters, split)]

    @property
    def _counted(self) -> str:
        return "positive " if self.of_positive else "negative "

    @property
    def _none_of(self) -> str:
        return f"no {self._counted}example that is evaluated"

    @property
    def title(self) -> str:
        named = "" if self.positive is None else f", positive is {self.positive}"
        return f"{self.rate.capitalize()} gap between groups, {self._by}{named}"

    @property
    def _what(self) -> str:
        return f"The largest minus the smallest {self.rate}"

    def describe(self) -> str:
        return self._with_class(super().describe(), self.positive or "the second class")

    def describe_on(self, split: Split, indices: np.ndarray) -> str:
        positive = self.positive or split.class_names[1]
        return self._with_class(super().describe_on(split, indices), positive)

    def _with_class(self, text: str, positive: str) -> str:
        return f"{text.removesuffix('.')} (positive is {positive})."


@dataclass(frozen=True, kw_only=True, repr=False)
class TruePositiveRateGap(RateGap):
    """Largest minus smallest true positive rate among groups, for two classes: equal opportunity.

    Hardt et al. (arXiv:1610.02413); "equal opportunity difference". Lower is better.
    """

    name: ClassVar[str] = "true_positive_rate_gap"
    metric: ClassVar[str] = "true_positive_rate_gap"
    of_positive: ClassVar[bool] = True
    rate: ClassVar[str] = "true positive rate"


@dataclass(frozen=True, kw_only=True, repr=False)
class FalsePositiveRateGap(RateGap):
    """Largest minus smallest false positive rate among groups, for two classes: predictive equality.

    Together with the true positive rate's, equalized odds (Hardt et al., arXiv:1610.02413). A false
    positive is a negative example that is not recognised as one, so the gap is taken between the
    rates of those recognised. Lower is better.
    """

    name: ClassVar[str] = "false_positive_rate_gap"
    metric: ClassVar[str] = "false_positive_rate_gap"
    of_positive: ClassVar[bool] = False
    rate: ClassVar[str] = "false positive rate"
