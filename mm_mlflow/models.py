"""Architectures by name. Inputs are images in [0, 1]; normalisation lives inside the model.

A new architecture is a function and a line in ``MODELS``, or a third party's entry point in the
group ``mm_mlflow.models``: ``(channels, size, classes, **arguments) -> nn.Module``, where ``size`` is
the height and width of an image in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm_mlflow import registry
from mm_mlflow.errors import InvalidInput
from mm_mlflow.split import Split

GROUP = "mm_mlflow.models"
MODELS = {
    "mlp": "mm_mlflow.models:mlp",
    "conv": "mm_mlflow.models:conv",
    "resnet8": "mm_mlflow.models:resnet8",
    "resnet20": "mm_mlflow.models:resnet20",
    "resnet18_cifar": "mm_mlflow.models:resnet18_cifar",
    "resnet18": "mm_mlflow.models:resnet18",
    "resnet50": "mm_mlflow.models:resnet50",
    "wide_resnet50_2": "mm_mlflow.models:wide_resnet50_2",
}
_HEADER = "mm_mlflow"  # one key only: safetensors writes several in varying order


class Classifier(nn.Module):
    """Normalise per channel, then classify: ``(n, C, H, W)`` in [0, 1] to ``(n, classes)`` logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # Part of the header, not of the weights. A constant channel is shifted, not scaled.
        scale = [value or 1.0 for value in std]
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def specification(name: str, arguments: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """All that it takes to build a model for the images of ``split``, JSON-able."""
    channels, height, width = split.images.shape[1:]
    return {
        "architecture": name,
        "arguments": dict(arguments),
        "channels": channels,
        "size": [height, width],
        "classes": list(split.class_names),
        "mean": list(split.mean),
        "std": list(split.std),
    }


def build(spec: Mapping[str, Any]) -> Classifier:
    """A model with fresh weights, drawn from torch's global generator.

    Raises:
        InvalidInput: an unknown architecture, or arguments that it does not take.
    """
    make = registry.resolve("architecture", spec["architecture"], MODELS, GROUP)
    try:
        network = make(
            spec["channels"], tuple(spec["size"]), len(spec["classes"]), **spec["arguments"]
        )
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        line = " ".join(str(error).split())
        raise InvalidInput(
            f"architecture {spec['architecture']!r} does not take {spec['arguments']}: {line}"
        ) from error
    return Classifier(network, spec["mean"], spec["std"])


def to_bytes(model: nn.Module, spec: Mapping[str, Any]) -> bytes:
    """``model.safetensors``: the weights, with ``spec`` as JSON in the header."""
    # cpu().contiguous(): channels-last weights would otherwise be refused
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    header = {_HEADER: json.dumps(dict(spec), sort_keys=True)}
    data: bytes = safetensors.torch.save(tensors, metadata=header)
    return data


def from_bytes(data: bytes) -> tuple[Classifier, dict[str, Any]]:
    """The model and its specification from ``model.safetensors``; nothing is unpickled.

    Raises:
        InvalidInput: not a file of ours, truncated, or for an architecture that is not known or not
            trusted here.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        spec = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
        tensors = safetensors.torch.load(data)
        with torch.random.fork_rng(devices=[]):
            model = build(spec)
        model.load_state_dict(tensors)
    except InvalidInput:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        text = " ".join(repr(error).split())[:300]
        raise InvalidInput(f"model.safetensors cannot be read: {text}") from error
    return model.eval(), spec


def mlp(
    channels: int, size: tuple[int, int], classes: int, hidden: Sequence[int] = (256, 128)
) -> nn.Module:
    """A multilayer net: flatten, hidden layers with ReLU, a linear head."""
    widths = [channels * size[0] * size[1], *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def conv(channels: int, _size: tuple[int, int], classes: int, width: int = 16) -> nn.Module:
    """Two 3 x 3 convolutions with batch norm and pooling, then a linear head: 6k parameters for
    8 x 8 RGB digits at width 16."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


class _BasicBlock(nn.Module):
    """He et al., Deep residual learning (CVPR 2016), with a 1 x 1 convolution where shapes differ."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out, inplace=True)


def resnet8(
    channels: int, _size: tuple[int, int], classes: int, width: int = 8, stem_stride: int = 1
) -> nn.Module:
    """A residual net for small images, one basic block per stage (6n + 2 layers with n = 1);
    ``stem_stride`` 2 halves the images at once: four times as fast."""
    return _small_resnet(channels, classes, width, 1, stem_stride)


def resnet20(channels: int, _size: tuple[int, int], classes: int, width: int = 16) -> nn.Module:
    """He et al.'s net for CIFAR-10 (Section 4.2 there): three stages of three basic blocks."""
    return _small_resnet(channels, classes, width, 3, 1)


def _small_resnet(
    channels: int, classes: int, width: int, blocks: int, stem_stride: int
) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, stem_stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    before = width
    for stage in range(3):
        after = width * 2**stage
        for block in range(blocks):
            layers.append(_BasicBlock(before, after, 2 if stage and not block else 1))
            before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*layers)


def resnet18_cifar(channels: int, _size: tuple[int, int], classes: int) -> nn.Module:
    """ResNet-18 with a stem for images of 32 x 32: a 3 x 3 convolution of stride 1, no max-pooling
    (Appendix A.1: "adapted for CIFAR10 images")."""
    network = _torchvision("resnet18", channels, classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    # As torchvision draws the convolution that this one replaces.
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def resnet18(channels: int, _size: tuple[int, int], classes: int) -> nn.Module:
    """ResNet-18 of torchvision, from scratch (Section 3.1)."""
    return _torchvision("resnet18", channels, classes)


def resnet50(channels: int, _size: tuple[int, int], classes: int) -> nn.Module:
    """ResNet-50 of torchvision, from scratch (Section 3.1)."""
    return _torchvision("resnet50", channels, classes)


def wide_resnet50_2(channels: int, _size: tuple[int, int], classes: int) -> nn.Module:
    """WideResNet-50-2 of torchvision, from scratch (Section 3.1: "WideResNet-50x2")."""
    return _torchvision("wide_resnet50_2", channels, classes)


def _torchvision(name: str, channels: int, classes: int) -> nn.Module:
    if channels != 3:
        raise ValueError(f"images have {channels} channels: torchvision's nets take 3")
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None, num_classes=classes)
    return network
