"""Two runs of one cell compared: every metric and logit to the bit, and what was different around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TIMES = "system/"  # seconds that something took: never the same twice


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one run of a cell gave.

    Attributes:
        metrics: as MLflow returns them; those below ``system/`` are left out of comparisons.
        logits: by what names an evaluation's data, ``(N, K)`` logits of its clean images.
        environment: ``mm.env``.
    """

    metrics: Mapping[str, float]
    logits: Mapping[str, np.ndarray]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """One metric of both runs."""

    metric: str
    original: float
    reproduction: float

    @property
    def equal(self) -> bool:
        """To the bit; NaN equals NaN."""
        return self.original.hex() == self.reproduction.hex()

    @property
    def difference(self) -> float:
        """Absolute difference; NaN if only one is NaN."""
        return 0.0 if self.equal else abs(self.original - self.reproduction)


@dataclass(frozen=True)
class Comparison:
    """How a reproduction compares with its original.

    Attributes:
        pairs: metrics that both runs have, by name.
        missing: metrics of the original that the reproduction lacks: nothing says how to take them.
        logits: largest absolute difference by what names the data; infinite where shapes differ, only
            one is finite, or the reproduction has none.
        environment: entries of ``mm.env`` that differ, original and reproduction.
    """

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    logits: Mapping[str, float]
    environment: Mapping[str, tuple[Any, Any]]

    @property
    def differing(self) -> tuple[Pair, ...]:
        """The metrics that are not equal to the bit."""
        return tuple(pair for pair in self.pairs if not pair.equal)

    @property
    def equal(self) -> bool:
        """Whether all there is to compare is equal to the bit, and no metric was left out."""
        alike = not self.differing and not any(self.logits.values())
        return bool(self.pairs) and alike and not self.missing

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; numbers that are not finite are null."""
        return {
            "equal": self.equal,
            "metrics": [
                {
                    "metric": pair.metric,
                    "original": _finite(pair.original),
                    "reproduction": _finite(pair.reproduction),
                    "difference": _finite(pair.difference),
                    "equal": pair.equal,
                }
                for pair in self.pairs
            ],
            "missing": list(self.missing),
            "logits": {
                name: {"equal": difference == 0, "largest_difference": _finite(difference)}
                for name, difference in self.logits.items()
            },
            "environment": {
                name: {"original": old, "reproduction": new}
                for name, (old, new) in self.environment.items()
            },
        }

    def sentences(self) -> list[str]:
        """What people need to know first."""
        return [*self._metric_sentences(), *self._logit_sentences(), self._environment_sentence()]

    def _metric_sentences(self) -> list[str]:
        found = []
        total, differing = len(self.pairs), self.differing
        if differing:
            worst = max(
                differing, key=lambda p: math.inf if math.isnan(p.difference) else p.difference
            )
            found.append(
                f"{len(differing)} of {total} metrics differ, most of all {worst.metric}: "
                f"{worst.original!r} in the original, {worst.reproduction!r} here."
            )
        elif total:
            found.append(f"All {total} metrics are equal to the bit.")
        if self.missing:
            found.append(
                f"Not taken again, because nothing says how they were measured: "
                f"{', '.join(self.missing)}."
            )
        return found

    def _logit_sentences(self) -> list[str]:
        if not self.logits:
            return ["No logits are kept to compare."]
        name, worst = max(self.logits.items(), key=lambda item: item[1])
        if worst == 0:
            return [f"All logits are equal to the bit ({', '.join(self.logits)})."]
        return [f"Logits differ by up to {worst:.3g} ({name})."]

    def _environment_sentence(self) -> str:
        if not self.environment:
            return "The environment (mm.env) is the same."
        changes = [
            f"{name} was {old!r}, is {new!r}" for name, (old, new) in self.environment.items()
        ]
        return f"The environment (mm.env) differs: {'; '.join(changes)}."


def compare(original: Outcome, reproduction: Outcome) -> Comparison:
    """Every metric of ``original`` against ``reproduction``, but for seconds."""
    wanted = [key for key in sorted(original.metrics) if not key.startswith(TIMES)]
    old, new = original.environment, reproduction.environment
    return Comparison(
        pairs=tuple(
            Pair(key, float(original.metrics[key]), float(reproduction.metrics[key]))
            for key in wanted
            if key in reproduction.metrics
        ),
        missing=tuple(key for key in wanted if key not in reproduction.metrics),
        logits={
            name: largest_difference(values, reproduction.logits[name])
            if name in reproduction.logits
            else math.inf
            for name, values in original.logits.items()
        },
        environment={
            name: (old.get(name), new.get(name))
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        },
    )


def largest_difference(original: np.ndarray, reproduction: np.ndarray) -> float:
    """Largest absolute difference of two arrays of logits, compared in the precision of the first;
    0 only where every bit is equal, infinite where they cannot be subtracted."""
    if original.shape != reproduction.shape:
        return math.inf
    new = reproduction.astype(original.dtype)
    same = (original == new) | (np.isnan(original) & np.isnan(new))
    if same.all():
        return 0.0
    gaps = np.abs(original[~same].astype(np.float64) - new[~same].astype(np.float64))
    return float(np.where(np.isnan(gaps), math.inf, gaps).max())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
