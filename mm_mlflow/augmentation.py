"""RandAugment and TrivialAugmentWide on whole batches, with a policy of its own for every image.

Cubuk et al. 2020 (RandAugment, arXiv 1909.13719) and Müller & Hutter 2021 (TrivialAugment, arXiv
2103.10158) are levels of the paper's augmentation axis (Section 3.1). Operations, magnitudes,
nearest interpolation and fill (black) are those of ``torchvision.transforms``, which takes one
image at a time; here every operation is done once for all the images that drew it.

What an image goes through is drawn for a whole epoch by its position in the split
(:meth:`Augmentation.draw`) and applied in any order and in parts of any size
(:meth:`Augmentation.apply`), so the streams of data order and of augmentation stay apart::

    policy = augmentation.draw(len(split), generator)
    for indices in batches:
        images = augmentation.apply(split.batch(indices), policy[indices])

Everything happens on 8-bit levels, as in torchvision: images are rounded to multiples of 1/255, which
changes nothing for images stored as uint8. Arithmetic is on integers or elementwise, so an image's
result has the same bits whichever images are beside it. As in torchvision, Color does nothing to one
channel, Equalize nothing to images of fewer than 256 pixels. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
LEVELS = ("Posterize", "Solarize", "AutoContrast", "Equalize")
OPERATIONS = ("Identity", *GEOMETRY, *BLENDS, *LEVELS)
SIGNED = (*GEOMETRY, *BLENDS)

PROPORTIONAL_SHIFT = 150 / 331
"""The largest shift as a part of width or height: RandAugment's, in torchvision as here."""


@dataclass(frozen=True, eq=False)
class Policy:
    """What each of N images goes through, operation after operation.

    Attributes:
        operations: ``(num_ops, N)`` int64, indices into ``OPERATIONS``.
        bins: ``(num_ops, N)`` int64, which of the magnitudes of that operation.
        signs: ``(num_ops, N)`` int64, -1 or 1; only operations in ``SIGNED`` heed it.
    """

    operations: Tensor
    bins: Tensor
    signs: Tensor

    def __len__(self) -> int:
        return self.operations.shape[1]

    def __getitem__(self, indices: Tensor | slice) -> Policy:
        """The policy of the images at ``indices``: integers, a mask or a slice."""
        return Policy(self.operations[:, indices], self.bins[:, indices], self.signs[:, indices])


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Base of the three policies; subclasses say how many operations and how strong.

    Attributes:
        num_ops: operations per image, one after the other.
        magnitude: the bin that every image uses, or None: each image draws its own.
        bins: number of magnitudes, from none to the strongest.
    """

    num_ops: int = 0
    magnitude: int | None = None
    bins: int = 31

    shear: ClassVar[float] = 0.0
    degrees: ClassVar[float] = 0.0
    blend: ClassVar[float] = 0.0
    lost_bits: ClassVar[int] = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("num_ops", self.num_ops, 0, 100),
            ("bins", self.bins, 2, 1000),
            ("magnitude", self.magnitude or 0, 0, self.bins - 1),
        ):
            if not low <= value <= high:
                raise InvalidInput(f"{name} {value} is not allowed: {low} to {high}")

    def shift(self, extent: int) -> float:
        """The largest translation in pixels along a side of ``extent`` pixels."""
        return PROPORTIONAL_SHIFT * extent

    def draw(self, n: int, generator: torch.Generator) -> Policy:
        """A policy for ``n`` images, independent and uniform over operations, bins and signs.

        Everything comes from ``generator`` (on the CPU); without operations nothing is drawn.
        """
        import torch

        shape = (self.num_ops, n)
        operations = torch.randint(len(OPERATIONS), shape, generator=generator)
        signs = 2 * torch.randint(2, shape, generator=generator) - 1
        if self.magnitude is None:
            bins = torch.randint(self.bins, shape, generator=generator)
        else:
            bins = torch.full(shape, self.magnitude)
        return Policy(operations, bins, signs)

    def apply(self, images: Tensor, policy: Policy) -> Tensor:
        """``images`` after their ``policy``, as a new tensor; without operations, ``images`` itself.

        Args:
            images: ``(N, C, H, W)`` float32 in [0, 1], C 1 or 3 (tests: on the CPU).
            policy: of the same N images, as drawn by this augmentation.

        Returns:
            ``(N, C, H, W)`` float32 in [0, 1], multiples of 1/255.

        Raises:
            InvalidInput: another shape, or another number of images than of policies.
        """
        import torch

        shape, n = tuple(images.shape), len(policy)
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise InvalidInput(f"images {shape} is not allowed: (N, C, H, W) with C 1 or 3")
        if len(images) != n:
            raise InvalidInput(f"policy of {n} images is not allowed for {len(images)} images")
        if self.num_ops == 0:
            return images
        table = torch.stack(list(self.magnitudes(*shape[2:]).values()))
        signed = torch.tensor([name in SIGNED for name in OPERATIONS])
        signs = policy.signs.where(signed[policy.operations], torch.tensor(1))
        strengths = table[policy.operations, policy.bins] * signs

        levels = images.mul(255).round_().byte().contiguous()
        for operations, values in zip(policy.operations, strengths, strict=True):
            order = operations.argsort(stable=True)
            counts = operations.bincount(minlength=len(OPERATIONS)).tolist()
            for name, rows in zip(OPERATIONS, order.split(counts), strict=True):
                if len(rows) and name != "Identity":
                    there = rows.to(levels.device)
                    levels[there] = operate(name, levels[there], values[rows])
        return levels.float().div_(255)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply at once, for ``(N, C, H, W)`` images that are a whole epoch."""
        return self.apply(images, self.draw(len(images), generator))

    def magnitudes(self, height: int, width: int) -> dict[str, Tensor]:
        """Per operation, ``(bins,)`` float64: what each bin means, without sign.

        Shears in pixels per pixel, shifts in pixels (their whole part is used), rotations in degrees,
        blends as the distance of the factor from 1, Posterize in bits that stay, Solarize as the level
        from which on pixels are inverted; 0 for operations without magnitude.
        """
        import torch

        def up_to(top: float) -> Tensor:
            return torch.linspace(0.0, top, self.bins).double()

        lost = (torch.arange(self.bins) / ((self.bins - 1) / max(self.lost_bits, 1))).round()
        known = {
            "ShearX": up_to(self.shear),
            "ShearY": up_to(self.shear),
            "TranslateX": up_to(self.shift(width)),
            "TranslateY": up_to(self.shift(height)),
            "Rotate": up_to(self.degrees),
            **{name: up_to(self.blend) for name in BLENDS},
            "Posterize": 8 - lost.double(),
            "Solarize": torch.linspace(255.0, 0.0, self.bins).double(),
        }
        return {name: known.get(name, up_to(0.0)) for name in OPERATIONS}


@dataclass(frozen=True, kw_only=True)
class NoAugmentation(Augmentation):
    """Images stay as they are."""


@dataclass(frozen=True, kw_only=True)
class RandAugment(Augmentation):
    """Two operations per image at one magnitude for all: the paper's default, RandAugment(2, 9).

    Shifts are proportional to the image, as in torchvision: 150/331 of it at the strongest.
    """

    num_ops: int = 2
    magnitude: int | None = 9

    shear: ClassVar[float] = 0.3
    degrees: ClassVar[float] = 30.0
    blend: ClassVar[float] = 0.9
    lost_bits: ClassVar[int] = 4


@dataclass(frozen=True, kw_only=True)
class TrivialAugmentWide(Augmentation):
    """One operation per image, its magnitude drawn as well, from wide ranges."""

    num_ops: int = 1

    shear: ClassVar[float] = 0.99
    degrees: ClassVar[float] = 135.0
    blend: ClassVar[float] = 0.99
    lost_bits: ClassVar[int] = 6

    def shift(self, extent: int) -> float:
        """32 pixels, the published and torchvision's value, along sides of at least 32 pixels.

        Smaller images were not meant: on 8x8 digits 32 pixels blank 10% of all, shifts of up to the
        whole side 1 to 2%. Below 32 pixels it is RandAugment's 150/331 of the side (0.6%).
        """
        return 32.0 if extent >= 32 else super().shift(extent)


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "none": NoAugmentation,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugmentWide,
}


def operate(name: str, levels: Tensor, values: Tensor) -> Tensor:
    """Operation ``name`` on ``(n, C, H, W)`` uint8 levels, with ``(n,)`` signed magnitudes on the CPU."""
    if name in GEOMETRY:
        return _move(name, levels, values.tolist())
    if (name == "Color" and levels.shape[1] == 1) or (
        name == "Sharpness" and min(levels.shape[2:]) < 3
    ):
        return levels  # as torchvision: nothing to blend with, not even rounding
    values = values.to(levels.device)[:, None, None, None]
    match name:
        case "Brightness":
            return _blend(levels, levels.new_zeros(()), values)
        case "Color":
            return _blend(levels, _gray(levels), values)
        case "Contrast":
            gray = _gray(levels)
            pixels = gray.shape[2] * gray.shape[3]
            return _blend(levels, gray.sum((1, 2, 3), keepdim=True).float() / pixels, values)
        case "Sharpness":
            return _blend(levels, _smooth(levels), values)
        case "Posterize":
            return levels & (256 - 2 ** (8 - values)).byte()
        case "Solarize":
            return levels.where(levels < values, 255 - levels)
        case "AutoContrast":
            low = levels.amin((2, 3), keepdim=True).float()
            scale = 255 / (levels.amax((2, 3), keepdim=True) - low)
            return levels.where(scale.isinf(), ((levels - low) * scale).clamp(0, 255).byte())
        case "Equalize":
            return _equalize(levels)
    return levels


def _blend(levels: Tensor, other: Tensor, values: Tensor) -> Tensor:
    """``levels`` at factor 1, ``other`` at factor 0, beyond and between by a line; cut down to levels."""
    factor = 1 + values  # float64 until here: factor and 1 - factor are rounded once each
    return (factor.float() * levels + (1 - factor).float() * other).clamp(0, 255).byte()


def _gray(levels: Tensor) -> Tensor:
    """``(n, 1, H, W)``: ITU-R 601 luma in torchvision's digits, cut down to a level."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).byte().unsqueeze(1)


def _smooth(levels: Tensor) -> Tensor:
    """Mean of each pixel (weight 5) and its 8 neighbours (1), rounded; the frame stays as it is."""
    wide = levels.short()
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[:, :, 1:-1, 1:-1]
    smooth = levels.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * total + 13).div(26, rounding_mode="floor")  # never a tie
    return smooth


def _equalize(levels: Tensor) -> Tensor:
    """Flatten each channel's histogram by PIL's integer recipe; channels too small for it stay."""
    flat = levels.flatten(2).long()
    if flat.shape[2] < 256:
        return levels
    ones = flat.new_ones(()).expand_as(flat)
    counts = flat.new_zeros(*flat.shape[:2], 256).scatter_add_(2, flat, ones)
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest).div(255, rounding_mode="floor")
    below = counts.cumsum(2) - counts
    safe = step.clamp(min=1)
    table = (below + step.div(2, rounding_mode="floor")).div(safe, rounding_mode="floor")
    equal = table.clamp(0, 255).gather(2, flat)
    return equal.where(step > 0, flat).byte().view_as(levels)


def _move(name: str, levels: Tensor, values: list[float]) -> Tensor:
    """Shift, shear or rotate each image by its own value, with black where it came from outside."""
    import torch

    height, width = levels.shape[2:]
    sources = torch.stack([_sources(name, value, height, width) for value in values])
    index = sources.to(levels.device).long()[:, None].expand(-1, levels.shape[1], -1)
    flat = torch.nn.functional.pad(levels.flatten(2), (1, 0))
    return flat.gather(2, index).view_as(levels)


@lru_cache(maxsize=512)
def _sources(name: str, value: float, height: int, width: int) -> Tensor:
    """``(H * W,)`` int32: which pixel each pixel is taken from, counted from 1; 0 is outside.

    There are at most 310 such maps per image size (5 operations, 31 bins, 2 signs; 0.2 MB each at 224
    pixels). Nearest neighbours on the half-pixel grid with the origin in the middle, in float32 and by
    the functions that torchvision uses, since ties (a shear of 0.2 has some) hang on the last bit.
    """
    import torch

    whole, turn = math.trunc(value), math.radians(value)
    matrix = {
        "ShearX": ((1.0, value, value * height / 2), (0.0, 1.0, 0.0)),
        "ShearY": ((1.0, 0.0, 0.0), (value, 1.0, value * width / 2)),
        "TranslateX": ((1.0, 0.0, -whole), (0.0, 1.0, 0.0)),
        "TranslateY": ((1.0, 0.0, 0.0), (0.0, 1.0, -whole)),
        "Rotate": ((math.cos(turn), -math.sin(turn), 0.0), (math.sin(turn), math.cos(turn), 0.0)),
    }[name]
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=2).view(1, -1, 3)
    to_grid = torch.tensor(matrix).T / torch.tensor([0.5 * width, 0.5 * height])
    grid = points.bmm(to_grid[None]).view(1, height, width, 2)
    numbers = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    found = torch.nn.functional.grid_sample(
        numbers, grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return found.flatten().int()
