"""CIFAR10-Skewed from files in both published layouts, made small."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision
from helpers import Command
from PIL import Image
from torchvision.transforms.functional import to_grayscale

from mm_mlflow.datasets import create
from mm_mlflow.datasets.cifar10_skewed import CLASSES, Cifar10Skewed
from mm_mlflow.design import DatasetSpec
from mm_mlflow.errors import InvalidInput

TRAIN, TEST = 40, 20  # images per class


def pictures(number: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, losslessly."""
    root = tmp_path_factory.mktemp("cifar10")
    for split, number in [("train", TRAIN), ("test", TEST)]:
        for label, name in enumerate(CLASSES):
            place = root / split / name
            place.mkdir(parents=True)
            for i, image in enumerate(pictures(number, 100 * label + (split == "test"))):
                Image.fromarray(image).save(place / f"{i:04}.png")
    return root


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published archive's layout: pickles of flat arrays, red then green then blue."""
    root = tmp_path_factory.mktemp("archive") / "cifar10"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        images = pictures(100, number)
        batch = {
            "batch_label": name,
            "labels": [i % 10 for i in range(100)],
            "data": images.transpose(0, 3, 1, 2).reshape(100, 3072),
            "filenames": [f"{i}.png" for i in range(100)],
        }
        with (root / "cifar-10-batches-py" / name).open("wb") as file:
            pickle.dump(batch, file)
    return root


def test_counts_are_exact_per_class(folders: Path) -> None:
    """95 in 100 of each class follow its majority, in training and in test."""
    splits = Cifar10Skewed(folder=folders).splits()
    for name, each, rare in [("train", TRAIN, 2), ("test", TEST, 1)]:
        split = splits[name]
        count = Counter(zip(split.labels.tolist(), split.groups["colour"].tolist(), strict=True))
        for label in range(10):
            minority = "grayscale" if label < 5 else "colour"
            assert count[label, minority] == rare
            assert (
                count[label, {"grayscale": "colour", "colour": "grayscale"}[minority]]
                == each - rare
            )
    assert (splits["test"].groups["skew"] == "gs_minority").sum() == 5
    assert set(splits["test"].groups["class"]) == set(CLASSES)


def test_pixels_are_the_files_own_or_their_gray(folders: Path) -> None:
    """Torchvision reads the same files: each image is theirs, or theirs in grayscale."""
    oracle = torchvision.datasets.ImageFolder(str(folders / "test"))
    by_id = {
        Path(path).relative_to(folders).as_posix(): (path, label) for path, label in oracle.samples
    }
    splits = Cifar10Skewed(folder=folders).splits()
    for name in ("test", "cifar10_gs", "cifar10_colour"):
        split = splits[name]
        assert set(split.example_ids) == set(by_id)
        for i in range(0, len(split), 7):
            path, label = by_id[split.example_ids[i]]
            image = Image.open(path).convert("RGB")
            if split.groups["colour"][i] == "grayscale":
                image = to_grayscale(image, 3)
            assert split.labels[i] == label
            assert (split.images[i].transpose(1, 2, 0) == np.asarray(image)).all()
    assert (splits["cifar10_gs"].groups["colour"] == "grayscale").all()
    assert (splits["cifar10_colour"].groups["colour"] == "colour").all()


def test_the_archive_is_read_as_torchvision_reads_it(
    batches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images in the same order."""
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda _: None)
    splits = Cifar10Skewed(folder=batches).splits()
    oracle = torchvision.datasets.CIFAR10(str(batches), train=False)
    assert (splits["cifar10_colour"].images.transpose(0, 2, 3, 1) == oracle.data).all()
    assert splits["cifar10_colour"].labels.tolist() == oracle.targets
    train = torchvision.datasets.CIFAR10(str(batches), train=True)
    assert splits["train"].labels.tolist() == train.targets
    kept = splits["train"].groups["colour"] == "colour"
    assert (splits["train"].images.transpose(0, 2, 3, 1)[kept] == train.data[kept]).all()


def test_a_pickle_that_would_run_code_is_refused(batches: Path, tmp_path: Path) -> None:
    """Only arrays, lists and text are read from the archive's pickles."""

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'harm'}",)

    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in (batches / "cifar-10-batches-py").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "test_batch").write_bytes(pickle.dumps({"data": Harm(), "labels": []}))
    with pytest.raises(InvalidInput, match="test_batch is no batch of CIFAR-10"):
        Cifar10Skewed(folder=tmp_path / "cifar10").splits()
    assert not (tmp_path / "harm").exists()


def test_bernoulli_draws_each_image(folders: Path) -> None:
    """Over many seeds the minority is binomial: mean n p, variance n p (1 - p), within 4 errors."""
    counts = []
    for seed in range(30):
        data = Cifar10Skewed(folder=folders, assignment="bernoulli", skew=0.8, seed=seed)
        parts, _ = data.build()
        rare = np.isin(parts["train"].groups["skew"], ["gs_minority", "colour_minority"])
        counts.append(rare.sum())
    n, p = 10 * TRAIN, 0.2
    assert abs(np.mean(counts) - n * p) < 4 * np.sqrt(n * p * (1 - p) / len(counts))
    assert len(set(counts)) > 5


def test_wangs_classes_and_unskewed_test(folders: Path) -> None:
    """Their colour classes, and every test image once in each form."""
    splits = Cifar10Skewed(folder=folders, classes="wang", test="unskewed").splits()
    majority = splits["train"].groups["skew"] == "colour_majority"
    assert {CLASSES[i] for i in splits["train"].labels[majority]} == {
        "automobile", "cat", "dog", "horse", "truck",
    }  # fmt: skip
    test = splits["test"]
    assert Counter(test.groups["colour"].tolist()) == {"colour": 10 * TEST, "grayscale": 10 * TEST}
    assert len(set(test.example_ids)) == 20 * TEST


def test_a_subset_is_fixed_and_stratified_by_class_and_colour(folders: Path) -> None:
    """A quarter of the training set has a quarter of every class in every colour (to rounding); test
    stays whole."""
    whole = Cifar10Skewed(folder=folders, skew=0.8).splits()
    part = Cifar10Skewed(folder=folders, skew=0.8, subset=100).splits()
    assert len(part["train"]) == 100
    assert part["test"].digest == whole["test"].digest
    assert set(part["train"].example_ids) <= set(whole["train"].example_ids)
    pairs = zip(part["train"].labels.tolist(), part["train"].groups["colour"].tolist(), strict=True)
    assert set(Counter(pairs).values()) == {2, 8}


def test_changed_files_are_read_again(folders: Path, tmp_path: Path) -> None:
    """The cache belongs to the files: another image in a file of the same name is another digest."""
    copy = tmp_path / "cifar10"
    for file in folders.rglob("*.png"):
        place = copy / file.relative_to(folders)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    before = Cifar10Skewed(folder=copy).splits()["train"].digest
    assert before == Cifar10Skewed(folder=folders).splits()["train"].digest
    Image.fromarray(pictures(1, 999)[0]).save(copy / "train" / "cat" / "0003.png")
    assert Cifar10Skewed(folder=copy).splits()["train"].digest != before


def test_missing_images_say_what_to_do(tmp_path: Path, command: Command) -> None:
    """One line names the folder, the download and the authors' wish; so does the command."""
    with pytest.raises(InvalidInput, match=r"cifar10.*cifar-10-python\.tar\.gz.*2009"):
        create(DatasetSpec(name="cifar10_skewed")).splits()
    (tmp_path / "d.yaml").write_text(
        "name: x\ndataset: {name: cifar10_skewed, folder: nowhere}\ntraining: {epochs: 1}\n"
        "default: {batch_size: 64}\naxes: {batch_size: [64]}\nseeds: 1\n"
    )
    said = command("sweep", str(tmp_path / "d.yaml"), code=2).stderr
    assert "nowhere" in said
    assert said.count("\n") == 1


def test_unreadable_images_are_named_and_poison_nothing(folders: Path, tmp_path: Path) -> None:
    """The build fails with the file's name; mended, the same folder is read."""
    copy = tmp_path / "cifar10"
    for file in folders.rglob("*.png"):
        place = copy / file.relative_to(folders)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    bad = copy / "test" / "dog" / "0001.png"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    with pytest.raises(InvalidInput, match=r"1 of 200 images cannot be read: .*test/dog/0001\.png"):
        Cifar10Skewed(folder=copy).splits()
    bad.write_bytes(good)
    assert len(Cifar10Skewed(folder=copy).splits()["test"]) == 10 * TEST


def test_ids_know_content_not_places(folders: Path, tmp_path: Path) -> None:
    """The folder is a location: two machines share cell ids."""
    text = (
        "name: x\ndataset: {{name: cifar10_skewed, folder: {}, subset: 100}}\ntraining: {{epochs: 1}}\n"
        "default: {{batch_size: 64}}\naxes: {{batch_size: [64]}}\nseeds: 1\n"
    )
    from mm_mlflow.datasets import bind
    from mm_mlflow.design import Design

    one, other = (bind(Design.parse(text.format(place))) for place in (folders, tmp_path))
    assert [cell.id for cell in one.cells()] == [cell.id for cell in other.cells()]
