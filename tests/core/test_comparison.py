"""Two runs of one cell compared: what counts as equal, and how a difference is told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_mlflow.comparison import Outcome, compare, largest_difference

ENVIRONMENT = {"torch": "2.14.1", "threads": 1, "git_commit": None}


def outcome(metrics: dict[str, float], **environment: object) -> Outcome:
    logits = {"test": np.array([[0.5, -1.0], [2.0, 3.0]], dtype=np.float32)}
    return Outcome(metrics, logits, {**ENVIRONMENT, **environment})


@given(
    st.dictionaries(st.sampled_from("abcd"), st.floats(), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.floats(), min_size=1),
)
def test_equal_means_the_same_bits_of_every_metric(
    old: dict[str, float], new: dict[str, float]
) -> None:
    """Against numpy's view of the bits; NaN is one value, and a metric that is not there is none."""

    def bits(value: float) -> int:
        return 0 if math.isnan(value) else int(np.float64(value).view(np.int64)) + 1

    found = compare(outcome(old), outcome(new))
    same = {key for key in old if key in new and bits(old[key]) == bits(new[key])}
    assert {pair.metric for pair in found.pairs if pair.equal} == same
    assert set(found.missing) == set(old) - set(new)
    assert found.equal == (same == set(old))
    json.dumps(found.to_dict(), allow_nan=False)


def test_seconds_are_not_compared() -> None:
    """Nor are they all that a comparison may stand on."""
    old = outcome({"system/train_seconds": 1.0, "accuracy": 0.5})
    assert compare(old, outcome({"system/train_seconds": 2.0, "accuracy": 0.5})).equal
    only = outcome({"system/train_seconds": 1.0})
    assert not compare(only, only).equal


def test_one_bit_of_one_logit_is_a_difference() -> None:
    """Although every metric is the same; its size is told."""
    old, new = outcome({"accuracy": 0.5}), outcome({"accuracy": 0.5})
    new.logits["test"][1, 0] = np.nextafter(np.float32(2), np.float32(3))
    found = compare(old, new)
    assert not found.equal
    assert found.logits == {"test": pytest.approx(2**-22)}
    assert "All 1 metrics are equal" in found.sentences()[0]
    assert "differ by up to 2.38e-07 (test)" in found.sentences()[1]
    del new.logits["test"]
    assert not compare(old, new).equal  # what is not there is not equal
    assert compare(new, old).equal  # what was never kept can be told of nobody


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([[np.nan, np.inf]], [[np.nan, np.inf]], 0),
        ([[np.nan, 1.0]], [[1.0, 1.0]], math.inf),
        ([[np.inf, 1.0]], [[1.0, 1.0]], math.inf),
        ([[1.0, 1.0]], [[1.0, 1.5]], 0.5),
        ([[1.0, 1.0]], [[1.0]], math.inf),
    ],
)
def test_logits_that_are_not_finite(
    old: list[list[float]], new: list[list[float]], expected: float
) -> None:
    """Equal to themselves, infinitely far from numbers; other shapes cannot be equal."""
    found = largest_difference(np.float32(old), np.float32(new))
    assert found == expected


def test_kept_logits_of_lower_precision_are_compared_in_it() -> None:
    """A run that kept float16 has lost the rest: what it kept is what can be equal."""
    new = np.float32([[0.1, 0.7]])
    assert largest_difference(new.astype(np.float16), new) == 0
    assert largest_difference(new.astype(np.float16), new + np.float32(0.01)) > 0


def test_the_environment_is_compared_key_by_key() -> None:
    """Keys of either side; equal metrics on another version of torch are equal metrics."""
    found = compare(outcome({"a": 1.0}), outcome({"a": 1.0}, torch="3.0", extra="x"))
    assert found.equal
    assert found.environment == {"extra": (None, "x"), "torch": ("2.14.1", "3.0")}
    assert "torch was '2.14.1', is '3.0'" in found.sentences()[-1]
    assert not compare(outcome({"a": 1.0}), outcome({"a": 1.0})).environment


def test_the_largest_difference_is_named() -> None:
    """With both values; one that is no number comes first."""
    old = outcome({"a": 0.5, "b": 0.25, "c": 1.0})
    found = compare(old, outcome({"a": 0.5, "b": 0.5, "c": 0.875}))
    assert [(pair.metric, pair.difference) for pair in found.differing] == [
        ("b", 0.25),
        ("c", 0.125),
    ]
    assert found.sentences()[0].startswith("2 of 3 metrics differ, most of all b: 0.25 in the")
    undefined = compare(old, outcome({"a": 0.5, "b": 0.5, "c": math.nan}))
    assert "most of all c" in undefined.sentences()[0]
    assert undefined.to_dict()["metrics"][2]["reproduction"] is None
