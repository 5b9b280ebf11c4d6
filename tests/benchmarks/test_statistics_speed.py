"""How long all statistics of an experiment take: 45 runs, 12 metrics, 10,000 test examples.

Run with one thread (OMP_NUM_THREADS=1), as workers have it. The target is 10 s of processor time, which
other programs on the machine do not change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mm_mlflow.statistics import axis, describe, floor, means, multiple, page, planning, ranges
from mm_mlflow.statistics.outcomes import Outcomes

RUNS, EXAMPLES, BINARY, REAL = 45, 10_000, 8, 4
TABLES = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (0, 7), (0, 8)]
LIMIT = 10.0


def outcomes(generator: np.random.Generator, real: bool) -> np.ndarray:
    """``(45, 10000)`` of 0 and 1, or probabilities."""
    logits = 2 + 1.5 * generator.standard_normal((1, EXAMPLES))
    logits = logits + 0.5 * generator.standard_normal((RUNS, EXAMPLES))
    chance = 1 / (1 + np.exp(-logits))
    return chance if real else (generator.random((RUNS, EXAMPLES)) < chance).astype(float)


@pytest.mark.bench
@pytest.mark.parametrize("groups", [1, 20], ids=["all examples", "in a group of 500"])
def test_all_statistics_of_an_experiment(groups: int) -> None:
    """Seconds by part, below the limit; small groups of examples are permuted."""
    generator = np.random.default_rng(0)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        seconds[part] = seconds.get(part, 0.0) + time.process_time() - begin

    configurations = np.split(np.arange(RUNS), 9)
    made = [outcomes(generator, real)[:, ::groups] for real in [False] * BINARY + [True] * REAL]
    caches: tuple[Callable[[], None], ...] = (
        axis._groups.cache_clear,
        ranges.d2.cache_clear,
        ranges.chance_band.cache_clear,
        planning.detectable.cache_clear,
    )
    for clear in caches:
        clear()
    for metric in made:
        values = metric.mean(axis=1)
        table = values.reshape(9, 5)
        with timed("spread"):
            ranges.spread(values)
        with timed("floor"):
            assert floor.sampling_floor(metric, configurations) is not None
        with timed("axis tests"):
            rows = [table[list(levels)] for levels in TABLES]
            multiple.holm([axis.axis_test(list(row), alpha=0.05 / 5).p for row in rows])
        with timed("components"):
            for row in rows:
                axis.components(row)
        with timed("shared seeds"):
            axis.shared_seed_test(table)
        with timed("means and planning"):
            for i, row in enumerate(table):
                means.configuration(str(i), row)
            found = means.pooled(list(table), table)
            means.sd_interval(found)
            planning.plan_seeds(found)
    total = sum(seconds.values())
    print(f"\n{len(made)} metrics, {made[0].shape[1]} examples, {REAL} metrics of probabilities:")
    for part, spent in seconds.items():
        print(f"  {part}: {spent:.2f} s")
    print(f"  all: {total:.2f} s (target {LIMIT:.0f} s)")
    assert total < LIMIT


@pytest.mark.bench
def test_whole_description() -> None:
    """All that a page says of 12 metrics, put together as a report does."""
    generator = np.random.default_rng(0)
    made = [outcomes(generator, real) for real in [False] * BINARY + [True] * REAL]
    ids = tuple(str(i) for i in range(RUNS))
    names = tuple(str(i // 5) for i in range(RUNS))
    examples = np.arange(EXAMPLES).astype(str)
    begin = time.process_time()
    found = []
    for metric in made:
        values = metric.mean(axis=1)
        table = values.reshape(9, 5)
        found.append(
            describe.describe(
                describe.Runs(ids, values, names, tuple(i % 5 for i in range(RUNS))),
                [describe.TableValues(str(rows), table[list(rows)]) for rows in TABLES],
                outcomes=Outcomes("m", ids, examples, metric),
            )
        )
    _, count = page.judge_page(found)
    spent = time.process_time() - begin
    print(f"\n{count.tests} tests of {count.sheets} sheets: {spent:.2f} s (target {LIMIT:.0f} s)")
    assert spent < LIMIT
