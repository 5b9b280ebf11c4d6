"""Options of the whole suite."""

from __future__ import annotations

import os

# Two processes of one thread beat one of two, and two of two fight for the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` rewrites the golden files instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


# Tests leave no files behind, a folder of examples neither.
settings.register_profile("clean", database=None)
settings.load_profile("clean")
