"""Tables as splits: what a model is given is what the table holds, and what identifies it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import table

FRAME = pd.DataFrame(
    {
        "wide": [1e9 + 0.125, -2.5, np.nan],
        "small": np.array([0.1, 0.2, 0.3], np.float32),
        "whole": np.array([2**40 + 1, -3, 0]),
        "maybe": pd.array([1, None, 3], dtype="Int64"),
    }
)
EXAMPLES = table.Examples(
    name="test",
    labels=np.array([0, 1, 1]),
    class_names=("no", "yes"),
    example_ids=np.array(["a", "b", "c"]),
    groups={"sex": np.array(["f", "m", "f"])},
)


def test_rows_come_back_as_they_were() -> None:
    """In every type, missing values too, in any order of rows."""
    made = table.of_features(FRAME, EXAMPLES)
    assert made.split.images.shape == (3, 4, 1, 1)
    assert made.unable == {}
    pd.testing.assert_frame_equal(made.inputs(made.split.images), FRAME)
    order = [2, 0]
    expected = FRAME.iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(made.inputs(made.split.images[order]), expected)
    batch = made.split.batch(slice(0, 3)).numpy()  # as evaluation reads it
    pd.testing.assert_frame_equal(made.inputs(batch), FRAME)


def test_whole_numbers_that_were_changed_are_fractions() -> None:
    """Noise on a whole number is not rounded away."""
    made = table.of_features(FRAME, EXAMPLES)
    given = made.inputs(made.split.images + 0.25)
    assert given["whole"].tolist() == [2**40 + 1.25, -2.75, 0.25]
    assert given["small"].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
def test_arrays_come_back_as_they_were(dtype: Any) -> None:
    """With their type."""
    array = np.arange(6).reshape(3, 2).astype(dtype)
    made = table.of_features(array, EXAMPLES)
    again = made.inputs(made.split.images)
    assert again.dtype == dtype
    assert np.array_equal(again, array)


def test_each_feature_has_its_standard_deviation() -> None:
    """That of its own values, missing ones left out; or the one that is given."""
    made = table.of_features(FRAME, EXAMPLES)
    expected = [np.std([1e9 + 0.125, -2.5]), *FRAME[["small", "whole"]].std(ddof=0), 1.0]
    assert made.split.std == pytest.approx(expected)
    given = table.of_features(FRAME, EXAMPLES, std={"whole": 7.0})
    assert given.split.std == pytest.approx([expected[0], expected[1], 7.0, 1.0])
    assert given.split.digest != made.split.digest
    with pytest.raises(InvalidInput, match=r"unknown feature of std 'hole'; did you mean 'whole'"):
        table.of_features(FRAME, EXAMPLES, std={"hole": 7.0})
    with pytest.raises(InvalidInput, match="std nan of 'whole' is not allowed"):
        table.of_features(FRAME, EXAMPLES, std={"whole": float("nan")})


@pytest.mark.parametrize(
    "column", [["x", "y", "z"], [True, False, True], pd.Categorical([1, 2, 1]), [2**60 + 1, 5, -7]]
)
def test_rows_that_noise_cannot_change(column: Any) -> None:
    """Text, booleans, categories, and whole numbers that no float64 is: the model is asked about rows as
    they are, and why is said."""
    frame = FRAME.assign(other=column)
    made = table.of_features(frame, EXAMPLES)
    assert made.unable == {"inputs": "features 'other' hold no numbers to add noise to"}
    pd.testing.assert_frame_equal(made.inputs(made.split.images[[2, 0]]), frame.iloc[[2, 0]])


def test_the_digest_is_of_content() -> None:
    """Of features, labels, ids and groups, whatever the kind of table; not of the order of columns'
    names."""
    text = FRAME.assign(city=["x", "y", "z"])
    others = {
        "number": FRAME.assign(small=FRAME["small"] * 2),
        "text": FRAME.assign(city=["x", "y", "w"]),
    }
    for frame, changed in ((FRAME, others["number"]), (text, others["text"])):
        digest = table.of_features(frame, EXAMPLES).split.digest
        assert table.of_features(frame.copy(), EXAMPLES).split.digest == digest
        assert table.of_features(changed, EXAMPLES).split.digest != digest
        labels = replace(EXAMPLES, labels=np.array([1, 1, 1]))
        assert table.of_features(frame, labels).split.digest != digest
    said = table.of_scores(np.array(["no", "yes", "no"], dtype=object), EXAMPLES).split.digest
    other = table.of_scores(np.array(["no", "no", "no"], dtype=object), EXAMPLES).split.digest
    assert said != other


@pytest.mark.parametrize(
    ("labels", "known", "columns", "expected"),
    [
        ([10, 9, 2], [], None, ("2", "9", "10")),
        (["b", "a"], [], None, ("a", "b")),
        ([1.0, 0.0], [0, 1, 2], None, ("0", "1", "2")),
        ([True, False], [], 2, ("False", "True")),
        ([3, 1], [], 4, ("0", "1", "2", "3")),
    ],
)
def test_classes_by_targets_and_model(
    labels: list[object], known: list[object], columns: int | None, expected: tuple[str, ...]
) -> None:
    """Numbers by size, text as text; positions where there are more scores than targets."""
    assert table.class_names(labels, known, columns) == expected


def test_classes_that_nobody_can_name() -> None:
    """More scores than classes with names: they have to be given."""
    with pytest.raises(InvalidInput, match="gives 3 scores, and the targets have 2 classes"):
        table.class_names(["cat", "dog"], [], 3)
    with pytest.raises(InvalidInput, match="unknown class in targets 'cow'"):
        table.label_indices(["cat", "cow"], ["cat", "dog"])
    with pytest.raises(InvalidInput, match="targets are missing in 1 of 2 rows"):
        table.label_indices(["cat", None], ["cat", "dog"])
