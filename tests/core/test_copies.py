"""Copies among examples, told by models' answers."""

from __future__ import annotations

import numpy as np
import pytest

from mm_mlflow.statistics.copies import copies, numbered


def logits(seed: int, examples: int = 1000, classes: int = 10) -> np.ndarray:
    """Of one model; examples 3 and 900, and 4, 5 and 6, are copies."""
    found = np.random.default_rng(seed).normal(size=(examples, classes)).astype(np.float32)
    found[900] = found[3]
    found[5] = found[6] = found[4]
    return found


def groups(numbers: np.ndarray) -> set[tuple[int, ...]]:
    """The sets of examples that share a number."""
    found = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    return {tuple(members.tolist()) for members in found if len(members) > 1}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_rows_are_numbered_by_their_bits(dtype: type) -> None:
    """As a dictionary of bytes does; of any type, layout and width, none included."""
    rows = np.random.default_rng(0).integers(0, 3, size=(200, 4)).astype(dtype)
    for given in (rows, np.asfortranarray(rows), rows[::2, 1:]):
        numbers = numbered(given)
        seen: dict[bytes, int] = {}
        for row, number in zip(given, numbers.tolist(), strict=True):
            assert seen.setdefault(row.tobytes(), number) == number
        assert sorted(seen.values()) == list(range(len(seen)))
        assert numbers.dtype == np.int64
    assert numbered(rows[:0]).shape == (0,)


def test_nan_and_the_sign_of_zero_are_bits() -> None:
    """A NaN equals itself, and -0.0 is not 0.0."""
    rows = np.array([[np.nan], [0.0], [np.nan], [-0.0]], np.float32)
    numbers = numbered(rows)
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3


def test_copies_are_what_every_run_answers_alike() -> None:
    """Copies are found; examples that only some runs confuse are none."""
    runs = [logits(seed) for seed in range(5)]
    runs[2][10] = runs[2][11]
    found = copies(np.stack([numbered(run) for run in runs]), 10)
    assert found is not None
    assert groups(found) == {(3, 900), (4, 5, 6)}
    assert found.max() == 1000 - 3 - 1


def test_one_good_run_is_enough() -> None:
    """Runs that diverged answer NaN, or the same to all."""
    diverged = [np.full((1000, 10), value, np.float32) for value in (np.nan, 0.1)]
    for place in range(3):
        runs = [*diverged]
        runs.insert(place, logits(0))
        found = copies(np.stack([numbered(run) for run in runs]), 10)
        assert found is not None
        assert groups(found) == {(3, 900), (4, 5, 6)}


def test_a_test_set_that_holds_all_images_three_times() -> None:
    """However few different examples there are, models of real-valued answers tell."""
    runs = [np.tile(logits(seed, 950)[:900], (3, 1)) for seed in range(3)]
    found = copies(np.stack([numbered(run) for run in runs]), 10)
    assert found is not None
    assert found.max() == 898 - 1
    assert (found[:900] == found[900:1800]).all()


@pytest.mark.parametrize("answers", [1, 10, 60])
def test_models_of_few_answers_cannot_tell(answers: int) -> None:
    """Labels, or the leaves of trees: examples that share answers by chance are no copies."""
    rng = np.random.default_rng(1)
    runs = np.stack([rng.integers(0, answers, 1000) for _ in range(2)])
    assert copies(runs, 10) is None
    assert copies(np.tile(runs[:1], (4, 1)) % 10, 10) is None  # labels on which all runs agree


def test_few_answers_that_differ_all_the_same() -> None:
    """Where no two examples are alike, nothing is a copy, whatever the models are."""
    runs = np.stack([np.arange(9) % 3, np.arange(9) // 3])
    found = copies(runs, 3)
    assert found is not None
    assert sorted(found.tolist()) == list(range(9))
