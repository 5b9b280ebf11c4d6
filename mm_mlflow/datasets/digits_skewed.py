"""scikit-learn's 1,797 real handwritten digits with the CIFAR10-Skewed construction (Appendix A.1).

Classes 0-4 are the colour majority and classes 5-9 the grayscale majority, in training and in test.
"Colour" is two-tone: light ink of one hue on a darker ground of another. A plain tint on black was
tried and is dull, the minority at 98%.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from mm_mlflow.datasets.base import Arrays, Dataset
from mm_mlflow.datasets.skew import LUMA, arrays, assign, grayscale

_LUMINANCE_GAP = 0.2


class DigitsSkewed(Dataset):
    """Digits as 8 x 8 RGB, embedded: nothing is downloaded.

    Splits ``train`` and ``test`` (both skewed) and ``grayscale``, the test images all in grayscale.
    Groups: ``skew`` (``colour_majority``, ``gs_minority``, ``gs_majority``, ``colour_minority``; the
    paper's GS minority is grayscale images of the colour majority's classes), ``colour``
    (``colour``, ``grayscale``) and ``class``.

    Attributes:
        test_fraction: part of the images in the test split, stratified by class.
        train_skew, test_skew: part of each class that follows its majority, rounded per class; 0.85
            in test leaves 55 images in each minority, where 0.95 would leave 20.
        seed: of the split, the assignment and the colours; never of a training.
    """

    summary: ClassVar[str] = (
        "scikit-learn's digits in colour and grayscale, skewed by class (embedded)"
    )

    test_fraction: float = Field(default=0.4, gt=0, lt=1)
    train_skew: float = Field(default=0.95, ge=0.5, le=1)
    test_skew: float = Field(default=0.85, ge=0.5, le=1)
    seed: int = Field(default=0, ge=0)

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """See :meth:`Dataset.build`."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        labels = digits.target.astype(np.int64)
        names = tuple(str(name) for name in digits.target_names)
        colour = two_tone(digits.images / 16, np.random.default_rng([self.seed, 1]))
        gray = grayscale(colour)
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=self.test_fraction,
            stratify=labels,
            random_state=self.seed,
        )
        rng = np.random.default_rng([self.seed, 2])
        parts = {}
        for name, members, skew in [
            ("train", np.sort(train), self.train_skew),
            ("test", np.sort(test), self.test_skew),
        ]:
            is_gray = assign(labels[members], labels[members] < 5, skew, rng)
            images = np.where(is_gray[:, None, None, None], gray[members], colour[members])
            parts[name] = arrays(
                images, labels[members], members, is_gray, labels[members] < 5, names
            )
        test = np.sort(test)
        parts["grayscale"] = arrays(
            gray[test], labels[test], test, np.ones(len(test), dtype=bool), labels[test] < 5, names
        )
        return parts, names


def two_tone(strokes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint ``(N, H, W)`` stroke intensities in [0, 1] as ``(N, 3, H, W)`` uint8.

    Each image draws a ground and a lighter ink whose luminances differ by at least 0.2 and whose
    hues lie at least a sixth of the circle apart.
    """
    painted = np.empty((len(strokes), 3, *strokes.shape[1:]), dtype=np.uint8)
    for i, stroke in enumerate(strokes):
        ground, ink = _two_tones(rng)
        mixed = ground[:, None, None] * (1 - stroke) + ink[:, None, None] * stroke
        painted[i] = np.rint(255 * mixed)
    return painted


def _two_tones(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    while True:
        hue, turn, saturation_a, saturation_b, value_a, value_b = rng.random(6)
        ground = np.array(colorsys.hsv_to_rgb(hue, 0.5 + 0.5 * saturation_a, 0.8 * value_a))
        other = (hue + 1 / 6 + turn * 2 / 3) % 1
        ink = np.array(colorsys.hsv_to_rgb(other, 0.5 + 0.5 * saturation_b, 0.4 + 0.6 * value_b))
        if LUMA @ (ink - ground) >= _LUMINANCE_GAP:
            return ground, ink
