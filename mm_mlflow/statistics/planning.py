"""How many more seeds? What a number of runs per configuration would show, at a given deviation."""

from __future__ import annotations

import math
from functools import lru_cache

import scipy

from mm_mlflow.statistics.means import Pooled
from mm_mlflow.statistics.records import Record

SEEDS = (5, 10, 20, 50)
_CHANCE = 0.80  # with which the bound of the deviation, and so the plan, holds


def bound_factor(freedom: int, chance: float = _CHANCE) -> float:
    """Factor from a deviation with these degrees of freedom to its upper bound (normal values).

    1.56, 1.24, 1.12 for 4, 12 and 36 degrees of freedom at 80%.
    """
    return float(math.sqrt(freedom / scipy.stats.chi2.ppf(1 - chance, freedom)))


def half_width(seeds: int) -> float:
    """Half width of a 95% t interval for a mean, in standard deviations: 0.72 at ten seeds."""
    return float(scipy.stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds))


@lru_cache(maxsize=64)
def detectable(seeds: int, power: float = 0.80) -> float:
    """Difference of two levels' means, in standard deviations, that a two-sided t test at 5% with
    ``seeds`` runs per level finds with this power: 2.02 at five, 0.91 at twenty."""
    freedom = 2 * (seeds - 1)
    critical = float(scipy.stats.f.ppf(0.95, 1, freedom))  # t², two-sided

    def lacking(shift: float) -> float:
        return float(scipy.stats.ncf.sf(critical, 1, freedom, shift**2)) - power

    shift = scipy.optimize.brentq(lacking, 1e-6, 3 * math.sqrt(critical))
    return float(shift / math.sqrt(seeds / 2))


class SeedPlan(Record):
    """What this many seeds per configuration would give."""

    seeds: int
    half_width: float
    """Of the 95% interval for a configuration's mean, if the deviation is the one observed."""
    half_width_bound: float
    """The same with the 80% upper bound of the deviation: 4 chances in 5 that it is at most this."""
    detectable: float
    """Difference between two levels that is found with 80% power (two-sided 5%), at that deviation."""
    detectable_bound: float
    """The same with the bound."""


class Planning(Record):
    """How many more seeds."""

    sd: float
    """Run-to-run standard deviation that it starts from."""
    freedom: int
    """Its degrees of freedom."""
    bound_factor: float
    """The 80% upper bound of the deviation is this many times ``sd``."""
    sd_low_factor: float
    """With 90% confidence the true deviation is at least this many times ``sd``."""
    sd_high_factor: float
    """And at most this many times."""
    present: SeedPlan | None = None
    """With as many runs per configuration as there are."""
    seeds: tuple[SeedPlan, ...]


def plan_seeds(found: Pooled, present: int = 0) -> Planning | None:
    """The plan from a variance within configurations; None where there is none.

    ``present`` is how many runs a configuration has now.
    """
    if not found.variance > 0:
        return None
    sd = math.sqrt(found.variance)
    factor = math.sqrt(found.upper(1 - _CHANCE)) / sd
    return Planning(
        sd=sd,
        freedom=found.freedom,
        bound_factor=factor,
        sd_low_factor=math.sqrt(found.lower(0.05)) / sd,
        sd_high_factor=math.sqrt(found.upper(0.05)) / sd,
        present=_planned(present, sd, factor) if present > 1 else None,
        seeds=tuple(_planned(n, sd, factor) for n in SEEDS),
    )


def _planned(n: int, sd: float, factor: float) -> SeedPlan:
    return SeedPlan(
        seeds=n,
        half_width=half_width(n) * sd,
        half_width_bound=half_width(n) * sd * factor,
        detectable=detectable(n) * sd,
        detectable_bound=detectable(n) * sd * factor,
    )
