"""Sheets of runs that any program made: which params are axes, which is the seed, what the default is.

Nothing is known but what MLflow returns: params and tags as text, metrics, who is nested in whom.
What was decided, and why, is in the plan (``ignored``, ``candidates``, ``notes``), and everything can be
asked for otherwise (:class:`Asked`). In this order:

1. :mod:`.runs`: which runs are cells;
2. :mod:`.columns`: params and tags as typed columns, numbers in order, one spelling for each level;
3. :mod:`.axes`: which column is the seed, which are axes, and why the others are not;
4. :mod:`.grid`: the default configuration, and the tables around it.
"""

from __future__ import annotations

from mm_mlflow.inference.asked import Asked
from mm_mlflow.inference.infer import infer

__all__ = ["Asked", "infer"]
