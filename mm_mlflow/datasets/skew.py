"""The CIFAR10-Skewed construction (Appendix A.1): classes that are mostly in colour, or mostly not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mm_mlflow.datasets.base import Arrays

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, which PIL's mode L uses


def assign(
    labels: np.ndarray,
    in_colour: np.ndarray,
    skew: float,
    rng: np.random.Generator,
    how: Literal["exact", "bernoulli"] = "exact",
) -> np.ndarray:
    """``(N,)`` booleans, true for the images that become grayscale.

    Args:
        labels: ``(N,)`` class of each image.
        in_colour: ``(N,)`` booleans: whether its class is mostly in colour.
        skew: part of each class that follows its majority.
        rng: draws which images.
        how: ``exact`` per class, up to rounding, or ``bernoulli``: each image by itself.
    """
    if how == "bernoulli":
        drawn: np.ndarray = (rng.random(len(labels)) >= skew) == in_colour
        return drawn
    is_gray = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        minority = round((1 - skew) * len(members))
        if in_colour[members[0]]:
            is_gray[members[:minority]] = True
        else:
            is_gray[members[minority:]] = True
    return is_gray


def grayscale(images: np.ndarray) -> np.ndarray:
    """PIL's mode ``L`` of ``(N, 3, H, W)`` uint8 images, repeated over three channels."""
    from PIL import Image

    gray = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in images]
    return np.repeat(np.stack(gray)[:, None], 3, axis=1)


def arrays(
    images: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    is_gray: np.ndarray,
    in_colour: np.ndarray,
    class_names: Sequence[str],
) -> Arrays:
    """One split with its groups ``skew``, ``colour`` and ``class``; the arrays are ``(N, ...)``."""
    skew = np.where(
        in_colour,
        np.where(is_gray, "gs_minority", "colour_majority"),
        np.where(is_gray, "gs_majority", "colour_minority"),
    )
    return Arrays(
        images=images,
        labels=labels,
        example_ids=ids.astype(np.str_),
        groups={
            "skew": skew,
            "colour": np.where(is_gray, "grayscale", "colour"),
            "class": np.array(class_names, dtype=np.str_)[labels],
        },
    )
