"""Any folder of images, with groups from a csv: a dataset without writing code."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from mm_mlflow.datasets import image_files
from mm_mlflow.datasets.base import Arrays, Dataset
from mm_mlflow.errors import InvalidInput

logger = logging.getLogger(__name__)

_LAYOUTS = "train/<class>/* and test/<class>/*, or <class>/*"
_UNKNOWN = "unknown"  # the group of images that the csv lacks, and of empty values


class Folder(Dataset):
    """Images in class folders: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` alone.

    Every further folder beside ``train`` and ``test`` (``grayscale/<class>/*``) is a split of that
    name, for out-of-distribution accuracy. Without ``train``, each class is divided by seed. Classes
    are the names of the training folders, sorted. Groups: the columns of ``groups``, and ``class``
    (unless the csv has a column of that name).

    Attributes:
        folder: where the images are.
        groups: a csv with the column ``file`` (path below ``folder``) and one column per attribute; a
            relative path is one below ``folder`` or, where that is not there, below the working
            folder. Images that it lacks, and empty values, are ``unknown``, and a note counts them.
        size: height and width in pixels: the shorter side is resized to it, and the centre cut out.
        test_fraction: part of each class in the test split, rounded, at least one image of two.
        split_seed: draws them; never of a training. Both are without effect where there is ``train``.
    """

    summary: ClassVar[str] = "any folder of images by class, groups from a csv (files needed)"
    locations: ClassVar[frozenset[str]] = Dataset.locations | {"folder", "groups"}

    folder: Path
    groups: Path | None = None
    size: int = Field(default=64, ge=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)

    def fingerprint(self) -> str:
        """Names, sizes and times of the images, and the content of the csv."""
        if not self.folder.is_dir():
            raise InvalidInput(f"folder {str(self.folder.absolute())!r} is not there")
        images = image_files.image_files(self.folder)
        self._refuse_empty_classes(images)
        files = image_files.fingerprint(images, self.folder)
        table = self._table()
        if table is None:
            return files
        try:
            return files + hashlib.sha256(table.read_bytes()).hexdigest()
        except OSError as error:
            raise InvalidInput(f"csv {str(table)!r} cannot be read: {error}") from error

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """See :meth:`Dataset.build`."""
        members, classes = self._members()
        groups = self._groups([name for names in members.values() for name, _ in names])
        parts = {}
        for split, listed in members.items():
            labels = np.array([classes.index(label) for _, label in listed], dtype=np.int64)
            names = [name for name, _ in listed]
            parts[split] = Arrays(
                images=image_files.decode([self.folder / name for name in names], self.size),
                labels=labels,
                example_ids=np.array(names),
                groups={
                    "class": np.array(classes)[labels],
                    **{
                        attribute: np.array([values[name] for name in names])
                        for attribute, values in groups.items()
                    },
                },
            )
        return parts, classes

    def _members(self) -> tuple[dict[str, list[tuple[str, str]]], tuple[str, ...]]:
        """Per split its ``(path below folder, class)``, and the classes.

        Raises:
            InvalidInput: no or one image, images outside of class folders, no ``test`` beside
                ``train``, one class only, or a class that ``train`` lacks.
        """
        names = [
            file.relative_to(self.folder).as_posix()
            for file in image_files.image_files(self.folder)
        ]
        shown = f"folder {str(self.folder)!r}"
        if len(names) < 2:
            number = "one image" if names else "no image"
            raise InvalidInput(f"{shown} holds {number}: two classes are needed in {_LAYOUTS}")
        divided = (self.folder / "train").is_dir()
        depth = 2 if divided else 1
        if stray := [name for name in names if name.count("/") < depth]:
            raise InvalidInput(
                f"{shown} holds images outside of the layout {_LAYOUTS}: {image_files.some(stray)}"
            )
        members: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
        if divided:
            for name in names:
                split, label, *_ = name.split("/")
                members.setdefault(split, []).append((name, label))
            for split in ("train", "test"):
                if not members[split]:
                    found = ", ".join(key for key, listed in members.items() if listed)
                    raise InvalidInput(f"{shown} has no image in {split!r} (it has {found})")
        else:
            members = self._divide([(name, name.split("/")[0]) for name in names])
        classes = tuple(sorted({label for _, label in members["train"]}))
        if len(classes) < 2:
            raise InvalidInput(
                f"{shown} has only one class, {classes[0]!r}: at least two are needed"
            )
        for split, listed in members.items():
            there = {label for _, label in listed}
            if new := sorted(there - set(classes)):
                raise InvalidInput(
                    f"{shown}: 'train' lacks classes that {split!r} has: {image_files.some(new)}"
                )
            if lacking := sorted(set(classes) - there):
                logger.warning(
                    "folder: split %r has no image of these classes: %s",
                    split, image_files.some(lacking),
                )  # fmt: skip
        return members, classes

    def _refuse_empty_classes(self, images: list[Path]) -> None:
        """A class that was forgotten in copying is no class that is not there.

        Checked with the fingerprint: a cache of the other classes may be there.
        """
        divided = (self.folder / "train").is_dir()
        parent = self.folder / "train" if divided else self.folder
        full = {
            image.relative_to(parent).parts[0] for image in images if image.is_relative_to(parent)
        }
        empty = [
            path.relative_to(self.folder).as_posix()
            for path in sorted(parent.iterdir())
            if path.is_dir() and not path.name.startswith(".") and path.name not in full
        ]
        if empty and len(images) > 1 and full:
            raise InvalidInput(
                f"folder {str(self.folder)!r} has class folders without an image: "
                f"{image_files.some(empty)}"
            )

    def _divide(self, listed: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
        rng = np.random.default_rng(self.split_seed)
        members: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
        for label in sorted({label for _, label in listed}):
            own = [item for item in listed if item[1] == label]
            number = min(max(1, round(self.test_fraction * len(own))), len(own) - 1)
            drawn = set(rng.permutation(len(own))[:number].tolist())
            for i, item in enumerate(own):
                members["test" if i in drawn else "train"].append(item)
        if not members["test"]:
            raise InvalidInput(
                f"folder {str(self.folder)!r} has one image in each class: "
                "two are needed in some, one to train on and one to test"
            )
        return members

    def _groups(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Per attribute, the value of every image."""
        table = self._table()
        if table is None:
            return {}
        rows = {row.pop("file"): row for row in image_files.read_csv(table)}
        image_files.refuse_missing(list(rows), self.folder, table)
        attributes = list(next(iter(rows.values()), {}))
        if not attributes:
            raise InvalidInput(
                f"csv {str(table)!r} gives no groups: a column 'file', others, and rows are needed"
            )
        if lacking := [name for name in names if name not in rows]:
            logger.warning(
                "folder: %d of %d images are not in %s, their groups are %r: %s",
                len(lacking), len(names), table.name, _UNKNOWN, image_files.some(lacking),
            )  # fmt: skip
        for attribute in attributes:
            if empty := [n for n in names if n in rows and not rows[n][attribute].strip()]:
                logger.warning(
                    "folder: %s gives %d of %d images no value of %r, so it is %r: %s",
                    table.name, len(empty), len(names), attribute, _UNKNOWN, image_files.some(empty),
                )  # fmt: skip
        return {
            attribute: {
                name: rows.get(name, {}).get(attribute, "").strip() or _UNKNOWN for name in names
            }
            for attribute in attributes
        }

    def _table(self) -> Path | None:
        if self.groups is None:
            return None
        for table in (self.folder / self.groups, self.groups):
            if table.is_file():
                return table
        raise InvalidInput(
            f"csv {str(self.groups)!r} is neither in {str(self.folder)!r} nor in {str(Path.cwd())!r}"
        )
