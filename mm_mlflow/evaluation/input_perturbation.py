"""Accuracy under input perturbation: privacy, the paper's unforeseen variant."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from mm_mlflow.evaluation.base import Intervention, check_strength, check_whole, number

if TYPE_CHECKING:
    from mm_mlflow.evaluation.probe import Probe
    from mm_mlflow.split import Split


@dataclass(frozen=True, kw_only=True, repr=False)
class InputPerturbation(Intervention):
    """Accuracy after exponential noise on the normalised image: privacy (Section 4).

    In units of [0, 1] pixels the image becomes x + λ σ_c ε, with ε exponential of mean 1 and σ_c the
    standard deviation of channel c in the training images; it is not clipped.

    Attributes:
        lam: λ, the scale of the noise, ``lambda`` in design files and keys; 0 is clean accuracy.
        noise_seed: of the noise, which depends on it, the split's name and the example's id alone:
            every model and every training seed meets the same noise.
    """

    name: ClassVar[str] = "input_perturbation"
    metric: ClassVar[str] = "input_perturbation_accuracy"
    needs: ClassVar[Literal["logits", "inputs", "gradients"]] = "inputs"
    strengths: ClassVar[tuple[str, ...]] = ("lam",)
    spelling: ClassVar[Mapping[str, str]] = {"lam": "lambda"}
    bounded: ClassVar[bool] = False

    lam: float
    noise_seed: int = 0

    def __post_init__(self) -> None:
        check_strength("lambda", self.lam)
        check_whole("noise_seed", self.noise_seed, 0)

    def outcomes(self, probe: Probe) -> np.ndarray:
        if self.lam == 0:
            return probe.clean_outcomes.copy()
        import torch

        split = probe.split
        scale = torch.tensor(split.std, dtype=torch.float32).view(-1, 1, 1) * self.lam
        correct = np.zeros(len(probe))
        for batch in probe.batches():
            images = batch.images
            ids = probe.example_ids[batch.positions.numpy()]
            draws = [noise(self.noise_seed, split.name, name, images.shape[1:]) for name in ids]
            perturbed = images + (scale * torch.from_numpy(np.stack(draws))).to(images.device)
            correct[batch.positions.numpy()] = probe.classify(perturbed, batch).cpu().numpy()
        return correct

    def describe_on(self, split: Split, indices: np.ndarray) -> str:
        del indices
        pixels = split.images.shape[2:] != (1, 1)
        return self.describe() if pixels else self.describe().replace("pixel", "feature")

    @property
    def title(self) -> str:
        return f"Input perturbation accuracy, λ = {number(self.lam)}"

    def describe(self) -> str:
        return (
            "The fraction of examples classified correctly after exponential noise of scale "
            f"{number(self.lam)} is added to every normalised pixel."
        )


def noise(seed: int, split: str, example_id: str, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential noise of mean 1 for one example, ``shape`` float32: a function of its arguments."""
    drawn: np.ndarray = -np.log1p(-uniform(f"noise/{seed}/{split}/{example_id}", math.prod(shape)))
    return drawn.astype(np.float32).reshape(shape)


def uniform(label: str, count: int) -> np.ndarray:
    """``(count,)`` float64, uniform in [0, 1): a function of ``label`` alone.

    Made from a bit generator's raw output, which NumPy keeps stable (its distributions may change).
    """
    key = hashlib.sha256(label.encode()).digest()[:16]
    bits = np.random.Philox(key=int.from_bytes(key, "little"))
    drawn: np.ndarray = (bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
    return drawn
