"""Worst groups and gaps between groups: against fairlearn, and by what must hold of any numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_digits import digits, trained_net
from fairlearn.metrics import (
    MetricFrame,
    false_positive_rate_difference,
    true_positive_rate_difference,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from torch import nn

from mm_mlflow.design import InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import (
    FalsePositiveRateGap,
    GroupAccuracyGap,
    Task,
    TruePositiveRateGap,
    WorstGroupAccuracy,
    evaluate,
    metric_records,
    plan,
    recompute,
    recompute_value,
    recorded_indices,
)
from mm_mlflow.split import Split

BY = ["race", "age", ["race", "age"]]
GAPS = ["true_positive_rate_gap", "false_positive_rate_gap"]


def planned(*specs: dict[str, Any], split: Split) -> tuple[Task, ...]:
    """Tasks on one split, called test."""
    made = [InterventionSpec.model_validate(spec) for spec in specs]
    return plan(made, {"test": split}, lambda _: {})


def odd() -> Split:
    """The test digits, even or odd."""
    split = digits()[1]
    return replace(split, labels=split.labels % 2, class_names=("even", "odd"), digest="odd")


class Parity(nn.Module):
    """Even or odd by the logits of digits, leaning towards odd so that both errors occur."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained_net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Two logits."""
        logits = self.net(images + 0.35 * images.roll(1, 3))
        return torch.stack([logits[:, 0::2].amax(1), logits[:, 1::2].amax(1) + 1.5], dim=1)


def features(split: Split, by: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Group attributes as fairlearn wants them."""
    return {name: split.groups[name] for name in by}


def test_the_worst_group_and_the_gap_are_fairlearns() -> None:
    """By one attribute or by two, both equal MetricFrame's minimum and difference; n is the whole
    split and the smallest group is the frame's."""
    split = digits()[1]
    specs = [{"name": name, "by": BY} for name in ("worst_group_accuracy", "group_accuracy_gap")]
    tasks = planned(*specs, split=split)
    model = nn.Sequential(
        nn.AvgPool2d(3, 1, 1), trained_net()
    )  # a worse one, that makes groups differ
    found, records = evaluate(model, tasks), metric_records(tasks)
    assert list(found.values) == [
        f"{name}/{by}"
        for name in ("worst_group_accuracy", "group_accuracy_gap")
        for by in ("race", "age", "race.age")
    ]
    predicted = found.logits["test"].argmax(axis=1)
    for task in tasks:
        made = task.intervention
        assert isinstance(made, WorstGroupAccuracy | GroupAccuracyGap)
        frame = MetricFrame(
            metrics={"accuracy": accuracy_score, "n": lambda y, _: len(y)},
            y_true=split.labels,
            y_pred=predicted,
            sensitive_features=features(split, made.by),
        )
        worst = isinstance(made, WorstGroupAccuracy)
        expected = (frame.group_min() if worst else frame.difference())["accuracy"]
        assert found.values[task.key] == pytest.approx(expected, abs=1e-15)
        assert expected > 0
        record = records[task.key]
        assert (record["n"], record["group"]) == (len(split), None)
        assert record["smallest_group"] == frame.by_group["n"].min()
        assert record["higher_is_better"] == worst
        groups = len(frame.by_group)
        assert f"among {groups} groups" in record["description"]
        assert f"the smallest has {record['smallest_group']} examples." in record["description"]


@pytest.mark.parametrize("positive", [None, "even", "odd"])
def test_rate_gaps_are_fairlearns(positive: str | None) -> None:
    """True and false positive rates, whichever class is positive, equal fairlearn's differences; only
    the other class than the default stands in the key."""
    split = odd()
    specs = [{"name": name, "by": BY, "positive": positive} for name in GAPS]
    tasks = planned(*specs, split=split)
    found, records = evaluate(Parity(), tasks), metric_records(tasks)
    label = 0 if positive == "even" else 1
    true, said = split.labels == label, found.logits["test"].argmax(axis=1) == label
    oracles = dict(
        zip(GAPS, [true_positive_rate_difference, false_positive_rate_difference], strict=True)
    )
    for task in tasks:
        made = task.intervention
        assert isinstance(made, TruePositiveRateGap | FalsePositiveRateGap)
        expected = oracles[made.name](true, said, sensitive_features=features(split, made.by))
        assert found.values[task.key] == pytest.approx(expected, abs=1e-15)
        assert 0 < expected < 1
        assert task.key.endswith(".positive-even") == (positive == "even")
        over = true if made.name == GAPS[0] else ~true
        assert task.n == over.sum()
        record = records[task.key]
        assert not record["higher_is_better"]
        kind = "positive" if made.name == GAPS[0] else "negative"
        end = f"{kind} examples (positive is {positive or 'odd'})."
        assert record["description"].endswith(end)


def test_values_come_out_of_what_is_stored_to_the_bit() -> None:
    """From metrics.json, float32 logits, and a split without images; also on a fixed part."""
    split = odd()
    names = ["worst_group_accuracy", "group_accuracy_gap", *GAPS]
    specs = [
        {"name": name, "by": BY, "examples": n} for name in names for n in (None, 600)
    ]  # None: all
    tasks = planned(*specs, split=split)
    found = evaluate(Parity(), tasks)
    bare = replace(split, images=np.empty((len(split), 1, 0, 0)))
    for key, record in json.loads(json.dumps(metric_records(tasks))).items():
        rows = recorded_indices(record, bare)
        outcomes = recompute(record, found.logits["test"][rows], bare.labels[rows])
        assert np.array_equal(outcomes, found.outcomes[key])
        assert recompute_value(record, outcomes, bare) == found.values[key]
        with pytest.raises(InvalidInput, match=r"outcomes of shape \(2,\) are not allowed"):
            recompute_value(record, outcomes[:2], bare)
        with pytest.raises(InvalidInput, match="recorded as version 0"):
            recompute_value({**record, "version": 0}, outcomes, bare)


# ---- properties ----

EXAMPLES = st.lists(
    st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("xy")), min_size=2, max_size=60
).filter(lambda rows: len({row[1] for row in rows}) > 1)


def made_of(rows: list[tuple[bool, str, str]]) -> tuple[np.ndarray, Split, np.ndarray]:
    """Outcomes, a split of these groups, and the indices of all."""
    n = len(rows)
    split = Split(
        name="test",
        images=np.empty((n, 1, 0, 0)),
        labels=np.ones(n, dtype=np.int64),
        example_ids=np.array([str(i) for i in range(n)]),
        class_names=("no", "yes"),
        groups={
            "one": np.array([row[1] for row in rows]),
            "two": np.array([row[2] for row in rows]),
        },
        mean=(0.5,),
        std=(0.5,),
        digest="",
    )
    return np.array([float(row[0]) for row in rows]), split, np.arange(n)


@given(EXAMPLES)
def test_the_worst_group_is_no_better_than_all(rows: list[tuple[bool, str, str]]) -> None:
    """Worst <= overall <= worst + gap; a finer partition has no better worst and no smaller gap; on one
    class alone the rate gap is the accuracy gap."""
    outcomes, split, all_of_them = made_of(rows)
    worst, finer = WorstGroupAccuracy(by=("one",)), WorstGroupAccuracy(by=("one", "two"))
    gap, finer_gap = GroupAccuracyGap(by=("one",)), GroupAccuracyGap(by=("one", "two"))
    low, distance = (i.value(outcomes, split, all_of_them) for i in (worst, gap))
    assert 0 <= low <= outcomes.mean() + 1e-12
    assert outcomes.mean() <= low + distance + 1e-12 <= 1 + 2e-12
    assert finer.value(outcomes, split, all_of_them) <= low + 1e-12
    assert finer_gap.value(outcomes, split, all_of_them) >= distance - 1e-12
    rate = TruePositiveRateGap(by=("one",))
    assert np.array_equal(rate.select(split, all_of_them), all_of_them)
    assert rate.value(outcomes, split, all_of_them) == distance


@given(EXAMPLES, st.randoms(use_true_random=False))
def test_order_and_names_do_not_matter(rows: list[tuple[bool, str, str]], random: Any) -> None:
    """Shuffled examples and renamed groups give the same bits."""
    other = [(right, one.translate(str.maketrans("abc", "cab")), two) for right, one, two in rows]
    random.shuffle(other)
    for made in (WorstGroupAccuracy(by=("one", "two")), GroupAccuracyGap(by="one")):  # type: ignore[arg-type]
        assert made.value(*made_of(rows)) == made.value(*made_of(other))


@given(EXAMPLES)
def test_equal_groups_have_no_gap(rows: list[tuple[bool, str, str]]) -> None:
    """Groups that are copies of each other have gap 0, and the worst is the accuracy of all."""
    twins = [(right, group, "x") for right, _, _ in rows for group in "abc"]
    outcomes, split, everything = made_of(twins)
    assert GroupAccuracyGap(by=("one",)).value(outcomes, split, everything) == 0
    worst = WorstGroupAccuracy(by=("one",)).value(outcomes, split, everything)
    assert worst == pytest.approx(outcomes.mean(), abs=1e-12)


# ---- checks and bad input ----


def test_small_groups_are_flagged_in_what_compares_them() -> None:
    """Fewer than 30 in the smallest group is said with its n; over one class, its examples count."""
    split = odd()
    race = np.array(["White"] * len(split), dtype=object)
    race[np.flatnonzero(split.labels == 1)[:29]] = "Asian"
    race[np.flatnonzero(split.labels == 0)[:30]] = "Asian"
    split = replace(split, groups={"race": race.astype(str)})
    specs = [{"name": name, "by": "race"} for name in ("group_accuracy_gap", *GAPS)]
    found = evaluate(Parity(), planned(*specs, split=split))
    assert found.checks["failed"] == [
        "true_positive_rate_gap/race: n = 29 in the smallest group, below 30"
    ]
    assert list(found.checks["groups"].values()) == [59, 29, 30]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "worst_group_accuracy"}, "needs by: known attributes .* are race, age, all"),
        ({"name": "worst_group_accuracy", "by": []}, "needs by"),
        ({"name": "worst_group_accuracy", "by": 5}, "by 5 is not allowed: a list of attributes"),
        ({"name": "worst_group_accuracy", "by": [[]]}, r"by \(\) is not allowed"),
        ({"name": "worst_group_accuracy", "by": [["race", "race"]]}, "or more different attributes"),
        ({"name": "group_accuracy_gap", "by": ["race", "race"]}, "names race twice"),
        ({"name": "group_accuracy_gap", "by": [["race", "age"], ["age", "race"]]}, "age and race twice"),
        ({"name": "group_accuracy_gap", "by": "rcae"}, r"unknown group attribute .* did you mean 'race'\?"),
        ({"name": "group_accuracy_gap", "by": "all"}, "by all is not allowed: .* has one group only"),
        ({"name": "group_accuracy_gap", "by": "race", "examples": 1}, "no example .* is in group race"),
        ({"name": "group_accuracy_gap", "by": "race", "positive": "odd"}, "unknown parameter .* 'positive'"),
        ({"name": "true_positive_rate_gap", "by": "rcae"}, r"did you mean 'race'\?"),
        ({"name": "true_positive_rate_gap", "by": "race", "positive": "evne"}, r"did you mean 'even'\?"),
        ({"name": "true_positive_rate_gap", "by": "race", "positive": ["even"]}, "the name of one class"),
        ({"name": "true_positive_rate_gap", "by": "label"}, "no positive example .* label = even"),
        ({"name": "false_positive_rate_gap", "by": "label"}, "no negative example .* label = odd"),
    ],
)  # fmt: skip
def test_bad_input(spec: dict[str, Any], message: str) -> None:
    """Each is refused while planning, in one line."""
    split = odd()
    more = {"all": np.full(len(split), "a"), "label": np.array(split.class_names)[split.labels]}
    split = replace(split, groups={**split.groups, **more})
    with pytest.raises(InvalidInput, match=message) as error:
        planned(spec, split=split)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", GAPS)
def test_rates_need_two_classes(name: str) -> None:
    """Ten classes have no positive one."""
    with pytest.raises(InvalidInput, match="on split 'test' of 10 classes: two are needed"):
        planned({"name": name, "by": "race"}, split=digits()[1])


def test_titles_say_it_in_plain_words() -> None:
    """What stands at the head of a sheet."""
    assert [
        WorstGroupAccuracy(by=("race",)).title,
        GroupAccuracyGap(by=("race", "age")).title,
        TruePositiveRateGap(by=("race",)).title,
        FalsePositiveRateGap(by=("race",), positive="old").title,
    ] == [
        "Worst-group accuracy, race",
        "Accuracy gap between groups, race and age",
        "True positive rate gap between groups, race",
        "False positive rate gap between groups, race, positive is old",
    ]
    assert GroupAccuracyGap(by=("race",)).describe() == (
        "The largest minus the smallest accuracy among the groups by race."
    )
    assert TruePositiveRateGap(by=("race",)).describe().endswith("(positive is the second class).")
