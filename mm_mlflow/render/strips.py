"""Distributions as a picture: a strip of points for each metric, on one scale per distribution."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from mm_mlflow.distribution import Distribution, Strip
from mm_mlflow.render import words
from mm_mlflow.render.figure import (
    ACCENT,
    BODY,
    INK,
    MARGIN,
    SMALL,
    SOFT,
    Canvas,
    draw,
    encode,
    wrap,
)  # fmt: skip
from mm_mlflow.render.html import box

LABEL, PLOT, SIDE = 2.25, 3.7, 0.85  # widths in inches
ROW = 0.32
SPREAD = 0.2  # inches over which points are moved up and down, so that equal ones can be told apart
BAND = "#dfe5ea"
JITTER = "Black bars are means. Points are moved up and down only to be told apart."
COMPARED = (
    "Gray bars: from the mean lowest to the mean highest value of random subsets of the same size."
)


def picture(
    distributions: Sequence[Distribution], kind: str, lead: str = "", more: Sequence[str] = ()
) -> bytes:
    """The distributions below each other, as ``png`` or ``pdf``; text is never below 8 pt.

    Args:
        distributions: from the top down.
        kind: ``png`` or ``pdf``.
        lead: a sentence above all of them.
        more: sentences below.
    """
    canvas = Canvas()
    y = MARGIN
    for line in wrap(lead, LABEL + PLOT + SIDE) if lead else []:
        canvas.text(MARGIN, y + 0.04, line, size=BODY)
        y += 0.2
    y += 0.15 if lead else 0
    for distribution in distributions:
        y = panel(canvas, distribution, y) + 0.35
    notes = [*_how_to_read(distributions), *more]
    width = LABEL + PLOT + SIDE
    for line in wrap(" ".join(notes), width, SMALL):
        canvas.text(MARGIN, y, line, size=SMALL, color=SOFT)
        y += 0.18
    return encode(draw(canvas, width + 2 * MARGIN, y + MARGIN - 0.1), kind)


def panel(canvas: Canvas, distribution: Distribution, y: float) -> float:
    """One distribution from ``y`` downwards; returns where it ends."""
    for line in wrap(words.clean(distribution.title), LABEL + PLOT + SIDE, 13)[:2]:
        canvas.text(MARGIN, y + 0.08, line, size=13, weight="bold")
        y += 0.26
    says = [words.sentence(distribution.description), words.figure_sentence(distribution.figure)]
    says = list(filter(None, says))
    for line in wrap(" ".join(says), LABEL + PLOT + SIDE) if says else []:
        canvas.text(MARGIN, y + 0.04, line, size=BODY)
        y += 0.2
    low, high = _limits(distribution)
    how = words.numbers(distribution.unit, low, high)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left, right = MARGIN + LABEL, MARGIN + LABEL + PLOT

    def place(value: float) -> float:
        return left + 0.06 + (PLOT - 0.12) * (value - low) / (high - low)

    y += 0.1
    heading = "Δ, points" if how.percent else "Δ"
    canvas.text(right + SIDE, y, heading, "right", size=SMALL, color=SOFT)
    y += 0.12
    top = y
    bottom = top + ROW * len(distribution.strips)
    for tick in ticks:
        canvas.box(place(tick) - 0.004, top, 0.008, bottom - top, "#e8edf2")
    for strip in distribution.strips:
        _strip(canvas, strip, how, place, y)
        y += ROW
    canvas.line(left, bottom, PLOT)
    for tick in ticks:
        text = f"{100 * tick:g}%" if how.percent else f"{tick:g}"
        canvas.text(place(tick), bottom + 0.1, text, "center", size=SMALL, color=SOFT)
    return bottom + 0.2


def _strip(canvas: Canvas, strip: Strip, how: words.Numbers, place: object, top: float) -> None:
    assert callable(place)
    middle = top + ROW / 2
    examples = f"n = {strip.n_examples:,}" if strip.n_examples is not None else ""
    under = strip.note or examples
    canvas.text(
        MARGIN,
        middle - (0.065 if under else 0),
        words.clip(words.clean(strip.label), 34),
        size=BODY,
    )
    canvas.text(MARGIN, middle + 0.085, words.clip(words.clean(under), 40), size=SMALL, color=SOFT)
    if strip.band:
        one, other = map(place, strip.band)
        canvas.box(one, middle - 0.12, max(other - one, 0.01), 0.24, BAND)
    canvas.line(MARGIN + LABEL, top, PLOT)
    if not len(strip.values):
        canvas.text(place_middle(), middle, "no run", "center", size=SMALL, color=SOFT)
        return
    for value, shift in zip(strip.values, _jitter(len(strip.values)), strict=True):
        canvas.point(place(value), middle + shift)
    mean = place(float(np.mean(strip.values)))
    canvas.box(mean - 0.01, middle - 0.13, 0.02, 0.26, INK)
    spread = float(np.ptp(strip.values)) if len(strip.values) > 1 else math.nan
    canvas.text(
        MARGIN + LABEL + PLOT + SIDE, middle, how.value(spread), "right", size=BODY, weight="bold",
        color=ACCENT,
    )  # fmt: skip


def place_middle() -> float:
    """The middle of the plot, in inches from the left."""
    return MARGIN + LABEL + PLOT / 2


def _jitter(number: int) -> np.ndarray:
    """Fixed shifts that neighbours do not share: the golden ratio's multiples."""
    shifts: np.ndarray = ((np.arange(number) * 0.6180339887498949) % 1 - 0.5) * SPREAD
    return shifts


def _limits(distribution: Distribution) -> tuple[float, float]:
    strips = distribution.strips
    values = np.concatenate([*(strip.values for strip in strips),
                             *(np.array(strip.band) for strip in strips if strip.band)])  # fmt: skip
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * (high - low) or abs(low) * 0.01 or 0.01
    if distribution.unit == "fraction":  # no axis to 101%, unless a value lies there
        return min(low, max(0.0, low - pad)), max(high, min(1.0, high + pad))
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within the limits."""
    from matplotlib.ticker import MaxNLocator

    found = [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]
    inside = [tick for tick in found if low <= tick <= high]
    return inside or [low, high]


def table_csv(distributions: Sequence[Distribution]) -> bytes:
    """``distributions.csv``: distribution, strip, metric, run_id, value."""
    rows = [
        (d.name, strip.label, strip.metric, run_id, value)
        for d in distributions
        for strip in d.strips
        for run_id, value in zip(strip.run_ids, strip.values, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["distribution", "strip", "metric", "run_id", "value"])
    stream = io.StringIO()
    frame.to_csv(stream, index=False, lineterminator="\n")
    return stream.getvalue().encode()


def _how_to_read(distributions: Sequence[Distribution]) -> list[str]:
    compared = any(strip.band for d in distributions for strip in d.strips)
    return [JITTER, COMPARED] if compared else [JITTER]


def section(distribution: Distribution, level: int = 3) -> str:
    """A distribution as a fragment of HTML: drawn with the page's own colours, and as a table."""
    notes = " ".join(_how_to_read([distribution]))
    return f'{table(distribution, level)}<p class="aside">{notes}</p>'


def table(distribution: Distribution, level: int = 3) -> str:
    """As :func:`section`, without the words on how to read it."""
    low, high = _limits(distribution)
    how = words.numbers(distribution.unit, low, high)
    says = [words.sentence(distribution.description), words.figure_sentence(distribution.figure)]
    text = escape(" ".join(filter(None, says)))
    parts = [
        f"<h{level}>{escape(words.clean(distribution.title))}</h{level}>",
        f"<p>{text}</p>" if text else "",
        box("Distribution", len(distribution.strips)),
        '<table class="strips" data-sortable><thead><tr><th scope="col">Strip</th>',
        '<th scope="col" class="plot">',
        f"<span>{how.with_unit(low)}</span><span>{how.with_unit(high)}</span></th>",
        '<th scope="col">Lowest</th><th scope="col">Highest</th><th scope="col">Δ</th></tr></thead><tbody>',
    ]
    for strip in distribution.strips:
        n = f"n = {strip.n_examples:,}" if strip.n_examples is not None else ""
        under = escape(words.clip(words.clean(strip.note or n), 60))
        label = escape(words.clip(words.clean(strip.label), 60))
        ends = [
            how.value(f(strip.values)) if len(strip.values) else words.NOTHING for f in (min, max)
        ]
        spread = float(np.ptp(strip.values)) if len(strip.values) > 1 else math.nan
        parts.append(
            f'<tr><th scope="row">{label}<small>{under}</small></th>'
            f'<td class="plot">{_svg(strip, low, high)}</td>'
            f'<td>{ends[0]}</td><td>{ends[1]}</td><td class="d">{how.value(spread)}</td></tr>'
        )
    parts.append("</tbody></table></div>")
    return "".join(parts)


def _svg(strip: Strip, low: float, high: float) -> str:
    # In percent of the width: a view box would keep its shape, and leave the scale above it.
    def x(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    band = ""
    if strip.band:
        width = 100 * (strip.band[1] - strip.band[0]) / (high - low)
        band = (
            f'<rect class="band" x="{x(strip.band[0])}" y="3" width="{max(width, 0.3):.2f}%" '
            'height="24"/>'
        )
    shifts = _jitter(len(strip.values)) / SPREAD * 16
    rings = "".join(
        f'<circle cx="{x(value)}" cy="{15 + shift:.1f}" r="3"/>'
        for value, shift in zip(strip.values, shifts, strict=True)
    )
    mean = ""
    if len(strip.values):
        at = x(float(np.mean(strip.values)))
        mean = f'<line x1="{at}" x2="{at}" y1="3" y2="27"/>'
    return f'<svg aria-hidden="true">{band}{rings}{mean}</svg>'
