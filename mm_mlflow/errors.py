"""The few exceptions of the package, under one base, and the phrasing of "unknown name"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MultiplicityError(Exception):
    """Base of everything that this package raises on purpose. Its text is one line for people."""


class InvalidInput(MultiplicityError, ValueError):
    """An argument is not allowed: the text names the argument, the value and what is allowed."""


class UnknownExperiment(InvalidInput):
    """The store has no experiment of that name."""


class TrackingError(MultiplicityError, RuntimeError):
    """The tracking server could not be read or written."""


def unknown(kind: str, value: object, allowed: Iterable[object]) -> InvalidInput:
    """Say that ``value`` is no known ``kind``, name the nearest match, then all that is known."""
    names = [str(name) for name in allowed]
    # For numbers, near in spelling is not near.
    words = [name for name in names if not name.replace(".", "").isdigit()]
    near = difflib.get_close_matches(str(value), words, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidInput(
        f"unknown {kind} {str(value)!r}{hint} (known: {', '.join(names) or 'none'})"
    )
