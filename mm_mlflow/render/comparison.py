"""A reproduction beside its original: rows for the terminal, and the run's description."""

from __future__ import annotations

import math

from mm_mlflow.comparison import Comparison, Pair
from mm_mlflow.render import words
from mm_mlflow.render.description import cut
from mm_mlflow.render.md import escape, table

HEAD = ("Metric", "Original", "Reproduction", "Difference")
SHOWN = 30  # rows of the description


def row(pair: Pair) -> tuple[str, str, str, str]:
    """One metric of both runs, in words."""
    if pair.equal:
        gap = "equal"
    else:
        gap = "not a number" if math.isnan(pair.difference) else f"{pair.difference:.3g}"
    return pair.metric, f"{pair.original:.6g}", f"{pair.reproduction:.6g}", gap


def digest(comparison: Comparison, name: str, link: str) -> str:
    """Markdown: what was reproduced, the outcome, and the metrics that differ (all, if none does).

    ``name`` is the original's, ``link`` where the UI shows it.
    """
    original = escape(words.clip(words.clean(name), 200))
    lines = [
        f"# Reproduction of [{original}]({link})",
        "",
        "The same cell, trained and measured again.",
        "",
    ]
    lines += [f"- {escape(words.clip(text, 600))}" for text in comparison.sentences()]
    pairs = comparison.differing or comparison.pairs
    rows = [[escape(text) for text in row(pair)] for pair in pairs[:SHOWN]]
    lines += ["", *table(HEAD, rows)]
    if left := len(pairs) - len(rows):
        lines.append(f"\n… and {words.plural(left, 'more metric')}: see reproduction.json.")
    return cut("\n".join(lines) + "\n")
