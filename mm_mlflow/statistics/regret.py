"""What choosing by one metric alone costs in the others.

The best of many runs is best partly by luck, so the regret that the same examples show is too large: of
a random run as well, which stands beside it. Chosen on one half of the test examples and read on the
other, the comparison is with the run that the other metric itself would have chosen there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mm_mlflow.statistics.records import Record
from mm_mlflow.statistics.resampling import Values


class HalfRegret(Record):
    """Chosen on one half of the test examples, read on the other; mean over random halves."""

    halvings: int
    n_runs: int
    regret: float
    """The run that is best in this metric on one half, minus the run that is best by the reference there:
    both read on the other half. May be negative."""
    random_regret: float
    """The same minus the mean of all runs."""


class Regret(Record):
    """How much worse in ``metric`` is the run that is best by ``reference``; positive is worse."""

    reference: str
    metric: str
    n_runs: int
    chosen: float
    """Value of the run that is best by the reference; the mean over several that are equal there."""
    best: float
    mean: float
    regret: float
    """How much worse ``chosen`` is than ``best``."""
    random_regret: float
    """How much worse the mean run is than ``best``."""
    halves: HalfRegret | None = None


def regret(
    reference: tuple[str, np.ndarray, float], metric: tuple[str, np.ndarray, float]
) -> Regret:
    """The regret in ``metric`` of choosing by ``reference`` alone.

    Args:
        reference: key, ``(n,)`` finite values of n at least 1 runs, and 1.0 where more of it is better,
            -1.0 where less is.
        metric: the same of the other metric, over the same runs.
    """
    key, judged, sign = metric
    chosen = float(judged[_best(reference[2] * reference[1])].mean())
    best = sign * float((sign * judged).max())
    return Regret(
        reference=reference[0],
        metric=key,
        n_runs=len(judged),
        chosen=chosen,
        best=best,
        mean=float(judged.mean()),
        regret=sign * (best - chosen),
        random_regret=sign * (best - float(judged.mean())),
    )


def half_regrets(
    values: Values, reference: int, better: Sequence[float | None]
) -> dict[str, HalfRegret]:
    """By metric key, the regret on the half that had no part in the choice.

    Args:
        values: of :func:`.resampling.halved`.
        reference: place of the metric to choose by.
        better: per metric, 1.0 where more of it is better, -1.0 where less is; None leaves it out.
    """
    by = (better[reference] or 1.0) * np.stack((values.one[reference], values.other[reference]))
    found = {}
    for j, (key, sign) in enumerate(zip(values.metrics, better, strict=True)):
        if j == reference or sign is None:
            continue
        mine = sign * np.stack((values.one[j], values.other[j]))  # (half, R, M)
        differences = [
            (float(read[_best(itself)].mean() - read[_best(first)].mean()),
             float(read[_best(itself)].mean() - read.mean()))
            for here, there in ((0, 1), (1, 0))
            for first, itself, read in zip(by[here], mine[here], mine[there], strict=True)
            if np.isfinite((first, itself, read)).all()
        ]  # fmt: skip
        if differences:
            regret_of, random = np.mean(differences, axis=0).tolist()
            found[key] = HalfRegret(
                halvings=len(values.one[j]),
                n_runs=len(values.run_ids),
                regret=regret_of,
                random_regret=random,
            )
    return found


def _best(values: np.ndarray) -> np.ndarray:
    """Booleans: the highest, and those equal to it but for the rounding of a mean of many outcomes."""
    top = values.max()
    best: np.ndarray = values >= top - 8 * np.spacing(abs(top))
    return best
