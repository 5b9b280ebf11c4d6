"""What is asked of finished runs: interventions, on data that a user names or that the runs tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mm_mlflow.design import DatasetSpec, InterventionSpec, canonical_json, one_line, parse_yaml
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import Task, plan
from mm_mlflow.split import Split

OpenSplits = Callable[[DatasetSpec], Mapping[str, Split]]


class Measurement(BaseModel):
    """Interventions on certain data; small enough to travel to a worker.

    Attributes:
        interventions: as a design has them, bound.
        dataset: whose splits they run on, as a design's dataset, bound.
        other: another dataset that stands in its place for every intervention that names none: then
            metric keys name it, as those of a design's interventions on other data do.
        label_map: of the dataset that the user named (``other``, else ``dataset``): the model's output
            for the name of every class; None for the classes in their order.
    """

    model_config = ConfigDict(frozen=True)

    interventions: tuple[InterventionSpec, ...]
    dataset: DatasetSpec
    other: DatasetSpec | None = None
    label_map: dict[str, int] | None = None

    def tasks(self, open_splits: OpenSplits) -> tuple[Task, ...]:
        """The metrics to take.

        Raises:
            InvalidInput: as :func:`~mm_mlflow.evaluation.plan`, or a label map that does not fit.
        """
        other = self.other

        def mapped(spec: DatasetSpec) -> Mapping[str, Split]:
            splits = open_splits(spec)
            if self.label_map is None or not same_data(spec, other or self.dataset):
                return splits
            return {name: split.relabelled(self.label_map) for name, split in splits.items()}

        specs = [
            spec if spec.dataset or other is None else spec.model_copy(update={"dataset": other})
            for spec in self.interventions
        ]
        return plan(specs, mapped(self.dataset), mapped)


class Request(BaseModel):
    """What a user asks for: see :class:`Measurement`; ``dataset`` is None where none is named."""

    model_config = ConfigDict(frozen=True)

    interventions: tuple[InterventionSpec, ...]
    dataset: DatasetSpec | None = None
    label_map: dict[str, int] | None = None

    def of_cells(self, own: DatasetSpec) -> Measurement:
        """What to take of models that were trained on ``own``: on its splits, unless the user named
        other data."""
        if self.dataset is None:
            return Measurement(interventions=self.interventions, dataset=own)
        if not same_data(self.dataset, own):
            return Measurement(
                interventions=self.interventions,
                dataset=own,
                other=self.dataset,
                label_map=self.label_map,
            )
        # Where the files are now is the user's word, as far as it goes.
        places = {**(own.locations or {}), **(self.dataset.locations or {})}
        named = self.dataset.model_copy(update={"locations": places})
        return Measurement(
            interventions=self.interventions, dataset=named, label_map=self.label_map
        )

    def of_others(self) -> Measurement | None:
        """What to take of models of other programs; None if nobody says on which data."""
        if self.dataset is None:
            return None
        return Measurement(
            interventions=self.interventions, dataset=self.dataset, label_map=self.label_map
        )


def same_data(one: DatasetSpec, other: DatasetSpec) -> bool:
    """Whether two bound datasets are one, wherever their files are."""
    return canonical_json(one.identity()) == canonical_json(other.identity())


def parse_interventions(texts: Sequence[str]) -> tuple[InterventionSpec, ...]:
    """Interventions as they stand in a design file, each as one line of YAML.

    Raises:
        InvalidInput: one that is none.
    """
    return tuple(_parse(InterventionSpec, "intervention", text) for text in texts)


def parse_dataset(text: str) -> DatasetSpec:
    """A dataset as it stands in a design file, or its name alone.

    Raises:
        InvalidInput: it is none.
    """
    spec: DatasetSpec = _parse(DatasetSpec, "dataset", text)
    return spec


def parse_label_map(text: str) -> dict[str, int]:
    """``{cat: 1, dog: 0}``: names of classes to indices of outputs.

    Raises:
        InvalidInput: it is none.
    """
    data = parse_yaml(text, "label map")
    whole = isinstance(data, Mapping) and all(type(index) is int for index in data.values())
    if not whole or not data:
        raise InvalidInput(
            f"label map {text!r} is not allowed: the index of the model's output for every class, "
            "as in '{cat: 1, dog: 0}'"
        )
    return {str(name): index for name, index in data.items()}


def _parse(kind: Any, word: str, text: str) -> Any:
    data = parse_yaml(text, f"{word} {text!r}")
    try:
        return kind.model_validate({"name": data} if isinstance(data, str) else data)
    except ValidationError as error:
        raise InvalidInput(
            f"{word} {text!r} is not allowed: {one_line(error)} (as in '{{name: ...}}')"
        ) from error
