"""What may change the bits of a result, and which data it saw, as runs record it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import mm_mlflow
from mm_mlflow import tracking
from mm_mlflow.split import Split
from mm_mlflow.tracking import Store


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=1)
def environment() -> str:
    """``mm.env``: what may change the bits of a result, as JSON."""
    return json.dumps(
        {
            "mm_mlflow": mm_mlflow.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "numpy": np.__version__,
            "device": torch.cuda.get_device_name() if default_device() == "cuda" else "cpu",
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": 1,
            "git_commit": _git_commit(Path(__file__)),
        }
    )


def _git_commit(file: Path) -> str | None:
    """The commit of the repository that holds ``file``; None where git does not track it: a package that
    was installed below somebody's repository is not that repository's code."""
    tracked = _git(file, "ls-files", "--error-unmatch", file.name)
    return _git(file, "rev-parse", "HEAD") if tracked else None


def _git(file: Path, *words: str) -> str | None:
    command = ["git", "-C", os.fspath(file.parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no input
    except OSError:
        return None  # no git on this machine
    return done.stdout.strip() if done.returncode == 0 else None


def log_inputs(
    store: Store, run_id: str, dataset: str, own: Mapping[str, Split], used: Mapping[str, Split]
) -> None:
    """Record the data that a run saw.

    Args:
        store: the experiment.
        run_id: the run.
        dataset: the name of the dataset whose splits are ``own``; others go by the split's name.
        own: its splits, by name.
        used: the splits that the run saw, by name.
    """
    for name, split in used.items():
        tracking.log_dataset(
            store,
            run_id,
            name=dataset if name in own else name,
            digest=split.digest,
            context="training" if name == "train" else name,
            profile={"split": name, "examples": len(split), "shape": list(split.images.shape[1:])},
        )
