"""Back-fill: interventions that finished runs lack, measured on their models without training again.

:func:`prepare` finds out, and writes nothing, what each run lacks and what cannot be done; :func:`run` has
workers do the rest. Each run gets its artifacts first and then its metrics in one batch: a run that has
the metrics is done, and nothing that is there is written again.
"""

from __future__ import annotations

from mm_mlflow.backfill.driver import run
from mm_mlflow.backfill.planning import prepare
from mm_mlflow.backfill.work import Job, Outcome, RunResult, Work
from mm_mlflow.backfill.worker import evaluate_run

__all__ = ["Job", "Outcome", "RunResult", "Work", "evaluate_run", "prepare", "run"]
