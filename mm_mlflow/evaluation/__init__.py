"""Accuracy under intervention: which interventions there are, planning them, measuring them.

``plan`` turns what a design says into tasks and refuses all that is not allowed, before any
training; ``evaluate`` measures a model on tasks. Importing this package imports no torch, nor does
planning: only ``evaluate`` does.

A new intervention is a file with a subclass of :class:`~mm_mlflow.evaluation.base.Intervention` and
a line here, or a third party's entry point in the group ``mm_mlflow.interventions``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

GROUP = "mm_mlflow.interventions"
INTERVENTIONS: dict[str, str] = {
    "accuracy": "mm_mlflow.evaluation.accuracy:Accuracy",
    "group_accuracy": "mm_mlflow.evaluation.accuracy:GroupAccuracy",
    "ood_accuracy": "mm_mlflow.evaluation.accuracy:OODAccuracy",
    "output_perturbation": "mm_mlflow.evaluation.output_perturbation:OutputPerturbation",
    "input_perturbation": "mm_mlflow.evaluation.input_perturbation:InputPerturbation",
    "pgd": "mm_mlflow.evaluation.pgd:PGD",
    "worst_group_accuracy": "mm_mlflow.evaluation.groups:WorstGroupAccuracy",
    "group_accuracy_gap": "mm_mlflow.evaluation.groups:GroupAccuracyGap",
    "true_positive_rate_gap": "mm_mlflow.evaluation.groups:TruePositiveRateGap",
    "false_positive_rate_gap": "mm_mlflow.evaluation.groups:FalsePositiveRateGap",
    "corruption": "mm_mlflow.evaluation.corruption:Corruption",
}

_LAZY = {
    "Evaluation": "mm_mlflow.evaluation.run",
    "evaluate": "mm_mlflow.evaluation.run",
    "PredictFunction": "mm_mlflow.evaluation.adapter",
    "from_estimator": "mm_mlflow.evaluation.adapter",
    "from_output": "mm_mlflow.evaluation.adapter",
    "from_pyfunc": "mm_mlflow.evaluation.adapter",
    "impossible": "mm_mlflow.evaluation.adapter",
    "split_tasks": "mm_mlflow.evaluation.adapter",
    "Task": "mm_mlflow.evaluation.planning",
    "metric_records": "mm_mlflow.evaluation.planning",
    "plan": "mm_mlflow.evaluation.planning",
    "plan_recorded": "mm_mlflow.evaluation.planning",
    "is_mean": "mm_mlflow.evaluation.planning",
    "recompute": "mm_mlflow.evaluation.planning",
    "recompute_value": "mm_mlflow.evaluation.planning",
    "recorded_indices": "mm_mlflow.evaluation.planning",
    "Intervention": "mm_mlflow.evaluation.base",
    "Accuracy": "mm_mlflow.evaluation.accuracy",
    "GroupAccuracy": "mm_mlflow.evaluation.accuracy",
    "OODAccuracy": "mm_mlflow.evaluation.accuracy",
    "OutputPerturbation": "mm_mlflow.evaluation.output_perturbation",
    "InputPerturbation": "mm_mlflow.evaluation.input_perturbation",
    "PGD": "mm_mlflow.evaluation.pgd",
    "WorstGroupAccuracy": "mm_mlflow.evaluation.groups",
    "GroupAccuracyGap": "mm_mlflow.evaluation.groups",
    "TruePositiveRateGap": "mm_mlflow.evaluation.groups",
    "FalsePositiveRateGap": "mm_mlflow.evaluation.groups",
    "Corruption": "mm_mlflow.evaluation.corruption",
}

__all__ = ["GROUP", "INTERVENTIONS", *_LAZY]  # noqa: PLE0604

if TYPE_CHECKING:  # the same names for type checkers, which cannot see __getattr__
    from mm_mlflow.evaluation.accuracy import Accuracy as Accuracy
    from mm_mlflow.evaluation.accuracy import GroupAccuracy as GroupAccuracy
    from mm_mlflow.evaluation.accuracy import OODAccuracy as OODAccuracy
    from mm_mlflow.evaluation.adapter import PredictFunction as PredictFunction
    from mm_mlflow.evaluation.adapter import from_estimator as from_estimator
    from mm_mlflow.evaluation.adapter import from_output as from_output
    from mm_mlflow.evaluation.adapter import from_pyfunc as from_pyfunc
    from mm_mlflow.evaluation.adapter import impossible as impossible
    from mm_mlflow.evaluation.adapter import split_tasks as split_tasks
    from mm_mlflow.evaluation.base import Intervention as Intervention
    from mm_mlflow.evaluation.corruption import Corruption as Corruption
    from mm_mlflow.evaluation.groups import FalsePositiveRateGap as FalsePositiveRateGap
    from mm_mlflow.evaluation.groups import GroupAccuracyGap as GroupAccuracyGap
    from mm_mlflow.evaluation.groups import TruePositiveRateGap as TruePositiveRateGap
    from mm_mlflow.evaluation.groups import WorstGroupAccuracy as WorstGroupAccuracy
    from mm_mlflow.evaluation.input_perturbation import InputPerturbation as InputPerturbation
    from mm_mlflow.evaluation.output_perturbation import OutputPerturbation as OutputPerturbation
    from mm_mlflow.evaluation.pgd import PGD as PGD
    from mm_mlflow.evaluation.planning import Task as Task
    from mm_mlflow.evaluation.planning import is_mean as is_mean
    from mm_mlflow.evaluation.planning import metric_records as metric_records
    from mm_mlflow.evaluation.planning import plan as plan
    from mm_mlflow.evaluation.planning import plan_recorded as plan_recorded
    from mm_mlflow.evaluation.planning import recompute as recompute
    from mm_mlflow.evaluation.planning import recompute_value as recompute_value
    from mm_mlflow.evaluation.planning import recorded_indices as recorded_indices
    from mm_mlflow.evaluation.run import Evaluation as Evaluation
    from mm_mlflow.evaluation.run import evaluate as evaluate


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
