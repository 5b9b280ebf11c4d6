"""What reports have in common: what tells one from another, where they go, what is said at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli.shared import open_design, open_store
from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.frame import Frame
    from mm_mlflow.inference import Asked
    from mm_mlflow.plan import Plan
    from mm_mlflow.report import Report
    from mm_mlflow.selection import Selection
    from mm_mlflow.tracking import Store

_RUNS = [
    click.option("--within", type=float, metavar="E", help="Only runs within E of the best accuracy."),
    click.option("--mixed", is_flag=True, help="Mix runs measured with different parameters."),
    click.option("--confirm-labels", is_flag=True, help="Use OOD data whose two classes look swapped."),
    click.option("--design", metavar="DESIGN", help="The plan  [default: the newest sweep's design]"),
]  # fmt: skip
_DESTINATION = [
    click.option(
        "--out", type=click.Path(path_type=Path), metavar="DIR",
        help="Write files, not a run: into a new folder, an empty one, or over an earlier report.",
    ),
    click.option(
        "--report-experiment", "into", metavar="NAME",
        help="The report run goes there  [default: the same]",
    ),
]  # fmt: skip


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which runs a report is about."""
    for option in reversed(_RUNS):
        function = option(function)
    return function


def report_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which runs a report is about, and where it goes."""
    for option in reversed([*_RUNS, *_DESTINATION]):
        function = option(function)
    return function


def opened(
    tracking_uri: str | None,
    experiment_name: str | None,
    design: str | None,
    asked: Asked,
    within: float | None,
) -> tuple[Store, Frame, Plan]:
    """The experiment that a report is about: where it is, its runs (near the best only, ``within``), and
    how they are laid out."""
    named = open_design(design) if design else None
    store = open_store(tracking_uri, experiment_name, named)
    from mm_mlflow import experiment

    frame, plan = experiment.read(store, named, asked=asked)
    return store, frame if within is None else frame.near_best(within), plan


def check_destination(out: Path | None, **to_mlflow: object) -> None:
    """Refuse a folder that holds other files, and ``out``, which writes nothing to MLflow, beside
    options that say where or what to write there."""
    if out is None:
        return
    for name, given in to_mlflow.items():
        if given:
            raise InvalidInput(
                f"--{name.replace('_', '-')} writes to MLflow and --out does not: give one of them"
            )
    from mm_mlflow import experiment

    experiment.check_folder(out)


def arguments(asked: Asked, **options: Any) -> dict[str, Any]:
    """What tells one report from another: whatever was asked for, and nothing that was not."""
    given = {**asked.arguments(), **options}
    return {key: value for key, value in given.items() if value or isinstance(value, float)}


def deliver(
    shown: Report | Selection,
    *,
    publish: Callable[[], str],
    tell: Callable[[str | None], None],
    out: Path | None = None,
) -> str | None:
    """``publish`` a report run, or write files to ``out``; then ``tell`` it, with the run's id, which is
    returned.

    Raises:
        Refused: MLflow did not take it; what was found out is told all the same.
    """
    from mm_mlflow import experiment

    if out is not None:
        experiment.save(out, shown)
        tell(None)
        return None
    try:
        run_id = publish()
    except experiment.Refused:
        tell(None)
        raise
    tell(run_id)
    return run_id


def say_where(
    store: Store, run_id: str | None, out: Path | None = None, into: str | None = None
) -> None:
    """Where to look at it; nothing of a report that was refused, whose error says it."""
    from mm_mlflow import experiment

    click.echo("")
    if run_id:
        click.echo(console.where_to_look(store, run_id, experiment.report_store(store, into)))
    elif out is not None:
        click.echo(f"Written to {out}: open index.html")
