"""``mm-mlflow sweep``: every cell of a design that has no finished run yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli import reports
from mm_mlflow.cli.shared import Failed, command, open_design, open_store, print_json
from mm_mlflow.errors import UnknownExperiment

if TYPE_CHECKING:
    from mm_mlflow.design import Design
    from mm_mlflow.runner import Material
    from mm_mlflow.sweeping import SweepResult
    from mm_mlflow.tracking import Store


@command("sweep", resumes=True)
@click.argument("design")
@click.option("--jobs", type=int, metavar="N", help="Local workers  [default: one per processor]")
@click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster at this address.")
@click.option("--smoke", is_flag=True, help="Every level once, with one seed.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--adopt-foreign/--no-adopt-foreign", "adopt", default=None,
    help="Count FINISHED runs of other programs whose params name a cell  [default: as adopted before]",
)  # fmt: skip
@click.option("--sheet", "with_sheet", is_flag=True, help="Write the sheets when all is trained.")
def sweep(
    design: str,
    jobs: int | None,
    scheduler: str | None,
    smoke: bool,
    dry_run: bool,
    adopt: bool | None,
    with_sheet: bool,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
) -> None:
    """Train every cell of DESIGN (a design.yaml or its folder) that has no finished run yet."""
    began = time.time()
    plan = open_design(design)
    plan = plan.smoke() if smoke else plan
    from mm_mlflow import engine, runner

    engine.check(jobs, scheduler)
    material = runner.prepare(plan)
    if dry_run:
        _dry_run(plan, material, tracking_uri, experiment_name, jobs, adopt, as_json)
        return
    store = open_store(tracking_uri, experiment_name, plan, create=True)
    result = console.run_design(
        plan, store, material, began=began, quiet=as_json,
        jobs=jobs, scheduler=scheduler, smoke=smoke, adopt=adopt,
    )  # fmt: skip
    document = _sweep_document(result)
    try:
        if with_sheet and len(result.failed) < result.planned:
            document["report_run_id"] = _publish_sheets(store, plan, smoke=smoke, quiet=as_json)
    finally:  # whatever becomes of the sheets, the cells are there
        if as_json:
            print_json(document)
    if result.failed:
        raise Failed


def _publish_sheets(store: Store, design: Design, *, smoke: bool, quiet: bool) -> str | None:
    """The sheets of the sweep that has ended, by the design that it swept; the report run's id."""
    from mm_mlflow import evidence, experiment
    from mm_mlflow.report import build_report

    frame, plan = experiment.read(store, design)
    known = evidence.gather(store, frame, plan, frame.metrics)
    report = build_report(frame, plan, evidence=known)
    # A smoke is never the plan: its report must not take the place of the full one.
    arguments = {"smoke": plan.id} if smoke else {}

    def tell(run_id: str | None) -> None:
        if not quiet:
            console.tell_report(report)
            reports.say_where(store, run_id)

    return reports.deliver(
        report, publish=lambda: experiment.publish(store, report, arguments), tell=tell
    )


def _sweep_document(result: SweepResult) -> dict[str, Any]:
    return {
        "experiment": {"id": result.store.experiment.id, "name": result.store.experiment.name},
        "sweep_run_id": result.run_id,
        "planned": result.planned,
        "trained": [cell.run_id for cell in result.cells if cell.status == "trained"],
        "failed": [
            {"name": cell.label, "run_id": cell.run_id, "error": cell.error}
            for cell in result.failed
        ],
        "notes": list(result.notes),
    }


def _dry_run(
    plan: Design,
    material: Material,
    uri: str | None,
    experiment_name: str | None,
    jobs: int | None,
    adopt: bool | None,
    as_json: bool,
) -> None:
    from mm_mlflow import engine, estimate, sweeping, tracking

    try:
        store = open_store(uri, experiment_name, plan)
        runs = tracking.read_runs(store)
        adopted = sweeping.adoption(plan, store, material, runs, adopt)
    except UnknownExperiment:  # everything is to be done
        runs, adopted = [], None
    forecast = estimate.forecast(plan, material, runs, jobs or engine.default_jobs(), adopted)
    if as_json:
        print_json(forecast.to_dict())
        return
    for cell in forecast.todo:
        click.echo(cell.label)
    for note in forecast.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(forecast.sentence())
