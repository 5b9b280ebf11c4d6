"""Corrupted images: against torchvision's class API and Pillow, one image at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_digits import digits, first, make_split, trained_net
from PIL import Image, ImageOps
from scipy.stats import kstest, pearsonr
from torch import Tensor, nn
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import InterpolationMode, v2

from mm_mlflow.design import InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import Corruption, Evaluation, Task, evaluate, metric_records, plan
from mm_mlflow.evaluation.corruption import KINDS, gaussian
from mm_mlflow.split import Split

SEVERITIES: dict[str, float] = {
    "gaussian_blur": 1.2,
    "gaussian_noise": 0.2,
    "brightness": 0.6,
    "contrast": 1.5,
    "saturation": 2.0,
    "jpeg": 80,
    "posterize": 6,
    "rotate": 20,
    "downscale": 1.0,
}


def photos(n: int = 12, side: int = 16) -> Split:
    """Smooth colour images on 8-bit levels, 16 x 20, whose group statistics do not matter."""
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.random((n, 3, 4, 4)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, (side, side + 4), mode="bicubic").clamp(0, 1)
    images = smooth.mul(255).round().to(torch.uint8).numpy()
    split = make_split(images / np.float32(255), np.arange(n) % 10)
    return replace(split, images=images)


class Spy(nn.Module):
    """Keeps what it is shown; its logits are pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Ten logits."""
        self.seen.append(images.clone())
        return images.flatten(1)[:, :10]


def planned(split: Split, **parameters: Any) -> tuple[Task, ...]:
    """Tasks of the corruption on a split called test."""
    spec = InterventionSpec.model_validate({"name": "corruption", **parameters})
    return plan([spec], {"test": split}, lambda _: {})


def corrupted(split: Split, **parameters: Any) -> Tensor:
    """The images that a model is shown."""
    (task,) = planned(split, **parameters)
    spy = Spy()
    clean, n = split.batch(slice(None)), len(split)
    evaluate(spy, [task], batch_size=n)
    # The self-checks show clean images; what differs from them is the corruption's.
    (found,) = [b for b in spy.seen if len(b) == n and not torch.equal(b, clean)]
    return found


def noisy(image: Tensor, example_id: str) -> Tensor:
    """Severity 0.2, by numpy's own words."""
    key = hashlib.sha256(f"gaussian/0/test/{example_id}".encode()).digest()[:16]
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(2 * image.numel())
    u = (raw >> np.uint64(11)) / 2**53
    half = image.numel()
    normal = np.sqrt(-2 * np.log(1 - u[:half])) * np.cos(2 * np.pi * u[half:])
    return image + 0.2 * torch.from_numpy(normal.astype(np.float32)).view(image.shape)


def on_bytes(transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A transform of uint8 images, on float ones."""
    return lambda image: transform(image.mul(255).round().to(torch.uint8)) / 255


def resized(image: Tensor) -> Tensor:
    """Half the pixels a side, then whole again."""
    small = v2.Resize((8, 10), antialias=True)(image)
    return v2.Resize((16, 20), interpolation=InterpolationMode.NEAREST)(small)


# Each takes one image; the numbers are SEVERITIES written out.
ORACLES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian_blur": v2.GaussianBlur((9, 9), sigma=(1.2, 1.2)),
    "brightness": v2.ColorJitter(brightness=(1.6, 1.6)),
    "contrast": v2.ColorJitter(contrast=(0.4, 0.4)),
    "saturation": v2.ColorJitter(saturation=(1 / 3, 1 / 3)),
    "jpeg": on_bytes(lambda image: decode_jpeg(encode_jpeg(image, quality=20))),
    "posterize": on_bytes(v2.RandomPosterize(2, p=1)),
    "rotate": v2.RandomRotation((20, 20), interpolation=InterpolationMode.BILINEAR),
    "downscale": resized,
}


def test_every_kind_has_an_oracle() -> None:
    """Nothing in the table escapes these tests."""
    assert set(SEVERITIES) == set(KINDS) == {*ORACLES, "gaussian_noise"}


@pytest.mark.filterwarnings(
    "ignore:The image decoding and encoding capabilities:DeprecationWarning"
)
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_torchvisions(kind: str) -> None:
    """What the model sees is each image put through torchvision's class (noise: through numpy) alone,
    clipped to [0, 1]."""
    split = photos()
    found = corrupted(split, kind=kind, severity=SEVERITIES[kind])
    clean = split.batch(slice(None))
    names = split.example_ids.tolist()
    expected = torch.stack(
        [
            noisy(image, name) if kind == "gaussian_noise" else ORACLES[kind](image)
            for image, name in zip(clean, names, strict=True)
        ]
    ).clamp(0, 1)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - clean).abs().mean() > 0.01  # something was done


def test_pillow_agrees() -> None:
    """Dropped bits are ImageOps.posterize's exactly; a turn is counter-clockwise, as Pillow's."""
    split = photos()
    dropped = corrupted(split, kind="posterize", severity=5).mul(255).round().byte().numpy()
    turned = corrupted(split, kind="rotate", severity=30).mul(255).numpy()
    for i, image in enumerate(split.images):
        pillow = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        assert np.array_equal(
            dropped[i].transpose(1, 2, 0), np.asarray(ImageOps.posterize(pillow, 3))
        )
        by_pillow = np.asarray(pillow.rotate(30, Image.Resampling.BILINEAR)).astype(float)
        assert np.abs(turned[i].transpose(1, 2, 0) - by_pillow)[5:-5, 5:-5].mean() < 2


@pytest.mark.parametrize("kind", KINDS)
def test_severity_zero_is_the_clean_image(kind: str) -> None:
    """Exactly clean accuracy, without showing the model anything but clean images."""
    split = photos()
    model = Spy()
    found = evaluate(model, planned(split, kind=kind, severity=0), batch_size=6)
    key = f"corruption_accuracy/{kind}.severity-0"
    right = found.logits["test"].argmax(axis=1) == split.labels
    assert np.array_equal(found.outcomes[key], right.astype(float))
    clean = split.batch(slice(None))
    assert all((image == clean).flatten(1).all(dim=1).any() for b in model.seen for image in b)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "saturation"])
def test_more_is_worse(kind: str) -> None:
    """On digits and their net, the harshest severity costs accuracy, and self-checks are content."""
    harsh = {"gaussian_blur": 2.5, "gaussian_noise": 1.0, "brightness": 6, "contrast": 30, "jpeg": 99,
             "posterize": 7, "rotate": 90, "downscale": 3}  # fmt: skip
    split = first(digits()[1], 300)
    found = evaluate(trained_net(), planned(split, kind=kind, severity=[0, harsh[kind]]))
    clean, worse = found.values.values()
    assert worse < clean - 0.03
    assert found.checks["failed"] == []
    assert found.checks["images"][list(found.values)[1]]["budget"] is None


def test_noise_is_the_examples_own() -> None:
    """An example meets the same noise in any order and batch; another seed, split or id differs."""
    split = first(digits()[1], 200)
    order = np.random.default_rng(0).permutation(200)
    shuffled = replace(
        split,
        images=split.images[order],
        labels=split.labels[order],
        example_ids=split.example_ids[order],
    )

    def outcomes(split: Split, batch_size: int, **more: Any) -> np.ndarray:
        tasks = planned(split, kind="gaussian_noise", severity=0.5, **more)
        found: Evaluation = evaluate(trained_net(), tasks, batch_size=batch_size)
        return found.outcomes[tasks[0].key]

    one = outcomes(split, 250)
    assert 0.2 < one.mean() < 0.95
    assert np.array_equal(one[order], outcomes(shuffled, 37))
    assert not np.array_equal(one, outcomes(split, 250, noise_seed=1))
    draw = gaussian(0, "test", "a", (3, 8, 8))
    assert draw.dtype == np.float32
    assert np.array_equal(draw, gaussian(0, "test", "a", (3, 8, 8)))
    for other in [(1, "test", "a"), (0, "x", "a"), (0, "test", "b")]:
        assert not np.isclose(draw, gaussian(*other, (3, 8, 8))).any()


def test_noise_is_normal() -> None:
    """Its distribution is the standard normal (Kolmogorov-Smirnov), and neighbours do not correlate."""
    draws = gaussian(0, "test", "a", (200, 200)).ravel()
    assert np.isfinite(draws).all()
    assert kstest(draws, "norm").pvalue > 0.01
    assert pearsonr(draws[:-1], draws[1:]).pvalue > 0.01


def test_a_wide_blur_and_a_single_pixel() -> None:
    """A blur wider than the image, and pixels larger than it, leave one near-even colour."""
    split = photos()
    for kind in ("gaussian_blur", "downscale"):
        found = corrupted(split, kind=kind, severity=100)
        assert (found.amax(dim=(2, 3)) - found.amin(dim=(2, 3))).max() < 0.1


def test_keys_and_records() -> None:
    """The kind comes first; lists are spelled out; outcomes are stored."""
    split = photos()
    tasks = planned(split, kind=["gaussian_blur", "brightness"], severity=[0.5, 1.0])
    assert [task.key for task in tasks] == [
        f"corruption_accuracy/{kind}.severity-{severity}"
        for kind in ("gaussian_blur", "brightness")
        for severity in ("0.5", "1")
    ]
    records = metric_records(tasks)
    record = records["corruption_accuracy/gaussian_blur.severity-0.5"]
    assert record["stored"]
    assert record["higher_is_better"]
    assert record["title"] == "Accuracy after gaussian blur, severity 0.5"
    assert "a Gaussian of standard deviation 0.5 pixels" in record["description"]
    (task,) = planned(split, kind="gaussian_noise", severity=0.1, noise_seed=3)
    assert task.key == "corruption_accuracy/gaussian_noise.severity-0.1.noise_seed-3"
    made = Corruption(kind="jpeg", severity=50)
    assert repr(made) == "Corruption(kind='jpeg', severity=50)"
    assert made.key == "corruption_accuracy/jpeg.severity-50"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "gaussian_blurr", "severity": 1}, r"did you mean 'gaussian_blur'\? \(known: .*rotate"),
        ({"severity": 1}, "corruption needs kind"),
        ({"kind": "jpeg"}, "corruption needs severity"),
        ({"kind": "brightness", "severity": -1}, "severity -1 is not allowed: a finite number of at"),
        ({"kind": "rotate", "severity": 181}, "severity 181 is not allowed: a finite number from 0 to 180"),
        ({"kind": "jpeg", "severity": 100}, "severity 100 is not allowed: a finite number from 0 to 99"),
        ({"kind": "jpeg", "severity": 2.5}, "jpeg: severity 2.5 is not allowed: a whole number"),
        ({"kind": "posterize", "severity": 8}, "severity 8 is not allowed: a finite number from 0 to 7"),
        ({"kind": "jpeg", "severity": 5, "noise_seed": 1}, "noise_seed 1 is not allowed for jpeg"),
        ({"kind": "gaussian_noise", "severity": 5, "noise_seed": -1}, "noise_seed -1 is not allowed"),
        ({"kind": "saturation", "severity": 1}, "saturation is not allowed .* of 1-channel images: 3 needed"),
    ],
)  # fmt: skip
def test_bad_input(parameters: dict[str, Any], message: str) -> None:
    """Each is refused while planning, in one line."""
    with pytest.raises(InvalidInput, match=message) as error:
        planned(digits()[1], **parameters)
    assert "\n" not in str(error.value)
