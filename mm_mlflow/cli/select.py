"""``mm-mlflow select``: models by some metrics, and what that does to others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli.asked import asked as parse_asked
from mm_mlflow.cli.asked import inference_options
from mm_mlflow.cli.shared import check_destination, command, open_design, open_store, print_json
from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.registration import Loaded


@command("select")
@click.option("--top", "top", multiple=True, metavar="K%", help="The best K% of every metric.")
@click.option("--pareto", is_flag=True, help="The Pareto front of the metrics.")
@click.option("--require", "require", multiple=True, metavar="'M>=V'", help="Thresholds to keep.")
@click.option("--on", "on", multiple=True, metavar="M", help="Select on these; * and ? allowed.")
@click.option(
    "--report", "shown", multiple=True, metavar="M",
    help="Show these before and after  [default: all others]",
)  # fmt: skip
@inference_options
@click.option("--within", type=float, metavar="E", help="Only runs within E of the best accuracy.")
@click.option("--mixed", is_flag=True, help="Mix runs measured with different parameters.")
@click.option("--confirm-labels", is_flag=True, help="Use OOD data whose two classes look swapped.")
@click.option("--register", metavar="NAME", help="Register the selected models under this name.")
@click.option("--design", metavar="DESIGN", help="The plan  [default: the newest sweep's design]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write files, not a run."
)
@click.option(
    "--report-experiment", metavar="NAME", help="The report run goes there  [default: the same]"
)
@click.option("--tag", "tag_others", is_flag=True, help="Tag runs of other programs too.")
def select(
    top: Sequence[str],
    pareto: bool,
    require: Sequence[str],
    on: Sequence[str],
    shown: Sequence[str],
    within: float | None,
    mixed: bool,
    confirm_labels: bool,
    register: str | None,
    design: str | None,
    out: Path | None,
    report_experiment: str | None,
    tag_others: bool,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
    **layout: Any,
) -> None:
    """Select models on some metrics, and show what that does to others.

    Without --top, --pareto and --require: what the design's selection says.
    """
    check_destination(out, report_experiment, tag=tag_others)
    if register is not None:
        from mm_mlflow import registration

        registration.check_name(register)
    if register is not None and out is not None:
        raise InvalidInput("--register writes to MLflow and --out does not: give one of them")
    from mm_mlflow import experiment
    from mm_mlflow.rules import Require, rules
    from mm_mlflow.selection import build_selection

    asked = bool(top or pareto or require or on or shown)
    given = (
        rules(top, pareto=pareto, require=require, on=on) if asked else None
    )  # before anything is read
    named = open_design(design) if design else None
    laid_out = parse_asked(**layout)
    store = open_store(tracking_uri, experiment_name, named)
    frame, plan = experiment.read(store, named, asked=laid_out)
    if within is not None:
        frame = frame.near_best(within)
    if given is None:
        if plan.selection is None:
            raise InvalidInput(
                f"design {plan.name!r} has no selection: give --top, --pareto or --require"
            )
        given, shown = plan.selection.rules(), plan.selection.report
    chosen_rules, metrics = given
    metrics = tuple(experiment.choose_metrics(frame, metrics))
    shown = tuple(experiment.choose_metrics(frame, shown)) if shown else ()
    if register is not None and len(chosen_rules) > 1:
        raise InvalidInput("--register needs a single selection: give one --top")
    if not isinstance(chosen_rules[0], Require):
        for metric in metrics:
            if metric not in frame.records:
                raise InvalidInput(
                    f"nothing says whether more of metric {metric!r} is better: use --require"
                )
    selection = build_selection(
        frame, plan.id, chosen_rules, metrics, shown, mixed=mixed, confirm_labels=confirm_labels
    )
    run_id = refused = None
    versions: list[str] = []
    loaded: Loaded = {}
    if register is not None:
        mask = selection.choices[0].mask
        if not mask.any():
            raise InvalidInput(f"nothing to register: {selection.choices[0].reason}")
        loaded = registration.load(store, frame.cells.loc[mask, "run_id"].to_dict())
    if out is not None:
        experiment.save(out, selection)
    else:
        arguments = {
            "rules": [rule.title for rule in chosen_rules],
            "on": metrics,
            **({"report": shown} if shown else {}),
            **({"within": within} if within is not None else {}),
            **({"mixed": True} if mixed else {}),
            **({"confirm_labels": True} if confirm_labels else {}),
            **({"design": plan.id} if design else {}),
            **laid_out.arguments(),
        }
        try:
            run_id = experiment.publish_selection(
                store, selection, plan, arguments, into=report_experiment, tag_others=tag_others
            )
        except experiment.Refused as error:  # what was found out is told all the same
            refused = error
        if run_id and register is not None:
            versions = registration.register(store, run_id, register, loaded)
    if as_json:
        from mm_mlflow.render.json import dump
        from mm_mlflow.render.selection import document

        chosen = [set(choice.run_ids) for choice in selection.choices]
        selected = [run for run in selection.cells["run_id"] if all(run in ids for ids in chosen)]
        print_json(
            {"selected": selected, "report_run_id": run_id, "versions": versions}
            | json.loads(dump(document(selection)))
        )
    else:
        console.tell_selection(selection)
        for version in versions[-1:]:
            number = len(versions)
            click.echo(f"{number} models registered as {register!r}, versions up to {version}")
        click.echo("")
        if run_id:
            target = experiment.report_store(store, report_experiment)
            click.echo(console.where_to_look(target, run_id))
        elif not refused:
            click.echo(f"Written to {out}: open index.html")
    if refused:
        raise refused
