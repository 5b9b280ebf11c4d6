"""A design: a default configuration, axes of variation around it, seeds, interventions.

Pure: reads YAML text and computes which cells are planned; knows nothing of MLflow, torch or Optuna.
Section 3.1 of the paper is the model: one axis varies at a time around the default configuration
("star"), and one random seed controls all randomness of a training.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.rules import Rule, parse_top, rules

Scalar = bool | int | float | str

ID_VERSION = 1
STREAMS = ("init", "order", "augment")
# What MLflow accepts as a param or metric name, without the slash that would make a folder of it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")


def normalise(value: Any) -> Scalar:
    """One spelling for each scalar: 128.0, "128" and 128 are one level, as they are one MLflow param.

    Raises:
        InvalidInput: not a finite number, string or boolean.
    """
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string. "nan", "inf" and "1_000" stay names.
        if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
            return value
        value = float(value) if re.search(r"[.eE]", value) else int(value)
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    raise InvalidInput(f"{value!r} is not allowed: a finite number, a string or a boolean is")


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


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class _Strict(BaseModel):
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


class TrainingSettings(_Strict):
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


class Level(_Strict):
    """One value of an axis: a scalar, or a name for a bundle of training settings."""

    name: bool | int | float | str
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_scalar(cls, data: Any) -> Any:
        return data if isinstance(data, Mapping | Level) else {"name": data}

    @field_validator("name", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Scalar:
        return normalise(value)


class Axis(_Strict):
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


class DatasetSpec(_Strict):
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


class InterventionSpec(_Strict):
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


class Keep(_Strict):
    """What a cell stores besides its metrics. Unless logits are kept as float32, each metric's
    per-example outcomes get a column of their own."""

    weights: Literal["all", "none"] = "all"
    logits: Literal["float32", "float16", "none"] = "float32"


class SelectionSpec(_Strict):
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


class _Loader(yaml.SafeLoader):
    """YAML as ever, but a key that stands twice is refused (the last would win without a word), and
    keys are text: to YAML 1.1, the key ``on`` of a selection is the boolean true."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # <<: several may stand there, and own keys win
            if key_node.tag == "tag:yaml.org,2002:bool":
                key_node.tag = "tag:yaml.org,2002:str"
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} twice, line {line}"
                )
            seen.add(key if isinstance(key, str | int | float) else id(key_node))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """Plain values from YAML text; ``source`` names it in errors.

    Raises:
        InvalidInput: not YAML, or a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        raise InvalidInput(f"{source}: not YAML: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Cell:
    """One training: a configuration and a seed.

    Attributes:
        axes: level of every axis, by name.
        seed: the seed of all three streams (initialisation, order, augmentation).
        training: the settings, with the levels applied.
        dataset: the training data; its locations are not part of the identity.
        label: what people call it: the axes that differ from the default, and the seed.
        bundled: settings that a bundle level overrides, logged as ``training.*``.
    """

    axes: Mapping[str, Scalar]
    seed: int
    training: TrainingSettings
    dataset: DatasetSpec
    label: str = field(compare=False)
    bundled: Mapping[str, Scalar] = field(compare=False, default_factory=dict)

    @property
    def configuration(self) -> str:
        """The label without the seed."""
        return self.label.rsplit(" seed=", 1)[0]

    def canonical(self) -> dict[str, Any]:
        """What the id hashes: enough to train this cell again without its design."""
        return {
            "id_version": ID_VERSION,
            "axes": dict(self.axes),
            "seeds": dict.fromkeys(STREAMS, self.seed),
            "training": self.training.identity(),
            "dataset": self.dataset.identity(),
        }

    @cached_property
    def id(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal."""
        return _digest(self.canonical())

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True)
class Table:
    """The plan of one table of a sheet: levels of one axis by seeds, the other axes at default."""

    axis: Axis
    seeds: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]


class Design(_Strict):
    """What is to be trained and measured; the content of ``design.yaml``."""

    name: str
    dataset: DatasetSpec
    training: dict[str, Any]
    default: dict[str, Any]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    layout: Literal["star", "factorial"] = "star"
    interventions: tuple[InterventionSpec, ...] = (InterventionSpec(name="accuracy"),)
    selection: SelectionSpec | None = None
    keep: Keep = Keep()

    # ---- reading ----

    @classmethod
    def parse(cls, text: str, source: str = "design") -> Self:
        """Read a design from YAML text; ``source`` names it in errors.

        Raises:
            InvalidInput: with one line that names the place, the value and what is allowed.
        """
        data = parse_yaml(text, source)
        if not isinstance(data, Mapping):
            raise InvalidInput(f"{source}: a mapping is expected, got {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidInput(f"{source}: {one_line(error)}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read ``design.yaml``, or the ``design.yaml`` of a folder."""
        path = Path(path)
        if path.is_dir():
            if not (path / "design.yaml").is_file():
                raise InvalidInput(f"folder {str(path)!r} holds no design.yaml")
            path = path / "design.yaml"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"design {str(path)!r} cannot be read: {error}") from error
        return cls.parse(text, source=str(path))

    def dump(self) -> str:
        """The design as YAML that :meth:`parse` reads back to an equal design."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        data["axes"] = {
            axis.name: [
                level.model_dump(mode="json") if level.training else level.name
                for level in axis.levels
            ]
            for axis in self.axes
        }
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    @field_validator("name")
    @classmethod
    def _usable_name(cls, value: str) -> str:
        if not value.strip() or len(value) > 200:
            raise InvalidInput(f"name {value!r} is not allowed: 1 to 200 characters")
        return value

    @field_validator("axes", mode="before")
    @classmethod
    def _axes_from_mapping(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for name, levels in value.items():
            if not isinstance(levels, list | tuple) or not levels:
                raise InvalidInput(f"axis {name!r} has no levels: a list of at least one is needed")
        return [{"name": name, "levels": levels} for name, levels in value.items()]

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_from_count(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            raise InvalidInput(
                "separate seeds for init, order and augment are not supported yet: "
                "give a count or a list of whole numbers"
            )
        allowed = "a count of at least 1, or a list of different whole numbers from 0 to 2**63 - 1"
        seeds = range(value) if type(value) is int else value
        listed = isinstance(seeds, list | tuple | range) and len(seeds) > 0
        whole = listed and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
        if not whole or len(set(seeds)) < len(seeds):
            raise InvalidInput(f"{value!r} is not allowed: {allowed}")
        return tuple(seeds)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.axes:
            raise InvalidInput("axes is empty: at least one axis is needed")
        settings = TrainingSettings.model_fields
        for axis in self.axes:
            if not _NAME.fullmatch(axis.name) or axis.name.lower() == "seed":
                raise InvalidInput(
                    f"axis name {axis.name!r} is not allowed: "
                    "letters, digits, '_', '-', '.' and spaces, and not 'seed'"
                )
            spelled = [str(name) for name in axis.names]
            if len(set(spelled)) < len(spelled):
                raise InvalidInput(f"axis {axis.name!r} has a level twice: {', '.join(spelled)}")
            if any(not level.training for level in axis.levels) and axis.name not in settings:
                raise unknown("training setting in axes", axis.name, settings)
            if axis.name in self.training and not all(level.training for level in axis.levels):
                raise InvalidInput(
                    f"training sets {axis.name!r}, which is an axis: its default says it already"
                )
            for level in axis.levels:
                for key in level.training:
                    if key not in settings:
                        raise unknown(f"training setting of level {level.name!r}", key, settings)
        names = [axis.name for axis in self.axes]
        for name in self.default:
            if name not in names and name in settings:
                raise InvalidInput(
                    f"default names {name!r}, which is no axis: set it in training, or give it levels "
                    "in axes"
                )
            if name not in names:
                raise unknown("axis in default", name, names)
        for axis in self.axes:
            if axis.name not in self.default:
                raise InvalidInput(f"default names no level of axis {axis.name!r}")
            try:
                axis.level(self.default[axis.name])
            except InvalidInput as error:
                raise InvalidInput(f"default: {error}") from error
        for axis in self.axes:  # every configuration must make valid settings
            for level in axis.levels:
                self._settings({**self.default_levels, axis.name: level.name})
        if not self.interventions:
            raise InvalidInput("interventions is empty: at least one is needed, accuracy say")
        keys = [canonical_json(spec.model_dump(mode="json")) for spec in self.interventions]
        if len(set(keys)) < len(keys):
            raise InvalidInput("interventions has the same entry twice")
        return self

    # ---- the plan ----

    @property
    def default_levels(self) -> dict[str, Scalar]:
        """The default configuration: the name of one level per axis."""
        return {axis.name: axis.level(self.default[axis.name]).name for axis in self.axes}

    @property
    def id(self) -> str:
        """Hash of the design without its locations."""
        data = self.model_dump(mode="json")
        if self.selection is None:
            del data["selection"]  # the key is younger than ids
        data["dataset"] = self.dataset.identity()
        for spec, item in zip(self.interventions, data["interventions"], strict=True):
            item["dataset"] = spec.dataset.identity() if spec.dataset else None
        return _digest(data)

    def axis(self, name: str) -> Axis:
        """The axis called ``name``."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise unknown("axis", name, [axis.name for axis in self.axes])

    def cell(self, levels: Mapping[str, Any], seed: int) -> Cell:
        """The cell with ``levels`` (axes not named are at their default) and ``seed``."""
        for name in levels:
            self.axis(name)
        default = self.default_levels
        chosen = {
            axis.name: axis.level(levels.get(axis.name, default[axis.name])).name
            for axis in self.axes
        }
        different = [f"{name}={value}" for name, value in chosen.items() if value != default[name]]
        settings, bundled = self._settings(chosen)
        return Cell(
            axes=chosen,
            seed=seed,
            training=settings,
            dataset=self.dataset,
            label=" ".join([*(different or ["default"]), f"seed={seed}"]),
            bundled=bundled,
        )

    def tables(self) -> tuple[Table, ...]:
        """One table per axis, in the order of ``axes``."""
        return tuple(
            Table(
                axis=axis,
                seeds=self.seeds,
                cells=tuple(
                    tuple(self.cell({axis.name: level.name}, seed) for seed in self.seeds)
                    for level in axis.levels
                ),
            )
            for axis in self.axes
        )

    def cells(self) -> tuple[Cell, ...]:
        """Every planned cell once, in a fixed order: the paper's star has 65 entries, 45 cells."""
        return tuple({cell.id: cell for cell in self._planned()}.values())

    def _planned(self) -> Iterator[Cell]:
        if self.layout == "star":
            for table in self.tables():
                yield from itertools.chain.from_iterable(table.cells)
        else:
            for levels in itertools.product(*(axis.names for axis in self.axes)):
                chosen = dict(zip((axis.name for axis in self.axes), levels, strict=True))
                for seed in self.seeds:
                    yield self.cell(chosen, seed)

    def smoke(self) -> Design:
        """The star of this design with its first seed: every level once, every table of a sheet
        whole, and each of its cells is a cell of this design too."""
        return self.model_copy(update={"seeds": self.seeds[:1], "layout": "star"})

    def _settings(self, levels: Mapping[str, Scalar]) -> tuple[TrainingSettings, dict[str, Scalar]]:
        merged = dict(self.training)
        bundled: dict[str, Scalar] = {}
        for axis in self.axes:
            level = axis.level(levels[axis.name])
            for key, value in level.training.items():
                if bundled.setdefault(key, value) != value:
                    raise InvalidInput(
                        f"level {level.name!r} of axis {axis.name!r} sets {key} to {value!r}, "
                        f"and another level of the same configuration to {bundled[key]!r}"
                    )
            if not level.training:
                merged[axis.name] = level.name
        try:
            return TrainingSettings.model_validate(merged | bundled), bundled
        except ValidationError as error:
            raise InvalidInput(f"training: {one_line(error)}") from error


def one_line(error: ValidationError) -> str:
    """The first problem of a pydantic error: place, what is wrong, and the value."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] not in {"value_error", "missing"}:
        message = f"{message}, got {first['input']!r}"
    return f"{place}: {message}" if place else message
