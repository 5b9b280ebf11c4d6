"""The ``mm-mlflow`` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import __version__, console, registry
from mm_mlflow.errors import InvalidInput, MultiplicityError, UnknownExperiment

if TYPE_CHECKING:
    from mm_mlflow.design import Design
    from mm_mlflow.registration import Loaded
    from mm_mlflow.runner import Material, SweepResult
    from mm_mlflow.tracking import Store


class _Failed(Exception):
    """Some of the work failed: what and why has been said."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mm-mlflow")
def main() -> None:
    """Model multiplicity in MLflow: train a grid of models, measure them, build multiplicity sheets."""


def command(name: str, **settings: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A subcommand with the options that all share, and errors as one line."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, debug: bool, trust_code: bool, **kwargs: Any) -> None:
            _show_warnings()
            try:
                with registry.trusting(str(Path.cwd()) if trust_code else None):
                    function(*args, **kwargs)
            except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
                raise
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told in one line
                if debug:
                    traceback.print_exc()
                elif line := _one_line(error):
                    click.echo(line, err=True)
                sys.exit(_exit_status(error))

        options = [
            click.option(
                "--tracking-uri", metavar="URI", help="MLflow store  [default: MLflow's own]"
            ),
            click.option("--experiment-name", metavar="NAME", help="MLflow experiment"),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
            click.option(
                "--trust-code", is_flag=True, help="Names may be import paths: runs their code."
            ),
            click.option("--debug", is_flag=True, help="Show a traceback with an error."),
        ]
        for option in reversed(options):
            guarded = option(guarded)
        return main.command(name, **settings)(guarded)

    return decorate


def _exit_status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130  # as shells have it: 128 + SIGINT
    return 2 if isinstance(error, InvalidInput) else 1


def _one_line(error: BaseException) -> str:
    if isinstance(error, _Failed):
        return ""
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted: run it again to go on where it stopped."
    text = " ".join(str(error).split())[:1000]
    if isinstance(error, MultiplicityError):
        return f"Error: {text}"
    return f"Error: {type(error).__name__}: {text} (--debug shows where)"


# ---- training ----


@command("sweep")
@click.argument("design")
@click.option("--jobs", type=int, metavar="N", help="Local workers  [default: one per processor]")
@click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster at this address.")
@click.option("--smoke", is_flag=True, help="Every level once, with one seed.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--sheet", "with_sheet", is_flag=True, help="Write the sheets when all is trained.")
def sweep(
    design: str,
    jobs: int | None,
    scheduler: str | None,
    smoke: bool,
    dry_run: bool,
    with_sheet: bool,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
) -> None:
    """Train every cell of DESIGN (a design.yaml or its folder) that has no finished run yet."""
    began = time.time()
    plan = _design(design)
    plan = plan.smoke() if smoke else plan
    from mm_mlflow import engine, runner

    engine.check(jobs, scheduler)
    material = runner.prepare(plan)
    if dry_run:
        _dry_run(plan, material, tracking_uri, experiment_name, jobs, as_json)
        return
    store = _store(tracking_uri, experiment_name, plan, create=True)
    shown = console.Progress(began, quiet=as_json)
    with shown:
        result = runner.run_design(
            plan,
            store,
            material,
            jobs=jobs,
            scheduler=scheduler,
            smoke=smoke,
            on_start=shown.start,
            on_result=shown.advance,
        )
    if not as_json:
        console.tell_sweep(result)
    document = _sweep_document(result)
    if with_sheet and len(result.failed) < result.planned:
        document["report_run_id"] = _publish(store, plan, quiet=as_json, of_sweep=True)
    if as_json:
        _print_json(document)
    if result.failed:
        raise _Failed


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
    plan = _design(design)
    chosen = _levels(levels, context.args)
    if not 0 <= seed < 2**63:
        raise InvalidInput(f"seed {seed} is not allowed: a whole number from 0 to 2**63 - 1")
    cell = plan.cell(chosen, seed)
    from mm_mlflow import runner

    material = runner.prepare(plan)
    store = _store(tracking_uri, experiment_name, plan, create=True)
    result = runner.train_one(plan, store, material, cell)
    if as_json:
        _print_json({"cell": cell.id, "name": cell.label, "run_id": result.run_id,
                     "status": result.status, "error": result.error})  # fmt: skip
    elif result.status == "present":
        click.echo(f"{cell.label} is finished already: run {result.run_id}")
    elif result.status == "trained":
        click.echo(f"{cell.label}: trained in {result.busy:.1f} s, run {result.run_id}")
    if result.status == "failed":
        click.echo(f"Error: {cell.label} failed: {result.error} (run {result.run_id})", err=True)
        raise _Failed


# ---- reading ----


@command("status")
@click.argument("design", required=False)
def status(
    design: str | None, tracking_uri: str | None, experiment_name: str | None, as_json: bool
) -> None:
    """Which planned cells are finished, failed, missing; by DESIGN, or by the newest sweep's design."""
    from mm_mlflow import experiment

    plan = _design(design) if design else None
    store = _store(tracking_uri, experiment_name, plan)
    frame, plan = experiment.read(store, plan, records=False)
    document = experiment.status(frame)
    if as_json:
        _print_json(document)
        return
    click.echo(f"experiment {store.experiment.name!r} by design {plan.name!r}")
    for word, cells in document.items():
        click.echo(f"{word:<10} {len(cells):>6}  {_STATUS_WORDS[word]}")
    for word in ("failed", "missing"):
        for cell in document[word]:
            attempts = cell.get("attempts", [])
            tried = ", ".join(f"{item['status']} {item['run_id']}" for item in attempts)
            click.echo(f"{word}: {cell['name']}" + (f" ({tried})" if tried else ""))
    for word in ("extra", "foreign"):
        for run in document[word]:
            click.echo(f"{word}: {run['name']} (run {run['run_id']})")
    for item in document["duplicates"]:
        others = ", ".join(item["others"])
        click.echo(
            f"duplicate: cell {item['cell'][:12]} counts run {item['counted']}, not {others}"
        )


_STATUS_WORDS = {
    "planned": "cells of the design",
    "finished": "have a finished run that counts",
    "failed": "have failed runs only: the next sweep tries them again",
    "missing": "have no finished run",
    "extra": "cells here that the design does not plan, or trained on other data",
    "foreign": "runs of other programs with the params of a planned cell",
    "duplicates": "cells with several finished runs: the latest counts",
}


@command("sheet")
@click.option("--design", metavar="DESIGN", help="The plan  [default: the newest sweep's design]")
@click.option(
    "--metric", "metrics", multiple=True, metavar="M", help="Only these; * and ? allowed."
)
@click.option("--axis", "axes", multiple=True, metavar="A", help="Only the tables of these axes.")
@click.option("--within", type=float, metavar="E", help="Only runs within E of the best accuracy.")
@click.option("--mixed", is_flag=True, help="Mix runs measured with different parameters.")
@click.option(
    "--confirm-labels", is_flag=True, help="Show OOD data whose two classes look swapped."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write files, not a run."
)
def sheet(
    design: str | None,
    metrics: Sequence[str],
    axes: Sequence[str],
    within: float | None,
    mixed: bool,
    confirm_labels: bool,
    out: Path | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
) -> None:
    """Build multiplicity sheets from the runs of an experiment, as a report run."""
    plan = _design(design) if design else None
    store = _store(tracking_uri, experiment_name, plan)
    _publish(
        store,
        plan,
        quiet=False,
        out=out,
        as_json=as_json,
        metrics=metrics,
        axes=axes,
        within=within,
        mixed=mixed,
        confirm_labels=confirm_labels,
    )


@command("select")
@click.option("--top", "top", multiple=True, metavar="K%", help="The best K% of every metric.")
@click.option("--pareto", is_flag=True, help="The Pareto front of the metrics.")
@click.option("--require", "require", multiple=True, metavar="'M>=V'", help="Thresholds to keep.")
@click.option("--on", "on", multiple=True, metavar="M", help="Select on these; * and ? allowed.")
@click.option(
    "--report", "shown", multiple=True, metavar="M",
    help="Show these before and after  [default: all others]",
)  # fmt: skip
@click.option("--within", type=float, metavar="E", help="Only runs within E of the best accuracy.")
@click.option("--mixed", is_flag=True, help="Mix runs measured with different parameters.")
@click.option("--confirm-labels", is_flag=True, help="Use OOD data whose two classes look swapped.")
@click.option("--register", metavar="NAME", help="Register the selected models under this name.")
@click.option("--design", metavar="DESIGN", help="The plan  [default: the newest sweep's design]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write files, not a run."
)
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
    tracking_uri: str | None,
    experiment_name: str | None,
    as_json: bool,
) -> None:
    """Select models on some metrics, and show what that does to others.

    Without --top, --pareto and --require: what the design's selection says.
    """
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
    plan = _design(design) if design else None
    store = _store(tracking_uri, experiment_name, plan)
    frame, plan = experiment.read(store, plan)
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
    run_id, versions = None, []
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
        }
        run_id = experiment.publish_selection(store, selection, plan, arguments)
        if register is not None:
            versions = registration.register(store, run_id, register, loaded)
    if as_json:
        from mm_mlflow.render.json import dump
        from mm_mlflow.render.selection import document

        chosen = [set(choice.run_ids) for choice in selection.choices]
        selected = [run for run in selection.cells["run_id"] if all(run in ids for ids in chosen)]
        _print_json(
            {"selected": selected, "report_run_id": run_id, "versions": versions}
            | json.loads(dump(document(selection)))
        )
        return
    console.tell_selection(selection)
    for version in versions[-1:]:
        number = len(versions)
        click.echo(f"{number} models registered as {register!r}, versions up to {version}")
    click.echo("")
    click.echo(
        console.where_to_look(store, run_id) if run_id else f"Written to {out}: open index.html"
    )


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
        return (cls.__doc__ or "").strip().splitlines()[0]

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
        _print_json([{"name": name, "summary": summary} for name, summary in rows.items()])
        return
    width = max(map(len, rows), default=0)
    for name, summary in rows.items():
        click.echo(f"{name:<{width}}  {summary}")


# ---- shared by commands ----


def _show_warnings() -> None:
    """What this package warns of goes to standard error; other packages keep their own ways."""
    logger = logging.getLogger("mm_mlflow")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("Note: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _design(path: str) -> Design:
    from mm_mlflow.datasets import bind
    from mm_mlflow.design import Design

    return bind(Design.load(path))


def _store(
    uri: str | None, experiment_name: str | None, design: Design | None, create: bool = False
) -> Store:
    from mm_mlflow import tracking

    return tracking.open_store(uri, experiment_name, design.name if design else None, create=create)


def _levels(pairs: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Levels from ``--set AXIS=LEVEL`` and from ``--AXIS LEVEL``, which is how ``mlflow run`` appends
    params that an entry point does not declare."""
    levels: dict[str, str] = {}
    for pair in pairs:
        axis, equals, level = pair.partition("=")
        if not equals or not axis or not level:
            raise InvalidInput(f"--set {pair!r} is not allowed: --set AXIS=LEVEL is")
        levels[axis] = level
    words = list(extra)
    while words:
        word = words.pop(0)
        axis, equals, level = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or words):
            raise InvalidInput(f"argument {word!r} is not allowed: --AXIS LEVEL is")
        levels[axis] = level if equals else words.pop(0)
    return levels


def _publish(
    store: Store,
    design: Design | None,
    *,
    quiet: bool,
    out: Path | None = None,
    as_json: bool = False,
    metrics: Sequence[str] = (),
    axes: Sequence[str] = (),
    within: float | None = None,
    mixed: bool = False,
    confirm_labels: bool = False,
    of_sweep: bool = False,
) -> str | None:
    from mm_mlflow import experiment
    from mm_mlflow.report import build_report

    explicit = design is not None and not of_sweep
    frame, design = experiment.read(store, design)
    if within is not None:
        frame = frame.near_best(within)
    chosen = experiment.choose_metrics(frame, metrics)
    report = build_report(
        frame,
        design,
        chosen if metrics else (),
        axes=axes,
        mixed=mixed,
        confirm_labels=confirm_labels,
    )
    asked = {
        "metric": metrics,
        "axis": axes,
        "within": within,
        "mixed": mixed,
        "confirm_labels": confirm_labels,
    }
    arguments = {key: value for key, value in asked.items() if value not in ((), None, False)}
    if explicit:
        arguments["design"] = design.id
    run_id = None
    if out is None:
        run_id = experiment.publish(store, report, arguments)
    else:
        experiment.save(out, report)
    if as_json:
        reference = {"id": store.experiment.id, "name": store.experiment.name}
        sheets = [sheet.to_dict() for sheet in report.sheets]
        _print_json({"experiment": reference, "report_run_id": run_id, "sheets": sheets})
    elif not quiet:
        console.tell_report(report)
        click.echo("")
        click.echo(
            console.where_to_look(store, run_id) if run_id else f"Written to {out}: open index.html"
        )
    return run_id


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def _sweep_document(result: SweepResult) -> dict[str, Any]:
    return {
        "experiment": {"id": result.store.experiment.id, "name": result.store.experiment.name},
        "sweep_run_id": result.run_id,
        "planned": result.planned,
        "trained": [cell.run_id for cell in result.cells if cell.status == "trained"],
        "failed": [
            {"name": cell.label, "run_id": cell.run_id, "error": cell.error}
            for cell in result.failed
        ],
        "notes": list(result.notes),
    }


def _dry_run(
    plan: Design,
    material: Material,
    uri: str | None,
    experiment_name: str | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    from mm_mlflow import engine, estimate, tracking

    try:
        store = _store(uri, experiment_name, plan)
        runs = tracking.read_runs(store)
    except UnknownExperiment:  # everything is to be done
        runs = []
    forecast = estimate.forecast(plan, material, runs, jobs or engine.default_jobs())
    if as_json:
        _print_json(forecast.to_dict())
        return
    for cell in forecast.todo:
        click.echo(cell.label)
    for note in forecast.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(forecast.sentence())
