"""Bad input: one line on standard error, exit status 2 or 1, no traceback, nothing half-written."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import fails
from mlflow import MlflowClient

from mm_mlflow.cli import main

CASES = [
    ("epochs: 2", "epoch: 2", "unknown key 'epoch'; did you mean 'epochs'"),
    ("learning_rate: 0.1,", "learning_rate: 0.2,", "unknown learning_rate level '0.2'"),
    ("{name: digits_skewed}", "{name: digit_skewed}", "unknown dataset 'digit_skewed'"),
    ("{name: digits_skewed}", "{name: digits_skewed, skw: 1}", "unknown argument 'skw'"),
    ("name: pgd", "name: pdg", "unknown intervention 'pdg'; did you mean 'pgd'"),
    ("steps: 2", "step: 2", "'step'; did you mean 'steps'"),
    ("split: grayscale", "split: greyscale", "did you mean 'grayscale'"),
    ("skew: gs_minority", "skew: gs_minorty", "did you mean 'gs_minority'"),
    ("skew: gs_minority", "skw: gs_minority", "did you mean 'skew'"),
    ("architecture: [mlp]", "architecture: [mlp, resnet9]", "did you mean 'resnet8'"),
    ("architecture: [mlp]", "architecture: []", "axis 'architecture' has no levels"),
    ("seeds: 2", "seeds: 0", "seeds: 0 is not allowed"),
    ("delta: [0.0, 0.02]", "delta: [-0.1]", "-0.1"),
    ("delta: [0.0, 0.02]", "delta: [1.5]", "1.5"),
    ("delta: [0.0, 0.02]", "delta: [.nan]", "nan"),
    ("delta: [0.0, 0.02]", "delta: [0.1, 0.1000000001]", "pgd_accuracy/delta-0.1"),
    ("lambda: 3", "lambda: -3", "-3"),
    ("lambda: 3", "lambda: .inf", "inf"),
    ("examples: 100", "examples: 1000", "examples 1000 is not allowed: 1 to 719"),
]


@pytest.mark.parametrize(("old", "new", "message"), CASES)
def test_a_bad_design_writes_nothing(small: Path, old: str, new: str, message: str) -> None:
    """Found before any training, and before any run is made."""
    text = small.read_text()
    assert text.count(old) == 1
    small.write_text(text.replace(old, new))
    line = fails("sweep", str(small))
    assert message in line
    experiment = MlflowClient().get_experiment_by_name("small")
    assert experiment is None or not MlflowClient().search_runs([experiment.experiment_id])


def test_an_experiment_that_is_not_there(small: Path) -> None:
    """The near match is named; one without cells says so."""
    MlflowClient().create_experiment("digits")
    assert "did you mean 'digits'" in fails("sheet", "--experiment-name", "digts")
    line = fails("sheet", "--experiment-name", "digits")
    assert "'digits'" in line
    assert "0 finished runs with metrics: a sheet needs at least 2" in line
    line = fails("status", "--experiment-name", "digits")
    assert "holds no sweep" in line
    assert line.endswith("name its design, `mm-mlflow status DESIGN`")
    line = fails("sheet", "--experiment-name", "digits", "--design", str(small))
    assert "holds no finished cell" in line
    assert "no experiment is named" in fails("sheet")


def test_a_deleted_experiment(small: Path) -> None:
    """Neither revived nor written to."""
    client = MlflowClient()
    client.delete_experiment(client.create_experiment("small"))
    assert "is deleted" in fails("sweep", str(small))


@pytest.mark.parametrize("command", ["sweep", "status", "sheet"])
def test_a_server_that_is_not_there_fails_in_seconds(small: Path, command: str) -> None:
    """One attempt to connect; MLflow's own retries would go on for more than a minute."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    arguments = [command, *([] if command == "sheet" else [str(small)])]
    line = fails(*arguments, "--tracking-uri", uri, "--experiment-name", "x", code=1)
    assert uri in line
    assert "does not answer" in line


def test_a_scheduler_that_is_not_there(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in a line; the sweep run does not stay RUNNING."""
    from mm_mlflow import engine

    monkeypatch.setattr(engine, "_CONNECT_SECONDS", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    result = CliRunner().invoke(main, ["sweep", str(small), "--scheduler", address])
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    experiment = MlflowClient().get_experiment_by_name("small")
    assert experiment is not None
    statuses = [run.info.status for run in MlflowClient().search_runs([experiment.experiment_id])]
    assert statuses == ["KILLED"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "missing port number"),
        ("127.0.0.1:x", "invalid literal"),
        ("http://127.0.0.1:8786", "unknown address scheme 'http'"),
        ("tls://127.0.0.1:8786", "needs certificates"),
    ],
)
def test_an_address_at_which_no_scheduler_can_be(small: Path, address: str, message: str) -> None:
    """Named in a line before anything is written."""
    line = fails("sweep", str(small), "--scheduler", address)
    assert f"scheduler {address!r}" in line
    assert message in line
    assert MlflowClient().get_experiment_by_name("small") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--default", "lr=0.1", "--default", "lr=0.01"],
            "--default lr is given twice: 0.1 and 0.01",
        ),
        (
            ["--bins", "lr=2", "--bins", "wd=2", "--bins", "lr=3"],
            "--bins lr is given twice: 2 and 3",
        ),
    ],
)
def test_an_option_that_says_two_things(arguments: list[str], message: str) -> None:
    """Which of the two was meant is not for us to say."""
    for words in (["sheet"], ["select", "--pareto", "--on", "accuracy"]):
        assert message in fails(*words, "--experiment-name", "x", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "learning_rate=0.1", "--set", "learning_rate=0.05"],
            "axis learning_rate is given twice: 0.1 and 0.05",
        ),
        (
            ["--set", "learning_rate=0.1", "--learning_rate", "0.05"],
            "axis learning_rate is given twice: 0.1 and 0.05",
        ),
        (["--set", "learning_rate"], "--set 'learning_rate' is not allowed"),
        (["--set", "learning_rat=0.1"], "did you mean 'learning_rate'"),
        (["--learning_rate", "0.3"], "unknown learning_rate level '0.3'"),
        (["--learning_rate"], "argument '--learning_rate' is not allowed"),
        (["stray"], "argument 'stray' is not allowed"),
    ],
)
def test_train_names_what_is_wrong(small: Path, arguments: list[str], message: str) -> None:
    """An axis or level that the design lacks, or half an option."""
    assert message in fails("train", str(small), "--seed", "0", *arguments)
    assert "seed -1 is not allowed" in fails("train", str(small), "--seed", "-1")


@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_fewer_than_one_job(small: Path, jobs: str) -> None:
    """And nothing is written."""
    assert f"jobs {jobs} is not allowed" in fails("sweep", str(small), "--jobs", jobs)
    assert MlflowClient().get_experiment_by_name("small") is None


def test_a_design_that_is_not_there() -> None:
    """The path is named."""
    assert "nowhere.yaml" in fails("sweep", "nowhere.yaml")


def test_an_old_database_is_never_upgraded(tmp_path: Path) -> None:
    """One line that names ``mlflow db upgrade`` on a copy."""
    import sqlite3

    path = tmp_path / "old.db"
    path.write_bytes((tmp_path / "mlflow.db").read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    connection.close()
    before = path.read_bytes()
    line = fails("sheet", "--tracking-uri", f"sqlite:///{path}", "--experiment-name", "x", code=1)
    assert "mlflow db upgrade" in line
    assert "copy" in line
    assert path.read_bytes() == before
