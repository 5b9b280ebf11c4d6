"""``mm-mlflow status``: what is finished, failed, missing."""

from __future__ import annotations

import click

from mm_mlflow.cli.shared import command, open_design, open_store, print_json
from mm_mlflow.console import say


@command("status")
@click.argument("design", required=False)
def status(
    design: str | None, tracking_uri: str | None, experiment_name: str | None, as_json: bool
) -> None:
    """Which planned cells are finished, failed, missing; by DESIGN, or by the newest sweep's design."""
    from mm_mlflow import experiment

    plan = open_design(design) if design else None
    store = open_store(tracking_uri, experiment_name, plan)
    frame, plan = experiment.read_planned(store, plan, records=False)
    document = experiment.status(frame)
    if as_json:
        print_json(document)
        return
    say(f"experiment {store.experiment.name!r} by design {plan.name!r}")
    for word, cells in document.items():
        click.echo(f"{word:<10} {len(cells):>6}  {_STATUS_WORDS[word]}")
    for word in ("failed", "missing"):
        for cell in document[word]:
            attempts = cell.get("attempts", [])
            tried = ", ".join(f"{item['status']} {item['run_id']}" for item in attempts)
            say(f"{word}: {cell['name']}" + (f" ({tried})" if tried else ""))
    for run in document["extra"]:
        say(f"extra: {run['name']} (run {run['run_id']})")
    names = {cell["cell"]: cell["name"] for cell in document["planned"]}
    for run in document["foreign"]:
        state = f"{run['status']}, adopted" if run["adopted"] else run["status"]
        cell = names[run["cell"]]
        say(f"foreign: {cell}: {run['name']} (run {run['run_id']}, {state})")
    for item in document["duplicates"]:
        others = ", ".join(item["others"])
        say(f"duplicate: cell {item['cell'][:12]} counts run {item['counted']}, not {others}")


_STATUS_WORDS = {
    "planned": "cells of the design",
    "finished": "have a finished run that counts",
    "failed": "have failed runs only: the next sweep tries them again",
    "missing": "have no finished run",
    "extra": "cells here that the design does not plan, or trained on other data",
    "foreign": "runs of other programs with the params of a planned cell; `sweep --adopt-foreign` counts "
    "those that are FINISHED",
    "duplicates": "cells with several finished runs: the latest counts",
}
