"""The table of ``docs/paper_numbers.md``: what chance alone would give for the paper's printed Δ.

``python docs/paper_numbers.py`` prints it; a test compares it with the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mm_mlflow.statistics.ranges import chance_band, d2


@dataclass(frozen=True)
class Printed:
    """A Δall of the paper.

    Attributes:
        delta: in points.
        n: test examples; the paper prints none of them but for what its percentages imply.
        runs: distinct models (DESIGN: 9 configurations of UTKFace and 7 of CIFAR10-Skewed, 5 seeds each).
        rate: accuracy, where the paper's text tells it, else None.
        accuracy: Δall and n of accuracy on the same data.
    """

    what: str
    delta: float
    n: int
    runs: int
    rate: float | None
    accuracy: tuple[float, int]


UTK, CIFAR = (1.12, 4741), (1.63, 10_000)
PRINTED = (
    Printed("UTKFace, accuracy", 1.12, 4741, 45, 0.926, UTK),
    Printed("UTKFace, Asian", 3.24, 679, 45, None, UTK),
    Printed("UTKFace, Asian 59+, n = 52", 9.62, 52, 45, 0.933, UTK),
    Printed("UTKFace, Asian 59+, n = 104", 9.62, 104, 45, 0.933, UTK),
    Printed("CIFAR10-Skewed, accuracy", 1.63, 10_000, 35, None, CIFAR),
    Printed("CIFAR10-Skewed, GS minority, n = 242", 11.16, 242, 35, None, CIFAR),
    Printed("CIFAR10-Skewed, GS minority, n = 251", 11.16, 251, 35, None, CIFAR),
)
HEAD = (
    "Δall of",
    "printed",
    "n",
    "runs",
    "÷ d2",
    "guide: expected (95%)",
    "disagreement needed",
    "× accuracy's Δ",
    "√ of n alone",
)


def guide(item: Printed) -> tuple[float, float, float]:
    """Binomial upper guide for the range in points: expected, and 95% of what chance gives."""
    rate = 0.5 if item.rate is None else item.rate
    expected = 100 * d2(item.runs) * math.sqrt(rate * (1 - rate) / item.n)
    low, high = chance_band((item.runs,))
    return expected, low * expected, high * expected


def disagreement(item: Printed) -> float:
    """Share of examples that two runs would have to answer differently (one right, one wrong) for flips
    alone to give the printed Δ on average: two runs that differ on a share r of the examples have
    Σ_i Var_i = N r / 2."""
    return 2 * item.n * (item.delta / 100 / d2(item.runs)) ** 2


def rows() -> Iterator[tuple[str, ...]]:
    """Rows of :data:`HEAD`."""
    for item in PRINTED:
        expected, low, high = guide(item)
        most = "≤ " if item.rate is None else ""
        delta, n = item.accuracy
        same = item.n == n
        yield (
            item.what,
            f"{item.delta:.2f}",
            f"{item.n:,}",
            str(item.runs),
            f"{item.delta / d2(item.runs):.2f}",
            f"{most}{expected:.1f} ({low:.1f} to {high:.1f})",
            f"{100 * disagreement(item):.0f}%",
            "" if same else f"{item.delta / delta:.2f}",
            "" if same else f"{math.sqrt(n / item.n):.2f}",
        )


def table() -> str:
    """The table as Markdown."""
    lines = [HEAD, (":--", *["--:"] * (len(HEAD) - 1)), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
