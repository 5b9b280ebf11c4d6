"""Names to objects: a visible table of built-ins, extended by installed entry points.

A table maps a name to ``"module:object"``, and nothing is imported before a name is resolved, so
listing names costs nothing. Names come from design files, tags and model headers, which may be a
stranger's: only the tables and installed entry points are consulted, never an import path.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mm_mlflow.errors import InvalidInput, unknown


def names(table: Mapping[str, str], group: str) -> list[str]:
    """All names of ``table`` and of the entry points of ``group``, sorted; imports none of them."""
    return sorted({*table, *(point.name for point in entry_points(group=group))})


def resolve(kind: str, name: str, table: Mapping[str, str], group: str) -> Any:
    """The object called ``name``; a built-in wins over an entry point of the same name.

    Raises:
        InvalidInput: no such name, or its module cannot be imported.
    """
    if name in table:
        module, _, attribute = table[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    points: tuple[EntryPoint, ...] = tuple(entry_points(group=group, name=name))
    if not points:
        raise unknown(kind, name, names(table, group))
    try:
        return points[0].load()
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"{kind} {name!r} ({points[0].value}) cannot be loaded: {error}"
        ) from error
