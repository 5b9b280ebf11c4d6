"""Cells of somebody's MLflow project: its entry point in a process of its own, in any language.

A cell is one MLflow run. The process finds it in its environment, as under ``mlflow run``, and logs
there what it likes, whenever it likes; that it may end the run itself says nothing. The cell is whole
when the process has ended with status 0.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import mm_mlflow
from mm_mlflow import engine, jobs, tracking
from mm_mlflow.design import Cell, Design, ProjectSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.foreign import spelled
from mm_mlflow.jobs import CellFailed, Clock
from mm_mlflow.tracking import Store, projects
from mm_mlflow.tracking.projects import Checkout

# A session of its own with the project in it, which ends as a whole when the pipe on standard input
# closes: because the worker says so, or because it is no more, however it died. What the project
# prints goes to standard error; the exit status is told on standard output.
_SUPERVISOR = """exec 3<&0 </dev/null
{ read -r _ <&3; kill -s KILL 0; } >&2 &
bash -c "$1" 3<&- >&2
echo $?
wait
"""
_TAIL_BYTES = 2**16
_COMMANDS = "mlflow.projects"  # the logger that tells of each command and folder


@dataclass(frozen=True)
class Job(jobs.Job):
    """A run of a project's entry point."""

    checkout: Checkout = field(kw_only=True)

    def tags(self) -> dict[str, str]:
        """The project, and with what it runs."""
        return {**self.checkout.tags(), **project_tags(self.checkout)}

    def params(self) -> dict[str, Any]:
        """None yet: the project may log its own, and a param cannot be written twice."""
        return {}

    def work(self, run_id: str, clock: Clock) -> None:
        """Run the entry point to its end, and log what it did not."""
        if not Path(self.checkout.folder).is_dir():
            raise CellFailed(
                f"the project's folder {self.checkout.folder!r} is not on this machine", {}
            )
        with tempfile.TemporaryFile() as output:
            with clock.measure("train"):
                status = self._run(run_id, output)
            told = {"mm.exit_status": str(status)}
            if status != 0:
                tracking.log(self.store, run_id, params=self._missing(run_id)[0], tags=told)
                tail = _tail(output)
                last = (tail.decode(errors="replace").split("\n") or [""])[-1]
                raise CellFailed(f"{_ended(status)}: {last[:300]}", {"output.txt": tail})
            missing, conflict = self._missing(run_id)
            if conflict:
                tracking.log(self.store, run_id, params=missing)
                raise CellFailed(conflict, {"output.txt": _tail(output)})
        document = {**self.cell.canonical(), "locations": {"uri": self.checkout.uri}}
        content = json.dumps(document, indent=1).encode()
        tracking.log_files(self.store, run_id, iter([("cell.json", content)]))
        tracking.log(
            self.store,
            run_id,
            params=missing,
            metrics={"system/run_seconds": clock.train},
            tags={**told, "mm.health": "ok"},
        )

    def _run(self, run_id: str, output: BinaryIO) -> int:
        """The exit status of the entry point; 128 and more: the signal that ended it."""
        statuses = []

        def launch(command: str, folder: str) -> None:
            environment = {
                **os.environ,
                **engine.ONE_THREAD,
                "MLFLOW_RUN_ID": run_id,
                "MLFLOW_TRACKING_URI": self.store.uri,
                "MLFLOW_EXPERIMENT_ID": self.store.experiment.id,
            }
            environment.pop("MLFLOW_EXPERIMENT_NAME", None)  # the id says it
            statuses.append(supervised(command, folder, environment, output))

        with (
            tempfile.TemporaryDirectory(prefix="mm_mlflow-") as storage,
            projects.quiet(_COMMANDS, "mlflow.utils.virtualenv"),
        ):
            projects.run_entry_point(
                self.store, run_id, self.checkout, _passed(self.cell), storage, launch
            )
        return statuses[0]

    def _missing(self, run_id: str) -> tuple[dict[str, Any], str | None]:
        """Params of the cell that the project did not log, and where one that it did log says
        something else than it was given."""
        run = tracking.read_run(self.store, run_id)
        if run is None:
            raise RuntimeError(f"run {run_id} was deleted while its cell was worked on")
        present = run.params
        defaults = {k: v for k, v in self.checkout.declared.items() if v is not None}
        wanted = {**defaults, **tracking.cell_params(self.cell)}
        passed = _passed(self.cell)
        conflict = None
        for name in passed:
            # A bundle may set the parameter that its axis is called after.
            allowed = {spelled(wanted[name]), spelled(passed[name])}
            if name in present and spelled(present[name]) not in allowed:
                conflict = (
                    f"the project logged param {name}={present[name]}, and was given {passed[name]}"
                )
        return {name: value for name, value in wanted.items() if name not in present}, conflict


def supervised(command: str, folder: str, environment: Mapping[str, str], output: BinaryIO) -> int:
    """Run a shell command to its end, and return its exit status (128 and more: a signal).

    What it has started and left behind is killed before this returns, and so is all of it if this
    process dies; but for what made a session of its own (``setsid``, a daemon), which nobody finds.
    """
    process = subprocess.Popen(  # noqa: S603 - what the project says, as MLflow runs it
        ["sh", "-c", _SUPERVISOR, "sh", command],  # noqa: S607 - as MLflow starts its bash
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout as told:
        try:
            line = told.readline()
        finally:
            process.stdin.close()  # the session kills itself, all at once
            ended = process.wait()
    # No line: somebody killed the supervisor.
    return int(line) if line else 128 + abs(ended)


def _ended(status: int) -> str:
    try:
        return f"its process was ended by {signal.Signals(status - 128).name}"
    except ValueError:
        return f"its process ended with status {status}"


def _tail(output: BinaryIO) -> bytes:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    return output.read().rstrip()


def _passed(cell: Cell) -> dict[str, Any]:
    """Parameters of the entry point: of the configuration, and the seed."""
    assert cell.project is not None
    return {**cell.project.parameters, cell.project.seed_parameter: cell.seed}


def project_tags(checkout: Checkout) -> dict[str, str]:
    """The project's name, and what may change its results, as JSON."""
    environment = {
        "mm_mlflow": mm_mlflow.__version__,
        "mlflow": version("mlflow"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": 1,
        "env_manager": checkout.env_manager,
        "git_commit": checkout.commit,
    }
    return {"mm.project": checkout.name, "mm.env": json.dumps(environment)}


@dataclass(frozen=True, eq=False)
class Material(jobs.Material):
    """What all cells of a project's design share: its folder and its environment."""

    checkout: Checkout
    preload = ("mm_mlflow.project",)

    @property
    def digest(self) -> None:
        """The project's data are its own."""
        return

    def job(
        self, store: Store, design: Design, cell: Cell, sweep: str | None, run_id: str | None = None
    ) -> Job:
        """A run of the entry point."""
        return Job(store, design, cell, sweep, None, run_id, checkout=self.checkout)

    def tags(self) -> dict[str, str]:
        """The project, and with what it runs."""
        return {**self.checkout.tags(), **project_tags(self.checkout)}

    def begin(self, store: Store, run_id: str, design: Design) -> None:
        """Make the environment, once: workers that make the same at once break it."""
        with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as storage, projects.quiet(_COMMANDS):
            projects.run_entry_point(
                store, run_id, self.checkout, _passed(design.cells()[0]), storage, lambda *_: None
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The project's own: nobody knows them before it has run."""
        return ()

    def costs(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Nothing is known of them."""
        return {cell.configuration: 0.0 for cell in cells}

    def advice(self, design: Design) -> list[str]:
        """Which parameters the entry point does not name: they may be mistyped."""
        passed = {name: None for cell in design.cells() for name in _passed(cell)}
        if others := [name for name in passed if name not in self.checkout.declared]:
            sentence = (
                f"entry point {self.checkout.entry_point!r} declares no parameter "
                f"{', '.join(map(repr, others))}: MLflow appends them to its command as --NAME VALUE"
            )
            return [sentence]
        return []


def prepare(
    design: Design,
    uri: str,
    *,
    version: str | None = None,
    entry_point: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Design, Material]:
    """Fetch the project and bind the design to it: its name, entry point and fixed parameters.

    Args:
        design: of a project.
        uri: of the project: a folder or a git repository, as ``mlflow run`` takes it.
        version: a commit or branch of a git repository.
        entry_point: in place of the design's.
        parameters: fixed ones, in place of the design's where both name one.
        options: of ``mlflow run``.

    Raises:
        InvalidInput: the first thing that is not allowed.
    """
    spec = design.project
    if spec is None:
        raise InvalidInput(
            f"design {design.name!r} names no project: give it `project: {{}}` in place of dataset, "
            "training and interventions; `mm-mlflow sweep` trains what it says now"
        )
    entry_point = entry_point or spec.entry_point
    changed = ProjectSpec(
        name=spec.name,
        entry_point=entry_point,
        parameters={**spec.parameters, **(parameters or {})},
        seed_parameter=spec.seed_parameter,
    )
    changed.check(design.axes)
    first = changed.applied(design.axes, design.default_levels)
    given = {**first.parameters, spec.seed_parameter: design.seeds[0]}
    checkout = projects.fetch_project(uri, version, entry_point, given, options or {})
    if spec.name not in {None, checkout.name}:
        raise InvalidInput(
            f"project.name {spec.name!r} is not the name of project {uri!r}: {checkout.name!r}"
        )
    bound = changed.model_copy(update={"name": checkout.name})
    return design.model_copy(update={"project": bound, "sweep": None}), Material(checkout)
