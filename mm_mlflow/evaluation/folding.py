"""The same function, faster: batch norm folded into convolutions, images laid out channels last.

In eval mode batch norm is an affine map per channel, which the convolution before it can take over;
the logits agree up to rounding (5e-6, measured). Whether a model is folded, and how it is laid out in
memory, depends on its architecture alone, never on its weights or where it comes from, so that all
cells of a level take one code path, and a model loaded from a file the one that it took when it had
just been trained.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mm_mlflow.evaluation.probe import forward

_TOLERANCE = 1e-3  # of the largest logit: structure shows itself in far more, rounding in far less


class ChannelsLast(nn.Module):
    """A model fed with images whose channels lie side by side, which convolutions like best."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """As the model's own."""
        logits: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits


def channels_last(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of ``model`` laid out channels last, whatever its layout is; itself where there is no choice.

    Convolutions of another layout sum in another order, and give other bits. A model that does not
    run so (it calls ``view`` on what a convolution gives) is laid out channels first.

    Args:
        model: in eval mode; left as it was.
        images: ``(n, C, H, W)`` a few images that it takes, on its device.
    """
    if not any(value.ndim == 4 for value in model.parameters()):
        return model
    try:
        copied = copy.deepcopy(model)
    except (TypeError, RuntimeError):  # it holds what cannot be copied
        return model
    try:
        fast = ChannelsLast(copied).eval()  # modules that are new here would begin in train mode
        with torch.no_grad():
            fast(images)
    except RuntimeError:
        return copied.to(memory_format=torch.contiguous_format)
    return fast


def folded(model: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """A copy of ``model`` with batch norms folded, and how many; the model itself where there is none.

    A batch norm is folded where it takes what a convolution gives, both are called once, and a copy
    with random weights gives the same logits afterwards: that tells whether something else takes
    the convolution's output too.

    Args:
        model: in eval mode; left as it was.
        images: ``(n, C, H, W)`` a few images that it takes, on its device.
    """
    pairs = _pairs(model, images)
    if not pairs or not _same_function(model, pairs, images):
        return model, 0
    # eval(): modules that are new here would begin in train mode.
    return _fold(copy.deepcopy(model), pairs).eval(), len(pairs)


def _pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that take their output."""
    names = {module: name for name, module in model.named_modules()}
    given: dict[int, tuple[Tensor, nn.Module]] = {}  # holds the tensors, so that ids stay theirs
    calls: Counter[nn.Module] = Counter()
    found: list[tuple[nn.Module, nn.Module]] = []

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            given[id(output)] = (output, module)
        elif inputs and id(inputs[0]) in given:
            found.append((given[id(inputs[0])][1], module))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(see) for m in names if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    once = [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]
    # A module that eval() leaves in train mode stays as it is: a self-check will name it.
    return [
        (names[conv], names[norm])
        for conv, norm in once
        if _plain(conv) and _plain(norm) and norm.track_running_stats
    ]


def _plain(module: nn.Module) -> bool:
    """Whether its weight is a parameter of its own: normalised weights are made anew at each call."""
    return (
        type(module) in {nn.Conv2d, nn.BatchNorm2d}
        and not module.training
        and not module._forward_pre_hooks  # noqa: SLF001 - how the older weight norms do it
    )


def _same_function(model: nn.Module, pairs: Sequence[tuple[str, str]], images: Tensor) -> bool:
    trial = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for _, name in pairs:
        norm = trial.get_submodule(name)
        for key, value in [*norm.named_parameters(), *norm.named_buffers()]:
            if value.is_floating_point():
                drawn = torch.rand(value.shape, generator=generator) + 0.5
                value.data.copy_(drawn if key != "running_mean" else drawn - 1)
    for module in trial.modules():
        if isinstance(module, nn.Conv2d):
            scale = module.weight[0].numel() ** -0.5
            module.weight.data.copy_(
                torch.randn(module.weight.shape, generator=generator) * scale * 1.4
            )
    with torch.no_grad():
        before = forward(trial, images)
        after = forward(_fold(trial, pairs), images)
    return bool((before - after).abs().max() <= _TOLERANCE * before.abs().max())


def _fold(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> nn.Module:
    for convolution, norm in pairs:
        conv, batch_norm = model.get_submodule(convolution), model.get_submodule(norm)
        if not isinstance(conv, nn.Conv2d) or not isinstance(batch_norm, nn.BatchNorm2d):
            raise TypeError(f"{convolution} and {norm} are no convolution and batch norm")
        fused = fuse_conv_bn_eval(conv, batch_norm)
        _replace(model, convolution, fused)
        _replace(model, norm, nn.Identity())
    return model


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
