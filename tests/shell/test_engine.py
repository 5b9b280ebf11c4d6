"""Workers as processes of their own: killed, resumed, reproducible, and reachable from loopback only.

The sweeps here are real child processes, and what is awaited are runs in MLflow, never a time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from helpers import Command, pause
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow import engine
from mm_mlflow.errors import InvalidInput

# Long enough that a kill lands in the middle of a cell.
DESIGN = """
name: kill
dataset: {name: digits_skewed}
training: {epochs: 40}
default: {batch_size: 64, architecture: mlp}
axes:
  batch_size: [64, 128]
  architecture: [mlp]
seeds: 4
interventions: [accuracy]
"""
PLANNED = 8


@pytest.fixture
def kill_design(tmp_path: Path) -> Path:
    path = tmp_path / "kill.yaml"
    path.write_text(DESIGN, encoding="utf-8")
    return path


def start(design: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own."""
    command = [sys.executable, "-m", "mm_mlflow", "sweep", str(design), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def cells(name: str = "kill") -> list[Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return []
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`mm.kind` = 'cell'", max_results=1000
    )
    return list(runs)


def await_cells(child: subprocess.Popen[str], reached: Callable[[list[Run]], bool]) -> list[Run]:
    """Ask MLflow until ``reached``; the child must still be at work."""
    while True:
        found = cells()
        if reached(found):
            return found
        pause(child)


def state(found: list[Run]) -> Counter[str]:
    return Counter(run.info.status for run in found)


def worker(run: Run) -> int:
    return int(json.loads(run.data.tags["mm.worker"])["pid"])


def await_end(pids: set[int]) -> None:
    """Wait for processes that are not our children."""
    _, alive = psutil.wait_procs(
        [psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=60
    )
    assert not alive


def assert_each_once() -> None:
    finished = Counter(r.data.tags["mm.cell"] for r in cells() if r.info.status == "FINISHED")
    assert len(finished) == PLANNED
    assert set(finished.values()) == {1}
    assert not state(cells())["RUNNING"]


@pytest.mark.parametrize(("finished_before", "jobs"), [(0, 1), (3, 2)])
def test_a_killed_sweep_is_resumed_with_exactly_what_is_missing(
    kill_design: Path, finished_before: int, jobs: int
) -> None:
    """SIGKILL of the driver while a cell is RUNNING, before the first is done and halfway: nothing is
    left running, and the next sweep trains what is missing and marks what was abandoned."""
    child = start(kill_design, "--jobs", str(jobs))
    await_cells(child, lambda runs: state(runs)["FINISHED"] >= finished_before)
    known = {run.info.run_id for run in cells()}
    # A cell that has just begun: one seen earlier might end before the kill lands.
    found = await_cells(
        child,
        lambda runs: any(r.info.run_id not in known and r.info.status == "RUNNING" for r in runs),
    )
    workers = {worker(run) for run in found}
    assert child.pid not in workers
    child.send_signal(signal.SIGKILL)
    child.communicate()
    await_end(workers)
    left = state(cells())
    assert left["RUNNING"] >= 1
    assert left["FINISHED"] < PLANNED
    again = start(kill_design, "--jobs", "1")
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert f"{PLANNED - left['FINISHED']} trained, {left['FINISHED']} were finished" in said
    assert_each_once()
    killed = [run for run in cells() if run.info.status == "KILLED"]
    assert len(killed) == left["RUNNING"]
    assert all("is gone" in run.data.tags["mm.killed"] for run in killed)


def test_a_killed_worker_is_replaced_and_its_attempt_marked(kill_design: Path) -> None:
    """SIGKILL of the only worker in the middle of a cell: the sweep itself ends with every cell once."""
    child = start(kill_design, "--jobs", "1")
    found = await_cells(
        child, lambda runs: state(runs)["FINISHED"] >= 2 and state(runs)["RUNNING"] >= 1
    )
    victim = next(run for run in found if run.info.status == "RUNNING")
    os.kill(worker(victim), signal.SIGKILL)
    said = child.communicate()[0]
    assert child.returncode == 0, said
    assert f"{PLANNED} cells: {PLANNED} trained" in said
    assert_each_once()
    by_id = {run.info.run_id: run for run in cells()}
    attempt = by_id[victim.info.run_id]
    # The kill may land between the last write and the end of the process.
    if attempt.info.status != "FINISHED":
        assert attempt.info.status == "KILLED"
        assert attempt.data.tags["mm.killed"]


def stop(pid: int, database: Path) -> None:
    """SIGSTOP, at a moment when the process has no lock on the database: others could not go on."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                os.kill(pid, signal.SIGCONT)
            else:
                return


def test_two_sweeps_at_once_end_with_one_counted_run_per_cell(
    kill_design: Path, tmp_path: Path, command: Command
) -> None:
    """Both end well; the cell that both had begun is trained twice, which is reported, and one run
    counts."""
    text = kill_design.read_text()
    for old, new in (("[64, 128]", "[64]"), ("seeds: 4", "seeds: 1")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    kill_design.write_text(text)
    children = [start(kill_design, "--jobs", "1") for _ in range(2)]
    first, *_ = await_cells(children[0], lambda runs: len(runs) > 0)
    stop(worker(first), tmp_path / "mlflow.db")
    try:  # until the other has begun the same cell too
        await_cells(children[0], lambda runs: state(runs)["RUNNING"] == 2)
    finally:
        os.kill(worker(first), signal.SIGCONT)
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    status = json.loads(command("status", kill_design, "--json").output)
    assert len(status["finished"]) == 1
    assert [len(item["others"]) for item in status["duplicates"]] == [1], said
    assert state(cells()) == {"FINISHED": 2}


def from_a_terminal(design: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sweep in a process group of its own, which SIGINT can reach."""
    # Shells start background jobs with SIGINT ignored, and children inherit that: a terminal does not.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mm_mlflow.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "sweep", str(design), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_ctrl_c_says_one_line_and_leaves_nothing_running(kill_design: Path) -> None:
    """SIGINT reaches the whole process group, as from a terminal."""
    child = from_a_terminal(kill_design, "--jobs", "2")
    await_cells(child, lambda runs: state(runs)["FINISHED"] >= 1 and state(runs)["RUNNING"] >= 1)
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate()
    assert child.returncode == 130, said
    assert "Traceback" not in said[1]
    assert said[1].splitlines()[-1].startswith("Interrupted")
    assert not state(cells())["RUNNING"]


@pytest.fixture
def own_environment() -> Iterator[None]:
    """Dask's nannies leave what they set for workers in this process too."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("own_environment")
def test_ctrl_c_leaves_a_cluster_to_end_the_cell_that_it_has_begun(kill_design: Path) -> None:
    """Nobody stops a task there: the cell is not marked KILLED while it is worked on, and ends
    FINISHED; of the others none begins."""
    from distributed import LocalCluster

    kill_design.write_text(kill_design.read_text().replace("epochs: 40", "epochs: 200"))
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        child = from_a_terminal(kill_design, "--scheduler", cluster.scheduler_address)
        (begun,) = await_cells(child, lambda runs: state(runs)["RUNNING"] == 1)
        os.killpg(child.pid, signal.SIGINT)
        said = child.communicate()
        assert child.returncode == 130, said
        assert "still works on: 1" in said[1]
        while state(cells())["RUNNING"]:
            assert not state(cells())["KILLED"]
    (run,) = cells()
    assert run.info.run_id == begun.info.run_id
    assert run.info.status == "FINISHED"
    assert "mm.killed" not in run.data.tags


def test_workers_of_several_threads_are_refused() -> None:
    """Trainings in threads of one process would share torch's random state."""
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        pytest.raises(InvalidInput, match="--nthreads 1"),
        engine.workers(None, cluster.scheduler_address),
    ):
        pass


def _facts(_: object) -> dict[str, object]:
    import torch

    listening = [
        c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"
    ]
    return {
        "malloc": os.environ.get("MALLOC_TRIM_THRESHOLD_"),
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
        "listening": listening,
    }


def test_workers_are_fast_and_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, memory kept for the next batch (Dask's own setting makes nets 1.3 to 1.9 times slower),
    listening on loopback only, no callback of the collector in this process; and nothing is left when
    the block ends."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    with engine.workers(2) as client:
        found = [facts for _, facts in engine.run(client, _facts, [("a", 1), ("b", 2), ("c", 3)])]
        watched = [callback for callback in gc.callbacks if "distributed" in callback.__module__]
        mine = psutil.Process().net_connections("inet")
        addresses = {c.laddr.ip for c in mine if c.status == "LISTEN"}
        addresses |= {ip for facts in found for ip in facts["listening"]}
        family = psutil.Process().children(recursive=True)
    assert not watched  # a Ctrl-C that lands there is ignored
    assert addresses == {"127.0.0.1"}
    assert {facts["malloc"] for facts in found} == {str(2**30)}
    assert {facts["threads"] for facts in found} == {1}
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert os.getpid() not in {facts["pid"] for facts in found}
    _, alive = psutil.wait_procs(
        [p for p in family if "resource_tracker" not in _line(p)], timeout=30
    )
    assert not alive


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _dies(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_its_workers_is_given_up_not_waited_for() -> None:
    """Its exception stands in the place of its result; the other tasks are done."""
    with engine.workers(1) as client:
        items = [("bad", 0)]
        results = dict(engine.run(client, _dies, items))
        assert isinstance(results["bad"], Exception)
        good = dict(engine.run(client, _facts, [("good", 0)]))
    assert isinstance(good["good"], dict)


def logits(run: Run) -> np.ndarray:
    folder = MlflowClient().list_artifacts(run.info.run_id, "evaluations")[0].path
    path = MlflowClient().download_artifacts(run.info.run_id, f"{folder}/predictions.parquet")
    return np.stack(pd.read_parquet(path)["logits"].to_list())


REPRODUCTION = """
import sys, torch
torch.set_num_threads(1)
import numpy as np
from mm_mlflow import datasets, runner, training
from mm_mlflow.design import Design
from mm_mlflow.evaluation import evaluate

design = datasets.bind(Design.load(sys.argv[1]))
material = runner.prepare(design)
by_label = {cell.label: cell for cell in design.cells()}
for label in sys.argv[3:]:
    trained = training.train(by_label[label], material.train)
    logits = evaluate(trained.model, material.tasks).logits["test"]
    np.save(f"{sys.argv[2]}/{label}.npy", logits)
"""


def test_a_cell_is_the_same_to_the_bit_wherever_it_is_trained(tmp_path: Path) -> None:
    """Cells A and B in both orders in fresh processes, A after an unrelated training too, and by sweeps
    with one and with two workers: equal logits, compared with ``==``."""
    names = ("one", "two")
    design = tmp_path / "one.yaml"
    text = DESIGN.replace("epochs: 40", "epochs: 3, augmentation: randaugment").replace(
        "[mlp]\nseeds: 4", "[mlp, conv]\nseeds: 2"
    )
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(text.replace("name: kill", f"name: {name}"))
    sweeps = [start(tmp_path / f"{name}.yaml", "--jobs", str(n)) for n, name in enumerate(names, 1)]
    for child in sweeps:
        said = child.communicate()[0]
        assert child.returncode == 0, said
    labels = ["architecture=conv seed=0", "batch_size=128 seed=1"]
    orders = [labels, [labels[1], "default seed=0", labels[0]]]
    found: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    for number, order in enumerate(orders):
        folder = tmp_path / f"order{number}"
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", REPRODUCTION, str(design), str(folder), *order], check=True
        )
        for label in labels:
            found[label].append(np.load(folder / f"{label}.npy"))
    for name in names:
        by_label = {run.info.run_name: run for run in cells(name)}
        for label in labels:
            found[label].append(logits(by_label[label])[:719])
    for label in labels:
        assert len(found[label]) == 4
        assert all((array == found[label][0]).all() for array in found[label])
    assert not (found[labels[0]][0] == found[labels[1]][0]).all()


def test_no_task_waits_at_a_busy_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more tasks out than workers, all items done in their order, on two real workers."""
    with engine.workers(2) as client:
        submitted: list[str] = []
        ended: list[str] = []
        original = client.submit

        def submit(*args: Any, key: str, **kwargs: Any) -> Any:
            submitted.append(key)
            assert len(submitted) - len(ended) <= 2 + 1  # what is yielded next has ended too
            return original(*args, key=key, **kwargs)

        monkeypatch.setattr(client, "submit", submit)
        items = [(f"{number:064x}-{number}", number) for number in range(9)]
        for key, result in engine.run(client, abs, items):
            ended.append(key)
            assert result == int(key.split("-")[0], 16)
            assert len(submitted) - len(ended) <= 2
    assert submitted == [key for key, _ in items]
    assert sorted(ended) == submitted
