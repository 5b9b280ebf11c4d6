"""Would the same runs be selected with other test examples of the same kind?"""

from __future__ import annotations

import numpy as np
import scipy

from mm_mlflow.statistics.records import Record
from mm_mlflow.statistics.resampling import Choose, Values, chosen

CORE = 0.8  # of the resamples: a run that is selected so often belongs to the core


class RunShare(Record):
    """How often one run is selected."""

    run_id: str
    selected: bool
    """Whether it is with the examples as they are."""
    share: float
    """Of the resamples, those that select it."""


class Stability(Record):
    """A selection made anew on test examples drawn with replacement from those that are there."""

    resamples: int
    n_runs: int
    n_selected: int
    """With the examples as they are."""
    mean_selected: float
    empty: float
    """Share of the resamples that select no run."""
    jaccard: float | None
    """Mean of |both| / |either| of the actual selection and that of a resample; null where the actual one
    is empty."""
    jaccard_by_chance: float | None
    """The same of the actual selection and random ones of the resamples' sizes."""
    core: int
    """Runs that are selected in at least 80% of the resamples."""
    runs: tuple[RunShare, ...]


def stability(values: Values, choose: Choose) -> Stability:
    """Select anew in every resample.

    Args:
        values: of :func:`.resampling.resampled`, of the metrics selected on.
        choose: the rule.
    """
    masks = chosen(choose, values.one)
    (actual,) = chosen(choose, [column[None] for column in values.whole])
    sizes, shares, number = masks.sum(axis=1), masks.mean(axis=0), int(actual.sum())
    jaccard = by_chance = None
    if number:
        jaccard = float(np.mean((masks & actual).sum(axis=1) / (masks | actual).sum(axis=1)))
        by_chance = _by_chance(number, sizes, len(actual))
    return Stability(
        resamples=len(masks),
        n_runs=len(actual),
        n_selected=number,
        mean_selected=float(sizes.mean()),
        empty=float(np.mean(sizes == 0)),
        jaccard=jaccard,
        jaccard_by_chance=by_chance,
        core=int((shares >= CORE).sum()),
        runs=tuple(
            RunShare(run_id=run_id, selected=bool(was), share=float(share))
            for run_id, was, share in zip(values.run_ids, actual, shares, strict=True)
        ),
    )


def _by_chance(number: int, sizes: np.ndarray, n: int) -> float:
    """Expected Jaccard similarity of a set of ``number`` of ``n`` with random subsets of ``sizes``."""
    expected = {}
    for size in np.unique(sizes).tolist():
        both = np.arange(min(number, size) + 1)
        weights = scipy.stats.hypergeom.pmf(both, n, number, size)
        expected[size] = float(weights @ (both / (number + size - both)))
    return float(np.mean([expected[size] for size in sizes.tolist()]))
