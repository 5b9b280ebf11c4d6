"""Which runs a rule keeps: booleans by cell id, so that ``frame[mask]`` is again a frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd

from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import Frame
from mm_mlflow.rules import Pareto, Require, Rule, Threshold, Top, parse_top
from mm_mlflow.statistics.resampling import Choose


def eligible(frame: Frame, metrics: Iterable[str]) -> pd.Series:
    """Booleans by cell id: runs with a finite value of every one of ``metrics``.

    Raises:
        InvalidInput: a metric that no run has.
    """
    names = list(metrics)
    for metric in names:
        frame.require(metric)
    return frame.counted & frame.values[names].notna().all(axis=1)


def top_fraction(
    frame: Frame, metrics: Sequence[str], fraction: Fraction | float | str
) -> pd.Series:
    """Runs among the best ⌈``fraction`` n⌉ of *every* metric, n being the eligible runs; ties kept.

    ``fraction`` is in (0, 1], and the count exact: 0.07 of 100 runs are 7, though the double nearest
    to 0.07 is a little more.
    """
    share = fraction if isinstance(fraction, Fraction) else parse_top(fraction).fraction
    return select(frame, Top(share), metrics)


def pareto_front(frame: Frame, metrics: Sequence[str]) -> pd.Series:
    """Eligible runs that no other dominates: at least as good in every metric, better in one."""
    return select(frame, Pareto(), metrics)


def thresholds(frame: Frame, bounds: Sequence[Threshold]) -> pd.Series:
    """Runs that keep every bound; a run without a value does not."""
    return select(frame, Require(tuple(bounds)), [bound.metric for bound in bounds])


def select(frame: Frame, rule: Rule, on: Sequence[str]) -> pd.Series:
    """The mask of ``rule`` on the metrics ``on``."""
    metrics = list(dict.fromkeys([*on, *_bounded(rule)]))
    mask = eligible(frame, metrics)
    table = frame.values.loc[mask, metrics].to_numpy(dtype=float)
    mask[mask] = chooser(frame, rule, metrics)(table)
    return mask


def _bounded(rule: Rule) -> list[str]:
    return [bound.metric for bound in rule.thresholds] if isinstance(rule, Require) else []


def chooser(frame: Frame, rule: Rule, on: Sequence[str]) -> Choose:
    """``rule`` as a function of ``(n, K)`` finite values of the metrics ``on``, which gives ``(n,)``
    booleans.

    Raises:
        InvalidInput: nothing says whether more of a metric is better, and the rule needs to know.
    """
    if isinstance(rule, Require):
        bounds = [(list(on).index(bound.metric), bound) for bound in rule.thresholds]
        return lambda values: _kept(values, bounds)
    signs = np.array([sign(frame, metric) for metric in on])
    if isinstance(rule, Pareto):
        return lambda values: _front(values * signs)
    share = rule.fraction
    return lambda values: _best(values * signs, share)


def _best(points: np.ndarray, share: Fraction) -> np.ndarray:
    """Of ``(n, K)`` values, more being better: among the best ⌈``share`` n⌉ in every column."""
    count = math.ceil(share * len(points))
    if not count:
        return np.zeros(0, dtype=bool)
    last = np.sort(points, axis=0)[-count]
    found: np.ndarray = (points >= last).all(axis=1)
    return found


def _front(points: np.ndarray) -> np.ndarray:
    """Of ``(n, K)`` values, more being better: those that no other dominates."""
    dominated = [
        bool(((points >= point).all(axis=1) & (points > point).any(axis=1)).any())
        for point in points
    ]
    return ~np.array(dominated, dtype=bool)


def _kept(values: np.ndarray, bounds: Sequence[tuple[int, Threshold]]) -> np.ndarray:
    mask = np.ones(len(values), dtype=bool)
    for place, bound in bounds:
        column = values[:, place]
        mask &= column >= bound.bound if bound.sense == ">=" else column <= bound.bound
    return mask


def sign(frame: Frame, metric: str) -> float:
    """1.0 where more of the metric is better, -1.0 where less is."""
    higher = frame.higher_is_better(metric)
    if higher is None:
        raise InvalidInput(
            f"nothing says whether more of metric {metric!r} is better: --maximize or --minimize it, or "
            "use --require"
        )
    return 1.0 if higher else -1.0
