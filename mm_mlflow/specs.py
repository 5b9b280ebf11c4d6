"""The parts that a design is made of, each validated as it is read, and the spelling of identities.

Pure, as :mod:`mm_mlflow.design` is, which puts them together.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.rules import Rule, parse_top, rules

Scalar = bool | int | float | str


def normalise(value: Any) -> Scalar:
    """One spelling for each scalar: 128.0, "128" and 128 are one level, as they are one MLflow param.

    Raises:
        InvalidInput: not a finite number, string or boolean.
    """
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string. "nan", "inf" and "1_000" stay names.
        if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
            return value
        # So do numbers that Python holds in none of its own: 1e999, and digits by the thousand.
        try:
            number = float(value) if re.search(r"[.eE]", value) else int(value)
        except ValueError:
            return value
        if number in {math.inf, -math.inf}:
            return value
        value = number
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    raise InvalidInput(f"{value!r} is not allowed: a finite number, a string or a boolean is")


def parameter(value: Any) -> Scalar:
    """A parameter of a project, which gets it as text: text is a number only where it is spelled as
    that number is, so that "10" is 10, and "3.10" and "007" stay what they are.

    Raises:
        InvalidInput: not a finite number, string or boolean.
    """
    number = normalise(value)
    return value if isinstance(value, str) and str(number) != value else number


def _normalise_deep(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _normalise_deep(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normalise_deep(item) for item in value]
    # Text stays text: "007" is a name. Levels have one spelling already (see Level).
    return value if value is None or isinstance(value, str) else normalise(value)


def canonical_json(value: Any) -> str:
    """The same text for equal content: sorted keys, no spaces, one spelling for each number."""
    return json.dumps(
        _normalise_deep(value), sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Strict(BaseModel):
    """Frozen, and an unknown key is refused with its near match and the list of known keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and cls.model_config.get("extra") == "forbid":
            known = [info.alias or name for name, info in cls.model_fields.items()]
            for key in data:
                if key not in known and key not in cls.model_fields:
                    raise unknown("key", key, known)
        return data


class TrainingSettings(Strict):
    """Everything that a training obeys besides its data and its seed.

    Defaults are the paper's recipe as DESIGN reads it (Section 3.1; momentum, weight decay and
    schedule from the first author's public CIFAR code). All of it enters ``Cell.id``: a setting
    added later must be left out of :meth:`identity` where it equals the behaviour before it.
    """

    epochs: int = Field(ge=1)
    learning_rate: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    learning_rate_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=128, ge=1)
    optimizer: str = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    schedule: Literal["cosine", "constant"] = "cosine"
    augmentation: str = "none"
    architecture: str = "conv"
    architecture_arguments: dict[str, Any] = Field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The settings that enter ``Cell.id``."""
        return self.model_dump()


class Level(Strict):
    """One value of an axis: a scalar, or a name for a bundle of training settings (in a project's
    design, of parameters of its entry point)."""

    name: bool | int | float | str
    training: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if not self.parameters:
            data.pop("parameters", None)  # the key is younger than ids of designs
        return data

    @property
    def bundle(self) -> dict[str, Any]:
        """What the level sets under other names than its axis's; empty for a scalar."""
        return self.training or self.parameters

    @model_validator(mode="before")
    @classmethod
    def _from_scalar(cls, data: Any) -> Any:
        return data if isinstance(data, Mapping | Level) else {"name": data}

    @field_validator("name", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Scalar:
        return normalise(value)

    @field_validator("parameters")
    @classmethod
    def _scalars(cls, value: dict[str, Any]) -> dict[str, Scalar]:
        return {name: parameter(item) for name, item in value.items()}


class Axis(Strict):
    """An axis of variation and its levels, in the order in which sheets show them."""

    name: str
    levels: tuple[Level, ...]

    @property
    def names(self) -> tuple[Scalar, ...]:
        """The names of the levels."""
        return tuple(level.name for level in self.levels)

    def level(self, value: Any) -> Level:
        """The level called ``value``, a scalar or the text that MLflow returns for it.

        Raises:
            InvalidInput: no level of this axis has that name.
        """
        wanted = str(normalise(value))
        for level in self.levels:
            if str(level.name) == wanted:
                return level
        raise unknown(f"{self.name} level", value, self.names)


class ProjectSpec(Strict):
    """Somebody's MLflow project in the place of a dataset and its training: cells are runs of one of
    its entry points.

    Attributes:
        name: of the project, from its MLproject file; None until it is read.
        entry_point: which is run.
        parameters: what it gets in every cell.
        seed_parameter: what it calls the seed.
    """

    name: str | None = None
    entry_point: str = "main"
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed_parameter: str = "seed"

    @field_validator("parameters")
    @classmethod
    def _scalars(cls, value: dict[str, Any]) -> dict[str, Scalar]:
        return {name: parameter(item) for name, item in value.items()}

    def identity(self) -> dict[str, Any]:
        """What enters ``Cell.id``.

        Raises:
            InvalidInput: the project has no name yet.
        """
        if self.name is None:
            raise InvalidInput(
                "the design's project has no name yet: `mlflow run PROJECT -b multiplicity` reads it "
                "from the MLproject file; else give project.name"
            )
        return self.model_dump()

    def check(self, axes: Sequence[Axis]) -> None:
        """Refuse a name that would mean two things at once: of the seed, of a parameter that is
        fixed, of one that an axis varies.

        Raises:
            InvalidInput: naming it.
        """
        scalar = {axis.name for axis in axes if any(not level.bundle for level in axis.levels)}
        if self.seed_parameter in self.parameters:
            raise InvalidInput(
                f"project.parameters sets {self.seed_parameter!r}, which is the seed: "
                "seeds says which there are"
            )
        for axis in axes:
            if axis.name == self.seed_parameter:
                raise InvalidInput(
                    f"axis name {axis.name!r} is not allowed: it is the project's seed_parameter, "
                    "and seeds says which there are"
                )
            if axis.name in scalar and axis.name in self.parameters:
                raise InvalidInput(
                    f"project.parameters sets {axis.name!r}, which is an axis: its default says it "
                    "already"
                )
            for level in axis.levels:
                if level.training:
                    raise InvalidInput(
                        f"level {level.name!r} of axis {axis.name!r} has training settings: in a "
                        "project's design a bundle has parameters"
                    )
                for name in level.parameters:
                    if name == self.seed_parameter or name in scalar - {axis.name}:
                        what = "the seed" if name == self.seed_parameter else "an axis"
                        raise InvalidInput(
                            f"level {level.name!r} of axis {axis.name!r} sets {name!r}, which is "
                            f"{what}"
                        )

    def applied(self, axes: Sequence[Axis], levels: Mapping[str, Scalar]) -> ProjectSpec:
        """The same project with the parameters of one configuration, all but the seed.

        Raises:
            InvalidInput: two bundles set one parameter to different values.
        """
        own = {a.name: levels[a.name] for a in axes if not a.level(levels[a.name]).bundle}
        parameters = {**self.parameters, **own, **bundled(axes, levels)}
        return self.model_copy(update={"parameters": parameters})


def bundled(axes: Sequence[Axis], levels: Mapping[str, Scalar]) -> dict[str, Any]:
    """What the bundles of one configuration set, together.

    Raises:
        InvalidInput: two of them set the same to different values.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        level = axis.level(levels[axis.name])
        for key, value in level.bundle.items():
            if found.setdefault(key, value) != value:
                raise InvalidInput(
                    f"level {level.name!r} of axis {axis.name!r} sets {key} to {value!r}, "
                    f"and another level of the same configuration to {found[key]!r}"
                )
    return found


class SweepOptions(Strict):
    """How the project backend sweeps: the options of ``mm-mlflow sweep``. No part of what is
    planned."""

    jobs: int | None = Field(default=None, ge=1)
    scheduler: str | None = None
    smoke: bool = False
    adopt_foreign: bool | None = None


class DatasetSpec(Strict):
    """A dataset's name and arguments. ``locations`` is None until the dataset itself has sorted its
    arguments into those that determine content and those that only say where to find it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    locations: dict[str, Any] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that are not locations (all of them, before binding)."""
        return dict(self.model_extra or {})

    def identity(self) -> dict[str, Any]:
        """What enters ``Cell.id``."""
        return {"name": self.name, **self.arguments}


class InterventionSpec(Strict):
    """An intervention by name, the data it runs on, and its parameters as written.

    ``split`` names a split of the design's dataset (or of ``dataset``, where one is given);
    ``examples`` takes a fixed part of it, stratified by label.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    split: str = "test"
    dataset: DatasetSpec | None = None
    examples: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @property
    def parameters(self) -> dict[str, Any]:
        """The intervention's own parameters."""
        return dict(self.model_extra or {})


class Keep(Strict):
    """What a cell stores besides its metrics. Unless logits are kept as float32, each metric's
    per-example outcomes get a column of their own."""

    weights: Literal["all", "none"] = "all"
    logits: Literal["float32", "float16", "none"] = "float32"


class SelectionSpec(Strict):
    """Which models to select, on which metrics, and which others to look at afterwards (Section 4).

    Attributes:
        top: shares such as ``75%``, each a selection of its own.
        pareto: the Pareto front.
        require: thresholds such as ``accuracy>=0.9``, all to be kept.
        on: metric keys that are selected on.
        report: metric keys shown before and after; by default all that are not selected on.
    """

    top: tuple[str, ...] = ()
    pareto: bool = False
    require: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    report: tuple[str, ...] = ()

    @field_validator("top", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> tuple[str, ...]:
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple(parse_top(item).text for item in listed)

    @field_validator("require", "on", "report", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.rules()
        return self

    def rules(self) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
        """The rules, and the metrics that they are on."""
        return rules(self.top, pareto=self.pareto, require=self.require, on=self.on)


def one_line(error: ValidationError) -> str:
    """The first problem of a pydantic error: place, what is wrong, and the value."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] not in {"value_error", "missing"}:
        message = f"{message}, got {first['input']!r}"
    return f"{place}: {message}" if place else message
