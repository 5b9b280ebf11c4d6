"""Each self-check catches the fault that it is for, and is silent on a sound evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from evaluation_digits import digits, first, trained_net
from torch import Tensor, nn

from mm_mlflow import evaluation
from mm_mlflow.design import InterventionSpec
from mm_mlflow.evaluation import (
    PGD,
    Evaluation,
    InputPerturbation,
    Intervention,
    OutputPerturbation,
    Task,
    plan,
)
from mm_mlflow.evaluation.probe import Probe


def evaluate(model: nn.Module, tasks: list[Task]) -> Evaluation:
    """All 250 examples in one batch."""
    return evaluation.evaluate(model, tasks, batch_size=250)


def tasks_for(*interventions: Intervention) -> list[Task]:
    """Tasks on the first 250 test digits, interventions made in Python."""
    split = first(digits()[1], 250)
    (task,) = plan([InterventionSpec(name="accuracy")], {"test": split}, lambda _: {})
    return [
        replace(task, key=made.key, intervention=made, parameters={**made.parameters(), "examples": None})
        for made in interventions
    ]  # fmt: skip


def failed(found: Evaluation) -> list[str]:
    """What the checks say, in words."""
    said: list[str] = found.checks["failed"]
    return said


def test_a_sound_evaluation_passes_all() -> None:
    """A trained net and every built-in intervention: all checks ran and none failed."""
    made = [PGD(delta=0.03), PGD(delta=0.08), InputPerturbation(lam=1), OutputPerturbation(lam=1)]
    found = evaluate(trained_net(), tasks_for(*made))
    assert failed(found) == []
    assert found.checks["deterministic"] == {
        "same_twice": True,
        "largest_batch_effect": pytest.approx(0, abs=1e-4),
    }
    assert found.checks["zero_gradients"] == {
        "test": {"examples": 246, "zero": 0}
    }  # those that are right
    assert set(found.checks["images"]) == {task.key for task in tasks_for(*made[:3])}
    attacked = found.checks["images"]["pgd_accuracy/delta-0.08"]
    assert attacked["largest_change"] == pytest.approx(0.08, abs=1e-6)  # the budget was really used
    assert len(found.checks["zero_strength"]) == 3
    assert len(found.checks["monotone"]) == 1


class Greedy(PGD):
    """PGD that takes 1% more than its budget."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        return PGD(delta=self.delta * 1.01).outcomes(probe)


def test_a_budget_exceeded_by_one_percent() -> None:
    """‖x' - x‖∞ is measured on the images that the model saw."""
    found = evaluate(trained_net(), tasks_for(Greedy(delta=0.05)))
    assert failed(found) == ["pgd_accuracy/delta-0.05: an image changed by 0.0505, above 0.05"]


class Outside(PGD):
    """An attack that forgets to clip to [0, 1]."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        correct = np.zeros(len(probe))
        for batch in probe.batches():
            moved = batch.images - self.delta
            correct[batch.positions.numpy()] = probe.classify(moved, batch).numpy()
        return correct


def test_pixels_that_leave_the_unit_interval() -> None:
    """Images outside [0, 1] are caught, unless the intervention is exempt."""
    found = evaluate(trained_net(), tasks_for(Outside(delta=0.05)))
    assert failed(found) == [
        "pgd_accuracy/delta-0.05: perturbed pixels from -0.05 to 0.95 leave [0, 1]"
    ]
    assert failed(evaluate(trained_net(), tasks_for(InputPerturbation(lam=1)))) == []


class NotANumber(PGD):
    """An attack that makes NaN pixels."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        (batch,) = probe.batches()
        return probe.classify(batch.images * torch.nan, batch).numpy().astype(float)


def test_pixels_that_are_not_numbers() -> None:
    """NaN fails both the budget and the range, and is spelled in JSON."""
    found = evaluate(trained_net(), tasks_for(NotANumber(delta=0.05)))
    said = " ".join(failed(found))
    assert "an image changed by nan" in said
    assert "from nan to nan leave [0, 1]" in said
    assert found.checks["images"]["pgd_accuracy/delta-0.05"]["largest_change"] == "nan"


class InPlace(PGD):
    """An attack that changes the images of its batch in place, twice the budget."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        (batch,) = probe.batches()
        images = batch.images
        images.sub_(2 * self.delta).clamp_(0, 1)
        return probe.classify(images, batch).numpy().astype(float)


def test_the_originals_are_the_probes_own() -> None:
    """Changing a batch's images in place does not change what they are compared with."""
    found = evaluate(trained_net(), tasks_for(InPlace(delta=0.05)))
    assert any("an image changed by 0.1, above 0.05" in line for line in failed(found))


class Weak(PGD):
    """A broken attack: budgets above 0.05 do nothing."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        if self.delta > 0.05:
            return probe.clean_outcomes.copy()
        return PGD(delta=self.delta).outcomes(probe)


@pytest.mark.parametrize("order", [[0.05, 0.08], [0.08, 0.05]])
def test_a_smaller_budget_that_hurts_more(order: Sequence[float]) -> None:
    """Accuracy that rises with δ is caught, in whichever order the budgets come."""
    found = evaluate(trained_net(), tasks_for(*(Weak(delta=delta) for delta in order)))
    (said,) = failed(found)
    assert said.startswith("pgd_accuracy/delta-0.05 hurts more than pgd_accuracy/delta-0.08, by 0.")


def test_attacks_that_differ_otherwise_are_not_compared() -> None:
    """Monotony holds among budgets of one attack: a weaker attack of more steps is another."""
    found = evaluate(trained_net(), tasks_for(Weak(delta=0.05), Weak(delta=0.08, steps=3)))
    assert failed(found) == []


class Offset(PGD):
    """An attack that does harm at δ = 0."""

    def outcomes(self, probe: Probe) -> np.ndarray:
        return PGD(delta=self.delta + 0.02).outcomes(probe)

    @property
    def budget(self) -> float:
        return self.delta + 0.02


def test_strength_zero_that_is_not_clean_accuracy() -> None:
    """What is broken at strength 0 is caught, though no run asks for strength 0."""
    (said,) = failed(evaluate(trained_net(), tasks_for(Offset(delta=0.05))))
    assert said.startswith("pgd_accuracy/delta-0.05: at strength 0, ")
    assert said.endswith("outcomes differ from clean accuracy's")


@dataclass(frozen=True, kw_only=True, repr=False)
class Half(OutputPerturbation):
    """Output perturbation whose outcome at 0 is one half."""

    name: ClassVar[str] = "half"

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.full(len(labels), 0.5)


def test_strength_zero_of_interventions_on_logits() -> None:
    """The same check holds for what needs clean logits alone."""
    (said,) = failed(evaluate(trained_net(), tasks_for(Half(lam=5))))
    assert "at strength 0, 250 outcomes differ" in said


class Wrapped(nn.Module):
    """A net with a fault around it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = trained_net()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.model(images)
        return logits


class Cut(Wrapped):
    """Cuts the graph: no gradient."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(images)


class Rounded(Wrapped):
    """Rounds its input: the gradient is there, and zero."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 16).round() / 16)


@pytest.mark.parametrize("model", [Cut, Rounded])
def test_gradients_that_are_zero(model: type[nn.Module]) -> None:
    """An attack that cannot move is not taken for a robust model."""
    found = evaluate(model(), tasks_for(PGD(delta=0.05)))
    assert failed(found) == [
        "gradients are zero on 246 of 246 test examples: attacks measure nothing there"
    ]
    assert found.values["pgd_accuracy/delta-0.05"] > 0.9  # which is why somebody must say so


class Dropping(Wrapped):
    """Dropout that is active in eval mode."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, 0.1, training=True))


def test_a_model_that_draws() -> None:
    """Dropout in eval mode is caught; the result is still the same each time."""
    tasks = tasks_for(PGD(delta=0.05))
    one, other = evaluate(Dropping(), tasks), evaluate(Dropping(), tasks)
    assert "the model is not deterministic in eval mode: two passes differ" in failed(one)
    assert one.values == other.values


class Stubborn(Wrapped):
    """A model whose batch norm stays in train mode, whatever eval() says."""

    def train(self, mode: bool = True) -> Stubborn:
        super().train(True)  # noqa: FBT003
        return self


class BatchStatistics(Wrapped):
    """A model that normalises by its batch, with every module in eval mode."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean() + 0.3)


def test_a_model_in_train_mode() -> None:
    """Modules left in train mode are named, and logits that depend on the batch are caught."""
    said = failed(evaluate(Stubborn(), tasks_for(OutputPerturbation(lam=1))))
    assert "modules of the model are in train mode, despite eval()" in said[0]
    assert said[1].startswith("logits depend on the rest of the batch")
    (said_of_batch,) = failed(evaluate(BatchStatistics(), tasks_for(OutputPerturbation(lam=1))))
    assert said_of_batch.startswith("logits depend on the rest of the batch")


def test_small_groups() -> None:
    """A group of fewer than 30 is flagged with its n; one of 30 is not."""
    split = first(digits()[1], 59)
    split = replace(split, groups={"half": np.array(["a"] * 29 + ["b"] * 30)})
    spec = InterventionSpec.model_validate({"name": "group_accuracy", "by": "half"})
    found = evaluate(trained_net(), plan([spec], {"test": split}, lambda _: {}))
    assert failed(found) == ["group_accuracy/half-a: n = 29, below 30"]
    assert found.checks["groups"] == {"group_accuracy/half-a": 29, "group_accuracy/half-b": 30}


def test_checks_are_json() -> None:
    """What is recorded holds no NaN and nothing that JSON lacks."""
    import json

    made: list[Any] = [NotANumber(delta=0.05), PGD(delta=0.1)]
    checks = evaluate(trained_net(), tasks_for(*made)).checks
    assert json.loads(json.dumps(checks, allow_nan=False)) == checks
