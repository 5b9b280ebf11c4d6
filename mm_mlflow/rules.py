"""Rules that select models: the best of every metric, the Pareto front, thresholds.

Written once, for design files and for the command line; :mod:`mm_mlflow.selection` applies them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mm_mlflow.errors import InvalidInput

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?"


@dataclass(frozen=True)
class Top:
    """Runs among the best ``fraction`` of *every* metric (Section 4: "the top k% of every metric").

    Attributes:
        fraction: in (0, 1], exact: the ⌈fraction n⌉ best of n runs, ties kept.
    """

    fraction: Fraction

    @property
    def text(self) -> str:
        """``75%``."""
        return f"{float(100 * self.fraction):.12g}%"

    @property
    def name(self) -> str:
        """Short, unique among rules of one selection, and fit for keys: ``top-75``."""
        return f"top-{self.text.removesuffix('%')}"

    @property
    def title(self) -> str:
        """For people."""
        return f"top {self.text}"


@dataclass(frozen=True)
class Pareto:
    """Runs that no other run dominates: none is at least as good in every metric and better in one."""

    name = "pareto"
    title = "Pareto front"


@dataclass(frozen=True)
class Threshold:
    """A bound that a metric must keep."""

    metric: str
    sense: Literal[">=", "<="]
    bound: float

    @property
    def text(self) -> str:
        """``accuracy>=0.9``, as it is written."""
        return f"{self.metric}{self.sense}{self.bound:.12g}"


@dataclass(frozen=True)
class Require:
    """Runs that keep every threshold."""

    thresholds: tuple[Threshold, ...]
    name = "required"

    @property
    def title(self) -> str:
        """For people."""
        return " and ".join(
            t.text.replace(">=", " ≥ ").replace("<=", " ≤ ") for t in self.thresholds
        )


Rule = Top | Pareto | Require


def parse_top(value: object) -> Top:
    """``75%``, ``"0.75"`` or 0.75.

    Raises:
        InvalidInput: anything else; 75 could mean either, so it is refused.
    """
    text = str(value).strip()
    found = re.fullmatch(rf"({_NUMBER})\s*(%?)", text)
    fraction = Fraction(found[1]) / (100 if found[2] else 1) if found else Fraction(0)
    if isinstance(value, bool) or not found or not 0 < fraction <= 1:
        hint = ""
        if found and not found[2] and 1 < fraction <= 100:
            hint = f"; write {text}% or {float(fraction / 100):g}"
        raise InvalidInput(
            f"top {text!r} is not allowed: a share above 0% and up to 100%, such as 75% or 0.75{hint}"
        )
    return Top(fraction)


def parse_threshold(text: str) -> Threshold:
    """``accuracy>=0.9`` or ``accuracy>=90%``.

    Raises:
        InvalidInput: no metric, no ``>=`` or ``<=``, or no finite number.
    """
    found = re.fullmatch(rf"\s*(.+?)\s*(>=|<=)\s*({_NUMBER})\s*(%?)\s*", text)
    if not found:
        raise InvalidInput(
            f"require {text!r} is not allowed: METRIC>=VALUE or METRIC<=VALUE is, such as accuracy>=0.9"
        )
    bound = float(Fraction(found[3]) / (100 if found[4] else 1))  # 56.6% is 0.566, not a hair more
    return Threshold(found[1], ">=" if found[2] == ">=" else "<=", bound)


def rules(
    top: Sequence[object], *, pareto: bool, require: Sequence[str], on: Sequence[str]
) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules of one selection, and the metrics that it is on.

    Every ``top`` is a rule of its own, as in Figure 9; all of ``require`` together are one, and add
    their metrics to ``on``.

    Raises:
        InvalidInput: no rule or rules of several kinds, one rule twice, or nothing to select on.
    """
    if bool(top) + bool(pareto) + bool(require) != 1:
        raise InvalidInput("a selection needs one of top, pareto and require: exactly one kind")
    if require:
        thresholds = tuple(parse_threshold(text) for text in require)
        metrics = dict.fromkeys([*on, *(threshold.metric for threshold in thresholds)])
        return (Require(thresholds),), tuple(metrics)
    found: tuple[Rule, ...] = (Pareto(),) if pareto else tuple(parse_top(value) for value in top)
    for i, rule in enumerate(found):
        if rule in found[:i]:
            raise InvalidInput(f"{rule.title} stands twice in a selection")
    if not on:
        raise InvalidInput(
            "on is empty: a selection needs a metric to select on, such as --on accuracy"
        )
    if len(set(on)) < len(on):
        raise InvalidInput(f"on has a metric twice: {', '.join(on)}")
    return found, tuple(on)
