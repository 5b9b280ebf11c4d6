"""Training: which stream controls what, and equal cells give equal bits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from mm_mlflow import models, training
from mm_mlflow.datasets import bind, open_splits
from mm_mlflow.design import Cell, Design, TrainingSettings
from mm_mlflow.errors import InvalidInput
from mm_mlflow.split import Split


@pytest.fixture
def cell(small: Path) -> Cell:
    design = bind(Design.load(small))
    settings = design.cells()[0].training.model_copy(update={"augmentation": "randaugment"})
    return dataclasses.replace(design.cells()[0], training=settings)


@pytest.fixture
def split(cell: Cell) -> Split:
    return open_splits(cell.dataset)["train"]


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


def traces(cell: Cell, split: Split) -> dict[str, str]:
    """Hashes of the initial weights, of the order of labels, and of every image after augmentation
    in the split's own order."""
    model, _ = training.initial_model(cell, split)
    # Distinct labels make the order visible, whatever augmentation does to the images.
    numbered = dataclasses.replace(split, labels=np.arange(len(split)))
    order, images = [], []
    for epoch in training.epochs(cell, numbered):
        batches = list(epoch)
        indices = torch.cat([labels for _, labels in batches])
        order.append(indices)
        images.append(torch.cat([batch for batch, _ in batches])[indices.argsort()])
    return {
        "init": digest(*model.state_dict().values()),
        "order": digest(*order),
        "augment": digest(*images),
    }


@pytest.mark.parametrize("changed", ["init", "order", "augment"])
def test_each_stream_changes_exactly_one_thing(
    cell: Cell, split: Split, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Initial weights, order of examples and augmentation are separate draws from one seed."""
    before = traces(cell, split)
    original: Callable[[str, int], int] = training.stream_seed
    monkeypatch.setattr(
        training, "stream_seed", lambda name, seed: original(name, seed + (name == changed))
    )
    after = traces(cell, split)
    assert {name for name in before if before[name] != after[name]} == {changed}


def test_the_seed_changes_all_streams(cell: Cell, split: Split) -> None:
    """One seed controls all randomness (Section 3.1)."""
    before, after = traces(cell, split), traces(dataclasses.replace(cell, seed=7), split)
    assert all(before[name] != after[name] for name in before)


def test_every_image_is_seen_once_an_epoch(cell: Cell, split: Split) -> None:
    """In batches of the size asked for, the last may be smaller."""
    numbered = dataclasses.replace(split, labels=np.arange(len(split)))
    epochs = [[labels for _, labels in epoch] for epoch in training.epochs(cell, numbered)]
    assert len(epochs) == cell.training.epochs
    for epoch in epochs:
        assert sorted(torch.cat(epoch).tolist()) == list(range(len(split)))
        assert [len(labels) for labels in epoch] == [256] * 4 + [1078 - 4 * 256]
    assert epochs[0][0].tolist() != epochs[1][0].tolist()


def test_chunks_do_not_show(cell: Cell, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images are augmented at once changes no bit: large images come in small chunks."""
    whole = traces(cell, split)
    monkeypatch.setattr(training, "_CHUNK_BYTES", 1)
    assert traces(cell, split) == whole


def test_training_twice_gives_the_same_bits_and_leaves_global_state(
    cell: Cell, split: Split
) -> None:
    """Whatever was drawn before; torch's global generator is left as it was."""
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = training.train(cell, split)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(17)
    second = training.train(cell, split)
    a, b = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert first.losses == second.losses
    other = training.train(dataclasses.replace(cell, seed=1), split).model.state_dict()
    assert not all(torch.equal(a[name], other[name]) for name in a)


def test_a_diverged_training_is_a_result(cell: Cell, split: Split) -> None:
    """A loss that is not finite ends training with a reason, not with an exception."""
    settings = cell.training.model_copy(update={"learning_rate": 1e25})
    trained = training.train(dataclasses.replace(cell, training=settings), split)
    assert trained.diverged is not None
    assert "epoch 1 of 2" in trained.diverged
    assert len(trained.losses) == 1


def test_the_schedule_and_the_scale_set_the_learning_rate(
    cell: Cell, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cosine per epoch from learning_rate x learning_rate_scale; constant stays."""
    rates: list[float] = []

    def recording(
        parameters: object, rate: float, settings: TrainingSettings
    ) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, rate)  # type: ignore[arg-type]
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setitem(training.OPTIMIZERS, "sgd", recording)
    for schedule, expected in [("cosine", [0.05, 0.025]), ("constant", [0.05, 0.05])]:
        rates.clear()
        update = {"learning_rate_scale": 0.5, "schedule": schedule}
        settings = cell.training.model_copy(update=update)
        training.train(dataclasses.replace(cell, training=settings), split)
        assert rates[::5] == pytest.approx(expected)


# Nets for 224 x 224 images reduce these of 8 x 8 to one pixel in the first stage: nothing to learn from.
LARGE = {"resnet18", "resnet50", "wide_resnet50_2"}


@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_models_are_torchvisions(split: Split, name: str) -> None:
    """From scratch, with our number of classes; one step of training changes every parameter."""
    theirs = torchvision.models.get_model(name, weights=None, num_classes=10)
    spec = models.specification(name, {}, split)
    model = models.build(spec)
    ours = {key.removeprefix("network."): value.shape for key, value in model.state_dict().items()}
    assert ours == {key: value.shape for key, value in theirs.state_dict().items()}
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
@pytest.mark.parametrize("name", sorted(set(models.MODELS) - LARGE))
def test_every_model_learns_with_every_optimizer(
    cell: Cell, split: Split, name: str, optimizer: str
) -> None:
    """Two epochs on digits bring the loss well below that of guessing, log 10."""
    scale = {"sgd": 0.5, "adam": 0.05}[optimizer]
    update = {
        "architecture": name, "optimizer": optimizer, "epochs": 2, "batch_size": 32,
        "learning_rate_scale": scale, "augmentation": "none",
    }  # fmt: skip
    settings = cell.training.model_copy(update=update)
    assert training.train(dataclasses.replace(cell, training=settings), split).losses[-1] < 1.5


@pytest.mark.parametrize("name", models.MODELS)
def test_weights_travel_without_pickle(split: Split, name: str) -> None:
    """A model read from its bytes gives the same logits, with nothing but its header to build it."""
    spec = models.specification(name, {}, split)
    model = models.build(spec).eval()
    with torch.no_grad():  # not the constructor's weights
        for parameter in model.parameters():
            parameter.add_(0.01)
    again, found = models.from_bytes(models.to_bytes(model, spec))
    assert found == spec
    images = split.batch(np.arange(20))
    assert torch.equal(again(images), model(images))
    assert again(images).shape == (20, 10)


def test_normalisation_lives_inside_the_model(split: Split) -> None:
    """The network sees images of mean 0 and standard deviation 1 per channel."""
    model = models.build(models.specification("mlp", {}, split))
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(split.batch(slice(None)))
    assert seen[0].mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (seen[0].std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_model_is_refused(data: bytes) -> None:
    """Truncated or foreign: one line."""
    with pytest.raises(InvalidInput, match=r"model\.safetensors cannot be read"):
        models.from_bytes(data)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"optimizer": "sgdd"}, "unknown optimizer 'sgdd'; did you mean 'sgd'"),
        ({"augmentation": "randaugmnt"}, "unknown augmentation .* did you mean 'randaugment'"),
        ({"architecture": "resnet9"}, "unknown architecture 'resnet9'; did you mean 'resnet8'"),
        ({"architecture_arguments": {"wide": 3}}, "architecture 'mlp' does not take .*wide"),
    ],
)
def test_unknown_names_are_refused_before_training(
    cell: Cell, split: Split, update: dict[str, object], message: str
) -> None:
    """With the near match."""
    with pytest.raises(InvalidInput, match=message):
        training.check(cell.training.model_copy(update=update), split)


def test_settings_known_to_train_badly_are_told(cell: Cell) -> None:
    """Adam at SGD's rate, a batch larger than the data; nothing about the default."""

    def told(**update: object) -> list[str]:
        return training.advice(cell.training.model_copy(update=update), 1078)

    assert not told()
    assert any("adam" in line for line in told(optimizer="adam"))
    assert not told(optimizer="adam", learning_rate_scale=0.1)
    assert any("5000" in line for line in told(batch_size=5000))
