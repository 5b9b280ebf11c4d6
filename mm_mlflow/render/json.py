"""A sheet as ``sheet.json``; ``sheet.schema.json`` beside this file says what it holds."""

from __future__ import annotations

import json
import math
from typing import Any

from mm_mlflow.sheet import Sheet


def render(sheet: Sheet) -> bytes:
    """``Sheet.to_dict`` as one JSON document."""
    return dump(sheet.to_dict())


def dump(value: Any) -> bytes:
    """``value`` as JSON for other programs: JSON has no NaN, so null stands for it."""
    return (json.dumps(_plain(value), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
