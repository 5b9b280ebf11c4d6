"""``mm-mlflow train``: one cell of a design."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mm_mlflow import console
from mm_mlflow.cli.shared import Failed, command, open_design, open_store, print_json
from mm_mlflow.errors import InvalidInput


@command("train", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("design")
@click.option(
    "--set", "levels", multiple=True, metavar="AXIS=LEVEL", help="Other than the default."
)
@click.option(
    "--seed", type=int, required=True, help="The seed of initialisation, order and augmentation."
)
@click.pass_context
def train(
    context: click.Context,
    design: str,
    levels: Sequence[str],
    seed: int,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
) -> None:
    """Train one cell of DESIGN; axes may also be given as --AXIS LEVEL."""
    plan = open_design(design)
    chosen = _levels(levels, context.args)
    if not 0 <= seed < 2**63:
        raise InvalidInput(f"seed {seed} is not allowed: a whole number from 0 to 2**63 - 1")
    cell = plan.cell(chosen, seed)
    from mm_mlflow import runner

    material = runner.prepare(plan)
    store = open_store(tracking_uri, experiment_name, plan, create=True)
    result = runner.train_one(plan, store, material, cell)
    if as_json:
        print_json({"cell": cell.id, "name": cell.label, "run_id": result.run_id,
                     "status": result.status, "error": result.error})  # fmt: skip
    elif result.status == "present":
        click.echo(f"{cell.label} is finished already: run {result.run_id}")
    elif result.status == "trained":
        click.echo(f"{cell.label}: trained in {result.busy:.1f} s, run {result.run_id}")
    if result.status == "failed":
        console.say(f"Error: {cell.label} failed: {result.error} (run {result.run_id})", err=True)
        raise Failed


def _levels(pairs: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Levels from ``--set AXIS=LEVEL`` and from ``--AXIS LEVEL``, which is how ``mlflow run`` appends
    params that an entry point does not declare."""
    found: list[tuple[str, str]] = []
    for pair in pairs:
        axis, equals, level = pair.partition("=")
        if not equals or not axis or not level:
            raise InvalidInput(f"--set {pair!r} is not allowed: --set AXIS=LEVEL is")
        found.append((axis, level))
    words = list(extra)
    while words:
        word = words.pop(0)
        axis, equals, level = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or words):
            raise InvalidInput(f"argument {word!r} is not allowed: --AXIS LEVEL is")
        found.append((axis, level if equals else words.pop(0)))
    levels: dict[str, str] = {}
    for axis, level in found:
        if axis in levels:
            raise InvalidInput(f"axis {axis} is given twice: {levels[axis]} and {level}")
        levels[axis] = level
    return levels
