"""Selection of models (Section 4), and what it does to metrics that it did not look at (Figure 9).

A rule gives booleans by cell id, so that ``frame[mask]`` is again a frame. Beside every effect stands
what a random subset of the same size would show: fewer runs span a smaller range by chance alone.
"""

from mm_mlflow.selection.build import build_selection
from mm_mlflow.selection.choosing import pareto_front, select, thresholds, top_fraction
from mm_mlflow.selection.halves import ACCURACY
from mm_mlflow.selection.records import Choice, Effect, Selection

__all__ = [
    "ACCURACY", "Choice", "Effect", "Selection", "build_selection", "pareto_front", "select", "thresholds",
    "top_fraction",
]  # fmt: skip
