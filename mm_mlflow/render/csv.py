"""A sheet as tidy CSV: axis, level, seed, value, status, run_id; fractions, to the last bit.

Values are data: nothing is rounded, and no text is altered for the sake of spreadsheets.
"""

from __future__ import annotations

from mm_mlflow.sheet import Sheet


def render(sheet: Sheet) -> bytes:
    """One line per table entry; empty where there is no value."""
    return str(sheet.to_frame().to_csv(index=False, lineterminator="\n")).encode()
