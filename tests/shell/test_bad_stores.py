"""Stores that refuse, fail, hang, are old, or are not there: one line, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import Command, artifacts, fails, runs_of
from http_store import Answer, HttpStore, serve
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mm_mlflow import tracking
from mm_mlflow.cli import main
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.tracking import reading

READING = (
    ["sheet", "--experiment-name", "small", "--metric", "accuracy"],
    ["status", "--experiment-name", "small"],
    ["select", "--experiment-name", "small", "--top", "50%", "--on", "accuracy"],
    ["reproduce", "0" * 32],
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HttpStore]:
    """A server over this test's database; MLflow tries everything twice."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with serve(monkeypatch, f"sqlite:///{tmp_path / 'mlflow.db'}") as store:
        yield store


@pytest.fixture
def swept(small: Path, command: Command, in_process: None) -> None:
    """Three finished cells, written without the server."""
    del in_process
    command("sweep", small, "--smoke")


def writes(method: str, path: str) -> bool:
    return method != "GET" and not path.endswith("search")


# ---- a server that does not answer as it should ----


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("answer", "tries", "message"),
    [
        (403, 1, "status 403: "),
        ("json 403", 1, "status 403: PERMISSION_DENIED: not yours"),
        (401, 1, "MLFLOW_TRACKING_USERNAME"),
        (500, 2, "status 500: "),
        (503, 2, "its log says why"),
    ],
)
def test_a_server_that_refuses_or_fails(
    server: HttpStore, words: list[str], answer: Answer, tries: int, message: str
) -> None:
    """Asked again as MLflow asks again, then one line with the URI, the status and what to do."""
    server.rule = lambda *_: answer
    line = fails(*words, "--tracking-uri", server.uri, code=1)
    assert server.uri in line
    assert message in line
    assert len(server.asked) == tries


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_a_server_that_is_slow(
    server: HttpStore, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and says nothing: MLflow's timeout is named."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.rule = lambda *_: "hang"
    line = fails(*words, "--tracking-uri", server.uri, code=1)
    assert server.uri in line
    assert "no answer in time" in line
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" in line


@pytest.mark.usefixtures("swept", "in_process")
@pytest.mark.parametrize("path", ["runs/create", "runs/log-batch"])
def test_an_evaluation_that_may_not_write(server: HttpStore, path: str) -> None:
    """One line with the status and what to do."""
    server.rule = lambda _, asked: "json 403" if asked == path else None
    words = ["evaluate", "--experiment-name", "small", "--jobs", "1"]
    line = fails(
        *words, "--intervention", "{name: output_perturbation, lambda: 3}",
        "--tracking-uri", server.uri, code=1,
    )  # fmt: skip
    assert server.uri in line
    assert "status 403: " in line
    assert "ask the server's owner for the right" in line


def test_a_server_behind_a_proxy_is_not_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that only the proxy knows; without it, one line."""
    uri = "http://mlflow.invalid:5000"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert tracking.connect(uri) == uri
    monkeypatch.delenv("http_proxy")
    with pytest.raises(TrackingError, match="does not answer"):
        tracking.connect(uri)
    with pytest.raises(InvalidInput, match="'http://localhost:50x0' is no address"):
        tracking.connect("http://localhost:50x0")


@pytest.mark.usefixtures("swept")
def test_a_server_that_fails_while_runs_are_read(server: HttpStore, command: Command) -> None:
    """After the experiment was found; and what works through it works as without it."""
    server.rule = lambda _, path: 500 if path == "runs/search" else None
    line = fails(*READING[0], "--tracking-uri", server.uri, code=1)
    assert "status 500" in line
    server.rule = lambda *_: None
    direct = json.loads(command(*READING[1], "--json").stdout)
    assert direct["finished"]
    assert json.loads(command(*READING[1], "--json", "--tracking-uri", server.uri).stdout) == direct


# ---- reports that are refused ----


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("words", [READING[0], READING[2]], ids=lambda words: words[0])
@pytest.mark.parametrize("answer", [403, 500])
def test_a_report_that_is_refused_stays_on_disk(
    server: HttpStore, command: Command, words: list[str], answer: int
) -> None:
    """The same files as with ``--out``, in a new folder; the table is told, the line says what and
    where, and no run is there."""
    command(*words, "--out", "out")
    expected = {path.relative_to("out") for path in Path("out").rglob("*")}
    foreign = Path("multiplicity-small")
    foreign.mkdir()
    (foreign / "index.html").write_text("mine")
    server.rule = lambda method, path: answer if writes(method, path) else None
    result = CliRunner().invoke(main, [*words, "--tracking-uri", server.uri])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert f"{server.uri!r} did not take the report: status {answer}" in line
    assert line.endswith("its files are in multiplicity-small-2/")
    assert "accuracy" in result.stdout
    kept = Path("multiplicity-small-2")
    assert {path.relative_to(kept) for path in kept.rglob("*")} == expected
    assert (foreign / "index.html").read_text() == "mine"
    assert [path.name for path in foreign.iterdir()] == ["index.html"]
    assert not runs_of("report")


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("words", [READING[0], READING[2]], ids=lambda words: words[0])
def test_a_refused_report_is_printed_as_json_all_the_same(
    server: HttpStore, command: Command, words: list[str]
) -> None:
    """One document, with no report run."""
    server.rule = lambda method, path: 403 if writes(method, path) else None
    refused = json.loads(command(*words, "--json", "--tracking-uri", server.uri, code=1).stdout)
    written = json.loads(command(*words, "--json").stdout)
    assert refused["report_run_id"] is None
    assert {**written, "report_run_id": None} == refused


@pytest.mark.usefixtures("swept")
def test_a_report_that_is_refused_half_way_ends_failed(server: HttpStore, command: Command) -> None:
    """Created, then refused: FAILED, its files on disk; the next report is whole."""
    server.rule = lambda _, path: 403 if path == "runs/log-batch" else None
    said = command(*READING[0], "--tracking-uri", server.uri, code=1)
    assert "did not take the report: status 403" in said.stderr
    assert Path("multiplicity-small/index.html").is_file()
    (report,) = runs_of("report")
    assert report.info.status == "FAILED"
    server.rule = lambda *_: None
    command(*READING[0], "--tracking-uri", server.uri)
    assert sorted(run.info.status for run in runs_of("report")) == ["FAILED", "FINISHED"]


@pytest.mark.usefixtures("swept")
def test_a_report_that_cannot_even_be_ended_is_named(server: HttpStore, command: Command) -> None:
    """By its id, beside the line that says what was refused."""
    server.rule = lambda _, path: 403 if path in {"runs/log-batch", "runs/update"} else None
    said = command(*READING[0], "--tracking-uri", server.uri, code=1)
    (report,) = runs_of("report")
    assert report.info.status == "RUNNING"
    assert "did not take the report: status 403" in said.stderr
    assert "Traceback" not in said.output


@pytest.mark.usefixtures("swept")
def test_a_whole_report_whose_tags_elsewhere_are_refused(
    server: HttpStore, command: Command
) -> None:
    """It is written and FINISHED; that older ones or chosen runs could not be marked is said."""
    command(*READING[0])
    finished: list[str] = []

    def rule(_: str, path: str) -> Answer:
        finished.extend([path] if path == "runs/update" else [])
        return 403 if finished and path in {"runs/log-batch", "runs/set-tag"} else None

    server.rule = rule
    line = fails(*READING[0], "--tracking-uri", server.uri, code=1)
    assert "is written, but older reports could not be marked" in line
    finished.clear()
    line = fails(*READING[2], "--tracking-uri", server.uri, code=1)
    assert "is written, but the selected runs could not be tagged: status 403" in line
    assert {run.info.status for run in runs_of("report")} == {"FINISHED"}
    assert len(runs_of("report")) == 3
    assert not list(Path.cwd().glob("multiplicity-*"))


@pytest.mark.usefixtures("swept")
def test_a_report_experiment_that_may_not_be_made(server: HttpStore, command: Command) -> None:
    """The report stays on disk as well."""
    server.rule = lambda _, path: 403 if path == "experiments/create" else None
    words = [*READING[0], "--report-experiment", "reports", "--tracking-uri", server.uri]
    assert "multiplicity-small/" in command(*words, code=1).stderr
    assert Path("multiplicity-small/index.html").is_file()


@pytest.mark.usefixtures("in_process")
def test_a_sweep_whose_sheets_are_refused_still_prints_what_it_trained(
    server: HttpStore, small: Path, command: Command
) -> None:
    """The cells are there, and the document says so."""

    def rule(_: str, path: str) -> Answer:
        ended = sum(asked[1] == "runs/update" for asked in server.asked)
        return 403 if ended > 3 and path == "runs/create" else None

    server.rule = rule
    result = command(
        "sweep", small, "--smoke", "--sheet", "--json", "--tracking-uri", server.uri, code=1
    )
    assert len(json.loads(result.stdout)["trained"]) == 3
    assert "did not take the report: status 403" in result.stderr


# ---- runs that vanish ----


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("moment", ["before it is looked up", "before it is listed"])
def test_a_run_that_vanishes_while_it_is_read(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moment: str,
) -> None:
    """Deleted for good between search and download: named, and the sheet is that of the others."""
    gone = runs_of("cell")[0]
    original = reading.run_files

    def vanishes(store: tracking.Store, run_id: str, folder: str) -> reading.RunFiles:
        if run_id != gone.info.run_id:
            return original(store, run_id, folder)
        if moment == "before it is looked up":
            purge(run_id)
        files = original(store, run_id, folder)
        purge(run_id)
        return files

    with monkeypatch.context() as patch:
        patch.setattr(reading, "run_files", vanishes)
        meanwhile = json.loads(command(*READING[0], "--json").stdout)
    assert f"run {gone.info.run_id} ({gone.info.run_name}) was deleted" in caplog.text
    assert all(sheet["n_runs"] == 2 and not sheet["complete"] for sheet in meanwhile["sheets"])
    afterwards = json.loads(command(*READING[0], "--json").stdout)
    assert meanwhile["sheets"] == afterwards["sheets"]
    with pytest.raises(MlflowException):
        MlflowClient().get_run(gone.info.run_id)


def purge(run_id: str) -> None:
    """What ``mlflow gc`` does to a run: its artifacts and its rows are gone."""
    client = MlflowClient()
    try:
        location = client.get_run(run_id).info.artifact_uri
    except MlflowException:
        return
    shutil.rmtree(location.removeprefix("file://"))
    client.delete_run(run_id)
    client._tracking_client.store._hard_delete_run(run_id)


@pytest.mark.usefixtures("swept")
def test_artifacts_that_are_lost_are_no_deleted_run(command: Command) -> None:
    """The run is still there, so that leaving it out would hide a fault."""
    run = runs_of("cell")[0]
    shutil.rmtree(run.info.artifact_uri.removeprefix("file://"))
    assert run.info.run_id in command(*READING[0], code=1).stderr


# ---- databases ----


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_an_older_database_is_never_touched(tmp_path: Path, words: list[str]) -> None:
    """One line that names ``mlflow db upgrade`` on a copy; not a byte of the file changes."""
    path = tmp_path / "old.db"
    shutil.copy(tmp_path / "mlflow.db", path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    line = fails(*words, "--tracking-uri", f"sqlite:///{path}", code=1)
    assert "mlflow db upgrade" in line
    assert "on the copy" in line
    assert path.read_bytes() == before


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
@pytest.mark.parametrize("uri", ["sqlite:///none.db", "./none", "file:none", None])
def test_reading_a_store_that_is_not_there_creates_nothing(
    tmp_path: Path, words: list[str], uri: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in a line, a bad argument; also where MLflow's default is all that says where."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    line = fails(*words, *(["--tracking-uri", uri] if uri else []))
    assert "does not exist, and reading creates nothing" in line
    assert (uri or "mlflow.db").rpartition("/")[2].removeprefix("file:") in line
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    """Empty, no database at all, or somebody else's tables: MLflow would add its own."""
    path = tmp_path / "other.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    code = 1 if content else 2
    line = fails(*READING[0], "--tracking-uri", f"sqlite:///{path}", code=code)
    assert "file is not a database" in line or "is no MLflow database" in line
    assert path.read_bytes() == before


def test_a_dry_run_without_a_store_plans_all_and_creates_none(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is to be done."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db")
    assert "6 cells planned, 6 to train" in command("sweep", small, "--dry-run").output
    assert not Path("none.db").exists()


# ---- the file store ----


@pytest.mark.usefixtures("in_process")
def test_a_file_store_is_read_with_mlflows_own_opt_in(
    small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a path and as a URI, with the values of the database that trained the same cells; without
    the variable one line names it and ``mlflow migrate-filestore``."""
    command("sweep", small, "--smoke")
    expected = json.loads(command(*READING[0], "--json").stdout)["sheets"]
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        command("sweep", small, "--smoke", "--tracking-uri", "./files")
        for uri in (
            "./files",
            "file:files",
            f"file://{Path.cwd()}/files",
            str(Path.cwd() / "files"),
        ):
            there = [*READING[0], "--tracking-uri", uri]
            found = json.loads(command(*there, "--json").stdout)
            assert [sheet["delta_all"] for sheet in found["sheets"]] == [
                sheet["delta_all"] for sheet in expected
            ]
            status = json.loads(command(*READING[1], "--tracking-uri", uri, "--json").stdout)
            assert len(status["finished"]) == 3
        command(*READING[2], "--tracking-uri", "./files")
        run_id = status["finished"][0]["run_id"]
        again = command("reproduce", run_id, "--tracking-uri", "./files").output
        assert "All 8 metrics are equal to the bit" in again
    shutil.copytree("files", "closed")  # MLflow keeps stores that it has opened
    for words in READING:
        line = fails(*words, "--tracking-uri", "./closed", code=1)
        assert "MLFLOW_ALLOW_FILE_STORE=true" in line
        assert "mlflow migrate-filestore" in line


@pytest.mark.usefixtures("swept")
def test_a_folder_that_is_no_file_store_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would make a trash folder in it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "photos").mkdir()
    line = fails(*READING[0], "--tracking-uri", "./photos")
    assert "photos holds no MLflow experiments" in line
    assert list((tmp_path / "photos").iterdir()) == []
    assert all(artifacts(run) for run in runs_of("cell"))
