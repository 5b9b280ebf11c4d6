"""The embedded dataset, and the cache that all workers share."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import face_files
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mm_mlflow.datasets import DATASETS, _open_splits, bind, cache, create, open_splits
from mm_mlflow.datasets.base import channel_statistics
from mm_mlflow.datasets.cifar10_skewed import CLASSES
from mm_mlflow.datasets.digits_skewed import DigitsSkewed
from mm_mlflow.design import DatasetSpec, Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.split import Split

DIGITS = DatasetSpec(name="digits_skewed")
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def digits() -> dict[str, Split]:
    return dict(open_splits(DIGITS))


def test_sizes_and_groups(digits: dict[str, Split]) -> None:
    """40% of 1,797 in test; 0.85 leaves 55 images in each of the test minorities."""
    assert {name: len(split) for name, split in digits.items()} == {
        "train": 1078, "test": 719, "grayscale": 719,
    }  # fmt: skip
    for name, share in [("train", 0.95), ("test", 0.85)]:
        split = digits[name]
        gray = split.groups["colour"] == "grayscale"
        for label in range(10):
            members = split.labels == label
            rare = gray[members] if label < 5 else ~gray[members]
            assert rare.sum() == round((1 - share) * members.sum())
    assert (digits["test"].groups["skew"] == "gs_minority").sum() == 55
    assert (digits["test"].groups["skew"] == "colour_minority").sum() == 55


def test_groups_say_what_the_pixels_say(digits: dict[str, Split]) -> None:
    """An image is grayscale exactly if its channels are equal; skew follows from class and colour."""
    for split in digits.values():
        images = np.asarray(split.images)
        gray = (images[:, :1] == images).all(axis=(1, 2, 3))
        assert (gray == (split.groups["colour"] == "grayscale")).all()
        first = split.labels < 5
        expected = np.select(
            [first & gray, first & ~gray, ~first & gray],
            ["gs_minority", "colour_majority", "gs_majority"],
            "colour_minority",
        )
        assert (split.groups["skew"] == expected).all()


def test_colour_is_two_tone_with_lighter_ink(digits: dict[str, Split]) -> None:
    """Every coloured pixel lies between the ground and the ink, and the ink is at least 0.2 lighter
    where a stroke is at its strongest."""
    strokes = load_digits().images / 16
    for name in ("train", "test"):
        split = digits[name]
        for i in np.flatnonzero(split.groups["colour"] == "colour")[:200]:
            image = split.images[i].astype(float) / 255
            stroke = strokes[int(split.example_ids[i])]
            luminance = np.tensordot(LUMA, image, axes=1)
            dark, light = stroke == 0, stroke == 1
            if dark.any() and light.any():
                assert luminance[light].min() - luminance[dark].max() >= 0.2 - 2 / 255
            slope = np.polyfit(stroke.ravel(), image.reshape(3, -1).T, 1)
            fitted = stroke.ravel()[:, None] * slope[0] + slope[1]
            assert np.abs(fitted - image.reshape(3, -1).T).max() < 2 / 255


def test_grayscale_is_pils_l_of_the_same_image(digits: dict[str, Split]) -> None:
    """Where a test image is in colour, its grayscale twin is PIL's conversion of it."""
    test, gray = digits["test"], digits["grayscale"]
    assert (test.example_ids == gray.example_ids).all()
    coloured = np.flatnonzero(test.groups["colour"] == "colour")
    for i in coloured[:100]:
        twin = np.asarray(Image.fromarray(test.images[i].transpose(1, 2, 0)).convert("L"))
        assert (gray.images[i] == twin).all()


def test_training_and_test_share_nothing(digits: dict[str, Split]) -> None:
    """Every one of the 1,797 digits is in exactly one of them."""
    ids = [*digits["train"].example_ids, *digits["test"].example_ids]
    assert sorted(map(int, ids)) == list(range(1797))


def test_golden_digest(digits: dict[str, Split]) -> None:
    """The content is the same on every machine: experiments name it by this digest."""
    assert digits["train"].digest == (
        "d4ffb08d3b908e743c75eae44916120c5619fcc91e24ac7af09526fa9d44a55d"
    )


def test_mean_and_std_are_of_the_training_images(digits: dict[str, Split]) -> None:
    """In [0, 1] units, the same for all splits."""
    pixels = np.asarray(digits["train"].images).astype(float) / 255
    for split in digits.values():
        assert split.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)).tolist(), rel=1e-12)
        assert split.std == pytest.approx(pixels.std(axis=(0, 2, 3)).tolist(), rel=1e-9)


def test_statistics_of_a_constant_channel() -> None:
    """No NaN from rounding below zero."""
    images = np.full((5, 1, 2, 2), 77, dtype=np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((77 / 255,))
    assert std == (0.0,)


def test_the_seed_of_the_builder_changes_content_and_nothing_else() -> None:
    """Other seed, other digest; same seed, same digest in a cache elsewhere."""
    other = open_splits(DatasetSpec(name="digits_skewed", seed=1))
    assert other["train"].digest != open_splits(DIGITS)["train"].digest
    assert len(other["train"]) == 1078


def test_images_are_mapped_not_loaded(digits: dict[str, Split]) -> None:
    """All workers share one copy, read-only."""
    images = digits["train"].images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    batch = digits["train"].batch(np.array([5, 3]))
    assert (batch.numpy() == images[[5, 3]].astype(np.float32) / 255).all()


@pytest.mark.parametrize("cut", ["train.images.npy", "meta.json", "test.examples.npz", None])
def test_a_broken_cache_is_built_again_and_said(
    tmp_path: Path, cut: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut short, or a file gone: the splits are whole again, and a line says so."""
    dataset = DigitsSkewed(cache=tmp_path / "broken")
    before = np.array(dataset.splits()["train"].images)  # a copy: the mapped file is cut below
    (folder,) = (tmp_path / "broken").iterdir()
    if cut is None:
        (folder / "grayscale.images.npy").unlink()
    else:
        data = (folder / cut).read_bytes()
        (folder / cut).write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        after = dataset.splits()
    assert "broken" in caplog.text
    assert "building it again" in caplog.text
    assert (np.asarray(after["train"].images) == before).all()
    assert [path.name for path in (tmp_path / "broken").iterdir()] == [folder.name]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """Neither a half-written folder nor a poisoned cache."""

    def fails() -> dict[str, Split]:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        cache.load_or_build(tmp_path / "x" / "y", fails)
    assert not list((tmp_path / "x").iterdir())


def _digest_in_a_process(folder: str) -> str:
    return DigitsSkewed(cache=Path(folder)).splits()["train"].digest


def test_processes_that_build_at_once_agree(tmp_path: Path) -> None:
    """Each gets whole splits, one cache remains."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        digests = pool.map(_digest_in_a_process, [str(tmp_path / "shared")] * 3)
    assert len(set(digests)) == 1
    assert len(list((tmp_path / "shared").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_skew": 1.2}, "test_skew.*less than or equal to 1"),
        ({"skew": 0.9}, "unknown argument 'skew'"),
        ({"test_fraction": 0}, "test_fraction"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    """With the argument, the value and what is allowed."""
    with pytest.raises(InvalidInput, match=message):
        create(DatasetSpec(name="digits_skewed", **arguments))


def test_an_unknown_dataset_is_refused() -> None:
    """The near match is named."""
    with pytest.raises(
        InvalidInput, match="unknown dataset 'digit_skewed'; did you mean 'digits_skewed'"
    ):
        create(DatasetSpec(name="digit_skewed"))


def test_defaults_spelled_out_are_the_same_cells(small: Path) -> None:
    """Binding fills in defaults, and locations do not enter the id."""
    design = bind(Design.load(small))
    text = small.read_text()
    explicit = text.replace(
        "{name: digits_skewed}", "{name: digits_skewed, test_fraction: 0.40, seed: 0}"
    )
    moved = text.replace("{name: digits_skewed}", "{name: digits_skewed, cache: /elsewhere}")
    other = text.replace("{name: digits_skewed}", "{name: digits_skewed, seed: 1}")
    ids = [cell.id for cell in design.cells()]
    assert [cell.id for cell in bind(Design.parse(explicit)).cells()] == ids
    assert [cell.id for cell in bind(Design.parse(moved)).cells()] == ids
    assert not {cell.id for cell in bind(Design.parse(other)).cells()} & set(ids)
    assert bind(design) == design
    assert Design.parse(design.dump()) == design


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Small files of every dataset that reads files, where it looks for them."""
    data = tmp_path / "data"
    face_files.utkface(data / "utkface", 40)
    face_files.fairface(data / "fairface", 8)
    face_files.celeba(data / "celeba", 12)
    rng = np.random.default_rng(0)
    for root, names in [("cifar10", CLASSES), ("photos", ("cat", "dog"))]:
        for part, number in [("train", 20), ("test", 20)]:
            for name in names:
                folder = data / root / part / name
                folder.mkdir(parents=True)
                for i in range(number):
                    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
    return data


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_keeps_the_contract(name: str, sources: Path) -> None:
    """Shapes, types, ranges, unique ids and groups as ``Split`` says; ``test`` is there, and ``train``
    unless it is only for tests on other data; opened twice, it is the same."""
    arguments = {"folder": str(sources / "photos")} if name == "folder" else {}
    splits = open_splits(DatasetSpec(name=name, **arguments))
    assert {"train", "test"} - {"train" if name in {"fairface", "celeba"} else ""} <= set(splits)
    _open_splits.cache_clear()
    again = open_splits(DatasetSpec(name=name, **arguments))
    assert {k: v.digest for k, v in again.items()} == {k: v.digest for k, v in splits.items()}
    for key, split in splits.items():
        assert split.name == key
        assert split.images.ndim == 4
        assert split.images.dtype in (np.uint8, np.float32)
        assert split.labels.dtype == np.int64
        assert set(np.unique(split.labels)) <= set(range(len(split.class_names)))
        assert len(set(split.example_ids)) == len(split) == len(split.images)
        assert all(len(values) == len(split) for values in split.groups.values())


def test_a_stratified_part_is_fixed_and_proportional(digits: dict[str, Split]) -> None:
    """Label shares within one example, the same part every time, smaller parts inside larger ones."""
    test = digits["test"]
    part = test.stratified(100)
    assert len(part) == len(set(part)) == 100
    assert (part == test.stratified(100)).all()
    for label in range(10):
        share = 100 * (test.labels == label).mean()
        assert abs((test.labels[part] == label).sum() - share) < 1
    assert len(set(test.stratified(50)) - set(part)) <= 10
    assert (test.stratified(719) == np.arange(719)).all()
    with pytest.raises(InvalidInput, match="examples 720 is not allowed: 1 to 719"):
        test.stratified(720)
