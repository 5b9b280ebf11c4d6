"""A gate for pipelines: bounds that the Δ of a report must keep."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.report import Report, SummaryRow
from mm_mlflow.rules import parse_threshold

# What can be bounded, as report runs name their metrics.
QUANTITIES = ("delta_all", "delta_all_healthy", "delta_all_adjusted", "delta_all_above_floor")
Outcome = Literal["kept", "exceeded", "incomplete", "unknown"]


@dataclass(frozen=True)
class Bound:
    """``delta_all/accuracy<=0.02``.

    Attributes:
        quantity: one of :data:`QUANTITIES`.
        metric: a metric key; ``*`` and ``?`` match several.
        maximum: in the metric's unit.
    """

    quantity: str
    metric: str
    maximum: float

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.quantity}/{self.metric}<={self.maximum:.12g}"

    def keeps(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        # 1e-12: 0.97 - 0.95 is a hair above 0.02 in binary, and such a Δ keeps it.
        return value <= self.maximum + 1e-12


@dataclass(frozen=True)
class Checked:
    """One bound on one metric.

    Attributes:
        value: None where it is unknown.
        outcome: ``kept``; ``exceeded``; ``incomplete`` where runs are missing that could change the answer;
            ``unknown`` where there is no value.
        reason: why it is unknown.
    """

    bound: Bound
    metric: str
    value: float | None
    outcome: Outcome
    reason: str = ""


def parse_bound(text: str) -> Bound:
    """``QUANTITY/METRIC<=VALUE``, the value a number or a percentage.

    Raises:
        InvalidInput: anything else.
    """
    hint = f"QUANTITY/METRIC<=VALUE with one of {', '.join(QUANTITIES)}, such as delta_all/accuracy<=0.02"
    try:
        threshold = parse_threshold(text)
    except InvalidInput as error:
        raise InvalidInput(f"max {text!r} is not allowed: {hint}") from error
    quantity, slash, metric = threshold.metric.partition("/")
    if threshold.sense != "<=" or not slash or not metric or threshold.bound < 0:
        raise InvalidInput(f"max {text!r} is not allowed: {hint}")
    if quantity not in QUANTITIES:
        raise unknown("quantity", quantity, QUANTITIES)
    return Bound(quantity, metric, threshold.bound)


def check(
    report: Report, bounds: Sequence[Bound], *, allow_incomplete: bool = False
) -> tuple[Checked, ...]:
    """Every bound on every metric that it names.

    A gate that cannot be judged is not passed: a value that is unknown, or one that runs that are
    missing could still raise (unless ``allow_incomplete``), is not kept.

    Raises:
        InvalidInput: a bound that names no metric of the report; a bound above 1 on a fraction.
    """
    keys = [row.metric for row in report.summary]
    found = []
    for bound in bounds:
        rows = [row for row in report.summary if fnmatch.fnmatchcase(row.metric, bound.metric)]
        if not rows:
            raise unknown("metric", bound.metric, keys)
        for row in rows:
            if row.unit == "fraction" and bound.maximum > 1:
                raise InvalidInput(
                    f"max {bound.text!r} is not allowed: {row.metric} is a fraction; 2 points are 0.02 or 2%"
                )
            found.append(_checked(report, bound, row, allow_incomplete=allow_incomplete))
    return tuple(found)


def _checked(report: Report, bound: Bound, row: SummaryRow, *, allow_incomplete: bool) -> Checked:
    value = getattr(row, bound.quantity)
    if value is None or math.isnan(value):
        return Checked(bound, row.metric, None, "unknown", _reason(report, bound, row))
    kept = bound.keeps(value)
    # More runs can only widen Δ itself; what is divided by d2 or freed of chance, they may also lower.
    final = row.complete or (not kept and bound.quantity in {"delta_all", "delta_all_healthy"})
    if not final and not allow_incomplete:
        return Checked(bound, row.metric, value, "incomplete", "planned runs are missing")
    return Checked(bound, row.metric, value, "kept" if kept else "exceeded")


def _reason(report: Report, bound: Bound, row: SummaryRow) -> str:
    if row.n_runs < 2:
        return "a difference needs two runs"
    sheet = next(sheet for sheet in report.sheets if sheet.metric == row.metric)
    if bound.quantity == "delta_all_above_floor" and sheet.statistics is not None:
        return sheet.statistics.floor_reason or "no floor could be computed"
    return "no two healthy runs have a value"
