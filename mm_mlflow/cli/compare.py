"""``mm-mlflow compare``: two experiments, and what became more arbitrary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli.asked import asked as parse_asked
from mm_mlflow.cli.asked import inference_options
from mm_mlflow.cli.reports import check_destination
from mm_mlflow.cli.shared import command, open_store, print_json
from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.frame import Frame


@command("compare", names_experiment=False)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--metric", "metrics", multiple=True, metavar="M", help="Only these; * and ? allowed."
)
@inference_options
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="Write a page, Markdown and JSON: into a new folder, an empty one, or over an earlier report.",
)  # fmt: skip
def compare(
    a: str,
    b: str,
    metrics: Sequence[str],
    out: Path | None,
    tracking_uri: str | None,
    as_json: bool,
    **layout: Any,
) -> None:
    """Compare experiments A and B: what became more arbitrary, metric by metric.

    Spread within configurations and means, paired by the configurations that both have. Nothing is written
    to MLflow; --out keeps what is printed, and more.
    """
    asked = parse_asked(**layout)
    check_destination(out)
    if a == b:
        raise InvalidInput(f"B {b!r} is not allowed: it is A; another experiment is")
    from mm_mlflow import change, experiment
    from mm_mlflow.render.change import document

    read = [experiment.read(open_store(tracking_uri, name, None), asked=asked) for name in (a, b)]
    (frame_a, plan_a), (frame_b, plan_b) = read
    chosen = _metrics((frame_a, frame_b), metrics)
    found = change.compare(frame_a, plan_a, frame_b, plan_b, chosen)
    if out is not None:
        experiment.save(out, found)
    if as_json:
        print_json(document(found))
        return
    console.tell_change(found)
    if out is not None:
        click.echo(f"\nWritten to {out}: open index.html")


def _metrics(frames: Sequence[Frame], patterns: Sequence[str]) -> list[str]:
    """Metric keys that match in either experiment; none where all are wanted.

    Raises:
        InvalidInput: an experiment without a finished cell; a pattern that matches in neither.
    """
    from mm_mlflow.experiment import choose_metrics

    for frame in frames:
        choose_metrics(frame, ())
    chosen: dict[str, None] = {}
    for pattern in patterns:
        refused: list[InvalidInput] = []
        for frame in frames:
            try:
                chosen.update(dict.fromkeys(choose_metrics(frame, [pattern])))
            except InvalidInput as error:
                refused.append(error)
        if len(refused) == len(frames):
            raise refused[0]
    return list(chosen)
