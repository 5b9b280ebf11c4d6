"""CelebA as data of another distribution than UTKFace (Section 4, "unforeseen circumstances")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from mm_mlflow.datasets import image_files
from mm_mlflow.datasets.base import Arrays, Dataset
from mm_mlflow.datasets.utkface import CLASSES
from mm_mlflow.errors import InvalidInput, unknown

_PARTS = {"train": "0", "valid": "1", "test": "2"}
# Its Male is 1 for male; our class 0 is male, as in UTKFace.
_LABELS = {"1": CLASSES.index("male"), "-1": CLASSES.index("female")}
_AGES = {"1": "young", "-1": "not young"}
_IMAGES = "img_align_celeba"
_ATTRIBUTES = "list_attr_celeba.txt"
_PARTITION = "list_eval_partition.txt"
GET = (
    f"get {_IMAGES}.zip (Align&Cropped Images), {_ATTRIBUTES} and {_PARTITION} from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack them there, as torchvision lays "
    "them out; for non-commercial research only, and the images may not be passed on"
)


class CelebA(Dataset):
    """19,962 test faces of celebrities (or 19,867 ``valid``, 162,770 ``train``); not to train on.

    The class is the attribute ``Male`` turned round into UTKFace's order: 0 is male. Groups: ``age``
    (``young``, ``not young``: the attribute ``Young``) and ``class``. One split, ``test``.

    Attributes:
        folder: torchvision's folder ``celeba`` (or the one that holds it). By default
            ``$MM_MLFLOW_DATA/celeba``, else ``data/celeba``.
        size: height and width in pixels: the shorter side of the published 178 x 218 is resized to
            it, and the centre cut out.
        part: of the published partition.
    """

    summary: ClassVar[str] = "CelebA: gender, an OOD set for utkface (files needed)"
    locations: ClassVar[frozenset[str]] = Dataset.locations | {"folder"}

    folder: Path | None = None
    size: int = Field(default=224, ge=1)
    part: Literal["train", "valid", "test"] = "test"

    def fingerprint(self) -> str:
        """Names, sizes and times of the lists and of the images."""
        folder = self._folder()
        files = [folder / _IMAGES / name for name in self._names(folder)]
        return image_files.fingerprint([folder / _ATTRIBUTES, folder / _PARTITION, *files], folder)

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """See :meth:`Dataset.build`."""
        folder = self._folder()
        names = self._names(folder)
        attributes = _attributes(folder / _ATTRIBUTES, ("Male", "Young"))
        if lacking := [name for name in names if name not in attributes]:
            raise InvalidInput(
                f"{folder / _ATTRIBUTES} lacks {len(lacking)} images that {_PARTITION} names: "
                f"{image_files.some(lacking)}"
            )
        for name in names:
            for attribute, value in zip(("Male", "Young"), attributes[name], strict=True):
                if value not in _LABELS:
                    raise unknown(f"{attribute} of {name} in {_ATTRIBUTES}:", value, _LABELS)
        labels = np.array([_LABELS[attributes[name][0]] for name in names], dtype=np.int64)
        test = Arrays(
            images=image_files.decode([folder / _IMAGES / name for name in names], self.size),
            labels=labels,
            example_ids=np.array(names),
            groups={
                "age": np.array([_AGES[attributes[name][1]] for name in names]),
                "class": np.array(CLASSES)[labels],
            },
        )
        return {"test": test}, CLASSES

    def _folder(self) -> Path:
        given = image_files.data_folder(self.folder, "celeba")
        for folder in (given, given / "celeba"):
            if (folder / _ATTRIBUTES).is_file() and (folder / _PARTITION).is_file():
                break
        else:
            raise InvalidInput(
                f"folder {str(given)!r} holds no CelebA (no {_ATTRIBUTES} and {_PARTITION}): {GET}"
            )
        if not (folder / _IMAGES).is_dir():
            raise InvalidInput(f"folder {str(folder)!r} holds no CelebA (no {_IMAGES!r}): {GET}")
        return folder

    def _names(self, folder: Path) -> list[str]:
        """The images of the part, in the list's order, all of them there."""
        rows = [line.split() for line in _lines(folder / _PARTITION) if line.strip()]
        for number, row in enumerate(rows, 1):
            if len(row) != 2 or row[1] not in _PARTS.values():
                raise InvalidInput(
                    f"{folder / _PARTITION}, line {number}: {' '.join(row)!r} is not allowed: "
                    "a name and 0, 1 or 2"
                )
        names = [name for name, part in rows if part == _PARTS[self.part]]
        if not names:
            raise InvalidInput(f"{folder / _PARTITION} names no image of part {self.part!r}")
        image_files.refuse_missing(names, folder / _IMAGES, folder / _PARTITION)
        return names


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error


def _attributes(file: Path, wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """The ``wanted`` attributes by image: the first line counts the rows, the second names the columns.

    Raises:
        InvalidInput: a missing attribute, a row of another length, or another number of rows.
    """
    count, header, *lines = [*_lines(file), "", ""]
    columns = header.split()
    for name in wanted:
        if name not in columns:
            raise unknown(f"attribute in {file}:", name, columns)
    positions = [1 + columns.index(name) for name in wanted]
    rows = [line.split() for line in lines if line.strip()]
    if not count.strip().isdigit() or int(count) != len(rows):
        raise InvalidInput(f"{file} says {count.strip()!r} images and lists {len(rows)}")
    for row in rows:
        if len(row) != 1 + len(columns):
            raise InvalidInput(
                f"{file}, {row[0]}: {len(row) - 1} values for {len(columns)} attributes"
            )
    return {row[0]: [row[position] for position in positions] for row in rows}
