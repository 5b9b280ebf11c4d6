"""A whole report: its files, its page, its tables, its digest."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from mm_mlflow.errors import InvalidInput
from mm_mlflow.render import RENDERERS, digest, report_files, samples
from mm_mlflow.report import Report

TEXT = ["html", "csv", "md", "json", "tex"]


@cache
def files(**arguments: int) -> dict[str, bytes]:
    """The files of the sample report, without pictures."""
    return dict(report_files(samples.report(**arguments), TEXT))


def test_every_file() -> None:
    """The page, three tables, and each sheet in every format."""
    report = samples.report(samples.SMALL)
    report = replace(report, sheets=report.sheets[:2], summary=report.summary[:2])
    assert [path for path, _ in report_files(report)] == [
        "index.html",
        "summary.csv",
        "summary.json",
        "cells.csv",
        *(f"sheets/accuracy/sheet.{name}" for name in RENDERERS),
        *(f"sheets/group_accuracy__skew-minority/sheet.{name}" for name in RENDERERS),
    ]


def test_unknown_format_before_any_file() -> None:
    """A wrong format is refused at once."""
    with pytest.raises(InvalidInput, match="unknown format 'docx'"):
        next(report_files(samples.report(samples.SMALL), ["html", "docx"]))


def test_links_of_the_page_lead_somewhere() -> None:
    """Every link is a fragment, and every fragment is on the page, once."""
    page = files()["index.html"].decode()
    links = re.findall(r'href="([^"]*)"', page)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(links) > 9
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(ids) == len(set(ids))


def test_page_in_reading_order() -> None:
    """Notes first, the summary, the design, then the sheets in the order of the summary."""
    report = samples.report(missing=7, diverged=2)
    page = files(missing=7, diverged=2)["index.html"].decode()
    marks = ["Incomplete:", 'id="summary"', 'id="design"', 'id="sheet-0"', 'id="sheet-8"']
    places = [page.index(mark) for mark in marks]
    assert places == sorted(places)
    assert "vary more by chance alone" in page
    for row in report.summary:
        assert row.low
        assert row.low[1] in page


def test_summary_tables() -> None:
    """summary.csv and summary.json say the same, to the bit."""
    rows = list(csv.DictReader(io.StringIO(files()["summary.csv"].decode())))
    data = json.loads(files()["summary.json"])
    assert data["planned"] == data["counted"] == 45
    for row, metric, original in zip(rows, data["metrics"], samples.report().summary, strict=True):
        assert float(row["delta_all"]) == metric["delta_all"] == original.delta_all
        assert row["n_examples"] == str(original.n_examples)
        assert row["high_run_name"] == metric["high"]["run_name"]


def test_cells() -> None:
    """One line per run and metric."""
    rows = list(csv.DictReader(io.StringIO(files()["cells.csv"].decode())))
    assert len(rows) == 45 * 9
    assert len({row["run_id"] for row in rows}) == 45


def many(report: Report, number: int) -> Report:
    """The report with ``number`` metrics and long hostile names."""
    row = replace(report.summary[0], title=samples.HOSTILE * 5)
    notes = tuple(f"{samples.HOSTILE} {i}" * 20 for i in range(50))
    return replace(report, summary=(row,) * number, notes=notes)


@pytest.mark.parametrize("number", [0, 1, 9, 300])
def test_digest_is_short(number: int) -> None:
    """Below 7,500 characters whatever there is, and it says what was cut."""
    text = digest(many(samples.report(samples.SMALL), number))
    assert len(text) < 7_500
    assert "<script" not in text
    assert "more notes in index.html" in text
    assert ("more metrics: see index.html" in text) == (number == 300)


def test_digest() -> None:
    """Every metric with its Δall, the notes, and where to look."""
    report = samples.report(missing=7)
    text = digest(report)
    assert "index.html" in text
    assert "Incomplete" in text
    for row in report.summary:
        assert f"**≥ {100 * row.delta_all:.2f}**" in text


def test_listing_formats_imports_no_matplotlib() -> None:
    """Matplotlib is imported where a picture is drawn, and nowhere else."""
    code = (
        "import sys, mm_mlflow.render as r; r.names(); from mm_mlflow.render import index, samples;"
        "r.renderer('png'); index.render(samples.report());"
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_are_drawn_at_eight_points_or_more() -> None:
    """No text of a figure is smaller than 8 pt, and none leaves it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    from mm_mlflow.render.figure import figure

    for case in ("complete", "small", "diverged and incomplete", "raw", "hostile"):
        drawn = figure(samples.SHEETS[case]())
        renderer = FigureCanvasAgg(drawn).get_renderer()
        for text in drawn.findobj(Text):
            if text.get_text():
                assert text.get_fontsize() >= 8
                box = text.get_window_extent(renderer)
                assert 0 <= box.x0 < box.x1 <= drawn.bbox.width
                assert 0 <= box.y0 < box.y1 <= drawn.bbox.height


def test_digest_is_short_where_every_character_is_escaped() -> None:
    """Notes about names full of markup leave room for the table."""
    report = samples.report(samples.SMALL)
    text = digest(replace(report, notes=("&" * 400,) * 9))
    assert len(text) < 7_500
    assert "7 more notes in index.html" in text
    assert all(f"| {row.title.split(' ')[0]}" in text for row in report.summary)
