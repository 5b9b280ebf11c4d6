"""Runs that are cells: alive or abandoned, and their params."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mm_mlflow.design import Cell, Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import RawRun, is_open
from mm_mlflow.tracking.reading import read_run, read_runs
from mm_mlflow.tracking.store import Store
from mm_mlflow.tracking.writing import finish, now_ms

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 600.0


@contextmanager
def heartbeat(store: Store, run_id: str) -> Iterator[None]:
    """Refresh ``mm.heartbeat`` (milliseconds since 1970) every ten seconds while the body runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            try:
                store.client.set_tag(run_id, "mm.heartbeat", str(now_ms()))
            except (MlflowException, SQLAlchemyError, requests.RequestException) as error:
                # The work itself goes on: a store that is back in ten minutes has lost nothing.
                logger.warning("heartbeat of run %s failed: %s", run_id, error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def worker_name() -> str:
    """Host and process of this worker, as ``mm.worker`` holds it."""
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()})


def runs_of_cell(store: Store, cell_id: str) -> list[RawRun]:
    """All runs that carry this cell's id, whatever their state."""
    return read_runs(store, f"tags.`mm.cell` = '{cell_id}'")


def running_cells(store: Store, sweep: str) -> list[RawRun]:
    """Attempts of a sweep that have not ended: once all its tasks have, lost workers left them."""
    query = f"tags.`mm.sweep` = '{sweep}'"
    return [run for run in read_runs(store, query) if run.kind == "cell" and is_open(run)]


def abandoned(run: RawRun, sweep: str | None = None) -> str | None:
    """Why a RUNNING cell, sweep, evaluation or reproduction has no process any more; None if it may
    have one.

    Its process on this host is gone; or it is an earlier attempt of the same sweep (a worker takes
    up a cell again only when its first worker was lost); or its heartbeat is older than 10 minutes.
    """
    if run.kind not in {"cell", "sweep", "evaluation", "reproduction"} or not is_open(run):
        return None
    try:
        told = json.loads(run.tags.get("mm.worker", "{}"))
        age = (now_ms() - int(run.tags.get("mm.heartbeat", run.start_time))) / 1000
    except ValueError:
        return None
    worker = told if isinstance(told, dict) else {}
    if worker.get("host") == socket.gethostname() and not _alive(worker.get("pid")):
        return f"its process ({worker.get('pid')} on {worker.get('host')}) is gone"
    if sweep is not None and run.tags.get("mm.sweep") == sweep:
        return "its worker was lost, and another took the cell up"
    if age > STALE_SECONDS:
        return f"its last heartbeat is {age / 60:.0f} minutes old"
    return None


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, TypeError, ValueError, OverflowError):
        return True  # somebody's, or not told
    return True


def kill(store: Store, run: RawRun, reason: str) -> None:
    """Mark an abandoned attempt KILLED, with the reason; unless it has ended meanwhile."""
    now = read_run(store, run.run_id)
    if now is None or not is_open(now):
        return
    store.client.set_tag(run.run_id, "mm.killed", reason)
    finish(store, run.run_id, "KILLED")


def cell_params(cell: Cell) -> dict[str, Any]:
    """The params of a cell: every axis under its own name, the seed, and what bundles override."""
    if cell.project is not None:
        passed = {**cell.project.parameters, cell.project.seed_parameter: cell.seed}
        return {**passed, **cell.axes, "seed": cell.seed}
    bundled = {f"training.{key}": value for key, value in cell.bundled.items()}
    return {**cell.axes, "seed": cell.seed, **bundled}


def missing_params(store: Store, run_id: str, cell: Cell, design: Design) -> dict[str, Any]:
    """The params of ``cell`` that a project run does not carry yet (``mlflow run -P`` logged some).

    Raises:
        InvalidInput: a param on the run names another level than the cell's.
    """
    present = store.client.get_run(run_id).data.params
    wanted = cell_params(cell)
    for name in present.keys() & wanted.keys():
        is_axis = name in cell.axes
        level = design.axis(name).level(present[name]).name if is_axis else present[name]
        if str(level) != str(wanted[name]):
            raise InvalidInput(f"param {name}={present[name]} is on the run, not {wanted[name]}")
    return {name: value for name, value in wanted.items() if name not in present}
