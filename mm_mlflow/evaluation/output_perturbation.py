"""Accuracy under output perturbation: privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mm_mlflow import outcomes
from mm_mlflow.evaluation.base import LogitsIntervention, check_strength, number


@dataclass(frozen=True, kw_only=True, repr=False)
class OutputPerturbation(LogitsIntervention):
    """Exact expected accuracy after exponential noise on the logits: privacy (Section 3.4).

    Attributes:
        lam: λ, the *scale* (mean) of the noise in units of logits, ``lambda`` in design files and
            keys. The paper says "the higher the rate parameter, the larger the perturbation". 0 is
            clean accuracy.
    """

    name: ClassVar[str] = "output_perturbation"
    metric: ClassVar[str] = "output_perturbation_accuracy"
    strengths: ClassVar[tuple[str, ...]] = ("lam",)
    spelling: ClassVar[Mapping[str, str]] = {"lam": "lambda"}
    scaled: ClassVar[bool] = True

    lam: float

    def __post_init__(self) -> None:
        check_strength("lambda", self.lam)

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return outcomes.output_perturbation(logits, labels, self.lam)

    @property
    def title(self) -> str:
        return f"Output perturbation accuracy, λ = {number(self.lam)}"

    def describe(self) -> str:
        return (
            "The expected fraction of examples classified correctly when exponential noise of scale "
            f"{number(self.lam)} is added to every logit, computed exactly; it depends on the scale "
            "of a model's logits and is no privacy guarantee."
        )
