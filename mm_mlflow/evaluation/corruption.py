"""Accuracy on corrupted images: out-of-distribution data made from the test images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation.base import Intervention, check_strength, check_whole, number, slug
from mm_mlflow.evaluation.input_perturbation import uniform

if TYPE_CHECKING:
    from torch import Tensor

    from mm_mlflow.evaluation.probe import Probe
    from mm_mlflow.split import Split


@dataclass(frozen=True)
class Kind:
    """A way to corrupt images.

    Attributes:
        words: what is done, with ``{}`` for the severity; goes on "after every image is ...".
        corrupt: from ``(n, C, H, W)`` float32 in [0, 1] on the CPU and a severity above 0 to images
            of the same shape; clipped to [0, 1] afterwards. None: noise, which knows the example.
        whole: severities are whole numbers.
        maximum: the largest severity.
        channels: numbers of channels that it is for; None: any.
    """

    words: str
    corrupt: Callable[[Tensor, float], Tensor] | None
    whole: bool = False
    maximum: float = math.inf
    channels: tuple[int, ...] | None = None


def _blur(images: Tensor, sigma: float) -> Tensor:
    # Three standard deviations to either side, or as far as an image can be mirrored at its edges.
    width_height = images.shape[3], images.shape[2]
    sizes = [2 * min(math.ceil(3 * sigma), side - 1) + 1 for side in width_height]
    blurred: Tensor = _functional().gaussian_blur(images, sizes, [sigma, sigma])
    return blurred


def _brightness(images: Tensor, severity: float) -> Tensor:
    brighter: Tensor = _functional().adjust_brightness(images, 1 + severity)
    return brighter


def _contrast(images: Tensor, severity: float) -> Tensor:
    flatter: Tensor = _functional().adjust_contrast(images, 1 / (1 + severity))
    return flatter


def _saturation(images: Tensor, severity: float) -> Tensor:
    paler: Tensor = _functional().adjust_saturation(images, 1 / (1 + severity))
    return paler


def _jpeg(images: Tensor, severity: float) -> Tensor:
    # Pillow's encoder: torchvision's is to be removed.
    import torch
    from PIL import Image

    saved = []
    for levels in _levels(images).permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
        picture.save(file := io.BytesIO(), "JPEG", quality=100 - int(severity))
        with Image.open(file) as opened:
            saved.append(np.array(opened).reshape(levels.shape))
    return torch.from_numpy(np.stack(saved)).permute(0, 3, 1, 2).float().div_(255).contiguous()


def _posterize(images: Tensor, severity: float) -> Tensor:
    coarser: Tensor = _functional().posterize(_levels(images), 8 - int(severity))
    return coarser.float().div_(255)


def _rotate(images: Tensor, degrees: float) -> Tensor:
    turned: Tensor = _functional().rotate(images, degrees, _interpolation("BILINEAR"), fill=0.0)
    return turned


def _downscale(images: Tensor, severity: float) -> Tensor:
    sides = list(images.shape[2:])
    fewer = [max(1, round(side / (1 + severity))) for side in sides]
    resize = _functional().resize
    small = resize(images, fewer, _interpolation("BILINEAR"), antialias=True)
    coarse: Tensor = resize(small, sides, _interpolation("NEAREST_EXACT"))
    return coarse


# Severity 0 is the clean image for all, and never passes through any of these.
KINDS: Mapping[str, Kind] = {
    "gaussian_blur": Kind("blurred by a Gaussian of standard deviation {} pixels", _blur),
    "gaussian_noise": Kind(
        "given Gaussian noise of standard deviation {} of the range from 0 to 1", None
    ),
    "brightness": Kind("made brighter, by a factor of 1 + {}", _brightness),
    "contrast": Kind(
        "drawn towards its mean grey, by a factor of 1 / (1 + {})", _contrast, channels=(1, 3)
    ),
    "saturation": Kind(
        "drawn towards grey, by a factor of 1 / (1 + {})", _saturation, channels=(3,)
    ),
    "jpeg": Kind(
        "saved as a JPEG of quality 100 - {}", _jpeg, whole=True, maximum=99, channels=(1, 3)
    ),
    "posterize": Kind("left without the lowest {} of 8 bits", _posterize, whole=True, maximum=7),
    "rotate": Kind("turned by {} degrees, with black corners", _rotate, maximum=180),
    "downscale": Kind("made of pixels 1 + {} times as large", _downscale),
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Corruption(Intervention):
    """Accuracy on corrupted test images: a more severe check of robustness (Section 3.3).

    The idea is Hendrycks and Dietterich's (arXiv:1903.12261); kinds and severities are not theirs
    but torchvision's own transforms (JPEG is Pillow's), so the numbers do not compare with their
    benchmark's. Images are corrupted on the CPU, whatever the model runs on, and clipped to [0, 1].

    Attributes:
        kind: one of :data:`KINDS`.
        severity: in the kind's own unit, larger is worse; 0 is clean accuracy. ``gaussian_blur``:
            standard deviation in pixels. ``gaussian_noise``: standard deviation in units of [0, 1]
            pixels. ``brightness``: s for a factor of 1 + s. ``contrast``, ``saturation``: s for a
            factor of 1 / (1 + s). ``jpeg``: 100 - quality, whole. ``posterize``: lowest bits of 8 that
            are dropped, whole. ``rotate``: degrees, counter-clockwise. ``downscale``: s for pixels
            1 + s times as large.
        noise_seed: of Gaussian noise, which depends on it, the split's name and the example's id
            alone: every model and every training seed meets the same noise.
    """

    name: ClassVar[str] = "corruption"
    metric: ClassVar[str] = "corruption_accuracy"
    needs: ClassVar[Literal["logits", "inputs", "gradients"]] = "inputs"
    strengths: ClassVar[tuple[str, ...]] = ("severity",)

    kind: str
    severity: float
    noise_seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of corruption", self.kind, KINDS)
        kind = KINDS[self.kind]
        check_strength("severity", self.severity, kind.maximum)
        if kind.whole:
            check_whole(f"{self.kind}: severity", self.severity, 0)
        check_whole("noise_seed", self.noise_seed, 0)
        if self.noise_seed and kind.corrupt is not None:
            raise InvalidInput(
                f"noise_seed {self.noise_seed} is not allowed for {self.kind}, which draws nothing"
            )

    def select(self, split: Split, indices: np.ndarray) -> np.ndarray:
        """All of ``indices``.

        Raises:
            InvalidInput: images of a number of channels that the kind is not for.
        """
        allowed = KINDS[self.kind].channels
        channels = split.images.shape[1]
        if allowed is not None and channels not in allowed:
            raise InvalidInput(
                f"{self.kind} is not allowed on split {split.name!r} of {channels}-channel images: "
                f"{' or '.join(map(str, allowed))} needed"
            )
        return indices

    def key_parts(self) -> list[str]:
        parts = [slug(self.kind), f"severity-{number(self.severity)}"]
        return parts + ([f"noise_seed-{self.noise_seed}"] if self.noise_seed else [])

    def outcomes(self, probe: Probe) -> np.ndarray:
        if self.severity == 0:
            return probe.clean_outcomes.copy()
        corrupt = KINDS[self.kind].corrupt
        correct = np.zeros(len(probe))
        for batch in probe.batches():
            images, positions = batch.images, batch.positions.numpy()
            if corrupt is None:
                names = probe.example_ids[positions]
                corrupted = self._noisy(images.cpu(), probe.split.name, names)
            else:
                corrupted = corrupt(images.cpu(), self.severity)
            seen = corrupted.clamp_(0, 1).to(images.device)
            correct[positions] = probe.classify(seen, batch).cpu().numpy()
        return correct

    def _noisy(self, images: Tensor, split: str, names: Any) -> Tensor:
        import torch

        shape = tuple(images.shape[1:])
        draws = [gaussian(self.noise_seed, split, name, shape) for name in names]
        return images + self.severity * torch.from_numpy(np.stack(draws))

    @property
    def title(self) -> str:
        return f"Accuracy after {self.kind.replace('_', ' ')}, severity {number(self.severity)}"

    def describe(self) -> str:
        done = KINDS[self.kind].words.format(number(self.severity))
        return f"The fraction of examples classified correctly after every image is {done}."


def gaussian(seed: int, split: str, example_id: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise for one example, ``shape`` float32: a function of its arguments.

    Box and Muller's: two uniform numbers make one normal one.
    """
    size = math.prod(shape)
    one, other = uniform(f"gaussian/{seed}/{split}/{example_id}", 2 * size).reshape(2, size)
    drawn: np.ndarray = np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * other)
    return drawn.astype(np.float32).reshape(shape)


def _levels(images: Tensor) -> Tensor:
    """The nearest of 256 levels, uint8."""
    import torch

    return images.mul(255).round_().to(torch.uint8)


def _functional() -> ModuleType:
    """The transforms of torchvision, imported where images are at hand: planning needs no torch."""
    from torchvision.transforms.v2 import functional

    module: ModuleType = functional
    return module


def _interpolation(name: str) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode[name]
