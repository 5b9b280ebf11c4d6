"""What every registered intervention must hold to: built-ins and installed entry points alike.

A new intervention adds one line to ``CASES``: parameters that do something to the model below.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mm_mlflow import registry
from mm_mlflow.design import InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import (
    GROUP,
    INTERVENTIONS,
    Evaluation,
    Task,
    evaluate,
    metric_records,
    plan,
    recompute,
    recompute_value,
    recorded_indices,
)
from mm_mlflow.evaluation.base import Intervention
from mm_mlflow.evaluation.planning import intervention_class
from mm_mlflow.split import Split, content_digest

NAMES = registry.names(INTERVENTIONS, GROUP)
CASES: dict[str, dict[str, Any]] = {
    "accuracy": {},
    "group_accuracy": {"by": "half"},
    "ood_accuracy": {"split": "other"},
    "output_perturbation": {"lambda": 0.3},
    "input_perturbation": {"lambda": 0.5},
    "pgd": {"delta": 0.02},
    "worst_group_accuracy": {"by": "half"},
    "group_accuracy_gap": {"by": "half"},
    "true_positive_rate_gap": {"by": "half", "split": "binary"},
    "false_positive_rate_gap": {"by": "half", "split": "binary"},
    "corruption": {"kind": "gaussian_noise", "severity": 0.3},
}


def make_split(name: str, seed: int) -> Split:
    """120 images of three classes that a linear map of the mean colour tells apart, mostly."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    colour = np.eye(3)[labels][:, :, None, None] * 0.06
    images = np.clip(0.45 + colour + 0.12 * rng.random((120, 3, 4, 4)), 0, 1).astype(np.float32)
    images += 0.03 * rng.standard_normal((120, 3, 1, 1)).astype(np.float32)
    ids = np.array([f"{name}{i}" for i in range(120)])
    groups = {"half": np.where(np.arange(120) < 60, "first", "second")}
    return Split(
        name=name,
        images=images.clip(0, 1),
        labels=labels,
        example_ids=ids,
        class_names=("red", "green", "blue"),
        groups=groups,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        digest=content_digest(images, labels, ids, groups),
    )


SPLITS = {name: make_split(name, seed) for seed, name in enumerate(["train", "test", "other"])}
SPLITS["binary"] = replace(
    SPLITS["other"],
    name="binary",
    # Of the blue ones every other is called red: 30 of each class in each half.
    labels=np.where(SPLITS["other"].labels == 2, np.arange(120) // 3 % 2, SPLITS["other"].labels),
    class_names=("red", "green"),
    digest="binary",
)


class Model(nn.Module):
    """A map of mean colours, with batch norm and dropout, so that modes matter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(10 * torch.eye(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        logits: torch.Tensor = self.head(self.drop(self.norm(images)).mean(dim=(2, 3)))
        return logits


def tasks(name: str, **parameters: Any) -> tuple[Task, ...]:
    """Tasks of one intervention, and accuracy on the same data first."""
    case = {"name": name, **CASES[name], **parameters}
    data = {key: case[key] for key in ("split", "examples") if key in case}
    specs = [case] if name == "accuracy" else [{"name": "accuracy", **data}, case]
    return plan([InterventionSpec.model_validate(spec) for spec in specs], SPLITS, lambda _: {})


def measure(name: str, **parameters: Any) -> Evaluation:
    """The tasks measured on the model."""
    return evaluate(Model(), tasks(name, **parameters), batch_size=50)


def test_every_intervention_has_a_case() -> None:
    """Nothing registered escapes this suite."""
    assert set(CASES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestIntervention:
    """The contract, for each."""

    def test_values_are_made_of_outcomes_in_the_unit_interval(self, name: str) -> None:
        """Outcomes are (n,) float64 in [0, 1]; the value is their mean, or what the intervention makes
        of them; the model is neither perfect nor hopeless, so that this says something."""
        found = measure(name)
        for task in tasks(name):
            outcome = found.outcomes[task.key]
            assert outcome.shape == (task.n,)
            assert outcome.dtype == np.float64
            assert ((outcome >= 0) & (outcome <= 1)).all()
            value = task.intervention.value(outcome, task.split, task.indices)
            assert found.values[task.key] == value
            if type(task.intervention).value is Intervention.value:
                assert value == float(np.mean(outcome))
            assert 0 < found.values[task.key] < 1
        assert found.checks["failed"] == []

    def test_the_same_twice(self, name: str) -> None:
        """Equal to the bit, whatever global random state is, and however the model was left."""
        one = measure(name)
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        other = measure(name)
        assert one.values == other.values
        assert all(np.array_equal(one.outcomes[key], other.outcomes[key]) for key in one.outcomes)

    def test_strength_zero_is_clean_accuracy(self, name: str) -> None:
        """Outcome by outcome, exactly; and the case's own strength is not that."""
        cls = intervention_class(name)
        words = [cls.spelling.get(strength, strength) for strength in cls.strengths]
        if not words:
            assert set(measure(name).outcomes[tasks(name)[-1].key]) <= {0.0, 1.0}
            return
        clean, none = measure(name, **dict.fromkeys(words, 0)).outcomes.values()
        assert np.array_equal(clean, none)
        clean, some = measure(name).outcomes.values()
        assert not np.array_equal(clean, some)

    def test_the_model_is_left_as_it_was(self, name: str) -> None:
        """Parameters, buffers, gradients, gradient flags and the mode of every module."""
        model = Model()
        model.train()
        model.drop.eval()
        model.norm.weight.requires_grad_(requires_grad=False)
        model.head.weight.grad = torch.full_like(model.head.weight, 3.0)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        evaluate(model, tasks(name), batch_size=50)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
        assert [p.requires_grad for p in model.parameters()] == [False, True, True]
        assert model.norm.bias.grad is None
        assert (model.head.weight.grad == 3).all()

    def test_global_random_state_is_left_as_it_was(self, name: str) -> None:
        """torch's, numpy's and Python's."""
        model, planned = Model(), tasks(name)
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
        evaluate(model, planned, batch_size=50)
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
        assert before[2] == random.getstate()

    def test_the_images_are_left_as_they_were(self, name: str) -> None:
        """The split, which all workers share, is not written to."""
        before = {key: split.images.copy() for key, split in SPLITS.items()}
        for split in SPLITS.values():
            split.images.flags.writeable = False  # as a memory map is
        try:
            measure(name)
        finally:
            for split in SPLITS.values():
                split.images.flags.writeable = True
        assert all(np.array_equal(before[key], SPLITS[key].images) for key in before)

    def test_examples_take_a_fixed_part(self, name: str) -> None:
        """On 90 examples, outcomes are those of the same examples in the whole split; the key says
        so."""
        whole, part = tasks(name)[-1], tasks(name, examples=90)[-1]
        assert "examples-90" in part.key.replace("/", ".").split(".")
        assert set(part.indices) < set(whole.indices)
        chosen = np.searchsorted(whole.indices, part.indices)
        one = measure(name).outcomes[whole.key][chosen]
        other = measure(name, examples=90).outcomes[part.key]
        assert (one != other).sum() <= 1  # other batches: rounding, at most

    def test_records_rebuild_it(self, name: str) -> None:
        """Parameters are JSON-able and make an equal intervention; what is not stored is recomputed
        to the bit."""
        found, planned = measure(name), tasks(name)
        records = json.loads(json.dumps(metric_records(planned)))
        for task in planned:
            record = records[task.key]
            cls = intervention_class(record["intervention"])
            again = cls.from_parameters(record["parameters"])
            assert again == task.intervention
            assert again.key_on(record["split"], record["parameters"]["examples"]) == task.key
            assert record["description"].endswith(".")
            assert record["higher_is_better"] == cls.higher_is_better
            if not record["stored"]:
                logits = found.logits[record["split"]][task.indices]
                outcome = recompute(record, logits, task.split.labels[task.indices])
                assert np.array_equal(outcome, found.outcomes[task.key])
            # Who reads a run back has no images.
            bare = replace(task.split, images=np.empty((120, 3, 0, 0)))
            assert np.array_equal(recorded_indices(record, bare), task.indices)
            value = recompute_value(record, found.outcomes[task.key], bare)
            assert value == found.values[task.key]

    def test_unknown_parameters_and_bad_strengths_are_refused(self, name: str) -> None:
        """With one line, while planning."""
        with pytest.raises(InvalidInput, match="unknown parameter of"):
            tasks(name, unheard_of=1)
        cls = intervention_class(name)
        for strength in cls.strengths:
            word = cls.spelling.get(strength, strength)
            for bad in (-1, float("nan"), float("inf")):
                with pytest.raises(InvalidInput, match=f"{word}.* is not allowed"):
                    tasks(name, **{word: bad})

    def test_it_prints_as_itself(self, name: str) -> None:
        """The repr is a call with keywords; the class says in its first line what it is."""
        for task in tasks(name):
            made = task.intervention
            assert repr(made).startswith(f"{type(made).__name__}(")
            assert eval(repr(made), {type(made).__name__: type(made)}) == made
            assert (made.__doc__ or "").splitlines()[0].strip().endswith(".")
