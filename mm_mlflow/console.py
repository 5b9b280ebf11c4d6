"""What people read on the terminal: progress, summaries, where to look."""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from mm_mlflow.backfill import Outcome, RunResult
    from mm_mlflow.cell import Cell
    from mm_mlflow.change import Change
    from mm_mlflow.comparison import Comparison
    from mm_mlflow.design import Design
    from mm_mlflow.gate import Checked
    from mm_mlflow.jobs import Material
    from mm_mlflow.plan import Plan
    from mm_mlflow.report import Report
    from mm_mlflow.selection import Selection
    from mm_mlflow.sweeping import SweepResult
    from mm_mlflow.tracking import Store


def say(text: object, *, err: bool = False) -> None:
    """One line without control characters: names are of other people, and a terminal would obey them."""
    from mm_mlflow.render.words import clean

    click.echo(clean(text), err=err)


class Ended(Protocol):
    """What became of one piece of work: a cell, or a run that was evaluated."""

    @property
    def label(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def busy(self) -> float: ...
    @property
    def error(self) -> str | None: ...


class Progress:
    """Work done, failed, left, and time to go: a bar on a terminal, else a line for each piece."""

    def __init__(self, began: float, *, quiet: bool) -> None:
        self.began = began
        self.quiet = quiet
        self.total = self.done = self.failed = 0
        self.first: float | None = None
        self.bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def start(self, total: int, headline: str, notes: Sequence[str] = ()) -> None:
        """Say what is to be done, and show the bar where there is a terminal."""
        self.total = total
        if self.quiet:
            return
        for note in notes:
            say(f"Note: {note}", err=True)
        click.echo(headline)
        if self.total and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self.bar = progress.Progress(
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[failed]} failed, {task.fields[left]}"),
                console=Console(stderr=True),
            )
            self.bar.start()
            self.bar.add_task("work", total=self.total, failed=0, left="waiting for workers")

    def start_cells(self, todo: Sequence[Cell], planned: int, notes: Sequence[str]) -> None:
        """As :meth:`start`, for the cells of a design."""
        done = planned - len(todo)
        self.start(
            len(todo), f"{planned} cells planned, {done} finished, {len(todo)} to train", notes
        )

    def advance(self, result: Ended) -> None:
        """One more piece has ended."""
        self.done += 1
        self.failed += result.status == "failed"
        if self.quiet:
            return
        if self.first is None:
            self.first = result.started
            said = f"start-up took {self.first - self.began:.1f} s"
            if self.bar is None:
                click.echo(said, err=True)
            else:
                self.bar.console.print(said)
        left = (time.time() - self.first) / self.done * (self.total - self.done)
        remaining = f"about {left:.0f} s left" if self.done < self.total else "done"
        if self.bar is not None:
            self.bar.update(0, completed=self.done, failed=self.failed, left=remaining)
            return
        what = result.error or f"{result.status} in {result.busy:.1f} s"
        say(f"{self.done}/{self.total} {result.label}: {what}; {self.failed} failed, {remaining}")


def run_design(
    design: Design,
    store: Store,
    material: Material,
    *,
    began: float,
    quiet: bool,
    jobs: int | None,
    scheduler: str | None,
    smoke: bool,
    adopt: bool | None,
) -> SweepResult:
    """As :func:`mm_mlflow.sweeping.run_design`, and tell people how it goes, unless ``quiet``.

    ``began`` (seconds since 1970) is when they started to wait.
    """
    from mm_mlflow import sweeping

    with Progress(began, quiet=quiet) as shown:
        result = sweeping.run_design(
            design,
            store,
            material,
            jobs=jobs,
            scheduler=scheduler,
            smoke=smoke,
            adopt=adopt,
            on_start=shown.start_cells,
            on_result=shown.advance,
        )
    if not quiet:
        tell_sweep(result)
    return result


def tell_sweep(result: SweepResult) -> None:
    """What a sweep did, and what failed and why."""
    trained = sum(cell.status == "trained" for cell in result.cells)
    present = result.planned - trained - len(result.failed)
    text = f"{result.planned} cells: {trained} trained, {present} were finished, {len(result.failed)} failed"
    if result.killed:
        text += f"; {result.killed} abandoned attempts marked KILLED"
    click.echo(text)
    for cell in result.failed:
        say(f"failed: {cell.label}: {cell.error} (run {cell.run_id})", err=True)


def tell_evaluation(outcome: Outcome) -> None:
    """What an ``evaluate`` call did, and which runs it could not measure and why."""
    count = {
        word: len(outcome.of(word)) for word in ("evaluated", "present", "impossible", "failed")
    }
    click.echo(
        f"{len(outcome.results)} runs: {count['evaluated']} evaluated, {count['present']} lacked "
        f"nothing, {count['impossible']} not possible, {count['failed']} failed"
    )
    for line in not_taken(outcome.results):
        say(line)
    for result in outcome.of("failed"):
        say(f"failed: {result.label}: {result.error} (run {result.run_id})", err=True)


def not_taken(results: Sequence[RunResult]) -> list[str]:
    """Lines about metrics that were not taken, and why, with the runs of one reason together."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.status == "impossible":
            reasons.setdefault(f"not possible: {result.error}", []).append(result.label)
        elif result.skipped:
            for key, reason in result.skipped.items():
                reasons.setdefault(f"not taken: {key}: {reason}", []).append(result.label)
    return [
        f"{reason} ({labels[0] if len(labels) == 1 else f'{len(labels)} runs: {_some(labels)}'})"
        for reason, labels in reasons.items()
    ]


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")


def tell_report(report: Report) -> None:
    """The summary over metrics, and the notes."""
    from mm_mlflow.render import verdicts
    from mm_mlflow.render.index import bound, by_chance, mean_sd, ratio

    header = ("metric", "examples", "runs", "mean ± sd", "Δall", "by chance", "× accuracy's")
    # Runs of other programs tell neither their examples nor which metric is their accuracy.
    known = [True, any(row.n_examples for row in report.summary), True, True, True]
    known.append(any(row.delta_all_by_chance is not None for row in report.summary))
    known.append(any(row.ratio is not None for row in report.summary))
    rows = [header]
    for row in report.summary:
        examples, delta = str(row.n_examples or "–"), bound(row, row.delta_all)
        numbers = (str(row.n_runs), mean_sd(row), delta, by_chance(row), ratio(row))
        rows.append((row.metric, examples, *numbers))
    _table([list(itertools.compress(row, known)) for row in rows])
    if any(row.unit == "fraction" for row in report.summary):
        click.echo("Values, sd and Δ in percent and points where a metric is an accuracy.")
    if known[-2]:
        click.echo(verdicts.BY_CHANCE)
    for sheet in report.sheets:
        if said := verdicts.short(sheet):
            say(f"{sheet.metric}: {said}")
    if report.judged is not None:
        click.echo(verdicts.judged(report.judged))
    for line in (*_inferred(report.plan), *report.notes):
        say(line)


def _inferred(plan: Plan) -> Iterator[str]:
    """What the params of runs were taken for, so that nobody has to guess."""
    if not plan.inferred:
        return
    from mm_mlflow.render.words import clean, clip
    from mm_mlflow.report import some

    for axis, levels in plan.axes.items():
        shown = some([clip(clean(level), 40) for level in levels], 8)
        yield f"axis {clean(axis)}: {shown}"
    if plan.tables:
        columns = some([clip(clean(column), 40) for column in plan.columns], 8)
        yield f"columns: {clean(plan.seed_axis)} ({columns})"
    for word, reasons in (("candidate axes", plan.candidates), ("no axes", plan.ignored)):
        if reasons:
            named = [f"{clip(clean(name), 60)} ({reason})" for name, reason in reasons.items()]
            yield f"{word}: {some(named, 8)}"


def _table(texts: Sequence[Sequence[str]]) -> None:
    from mm_mlflow.render.words import clean

    rows = [[clean(text) for text in row] for row in texts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        click.echo("  ".join(cells))


def tell_selection(selection: Selection) -> None:
    """What was selected, and what that does to every metric."""
    from mm_mlflow.render import selection_words as words_of
    from mm_mlflow.render.selection import chosen, parts, verdicts
    from mm_mlflow.report import some

    for note in selection.notes:
        say(note)
    for choice in selection.choices:
        say(chosen(selection, choice) + (f"; {choice.reason}" if choice.reason else ""))
        effects = words_of.effects(choice)
        _table([effects.flat, *effects.rows])
        for text in (*verdicts(choice), *parts(choice)):
            say(text)
        if halves := words_of.halves(choice):
            _table([halves.flat, *halves.rows])
        say("Selected: " + (some(choice.labels) or "none"))
    if regrets := words_of.regrets(selection):
        click.echo("Choosing by accuracy alone:")
        _table([regrets.flat, *regrets.rows])
    for text in (words_of.judged(selection), words_of.unhalved(selection)):
        if text:
            say(text)
    click.echo(
        "Values and Δ in percent and points where a metric is an accuracy. random: mean Δ of random "
        "subsets of the same size."
    )


def tell_comparison(comparison: Comparison) -> None:
    """A reproduction beside its original, and what that means."""
    from mm_mlflow.render.comparison import HEAD, row

    _table([HEAD, *(row(pair) for pair in comparison.pairs)])
    for sentence in comparison.sentences():
        say(sentence)


def tell_change(change: Change) -> None:
    """What changed between two experiments: tables, then sentences."""
    from mm_mlflow.render import change as shown

    say(f"A: {change.a.experiment}; B: {change.b.experiment}. {shown.compared(change)}")
    for note in [*shown.left_out(change), *change.notes]:
        say(note)
    for head, row, told in (
        (shown.SPREAD_HEAD, shown.spread_row, shown.spread_sentences(change)),
        (shown.MEAN_HEAD, shown.mean_row, shown.mean_sentences(change)),
    ):
        if change.metrics:
            click.echo("")
            _table([head, *map(row, change.metrics)])
            for sentence in told:
                say(sentence)
    click.echo("")
    for text in (shown.lead(change), shown.swapped(change), shown.units(change), shown.KEY):
        if text:
            say(text)
    for item in change.not_compared:
        say(f"Not compared: {item.metric}: {item.reason}")


def tell_checks(checks: Sequence[Checked]) -> None:
    """Every bound, whether it is kept, and by how much."""
    for one in checks:
        limit = f"{one.bound.quantity}/{one.metric}"
        if one.value is None:
            say(f"unknown: {limit}: {one.reason} (at most {one.bound.maximum:g} is asked)")
            continue
        sign = "<=" if one.bound.keeps(one.value) else ">"
        reason = f" ({one.reason})" if one.reason else ""
        say(f"{one.outcome}: {limit} {one.value:.6g} {sign} {one.bound.maximum:g}{reason}")
    kept = sum(one.outcome == "kept" for one in checks)
    click.echo(f"{kept} of {len(checks)} bounds are kept")


def where_to_look(store: Store, run_id: str, reports: Store | None = None) -> str:
    """How to open a report run, which lies in ``reports`` (else in ``store``), and the runs of ``store``
    that it is about, in MLflow's UI."""
    from mm_mlflow import tracking

    reports = reports or store
    pages = [
        ("Report", tracking.report_page(reports, run_id)),
        ("Runs", tracking.runs_page(store)),
        ("Charts", tracking.runs_page(store, charts=True)),
    ]
    if store.uri.startswith(("http://", "https://")):
        return "\n".join(f"{name}: {store.uri.rstrip('/')}/{page}" for name, page in pages)
    here = f"sqlite:///{Path.cwd()}/"
    uri = f"sqlite:///{store.uri.removeprefix(here)}" if store.uri.startswith(here) else store.uri
    return "\n".join(
        [
            f"Report: run {run_id} of experiment {reports.experiment.name!r}. To look at it:",
            f"  mlflow server --backend-store-uri {shlex.quote(uri)}",
            "  then open",
            *(f"  http://127.0.0.1:5000/{page}  ({name.lower()})" for name, page in pages),
        ]
    )
