"""UTKFace (Section 3.1): faces whose file names hold perceived gender, race and age.

Zhang, Song and Qi, Age progression/regression by conditional adversarial autoencoder, CVPR 2017.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from mm_mlflow.datasets import image_files
from mm_mlflow.datasets.base import Arrays, Dataset
from mm_mlflow.errors import InvalidInput
from mm_mlflow.split import stratified

logger = logging.getLogger(__name__)

CLASSES = ("male", "female")  # perceived gender: 0 and 1 in the names
RACES = ("White", "Black", "Asian", "Indian", "Others")
OLDEST = 116
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that torchvision documents
GET = (
    "get 'Aligned&Cropped Faces' (UTKFace.tar.gz) from https://susanqq.github.io/UTKFace/ and unpack "
    "it there; for non-commercial research only, the copyright of the images is their owners', and "
    "they may not be passed on"
)
# What follows the date is not read: published names end in .jpg.chip.jpg, .jpg, " .jpg.chip.jpg",
# "jpg.chip.jpg", "jpg" and ".pg", and their labels are whole.
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d+)(\D.*)?")


class UTKFace(Dataset):
    """23,705 faces in the aligned and cropped folder, 18,964 to train on and 4,741 to test.

    The class is perceived gender. Groups: ``race`` (White, Black, Asian, Indian, Others), ``age``
    (bins such as ``59-116``) and ``class``. An example's id is ``age_gender_race_date``, however its
    file's name ends. Names that lack a label, or have one out of range, are skipped, and a note says
    how many: three in the published folder lack the race.

    Attributes:
        folder: where the files are, at any depth. By default ``$MM_MLFLOW_DATA/utkface``, else
            ``data/utkface``.
        size: height and width in pixels (published: 200; the paper does not say, ImageNet's 224 is
            our reading).
        test_fraction: part of the files in the test split.
        split_seed: draws them, from the sorted ids; never of a training.
        age_edges: first year of each age bin, beginning with 0; the last bin ends at 116. The paper
            names only 59-116; the other edges are ours.
        normalisation: mean and standard deviation of ImageNet, as is usual with 224 pixels, or of
            these training images (``data``); the paper does not say.
        subset: so many training images only, a fixed part of them, stratified by class and race.
    """

    summary: ClassVar[str] = "UTKFace: perceived gender, with race and age as groups (files needed)"
    locations: ClassVar[frozenset[str]] = Dataset.locations | {"folder"}

    folder: Path | None = None
    size: int = Field(default=224, ge=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    age_edges: tuple[int, ...] = (0, 19, 29, 39, 59)
    normalisation: Literal["imagenet", "data"] = "imagenet"
    subset: int | None = Field(default=None, ge=1)

    @field_validator("age_edges")
    @classmethod
    def _increasing(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        rising = all(low < high for low, high in pairwise(edges))
        if not edges or edges[0] != 0 or not rising or edges[-1] > OLDEST:
            raise ValueError(
                f"{list(edges)} is not allowed: whole numbers that rise from 0 to at most {OLDEST}"
            )
        return edges

    def fingerprint(self) -> str:
        """Names, sizes and times of the files."""
        folder = self._folder()
        return image_files.fingerprint(_candidates(folder), folder)

    def build(self) -> tuple[Mapping[str, Arrays], tuple[str, ...]]:
        """See :meth:`Dataset.build`."""
        files = _labelled(self._folder())
        ids = np.array(list(files))
        if len(ids) < 2:
            raise InvalidInput(
                f"folder {str(self._folder())!r} holds {len(ids)} faces with labels: at least two "
                "are needed, one to train on and one to test"
            )
        fields = np.array([name.split("_")[:3] for name in ids], dtype=np.int64)
        drawn = np.random.default_rng(self.split_seed).permutation(len(ids))
        number = min(max(1, round(self.test_fraction * len(ids))), len(ids) - 1)
        test, train = np.sort(drawn[:number]), np.sort(drawn[number:])
        if self.subset is not None:
            strata = fields[train, 1] * len(RACES) + fields[train, 2]
            train = train[stratified(strata, ids[train], self.subset)]

        def part(members: np.ndarray) -> Arrays:
            ages, labels, races = fields[members].T
            return Arrays(
                images=image_files.decode([files[name] for name in ids[members]], self.size),
                labels=labels,
                example_ids=ids[members],
                groups={
                    "race": np.array(RACES)[races],
                    "age": age_bins(ages, self.age_edges),
                    "class": np.array(CLASSES)[labels],
                },
            )

        return {"train": part(train), "test": part(test)}, CLASSES

    def statistics(
        self, parts: Mapping[str, Arrays]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See :meth:`Dataset.statistics`."""
        return IMAGENET if self.normalisation == "imagenet" else super().statistics(parts)

    def _folder(self) -> Path:
        folder = image_files.data_folder(self.folder, "utkface")
        if not any(_NAME.fullmatch(file.name) for file in _candidates(folder)):
            raise InvalidInput(
                f"folder {str(folder)!r} holds no UTKFace (no file named like "
                f"26_1_2_20170116184024662.jpg.chip.jpg): {GET}"
            )
        return folder


def age_bins(ages: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """``(N,)`` names such as ``19-28`` of the bins that begin at ``edges``; the last ends at 116."""
    last = [edge - 1 for edge in edges[1:]] + [OLDEST]
    names = np.array([f"{low}-{high}" for low, high in zip(edges, last, strict=True)])
    return names[np.searchsorted(edges, ages, side="right") - 1]


def _candidates(folder: Path) -> list[Path]:
    """Images; two published names have lost a character of their ``.jpg``."""
    return [
        file
        for file in image_files.visible_files(folder)
        if file.suffix.lower() in image_files.SUFFIXES or file.name.lower().endswith("pg")
    ]


def _labelled(folder: Path) -> dict[str, Path]:
    """Files by example id, sorted by it; those whose names do not hold the labels are left out.

    Raises:
        InvalidInput: one image in two files: it could fall into training and test.
    """
    found: dict[str, Path] = {}
    skipped, twice = [], []
    candidates = _candidates(folder)
    for file in candidates:
        match = _NAME.fullmatch(file.name)
        if match is None or int(match[1]) > OLDEST:
            skipped.append(file.name)
            continue
        name = "_".join(match.groups()[:4])
        if name in found:
            names = (found[name].relative_to(folder), file.relative_to(folder))
            twice.append(" and ".join(map(str, names)))
        found[name] = file
    if twice:
        raise InvalidInput(
            f"folder {str(folder)!r} holds {len(twice)} images twice ({image_files.some(twice)}): "
            "keep the aligned and cropped ones only"
        )
    if skipped:
        logger.warning(
            "utkface: skipped %d of %d files whose names lack a label or have one out of range: %s",
            len(skipped), len(candidates), image_files.some(skipped),
        )  # fmt: skip
    return dict(sorted(found.items()))
