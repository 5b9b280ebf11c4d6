"""The evaluator ``multiplicity`` of ``mlflow.models.evaluate``: tables, and predictions.

MLflow loads this module whenever its evaluators are first asked for, so torch waits until one runs.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import mlflow
import pandas as pd
from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact, ParquetEvaluationArtifact
from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult, ModelEvaluator

from mm_mlflow.design import DatasetSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import plan, table
from mm_mlflow.plugins.tabular import Config, subject

if TYPE_CHECKING:
    from mm_mlflow.evaluation import PredictFunction, Task

_logger = logging.getLogger(__name__)


class MultiplicityEvaluator(ModelEvaluator):
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
        adapted, data = subject(config, dataset, model, predictions)
        tasks = _plan(config, adapted, data)
        evaluation = evaluate(adapted, tasks, batch_size=config.batch_size)
        for failed in evaluation.checks["failed"]:
            _logger.warning("%s", failed)
        files = dict(evaluation_files(evaluation, tasks, "float32"))
        _log_files(run_id, files)
        mlflow.log_metrics(dict(evaluation.values), step=0, run_id=run_id)
        return EvaluationResult(  # type: ignore[no-untyped-call]
            dict(evaluation.values), _artifacts(files), run_id
        )


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


def _log_files(run_id: str, files: Mapping[str, bytes]) -> None:
    # Not by mm_mlflow.tracking: importing it silences MLflow, in a process that is not ours.
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        for path, content in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        mlflow.log_artifacts(folder, run_id=run_id)


def _artifacts(files: Mapping[str, bytes]) -> dict[str, EvaluationArtifact]:
    """The files as MLflow's results hold them."""
    found: dict[str, EvaluationArtifact] = {}
    for path, content in files.items():
        uri = mlflow.get_artifact_uri(path)
        if path.endswith(".json"):
            found["multiplicity/metrics"] = JsonEvaluationArtifact(  # type: ignore[no-untyped-call]
                uri, json.loads(content)
            )
        else:
            frame = pd.read_parquet(io.BytesIO(content))
            found["multiplicity/predictions"] = ParquetEvaluationArtifact(  # type: ignore[no-untyped-call]
                uri, frame
            )
    return found
