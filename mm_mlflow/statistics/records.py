"""What statistics say of a sheet, as records that ``sheet.json`` holds: their fields are its keys.

Every number is in the unit of the metric (fractions where the sheet's unit is one), variances in its
square; None where it is undefined, never NaN.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen; attribute docstrings become the descriptions of the JSON Schema. Keys that a later
    version adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


def known(value: float) -> float | None:
    """``value`` as a plain float, None where it is not finite."""
    return float(value) if math.isfinite(value) else None


class Interval(Record):
    """A confidence interval."""

    low: float
    high: float
    level: float = 0.95
    method: str
    """How it was made, such as ``t``, ``chi-square``, ``BCa bootstrap``, ``jackknife t on log``."""


class SignificanceTest(Record):
    """A test of one hypothesis, and how far it could have reached."""

    name: str
    """What is tested and how, for people."""
    statistic: float | None
    p: float | None
    """None where the test is undefined: ``reason`` says why."""
    smallest_p: float | None = None
    """The smallest p that these runs could give, whatever their values."""
    draws: int | None = None
    """Random permutations behind p, which is then (1 + count) / (draws + 1); None where all were
    enumerated, or p comes from a formula."""
    adjusted_p: float | None = None
    """Holm's, over the tests of this kind of one sheet."""
    q: float | None = None
    """Benjamini and Hochberg's, over the p (Holm's where there is one) of all tests of a report."""
    needs: int | None = None
    """Runs per level (or rows) with which the test could reach 5%; None where these suffice."""
    reason: str = ""


Source = Literal["predictions", "binomial"]
