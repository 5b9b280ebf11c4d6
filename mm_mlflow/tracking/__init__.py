"""The only reader and writer of MLflow runs. What is done, and what came out, is MLflow's answer."""

from __future__ import annotations

import os

# Set before MLflow is imported: it would draw a bar for every small file, and print two lines for
# every run that ends, into the middle of --json.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mm_mlflow.tracking.cells import (
    abandoned,
    cell_params,
    heartbeat,
    kill,
    missing_params,
    running_cells,
    runs_of_cell,
    worker_name,
)
from mm_mlflow.tracking.experiment_page import refresh_page, report_page, runs_page
from mm_mlflow.tracking.experiment_tags import NOTE
from mm_mlflow.tracking.models import Consent, StoredModel, find_models, loaded, refusal
from mm_mlflow.tracking.outcomes import StoredOutcomes, read_outcomes
from mm_mlflow.tracking.reading import (
    ADOPTED,
    EVALUATED,
    adopted_runs,
    artifact,
    evaluated_runs,
    evaluations,
    has_artifact,
    newest_dataset,
    newest_design,
    open_run,
    read_design,
    read_run,
    read_runs,
    with_own_records,
    with_records,
)
from mm_mlflow.tracking.registry import (
    register_model,
    registered,
)
from mm_mlflow.tracking.store import (
    Store,
    connect,
    explain,
    open_store,
    reading_errors,
)
from mm_mlflow.tracking.writing import (
    add_files,
    create_run,
    finish,
    log,
    log_dataset,
    log_files,
    log_folder,
    mark_launcher,
    now_ms,
    project_run,
    supersede,
    tag_only,
    write_files,
)

__all__ = [
    "ADOPTED",
    "EVALUATED",
    "NOTE",
    "Consent",
    "Store",
    "StoredModel",
    "StoredOutcomes",
    "abandoned",
    "add_files",
    "adopted_runs",
    "artifact",
    "cell_params",
    "connect",
    "create_run",
    "evaluated_runs",
    "evaluations",
    "explain",
    "find_models",
    "finish",
    "has_artifact",
    "heartbeat",
    "kill",
    "loaded",
    "log",
    "log_dataset",
    "log_files",
    "log_folder",
    "mark_launcher",
    "missing_params",
    "newest_dataset",
    "newest_design",
    "now_ms",
    "open_run",
    "open_store",
    "project_run",
    "read_design",
    "read_outcomes",
    "read_run",
    "read_runs",
    "reading_errors",
    "refresh_page",
    "refusal",
    "register_model",
    "registered",
    "report_page",
    "running_cells",
    "runs_of_cell",
    "runs_page",
    "supersede",
    "tag_only",
    "with_own_records",
    "with_records",
    "worker_name",
    "write_files",
]
