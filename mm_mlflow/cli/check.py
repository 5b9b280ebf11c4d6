"""``mm-mlflow check``: bounds on Δ, as an exit status for pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli import reports
from mm_mlflow.cli.asked import asked as parse_asked
from mm_mlflow.cli.asked import inference_options
from mm_mlflow.cli.shared import Failed, command, print_json
from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.gate import Bound


@command("check")
@click.option(
    "--max", "bounds", multiple=True, metavar="Q/M<=V",
    help="delta_all/accuracy<=0.02; also delta_all_healthy, delta_all_adjusted, delta_all_above_floor.",
)  # fmt: skip
@click.option("--allow-incomplete", is_flag=True, help="Pass though planned runs are missing.")
@inference_options
@reports.run_options
def check(
    bounds: Sequence[str],
    allow_incomplete: bool,
    within: float | None,
    mixed: bool,
    confirm_labels: bool,
    design: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
    **layout: Any,
) -> None:
    """Check that Δ keeps its bounds. Exit status 0: all are kept; 1: not all; 2: bad usage.

    A bound that cannot be judged is not kept. METRIC may hold * and ?. Nothing is written to MLflow.
    """
    from mm_mlflow.gate import check as judge
    from mm_mlflow.gate import parse_bound

    parsed = [parse_bound(text) for text in bounds]
    if not parsed:
        raise InvalidInput(
            "max is missing: give at least one, such as --max 'delta_all/accuracy<=0.02'"
        )
    asked = parse_asked(**layout)
    store, frame, plan = reports.opened(tracking_uri, experiment_name, design, asked, within)
    from mm_mlflow import evidence, experiment
    from mm_mlflow.report import build_report

    metrics = experiment.choose_metrics(frame, [bound.metric for bound in parsed])
    needed = _needed(parsed)
    known = (
        evidence.gather(store, frame, plan, metrics, asked=needed) if needed is not None else None
    )
    report = build_report(
        frame, plan, metrics, mixed=mixed, confirm_labels=confirm_labels, evidence=known
    )
    found = judge(report, parsed, allow_incomplete=allow_incomplete)
    passed = all(one.outcome == "kept" for one in found)
    if as_json:
        checks = [
            {
                "bound": one.bound.text,
                "metric": one.metric,
                "value": one.value,
                "maximum": one.bound.maximum,
                "outcome": one.outcome,
                "reason": one.reason,
            }
            for one in found
        ]
        print_json({"passed": passed, "checks": checks})
    else:
        console.tell_checks(found)
    if not passed:
        raise Failed


def _needed(bounds: Sequence[Bound]) -> str | None:
    """What statistics the bounds are about; None where they are about Δ itself."""
    quantities = {bound.quantity for bound in bounds}
    if "delta_all_above_floor" in quantities:
        return "predictions"
    return "values" if "delta_all_adjusted" in quantities else None
