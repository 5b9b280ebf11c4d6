"""Options of the whole suite."""

from __future__ import annotations

import gc
import os

# Two processes of one thread beat one of two, and two of two fight for the cores: tests that train
# took two to four times as long. Before the first import of torch and numpy, which read it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` rewrites the golden files instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


def pytest_collection_finish() -> None:
    """Every full collection of garbage would go through torch, MLflow and all the tests again: 0.2 s
    each, a tenth of the whole run."""
    gc.collect()
    gc.freeze()


# Tests leave no files behind, a folder of examples neither.
settings.register_profile("clean", database=None)
settings.load_profile("clean")
