"""Model multiplicity, measured where people already track: sheets for MLflow experiments.

Public names are loaded when they are first used: importing this package imports none of mlflow,
torch, optuna or dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Design": "mm_mlflow.design",
    "Cell": "mm_mlflow.design",
    "Axis": "mm_mlflow.design",
    "Frame": "mm_mlflow.frame",
    "Sheet": "mm_mlflow.sheet",
    "build_sheet": "mm_mlflow.sheet",
    "Report": "mm_mlflow.report",
    "build_report": "mm_mlflow.report",
    "Split": "mm_mlflow.split",
    "Intervention": "mm_mlflow.evaluation.base",
    "evaluate": "mm_mlflow.evaluation",
    "MultiplicityError": "mm_mlflow.errors",
    "InvalidInput": "mm_mlflow.errors",
    "open_store": "mm_mlflow.tracking",
    "read": "mm_mlflow.experiment",
}

__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:  # the same names for type checkers, which cannot see __getattr__
    from mm_mlflow.design import Axis as Axis
    from mm_mlflow.design import Cell as Cell
    from mm_mlflow.design import Design as Design
    from mm_mlflow.errors import InvalidInput as InvalidInput
    from mm_mlflow.errors import MultiplicityError as MultiplicityError
    from mm_mlflow.evaluation import evaluate as evaluate
    from mm_mlflow.evaluation.base import Intervention as Intervention
    from mm_mlflow.experiment import read as read
    from mm_mlflow.frame import Frame as Frame
    from mm_mlflow.report import Report as Report
    from mm_mlflow.report import build_report as build_report
    from mm_mlflow.sheet import Sheet as Sheet
    from mm_mlflow.sheet import build_sheet as build_sheet
    from mm_mlflow.split import Split as Split
    from mm_mlflow.tracking import open_store as open_store


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
