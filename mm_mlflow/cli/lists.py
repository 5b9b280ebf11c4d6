"""``mm-mlflow datasets`` and ``interventions``: names that designs may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from mm_mlflow import registry
from mm_mlflow.cli.shared import command, print_json


@command("datasets")
def datasets(as_json: bool, **_: Any) -> None:
    """List the datasets that designs may name."""
    from mm_mlflow.datasets import DATASETS, GROUP

    _list(
        "dataset",
        DATASETS,
        GROUP,
        as_json,
        lambda cls: cls.summary,
        registry.names(DATASETS, GROUP),
    )


@command("interventions")
def interventions(as_json: bool, **_: Any) -> None:
    """List the interventions that designs may name."""
    from mm_mlflow.evaluation import GROUP, INTERVENTIONS

    def first_line(cls: type) -> str:
        return (cls.__doc__ or "").strip().partition("\n")[0]

    known = registry.names(INTERVENTIONS, GROUP)
    _list("intervention", INTERVENTIONS, GROUP, as_json, first_line, known)


def _list(
    kind: str,
    table: Mapping[str, str],
    group: str,
    as_json: bool,
    describe: Callable[[Any], str],
    names: Sequence[str],
) -> None:
    rows = {name: describe(registry.resolve(kind, name, table, group)) for name in names}
    if as_json:
        print_json([{"name": name, "summary": summary} for name, summary in rows.items()])
        return
    width = max(map(len, rows), default=0)
    for name, summary in rows.items():
        click.echo(f"{name:<{width}}  {summary}")
