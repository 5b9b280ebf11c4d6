"""Augmentation: torchvision's operations, a policy per image, draws that depend on position alone."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torchvision.transforms import RandAugment as TorchvisionRandAugment
from torchvision.transforms import TrivialAugmentWide as TorchvisionTrivialAugmentWide
from torchvision.transforms import functional

from mm_mlflow.augmentation import (
    AUGMENTATIONS,
    OPERATIONS,
    SIGNED,
    Augmentation,
    NoAugmentation,
    Policy,
    RandAugment,
    TrivialAugmentWide,
)
from mm_mlflow.errors import InvalidInput

BOTH = [RandAugment(), TrivialAugmentWide()]
BINS = (0, 1, 5, 9, 14, 20, 27, 30)


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own with this seed."""
    return torch.Generator().manual_seed(seed)


def digits() -> torch.Tensor:
    """All of scikit-learn's digits, each in a colour of its own on black: (1797, 3, 8, 8) uint8."""
    ink = 0.5 + 0.5 * torch.rand(1797, 3, 1, 1, generator=generator())
    gray = torch.tensor(load_digits().images).float()[:, None] / 16
    return (ink * gray).mul(255).round().byte()


def smooth(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Smooth random images, (12, C, H, W) uint8, which reach both ends of the range."""
    coarse = torch.rand(12, channels, 5, 5, generator=generator())
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return fine.clamp(0, 1).mul(255).round().byte()


IMAGES = {
    "digits": digits()[:12],
    "square": smooth(32, 32),
    "oblong": smooth(19, 30),
    "gray": smooth(20, 16, channels=1),
    "flat": torch.full((1, 3, 20, 20), 77, dtype=torch.uint8),
    "tiny": smooth(2, 2),
}


def unit(levels: torch.Tensor) -> torch.Tensor:
    """Levels as a split hands them out: float32 in [0, 1]."""
    return levels.float().div_(255)


def torchvision_operation(name: str, image: torch.Tensor, value: float) -> torch.Tensor:
    """What torchvision makes of one (C, H, W) uint8 image, written from its public functions."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    slope = float(np.degrees(np.arctan(value)))
    match name:
        case "ShearX":
            return functional.affine(image, **still | {"shear": [slope, 0.0]}, center=[0, 0])
        case "ShearY":
            return functional.affine(image, **still | {"shear": [0.0, slope]}, center=[0, 0])
        case "TranslateX":
            return functional.affine(image, **still | {"translate": [int(value), 0]})
        case "TranslateY":
            return functional.affine(image, **still | {"translate": [0, int(value)]})
        case "Rotate":
            return functional.rotate(image, value)
        case "Brightness":
            return functional.adjust_brightness(image, 1 + value)
        case "Color":
            return functional.adjust_saturation(image, 1 + value)
        case "Contrast":
            return functional.adjust_contrast(image, 1 + value)
        case "Sharpness":
            return functional.adjust_sharpness(image, 1 + value)
        case "Posterize":
            return functional.posterize(image, int(value))
        case "Solarize":
            return functional.solarize(image, value)
        case "AutoContrast":
            return functional.autocontrast(image)
        case "Equalize":
            return functional.equalize(image)
    return image


def fixed(name: str, bin_: int, sign: int, n: int) -> Policy:
    """A policy of one operation, the same for all n images."""
    number = OPERATIONS.index(name)
    return Policy(*(torch.full((1, n), value) for value in (number, bin_, sign)))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("policy", [RandAugment(num_ops=1), TrivialAugmentWide()], ids=repr)
def test_operation_equals_torchvision(policy: Augmentation, name: str) -> None:
    """Every operation has torchvision's bits, on all images, at weak to full strength, both signs."""
    for kind, images in IMAGES.items():
        values = policy.magnitudes(*images.shape[2:])[name]
        for bin_ in BINS:
            for sign in (1, -1) if name in SIGNED else (1,):
                value = float(values[bin_]) * sign
                expected = torch.stack([torchvision_operation(name, i, value) for i in images])
                found = policy.apply(unit(images), fixed(name, bin_, sign, len(images)))
                assert torch.equal(found, unit(expected)), (kind, bin_, sign)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (224, 160)])
def test_magnitudes_equal_torchvision(shape: tuple[int, int]) -> None:
    """Operations, their order, signs and magnitudes are torchvision's, but for small images' shifts."""
    rand = TorchvisionRandAugment()._augmentation_space(31, shape)
    trivial = TorchvisionTrivialAugmentWide()._augmentation_space(31)
    for policy, space in zip(BOTH, (rand, trivial), strict=True):
        assert tuple(space) == OPERATIONS
        assert tuple(name for name, (_, signed) in space.items() if signed) == SIGNED
        for name, values in policy.magnitudes(*shape).items():
            expected = space[name][0]
            if policy is BOTH[1] and name.startswith("Translate") and min(shape) < 32:
                expected = rand[name][0]  # below 32 pixels: RandAugment's part of the side
            assert torch.equal(values, expected.double().expand(31)), (policy, name)


def test_two_operations_follow_each_other() -> None:
    """The second operation of a policy sees the result of the first."""
    policy = RandAugment()
    images = IMAGES["square"]
    first, second = fixed("Rotate", 9, 1, 12), fixed("Solarize", 9, 1, 12)
    both = Policy(
        torch.cat([first.operations, second.operations]),
        torch.cat([first.bins, second.bins]),
        torch.cat([first.signs, second.signs]),
    )
    values = {name: float(v[9]) for name, v in policy.magnitudes(32, 32).items()}
    turned = torchvision_operation("Rotate", images, values["Rotate"])
    expected = torchvision_operation("Solarize", turned, values["Solarize"])
    assert torch.equal(policy.apply(unit(images), both), unit(expected))


@pytest.mark.parametrize("policy", BOTH, ids=repr)
def test_every_operation_occurs(policy: Augmentation) -> None:
    """Among 512 images every operation occurs, and equal images part company."""
    for seed in range(5):
        assert set(policy.draw(512, generator(seed)).operations.unique().tolist()) == set(range(14))
    same = unit(IMAGES["square"][:1]).expand(512, -1, -1, -1)
    assert len(policy.augment(same, generator()).unique(dim=0)) > 14


@pytest.mark.parametrize("policy", BOTH, ids=repr)
def test_draws_are_uniform(policy: Augmentation) -> None:
    """Operations, signs and drawn magnitudes are uniform and independent, as torchvision's are."""
    drawn = policy.draw(20_000, generator(1))
    for operations, bins, signs in zip(drawn.operations, drawn.bins, drawn.signs, strict=True):
        assert stats.chisquare(operations.bincount(minlength=14)).pvalue > 0.001
        assert stats.chisquare((signs > 0).long().bincount(minlength=2)).pvalue > 0.001
        assert set(signs.tolist()) == {-1, 1}
        pairs = [2 * operations + (signs > 0)]
        if policy.magnitude is None:
            pairs.append(31 * operations + bins)
        else:
            assert set(bins.tolist()) == {policy.magnitude}
            pairs.append(14 * drawn.operations[0] + drawn.operations[1])
        for pair, length in zip(pairs, (28, 434 if policy.magnitude is None else 196), strict=True):
            assert stats.chisquare(pair.bincount(minlength=length)).pvalue > 0.001


@pytest.mark.parametrize("policy", BOTH, ids=repr)
def test_frequencies_agree_with_torchvision(
    policy: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How often each operation is taken agrees with torchvision's own draws, by χ²."""
    taken: list[str] = []

    def note(image: torch.Tensor, name: str, *_: object, **__: object) -> torch.Tensor:
        taken.append(name)
        return image

    monkeypatch.setattr("torchvision.transforms.autoaugment._apply_op", note)
    theirs = TorchvisionRandAugment() if policy is BOTH[0] else TorchvisionTrivialAugmentWide()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for _ in range(2000 // policy.num_ops):
        theirs(IMAGES["tiny"][0])
    torch.set_rng_state(state)
    ours = policy.draw(20_000, generator(2)).operations.flatten().bincount(minlength=14)
    table = [ours.tolist(), [taken.count(name) for name in OPERATIONS]]
    assert sum(table[1]) == 2000
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("policy", BOTH, ids=repr)
@pytest.mark.parametrize("kind", ["digits", "square", "oblong", "gray"])
def test_range_and_levels(policy: Augmentation, kind: str) -> None:
    """Results are float32 multiples of 1/255 in [0, 1] of the shape that came; the input stays."""
    images = unit(IMAGES[kind]).repeat(20, 1, 1, 1)
    before = images.clone()
    result = policy.augment(images, generator())
    assert result.dtype == torch.float32
    assert result.shape == images.shape
    assert result.is_contiguous()
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert torch.equal(result, unit(result.mul(255).round().byte()))
    assert torch.equal(images, before)


@pytest.mark.parametrize("policy", BOTH, ids=repr)
def test_few_blank_images(policy: Augmentation) -> None:
    """At most 1% of 8x8 digits end with a standard deviation below 0.02 that was above it."""
    images = unit(digits())
    assert bool((images.flatten(1).std(1) >= 0.02).all())
    draws, stream = 10, generator(3)
    blank = sum(
        int((policy.augment(images, stream).flatten(1).std(1) < 0.02).sum()) for _ in range(draws)
    )
    assert blank / (draws * len(images)) <= 0.01


@pytest.mark.parametrize("policy", BOTH, ids=repr)
@pytest.mark.parametrize("kind", ["digits", "square"])
def test_order_and_company_change_nothing(policy: Augmentation, kind: str) -> None:
    """An image's result has the same bits in any order, in any batch and alone."""
    images = unit(IMAGES[kind]).repeat(25, 1, 1, 1)
    drawn = policy.draw(len(images), generator(4))
    whole = policy.apply(images, drawn)
    order = torch.randperm(len(images), generator=generator(5))
    assert torch.equal(policy.apply(images[order], drawn[order]), whole[order])
    for size in (1, 7, 64):
        parts = [
            policy.apply(images[rows], drawn[rows])
            for start in range(0, len(images), size)
            for rows in [slice(start, start + size)]
        ]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("policy", BOTH, ids=repr)
def test_generator_decides_everything(policy: Augmentation) -> None:
    """One seed, one result; another seed, another; and no global generator is read or moved."""
    images = unit(IMAGES["square"])
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = policy.augment(images, generator(6))
    torch.rand(3)  # moves the global generator, which must not matter
    torch.set_rng_state(states[0])
    assert torch.equal(policy.augment(images, generator(6)), first)
    assert not torch.equal(policy.augment(images, generator(7)), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


def test_none_changes_and_draws_nothing() -> None:
    """Without augmentation images keep their bits, on the 8-bit grid or off it, and no draw is made."""
    stream = generator()
    before = stream.get_state()
    images = torch.rand(5, 3, 4, 4, generator=generator(8))
    assert torch.equal(NoAugmentation().augment(images, stream), images)
    assert torch.equal(stream.get_state(), before)


def test_wrong_arguments_are_named() -> None:
    """Impossible settings, shapes and lengths are refused with what is allowed."""
    for wrong in ({"magnitude": 31}, {"magnitude": -1}, {"num_ops": -1}, {"bins": 1}):
        with pytest.raises(InvalidInput, match=f"{next(iter(wrong))} .* is not allowed"):
            RandAugment(**wrong)
    drawn = RandAugment().draw(2, generator())
    for shape in ((2, 2, 8, 8), (3, 8, 8)):
        with pytest.raises(InvalidInput, match="with C 1 or 3"):
            RandAugment().apply(torch.zeros(shape), drawn)
    with pytest.raises(InvalidInput, match="policy of 2 images"):
        RandAugment().apply(torch.zeros(3, 3, 8, 8), drawn)


def test_names_need_no_torch() -> None:
    """The names of all augmentations are known without torch."""
    code = (
        "import sys; from mm_mlflow.augmentation import AUGMENTATIONS; "
        "print(*AUGMENTATIONS, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert printed == ["none", "randaugment", "trivialaugment", "False"]
    assert [AUGMENTATIONS[name]() for name in printed[:3]] == [NoAugmentation(), *BOTH]
