"""Datasets by name. A new one is a file with a subclass of :class:`~mm_mlflow.datasets.base.Dataset`
and a line here, or a third party's entry point in the group ``mm_mlflow.datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mm_mlflow import registry
from mm_mlflow.design import DatasetSpec, Design, InterventionSpec, one_line
from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.datasets.base import Dataset
    from mm_mlflow.split import Split

GROUP = "mm_mlflow.datasets"
DATASETS = {
    "celeba": "mm_mlflow.datasets.celeba:CelebA",
    "cifar10_skewed": "mm_mlflow.datasets.cifar10_skewed:Cifar10Skewed",
    "digits_skewed": "mm_mlflow.datasets.digits_skewed:DigitsSkewed",
    "fairface": "mm_mlflow.datasets.fairface:FairFace",
    "folder": "mm_mlflow.datasets.folder:Folder",
    "utkface": "mm_mlflow.datasets.utkface:UTKFace",
}


def create(spec: DatasetSpec) -> Dataset:
    """The dataset that ``spec`` names, with its arguments checked.

    Raises:
        InvalidInput: an unknown name, an unknown argument, or a value that is not allowed.
    """
    cls: type[Dataset] = registry.resolve("dataset", spec.name, DATASETS, GROUP)
    try:
        return cls.model_validate({**spec.arguments, **(spec.locations or {})})
    except ValidationError as error:
        raise InvalidInput(f"dataset {spec.name!r}: {one_line(error)}") from error


def bind(design: Design) -> Design:
    """``design`` with every dataset's arguments spelled out, defaults included, and its locations
    apart. Cell ids are those of a bound design; what the sweep run stores is bound."""
    return design.model_copy(
        update={
            "dataset": bound(design.dataset) if design.dataset else None,
            "interventions": tuple(map(bound_intervention, design.interventions)),
        }
    )


def bound(spec: DatasetSpec) -> DatasetSpec:
    """``spec`` with its arguments spelled out, and its locations apart.

    Raises:
        InvalidInput: as :func:`create`.
    """
    if spec.locations is not None:
        return spec
    dataset = create(spec)
    arguments = dataset.model_dump(mode="json", exclude_none=True)
    locations = {key: arguments.pop(key) for key in dataset.locations if key in arguments}
    return DatasetSpec(name=spec.name, locations=locations, **arguments)


def bound_intervention(spec: InterventionSpec) -> InterventionSpec:
    """``spec`` with its dataset bound, if it names one."""
    return spec.model_copy(update={"dataset": bound(spec.dataset)}) if spec.dataset else spec


def open_splits(spec: DatasetSpec) -> Mapping[str, Split]:
    """The splits of a dataset, from its cache where that is whole; opened once per process."""
    return _open_splits(spec.model_dump_json())


@lru_cache(maxsize=8)
def _open_splits(spec_json: str) -> Mapping[str, Split]:
    return create(DatasetSpec.model_validate_json(spec_json)).splits()
