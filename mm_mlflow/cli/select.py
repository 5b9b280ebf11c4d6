"""``mm-mlflow select``: models by some metrics, and what that does to others."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli import reports
from mm_mlflow.cli.asked import asked as parse_asked
from mm_mlflow.cli.asked import inference_options
from mm_mlflow.cli.shared import command, print_json
from mm_mlflow.errors import InvalidInput, unknown

if TYPE_CHECKING:
    from mm_mlflow.frame import Frame
    from mm_mlflow.plan import Plan
    from mm_mlflow.registration import Loaded
    from mm_mlflow.rules import Rule
    from mm_mlflow.selection import Selection
    from mm_mlflow.tracking import Store, StoredOutcomes

    Rules = tuple[tuple[Rule, ...], tuple[str, ...]]


@command("select")
@click.option("--top", "top", multiple=True, metavar="K%", help="The best K% of every metric.")
@click.option("--pareto", is_flag=True, help="The Pareto front of the metrics.")
@click.option("--require", "require", multiple=True, metavar="'M>=V'", help="Thresholds to keep.")
@click.option("--on", "on", multiple=True, metavar="M", help="Select on these; * and ? allowed.")
@click.option(
    "--report", "shown", multiple=True, metavar="M",
    help="Show these before and after  [default: all others]",
)  # fmt: skip
@click.option(
    "--split-half", is_flag=True,
    help="Choose on one half of the test examples and report on the other, from predictions.",
)  # fmt: skip
@click.option("--maximize", multiple=True, metavar="M", help="More of this metric is better.")
@click.option("--minimize", multiple=True, metavar="M", help="Less of this metric is better.")
@inference_options
@reports.report_options
@click.option("--register", metavar="NAME", help="Register the selected models under this name.")
@click.option("--tag", "tag_others", is_flag=True, help="Tag runs of other programs too.")
def select(
    top: Sequence[str],
    pareto: bool,
    require: Sequence[str],
    on: Sequence[str],
    shown: Sequence[str],
    split_half: bool,
    maximize: Sequence[str],
    minimize: Sequence[str],
    within: float | None,
    mixed: bool,
    confirm_labels: bool,
    design: str | None,
    out: Path | None,
    into: str | None,
    register: str | None,
    tag_others: bool,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
    **layout: Any,
) -> None:
    """Select models on some metrics, and show what that does to others.

    Without --top, --pareto and --require: what the design's selection says.
    """
    reports.check_destination(out, report_experiment=into, tag=tag_others, register=register)
    given = _given(top, pareto, require, on, shown)
    _check_register(register, given)
    asked = parse_asked(**layout)
    store, frame, plan = reports.opened(tracking_uri, experiment_name, design, asked, within)
    from mm_mlflow import experiment
    from mm_mlflow.selection import build_selection

    frame = _directed(frame, maximize, minimize)
    (rules, on), shown = _named_metrics(frame, plan, given, shown)
    _check_register(register, (rules, on))
    stored = _stored(store, frame, on, shown) if split_half else None
    selection = build_selection(
        frame,
        plan.id,
        rules,
        on,
        shown,
        mixed=mixed,
        confirm_labels=confirm_labels,
        outcomes=stored.found if stored else None,
        missing=stored.missing if stored else None,
    )
    loaded = _load(store, frame, selection) if register is not None else {}
    versions: list[str] = []
    arguments = reports.arguments(
        asked,
        rules=[rule.title for rule in rules],
        on=on,
        report=shown,
        split_half=split_half,
        maximize=maximize,
        minimize=minimize,
        within=within,
        mixed=mixed,
        confirm_labels=confirm_labels,
        design=plan.id if design else None,
    )

    def publish() -> str:
        run_id = experiment.publish_selection(
            store, selection, plan, arguments, into=into, tag_others=tag_others
        )
        if register is not None:
            from mm_mlflow import registration

            with experiment.written(run_id, "the selected models could not be registered"):
                versions.extend(registration.register(store, run_id, register, loaded))
        return run_id

    def tell(run_id: str | None) -> None:
        if as_json:
            print_json(_document(selection, run_id, versions))
            return
        console.tell_selection(selection)
        for version in versions[-1:]:
            number = len(versions)
            click.echo(f"{number} models registered as {register!r}, versions up to {version}")
        reports.say_where(store, run_id, out, into)

    reports.deliver(selection, out=out, publish=publish, tell=tell)


def _given(
    top: Sequence[str],
    pareto: bool,
    require: Sequence[str],
    on: Sequence[str],
    shown: Sequence[str],
) -> Rules | None:
    """The rules that options name; None where nothing is asked, which leaves it to the design."""
    from mm_mlflow.rules import rules

    asked = top or pareto or require or on or shown
    return rules(top, pareto=pareto, require=require, on=on) if asked else None


def _check_register(name: str | None, given: Rules | None) -> None:
    if name is None:
        return
    from mm_mlflow import registration

    registration.check_name(name)
    if given is not None and len(given[0]) > 1:
        raise InvalidInput("--register needs a single selection: give one --top")


def _directed(frame: Frame, maximize: Sequence[str], minimize: Sequence[str]) -> Frame:
    """``frame``, told of the metrics that match; those about training itself match too."""
    keys = [str(key) for key in frame.values]
    found: list[list[str]] = []
    for patterns in (maximize, minimize):
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(key, pattern) for key in keys):
                raise unknown("metric", pattern, keys)
        found.append([key for key in keys if any(fnmatch.fnmatchcase(key, p) for p in patterns)])
    return frame.with_directions(*found)


def _named_metrics(
    frame: Frame, plan: Plan, given: Rules | None, shown: Sequence[str]
) -> tuple[Rules, tuple[str, ...]]:
    """The rules (the design's where none are ``given``), and the metrics to select on and to show, each
    of which is there."""
    from mm_mlflow import experiment

    if given is None:
        if plan.selection is None:
            raise InvalidInput(
                f"design {plan.name!r} has no selection: give --top, --pareto or --require"
            )
        given, shown = plan.selection.rules(), plan.selection.report
    rules, on = given
    on = tuple(experiment.choose_metrics(frame, on))
    shown = tuple(experiment.choose_metrics(frame, shown)) if shown else ()
    return (rules, on), shown


def _stored(store: Store, frame: Frame, on: Sequence[str], shown: Sequence[str]) -> StoredOutcomes:
    """The outcomes of every metric that the selection is about, and of accuracy."""
    from mm_mlflow import tracking
    from mm_mlflow.selection import ACCURACY

    wanted = dict.fromkeys([*on, *(shown or frame.metrics)])
    if ACCURACY in frame.values:
        wanted[ACCURACY] = None
    return tracking.read_outcomes(store, frame, list(wanted))


def _load(store: Store, frame: Frame, selection: Selection) -> Loaded:
    """The models to register, before anything is written."""
    from mm_mlflow import registration

    (choice,) = selection.choices
    if not choice.mask.any():
        raise InvalidInput(f"nothing to register: {choice.reason}")
    return registration.load(store, frame.cells.loc[choice.mask, "run_id"].to_dict())


def _document(selection: Selection, run_id: str | None, versions: Sequence[str]) -> dict[str, Any]:
    from mm_mlflow.render.json import dump
    from mm_mlflow.render.selection import document

    chosen = [set(choice.run_ids) for choice in selection.choices]
    selected = [run for run in selection.cells["run_id"] if all(run in ids for ids in chosen)]
    told = {"selected": selected, "report_run_id": run_id, "versions": versions}
    return {**told, **json.loads(dump(document(selection)))}
