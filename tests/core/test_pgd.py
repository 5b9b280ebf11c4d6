"""PGD on a trained net: agreement with torchattacks, independence of budgets, the ways to judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torchattacks
from evaluation_digits import Tally, digits, first, trained_net
from torch import Tensor, nn

from mm_mlflow.design import InterventionSpec
from mm_mlflow.evaluation import PGD, Evaluation, evaluate, plan
from mm_mlflow.evaluation.probe import Probe, clean_logits, loss_direction
from mm_mlflow.split import Split

DELTAS = [0.08, 0.1]
STEPS = 20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measure(model: nn.Module, split: Split | None = None, **parameters: Any) -> Evaluation:
    """Evaluate one PGD specification, beside accuracy, on the digits' test split or another."""
    split = split or digits()[1]
    specs = [
        InterventionSpec(name="accuracy"),
        InterventionSpec.model_validate({"name": "pgd", **parameters}),
    ]
    return evaluate(model, plan(specs, {"test": split}, no_dataset))


def no_dataset(spec: object) -> Any:
    """No other dataset is opened here."""
    raise AssertionError(spec)


def theirs(model: nn.Module, delta: float, step_size: float, steps: int = STEPS) -> np.ndarray:
    """``(N,)`` booleans: correct after torchattacks' PGD, from the clean image."""
    split = digits()[1]
    attack = torchattacks.PGD(model, eps=delta, alpha=step_size, steps=steps, random_start=False)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    correct = []
    for part, wanted in zip(images.split(250), labels.split(250), strict=True):
        attacked = attack(part, wanted)
        with torch.no_grad():
            correct.append(model(attacked).argmax(dim=1) == wanted)
    return torch.cat(correct).numpy()


@pytest.mark.parametrize("delta", DELTAS)
def test_it_agrees_with_torchattacks(delta: float) -> None:
    """On 897 digits and a net with at least 90% clean accuracy, brought to between 25% and 70%: what
    torchattacks breaks we break, up to 1 in 1,000; judged by the last iterate, counts agree so."""
    model = trained_net()
    step_size = 2.5 * delta / STEPS
    peer = theirs(model, delta, step_size)
    strict = measure(model, delta=delta)
    last = measure(model, delta=delta, until="last")
    ours = strict.outcomes[f"pgd_accuracy/delta-{delta:g}"] == 1
    ours_last = last.outcomes[f"pgd_accuracy/delta-{delta:g}.until-last"] == 1

    n = len(peer)
    assert n >= 500
    assert strict.values["accuracy"] >= 0.9
    assert 0.25 <= peer.mean() <= 0.7
    assert 0.25 <= ours.mean() <= 0.7
    assert (ours & ~peer).sum() <= n / 1000
    assert abs(int(ours_last.sum()) - int(peer.sum())) <= n / 1000
    assert (ours_last != peer).sum() <= 2 * n / 1000  # per example, not only in number
    assert (peer & ~ours).sum() <= n / 100  # stricter, by those that only an earlier iterate broke
    assert strict.checks["failed"] == []


def test_a_step_size_and_number_of_steps_of_ones_own() -> None:
    """With 7 steps of 0.03 we still agree with torchattacks: the parameters reach the attack."""
    model = trained_net()
    peer = theirs(model, 0.08, 0.03, steps=7)
    found = measure(model, delta=0.08, steps=7, step_size=0.03, until="last")
    key = "pgd_accuracy/delta-0.08.steps-7.step_size-0.03.until-last"
    assert abs(int(found.outcomes[key].sum()) - int(peer.sum())) <= len(peer) / 1000
    default = measure(model, delta=0.08)
    assert not np.array_equal(default.outcomes["pgd_accuracy/delta-0.08"], found.outcomes[key])


def test_a_budget_depends_on_no_other() -> None:
    """Outcomes at a δ are the same alone, in a list, and in a list in another order, to the bit."""
    split = first(digits()[1], 300)
    model = trained_net()
    key = "pgd_accuracy/delta-0.08"
    alone = measure(model, split, delta=0.08).outcomes[key]
    assert 0 < alone.mean() < 1
    for deltas in ([0.02, 0.08, 0.2], [0.2, 0.08, 0.02]):
        assert np.array_equal(measure(model, split, delta=deltas).outcomes[key], alone)


def test_first_gradients_are_taken_in_batches_of_the_tasks_own() -> None:
    """What another task asked for before changes no batch, and with it no last bit of a gradient."""
    model, split = trained_net(), first(digits()[1], 90)
    cpu = torch.device("cpu")
    logits = clean_logits(model, split, batch_size=32, device=cpu)

    def batches(*asked: np.ndarray) -> list[int]:
        """Sizes of the batches for the last of ``asked``."""
        probe = Probe(model, split, np.arange(90), logits, batch_size=32, device=cpu)
        sizes: list[int] = []
        ascent = probe.ascent
        probe.ascent = lambda images, batch: (sizes.append(len(batch)), ascent(images, batch))[1]  # type: ignore[method-assign, func-returns-value]
        for positions in asked:
            sizes.clear()
            probe.prepare_ascent(positions)
        found = probe.clean_ascent(probe.batch(asked[-1][::-1].copy()))
        expected = ascent(split.batch(asked[-1][::-1].copy()), probe.batch(asked[-1][::-1].copy()))[
            1
        ]
        assert (found != expected).float().mean() < 1e-4
        return sizes

    some, every = np.arange(0, 90, 2), np.arange(90)
    assert batches(every) == batches(some, every) == [32, 32, 26]
    assert batches(some, some) == []


def test_batches_change_next_to_nothing() -> None:
    """With batches of 32 instead of 250, at most 1 outcome in 1,000 differs."""
    split = digits()[1]
    tasks = plan([InterventionSpec(name="pgd", delta=0.08)], {"test": split}, no_dataset)
    one = evaluate(trained_net(), tasks).outcomes["pgd_accuracy/delta-0.08"]
    other = evaluate(trained_net(), tasks, batch_size=32).outcomes["pgd_accuracy/delta-0.08"]
    assert (one != other).sum() <= 1


def test_a_larger_budget_breaks_more() -> None:
    """Accuracy falls with δ, from clean accuracy at 0 to 0 at the whole range."""
    found = measure(trained_net(), first(digits()[1], 300), delta=[0, 0.02, 0.06, 0.2, 1])
    values = [v for key, v in found.values.items() if key.startswith("pgd")]
    assert values[0] == found.values["accuracy"]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.1
    assert len(found.checks["monotone"]) == 4


class Calls(nn.Module):
    """Counts the images that reach a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sizes = Tally()
        self.with_gradients = Tally()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        self.sizes.append(len(images))
        if images.requires_grad:
            self.with_gradients.append(len(images))
        logits: Tensor = self.model(images)
        return logits


def test_what_is_broken_is_dropped_and_the_first_gradient_shared() -> None:
    """A second δ costs its forward passes only, zero costs none, and broken examples no more steps."""
    split = first(digits()[1], 250)

    def cost(**parameters: Any) -> int:
        model = Calls(trained_net())
        measure(model, split, **parameters)
        return sum(model.sizes)

    free = cost(delta=0) - 250 * 2  # the zero-strength check looks at a batch twice
    all_steps = cost(delta=0.1, until="last")
    assert all_steps - free == 250 * (1 + STEPS + 2)
    assert cost(delta=0.1) < all_steps - 250 * STEPS * 0.2
    assert cost(delta=[0.1, 0.11], until="last") - all_steps == 250 * STEPS


def one_by_one(probe: Probe, attack: PGD) -> np.ndarray:
    """The slow, obvious version: every example alone, every step, the gradient by autograd."""
    step_size = 2.5 * attack.delta / attack.steps
    outcomes = []
    for position in range(len(probe)):
        batch = probe.batch(np.array([position]))
        clean = images = batch.images
        right = [bool(probe.classify(images, batch))]
        for _ in range(attack.steps):
            _, ascent = probe.ascent(images, batch)
            images = images + step_size * ascent
            images = torch.maximum(
                torch.minimum(images, clean + attack.delta), clean - attack.delta
            )
            images = images.clamp(0, 1)
            right.append(bool(probe.classify(images, batch)))
        outcomes.append(all(right) if attack.until == "any" else right[-1])
    return np.array(outcomes, dtype=float)


@pytest.mark.parametrize("until", ["any", "last"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_places_that_fall_free_are_filled(
    until: Literal["any", "last"], steps: int, size: int
) -> None:
    """Outcomes are those of every example attacked alone, whatever the batch size; no batch is larger,
    batches are full while examples wait for a place, and last iterates need no gradient."""
    split = first(digits()[1], 90)
    model = Calls(trained_net()).eval().requires_grad_(requires_grad=False)
    device = torch.device("cpu")
    logits = clean_logits(model, split, batch_size=size, device=device)
    attack = PGD(delta=0.1, steps=steps, until=until)

    def probe() -> Probe:
        return Probe(model, split, np.arange(90), logits, batch_size=size, device=device)

    model.sizes.clear()
    model.with_gradients.clear()
    found = attack.outcomes(probe())
    sizes, with_gradients = list(model.sizes), list(model.with_gradients)
    assert 0 < found.mean() < 1
    assert (found == one_by_one(probe(), attack)).all()
    assert max(sizes) <= size
    assert sum(n < size for n in sizes) <= steps + 2  # when none is left to take a free place
    if until == "last":
        assert sum(with_gradients) == 90 * steps  # the clean images', and no last iterate's


def test_the_direction_is_the_cross_entropys() -> None:
    """A positive multiple of softmax minus one-hot on ordinary logits, and alive on confident ones."""
    logits = torch.randn(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50) % 10
    expected = logits.softmax(dim=1) - nn.functional.one_hot(labels, 10)
    got = loss_direction(logits, labels)
    ratio = got / expected
    assert (ratio > 0).all()
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    confident = torch.tensor([[500.0, 0.0, -3.0]])
    plain = confident.softmax(dim=1) - torch.tensor([[1.0, 0.0, 0.0]])
    assert (plain == 0).all()  # what masking by rounding means
    assert loss_direction(confident, torch.tensor([0]))[0, :2].tolist() == pytest.approx(
        [-1, 1], abs=0.1
    )


def test_a_confident_model_is_attacked_all_the_same() -> None:
    """Logits times 200 change no prediction, and change attacked accuracy by at most 1 in 100."""

    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = trained_net()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = 200 * self.model(images)
            return logits

    def attacked(model: nn.Module) -> float:
        return measure(model, delta=0.3).values["pgd_accuracy/delta-0.3"]

    assert attacked(Loud()) <= attacked(trained_net()) + 0.01
    assert theirs(Loud(), 0.3, 2.5 * 0.3 / STEPS).mean() > 0.2  # where the plain gradient is zero


def test_repr_and_key() -> None:
    """An attack prints as the call that makes it; the key names all that differs from default."""
    assert repr(PGD(delta=0.005)) == "PGD(delta=0.005)"
    assert repr(PGD(delta=0.005, steps=40)) == "PGD(delta=0.005, steps=40)"
    assert PGD(delta=0.005, steps=40).key == "pgd_accuracy/delta-0.005.steps-40"
    assert PGD(delta=1e-7, until="last").key == "pgd_accuracy/delta-1e-07.until-last"
