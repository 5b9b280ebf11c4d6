"""Which examples of a test set are copies of one another, told by what models answer."""

from __future__ import annotations

import numpy as np

# A run tells examples apart by itself if it alone has this part of the answers that all runs together
# have. Measured logits give 1 less a few in 10,000 (rounding); trees, tables of scores and models that
# say only labels give some percent, because many of their examples share an answer by chance.
TELLING = 0.99


def numbered(rows: np.ndarray) -> np.ndarray:
    """``(N,)`` int64 from 0: the number of each row, the same for rows that are equal to the bit.

    Args:
        rows: ``(N, K)`` numbers of any type; NaNs of one bit pattern are equal.
    """
    rows = np.ascontiguousarray(rows)
    if not rows.size:
        return np.zeros(len(rows), np.int64)
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    return np.unique(whole, return_inverse=True)[1].astype(np.int64)


def copies(answers: np.ndarray, classes: int) -> np.ndarray | None:
    """``(N,)`` int64 from 0: examples of one number got the same answer from every run.

    One run that tells all examples apart is enough, so that diverged runs, which answer all examples
    alike, do no harm. Where no run does, equal answers are no sign of equal examples. A copy that was
    alone in its batch may be missed: models' answers to it can differ in the last bit.

    Args:
        answers: ``(M, N)``, of each run the :func:`numbered` logits.
        classes: columns that the logits have: models that give a label have as many answers at most.

    Returns:
        The numbers, or None where the runs' answers are too few to tell.
    """
    together = numbered(answers.T)
    known = len(np.unique(together))
    if known == len(together):
        return together
    alone = max(len(np.unique(run)) for run in answers)
    return together if known > classes and alone >= TELLING * known else None
