"""A sheet as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from mm_mlflow.render import words
from mm_mlflow.render.chance import (
    AXES_NOTE,
    FLOOR_HEAD,
    MEANS_HEAD,
    PLAN_HEAD,
    PLAN_NOTE,
    TESTS_HEAD,
    TESTS_NOTE,
    ChanceView,
)
from mm_mlflow.render.verdicts import TITLE
from mm_mlflow.render.view import Entry, Row, SheetView, TableView, view
from mm_mlflow.sheet import Sheet


def render(sheet: Sheet) -> bytes:
    """The sheet as one Markdown document."""
    return ("\n".join(_lines(view(sheet))) + "\n").encode()


def escape(text: object) -> str:
    """``text`` as Markdown that shows as itself, in a table cell too."""
    plain = words.clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "://" and "www." would become links by themselves, "@name" a mention, "#1" an issue.
    plain = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", plain)
    plain = plain.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")
    return plain.replace("@", "&#64;")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Lines of a table of cells that are Markdown already; ``left`` columns are aligned left."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join([':--'] * left + ['--:'] * (len(head) - left))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _lines(sheet: SheetView) -> Iterator[str]:
    yield f"# {escape(sheet.title)}"
    yield ""
    unit = f" {sheet.numbers.points_word}".rstrip()
    healthy = sheet.delta_all.healthy
    without = f" ({healthy} without {words.DIVERGED_MARK})" if healthy else ""
    yield f"**Δall {sheet.delta_all.text}{unit}**{without}. {escape(sheet.delta_words)}"
    yield ""
    if sheet.lead:
        yield escape(sheet.lead)
        yield ""
    for notice in sheet.notices:
        yield f"- {escape(notice)}"
    if sheet.notices:
        yield ""
    if sheet.chance is not None:
        yield f"**{TITLE}**"
        yield ""
        yield from (f"- {escape(text)}" for text in sheet.chance.verdicts)
        yield ""
    yield sheet.unit
    for part in sheet.tables:
        yield ""
        yield from _table(sheet, part)
    if sheet.legend:
        yield ""
        yield "; ".join(f"{mark}: {meaning}" for mark, meaning in sheet.legend) + "."
    if sheet.chance is not None:
        yield from _chance(sheet.chance)


def _chance(found: ChanceView) -> Iterator[str]:
    """What chance would give, in numbers."""
    yield ""
    yield "## What chance would give"
    yield ""
    yield from (f"- {escape(term)}: {escape(text)}" for term, text in found.facts)
    parts = [
        ("", FLOOR_HEAD, found.floor, found.floor_note),
        ("", TESTS_HEAD, found.tests, TESTS_NOTE),
        ("", found.axes_head, found.axes, AXES_NOTE),
        (found.plan, PLAN_HEAD, found.plans, PLAN_NOTE),
        ("", MEANS_HEAD, found.means, ""),
    ]
    for before, head, rows, after in parts:
        if not rows:
            continue
        yield from ["", escape(before)] if before else []
        yield ""
        yield from table(
            [escape(text) for text in head], ([escape(t) for t in row] for row in rows)
        )
        yield from ["", escape(after)] if after else []


def _table(sheet: SheetView, part: TableView) -> Iterator[str]:
    yield f"## {escape(part.title)}"
    yield ""
    seed = escape(sheet.seed_word)
    head = [seed, *map(escape, part.seeds), "mean ± sd", f"Δmax over {sheet.seeds_word}"]
    last = [["Δmax over levels", *(delta.whole for delta in part.deltas), "", ""]]
    yield from table(head, [*map(_row, part.rows), *(last if part.deltas else [])])


def _row(row: Row) -> list[str]:
    label = escape(row.label)
    first = f"**{label}** (default)" if row.default else label
    return [first, *map(_entry, row.entries), row.mean_sd, row.delta.whole]


def _entry(entry: Entry) -> str:
    return f"**{entry.text}**" if entry.end else entry.text
