"""Per-example outcomes of one metric over many runs: what the sampling floor is made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcomes of one metric: run by example.

    Attributes:
        metric: metric key.
        run_ids: ``(M,)``, the run of each row.
        example_ids: ``(N,)`` strings, the same examples in every run, in one order.
        values: ``(M, N)`` float64 in [0, 1]: the probability that a run's answer is correct, which is
            0 or 1 unless the intervention is random.
        is_mean: whether the metric is the mean of its outcomes; gaps between groups are not.
        copies: ``(N,)`` int64: examples of one number are copies of one another (all runs gave them the
            same logits to the bit); None where no logits are stored that could tell.
    """

    metric: str
    run_ids: tuple[str, ...]
    example_ids: np.ndarray
    values: np.ndarray
    is_mean: bool = True
    copies: np.ndarray | None = None

    @property
    def binary(self) -> bool:
        """Whether every outcome is 0 or 1."""
        return bool(np.isin(self.values, (0.0, 1.0)).all())
