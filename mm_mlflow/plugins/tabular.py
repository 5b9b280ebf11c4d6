"""From what ``mlflow.models.evaluate`` hands over to a model and a table that ``evaluate`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mm_mlflow.design import InterventionSpec, one_line
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation import table
from mm_mlflow.evaluation.scores import Output, text

if TYPE_CHECKING:
    from mm_mlflow.evaluation import PredictFunction

_SAMPLE = 64  # rows that are enough to see what a model returns


class Config(BaseModel):
    """``evaluator_config``; see :class:`~mm_mlflow.plugins.evaluator.MultiplicityEvaluator`."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    interventions: tuple[InterventionSpec, ...] = Field(min_length=1)
    groups: dict[str, Any] = Field(default_factory=dict)
    features: tuple[Any, ...] | None = None
    predictions: tuple[Any, ...] | None = None
    output: Output | None = None
    classes: tuple[str, ...] = ()
    ids: Any = None
    split: str = Field(default="test", min_length=1)
    std: dict[Any, float] | None = None
    batch_size: int = Field(default=4096, ge=1)

    @field_validator("groups", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): column for name, column in value.items()}
        return {str(column): column for column in _listed(value)}

    @field_validator("interventions", "features", "predictions", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return _listed(value)

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return tuple(map(text, _listed(value)))

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Config:
        """What the user gave; ``col_mapping`` is MLflow's own.

        Raises:
            InvalidInput: an unknown key, or a value that is not allowed.
        """
        given = {key: value for key, value in config.items() if key != "col_mapping"}
        for key in given:
            if key not in cls.model_fields:
                raise unknown("key of evaluator_config", key, cls.model_fields)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InvalidInput(f"evaluator_config: {one_line(error)}") from error


@dataclass(frozen=True, eq=False)
class _Data:
    """The data by their use: ``features`` are a DataFrame or an array, ``labels`` as given."""

    features: Any
    labels: list[object]
    groups: Mapping[str, np.ndarray]
    example_ids: np.ndarray

    def examples(self, config: Config, names: tuple[str, ...]) -> table.Examples:
        """All but the features, once the classes are known."""
        return table.Examples(
            name=config.split,
            labels=table.label_indices(self.labels, names),
            class_names=names,
            example_ids=self.example_ids,
            groups=self.groups,
        )


def subject(
    config: Config, dataset: Any, model: Any, column: str | None
) -> tuple[PredictFunction, table.Table]:
    """A model that ``evaluate`` takes, and the table that it is measured on."""
    data = _data(config, dataset)
    if model is None:
        return _of_predictions(config, dataset, data)
    if config.predictions is not None:
        raise InvalidInput("predictions in evaluator_config are for model=None: a model is given")
    return _of_model(config, data, model, column)


def _of_predictions(
    config: Config, dataset: Any, data: _Data
) -> tuple[PredictFunction, table.Table]:
    from mm_mlflow.evaluation import adapter

    said = dataset.predictions_data if dataset.has_predictions else data.features
    if config.predictions is not None:
        said = _taken(dataset.features_data, config.predictions, "predictions")
    names = config.classes or _class_names(data, said)
    scores = adapter.as_array(said, names)
    rows = table.of_scores(scores, data.examples(config, names))
    adapted = adapter.from_output(rows.inputs, names, scores, output=config.output)
    adapted.unable.update(rows.unable)
    return adapted, rows


def _of_model(
    config: Config, data: _Data, model: Any, column: str | None
) -> tuple[PredictFunction, table.Table]:
    from mm_mlflow.evaluation import adapter

    raw = adapter.raw_classifier(model)
    said = None if raw is not None else model.predict(data.features[:_SAMPLE])
    known = [] if raw is None else np.asarray(raw.classes_).tolist()
    names = config.classes or _class_names(data, said, known, column)
    rows = table.of_features(data.features, data.examples(config, names), config.std)
    if raw is not None:
        adapted = adapter.from_estimator(raw, names, output=config.output, inputs=rows.inputs)
    else:

        def predict(images: np.ndarray) -> np.ndarray:
            return adapter.as_array(model.predict(rows.inputs(images)), names, column)

        first = adapter.as_array(said, names, column)
        adapted = adapter.from_output(predict, names, first, output=config.output)
        adapted.unable.update(_whole_numbers(model))
    adapted.unable.update(rows.unable)
    return adapted, rows


def _class_names(
    data: _Data, said: Any, known: Sequence[object] = (), column: str | None = None
) -> tuple[str, ...]:
    """Names of the classes, where the user gives none: from targets and what the model says."""
    from mm_mlflow.evaluation import adapter

    if isinstance(said, pd.DataFrame) and {*map(text, data.labels)} <= {*map(text, said.columns)}:
        return table.class_names(data.labels, list(said.columns))
    scores = None if said is None else adapter.as_array(said, column=column)
    count = scores.shape[1] if scores is not None and scores.ndim == 2 else None
    return table.class_names(data.labels, known, count)


def _data(config: Config, dataset: Any) -> _Data:
    if not dataset.has_targets:
        raise InvalidInput("targets are needed: the column, or the array, of true classes")
    given, targets = dataset.features_data, np.asarray(dataset.labels_data)
    used = [column for column in [*config.groups.values(), config.ids] if _is_column(given, column)]
    used += config.predictions or ()
    names = list(given.columns) if isinstance(given, pd.DataFrame) else list(range(given.shape[1]))
    features = config.features or [name for name in names if name not in used]
    return _Data(
        features=_taken(given, features, "features"),
        labels=targets.reshape(len(targets), -1)[:, 0].tolist(),
        groups={name: _values(given, column, name) for name, column in config.groups.items()},
        example_ids=_ids(config, given),
    )


def _is_column(data: Any, column: Any) -> bool:
    if not isinstance(column, str | int):
        return False
    return column in (data.columns if isinstance(data, pd.DataFrame) else range(data.shape[1]))


def _taken(data: Any, columns: Sequence[Any], key: str) -> Any:
    """These columns of the data, which are a DataFrame or an array."""
    for column in columns:
        if not _is_column(data, column):
            known = data.columns if isinstance(data, pd.DataFrame) else range(data.shape[1])
            raise unknown(f"column in {key}", column, known)
    chosen = list(columns)
    return data[chosen] if isinstance(data, pd.DataFrame) else data[:, chosen]


def _values(data: Any, column: Any, attribute: str) -> np.ndarray:
    """``(N,)`` strings: a group attribute, by column or value by value."""
    if _is_column(data, column):
        values = np.asarray(_taken(data, [column], "groups"))[:, 0]
    elif isinstance(column, str | int):
        raise unknown(f"column of group {attribute!r}", column, getattr(data, "columns", []))
    else:
        values = np.asarray(column)
        if values.shape != (len(data),):
            raise InvalidInput(
                f"group {attribute!r} of shape {values.shape} is not allowed: a column, or one value "
                f"for each of {len(data)} rows"
            )
    return np.array([text(value) for value in values.tolist()])


def _ids(config: Config, data: Any) -> np.ndarray:
    if config.ids is None:
        return np.arange(len(data)).astype(str)
    ids = np.array([text(value) for value in np.asarray(_taken(data, [config.ids], "ids"))[:, 0]])
    if len(set(ids.tolist())) < len(ids):
        raise InvalidInput(f"ids {config.ids!r} is not allowed: {len(ids)} different values needed")
    return ids


def _whole_numbers(model: Any) -> dict[str, str]:
    """Why rows cannot be given noise, if the model's signature refuses fractions."""
    metadata = getattr(model, "metadata", None)
    schema = metadata.get_input_schema() if metadata is not None else None
    if schema is None:
        return {}
    kinds = [
        kind if isinstance(kind, np.dtype) else kind.to_numpy() for kind in schema.input_types()
    ]
    if not any(kind.kind in "iub" for kind in kinds):
        return {}
    return {"inputs": "it needs fractions, and the model's signature has whole numbers"}


def _listed(value: Any) -> tuple[Any, ...]:
    """A single value is a list of one."""
    return tuple(value) if isinstance(value, list | tuple | pd.Index | np.ndarray) else (value,)
