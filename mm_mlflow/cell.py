"""A cell of a design, and what its identity is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from pydantic import ValidationError

from mm_mlflow.errors import InvalidInput
from mm_mlflow.specs import (
    DatasetSpec,
    ProjectSpec,
    Scalar,
    TrainingSettings,
    digest,
    normalise,
    one_line,
)

ID_VERSION = 1
STREAMS = ("init", "order", "augment")


@dataclass(frozen=True)
class Cell:
    """One training: a configuration and a seed.

    Attributes:
        axes: level of every axis, by name.
        seed: the seed of all three streams (initialisation, order, augmentation).
        training: the settings, with the levels applied; None where a project trains.
        dataset: the training data; its locations are not part of the identity. None where a project
            trains.
        label: what people call it: the axes that differ from the default, and the seed.
        bundled: settings that a bundle level overrides, logged as ``training.*``.
        project: whose run the cell is, with the parameters of its configuration.
    """

    axes: Mapping[str, Scalar]
    seed: int
    training: TrainingSettings | None
    dataset: DatasetSpec | None
    label: str = field(compare=False)
    bundled: Mapping[str, Scalar] = field(compare=False, default_factory=dict)
    project: ProjectSpec | None = None

    @property
    def configuration(self) -> str:
        """The label without the seed."""
        return self.label.rsplit(" seed=", 1)[0]

    def canonical(self) -> dict[str, Any]:
        """What the id hashes: enough to train this cell again without its design."""
        subject = (
            {"project": self.project.identity()}
            if self.project is not None
            else {"training": self.settings.identity(), "dataset": self.data.identity()}
        )
        return {
            "id_version": ID_VERSION,
            "axes": dict(self.axes),
            "seeds": dict.fromkeys(STREAMS, self.seed),
            **subject,
        }

    @property
    def settings(self) -> TrainingSettings:
        """``training`` of a cell that this package trains."""
        assert self.training is not None, "a project's cell has no training settings"
        return self.training

    @property
    def data(self) -> DatasetSpec:
        """``dataset`` of a cell that this package trains."""
        assert self.dataset is not None, "a project's cell has no dataset"
        return self.dataset

    @classmethod
    def from_canonical(
        cls, document: Mapping[str, Any], locations: Mapping[str, Any], label: str
    ) -> Self:
        """The cell whose :meth:`canonical` this is; ``locations`` are its dataset's.

        Raises:
            InvalidInput: a cell of another version or of another program's project, or one whose
                streams have different seeds.
        """
        if "project" in document:
            raise InvalidInput("a cell of an MLflow project is trained by that project only")
        if document.get("id_version") != ID_VERSION:
            raise InvalidInput(
                f"id_version {document.get('id_version')!r} is not allowed: {ID_VERSION} is"
            )
        try:
            seeds = {document["seeds"][stream] for stream in STREAMS}
            if len(seeds) > 1 or not all(type(seed) is int for seed in seeds):
                raise InvalidInput(f"seeds {document['seeds']} are not allowed: one whole number")
            return cls(
                axes={name: normalise(level) for name, level in document["axes"].items()},
                seed=seeds.pop(),
                training=TrainingSettings.model_validate(document["training"]),
                dataset=DatasetSpec(**{**document["dataset"], "locations": dict(locations)}),
                label=label,
            )
        except ValidationError as error:
            raise InvalidInput(one_line(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"not a cell: {error!r}") from error

    @cached_property
    def id(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal."""
        return digest(self.canonical())

    def __hash__(self) -> int:
        return hash(self.id)
