"""A sheet as a PDF, for papers: vectors, searchable text."""

from __future__ import annotations

from mm_mlflow.render.figure import save
from mm_mlflow.sheet import Sheet


def render(sheet: Sheet) -> bytes:
    """The sheet as drawn by :mod:`mm_mlflow.render.figure`."""
    return save(sheet, "pdf")
