"""What an intervention is: one small frozen object that turns a probed model into outcomes."""

from __future__ import annotations

import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from mm_mlflow.design import normalise
from mm_mlflow.errors import InvalidInput, unknown

if TYPE_CHECKING:
    from mm_mlflow.evaluation.probe import Probe
    from mm_mlflow.split import Split


def slug(value: object) -> str:
    """``value`` as metric keys spell it: lower case, and ``_`` for all but letters and digits.

    DESIGN's keys (``race-asian``, ``age-59_116``) are the model; :func:`~.planning.plan` refuses
    two values that become one.
    """
    return re.sub(r"[^a-z0-9_]", "_", str(value).lower())


def number(value: float) -> str:
    """A number as metric keys spell it: six significant digits, no ``+`` (MLflow refuses it)."""
    return format(value, ".6g").replace("+", "")


def check_strength(name: str, value: Any, maximum: float = math.inf) -> None:
    """Refuse a strength (λ, δ) that is no finite number in [0, ``maximum``]."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not 0 <= value <= maximum:
        limit = f"from 0 to {maximum:g}" if math.isfinite(maximum) else "of at least 0"
        raise InvalidInput(f"{name} {value!r} is not allowed: a finite number {limit}")


def check_whole(name: str, value: Any, minimum: int) -> None:
    """Refuse what is no whole number of at least ``minimum``."""
    if type(value) is not int or value < minimum:
        raise InvalidInput(f"{name} {value!r} is not allowed: a whole number of at least {minimum}")


@dataclass(frozen=True, kw_only=True, repr=False)
class Intervention(ABC):
    """Accuracy under one intervention (Section 2.1), or what follows from it: a metric in [0, 1].

    A subclass is a frozen, keyword-only dataclass whose fields are its parameters. It sets the class
    attributes, validates its fields in ``__post_init__`` and writes :meth:`outcomes`. Eval mode,
    gradients of parameters, random state, batching, the budget and the [0, 1] check belong to
    ``evaluate``; the model is reached through the probe alone. Outcomes must be a function of the
    model, the split's examples and the fields: random draws come from the example's id.

    Attributes:
        name: what design files call it.
        metric: first part of the metric key.
        version: raised when the same parameters would give another value.
        needs: ``logits`` if clean logits are enough (a :class:`LogitsIntervention`: recomputed from
            stored logits, so its outcomes are not stored), else ``inputs`` or ``gradients``.
        strengths: fields without a default that always stand in the key; all at 0 is no intervention.
        spelling: the name in keys and design files of fields that Python cannot spell (``lambda``).
        bounded: whether perturbed images must stay in [0, 1].
        monotone: whether more strength can only hurt, so that checks may hold it to that.
        scaled: whether the size of differences between logits matters, and not their order alone.
        names_data: whether the key names the split by itself, so that ``.split-...`` is not added.
        higher_is_better: False for gaps, of which the smallest is the best.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    version: ClassVar[int] = 2
    needs: ClassVar[Literal["logits", "inputs", "gradients"]]
    strengths: ClassVar[tuple[str, ...]] = ()
    spelling: ClassVar[Mapping[str, str]] = {}
    bounded: ClassVar[bool] = True
    monotone: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    names_data: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def outcomes(self, probe: Probe) -> np.ndarray:
        """``(n,)`` float64 in [0, 1]: probability that each of the probe's examples is correct."""

    def value(self, outcomes: np.ndarray, split: Split, indices: np.ndarray) -> float:
        """The metric, in [0, 1]: the mean of the outcomes unless a subclass says otherwise.

        Args:
            outcomes: ``(n,)`` float64, as :meth:`outcomes` gave them.
            split: where the examples are from; labels and groups may be used, images may not (who
                recomputes a value has none).
            indices: ``(n,)`` sorted, into ``split``: as :meth:`select` gave them.
        """
        del split, indices
        # In numpy's own order, so that recomputed outcomes give the same bits.
        return float(np.mean(outcomes))

    @property
    @abstractmethod
    def title(self) -> str:
        """A few words for the head of a sheet."""

    @abstractmethod
    def describe(self) -> str:
        """One plain sentence for the top of a sheet: what the number is."""

    def describe_on(self, split: Split, indices: np.ndarray) -> str:
        """:meth:`describe`, for those that can say more of the data at ``indices`` of ``split``."""
        del split, indices
        return self.describe()

    def smallest_group(self, split: Split, indices: np.ndarray) -> int | None:
        """Number of examples in the smallest group of ``indices``; None if it compares no groups."""
        del split, indices
        return None

    @property
    def budget(self) -> float | None:
        """Largest ‖x' - x‖∞ allowed, in units of [0, 1] pixels; None if there is no such limit."""
        return None

    @property
    def key(self) -> str:
        """The metric key on the whole ``test`` split; :attr:`Task.key` names other data too."""
        return self.key_on()

    def key_on(self, split: str = "test", examples: int | None = None) -> str:
        """The metric key: strengths first, then every other parameter that differs from default."""
        parts = self.key_parts()
        if examples is not None:
            parts.append(f"examples-{examples}")
        if split != "test" and not self.names_data:
            parts.append(f"split-{slug(split)}")
        return "/".join([self.metric, ".".join(parts)]) if parts else self.metric

    def key_parts(self) -> list[str]:
        """What the parameters contribute to the key."""
        parts = []
        for f in fields(self):
            value, word = getattr(self, f.name), self.spelling.get(f.name, f.name)
            if f.name in self.strengths or value != f.default:
                shown = number(value) if isinstance(value, int | float) else slug(value)
                parts.append(f"{word}-{shown}")
        return parts

    def select(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """Those of ``indices`` (sorted, into ``split``) that the intervention is about: here all."""
        del split
        return indices

    @classmethod
    def expand(cls, parameters: Mapping[str, Any], split: Split) -> list[Self]:
        """One intervention per combination of listed values: ``delta: [0.01, 0.02]`` is two.

        Raises:
            InvalidInput: an unknown or missing parameter, or a value that is not allowed.
        """
        del split
        return cls._combinations(parameters)

    @classmethod
    def _combinations(cls, parameters: Mapping[str, Any]) -> list[Self]:
        words = {cls.spelling.get(f.name, f.name): f for f in fields(cls)}
        for word in parameters:
            if word not in words:
                raise unknown(f"parameter of {cls.name}", word, words)
        for word, f in words.items():
            if word not in parameters and f.default is MISSING and f.default_factory is MISSING:
                raise InvalidInput(f"{cls.name} needs {word}: a value or a list of values")
        choices = []
        for word, value in parameters.items():
            listed = value if isinstance(value, list | tuple) else [value]
            if not listed:
                raise InvalidInput(
                    f"{word} of {cls.name} is an empty list: give at least one value"
                )
            choices.append([_scalar(cls.name, word, item) for item in listed])
        names = [words[word].name for word in parameters]
        return [
            cls(**dict(zip(names, values, strict=True))) for values in itertools.product(*choices)
        ]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """The intervention whose :meth:`parameters` these are; others (the data's) are ignored."""
        words = {cls.spelling.get(f.name, f.name): f.name for f in fields(cls)}
        return cls(**{words[word]: value for word, value in parameters.items() if word in words})

    def parameters(self) -> dict[str, Any]:
        """Every parameter under the name that design files use, JSON-able."""
        return {self.spelling.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        """The call that makes it, defaults left out: ``PGD(delta=0.005, steps=40)``."""
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class LogitsIntervention(Intervention):
    """An intervention that clean logits determine: it needs no second look at the model."""

    needs: ClassVar[Literal["logits", "inputs", "gradients"]] = "logits"

    @abstractmethod
    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """``(n,)`` float64 outcomes from ``(n, K)`` logits and ``(n,)`` labels, row by row."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        return self.from_logits(probe.logits, probe.labels)


def _scalar(name: str, word: str, value: Any) -> Any:
    """One spelling of a number: YAML 1.1 reads ``1e-3`` as a string."""
    if value is None:
        return None
    if isinstance(value, Mapping | list | tuple):
        raise InvalidInput(f"{word} {value!r} of {name} is not allowed: a single value is needed")
    try:
        return normalise(value)
    except InvalidInput as error:
        raise InvalidInput(f"{word} of {name}: {error}") from error
