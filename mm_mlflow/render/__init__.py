"""Sheets and reports as bytes, one file per format. A new format is a file with a function
``render(sheet: Sheet) -> bytes`` and a line here, or a third party's entry point in the group
``mm_mlflow.renderers``; samples that it must survive are in :mod:`mm_mlflow.render.samples`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from mm_mlflow import registry

if TYPE_CHECKING:
    from mm_mlflow.change import Change
    from mm_mlflow.report import Report
    from mm_mlflow.selection import Selection
    from mm_mlflow.sheet import Sheet

GROUP = "mm_mlflow.renderers"
RENDERERS = {
    "html": "mm_mlflow.render.html:render",
    "png": "mm_mlflow.render.png:render",
    "pdf": "mm_mlflow.render.pdf:render",
    "csv": "mm_mlflow.render.csv:render",
    "tex": "mm_mlflow.render.tex:render",
    "md": "mm_mlflow.render.md:render",
    "json": "mm_mlflow.render.json:render",
}


def names() -> list[str]:
    """Every known format: ours in their order, then those of other packages."""
    others = [name for name in registry.names(RENDERERS, GROUP) if name not in RENDERERS]
    return [*RENDERERS, *others]


def renderer(name: str) -> Callable[[Sheet], bytes]:
    """The function that renders a sheet as ``name``.

    Raises:
        InvalidInput: no such format.
    """
    function: Callable[[Sheet], bytes] = registry.resolve("format", name, RENDERERS, GROUP)
    return function


def report_files(
    report: Report, formats: Iterable[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """``(path, content)`` of every file of a report; sheets in ``formats`` (all by default).

    Raises:
        InvalidInput: an unknown format, before any file.
    """
    from mm_mlflow.render import index, selection, strips, tables

    renderers = {name: renderer(name) for name in (names() if formats is None else formats)}
    yield "index.html", index.render(report)
    yield "summary.csv", tables.summary_csv(report)
    yield "summary.json", tables.summary_json(report)
    yield "cells.csv", tables.cells_csv(report)
    for item in report.distributions:
        for kind in ("png", "pdf"):
            yield f"distributions/{item.name}.{kind}", strips.picture([item], kind)
    if report.distributions:
        yield "distributions/distributions.csv", strips.table_csv(report.distributions)
    if report.selection is not None:
        yield from selection.files(report.selection)
    for sheet in report.sheets:
        folder = f"sheets/{report.slug(sheet.metric)}"
        for name, render in renderers.items():
            yield f"{folder}/sheet.{name}", render(sheet)


def selection_files(selected: Selection) -> Iterator[tuple[str, bytes]]:
    """``(path, content)`` of every file of a selection that stands alone."""
    from mm_mlflow.render import selection

    yield "index.html", selection.page_of(selected)
    yield from selection.files(selected)


def change_files(found: Change) -> Iterator[tuple[str, bytes]]:
    """``(path, content)`` of every file of a comparison of two experiments."""
    from mm_mlflow.render import change

    yield from change.files(found)


def selection_digest(selected: Selection) -> str:
    """A selection in short, as Markdown below 7,500 characters: the report run's description."""
    from mm_mlflow.render import description, selection

    return description.cut(selection.markdown(selected))


def digest(report: Report) -> str:
    """The report in short, as Markdown below 7,500 characters: the report run's description."""
    from mm_mlflow.render.description import digest as markdown

    return markdown(report)
