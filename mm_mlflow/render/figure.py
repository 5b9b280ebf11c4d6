"""A sheet as a matplotlib figure, for png and pdf: after Figure 1 of the paper.

Tables stand in one or two columns. Everything is placed in inches from the top left corner; text is
never smaller than 8 pt at the figure's own size. matplotlib is imported inside functions only.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from mm_mlflow.render import shades, words
from mm_mlflow.render.view import SheetView, TableView, view
from mm_mlflow.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN, GAP = 0.3, 0.45
ROW, HEAD = 0.265, 0.62  # height of a row; of a table's title and column heads
FONT = "DejaVu Sans"  # ships with matplotlib: the same picture on every machine
BODY, SMALL, CAPTION = 9.0, 8.0, 10.5
INK, SOFT, LINE, ACCENT, WASH = "#131a22", "#566372", "#c9d2db", "#1d5f98", "#f4f7fa"
POINT = 0.07  # inches across
MANY_CELLS = 6000  # beyond it numbers would be too many to draw, let alone to read
DPI, PIXELS = 144.0, 40e6  # dots per inch, and the most pixels that a picture may have


@dataclass
class Canvas:
    """What is to be drawn, in inches from the top left: text, rectangles, lines and points."""

    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str, str]] = field(default_factory=list)
    lines: list[tuple[float, float, float]] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, align: str = "left", **style: Any) -> None:
        """``text`` with its middle at height ``y``."""
        if text:
            self.texts.append((x, y, text, {"ha": align, **style}))

    def box(
        self, x: float, y: float, width: float, height: float, face: str, edge: str = "none"
    ) -> None:
        """A rectangle."""
        self.boxes.append((x, y, width, height, face, edge))

    def point(self, x: float, y: float) -> None:
        """A ring around ``(x, y)``."""
        self.points.append((x, y))

    def line(self, x: float, y: float, width: float) -> None:
        """A thin horizontal rule."""
        self.lines.append((x, y, width))


@dataclass(frozen=True)
class _Columns:
    """Widths of a table's columns, the same for all tables of a sheet."""

    label: float
    cell: float
    mean: float
    delta: float

    def width(self, seeds: int) -> float:
        """Of a whole table."""
        return self.label + seeds * self.cell + self.mean + self.delta


@lru_cache(maxsize=1)
def figure(sheet: Sheet) -> Figure:
    """The sheet as a figure; kept until the next, since png and pdf draw the same one."""
    shown = view(sheet)
    canvas = Canvas()
    columns = _columns(shown)
    width, height = _compose(canvas, shown, columns)
    return draw(canvas, width, height)


def save(sheet: Sheet, kind: str) -> bytes:
    """The figure as ``png`` or ``pdf``, without dates or versions: equal sheets, equal bytes."""
    return encode(figure(sheet), kind)


def encode(drawn: Figure, kind: str) -> bytes:
    """A figure as ``png`` or ``pdf``."""
    import matplotlib as mpl

    area = math.prod(drawn.get_size_inches())
    options: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
    if kind == "pdf":
        options = {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}}
    stream = io.BytesIO()
    with mpl.rc_context(_settings()):
        drawn.savefig(stream, format=kind, dpi=min(DPI, math.sqrt(PIXELS / area)), **options)
    return stream.getvalue()


def _settings() -> Any:
    # A user's matplotlibrc must not change a report. Type 3 fonts are three times as fast to embed
    # as type 42 (0.13 against 0.37 s a sheet), and their text is searchable too.
    return {"pdf.fonttype": 3, "text.usetex": False, "savefig.bbox": None, "path.sketch": None}


def _columns(sheet: SheetView) -> _Columns:
    rows = [row for table in sheet.tables for row in table.rows]
    labels = [_label(row.label, default=row.default) for row in rows]
    bottom = [p for t in sheet.tables for d in t.deltas for p in (d.text, d.bracketed or "")]
    entries = [entry.text for row in rows for entry in row.entries]
    return _Columns(
        label=max(1.1, _width([*labels, *(words.clip(t.title, 32) for t in sheet.tables)]) + 0.12),
        cell=max(0.5, _width(entries + bottom) + 0.12),
        mean=max(0.9, _width(row.mean_sd for row in rows) + 0.16),
        delta=_width([_over(sheet), *(row.delta.whole for row in rows)]) + 0.16,
    )


def _width(texts: Iterable[str]) -> float:
    """Inches that the longest text needs at body size; DejaVu's digits are 0.636 em wide."""
    return max((len(text) for text in texts), default=0) * BODY * 0.62 / 72


def _over(sheet: SheetView) -> str:
    return f"over {sheet.seeds_word}"


def _label(label: str, *, default: bool) -> str:
    return words.clip(label, 28) + (" (default)" if default else "")


def _compose(canvas: Canvas, sheet: SheetView, columns: _Columns) -> tuple[float, float]:
    """Place everything; returns the size of the whole in inches."""
    wide = columns.width(max((len(t.seeds) for t in sheet.tables), default=1))
    heights = [_height(table) for table in sheet.tables]
    cut = _cut(heights) if len(heights) > 2 and wide < 7.6 else len(heights)
    inner = max(wide if cut == len(heights) else 2 * wide + GAP, 6.0)
    y = _head(canvas, sheet, inner)
    bottom = y
    for column, part in enumerate((slice(0, cut), slice(cut, None))):
        top = y
        for table, height in zip(sheet.tables[part], heights[part], strict=True):
            _table(canvas, sheet, table, columns, MARGIN + column * (wide + GAP), top)
            top += height + 0.28
        bottom = max(bottom, top)
    bottom = _foot(canvas, sheet, inner, bottom)
    return inner + 2 * MARGIN, bottom + MARGIN - 0.1


def _height(table: TableView) -> float:
    two_lines = any(delta.healthy for delta in table.deltas)
    rows = len(table.rows) + bool(table.deltas)
    return HEAD + ROW * rows + (0.22 if two_lines else 0.08)


def _cut(heights: Sequence[float]) -> int:
    """How many tables go into the first column so that the taller column is as low as can be."""
    return min(range(1, len(heights)), key=lambda i: max(sum(heights[:i]), sum(heights[i:])))


def wrap(text: str, inches: float, size: float = BODY) -> list[str]:
    """Lines of ``text`` that fit into so many inches."""
    return textwrap.wrap(text, max(20, int(inches * 72 / (size * 0.56))))


def _head(canvas: Canvas, sheet: SheetView, inner: float) -> float:
    """Title, Δ over all, sentences and the scale; returns where the tables begin."""
    number = sheet.delta_all.text
    right = MARGIN + inner
    words_width = inner - 2.0
    y = MARGIN + 0.12
    for line in wrap(sheet.title, words_width, 15)[:2]:
        canvas.text(MARGIN, y, line, size=15, weight="bold")
        y += 0.3
    canvas.text(right, MARGIN + 0.2, number, "right", size=24, weight="bold", color=ACCENT)
    unit = f"Δall, {sheet.numbers.points_word}" if sheet.numbers.points_word else "Δall"
    canvas.text(right, MARGIN + 0.52, unit, "right", size=BODY, color=SOFT)
    if sheet.delta_all.healthy:
        without = f"{sheet.delta_all.healthy} without {words.DIVERGED_MARK}"
        canvas.text(right, MARGIN + 0.72, without, "right", size=BODY)
    for line in wrap(sheet.delta_words, words_width):
        canvas.text(MARGIN, y, line, size=BODY, weight="bold")
        y += 0.2
    for line in wrap(sheet.lead, words_width)[:4]:
        canvas.text(MARGIN, y, line, size=BODY)
        y += 0.2
    y = max(y, MARGIN + 0.85)
    for notice in sheet.notices:
        for line in wrap(notice, inner)[:3]:
            canvas.text(MARGIN, y, line, size=BODY, color=ACCENT)
            y += 0.2
    return _scale(canvas, sheet, y + 0.1, inner) + 0.32


def _scale(canvas: Canvas, sheet: SheetView, y: float, inner: float) -> float:
    x = MARGIN
    if sheet.scale:
        low, high = sheet.scale
        canvas.text(x, y, low, size=SMALL, color=SOFT)
        x += _width([low]) * SMALL / BODY + 0.12
        for i in range(shades.STEPS):
            shade = shades.LIGHT.shade(i / (shades.STEPS - 1))
            canvas.box(x + i * 0.055, y - 0.06, 0.06, 0.12, shade)
        x += shades.STEPS * 0.055 + 0.08
        canvas.text(x, y, high, size=SMALL, color=SOFT)
        x += _width([high]) * SMALL / BODY + 0.3
    if any(e.end for t in sheet.tables for row in t.rows for e in row.entries):
        canvas.box(x, y - 0.07, 0.24, 0.14, "none", INK)
        canvas.text(x + 0.32, y, "lowest and highest value", size=SMALL, color=SOFT)
        x += 1.85
    if x + _width([sheet.unit]) > MARGIN + inner:
        x, y = MARGIN, y + 0.2
    canvas.text(x, y, sheet.unit, size=SMALL, color=SOFT)
    return y


def _foot(canvas: Canvas, sheet: SheetView, inner: float, y: float) -> float:
    for mark, meaning in sheet.legend:
        for i, line in enumerate(wrap(f"{mark}: {meaning}", inner, SMALL)):
            canvas.text(MARGIN + 0.15 * (i > 0), y, line, size=SMALL, color=SOFT)
            y += 0.18
    return y


def _table(
    canvas: Canvas, sheet: SheetView, table: TableView, columns: _Columns, x: float, y: float
) -> None:
    seeds = len(table.seeds)
    width, cells = columns.width(seeds), x + columns.label
    means, right = cells + seeds * columns.cell + columns.mean, x + columns.width(seeds)
    title = words.clip(table.title, 60)
    canvas.text(x, y + 0.1, title, size=CAPTION, weight="bold")
    canvas.text(x, y + 0.4, sheet.seed_word, size=SMALL, color=SOFT)
    for j, seed in enumerate(table.seeds):
        middle = cells + (j + 0.5) * columns.cell
        canvas.text(middle, y + 0.4, words.clip(seed, 8), "center", size=SMALL, color=SOFT)
    canvas.text(means, y + 0.4, "mean ± sd", "right", size=SMALL, color=SOFT)
    canvas.text(right, y + 0.26, "Δmax", "right", size=SMALL, color=SOFT)
    canvas.text(right, y + 0.4, _over(sheet), "right", size=SMALL, color=SOFT)
    canvas.line(x, y + 0.53, width)
    y += HEAD - 0.06
    numbers = seeds * len(table.rows) <= MANY_CELLS
    for i, row in enumerate(table.rows):
        top, middle = y + i * ROW, y + (i + 0.5) * ROW
        label = _label(row.label, default=row.default)
        canvas.text(x, middle, label, size=BODY, weight="bold" if row.default else "normal")
        for j, entry in enumerate(row.entries):
            left = cells + j * columns.cell
            shade = WASH if entry.position is None else shades.LIGHT.shade(entry.position)
            canvas.box(left + 0.01, top + 0.01, columns.cell - 0.02, ROW - 0.02, shade)
            if entry.end:
                canvas.box(left + 0.03, top + 0.03, columns.cell - 0.06, ROW - 0.06, "none", INK)
            if numbers:
                soft = {"color": SOFT, "size": SMALL} if entry.position is None else {"size": BODY}
                canvas.text(left + columns.cell / 2, middle, entry.text, "center", **soft)
        canvas.text(means, middle, row.mean_sd, "right", size=BODY, color=SOFT)
        canvas.text(right, middle, row.delta.whole, "right", size=BODY, weight="bold")
        bar = row.delta.share * (columns.delta - 0.2)
        canvas.box(right - bar, top + ROW - 0.035, bar, 0.02, ACCENT)
    y += ROW * len(table.rows) + 0.04
    canvas.line(x, y, width)
    if table.deltas:
        canvas.text(x, y + 0.15, "Δmax over levels", size=SMALL, color=SOFT)
    for j, delta in enumerate(table.deltas):
        middle = cells + (j + 0.5) * columns.cell
        canvas.text(middle, y + 0.15, delta.text, "center", size=BODY, weight="bold")
        canvas.text(middle, y + 0.33, delta.bracketed or "", "center", size=SMALL, color=SOFT)


def draw(canvas: Canvas, width: float, height: float) -> Figure:
    """The canvas as a figure of so many inches."""
    import matplotlib as mpl
    from matplotlib.collections import EllipseCollection, LineCollection, PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2D

    with mpl.rc_context(_settings()):
        drawn = Figure(figsize=(width, height), facecolor="white")
        # Inches from the top left; text and shapes in one collection each: axes would cost more.
        inches = Affine2D().scale(1, -1).translate(0, height) + drawn.dpi_scale_trans
        polygons = PolyCollection(
            [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h, *_ in canvas.boxes],
            facecolors=[face for *_, face, _ in canvas.boxes],
            edgecolors=[edge for *_, edge in canvas.boxes],
            linewidths=0.9,
            transform=inches,
        )
        rules = LineCollection(
            [[(x, y), (x + w, y)] for x, y, w in canvas.lines],
            colors=LINE,
            linewidths=0.8,
            transform=inches,
        )
        rings = EllipseCollection(
            [POINT] * len(canvas.points),
            [POINT] * len(canvas.points),
            [0] * len(canvas.points),
            units="inches",
            offsets=canvas.points or [(0, 0)],
            offset_transform=inches,
            facecolors="none",
            edgecolors=ACCENT,
            linewidths=0.8,
            alpha=0.75,
        )
        for shapes in (polygons, rules, *([rings] if canvas.points else [])):
            drawn.add_artist(shapes)
        for x, y, text, style in canvas.texts:
            drawn.text(
                x,
                y,
                drawable(text),
                transform=inches,
                va="center_baseline",
                family=FONT,
                parse_math=False,
                **{"color": INK, **style},
            )
    return drawn


def drawable(text: str) -> str:
    """``text`` with a box for every character that the font lacks."""
    return "".join(c if c.isascii() or ord(c) in _characters() else "□" for c in text)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(findfont(FONT))).get_charmap())
