"""Folded batch norm: the same function, for every architecture, and refused where it is not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation.folding import channels_last, folded
from mm_mlflow.models import MODELS, build

SPEC = {"arguments": {}, "channels": 3, "size": [32, 32], "classes": list("abc"),
        "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}  # fmt: skip
NORMS = {"mlp": 0, "conv": 2, "resnet8": 9, "resnet20": 21, "resnet18_cifar": 20, "resnet18": 20,
         "resnet50": 53, "wide_resnet50_2": 53}  # fmt: skip


def lived_in(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights of their own: fresh ones are nearly the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                assert value is not None
                value.data = torch.rand(value.shape, generator=generator) + 0.3
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_gives_the_same_logits(name: str) -> None:
    """Within rounding, with every batch norm folded; the model itself is left as it was."""
    model = lived_in(build({**SPEC, "architecture": name}))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(images)
        faster, number = folded(model, images[:2])
        found = faster(images)
    assert number == NORMS[name]
    assert not any(module.training for module in faster.modules())
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert all((model.state_dict()[key] == value).all() for key, value in before.items())


@pytest.mark.parametrize("name", ["conv", "resnet8"])
def test_gradients_agree(name: str) -> None:
    """What an attack follows: the gradient at the image, within rounding."""
    model = lived_in(build({**SPEC, "architecture": name})).requires_grad_(requires_grad=False)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    gradients = []
    for net in (model, folded(model, images)[0]):
        point = images.clone().requires_grad_()
        functional.cross_entropy(net(point), torch.tensor([0, 1])).backward()
        assert point.grad is not None
        gradients.append(point.grad)
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-4 * gradients[0].abs().max()


class Shared(nn.Module):
    """A convolution whose output two take: folding would change what the second one gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return (self.norm(out) + out).mean(dim=(2, 3))


class Twice(nn.Module):
    """A convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x))).mean(dim=(2, 3))


@pytest.mark.parametrize("cls", [Shared, Twice])
def test_what_cannot_be_folded_is_left_alone(cls: type[nn.Module]) -> None:
    """The very model comes back."""
    model = lived_in(cls())
    images = torch.rand(2, 3, 8, 8)
    assert folded(model, images) == (model, 0)


def test_weights_do_not_decide() -> None:
    """A model whose weights are not finite takes the code path of its architecture."""
    model = lived_in(build({**SPEC, "architecture": "conv"}))
    next(model.parameters()).data.fill_(torch.nan)
    assert folded(model, torch.rand(2, 3, 32, 32))[1] == NORMS["conv"]


@pytest.mark.parametrize(
    "normalise",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
    ],
)
def test_normalised_weights_are_left_alone(normalise: Callable[[nn.Module], nn.Module]) -> None:
    """Weights that are made anew at each call cannot be folded: the model is used as it is."""
    model = nn.Sequential(
        normalise(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10)
    ).eval()
    found, number = folded(model, torch.rand(2, 3, 8, 8))
    assert found is model
    assert number == 0


def test_what_is_no_classifier_is_said_in_one_line() -> None:
    """A model that gives a tuple fails with the contract's own words."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, int]:
            return self.body(images).mean(dim=(2, 3)), 1

    with pytest.raises(InvalidInput, match=r"\(n, K\) logits are needed"):
        folded(Pair().eval(), torch.rand(2, 3, 8, 8))


class Viewed(nn.Module):
    """Written for images laid out channels first: ``view`` refuses others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(-1, 4 * 36))


def unnormalised() -> nn.Module:
    """A net without batch norm whose sums depend on the layout (group norm and average pooling)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(2, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    ).eval()


def test_the_layout_that_a_model_comes_in_changes_no_bit() -> None:
    """Trained (channels last) and loaded (channels first) weights give equal logits only once they are
    laid out alike."""
    loaded = unnormalised()
    trained = copy.deepcopy(loaded).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert not torch.equal(loaded(images), trained(images))
        alike = [channels_last(model, images[:2])(images) for model in (loaded, trained)]
    assert torch.equal(*alike)
    assert loaded[0].weight.is_contiguous()  # left as it was


def test_a_model_that_views_its_memory_still_runs() -> None:
    """It is laid out channels first, whatever it came in."""
    model = Viewed().eval()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        expected = model(images)
        for each in (model, other):
            assert torch.equal(channels_last(each, images[:2])(images), expected)


def test_a_model_without_convolutions_is_taken_as_it_is() -> None:
    """A layout of images means nothing to it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    assert channels_last(model, torch.rand(2, 3, 8, 8)) is model
