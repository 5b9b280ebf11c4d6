"""The ``mm-mlflow`` command, a file per subcommand. Heavy imports wait until a command needs them.

A new subcommand is a file here, and its name below.
"""

from __future__ import annotations

from mm_mlflow.cli import (
    check,
    compare,
    evaluate,
    lists,
    reproduce,
    select,
    sheet,
    status,
    sweep,
    train,
)
from mm_mlflow.cli.shared import main

__all__ = [
    "check",
    "compare",
    "evaluate",
    "lists",
    "main",
    "reproduce",
    "select",
    "sheet",
    "status",
    "sweep",
    "train",
]
