"""What is asked of finished runs: parsing, whose data, and labels as a model counts them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
from evaluation_digits import digits, make_split

from mm_mlflow.design import DatasetSpec, InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import metric_records
from mm_mlflow.frame import decisive
from mm_mlflow.request import (
    Request,
    parse_dataset,
    parse_interventions,
    parse_label_map,
    same_data,
)
from mm_mlflow.split import Split

OWN = DatasetSpec(name="own", locations={"folder": "there", "cache": "c"}, size=8)
OTHER = DatasetSpec(name="other", locations={}, size=8)
ASKED = parse_interventions(["accuracy", "{name: pgd, delta: 0.1}"])
TURN = {str(digit): (digit + 1) % 10 for digit in range(10)}


def open_splits(spec: DatasetSpec) -> Mapping[str, Split]:
    """Other data than the own ones, of the same classes."""
    train, test = digits()
    if spec.name == "other":
        test = make_split(test.images[::-1].copy(), test.labels[::-1].copy())
    return {"train": train, "test": test}


def test_the_own_data_of_cells_are_a_sweeps() -> None:
    """No key and no record differs from a sweep's, whether the data are named or not; where files are
    now is the user's word."""
    moved = DatasetSpec(name="own", locations={"folder": "here"}, size=8)
    for dataset in (None, moved):
        found = Request(interventions=ASKED, dataset=dataset).of_cells(OWN)
        place = "there" if dataset is None else "here"
        assert found.dataset.locations == {"folder": place, "cache": "c"}
        tasks = found.tasks(open_splits)
        assert [task.key for task in tasks] == ["accuracy", "pgd_accuracy/delta-0.1"]
        assert all(task.parameters["dataset"] is None for task in tasks)
        assert all("label_map" not in task.parameters for task in tasks)


def test_other_data_are_named_by_keys_and_records() -> None:
    """As an intervention of a design on another dataset is; one that names its own data keeps them."""
    mine = InterventionSpec(name="ood_accuracy", dataset=OWN, split="train")
    found = Request(interventions=(*ASKED, mine), dataset=OTHER).of_cells(OWN)
    tasks = found.tasks(open_splits)
    assert [task.key for task in tasks] == [
        "accuracy/split-other",
        "pgd_accuracy/delta-0.1.split-other",
        "ood_accuracy/own_train",
    ]
    assert [task.parameters["dataset"]["name"] for task in tasks] == ["other", "other", "own"]
    assert tasks[0].split.digest == open_splits(OTHER)["test"].digest


def test_runs_of_other_programs_have_the_data_that_are_named_or_none() -> None:
    """Under the keys of a sweep on these data."""
    assert Request(interventions=ASKED).of_others() is None
    found = Request(interventions=ASKED, dataset=OTHER).of_others()
    assert found is not None
    assert [task.key for task in found.tasks(open_splits)] == ["accuracy", "pgd_accuracy/delta-0.1"]


def test_a_label_map_is_part_of_what_a_metric_is() -> None:
    """It is of the data that the user named alone; runs under different maps conflict, and one that
    changes nothing is none."""
    straight = {str(digit): digit for digit in range(10)}
    measured = {}
    for name, label_map in [("none", None), ("straight", straight), ("turned", TURN)]:
        found = Request(interventions=ASKED, dataset=OTHER, label_map=label_map).of_others()
        assert found is not None
        records = metric_records(found.tasks(open_splits))
        measured[name] = [decisive(record) for record in records.values()]
    assert measured["none"] == measured["straight"]
    assert all(a != b for a, b in zip(measured["none"], measured["turned"], strict=True))
    mine = InterventionSpec(name="ood_accuracy", dataset=OWN, split="train")
    of_cells = Request(interventions=(*ASKED, mine), dataset=OTHER, label_map=TURN).of_cells(OWN)
    maps = [task.parameters.get("label_map") for task in of_cells.tasks(open_splits)]
    assert maps == [TURN, TURN, None]


def test_labels_are_outputs_after_the_map() -> None:
    """Same examples, same digest; several classes may be one output, and outputs may mean no class."""
    split = digits()[1]
    turned = split.relabelled(TURN)
    assert (turned.labels == (split.labels + 1) % 10).all()
    assert turned.class_names == tuple("9012345678")
    assert turned.images is split.images
    assert turned.digest == split.digest
    parity = {str(digit): 3 if digit % 2 else 0 for digit in range(10)}
    halves = split.relabelled(parity)
    assert set(np.unique(halves.labels)) == {0, 3}
    assert (halves.labels == np.where(split.labels % 2, 3, 0)).all()
    assert halves.class_names == (
        "0 or 2 or 4 or 6 or 8",
        "output 1",
        "output 2",
        "1 or 3 or 5 or 7 or 9",
    )
    assert halves.label_map == parity
    assert split.relabelled({str(digit): digit for digit in range(10)}) is split


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"cat": 0}, "unknown class in the label map 'cat'"),
        ({**TURN, "3": -1}, "'3': -1 is not allowed"),
        ({**TURN, "3": True}, "'3': True is not allowed"),
        ({key: value for key, value in TURN.items() if key != "7"}, "leaves out 7"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(label_map: dict[str, int], message: str) -> None:
    """One line: the class, the value, what is allowed."""
    with pytest.raises(InvalidInput, match=re.escape(message)):
        digits()[1].relabelled(label_map)


def test_specs_are_those_of_design_files() -> None:
    """A name alone, or a mapping in one line of YAML; keys that YAML reads as numbers or truth are text."""
    assert parse_interventions(["{name: pgd, delta: [0.1, 1e-3]}"])[0].parameters == {
        "delta": [0.1, "1e-3"]
    }
    assert parse_dataset("digits") == DatasetSpec(name="digits")
    assert parse_dataset("{name: folder, size: 8}").arguments == {"size": 8}
    assert parse_label_map("{0: 1, yes: 0}") == {"0": 1, "yes": 0}
    assert same_data(parse_dataset("{name: a, x: 1}"), parse_dataset("{name: a, x: 1.0}"))


@pytest.mark.parametrize(
    "text", ["", "[1]", "5", "{nam: pgd}", "{name: pgd", "{name: a, name: b}", "null"]
)
def test_what_is_no_spec_is_refused_in_one_line(text: str) -> None:
    """It names the text."""
    for parse in (lambda text: parse_interventions([text]), parse_dataset):
        with pytest.raises(InvalidInput) as caught:
            parse(text)
        assert "\n" not in str(caught.value)
        assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x", "[0, 1]", "{a: b}", "{a: 1.5}", "{}", "{a: true}", "{a: 1, a: 2}"]
)
def test_what_is_no_label_map_is_refused_in_one_line(text: str) -> None:
    """It says what is."""
    with pytest.raises(InvalidInput, match="label map"):
        parse_label_map(text)
