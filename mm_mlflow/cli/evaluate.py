"""``mm-mlflow evaluate``: interventions that finished runs lack, without training again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import console
from mm_mlflow.cli.shared import Failed, command, open_design, open_store, print_json
from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.backfill import Outcome, RunResult, Work
    from mm_mlflow.design import Design
    from mm_mlflow.request import Request


@command("evaluate", resumes=True)
@click.option(
    "--intervention",
    "interventions",
    multiple=True,
    metavar="SPEC",
    help="As in a design file, '{name: pgd, delta: 0.05}'; may be repeated.",
)
@click.option("--design", metavar="DESIGN", help="Its interventions, and its dataset.")
@click.option("--dataset", metavar="SPEC", help="Measure on these data, '{name: fairface}'.")
@click.option("--label-map", metavar="MAP", help="Its classes as outputs, '{cat: 1, dog: 0}'.")
@click.option("--run", "-r", "runs", multiple=True, metavar="RUN_ID", help="Only this run; repeat.")
@click.option("--model", metavar="NAME", help="Which of the models that a run logged.")
@click.option("--jobs", type=int, metavar="N", help="Local workers  [default: one per processor]")
@click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster at this address.")
@click.option("--trust-pickle", is_flag=True, help="Load other programs' models: runs their code.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def evaluate(
    interventions: Sequence[str],
    design: str | None,
    dataset: str | None,
    label_map: str | None,
    runs: Sequence[str],
    model: str | None,
    jobs: int | None,
    scheduler: str | None,
    trust_pickle: bool,
    dry_run: bool,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
) -> None:
    """Measure FINISHED runs of an experiment by interventions that they lack; nothing is trained.

    Our own runs are measured on the data they were trained for, those of other programs on --dataset.
    """
    began = time.time()
    plan_of = open_design(design) if design else None
    request = _request(interventions, plan_of, dataset, label_map)
    store = open_store(tracking_uri, experiment_name, plan_of)
    from mm_mlflow import backfill, engine, registry
    from mm_mlflow.design import Keep
    from mm_mlflow.tracking import Consent

    engine.check(jobs, scheduler)
    work = backfill.prepare(
        store,
        request,
        only=runs,
        model=model,
        consent=Consent(pickle=trust_pickle, code=registry.trusted() is not None),
        keep=plan_of.keep if plan_of else Keep(),
    )
    if dry_run:
        _tell(work, as_json)
        return
    shown = console.Progress(began, quiet=as_json)
    with shown:
        outcome = backfill.run(
            work,
            jobs=jobs,
            scheduler=scheduler,
            on_start=lambda work: shown.start(len(work.jobs), _headline(work), _notes(work)),
            on_result=shown.advance,
        )
    if as_json:
        print_json(_document(outcome))
    else:
        console.tell_evaluation(outcome)
    if not outcome.good:
        raise Failed


def _request(
    interventions: Sequence[str], design: Design | None, dataset: str | None, label_map: str | None
) -> Request:
    from mm_mlflow import datasets, request

    if bool(interventions) == (design is not None):
        raise InvalidInput(
            "evaluate needs --intervention SPEC (any number of them) or --design DESIGN"
        )
    if label_map is not None and dataset is None and design is None:
        raise InvalidInput("--label-map needs --dataset: the data whose classes it names")
    named = datasets.bound(request.parse_dataset(dataset)) if dataset else None
    specs = (
        design.interventions
        if design is not None
        else tuple(map(datasets.bound_intervention, request.parse_interventions(interventions)))
    )
    return request.Request(
        interventions=specs,
        dataset=named or (design.dataset if design is not None else None),
        label_map=request.parse_label_map(label_map) if label_map is not None else None,
    )


def _headline(work: Work) -> str:
    settled = Counter(result.status for result in work.settled)
    text = (
        f"{len(work.jobs)} runs to evaluate, {settled['present']} lack nothing, "
        f"{settled['impossible']} not possible"
    )
    if work.left_out:
        counts = ", ".join(f"{number} {status}" for status, number in sorted(work.left_out.items()))
        text += f"; left out: {counts}"
    return text


def _notes(work: Work) -> list[str]:
    trusted = sum(job.stored is not None and job.consent.pickle for job in work.jobs)
    if not trusted:
        return []
    return [f"--trust-pickle: loading the models of {trusted} runs runs whatever code they hold"]


def _tell(work: Work, as_json: bool) -> None:
    if as_json:
        todo = [
            {
                "run_id": job.run_id,
                "name": job.label,
                "metrics": list(job.keys),
                "skipped": dict(job.skipped),
            }
            for job in work.jobs
        ]
        print_json({"todo": todo, **_settled(work.settled), "left_out": dict(work.left_out)})
        return
    for job in work.jobs:
        console.say(f"{job.label}: {', '.join(job.keys)}")
    for line in console.not_taken(work.settled):
        console.say(line)
    click.echo(_headline(work))


def _document(outcome: Outcome) -> dict[str, Any]:
    store = outcome.work.store
    return {
        "experiment": {"id": store.experiment.id, "name": store.experiment.name},
        "evaluation_run_id": outcome.run_id,
        "evaluated": [
            {**_named(result), "metrics": list(result.metrics), "skipped": dict(result.skipped)}
            for result in outcome.of("evaluated")
        ],
        **_settled(outcome.results),
        "failed": [{**_named(result), "error": result.error} for result in outcome.of("failed")],
        "left_out": dict(outcome.work.left_out),
    }


def _settled(results: Sequence[RunResult]) -> dict[str, Any]:
    return {
        "present": [
            {**_named(result), "skipped": dict(result.skipped)}
            for result in results
            if result.status == "present"
        ],
        "impossible": [
            {**_named(result), "reason": result.error}
            for result in results
            if result.status == "impossible"
        ],
    }


def _named(result: RunResult) -> dict[str, str]:
    return {"run_id": result.run_id, "name": result.label}
