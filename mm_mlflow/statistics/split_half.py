"""Choose on one half of the test examples, report on the other: how much of a gain is optimism.

Whatever is best on some examples is best partly by luck, and looks as good only on these. Values are
taken relative to the mean of all runs on the same half, so that an easy half gains nothing. Each choice
is judged on examples that had no part in it, so the average over many random halves, each used both
ways, is as free of bias as one half is, and less noisy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mm_mlflow.statistics.records import Record, known
from mm_mlflow.statistics.resampling import Choose, Values, chosen


class HalfGain(Record):
    """How much better the selected runs are than all runs, in one metric; positive is better."""

    metric: str
    n_examples: int
    whole: float | None
    """Chosen and read on all examples; null where nothing is selected there."""
    same_half: float
    """Chosen and read on the same half: what is usually reported, of half as many examples."""
    other_half: float
    """Chosen on one half and read on the other: free of optimism."""
    other_half_sd: float | None
    """How far ``other_half`` goes up and down from one halving to the next (standard deviation)."""
    optimism: float
    """``same_half`` minus ``other_half``."""


class SplitHalf(Record):
    """A selection made anew on halves of the test examples."""

    halvings: int
    """Random halves; each is used both ways."""
    n_runs: int
    n_examples: int
    """Examples that are not copies of one another, over all metrics."""
    empty: float
    """Share of the choices that selected no run, which are left out."""
    n_selected: float | None
    """Mean number of selected runs of the others."""
    gains: tuple[HalfGain, ...]
    """Empty where no choice selected any run."""


def split_half(
    values: Values, on: int, choose: Choose, better: Sequence[float | None]
) -> SplitHalf:
    """Select anew on every half, and read the gain there and on the other half.

    Args:
        values: of :func:`.resampling.halved`; first the metrics selected on.
        on: how many of the metrics are selected on.
        choose: the rule.
        better: per metric, 1.0 where more of it is better, -1.0 where less is; None leaves it out.
    """
    masks = [chosen(choose, part[:on]) for part in (values.one, values.other)]
    whole = chosen(choose, [column[None] for column in values.whole[:on]])
    counts = np.concatenate(masks).sum(axis=1)
    gains = []
    for j, (sign, metric) in enumerate(zip(better, values.metrics, strict=True)):
        if sign is None:
            continue
        halves = (values.one[j], values.other[j])
        same, across = (
            sign * np.stack([_gain(v, mask) for v, mask in zip(order, masks, strict=True)])
            for order in (halves, halves[::-1])
        )
        there = np.isfinite(same) & np.isfinite(across)
        if not there.any():
            continue
        each = [
            float(row[ok].mean()) for row, ok in zip(across.T, there.T, strict=True) if ok.any()
        ]
        here, beyond = float(same[there].mean()), float(across[there].mean())
        gains.append(
            HalfGain(
                metric=metric,
                n_examples=values.n_examples[j],
                whole=known(sign * float(_gain(values.whole[j][None], whole)[0])),
                same_half=here,
                other_half=beyond,
                other_half_sd=float(np.std(each, ddof=1)) if len(each) > 1 else None,
                optimism=here - beyond,
            )
        )
    return SplitHalf(
        halvings=len(values.one[0]),
        n_runs=len(values.run_ids),
        n_examples=values.units,
        empty=float(np.mean(counts == 0)),
        n_selected=float(counts[counts > 0].mean()) if counts.any() else None,
        gains=tuple(gains),
    )


def _gain(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """``(R,)``: mean of the chosen minus mean of all, of ``(R, M)``; NaN where none is chosen."""
    number = masks.sum(axis=1)
    picked = np.where(masks, values, 0.0).sum(axis=1) / np.where(number, number, np.nan)
    found: np.ndarray = picked - values.mean(axis=1)
    return found
