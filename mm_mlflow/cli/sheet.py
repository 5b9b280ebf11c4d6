"""``mm-mlflow sheet``: multiplicity sheets of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli.asked import asked as parse_asked
from mm_mlflow.cli.asked import inference_options
from mm_mlflow.cli.shared import check_destination, command, open_design, open_store, print_json

if TYPE_CHECKING:
    from mm_mlflow.design import Design
    from mm_mlflow.inference import Asked
    from mm_mlflow.tracking import Store


@command("sheet")
@click.option("--design", metavar="DESIGN", help="The plan  [default: the newest sweep's design]")
@click.option(
    "--metric", "metrics", multiple=True, metavar="M", help="Only these; * and ? allowed."
)
@click.option("--axis", "axes", multiple=True, metavar="A", help="Only the tables of these axes.")
@inference_options
@click.option("--within", type=float, metavar="E", help="Only runs within E of the best accuracy.")
@click.option("--mixed", is_flag=True, help="Mix runs measured with different parameters.")
@click.option(
    "--confirm-labels", is_flag=True, help="Show OOD data whose two classes look swapped."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write files, not a run."
)
@click.option(
    "--report-experiment", metavar="NAME", help="The report run goes there  [default: the same]"
)
def sheet(
    design: str | None,
    metrics: Sequence[str],
    axes: Sequence[str],
    within: float | None,
    mixed: bool,
    confirm_labels: bool,
    out: Path | None,
    report_experiment: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
    **layout: Any,
) -> None:
    """Build multiplicity sheets from the runs of an experiment, as a report run.

    Runs may be any program's: where no sweep is, their params tell the axes, the seed and the default.
    """
    asked = parse_asked(axes=axes, **layout)
    check_destination(out, report_experiment)
    plan = open_design(design) if design else None
    store = open_store(tracking_uri, experiment_name, plan)
    publish_sheets(
        store,
        plan,
        quiet=False,
        out=out,
        report_experiment=report_experiment,
        as_json=as_json,
        metrics=metrics,
        asked=asked,
        within=within,
        mixed=mixed,
        confirm_labels=confirm_labels,
    )


def publish_sheets(
    store: Store,
    design: Design | None,
    *,
    quiet: bool,
    out: Path | None = None,
    report_experiment: str | None = None,
    as_json: bool = False,
    metrics: Sequence[str] = (),
    asked: Asked | None = None,
    within: float | None = None,
    mixed: bool = False,
    confirm_labels: bool = False,
    of_sweep: bool = False,
) -> str | None:
    """Build the sheets of an experiment, write and tell them; returns the report run's id, if any.

    ``of_sweep``: the sweep that just ended asks, by the design that it swept.
    """
    from mm_mlflow import experiment
    from mm_mlflow.report import build_report

    explicit = design is not None and not of_sweep
    frame, plan = experiment.read(store, design, asked=asked)
    axes = asked.axes if asked is not None else ()
    if within is not None:
        frame = frame.near_best(within)
    chosen = experiment.choose_metrics(frame, metrics)
    report = build_report(
        frame,
        plan,
        chosen if metrics else (),
        axes=() if plan.inferred else axes,
        mixed=mixed,
        confirm_labels=confirm_labels,
    )
    options = {
        **(asked.arguments() if asked is not None else {}),
        "metric": metrics,
        "within": within,
        "mixed": mixed,
        "confirm_labels": confirm_labels,
    }
    arguments = {key: value for key, value in options.items() if value not in ((), None, False)}
    if explicit:
        arguments["design"] = plan.id
    run_id = refused = None
    if out is not None:
        experiment.save(out, report)
    else:
        try:
            run_id = experiment.publish(store, report, arguments, into=report_experiment)
        except experiment.Refused as error:  # what was found out is told all the same
            refused = error
    if as_json:
        reference = {"id": store.experiment.id, "name": store.experiment.name}
        sheets = [sheet.to_dict() for sheet in report.sheets]
        print_json({"experiment": reference, "report_run_id": run_id, "sheets": sheets})
    elif not quiet:
        console.tell_report(report)
        click.echo("")
        if run_id:
            target = experiment.report_store(store, report_experiment)
            click.echo(console.where_to_look(target, run_id))
        elif not refused:
            click.echo(f"Written to {out}: open index.html")
    if refused:
        raise refused
    return run_id
