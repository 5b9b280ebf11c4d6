"""CIFAR10-Skewed (Appendix A.1): CIFAR-10 with classes mostly in colour and classes mostly in grayscale."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from mm_mlflow.datasets import image_files
from mm_mlflow.datasets.base import Arrays, Dataset
from mm_mlflow.datasets.skew import arrays, assign, grayscale
from mm_mlflow.errors import InvalidInput
from mm_mlflow.split import stratified

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# Which classes are mostly in colour: the paper's first five; those of the code of Wang et al. (CVPR
# 2020), whose paper the construction is from.
_IN_COLOUR = {
    "ganesh": frozenset(CLASSES[:5]),
    "wang": frozenset({"automobile", "cat", "dog", "horse", "truck"}),
}
_BATCHES = "cifar-10-batches-py"  # the folder that the published archive holds
_BATCH_FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
GET = (
    "download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and unpack it there (or make "
    "folders train/<class> and test/<class> of its images), or set MM_MLFLOW_DATA to the folder above; "
    "it comes without a licence, and its authors ask to be cited: "
    "Krizhevsky, Learning multiple layers of features from tiny images, 2009"
)


class Cifar10Skewed(Dataset):
    """60,000 images of 32 x 32 in ten classes, 95% of each class in colour or in grayscale.

    Splits: ``train`` and ``test``; ``cifar10_gs``, all test images in grayscale (the paper's OOD
    set), and ``cifar10_colour``, all in colour. Groups: ``skew`` (``colour_majority``,
    ``gs_minority``, ``gs_majority``, ``colour_minority``; the paper's GS minority is grayscale
    images of classes that are mostly in colour), ``colour`` and ``class``.

    Attributes:
        folder: where the images are: class folders ``train/airplane/*`` ... ``test/truck/*``, or the
            published archive's ``cifar-10-batches-py``. By default ``$MM_MLFLOW_DATA/cifar10``, else
            ``data/cifar10``.
        skew: part of each class that follows its majority.
        assignment: ``exact`` per class (4,750 and 250 of 5,000), or ``bernoulli``: each image is
            drawn by itself.
        classes: which are mostly in colour: the paper's, or those of Wang et al.'s code.
        test: ``skewed`` like the training set (the paper), or ``unskewed``: every test image twice,
            in colour and in grayscale (Wang et al.'s code).
        subset: so many training images only, a fixed part of them, stratified by class and colour.
        seed: of the assignment; never of a training.
    """

    summary: ClassVar[str] = (
        "CIFAR-10, each class mostly in colour or mostly in grayscale (files needed)"
    )
    locations: ClassVar[frozenset[str]] = Dataset.locations | {"folder"}

    folder: Path | None = None
    skew: float = Field(default=0.95, ge=0.5, le=1)
    assignment: Literal["exact", "bernoulli"] = "exact"
    classes: Literal["ganesh", "wang"] = "ganesh"
    test: Literal["skewed", "unskewed"] = "skewed"
    subset: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    def fingerprint(self) -> str:
        """See :meth:`Dataset.fingerprint`."""
        folder = self._folder()
        return image_files.fingerprint(_files(folder), folder)

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """See :meth:`Dataset.build`."""
        folder = self._folder()
        colour, labels, ids = {}, {}, {}
        for name in ("train", "test"):
            colour[name], labels[name], ids[name] = _read(folder, name)
        chosen = np.array([name in _IN_COLOUR[self.classes] for name in CLASSES])
        rng = np.random.default_rng([self.seed, 2])
        parts: dict[str, Arrays] = {}
        for name in ("train", "test"):  # in this order: the draws of one generator
            members, in_colour = labels[name], chosen[labels[name]]
            is_gray = assign(members, in_colour, self.skew, rng, self.assignment)
            kept = np.arange(len(members))
            if name == "train" and self.subset is not None:
                kept = stratified(2 * members + is_gray, ids[name], self.subset)
            images = colour[name][kept]
            images[is_gray[kept]] = grayscale(images[is_gray[kept]])
            parts[name] = arrays(
                images, members[kept], ids[name][kept], is_gray[kept], in_colour[kept], CLASSES
            )
        gray, members = grayscale(colour["test"]), labels["test"]
        forms = {
            form: arrays(
                images,
                members,
                ids["test"],
                np.full(len(members), form == "gray"),
                chosen[members],
                CLASSES,
            )
            for form, images in [("colour", colour["test"]), ("gray", gray)]
        }
        parts["cifar10_gs"], parts["cifar10_colour"] = forms["gray"], forms["colour"]
        if self.test == "unskewed":
            parts["test"] = _both(forms)
        return parts, CLASSES

    def _folder(self) -> Path:
        folder = image_files.data_folder(self.folder, "cifar10")
        found = [
            place for place in (folder, folder / _BATCHES)
            if (place / "train").is_dir() or (place / "test_batch").is_file()
        ]  # fmt: skip
        if not found:
            raise InvalidInput(
                f"folder {str(folder)!r} holds no CIFAR-10 (no folder 'train', no {_BATCHES!r}): {GET}"
            )
        return found[0]


def _files(folder: Path) -> list[Path]:
    if (folder / "train").is_dir():
        return image_files.image_files(folder)
    return [folder / name for names in _BATCH_FILES.values() for name in names]


def _read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(N, 3, 32, 32)`` uint8 images, ``(N,)`` labels and ``(N,)`` ids of one part."""
    if (folder / "train").is_dir():
        return _read_folders(folder / split)
    images: list[np.ndarray] = []
    labels: list[int] = []
    ids: list[str] = []
    for name in _BATCH_FILES[split]:
        batch = _read_batch(folder / name)
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels += batch["labels"]
        ids += [f"{name}/{i}" for i in range(len(batch["labels"]))]
    return np.concatenate(images), np.array(labels, dtype=np.int64), np.array(ids)


def _read_folders(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    files, labels = [], []
    for label, name in enumerate(CLASSES):
        found = image_files.image_files(folder / name)
        if not found:
            raise InvalidInput(f"folder {str(folder / name)!r} holds no images")
        files += found
        labels += [label] * len(found)
    ids = [file.relative_to(folder.parent).as_posix() for file in files]
    return image_files.decode(files, 32), np.array(labels, dtype=np.int64), np.array(ids)


class _ArraysOnly(pickle.Unpickler):
    """The published batches are pickles: of arrays, lists and text only. Anything else is refused."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in it")
        if name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # noqa: SLF001
        return super().find_class(module, name)


def _read_batch(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as opened:
            batch = _ArraysOnly(opened, encoding="latin1").load()
        return {"data": np.asarray(batch["data"], dtype=np.uint8), "labels": batch["labels"]}
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"{file} is no batch of CIFAR-10: {error}") from error


def _both(forms: Mapping[str, Arrays]) -> Arrays:
    """Every image in both forms, with the form in its id."""
    return Arrays(
        images=np.concatenate([part.images for part in forms.values()]),
        labels=np.concatenate([part.labels for part in forms.values()]),
        example_ids=np.concatenate(
            [np.char.add(part.example_ids, f"/{form}") for form, part in forms.items()]
        ),
        groups={
            key: np.concatenate([part.groups[key] for part in forms.values()])
            for key in ("skew", "colour", "class")
        },
    )
