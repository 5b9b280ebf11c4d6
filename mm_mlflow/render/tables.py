"""The tables of a report, for other programs: ``summary.csv``, ``summary.json``, ``cells.csv``."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mm_mlflow.render.json import dump
from mm_mlflow.report import Report, SummaryRow


def summary_csv(report: Report) -> bytes:
    """One line per metric; fractions, to the last bit."""
    columns = list(_flat(report.summary[0])) if report.summary else ["metric"]
    frame = pd.DataFrame([_flat(row) for row in report.summary], columns=columns)
    # Int64: a count stays a whole number where another metric has none.
    frame = frame.astype({"n_examples": "Int64"}) if report.summary else frame
    return _csv(frame)


def summary_json(report: Report) -> bytes:
    """The summary with the report's notes."""
    return dump(
        {
            "schema": 1,
            "experiment": {"id": report.experiment.id, "name": report.experiment.name},
            "design": report.plan.name,
            "design_id": report.plan.id,
            "planned": report.planned,
            "counted": report.counted,
            "notes": list(report.notes),
            "metrics": [row.to_dict() for row in report.summary],
            "figures": [vars(row) for row in report.figures],
            **({"judged": report.judged.model_dump(mode="json")} if report.judged else {}),
        }
    )


def cells_csv(report: Report) -> bytes:
    """Every value of every run, each run once."""
    return _csv(report.cells)


def _csv(frame: pd.DataFrame) -> bytes:
    return str(frame.to_csv(index=False, lineterminator="\n")).encode()


def _flat(row: SummaryRow) -> dict[str, Any]:
    plain = row.to_dict()
    del plain["verdicts"]  # in summary.json
    for end in ("low", "high"):
        run = plain.pop(end) or dict.fromkeys(("run_id", "run_name", "value"))
        plain |= {f"{end}_{key}": value for key, value in run.items()}
    return plain
