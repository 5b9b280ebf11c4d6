"""Per-example outcomes from clean logits, in numpy: what can be recomputed from stored logits.

An outcome is the probability, in [0, 1], that a model's answer on one example is correct under an
intervention; a metric is the mean of its outcomes. The same functions serve the evaluation of a
fresh model and the reading of stored float32 logits, so that both give the same bits.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from mm_mlflow.errors import InvalidInput

_CHUNK = 2**17  # elements worked on at once: 1 MiB of float64 stays in cache


def finite(logits: np.ndarray) -> np.ndarray:
    """``(N,)`` booleans: examples whose logits, and with them the loss, are finite.

    Any NaN or infinity makes the range NaN or infinite; so do finite logits too far apart for a
    finite cross-entropy.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found: np.ndarray = np.isfinite(_of_rows(np.maximum, logits) - _of_rows(np.minimum, logits))
    return found


def _of_rows(extreme: np.ufunc, rows: np.ndarray) -> np.ndarray:
    """The largest or the smallest of each row; of short rows, ten times as fast as numpy along them."""
    if rows.shape[1] < 64:
        found: np.ndarray = extreme.reduce(np.ascontiguousarray(rows.T), axis=0)
    else:
        found = extreme.reduce(rows, axis=1)
    return found


def accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1.0 where the largest logit is the label's, else 0.0; of equal logits the first counts.

    Args:
        logits: ``(N, K)``. Examples with logits that are not finite are wrong.
        labels: ``(N,)`` class indices in [0, K).

    Returns:
        ``(N,)`` float64.

    Raises:
        InvalidInput: shapes that do not fit, or labels outside [0, K).
    """
    logits, labels = _checked(logits, labels)
    # argmax of a row with NaN is the NaN's index, which finite() then overrules.
    right: np.ndarray = (logits.argmax(axis=1) == labels) & finite(logits)
    return right.astype(np.float64)


def output_perturbation(logits: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """Probability that the label wins after exponential noise of mean ``scale`` on every logit.

    Section 3.4, read as in DESIGN section 5: one-sided exponential noise on *logits* ("the higher
    the rate parameter, the larger the output perturbations", so λ is a scale), then argmax; this is
    report-noisy-max with the permute-and-flip mechanism's distribution. With
    ``d_k = (z_y - z_k) / scale`` and ``m = min(0, min_k d_k)``, the probability is

        e^m ∫_0^1 Π_{k≠y} (1 - s e^{m - d_k}) ds,

    a polynomial in s of degree K - 1, which Gauss-Legendre with floor(K/2) + 1 nodes integrates
    exactly. No sampling, no random state. The form with m cannot overflow.

    Args:
        logits: ``(N, K)``. Examples with logits that are not finite have probability 0.
        labels: ``(N,)`` class indices in [0, K).
        scale: λ, finite and at least 0, in units of logits; 0 is :func:`accuracy` exactly.

    Returns:
        ``(N,)`` float64 in [0, 1]; each depends on its own row alone.

    Raises:
        InvalidInput: a scale that is not allowed, or arrays that do not fit.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise InvalidInput(f"lambda {scale!r} is not allowed: a finite number of at least 0")
    if scale == 0:
        return accuracy(logits, labels)
    logits, labels = _checked(logits, labels)
    probability = np.zeros(len(logits))
    usable = np.flatnonzero(finite(logits))
    rows = max(1, _CHUNK // logits.shape[1])
    for start in range(0, len(usable), rows):
        part = usable[start : start + rows]
        probability[part] = _exact(logits[part].astype(np.float64), labels[part], scale)
    return probability


def _exact(logits: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    each = np.arange(len(labels))
    with np.errstate(over="ignore"):  # of a tiny scale; the bounds below change no digit of float64
        margins = (logits[each, labels][:, None] - logits) / scale
    margins = np.clip(margins, -1e4, 1e4)
    least = _of_rows(np.minimum, margins)  # the label's own margin is 0: this is min(0, min_k d_k)
    factors = np.exp(least[:, None] - margins)
    factors[each, labels] = 0.0  # the product leaves the label out
    integral = np.zeros(len(labels))
    for node, weight in zip(*_gauss_legendre(logits.shape[1] // 2 + 1), strict=True):
        integral += weight * np.prod(1.0 - node * factors, axis=1)
    probability: np.ndarray = np.minimum(np.exp(least) * integral, 1.0)
    return probability


@lru_cache(maxsize=16)
def _gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 1:
        raise InvalidInput(
            f"logits {logits.shape} and labels {labels.shape} do not fit: (N, K) and (N,) are needed"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        raise InvalidInput(
            f"labels from {labels.min()} to {labels.max()} are not allowed: "
            f"the model has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}"
        )
    if logits.dtype.itemsize < 4:  # float16 logits as they may be stored
        logits = logits.astype(np.float32)
    return logits, labels
