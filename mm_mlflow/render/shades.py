"""Shades for values: one ramp for light surroundings, one for dark, each with one legible ink."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = 24  # shades that HTML tells apart


@dataclass(frozen=True)
class Ramp:
    """A ramp of backgrounds from ``low`` to ``high`` on which text of colour ``ink`` is legible."""

    ink: str
    low: str
    high: str

    def shade(self, position: float) -> str:
        """The colour at ``position`` in [0, 1], as ``#rrggbb``."""
        ends = zip(_channels(self.low), _channels(self.high), strict=True)
        return "#" + "".join(f"{round(a + (b - a) * position):02x}" for a, b in ends)


LIGHT = Ramp(ink="#131a22", low="#f1f6fb", high="#62a8dc")
DARK = Ramp(ink="#eef3f8", low="#1a232d", high="#2a6ba3")


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` as WCAG 2 defines it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG 2 defines it, from 1 to 21."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def step(position: float) -> int:
    """The shade of HTML nearest to ``position`` in [0, 1]."""
    return round(position * (STEPS - 1))


def css(selector: str, ramp: Ramp) -> str:
    """One rule per shade."""
    return "".join(
        f"{selector} .s{i}{{background:{ramp.shade(i / (STEPS - 1))}}}" for i in range(STEPS)
    )
