"""``mm-mlflow reproduce``: the cell of a finished run, trained again and compared."""

from __future__ import annotations

import click

from mm_mlflow import console
from mm_mlflow.cli.shared import Failed, command, print_json


@command("reproduce")
@click.argument("run_id")
def reproduce(
    run_id: str, tracking_uri: str | None, experiment_name: str | None, as_json: bool
) -> None:
    """Train the cell of run RUN_ID again, and compare every metric with what was logged.

    In a new run of the same experiment, whatever --experiment-name says. Exit status 0: all is equal
    to the bit; 1: something differs.
    """
    del experiment_name
    from mm_mlflow import reproduction

    original = reproduction.load(tracking_uri, run_id)
    found = reproduction.reproduce(original, *reproduction.prepare(original))
    if as_json:
        print_json(found.to_dict())
    if found.comparison is None:
        result = found.result
        console.say(f"Error: {result.label} failed: {result.error} (run {result.run_id})", err=True)
    elif not as_json:
        console.tell_comparison(found.comparison)
        console.say(f"Run {found.result.run_id} reproduces run {run_id} ({original.cell.label})")
    if found.comparison is None or not found.comparison.equal:
        raise Failed
