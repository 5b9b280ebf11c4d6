"""FairFace as data of another distribution than UTKFace (Section 3.3)."""

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

_LABELS = {"Male": CLASSES.index("male"), "Female": CLASSES.index("female")}
_ARCHIVE = "fairface-img-margin025-trainval"
GET = (
    f"get {_ARCHIVE}.zip (padding 0.25), fairface_label_train.csv and fairface_label_val.csv from "
    "https://github.com/joojs/fairface and unpack them there (folders train and val beside the two "
    "csv files); CC BY 4.0"
)


class FairFace(Dataset):
    """10,954 validation faces (or 86,744 training faces), balanced by race; not to train on.

    The class is gender, in UTKFace's order: 0 is male. Groups: ``race`` (seven) and ``age`` (nine
    bins), as the csv names them, and ``class``. One split, ``test``.

    Attributes:
        folder: where the csv files and the folders ``train`` and ``val`` are. By default
            ``$MM_MLFLOW_DATA/fairface``, else ``data/fairface``.
        size: height and width in pixels (published: 224).
        part: which csv is read.
    """

    summary: ClassVar[str] = "FairFace: gender, an OOD set for utkface (files needed)"
    locations: ClassVar[frozenset[str]] = Dataset.locations | {"folder"}

    folder: Path | None = None
    size: int = Field(default=224, ge=1)
    part: Literal["val", "train"] = "val"

    def fingerprint(self) -> str:
        """Names, sizes and times of the csv and of what it names."""
        table, images, rows = self._listed()
        files = [images / row["file"] for row in rows]
        return image_files.fingerprint([table, *files], table.parent)

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """See :meth:`Dataset.build`."""
        table, images, rows = self._listed()
        for row in rows:
            if row["gender"] not in _LABELS:
                raise unknown(f"gender of {row['file']} in {table}:", row["gender"], _LABELS)
        labels = np.array([_LABELS[row["gender"]] for row in rows], dtype=np.int64)
        test = Arrays(
            images=image_files.decode([images / row["file"] for row in rows], self.size),
            labels=labels,
            example_ids=np.array([row["file"] for row in rows]),
            groups={
                "race": np.array([row["race"] for row in rows]),
                "age": np.array([row["age"] for row in rows]),
                "class": np.array(CLASSES)[labels],
            },
        )
        return {"test": test}, CLASSES

    def _listed(self) -> tuple[Path, Path, list[dict[str, str]]]:
        """The csv, the folder that its names begin at, and its rows."""
        folder = image_files.data_folder(self.folder, "fairface")
        table = folder / f"fairface_label_{self.part}.csv"
        places = [place for place in (folder, folder / _ARCHIVE) if (place / self.part).is_dir()]
        if not table.is_file() or not places:
            lacking = f"folder {self.part!r}" if table.is_file() else table.name
            raise InvalidInput(f"folder {str(folder)!r} holds no FairFace (no {lacking}): {GET}")
        rows = image_files.read_csv(table, ("file", "age", "gender", "race"))
        if not rows:
            raise InvalidInput(f"csv {str(table)!r} names no images: {GET}")
        image_files.refuse_missing([row["file"] for row in rows], places[0], table)
        return table, places[0], rows
