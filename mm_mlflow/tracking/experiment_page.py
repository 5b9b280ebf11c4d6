"""MLflow's page of an experiment: addresses on it, and its description and saved view kept up to date.

Only in experiments that this program created, and only while nobody has changed or removed what it
wrote there. Experiments that others created hold neither, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from mm_mlflow.design import Design
from mm_mlflow.frame import RawRun
from mm_mlflow.tracking import experiment_tags as tags
from mm_mlflow.tracking.reading import read_runs
from mm_mlflow.tracking.store import Store

# MLflow's page has two faces; without this it opens as the one for traces, without runs (3.17, seen).
TRAINING = "workflowType=machine_learning"


def report_page(store: Store, run_id: str) -> str:
    """Where the UI shows a report, after the server's address."""
    return f"#/experiments/{store.experiment.id}/runs/{run_id}/artifacts/index.html?{TRAINING}"


def runs_page(store: Store, *, charts: bool = False) -> str:
    """Where the UI shows the runs, in our saved view if there is one, after the server's address."""
    present = store.client.get_experiment(store.experiment.id).tags
    return _runs_page(store, tags.VIEW in present, charts)


def _runs_page(store: Store, view: bool, charts: bool) -> str:
    options = [TRAINING]
    if view:
        options.append(f"viewStateShareKey={tags.VIEW_KEY}")
    if charts:
        options.append("compareRunsMode=CHART")
    return f"#/experiments/{store.experiment.id}/runs?{'&'.join(options)}"


def refresh_page(store: Store, design: Design | None = None, metrics: Sequence[str] = ()) -> None:
    """Let our description name the newest reports and, with a ``design``, our saved view show its
    axes and these metrics."""
    experiment = store.client.get_experiment(store.experiment.id)
    present = experiment.tags
    if design is not None and tags.is_our_view(present.get(tags.VIEW, "")):
        axes = [axis.name for axis in design.axes if len(axis.levels) > 1]
        state = tags.view_state([*axes, "seed"], metrics)
        value = tags.envelope(state, experiment.creation_time or 0)
        store.client.set_experiment_tag(store.experiment.id, tags.VIEW, value)
    if tags.is_ours(present.get(tags.NOTE, "")):
        pages = [
            ("Runs as a table", _runs_page(store, tags.VIEW in present, charts=False)),
            ("Runs as charts", _runs_page(store, tags.VIEW in present, charts=True)),
        ]
        value = tags.description(_newest_reports(store), pages)
        store.client.set_experiment_tag(store.experiment.id, tags.NOTE, value)


def _newest_reports(store: Store) -> list[tuple[str, str]]:
    """Title and address of the newest whole report of each kind about this experiment."""
    newest: dict[str, RawRun] = {}
    runs = read_runs(store, "tags.`mm.kind` = 'report'")
    for run in sorted(runs, key=lambda run: run.start_time):
        about = run.tags.get("mm.experiment", store.experiment.id)
        if run.status == "FINISHED" and about == store.experiment.id:
            newest[run.tags.get("mm.report", "").split(" ")[0]] = run
    return [
        (title, report_page(store, newest[kind].run_id))
        for kind, title in (("sheets", "Newest report"), ("selection", "Newest selection"))
        if kind in newest
    ]
