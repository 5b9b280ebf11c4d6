"""The evaluator ``multiplicity`` of ``mlflow.models.evaluate``: tables, and predictions.

MLflow loads this module whenever its evaluators are first asked for, so torch waits until one runs.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import mlflow
import numpy as np
import pandas as pd
from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact, ParquetEvaluationArtifact
from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult, ModelEvaluator
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mm_mlflow.design import DatasetSpec, InterventionSpec, one_line
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation import plan, table
from mm_mlflow.evaluation.scores import Output, text
from mm_mlflow.frame import ExperimentRef
from mm_mlflow.tracking import Store, log, log_files

if TYPE_CHECKING:
    from mm_mlflow.evaluation import Evaluation, PredictFunction, Task

_logger = logging.getLogger(__name__)
_SAMPLE = 64  # rows that are enough to see what a model returns


class Config(BaseModel):
    """``evaluator_config``; see :class:`MultiplicityEvaluator` for the keys."""

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


class MultiplicityEvaluator(ModelEvaluator):  # type: ignore[misc]
    """Accuracy under intervention, with the keys and values of a sweep, for ``mlflow.models.evaluate``.

    It takes classifiers (``model_type="classifier"``) on tables, DataFrames or 2-dimensional arrays, or
    what a classifier has said (``model=None``); MLflow refuses arrays of images, for which there is
    ``mm-mlflow evaluate``. Metrics go to the active run, with the artifacts
    ``evaluations/<id>/metrics.json`` and ``predictions.parquet`` of a cell; it sets no tag and makes
    no use of ``extra_metrics`` and ``custom_artifacts``. It runs only if the configuration has
    ``interventions``.

    What cannot be measured is refused in one line before anything is: there are no gradients (so no
    ``pgd``), tables have no pixels (no ``corruption``), rows with text cannot be given noise, and
    predictions no other input (no ``input_perturbation``); labels have no scale (no
    ``output_perturbation``).

    Keys of ``evaluator_config``:
        interventions: as in a design: names, or mappings ``{"name": ..., parameter: ...}``.
        groups: columns that are group attributes; or a mapping from attributes to columns, or to
            one value per row. Columns named here are no features, unless ``features`` has them.
        features: columns that the model takes; by default all that have no other use.
        predictions: with ``model=None``, columns of scores, one per class in their order, if MLflow's
            own ``predictions`` (one column, of labels or of lists) will not do. Without either, all
            features are scores.
        output: what the model gives, or predictions are: ``logits``, ``probabilities`` or ``labels``.
            Told by form where it is not given: one column are labels, rows that sum to 1
            probabilities, else logits. Probabilities become logits by their logarithm. Of a
            scikit-learn model, probabilities are taken before decision values before labels.
        classes: names of the classes in the order of scores; by default the model's, or the sorted
            targets.
        ids: column of ids of examples; by default rows are counted from 0. Noise, and which rows
            ``examples`` takes, depend on it.
        split: name of the data; other than ``test``, keys name it.
        std: standard deviation of each feature in the training data, by name; by default that of the
            data. Input perturbation is in units of it.
        batch_size: rows at once, by default 4096.
    """

    name = "multiplicity"

    @classmethod
    def can_evaluate(
        cls, *, model_type: str, evaluator_config: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        """Classifiers, and only where interventions are asked for: MLflow tries every evaluator that is
        installed if none is named."""
        del kwargs
        return model_type == "classifier" and "interventions" in (evaluator_config or {})

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any],
        model: Any = None,
        predictions: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Measure, and log to the run.

        Raises:
            InvalidInput: the first thing in the configuration or the data that is not allowed.
        """
        del model_type, kwargs
        from mm_mlflow.artifacts import evaluation_files
        from mm_mlflow.evaluation import evaluate

        config = Config.parse(evaluator_config)
        adapted, data = _subject(config, dataset, model, predictions)
        tasks = _plan(config, adapted, data)
        evaluation = evaluate(adapted, tasks, batch_size=config.batch_size)
        for failed in evaluation.checks["failed"]:
            _logger.warning("%s", failed)
        store = _store(run_id)
        files = dict(evaluation_files(evaluation, tasks, "float32"))
        log_files(store, run_id, iter(files.items()))
        log(store, run_id, metrics=evaluation.values)
        return EvaluationResult(dict(evaluation.values), _artifacts(files), run_id)


# ---- from what MLflow hands over to a model and a table ----


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


def _subject(
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


# ---- tasks, and what is logged ----


def _plan(config: Config, model: PredictFunction, data: table.Table) -> tuple[Task, ...]:
    """The tasks of the configuration.

    Raises:
        InvalidInput: one that is not allowed, or that the model or the data cannot be measured by.
    """
    from mm_mlflow.evaluation import impossible

    specs = [
        spec
        if "split" in spec.model_fields_set
        else spec.model_copy(update={"split": config.split})
        for spec in config.interventions
    ]
    tasks = plan(specs, {config.split: data.split}, _no_dataset)
    reasons = {task.key: impossible(task, model) or table.impossible(task) for task in tasks}
    if refused := [f"{key}: {reason}" for key, reason in reasons.items() if reason]:
        raise InvalidInput(f"cannot be measured here: {'; '.join(refused)}")
    return tasks


def _no_dataset(spec: DatasetSpec) -> NoReturn:
    raise InvalidInput(
        f"dataset {spec.name!r} in interventions is not allowed here: the data are those given to "
        "mlflow.models.evaluate, and split names them"
    )


def _store(run_id: str) -> Store:
    run = mlflow.get_run(run_id)
    experiment = mlflow.get_experiment(run.info.experiment_id)
    return Store(
        mlflow.get_tracking_uri(), ExperimentRef(experiment.experiment_id, experiment.name)
    )


def _artifacts(files: Mapping[str, bytes]) -> dict[str, EvaluationArtifact]:
    """The files as MLflow's results hold them."""
    found: dict[str, EvaluationArtifact] = {}
    for path, content in files.items():
        uri = mlflow.get_artifact_uri(path)
        if path.endswith(".json"):
            found["multiplicity/metrics"] = JsonEvaluationArtifact(uri, json.loads(content))
        else:
            frame = pd.read_parquet(io.BytesIO(content))
            found["multiplicity/predictions"] = ParquetEvaluationArtifact(uri, frame)
    return found


def _listed(value: Any) -> tuple[Any, ...]:
    """A single value is a list of one."""
    return tuple(value) if isinstance(value, list | tuple | pd.Index | np.ndarray) else (value,)
