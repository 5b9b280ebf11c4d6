"""What chance would give, beside every Δ of a sheet: from its runs, and from their single answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mm_mlflow.frame import Frame
from mm_mlflow.plan import Plan
from mm_mlflow.sheet import Sheet, SheetTable
from mm_mlflow.statistics.describe import Runs, TableValues, describe
from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.statistics.page import PageCount, judge_page

LARGEST = 1e150  # the square of a larger number may be no float


@dataclass(frozen=True)
class Evidence:
    """What is known of the runs besides their values.

    Attributes:
        outcomes: per metric key, the outcomes of single examples.
        missing: per metric key, why there are none.
        n_examples: test examples behind the values of metrics that do not tell it themselves.
        no_shares: metrics whose values are no shares of their test examples, such as gaps between groups.
    """

    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    n_examples: int | None = None
    no_shares: frozenset[str] = frozenset()


def with_chance(
    sheets: Sequence[Sheet], frame: Frame, plan: Plan, evidence: Evidence
) -> tuple[tuple[Sheet, ...], PageCount]:
    """The same sheets with their statistics, and how much was judged on their page.

    Every distinct run counts once; diverged runs are left out. A sheet of values so large that no float
    holds their variance stays as it is.
    """
    found = {
        place: describe(
            _runs(frame, plan, sheet.metric),
            [_table(table, plan) for table in sheet.tables],
            outcomes=evidence.outcomes.get(sheet.metric),
            n_examples=sheet.n_examples or evidence.n_examples,
            why=evidence.missing.get(sheet.metric, ""),
            shared_seed=plan.shared_seed,
            n_left_out=sheet.n_diverged,
            is_share=sheet.metric not in evidence.no_shares and _may_be_share(sheet),
            refused=_refused(sheet, plan),
        )
        for place, sheet in enumerate(sheets)
        if not frame.values[sheet.metric].abs().max() > LARGEST
    }
    judged, count = judge_page(list(found.values()))
    marked = list(sheets)
    for place, (statistics, tables) in zip(found, judged, strict=True):
        sheet = sheets[place]
        pairs = zip(sheet.tables, tables, strict=True)
        marked[place] = replace(
            sheet,
            statistics=statistics,
            tables=tuple(replace(table, statistics=one) for table, one in pairs),
        )
    return tuple(marked), count


def _may_be_share(sheet: Sheet) -> bool:
    """By its record, or else by a name that accuracies have: nothing is said of a loss or an AUC."""
    if sheet.unit == "fraction":
        return True
    return re.search(r"(^|[^a-z])acc(uracy)?([^a-z]|$)", sheet.metric.lower()) is not None


def _refused(sheet: Sheet, plan: Plan) -> str:
    """Why the runs of a sheet are no sample that chance could have drawn; empty if they are."""
    if sheet.within is not None and sheet.metric == "accuracy":
        return "runs were kept by this very value"
    if plan.replicated:
        return "repeated runs of one cell stand side by side, and are no independent runs"
    return ""


def _runs(frame: Frame, plan: Plan, metric: str) -> Runs:
    """The distinct healthy runs that have the metric."""
    values = frame.values[metric][frame.cells["status"] == "ok"].dropna()
    cells = frame.cells.loc[values.index]
    return Runs(
        run_ids=tuple(cells["run_id"]),
        values=values.to_numpy(dtype=float),
        configurations=tuple(map(str, cells["configuration"])),
        seeds=tuple(cells["seed"]) if plan.column_kind == "seeds" else None,
    )


def _table(table: SheetTable, plan: Plan) -> TableValues:
    values = table.healthy
    ids = np.array([[run is None for run in row] for row in table.run_ids])
    refused = ""
    if (ids & np.isfinite(values)).any():
        refused = "its entries are means over several runs"
    elif plan.column_kind == "levels":
        refused = "its columns are levels of another axis"
    return TableValues(axis=table.axis, values=values, paired=table.paired, refused=refused)
