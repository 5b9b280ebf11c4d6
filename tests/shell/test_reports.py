"""Where reports go, what they mark, and what they leave alone: other people's experiments."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import Command, artifact, fails, runs_of
from mlflow import MlflowClient
from mlflow.entities import Run

from mm_mlflow import console, experiment, tracking
from mm_mlflow.cli import main, shared
from mm_mlflow.render import samples
from mm_mlflow.rules import rules
from mm_mlflow.selection import build_selection

SHEET = ["sheet", "--metric", "accuracy", "--experiment-name"]
SELECT = ["select", "--top", "50%", "--on", "accuracy", "--experiment-name"]
NOTE = "mlflow.note.content"


@pytest.fixture
def swept(small: Path, command: Command, in_process: None) -> Path:
    """Three finished cells, and a run of another program."""
    del in_process
    command("sweep", small, "--smoke")
    client = MlflowClient()
    run = client.create_run(runs_of("sweep")[0].info.experiment_id, tags={"owner": "somebody"})
    client.log_metric(run.info.run_id, "accuracy", 0.99)
    client.set_terminated(run.info.run_id)
    return small


def foreign() -> Run:
    (run,) = runs_of(None)
    return run


@pytest.mark.parametrize("words", [SHEET, SELECT], ids=lambda words: words[0])
def test_out_writes_nothing_to_mlflow(
    swept: Path, command: Command, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte of the database and no artifact, under ``mlflow run`` too; the files are there."""
    del swept
    launcher = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launcher)

    def held() -> dict[Path, bytes]:
        paths = [*tmp_path.glob("mlflow.db*"), *tmp_path.glob("mlruns/**/*")]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before = held()
    assert len(before) > 10
    command(*words, "small", "--out", "files")
    assert held() == before
    assert Path("files/index.html").is_file()
    command(*words, "small")
    assert held() != before


@pytest.mark.parametrize(
    "arguments",
    [
        [*SHEET, "small", "--out", "x", "--report-experiment", "y"],
        [*SELECT, "small", "--out", "x", "--report-experiment", "y"],
        [*SELECT, "small", "--out", "x", "--tag"],
    ],
)
def test_out_and_what_writes_to_mlflow_are_refused_together(arguments: list[str]) -> None:
    """Which of the two was meant is not for us to say."""
    assert "writes to MLflow and --out does not" in fails(*arguments)
    assert not Path("x").exists()


@pytest.mark.parametrize("words", [SHEET, SELECT], ids=lambda words: words[0])
def test_a_report_in_another_experiment(swept: Path, command: Command, words: list[str]) -> None:
    """Made there, with a tag and a link to the experiment that it is about, which gets no run."""
    del swept
    before = {run.info.run_id for kind in ("cell", "sweep", "report") for run in runs_of(kind)}
    said = command(*words, "small", "--report-experiment", "reports/all of them").output
    source = MlflowClient().get_experiment_by_name("small")
    assert source is not None
    (report,) = runs_of("report", "reports/all of them")
    assert report.info.status == "FINISHED"
    assert report.data.tags["mm.experiment"] == source.experiment_id
    opens, about, *_ = report.data.tags[NOTE].split("\n\n")
    assert f"runs/{report.info.run_id}/artifacts/index.html" in opens
    assert about.startswith(f"About experiment [small](#/experiments/{source.experiment_id}/runs?")
    assert f"#/experiments/{report.info.experiment_id}/runs/{report.info.run_id}" in said
    # The runs are where they were.
    assert f"#/experiments/{source.experiment_id}/runs?" in said
    assert f"#/experiments/{report.info.experiment_id}/runs?" not in said
    assert artifact(report, "index.html")
    assert not runs_of("report")
    assert before == {run.info.run_id for kind in ("cell", "sweep") for run in runs_of(kind)}
    if words is SELECT:
        tagged = {run.data.tags.get("mm.selected.top-50") for run in runs_of("cell")}
        assert tagged == {None, report.info.run_id}


def test_by_default_a_report_goes_where_it_is_about(swept: Path, command: Command) -> None:
    """Its tag says so all the same, and its description needs no link; so with the same name."""
    del swept
    command(*SHEET, "small")
    command(*SHEET, "small", "--report-experiment", "small")
    for report in runs_of("report"):
        assert report.data.tags["mm.experiment"] == report.info.experiment_id
        assert "About experiment" not in report.data.tags[NOTE]
    assert sum("mm.superseded_by" in run.data.tags for run in runs_of("report")) == 1


def test_superseding_is_per_source_experiment(swept: Path, command: Command) -> None:
    """In an experiment that holds reports about several, only those about the same one are old."""
    command("sweep", swept, "--smoke", "--experiment-name", "second")
    for source in ("small", "second", "small"):
        command(*SHEET, source, "--report-experiment", "reports")
    command(*SELECT, "small", "--report-experiment", "reports")
    newest, *others = [run for run in runs_of("report", "reports") if of("small", run)]
    assert len(others) == 2
    assert len(runs_of("report", "reports")) == 4
    old = [run for run in runs_of("report", "reports") if "mm.superseded_by" in run.data.tags]
    assert [run.data.tags["mm.report"] for run in old] == ['sheets {"metric":["accuracy"]}']
    assert of("small", old[0])
    assert newest.info.run_id != old[0].data.tags["mm.superseded_by"] == others[0].info.run_id


def of(source: str, run: Run) -> bool:
    found = MlflowClient().get_experiment_by_name(source)
    assert found is not None
    return run.data.tags["mm.experiment"] == found.experiment_id


def test_a_superseded_report_says_so_where_people_read(swept: Path, command: Command) -> None:
    """One line at the top of its description, once, over what stood there; longer texts than MLflow
    takes are left whole."""
    del swept
    client = MlflowClient()
    command(*SHEET, "small")
    (first,) = runs_of("report")
    client.set_tag(first.info.run_id, NOTE, "my own words\n" + first.data.tags[NOTE])
    written = client.get_run(first.info.run_id).data.tags[NOTE]
    command(*SHEET, "small")
    (second,) = (run for run in runs_of("report") if run.info.run_id != first.info.run_id)
    note = client.get_run(first.info.run_id).data.tags[NOTE]
    page = f"#/experiments/{second.info.experiment_id}/runs/{second.info.run_id}"
    assert note == f"Superseded by run [`{second.info.run_id}`]({page}).\n\n{written}"
    client.set_tag(second.info.run_id, NOTE, "x" * 7990)
    command(*SHEET, "small")
    assert client.get_run(first.info.run_id).data.tags[NOTE] == note
    tags = client.get_run(second.info.run_id).data.tags
    assert tags[NOTE] == "x" * 7990
    assert "mm.superseded_by" in tags


def test_reports_of_other_programs_are_left_alone(swept: Path, command: Command) -> None:
    """Neither a run that has no kind nor a selection is an older sheet."""
    del swept
    command(*SELECT, "small")
    before = [foreign().data.tags, runs_of("report")[0].data.tags]
    command(*SHEET, "small")
    command(*SHEET, "small")
    selection = next(run for run in runs_of("report") if "selection" in run.data.tags["mm.report"])
    assert [foreign().data.tags, selection.data.tags] == before


def test_runs_of_others_are_tagged_only_upon_request(
    swept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours always; theirs with ``tag_others``, and a later selection takes its own tag away again."""
    del swept
    store = tracking.open_store(None, "small")
    frame, design = experiment.read(store)
    chosen, on = rules(["50%"], pareto=False, require=[], on=["accuracy"])
    selection = build_selection(frame, design.id, chosen, on, ())
    ours = selection.choices[0].run_ids
    theirs = foreign().info.run_id
    both = replace(selection, choices=(replace(selection.choices[0], run_ids=(*ours, theirs)),))

    def tags(**options: Any) -> tuple[str, dict[str, str | None]]:
        run_id = experiment.publish_selection(store, both, design, {"n": str(options)}, **options)
        runs = [*runs_of("cell"), foreign()]
        return run_id, {run.info.run_id: run.data.tags.get("mm.selected.top-50") for run in runs}

    run_id, found = tags()
    assert {run for run, value in found.items() if value == run_id} == set(ours)
    assert found[theirs] is None
    assert foreign().data.tags["owner"] == "somebody"
    assert "selected runs of other programs, not tagged (--tag does it): 1" in caplog.text
    run_id, found = tags(tag_others=True)
    assert {run for run, value in found.items() if value == run_id} == {*ours, theirs}
    run_id, found = tags()
    assert found[theirs] is None


def test_out_replaces_an_earlier_report_and_nothing_else(swept: Path, command: Command) -> None:
    """A new folder, an empty one, or that of a report; any other is refused before runs are read, and
    left as it is."""
    del swept
    Path("empty").mkdir()
    for folder in ("new", "empty", "new"):
        for words in (SHEET, SELECT):
            command(*words, "small", "--out", folder)
    Path("mine").mkdir()
    Path("mine/summary.csv").write_text("mine")
    for words in (SHEET, SELECT):
        assert "no earlier report" in fails(*words, "small", "--out", "mine")
        Path("mine/index.html").write_text("<title>mine</title>")
        assert "no earlier report" in fails(*words, "unknown experiment", "--out", "mine")
    assert Path("mine/summary.csv").read_text() == "mine"
    assert {path.name for path in Path("mine").iterdir()} == {"summary.csv", "index.html"}
    assert "cannot be written" in fails(*SHEET, "small", "--out", "mine/summary.csv")


@pytest.mark.parametrize(
    ("broken", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError("x"), "FAILED")]
)
def test_a_report_that_does_not_come_to_its_end(
    swept: Path, monkeypatch: pytest.MonkeyPatch, broken: BaseException, status: str
) -> None:
    """Interrupted it ends KILLED, like all else; there is nothing that it would go on with."""
    del swept

    def breaks(*_: object) -> None:
        raise broken

    monkeypatch.setattr(tracking, "log_folder", breaks)
    result = CliRunner().invoke(main, [*SHEET, "small"])
    assert result.exit_code == (130 if status == "KILLED" else 1)
    if status == "KILLED":
        assert result.stderr.splitlines() == ["Interrupted."]
    (report,) = runs_of("report")
    assert report.info.status == status


def test_names_of_other_people_do_not_command_the_terminal(swept: Path, command: Command) -> None:
    """No control character, and no line that a name has begun."""
    evil = "\x1b[2Jx\nfailed: everything\r"
    client = MlflowClient()
    done = runs_of("cell")[0]
    for tags in ({}, {"mm.schema": "1", "mm.kind": "cell", "mm.cell": "0" * 64}):
        params = {"seed": "0", "learning_rate": "0.1", "batch_size": "256", "architecture": "mlp"}
        run_id = client.create_run(done.info.experiment_id, run_name=evil, tags=tags).info.run_id
        for name, value in params.items():
            client.log_param(run_id, name, value)
        client.set_terminated(run_id)
    said = command("status", swept).stdout
    for word in ("extra: ", "foreign: "):
        (line,) = (line for line in said.splitlines() if line.startswith(word))
        assert "[2Jx failed: everything" in line
    report = samples.report()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        console.tell_report(replace(report, notes=(evil,)))
    assert printed.getvalue().splitlines()[-1] == "[2Jx failed: everything"
    record = logging.makeLogRecord({"msg": "run %s is left out", "args": (evil,)})
    noted = shared._Note().format(record)
    assert noted == "Note: run [2Jx failed: everything is left out"
    for text in (said, noted, printed.getvalue(), fails("sheet", "--experiment-name", evil)):
        assert all(character.isprintable() for character in text.replace("\n", ""))


def test_a_terminal_without_the_letters_of_a_sheet(swept: Path) -> None:
    """A question mark stands for Δ; what --json prints is whole."""
    del swept
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    found = []
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "mm_mlflow", *SHEET, "small", *more]
        done = subprocess.run(command, capture_output=True, check=True, env=environment)
        found.append(done.stdout.decode("latin-1"))
    assert "?all" in found[0]
    assert "mean ± sd" in found[0]
    assert json.loads(found[1])["sheets"]


def test_a_report_experiment_that_is_deleted(swept: Path) -> None:
    """A bad argument, like an experiment to read that is: nothing is written anywhere."""
    del swept
    client = MlflowClient()
    client.delete_experiment(client.create_experiment("reports"))
    assert "'reports' is deleted" in fails(*SHEET, "small", "--report-experiment", "reports")
    assert not list(Path.cwd().glob("multiplicity-*"))
