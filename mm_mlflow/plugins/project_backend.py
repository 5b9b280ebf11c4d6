"""The project backend ``multiplicity``: ``mlflow run PROJECT -b multiplicity --backend-config
design.json`` sweeps anyone's MLflow project over a design."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

import click
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from mm_mlflow import console, engine, project, tracking
from mm_mlflow.design import Design, SweepOptions
from mm_mlflow.errors import InvalidInput, MultiplicityError
from mm_mlflow.sweeping import SweepResult
from mm_mlflow.tracking.projects import OPTIONS


class Sweep(SubmittedRun):
    """A sweep that has ended; its run is the one that ``mlflow run`` reports."""

    def __init__(self, result: SweepResult) -> None:
        super().__init__()
        self.result = result

    @property
    def run_id(self) -> str:
        """The sweep run's."""
        return self.result.run_id

    def wait(self) -> bool:
        """True: sweeps with failures are raised."""
        return True

    def get_status(self) -> str:
        """FINISHED."""
        return "FINISHED"

    def cancel(self) -> None:
        """Nothing is left to be cancelled."""


class MultiplicityBackend(AbstractBackend):
    """Sweeps a project over the design in its configuration, and returns when all is done: MLflow's
    command line waits for its own backends only."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any] | None,
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str | None,
    ) -> Sweep:
        """Sweep; a bad argument, or a cell that failed, is an ``ExecutionException`` of one line."""
        try:
            result = sweep(
                project_uri,
                entry_point,
                params,
                version,
                backend_config,
                tracking_uri,
                experiment_id,
            )
        except MultiplicityError as error:
            raise ExecutionException(" ".join(str(error).split())) from error
        if result.failed:
            raise ExecutionException(
                f"{len(result.failed)} of {result.planned} cells failed; run it again to try them again"
            )
        return Sweep(result)


def sweep(
    uri: str,
    entry_point: str,
    params: Mapping[str, Any] | None,
    version: str | None,
    backend_config: Mapping[str, Any],
    tracking_uri: str,
    experiment_id: str | None,
) -> SweepResult:
    """Translate what ``mlflow run`` passes, and run the design as ``mm-mlflow sweep`` does."""
    began = time.time()
    config = dict(backend_config)
    options = {name: config.pop(name) for name in OPTIONS if name in config}
    if not config:
        raise InvalidInput("backend-config is empty: --backend-config design.json names the design")
    design = Design.from_mapping(config, "backend-config")
    how = design.sweep or SweepOptions()
    engine.check(how.jobs, how.scheduler)
    design, material = project.prepare(
        design,
        uri,
        version=version,
        # MLflow says main where the user says nothing: then the design may name another.
        entry_point=None if entry_point == "main" else entry_point,
        parameters=params,
        options=options,
    )
    design = design.smoke() if how.smoke else design
    store = tracking.open_store(
        tracking_uri, _experiment(tracking_uri, experiment_id), design.name, create=True
    )
    result = console.run_design(
        design, store, material, began=began, quiet=False,
        jobs=how.jobs, scheduler=how.scheduler, smoke=how.smoke, adopt=how.adopt_foreign,
    )  # fmt: skip
    click.echo(f"Sheets: mm-mlflow sheet --experiment-name {shlex.quote(store.experiment.name)}")
    return result


def _experiment(tracking_uri: str, experiment_id: str | None) -> str | None:
    """The name of the experiment that ``mlflow run`` was given; None for Default, which is what it
    says where nobody named one."""
    if experiment_id in {None, "0"}:
        return None
    with tracking.reading_errors(tracking_uri):
        return str(MlflowClient(tracking_uri).get_experiment(experiment_id).name)
