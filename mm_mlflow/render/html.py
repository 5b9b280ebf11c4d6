"""A sheet as HTML: one self-contained page, or a fragment for notebooks and for the report's page.

Nothing external: MLflow shows pages in a sandboxed frame of about 650 px. Everything that comes from
MLflow is a stranger's and is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

from mm_mlflow.render import shades
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
from mm_mlflow.render.verdicts import TITLE, rules
from mm_mlflow.render.view import Delta, Entry, Row, SheetView, TableView, view
from mm_mlflow.render.words import HOLES
from mm_mlflow.sheet import Sheet

# px: what MLflow's pane leaves beside a scroll bar; wider tables scroll, and take a whole line.
FULL_WIDTH = 590
TALL = 24  # rows; a longer table scrolls in its box, its head and its foot in sight
LONG_LABEL = 36  # longer ones are cut after three lines
DELTA_ALL = "Δ<sub>all</sub>"
DELTA_MAX = "Δ<sub>max</sub>"


def render(sheet: Sheet) -> bytes:
    """The sheet as a page of its own."""
    shown = view(sheet)
    return page(
        shown.title,
        _sheet(shown, level=1) + (rules_section(blocked=shown.blocked) if shown.chance else ""),
    ).encode()


def fragment(sheet: Sheet) -> str:
    """The sheet with its styles, to stand inside another page such as a notebook."""
    return f'<div class="mm"><style>{style()}</style>{_sheet(view(sheet), level=2)}</div>'


def section(sheet: Sheet, level: int) -> str:
    """The sheet without styles, its heading at ``level``; the page must have :func:`style`."""
    return _sheet(view(sheet), level)


def page(title: str, body: str) -> str:
    """A whole document around ``body``, which is HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} – multiplicity</title><style>{style()}</style></head>\n"
        f'<body class="mm"><main>{body}</main><script>{script()}</script></body></html>\n'
    )


@cache
def script() -> str:
    """What every page can do where scripts run: sort its tables, follow its own links."""
    return Path(__file__).with_name("script.js").read_text(encoding="utf-8")


@cache
def style() -> str:
    """The style sheet, with the shades for light and dark surroundings."""
    return (
        Path(__file__).with_name("style.css").read_text(encoding="utf-8")
        + shades.css(".mm", shades.LIGHT)
        + "@media (prefers-color-scheme:dark){"
        + shades.css(".mm", shades.DARK)
        + "}"
    )


def _sheet(sheet: SheetView, level: int) -> str:
    return "".join(_parts(sheet, level))


def _parts(sheet: SheetView, level: int) -> Iterator[str]:
    if level < 3:  # below a heading "Sheets" it would be said twice
        yield '<p class="eyebrow">Multiplicity sheet</p>'
    yield f"<h{level}>{escape(sheet.title)}</h{level}>"
    if sheet.metric != sheet.title.lower():
        yield f'<p class="key"><code>{escape(sheet.metric)}</code></p>'
    yield f'<div class="head">{_delta_all(sheet)}<div class="lead">'
    yield f'<p class="say">{escape(sheet.delta_words)}</p><p>{escape(sheet.lead)}</p></div></div>'
    if sheet.notices:
        items = "".join(f"<li>{escape(text)}</li>" for text in sheet.notices)
        yield f'<ul class="notes">{items}</ul>'
    if sheet.chance is not None:
        items = "".join(f"<li>{escape(text)}</li>" for text in sheet.chance.verdicts)
        yield f'<div class="chance"><h{level + 1}>{TITLE}</h{level + 1}><ul>{items}</ul></div>'
    yield _scale(sheet)
    widths = _widths(sheet)
    least = min(FULL_WIDTH, max((widths.table(len(t.seeds)) for t in sheet.tables), default=0))
    yield f'<div class="tables" style="--least:{least}px">'
    for table in sheet.tables:
        yield from _table(sheet, table, widths)
    yield "</div>"
    if sheet.legend:
        items = "".join(f"<dt>{escape(m)}</dt><dd>{escape(t)}</dd>" for m, t in sheet.legend)
        yield f'<dl class="legend">{items}</dl>'
    if sheet.chance is not None:
        yield from _numbers(sheet, sheet.chance)


def _numbers(sheet: SheetView, found: ChanceView) -> Iterator[str]:
    """What chance would give, in numbers: for those who want to know, and closed until then."""
    yield "<details><summary>What chance would give, in numbers</summary>"
    facts = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in found.facts)
    yield f'<dl class="facts">{facts}</dl>'
    if found.floor:
        yield _plain(f"Δ by chance of {sheet.title}", FLOOR_HEAD, found.floor)
        yield _aside(found.floor_note)
    yield _plain(f"Tests of {sheet.title}", TESTS_HEAD, found.tests)
    yield _aside(TESTS_NOTE)
    if found.axes:
        yield _plain(f"Axes of {sheet.title}", found.axes_head, found.axes)
        yield _aside(AXES_NOTE)
    if found.plan:
        yield f'<p class="more">How many more seeds? {escape(found.plan)}</p>'
        yield _plain(f"More seeds for {sheet.title}", PLAN_HEAD, found.plans)
        yield _aside(PLAN_NOTE)
    if found.means:
        yield _plain(f"Means of {sheet.title}", MEANS_HEAD, found.means)
    yield "</details>"


def _aside(text: str) -> str:
    return f'<p class="aside">{escape(text)}</p>'


def _plain(label: str, head: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'{box(label, len(rows))}<table class="numbers"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def rules_section(*, blocked: bool = False) -> str:
    """The rules behind the words, for the end of a page; ``blocked`` as of :func:`~.verdicts.rules`."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rules(blocked=blocked)
    )
    return (
        '<section class="part" id="rules"><h2>How the words are chosen</h2>'
        f'<dl class="facts">{items}</dl></section>'
    )


def _delta_all(sheet: SheetView) -> str:
    unit = f" {sheet.numbers.points_word}" if sheet.numbers.points_word else ""
    healthy = sheet.delta_all.healthy
    without = f"<em>{escape(healthy)} without †</em>" if healthy else ""
    return (
        f'<div class="all"><b>{escape(sheet.delta_all.text)}</b>'
        f"<span>{DELTA_ALL}{',' if unit else ''}{unit}</span>{without}</div>"
    )


def _scale(sheet: SheetView) -> str:
    if not sheet.scale:
        return f'<p class="scale">{escape(sheet.unit)}</p>'
    low, high = map(escape, sheet.scale)
    ramp = "".join(f'<i class="s{i}"></i>' for i in range(shades.STEPS))
    marked = any(e.end for t in sheet.tables for row in t.rows for e in row.entries)
    ends = '<span><span class="endmark">&nbsp;</span> lowest and highest value</span>'
    return (
        f'<div class="scale"><span>{low}<span class="ramp">{ramp}</span>{high}</span>'
        f"{ends if marked else ''}<span>{escape(sheet.unit)}</span></div>"
    )


@dataclass(frozen=True)
class _Widths:
    """Widths of columns in px, the same in every table of a sheet."""

    label: int
    cell: int
    mean: int
    delta: int

    def table(self, seeds: int) -> int:
        """What a table needs."""
        return self.label + seeds * self.cell + self.mean + self.delta


def _widths(sheet: SheetView) -> _Widths:
    rows = [row for table in sheet.tables for row in table.rows]
    columns = [delta for table in sheet.tables for delta in table.deltas]
    labels = [len(row.label) + 9 * row.default for row in rows]
    cell = max(
        50,
        8 * _longest(e.text for row in rows for e in row.entries if e.status not in HOLES) + 6,
        7 * _longest(e.text for row in rows for e in row.entries if e.status in HOLES) + 6,
        7
        * min(
            _longest(
                word for table in sheet.tables for head in table.seeds for word in head.split()
            ),
            12,
        )
        + 14,
        15 * _longest(part for d in columns for part in (d.text, d.healthy)) // 2 + 6,
    )
    mean = max(94, 7 * _longest(row.mean_sd for row in rows) + 14)
    last = max(88, 9 * _longest(row.delta.text for row in rows) + 16)
    # A label wraps before the table scrolls; where it scrolls anyway, labels have more room.
    seeds = max((len(table.seeds) for table in sheet.tables), default=1)
    room = FULL_WIDTH - seeds * cell - mean - last
    wanted = 8 * max(labels, default=0) + 8
    least = 122 if columns else 90  # the last row's "Δmax over levels" does not wrap
    label = max(least, min(150, wanted, room) if room > 60 else min(200, wanted))
    return _Widths(label, cell, mean, last)


def _longest(texts: Iterable[str | None]) -> int:
    return max((len(text or "") for text in texts), default=0)


def _table(sheet: SheetView, table: TableView, widths: _Widths) -> Iterator[str]:
    seeds, title = len(table.seeds), escape(table.title)
    width = widths.table(seeds)
    yield box(table.title, len(table.rows), wide=width > FULL_WIDTH)
    yield f'<table class="grid" data-sortable style="min-width:{width}px"><caption>{title}</caption>'
    yield f'<colgroup><col><col span="{seeds}" style="width:{widths.cell}px">'
    yield f'<col style="width:{widths.mean}px"><col style="width:{widths.delta}px"></colgroup>'
    yield f'<thead><tr><th scope="col">{escape(sheet.seed_word)}</th>'
    for seed in table.seeds:
        yield f'<th scope="col" class="c">{escape(seed)}</th>'
    yield '<th scope="col">Mean ± sd</th>'
    yield f'<th scope="col">{DELTA_MAX}<br>over {escape(sheet.seeds_word)}</th>'
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield _row(row)
    yield "</tbody>"
    if table.deltas:
        deltas = "".join(_delta(delta) for delta in table.deltas)
        yield f'<tfoot><tr><th scope="row">{DELTA_MAX} over levels</th>{deltas}'
        yield "<td></td><td></td></tr></tfoot>"
    yield "</table></div>"


def _row(row: Row) -> str:
    tag = ' <span class="tag">default</span>' if row.default else ""
    kind = ' class="default"' if row.default else ""
    long = " long" if len(row.label) > LONG_LABEL else ""
    name = f'<span class="name{long}" title="{escape(row.raw)}">{escape(row.label)}</span>'
    return (
        f'<tr{kind}><th scope="row">{name}{tag}</th>'
        f"{''.join(map(_entry, row.entries))}"
        f'<td class="m">{escape(row.mean_sd)}</td>{_delta(row.delta)}</tr>'
    )


def _entry(entry: Entry) -> str:
    kinds = ["v"]
    if entry.position is not None:
        kinds.append(f"s{shades.step(entry.position)}")
    elif entry.status == "diverged":
        kinds.append("diverged")
    else:
        kinds.append("hole")
    if entry.end:
        kinds.append("end")
    hover = f' title="{escape(entry.run)}"' if entry.run else ""
    return f'<td class="{" ".join(kinds)}"{hover}>{escape(entry.text)}</td>'


def _delta(delta: Delta) -> str:
    without = f"<small>{escape(delta.bracketed)}</small>" if delta.bracketed else ""
    return f'<td class="d">{escape(delta.text)}{without}{bar(delta.share)}</td>'


def box(label: str, rows: int, *, wide: bool = False) -> str:
    """The start of a box that a table scrolls in by itself, sideways or where it has many rows."""
    kinds = ["box", *(["wide"] if wide else []), *(["tall"] if rows > TALL else [])]
    return (
        f'<div class="{" ".join(kinds)}" role="region" tabindex="0" aria-label="{escape(label)}">'
    )


def bar(share: float) -> str:
    """A thin bar as wide as ``share`` (in [0, 1]) of its cell."""
    return f'<i class="bar" style="width:{100 * share:.0f}%"></i>' if share > 0 else ""
