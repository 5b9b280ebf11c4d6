"""``mlflow run PROJECT -b multiplicity``: anyone's project, swept over a design, cell by cell.

What a project did is told by files that its scripts leave behind and by MLflow alone. Scripts that
are to be caught in the middle wait for a FIFO that nobody opens: nothing here waits for a time.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from helpers import Command, artifact, artifacts, pause, runs_of
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import ExecutionException

from mm_mlflow.design import Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.project import Material, prepare
from mm_mlflow.tracking.projects import Checkout

ROOT = Path(__file__).parents[2]

# Tells what it was given, in a file per run.
TELL = """
mkdir -p "$OUT/told"
printf '%s|' "$MLFLOW_EXPERIMENT_ID" "$MLFLOW_TRACKING_URI" "$OMP_NUM_THREADS" "$@" \
    > "$OUT/told/$MLFLOW_RUN_ID"
"""
# Waits, where there is a gate, until it is killed; tells its pid first.
GATE = """
if [ -p "$OUT/gate" ]; then echo $$ > "$OUT/$MLFLOW_RUN_ID.pid"; cat "$OUT/gate"; fi
"""
MLPROJECT = """
name: some_project
entry_points:
  main:
    parameters:
      rate: {type: float, default: 0.1}
      depth: {type: int, default: 3}
      seed: {type: int, default: 0}
    command: "sh run.sh {rate} {depth} {seed}"
  other:
    parameters:
      rate: float
      random_state: int
    command: "sh run.sh other {rate} {random_state}"
"""
DESIGN: dict[str, Any] = {
    "name": "swept",
    "project": {},
    "default": {"rate": 0.1},
    "axes": {"rate": [0.1, 1.0]},
    "seeds": 2,
}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scripts leave their files."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setenv("OUT", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, out: Path) -> Path:
    """A project that is a shell script and logs nothing."""
    assert out.is_dir()
    return make(tmp_path, TELL)


def make(tmp_path: Path, script: str, mlproject: str = MLPROJECT) -> Path:
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    (folder / "MLproject").write_text(mlproject, encoding="utf-8")
    (folder / "run.sh").write_text(script, encoding="utf-8")
    return folder


def python(code: str) -> str:
    """A script whose Python part talks to MLflow."""
    return f'"{sys.executable}" - "$@" <<"END"\n{code}\nEND\n'


def start(
    project: Path, design: dict[str, Any], *arguments: str, start_new_session: bool = False
) -> subprocess.Popen[str]:
    """``mlflow run`` in a process of its own, as users have it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    config = json.dumps(design)
    # Shells start background jobs with SIGINT ignored, and children inherit that: a terminal does not.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mlflow.cli import cli; cli()"
    )
    command = [sys.executable, *(["-c", code] if start_new_session else ["-m", "mlflow"]),
               "run", str(project), "-b", "multiplicity",
               "--backend-config", config, "--env-manager", "local", *arguments]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": path}, start_new_session=start_new_session,
    )  # fmt: skip


def sweep(project: Path, design: dict[str, Any] | None = None, **settings: Any) -> Any:
    """The same by MLflow's Python door, in this process (with ``in_process``)."""
    config = json.loads(json.dumps(DESIGN if design is None else design))
    return mlflow.projects.run(
        str(project), backend="multiplicity", backend_config=config, env_manager="local", **settings
    )


def cells(name: str = "swept") -> list[Run]:
    return runs_of("cell", name) if MlflowClient().get_experiment_by_name(name) else []


def state(runs: list[Run]) -> Counter[str]:
    return Counter(run.info.status for run in runs)


def told(out: Path) -> dict[str, list[str]]:
    """By run id: experiment, store, threads, then the arguments of the script."""
    return {path.name: path.read_text().split("|")[:-1] for path in (out / "told").iterdir()}


def counts(command: Command, *arguments: str) -> dict[str, int]:
    status = json.loads(command("status", *arguments, "--json").output)
    return {word: len(status[word]) for word in ("planned", "finished", "failed", "missing")}


@pytest.mark.usefixtures("in_process")
def test_anyones_project_is_swept_by_mlflow_run(
    project: Path, out: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real workers; every cell is one run of the entry point with its levels, its seed and the fixed
    parameters, in its own MLflow run, with one thread; what is finished is not run again, and more
    seeds run only what they add."""
    arguments = ("-e", "main", "-P", "depth=5", "--experiment-name", "mine")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    child = start(project, DESIGN, *arguments)
    said = child.communicate()[0]
    assert child.returncode == 0, said
    assert "4 cells: 4 trained, 0 were finished, 0 failed" in said
    found = cells("mine")
    assert state(found) == {"FINISHED": 4}
    experiment = MlflowClient().get_experiment_by_name("mine")
    assert experiment is not None
    given = told(out)
    assert given.keys() == {run.info.run_id for run in found}
    wanted = {(rate, seed) for rate in ("0.1", "1") for seed in ("0", "1")}
    assert {(words[3], words[5]) for words in given.values()} == wanted
    for run in found:
        identifier, uri, threads, rate, depth, seed = given[run.info.run_id]
        assert (identifier, threads, depth) == (experiment.experiment_id, "1", "5")
        assert uri == os.environ["MLFLOW_TRACKING_URI"]
        assert run.data.params == {"rate": rate, "depth": "5", "seed": seed}
        assert run.data.tags["mm.exit_status"] == "0"
        assert run.data.tags["mm.project"] == "some_project"
        assert "mm.dataset" not in run.data.tags
        assert "mlflow.parentRunId" not in run.data.tags
        assert json.loads(run.data.tags["mm.worker"])["pid"] != child.pid
        canonical = json.loads(artifact(run, "cell.json"))
        assert canonical["project"] == {
            "name": "some_project", "entry_point": "main", "seed_parameter": "seed",
            "parameters": {"rate": float(rate), "depth": 5},
        }  # fmt: skip
    (swept,) = runs_of("sweep", "mine")
    assert swept.data.tags["mlflow.project.backend"] == "multiplicity"
    assert counts(command, "--experiment-name", "mine")["finished"] == 4
    more = sweep(project, {**DESIGN, "seeds": 3}, parameters={"depth": "5"}, experiment_name="mine")
    assert [cell.status for cell in more.result.cells] == ["trained"] * 2
    assert len(told(out)) == 6


@pytest.mark.usefixtures("in_process")
def test_the_scikit_learn_project_gives_sheets(command: Command) -> None:
    """Values of the sheet are those that MLflow has, by code that knows nothing of this package."""
    folder = ROOT / "projects" / "sklearn_digits"
    design = json.loads((folder / "design.json").read_text())
    sweep(folder, {**design, "seeds": 2})
    document = json.loads(command("sheet", "--experiment-name", "sklearn_digits", "--json").output)
    table = mlflow.search_runs(experiment_names=["sklearn_digits"])
    table = table[table["tags.mm.kind"] == "cell"]
    assert len(table) == 6
    assert set(table["params.solver"]) == {"adam", "sgd"}
    sheets = {sheet["metric"]: sheet for sheet in document["sheets"]}
    assert {"accuracy", "accuracy_of_eights", "accuracy_noisy"} <= sheets.keys()
    for key, sheet in sheets.items():
        values = table[f"metrics.{key}"]
        assert sheet["delta_all"] == values.max() - values.min()
        hidden = next(part for part in sheet["tables"] if part["axis"] == "hidden")
        adam = table[table["params.optimizer"] == "adam"]
        for level, row in zip(hidden["levels"], hidden["values"], strict=True):
            for seed, value in zip(hidden["seeds"], row, strict=True):
                rows = adam[
                    (adam["params.hidden"] == str(level))
                    & (adam["params.random_state"] == str(seed))
                ]
                assert rows[f"metrics.{key}"].item() == value
    assert table["metrics.accuracy"].min() > 0.8
    assert table["metrics.accuracy"].nunique() > 3  # the seed does reach the script


ENDS_ITS_RUN = """
import os, sys
from mlflow import MlflowClient
client, run = MlflowClient(), os.environ["MLFLOW_RUN_ID"]
client.log_metric(run, "accuracy", 0.5)
client.set_terminated(run, "FINISHED")
print("all is lost")
sys.exit(3 if sys.argv[1] == "1" else 0)
"""


@pytest.mark.usefixtures("in_process", "out")
def test_only_the_exit_status_says_that_a_cell_is_finished(
    tmp_path: Path, command: Command
) -> None:
    """A script that ends its run FINISHED and then fails has failed: its output is kept, its cell is
    tried again, and nothing of it is in a sheet."""
    folder = make(tmp_path, python(ENDS_ITS_RUN))
    design = {**DESIGN, "seeds": 1}
    with pytest.raises(ExecutionException, match="1 of 2 cells failed"):
        sweep(folder, design)
    failed, finished = sorted(cells(), key=lambda run: run.info.status)
    assert (failed.info.status, finished.info.status) == ("FAILED", "FINISHED")
    assert failed.data.tags["mm.exit_status"] == "3"
    assert failed.data.params["rate"] == "1"
    assert artifact(failed, "output.txt").decode().endswith("all is lost")
    assert "output.txt" not in artifacts(finished)
    assert counts(command, "--experiment-name", "swept") == {
        "planned": 2, "finished": 1, "failed": 1, "missing": 0,
    }  # fmt: skip
    make(tmp_path, "exit 0")
    assert sweep(folder, design).wait()
    assert len(cells()) == 3


SPELLS = """
import os, sys
import mlflow
with mlflow.start_run(run_name="its own name", tags={"its": "tag"}):
    mlflow.log_params({"rate": float(sys.argv[1]), "depth": 3, "seed": WHICH})
"""


@pytest.mark.usefixtures("in_process", "out")
def test_a_project_may_log_its_own_params(tmp_path: Path) -> None:
    """1.0 where it was given 1 is the same; another seed than it was given is a failure that says
    so, because the sheet would show a seed that nothing was trained with."""
    design = {**DESIGN, "seeds": [7], "sweep": {"smoke": True}}
    folder = make(tmp_path, python(SPELLS.replace("WHICH", "int(sys.argv[3])")))
    sweep(folder, design)
    found = {run.data.params["rate"]: run for run in cells()}
    assert found.keys() == {"0.1", "1.0"}
    for run in found.values():
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == "7"
        assert run.data.tags["its"] == "tag"
        assert run.data.tags["mm.kind"] == "cell"
    folder = make(tmp_path, python(SPELLS.replace("WHICH", "0")))
    with pytest.raises(ExecutionException, match="2 of 2 cells failed"):
        sweep(folder, {**design, "seeds": [8]})
    failed = [run for run in cells() if run.info.status == "FAILED"]
    assert {run.data.params["seed"] for run in failed} == {"0"}


@pytest.mark.usefixtures("in_process")
def test_levels_may_be_bundles_and_the_entry_point_another(
    project: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The axis's param holds the bundle's name; its parameters reach the entry point, hostile text
    among them, as they are; ``-e`` holds over the design."""
    size = [{"name": "small", "parameters": {"rate": 0.5}},
            {"name": "big", "parameters": {"rate": "$(touch x); '\"", "width": "007"}}]  # fmt: skip
    design = {**DESIGN, "default": {"size": "small"}, "axes": {"size": size}, "seeds": [4],
              "project": {"entry_point": "main", "seed_parameter": "random_state"}}  # fmt: skip
    sweep(project, design, entry_point="other")
    assert "'width'" in capsys.readouterr().err  # not declared by the entry point
    found = {run.data.params["size"]: run for run in cells()}
    given = told(out)
    small, big = (given[found[name].info.run_id][3:] for name in ("small", "big"))
    assert small == ["other", "0.5", "4"]
    assert big == ["other", "$(touch x); '\"", "4", "--width", "007"]
    assert not (project / "x").exists()
    assert found["big"].data.params == {
        "size": "big", "seed": "4", "random_state": "4", "rate": "$(touch x); '\"", "width": "007",
    }  # fmt: skip


def await_blocked(child: subprocess.Popen[str], out: Path, number: int) -> dict[str, int]:
    """Ask the folder until so many scripts wait at the gate: their pids by run id."""
    while True:
        found = {path.stem: path.read_text() for path in out.glob("*.pid")}
        pids = {run: int(text) for run, text in found.items() if text.strip()}
        if len(pids) >= number:
            return pids
        pause(child)


def await_reader(child: subprocess.Popen[str], gate: Path) -> int:
    """A descriptor that keeps the script at the gate: it can be had once the script stands there."""
    while True:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads
                raise
        pause(child)


def family(pids: list[int]) -> list[psutil.Process]:
    """These processes and what they have started."""
    own = [psutil.Process(pid) for pid in pids]
    return own + [child for process in own for child in process.children(recursive=True)]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


BEFORE_IT_ENDS = python(
    "import os; from mlflow import MlflowClient;"
    'MlflowClient().set_terminated(os.environ["MLFLOW_RUN_ID"], "FINISHED")'
)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("script", [GATE, BEFORE_IT_ENDS + GATE], ids=["running", "ended its run"])
def test_a_killed_sweep_leaves_no_process_and_nothing_half_counted(
    tmp_path: Path, out: Path, command: Command, script: str
) -> None:
    """SIGKILL of the driver while two cells are at work: their processes end, though nobody is left to
    end them; the next sweep marks both attempts KILLED and runs all. A run that its project has ended
    itself is no exception."""
    os.mkfifo(out / "gate")
    folder = make(tmp_path, script)
    child = start(folder, {**DESIGN, "sweep": {"jobs": 2}})
    pids = await_blocked(child, out, 2)
    processes = family(list(pids.values()))
    assert len(processes) >= 2
    # Workers too: they end a moment after their driver, and until then an attempt may be alive.
    workers = {json.loads(run.data.tags["mm.worker"])["pid"] for run in cells()}
    processes += [psutil.Process(pid) for pid in workers]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert_gone(processes)
    assert len(cells()) == 2
    assert counts(command, "--experiment-name", "swept") == {
        "planned": 4, "finished": 0, "failed": 0, "missing": 4,
    }  # fmt: skip
    (out / "gate").unlink()
    assert [cell.status for cell in sweep(folder).result.cells] == ["trained"] * 4
    assert state(cells()) == {"FINISHED": 4, "KILLED": 2}
    killed = [run for run in cells() if run.info.status == "KILLED"]
    assert {run.info.run_id for run in killed} == pids.keys()
    assert all("is gone" in run.data.tags["mm.killed"] for run in killed)


def test_a_killed_worker_takes_its_project_with_it(tmp_path: Path, out: Path) -> None:
    """SIGKILL of one worker: its script ends with it, another worker takes the cell up, and the sweep
    has every cell once."""
    os.mkfifo(out / "gate")
    child = start(make(tmp_path, GATE), {**DESIGN, "sweep": {"jobs": 1}})
    pids = await_blocked(child, out, 1)
    processes = family(list(pids.values()))
    writer = await_reader(child, out / "gate")
    (out / "gate").unlink()  # the next attempt finds none
    (run,) = (run for run in cells() if run.info.run_id in pids)
    os.kill(int(json.loads(run.data.tags["mm.worker"])["pid"]), signal.SIGKILL)
    assert_gone(processes)
    os.close(writer)
    said = child.communicate()[0]
    assert child.returncode == 0, said
    assert state(cells()) == {"FINISHED": 4, "KILLED": 1}
    assert MlflowClient().get_run(run.info.run_id).info.status == "KILLED"


def test_ctrl_c_ends_the_projects_too(tmp_path: Path, out: Path) -> None:
    """SIGINT reaches the whole process group, as from a terminal, but for the projects, which are in
    sessions of their own: they end all the same, and no run stays RUNNING."""
    os.mkfifo(out / "gate")
    child = start(make(tmp_path, GATE), {**DESIGN, "sweep": {"jobs": 1}}, start_new_session=True)
    processes = family(list(await_blocked(child, out, 1).values()))
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate()[0]
    assert child.returncode == 1
    assert "Traceback" not in said
    assert_gone(processes)
    assert state(cells()) == {"KILLED": 1}
    assert [run.info.status for run in runs_of("sweep", "swept")] == ["KILLED"]


def test_an_environment_that_cannot_be_made_is_one_line(project: Path) -> None:
    """Here: the project has no environment for conda."""
    child = start(project, DESIGN, "--env-manager", "conda")
    said = child.communicate()[0]
    assert child.returncode == 1
    assert "Traceback" not in said
    assert "'some_project' with --env-manager conda" in said
    assert not cells()


@pytest.mark.usefixtures("in_process")
def test_what_a_script_leaves_behind_ends_with_its_cell(tmp_path: Path, out: Path) -> None:
    """A process in the background may not write to a finished run."""
    os.mkfifo(out / "gate")
    script = 'cat "$OUT/gate" & echo $! > "$OUT/$MLFLOW_RUN_ID.pid"; exit 0'
    sweep(make(tmp_path, script), {**DESIGN, "sweep": {"smoke": True}})
    assert state(cells()) == {"FINISHED": 2}
    pids = [int(path.read_text()) for path in out.glob("*.pid")]
    assert len(pids) == 2
    assert_gone([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])


BAD = [
    (dict.fromkeys(DESIGN), {}, "backend-config is empty"),
    ({}, {"entry_point": "trian"}, "trian"),
    ({}, {"entry_point": "other"}, "random_state"),
    ({}, {"parameters": {"rate": "1"}}, "'rate', which is an axis"),
    ({}, {"parameters": {"seed": "1"}}, "'seed', which is the seed"),
    ({"project": {"name": "another"}}, {}, "'another' is not the name.*'some_project'"),
    ({"sweep": {"jobs": 0}}, {}, "jobs.*got 0"),
    ({"sweep": {"job": 1}}, {}, "unknown key 'job'; did you mean 'jobs'"),
    ({"project": {"seed": 1}}, {}, "unknown key 'seed'"),
    ({"interventions": ["accuracy"]}, {}, "interventions is not allowed beside project"),
    ({"selection": {"pareto": True, "on": ["accuracy"]}}, {}, "selection is not allowed"),
    ({"keep": {}}, {}, "keep is not allowed"),
    ({"dataset": {"name": "digits_skewed"}}, {}, "dataset is not allowed"),
    ({"project": None}, {}, "dataset: Field required"),
]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("change", "settings", "message"), BAD)
def test_bad_arguments_are_one_line_and_run_nothing(
    project: Path, out: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    """Before anything is written to MLflow."""
    with pytest.raises(ExecutionException, match=message) as caught:
        sweep(project, {k: v for k, v in {**DESIGN, **change}.items() if v is not None}, **settings)
    assert "\n" not in str(caught.value)
    assert MlflowClient().get_experiment_by_name("swept") is None
    assert not (out / "told").exists()


def test_a_bad_configuration_ends_mlflow_run_with_status_1(project: Path) -> None:
    """In one line, with no traceback."""
    child = start(project, {"name": "x"})
    said = child.communicate()[0]
    assert child.returncode == 1
    assert "Traceback" not in said
    assert "backend-config" in said


@pytest.mark.usefixtures("in_process")
def test_a_projects_design_is_known_to_the_other_commands(
    project: Path, tmp_path: Path, command: Command
) -> None:
    """``sweep`` and ``train`` say how it is run; ``status`` reads it once a sweep has named it."""
    path = tmp_path / "design.json"
    path.write_text(json.dumps(DESIGN))
    for arguments in (("sweep", path), ("train", path, "--seed", "1")):
        said = command(*arguments, code=2).stderr
        assert "mlflow run PROJECT -b multiplicity" in said
        assert said.count("\n") == 1
    sweep(project)
    assert counts(command, str(path))["finished"] == 4
    assert "no metric" in command("sheet", "--experiment-name", "swept", code=2).stderr


@pytest.mark.usefixtures("in_process")
def test_a_command_that_cannot_be_made_is_one_line(tmp_path: Path, out: Path) -> None:
    """It names a parameter that the entry point has not."""
    assert out.is_dir()
    folder = make(tmp_path, TELL, MLPROJECT.replace("run.sh {rate}", "run.sh {ratio}"))
    with pytest.raises(ExecutionException, match=r"some_project.*ratio") as caught:
        sweep(folder)
    assert "\n" not in str(caught.value)
    assert not cells()


def material(folder: Path) -> tuple[Design, Material]:
    return prepare(Design.from_mapping(DESIGN), str(folder))


def test_the_name_of_a_project_without_one(tmp_path: Path) -> None:
    """Is its folder's; and a project may have no MLproject file at all."""
    folder = make(tmp_path, "", MLPROJECT.replace("name: some_project\n", ""))
    design, found = material(folder)
    assert isinstance(found.checkout, Checkout)
    assert found.checkout.name == "project"
    assert design.cells()[0].canonical()["project"]["name"] == "project"


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(InvalidInput, match="nowhere"):
        material(tmp_path / "nowhere")
