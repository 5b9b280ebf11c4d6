"""Many tests at once: Holm within a sheet, Benjamini and Hochberg over a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p (Scand. J. Statist. 6, 1979): a sheet's tests at 5% together.

    None stays None and is not counted: a test that could not be made claims nothing.
    """
    found = np.array([np.nan if value is None else value for value in p], dtype=float)
    order = np.argsort(found)[: int(np.isfinite(found).sum())]
    factors = np.arange(len(order), 0, -1)
    raised = np.minimum(np.maximum.accumulate(found[order] * factors), 1.0)
    adjusted: list[float | None] = [None] * len(found)
    for place, value in zip(order, raised, strict=True):
        adjusted[int(place)] = float(value)
    return adjusted


def benjamini_hochberg(p: Sequence[float | None]) -> list[float | None]:
    """q: of the claims at q ≤ 5%, at most 5% are expected to be false (J. R. Stat. Soc. B 57, 1995).

    None stays None and is not counted.
    """
    known = [value for value in p if value is not None]
    q = iter(scipy.stats.false_discovery_control(known)) if known else iter(())
    return [None if value is None else float(next(q)) for value in p]
