"""How sheets speak: names for people, numbers with their unit, and the sentences around them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mm_mlflow.design import Scalar
from mm_mlflow.figures import PAPER
from mm_mlflow.frame import band
from mm_mlflow.sheet import Sheet

NOTHING = "–"
DIVERGED_MARK = "†"
LOWER_BOUND = "≥"
# What stands in a cell that has no value, and what that means.
HOLES = {
    "missing": ("missing", "planned, but no run of it has finished with this metric"),
    "failed": ("failed", "every run of it failed"),
    "excluded": ("left out", "there is a run, left out on purpose"),
    "absent": ("·", "no finished run to show here"),
}
UNPLANNED = "no finished run has these levels and this metric"  # missing, where nobody planned it
_KNOWN = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "mlp": "MLP",
    "cnn": "CNN",
    "conv": "Conv",
    "none": "None",
}


def clean(text: object) -> str:
    """``text`` on one line without control characters, which no format can show."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(printable.split())


def clip(text: str, length: int) -> str:
    """At most ``length`` characters, with an ellipsis where something was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def sentence(text: str) -> str:
    """``text`` with a full stop, unless it ends a sentence already."""
    text = clean(text)
    return text if not text or text[-1] in ".!?" else text + "."


def axis_label(name: str) -> str:
    """``learning_rate`` -> ``Learning rate``; a tag, ``tag:env``, as it is."""
    if ":" in name:
        return clean(name)
    words = clean(clean(name).replace("_", " ")) or clean(name)
    return words[:1].upper() + words[1:]


def level_labels(levels: Sequence[Scalar]) -> list[str]:
    """Levels for people; as they are spelled wherever two would read the same."""
    labels = [_level_label(level) for level in levels]
    return labels if len(set(labels)) == len(labels) else [clean(level) for level in levels]


def _level_label(level: Scalar) -> str:
    text = clean(level)
    if isinstance(level, float) and len(text) > 10:  # drawn at random: nobody reads 17 digits
        return f"{level:.5g}"
    if not isinstance(level, str) or not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z]+)*", text):
        return text
    return " ".join(_word(word) for word in text.split("_"))


def _word(word: str) -> str:
    if found := re.fullmatch(r"resnet(\d+)", word):
        return f"ResNet-{found[1]}"
    return _KNOWN.get(word, word)


def plural(number: int, noun: str) -> str:
    """``1 run``, ``1,078 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def probability(value: float | None) -> str:
    """A p or a q to two digits: ``0.012``, ``<0.001``."""
    if value is None:
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def equals(name: str, value: float | None) -> str:
    """``p = 0.012``, ``q < 0.001``, for sentences; a dash where there is none."""
    text = probability(value)
    if value is None:
        return text
    return f"{name} < {text[1:]}" if text.startswith("<") else f"{name} = {text}"


@dataclass(frozen=True)
class Numbers:
    """How the values of one metric are written.

    Attributes:
        percent: fractions are shown as percent, and their differences in (percentage) points.
        decimals: digits after the point; of the mantissa where ``exponent``.
        exponent: whether values are so large or small that they need one.
    """

    percent: bool
    decimals: int
    exponent: bool = False

    def value(self, value: float) -> str:
        """``97.36``, without its unit: tables say it once."""
        if not math.isfinite(value):
            return NOTHING
        text = f"{100 * value if self.percent else value:.{self.decimals}{self._kind}}"
        return text if float(text) else text.removeprefix("-")

    def with_unit(self, value: float) -> str:
        """``97.36%``, for sentences."""
        return self.value(value) + ("%" if self.percent and math.isfinite(value) else "")

    def points(self, value: float) -> str:
        """A difference with its unit, for sentences: ``2.36 points``."""
        return self.value(value) + (f" {self.points_word}" if self.percent else "")

    def mean_sd(self, mean: float, sd: float) -> str:
        """``97.36 ± 0.31``; without the second part where a spread needs more runs."""
        return self.value(mean) + (f" ± {self.value(sd)}" if math.isfinite(sd) else "")

    @property
    def points_word(self) -> str:
        """The unit of differences, empty for raw metrics."""
        return "points" if self.percent else ""

    @property
    def _kind(self) -> str:
        return "e" if self.exponent else "f"


def numbers(unit: str, low: float, high: float) -> Numbers:
    """Percent with two decimals for fractions; else what tells values from ``low`` to ``high``
    apart: three significant digits of their range, and at most nine of the values."""
    if unit == "fraction":
        return Numbers(percent=True, decimals=2)
    size = max((abs(v) for v in (low, high) if math.isfinite(v)), default=0.0)
    if size == 0:
        return Numbers(percent=False, decimals=2)
    magnitude = math.floor(math.log10(size))
    spread = min(high - low, sys.float_info.max)
    step = math.floor(math.log10(spread)) - 2 if spread > 0 else magnitude - 3
    step = max(step, magnitude - 8)
    if magnitude >= 7 or magnitude <= -5:
        return Numbers(percent=False, decimals=max(0, magnitude - step), exponent=True)
    return Numbers(percent=False, decimals=max(0, -step))


def examples_sentence(sheet: Sheet) -> str:
    """On how many examples every value stands, where that is known."""
    if sheet.n_examples is None:
        return ""
    return f"Each value is over {plural(sheet.n_examples, 'example')}."


def figure_sentence(number: int | None) -> str:
    """Which figure of the paper shows the same, for sheets and distributions."""
    return (
        "" if number is None else f"Figure {number} of {PAPER} shows this for the paper's models."
    )


def delta_sentence(sheet: Sheet, how: Numbers) -> str:
    """Δ over the whole sheet in words."""
    if sheet.n_runs == 0:
        return "No run has a value yet."
    if sheet.ends is None:
        return "Only one run has a value; a difference needs two."
    ends = "the lowest and the highest"
    if sheet.unit == "fraction":  # named in the order of the values that follow, the lowest first
        ends = "the worst and the best" if sheet.higher_is_better else "the best and the worst"
    of = f"{ends} of {sheet.n_runs:,} runs" if sheet.n_runs > 2 else "the two runs"
    bound = "" if sheet.complete else "at least "
    low, high = map(how.with_unit, sheet.ends)
    return f"Between {of} lie {bound}{how.points(sheet.delta_all)} ({low} to {high})."


def notices(sheet: Sheet, how: Numbers) -> list[str]:
    """What a reader must know before reading the numbers, the gravest first."""
    found = []
    if not sheet.complete:
        found.append(
            f"Incomplete: {plural(len(sheet.missing), 'cell' if sheet.inferred else 'planned run')} "
            f"{'has' if len(sheet.missing) == 1 else 'have'} no value, so every Δ is a lower bound "
            f"({LOWER_BOUND})."
        )
    if diverged := sheet.n_diverged:
        runs = plural(diverged, "run")
        found.append(
            f"{runs} diverged ({DIVERGED_MARK}): with {'it' if diverged == 1 else 'them'} Δ over "
            f"all is {how.points(sheet.delta_all)}, without "
            f"{'it' if diverged == 1 else 'them'} {how.points(sheet.delta_all_healthy)}."
        )
    if sheet.within is not None:
        found.append(
            f"Only runs within {band(sheet.within, sheet.within_unit)} of the best accuracy are counted; "
            f"{sheet.n_excluded} are left out on purpose."
        )
    if sheet.mixed:
        found.append("Mixed: runs that were measured with different parameters stand side by side.")
    if sheet.pooled:
        found.append(
            f"Every entry is a mean over {sheet.pooled}; Δ over all is over all {sheet.n_runs:,} single "
            "runs."
        )
    if any(not table.paired for table in sheet.tables):
        found.append(
            "Columns only number the runs of a row: the runs of a column have nothing in common, so no Δ "
            "over levels is given for them."
        )
    if math.isfinite(sheet.spread):
        found.append(
            f"{plural(len(sheet.duplicates), 'cell')} {'has' if len(sheet.duplicates) == 1 else 'have'} "
            f"several runs, of which the latest counts; they differ by up to {how.points(sheet.spread)}."
        )
    shown = {run for table in sheet.tables for row in table.run_ids for run in row if run}
    if sheet.n_runs > len(shown) and not sheet.pooled and not sheet.tables:
        found.append(
            f"No table: no two runs differ in one param alone. Δ over all is over all {sheet.n_runs:,} "
            "runs; their distribution is in the report."
        )
    elif sheet.n_runs > len(shown) and not sheet.pooled:
        found.append(
            f"The tables show runs around the default configuration; Δ over all is over all "
            f"{sheet.n_runs:,} runs."
        )
    return found
