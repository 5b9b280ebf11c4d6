"""``mm-mlflow sheet``: multiplicity sheets of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mm_mlflow import console
from mm_mlflow.cli import reports
from mm_mlflow.cli.asked import asked as parse_asked
from mm_mlflow.cli.asked import inference_options
from mm_mlflow.cli.shared import command, print_json
from mm_mlflow.errors import InvalidInput


@command("sheet")
@click.option(
    "--metric", "metrics", multiple=True, metavar="M", help="Only these; * and ? allowed."
)
@click.option("--axis", "axes", multiple=True, metavar="A", help="Only the tables of these axes.")
@click.option("--plain", is_flag=True, help="The paper's sheets alone: nothing about chance.")
@click.option(
    "--statistics",
    type=click.Choice(["values", "predictions"]),
    help="What chance would give: from values, or single predictions too  [default: what there is]",
)
@click.option("--examples", type=click.IntRange(1), metavar="N", help="Test examples, if unknown.")
@inference_options
@reports.report_options
def sheet(
    metrics: Sequence[str],
    axes: Sequence[str],
    plain: bool,
    statistics: str | None,
    examples: int | None,
    within: float | None,
    mixed: bool,
    confirm_labels: bool,
    design: str | None,
    out: Path | None,
    into: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
    **layout: Any,
) -> None:
    """Build multiplicity sheets from the runs of an experiment, as a report run.

    Runs may be any program's: where no sweep is, their params tell the axes, the seed and the default.
    """
    if plain and (statistics or examples):
        raise InvalidInput(
            "--plain shows nothing about chance: leave it out, or --statistics, --examples"
        )
    asked = parse_asked(axes=axes, **layout)
    reports.check_destination(out, report_experiment=into)
    store, frame, plan = reports.opened(tracking_uri, experiment_name, design, asked, within)
    from mm_mlflow import evidence, experiment
    from mm_mlflow.report import build_report

    chosen = experiment.choose_metrics(frame, metrics)
    found = (
        None
        if plain
        else evidence.gather(store, frame, plan, chosen, asked=statistics, n_examples=examples)
    )
    if found is None and not plain:
        plan = replace(plan, notes=(*plan.notes, evidence.SKIPPED))
    if examples and all(frame.records.get(key, {}).get("n") for key in chosen):
        unused = f"--examples {examples} is not used: every metric here tells how many it is over."
        plan = replace(plan, notes=(*plan.notes, unused))
    report = build_report(
        frame,
        plan,
        chosen if metrics else (),
        axes=() if plan.inferred else axes,
        mixed=mixed,
        confirm_labels=confirm_labels,
        evidence=found,
    )
    arguments = reports.arguments(
        asked,
        metric=metrics,
        within=within,
        mixed=mixed,
        confirm_labels=confirm_labels,
        design=plan.id if design else None,
        plain=plain,
        statistics=statistics,
        examples=examples,
    )

    def tell(run_id: str | None) -> None:
        if as_json:
            reference = {"id": store.experiment.id, "name": store.experiment.name}
            sheets = [sheet.to_dict() for sheet in report.sheets]
            print_json({"experiment": reference, "report_run_id": run_id, "sheets": sheets})
            return
        console.tell_report(report)
        reports.say_where(store, run_id, out, into)

    reports.deliver(
        report,
        out=out,
        publish=lambda: experiment.publish(store, report, arguments, into=into),
        tell=tell,
    )
