"""What a selection is: rules, what each chose, and what that does to every metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from mm_mlflow.distribution import Distribution
from mm_mlflow.frame import ExperimentRef
from mm_mlflow.rules import Rule
from mm_mlflow.statistics.regret import Regret
from mm_mlflow.statistics.split_half import SplitHalf
from mm_mlflow.statistics.stability import Stability
from mm_mlflow.statistics.subsets import Chance, SubsetEffect

Sharing = Literal["yes", "no", "likely", "unknown"]


@dataclass(frozen=True)
class Spread:
    """``n`` values of one metric; NaN where there are too few."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def delta(self) -> float:
        """Highest minus lowest; NaN below two values."""
        return self.high - self.low if self.n > 1 else math.nan

    def worst(self, higher_is_better: bool | None) -> float:
        """The lowest or the highest, as the metric has it; NaN where nobody knows."""
        return math.nan if higher_is_better is None else self.low if higher_is_better else self.high


@dataclass(frozen=True)
class Effect:
    """One metric before and after one selection.

    Attributes:
        before: over all eligible runs that have the metric.
        after: over the selected ones.
        chance: random subsets as large as ``after``; None where it is empty.
        sharing: whether its examples are among those that were selected on: ``yes``, ``no``, ``likely``
            (another split of the same data, which may hold the same examples in another form) or
            ``unknown`` (nothing says on which examples it was measured).
        shares_with: titles of the metrics selected on that it shares, or may share, examples with.
        subsets: comparison with random choices; None where the metric was selected on, or shares or
            may share its examples with one that was: there, 66 to 69% of such tests are false alarms.
        q: of the verdict's p, over all metrics and rules of the selection (Benjamini and Hochberg).
    """

    metric: str
    title: str
    unit: str
    n_examples: int | None
    higher_is_better: bool | None
    selected_on: bool
    before: Spread
    after: Spread
    chance: Chance | None
    sharing: Sharing = "no"
    shares_with: tuple[str, ...] = ()
    subsets: SubsetEffect | None = None
    q: float | None = None


@dataclass(frozen=True, eq=False)
class Choice:
    """What one rule chose.

    Attributes:
        mask: booleans by cell id.
        reason: why it is empty, or what makes it hard to read; empty otherwise.
        halves: chosen on one half of the test examples, read on the other; None without predictions.
        stability: chosen on other test examples of the same kind; None without predictions.
        without: why ``halves`` and ``stability`` are None where predictions were read.
    """

    rule: Rule
    mask: pd.Series
    run_ids: tuple[str, ...]
    labels: tuple[str, ...]
    effects: tuple[Effect, ...]
    reason: str
    halves: SplitHalf | None = None
    stability: Stability | None = None
    without: str = ""


@dataclass(frozen=True, eq=False)
class Selection:
    """Rules on the same metrics, side by side.

    Attributes:
        on: metric keys that were selected on.
        shown: metric keys whose distributions are shown.
        eligible: number of runs with a finite value of every metric of ``on``.
        within: only runs this close to the best accuracy were considered, or None.
        choices: one per rule.
        distributions: one per metric of ``shown``: all runs, then each choice.
        cells: tidy: run, configuration, seed, one column of booleans per rule, one per metric.
        notes: sentences about what readers must know.
        regrets: per metric, what choosing by accuracy alone costs; empty where no run has accuracy.
        unhalved: by metric key, why it is not on halves, where predictions were read.
        judged: how many comparisons with random choices have a p.
        labels: by run id, the names of the eligible runs.
    """

    experiment: ExperimentRef
    design_id: str
    on: tuple[str, ...]
    shown: tuple[str, ...]
    eligible: int
    within: float | None
    choices: tuple[Choice, ...]
    distributions: tuple[Distribution, ...]
    cells: pd.DataFrame
    notes: tuple[str, ...]
    regrets: tuple[Regret, ...] = ()
    unhalved: Mapping[str, str] = field(default_factory=dict)
    judged: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
