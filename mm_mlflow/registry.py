"""Names to objects: a visible table of built-ins, extended by installed entry points.

A table maps a name to ``"module:object"``, and nothing is imported before a name is resolved, so
listing names costs nothing. Names come from design files, tags and model headers, which may be a
stranger's: only the tables and installed entry points are consulted, unless the user trusts import
paths (:func:`trusting`, which ``--trust-code`` enters).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mm_mlflow.errors import InvalidInput, unknown

# The folder whose modules may be imported by path, or None: nobody has said that they may.
_TRUSTED: ContextVar[str | None] = ContextVar("trusted", default=None)


@contextmanager
def trusting(folder: str | None) -> Iterator[None]:
    """Within the block, names may be import paths ``module:object``: installed modules, or files in
    ``folder``. With None nothing changes."""
    if folder is None:
        yield
        return
    token = _TRUSTED.set(folder)
    new = folder not in sys.path
    if new:
        sys.path.append(folder)  # last: a file there hides nothing that is installed
    try:
        yield
    finally:
        _TRUSTED.reset(token)
        if new:
            sys.path.remove(folder)


def trusted() -> str | None:
    """The folder of the :func:`trusting` block around, None outside; jobs carry it to workers."""
    return _TRUSTED.get()


def names(table: Mapping[str, str], group: str) -> list[str]:
    """All names of ``table`` and of the entry points of ``group``, sorted; imports none of them."""
    return sorted({*table, *(point.name for point in entry_points(group=group))})


def resolve(kind: str, name: str, table: Mapping[str, str], group: str) -> Any:
    """The object called ``name``; a built-in wins over an entry point of the same name.

    Raises:
        InvalidInput: no such name, its module cannot be imported, or an import path that nobody
            trusts.
    """
    if name in table:
        module, _, attribute = table[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if ":" in name:
        if _TRUSTED.get() is None:
            raise InvalidInput(
                f"{kind} {name!r} is an import path, and importing it runs its code: "
                "--trust-code says that you trust it"
            )
        return _load(kind, name, EntryPoint(name, name, group))
    points: tuple[EntryPoint, ...] = tuple(entry_points(group=group, name=name))
    if not points:
        raise unknown(kind, name, names(table, group))
    return _load(kind, name, points[0])


def _load(kind: str, name: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"{kind} {name!r} ({point.value}) cannot be loaded: {error}") from error
