"""What all commands share: their common options, errors as one line, where the work is."""

from __future__ import annotations

import functools
import io
import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow import __version__, registry
from mm_mlflow.errors import InvalidInput, MultiplicityError

if TYPE_CHECKING:
    from mm_mlflow.design import Design
    from mm_mlflow.tracking import Store


class Failed(Exception):
    """Some of the work failed: what and why has been said."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mm-mlflow")
def main() -> None:
    """Model multiplicity in MLflow: train a grid of models, measure them, build multiplicity sheets."""


_EXPERIMENT = click.option("--experiment-name", metavar="NAME", help="MLflow experiment")


def command(
    name: str, *, resumes: bool = False, names_experiment: bool = True, **settings: Any
) -> Callable[[Callable[..., None]], click.Command]:
    """A subcommand with the options that all share, and errors as one line.

    ``resumes``: interrupted and run again, it goes on where it stopped. ``names_experiment``: it works in
    the experiment that ``--experiment-name`` names.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, debug: bool, trust_code: bool, **kwargs: Any) -> None:
            _show_warnings()
            _print_in_any_encoding()
            try:
                with registry.trusting(str(Path.cwd()) if trust_code else None):
                    function(*args, **kwargs)
            except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
                raise
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told in one line
                if debug:
                    traceback.print_exc()
                elif line := _one_line(error, resumes):
                    click.echo(line, err=True)
                sys.exit(_exit_status(error))

        options = [
            click.option(
                "--tracking-uri", metavar="URI", help="MLflow store  [default: MLflow's own]"
            ),
            *([_EXPERIMENT] if names_experiment else []),
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


def _one_line(error: BaseException, resumes: bool) -> str:
    if isinstance(error, Failed):
        return ""
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted" + (": run it again to go on where it stopped." if resumes else ".")
    text = _plain(str(error))[:1000]
    if isinstance(error, MultiplicityError):
        return f"Error: {text}"
    return f"Error: {type(error).__name__}: {text} (--debug shows where)"


def _plain(text: str) -> str:
    """On one line, without what a terminal would obey: texts quote names of other people."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class _Note(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"Note: {_plain(record.getMessage())}"


def _show_warnings() -> None:
    """What this package warns of goes to standard error; other packages keep their own ways."""
    logger = logging.getLogger("mm_mlflow")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Note())
        logger.addHandler(handler)
        logger.propagate = False


def _print_in_any_encoding() -> None:
    """A terminal that has no Δ shows a question mark: no reason to fail after the work is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def open_design(path: str) -> Design:
    """The design at ``path``, a file or its folder, with its datasets' arguments spelled out."""
    from mm_mlflow.datasets import bind
    from mm_mlflow.design import Design

    return bind(Design.load(path))


def open_store(
    uri: str | None, experiment_name: str | None, design: Design | None, create: bool = False
) -> Store:
    """The experiment to work in: see :func:`mm_mlflow.tracking.open_store`."""
    from mm_mlflow import tracking

    return tracking.open_store(uri, experiment_name, design.name if design else None, create=create)


def print_json(document: Any) -> None:
    """The one JSON document that ``--json`` promises, in ASCII: the same in every encoding."""
    click.echo(json.dumps(document, indent=1, allow_nan=False))
