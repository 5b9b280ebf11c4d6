"""A design: a default configuration, axes of variation around it, seeds, interventions.

Pure: reads YAML text and computes which cells are planned; knows nothing of MLflow, torch or Optuna.
Section 3.1 of the paper is the model: one axis varies at a time around the default configuration
("star"), and one random seed controls all randomness of a training.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mm_mlflow.cell import ID_VERSION, STREAMS, Cell
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.specs import (
    Axis,
    DatasetSpec,
    InterventionSpec,
    Keep,
    Level,
    ProjectSpec,
    Scalar,
    SelectionSpec,
    Strict,
    SweepOptions,
    TrainingSettings,
    bundled,
    canonical_json,
    digest,
    normalise,
    one_line,
)

__all__ = [
    "ID_VERSION", "STREAMS", "Axis", "Cell", "DatasetSpec", "Design", "InterventionSpec", "Keep",
    "Level", "ProjectSpec", "Scalar", "SelectionSpec", "SweepOptions", "Table", "TrainingSettings",
    "canonical_json", "digest", "normalise", "one_line",
]  # fmt: skip

# What MLflow accepts as a param or metric name, without the slash that would make a folder of it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
_NOT_OF_PROJECTS = ("dataset", "training", "interventions", "selection", "keep")


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
class Table:
    """The plan of one table of a sheet: levels of one axis by seeds, the other axes at default."""

    axis: Axis
    seeds: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]


class Design(Strict):
    """What is to be trained and measured; the content of ``design.yaml``.

    Either ``dataset`` and ``training`` say what a cell is, or ``project`` does: somebody's MLflow
    project, which trains and measures itself. ``shared_seed`` declares that runs of equal seeds share
    something besides their label, such as a data split: statistics then take seeds as blocks.
    """

    name: str
    dataset: DatasetSpec | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    project: ProjectSpec | None = None
    default: dict[str, Any]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    layout: Literal["star", "factorial"] = "star"
    shared_seed: bool = False
    interventions: tuple[InterventionSpec, ...] = (InterventionSpec(name="accuracy"),)
    selection: SelectionSpec | None = None
    keep: Keep = Keep()
    sweep: SweepOptions | None = None

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
        return cls.from_mapping(data, source)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], source: str = "design") -> Self:
        """Check a design that is read already; as :meth:`parse`."""
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
        for key in _NOT_OF_PROJECTS if self.project is not None else ():
            data.pop(key, None)
        data["axes"] = {
            axis.name: [
                level.model_dump(mode="json", exclude_defaults=True) if level.bundle else level.name
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
        self._check_subject()
        self._check_axes()
        self._check_default()
        # Every configuration must make valid settings.
        make = self._settings if self.project is None else self._parameters
        for axis in self.axes:
            for level in axis.levels:
                make({**self.default_levels, axis.name: level.name})
        if not self.interventions and self.project is None:
            raise InvalidInput("interventions is empty: at least one is needed, accuracy say")
        keys = [canonical_json(spec.model_dump(mode="json")) for spec in self.interventions]
        if len(set(keys)) < len(keys):
            raise InvalidInput("interventions has the same entry twice")
        return self

    def _check_subject(self) -> None:
        """A dataset and its training, or a project."""
        given = self.model_fields_set
        if self.project is None:
            for key in ("dataset", "training"):
                if key not in given:
                    raise InvalidInput(f"{key}: Field required")
            if self.sweep is not None:
                raise InvalidInput("sweep is for a project's design: `mm-mlflow sweep` has options")
            return
        for key in _NOT_OF_PROJECTS:
            if key in given:
                raise InvalidInput(
                    f"{key} is not allowed beside project, which trains and measures itself"
                )
        # Frozen for others: nothing has seen this design yet.
        object.__setattr__(self, "interventions", ())

    def _check_axes(self) -> None:
        if not self.axes:
            raise InvalidInput("axes is empty: at least one axis is needed")
        for axis in self.axes:
            if not _NAME.fullmatch(axis.name) or axis.name.lower() == "seed":
                raise InvalidInput(
                    f"axis name {axis.name!r} is not allowed: "
                    "letters, digits, '_', '-', '.' and spaces, and not 'seed'"
                )
            spelled = [str(name) for name in axis.names]
            if len(set(spelled)) < len(spelled):
                raise InvalidInput(f"axis {axis.name!r} has a level twice: {', '.join(spelled)}")
        if self.project is not None:
            self.project.check(self.axes)
        else:
            self._check_training_axes()

    def _check_training_axes(self) -> None:
        settings = TrainingSettings.model_fields
        for axis in self.axes:
            if any(not level.bundle for level in axis.levels) and axis.name not in settings:
                raise unknown("training setting in axes", axis.name, settings)
            if axis.name in self.training and not all(level.training for level in axis.levels):
                raise InvalidInput(
                    f"training sets {axis.name!r}, which is an axis: its default says it already"
                )
            for level in axis.levels:
                if level.parameters:
                    raise InvalidInput(
                        f"level {level.name!r} of axis {axis.name!r} has parameters: those are of "
                        "a project's design; a bundle of settings has training"
                    )
                for key in level.training:
                    if key not in settings:
                        raise unknown(f"training setting of level {level.name!r}", key, settings)

    def _check_default(self) -> None:
        names = [axis.name for axis in self.axes]
        settings = TrainingSettings.model_fields if self.project is None else {}
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

    # ---- the plan ----

    @property
    def default_levels(self) -> dict[str, Scalar]:
        """The default configuration: the name of one level per axis."""
        return {axis.name: axis.level(self.default[axis.name]).name for axis in self.axes}

    @property
    def id(self) -> str:
        """Hash of the design without its locations."""
        data = self.model_dump(mode="json")
        del data["sweep"]  # how, not what
        for key in ("selection", "project"):  # keys that are younger than ids
            if data[key] is None:
                del data[key]
        if not self.shared_seed:
            del data["shared_seed"]
        data["dataset"] = self.dataset.identity() if self.dataset else None
        for spec, item in zip(self.interventions, data["interventions"], strict=True):
            item["dataset"] = spec.dataset.identity() if spec.dataset else None
        return digest(data)

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
        label = " ".join([*(different or ["default"]), f"seed={seed}"])
        if self.project is not None:
            project = self._parameters(chosen)
            return Cell(chosen, seed, None, None, label, project=project)
        settings, overridden = self._settings(chosen)
        return Cell(chosen, seed, settings, self.dataset, label, overridden)

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
        overridden = bundled(self.axes, levels)
        own = {a.name: levels[a.name] for a in self.axes if not a.level(levels[a.name]).bundle}
        try:
            settings = TrainingSettings.model_validate({**self.training, **own, **overridden})
        except ValidationError as error:
            raise InvalidInput(f"training: {one_line(error)}") from error
        return settings, overridden

    def _parameters(self, levels: Mapping[str, Scalar]) -> ProjectSpec:
        assert self.project is not None
        return self.project.applied(self.axes, levels)
