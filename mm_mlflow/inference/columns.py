"""Params and tags as columns of typed levels: one spelling for each, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mm_mlflow.design import Scalar, normalise
from mm_mlflow.frame import RawRun

NOT_SET = "(not set)"
TAG, PARAM = "tag:", "param:"
# What MLflow itself and this program keep with a run.
_SYSTEM_TAGS = ("mlflow.", "mm.")
# What Optuna's callback keeps with a run beside the params of the trial.
_OPTUNA = re.compile(r"number|state|direction|datetime_(start|complete)|.*_distribution", re.DOTALL)
_LONG = 500  # characters: longer text is a document, not a level


@dataclass(frozen=True, eq=False)
class Column:
    """One param (or tag) over all runs.

    Attributes:
        name: of the param, or ``tag:NAME``.
        levels: in order; the last may be :data:`NOT_SET`.
        codes: ``(n,)`` int, position in ``levels`` of each run's value.
        spellings: per level that MLflow holds in several spellings, all of them.
    """

    name: str
    levels: tuple[Scalar, ...]
    codes: np.ndarray
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_set(self) -> np.ndarray:
        """``(n,)`` booleans: runs that have a value."""
        if NOT_SET in self.levels:
            return np.asarray(self.codes != self.levels.index(NOT_SET))
        return np.ones(len(self.codes), dtype=bool)

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        own = [level for level in self.levels if level != NOT_SET]
        return bool(own) and all(is_number(level) for level in own)

    @property
    def distinct(self) -> int:
        """Number of different values."""
        return len(self.levels) - (NOT_SET in self.levels)


def is_number(level: Scalar) -> bool:
    """Whether a level is a number; True and False are names."""
    return isinstance(level, int | float) and not isinstance(level, bool)


def typed(text: str) -> Scalar:
    """The level that MLflow holds as ``text``: 1, 1.0 and "1" (as JSON has it) are one, as are True and
    true."""
    if len(text) <= _LONG and re.fullmatch(r'".*"', text):
        try:
            inner = json.loads(text)
        except ValueError:
            return text
        return typed(inner)
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    return text if len(text) > _LONG else normalise(text)


def order(level: Scalar) -> tuple[Any, ...]:
    """Sort key: numbers by size, then text with the numbers in it by size, then :data:`NOT_SET`."""
    if is_number(level):
        return (0, level)  # Python compares an int of any length with a float
    text = str(level)
    natural = [_natural(part) for part in re.split(r"([0-9]+)", text.casefold()) if part]
    return (2 if text == NOT_SET else 1, natural, text)


def _natural(part: str) -> tuple[int, int, str]:
    """Digits by size, without making a number of them: Python refuses to above 4,300."""
    digits = part.lstrip("0") if part.isascii() and part.isdecimal() else None
    return (1, 0, part) if digits is None else (0, len(digits), digits)


def column(name: str, texts: Sequence[str | None]) -> Column:
    """The column of one param: ``texts`` as MLflow returns them, None where a run lacks it."""
    parsed = {text: NOT_SET if text is None else typed(text) for text in set(texts)}
    if NOT_SET in parsed:  # somebody's text, which is not the same as none
        parsed[NOT_SET] = repr(NOT_SET)
    spelled: dict[str, set[str]] = {}
    for text, level in parsed.items():
        if text is not None:
            spelled.setdefault(str(level), set()).add(text)
    # By text: to Python, True is 1.
    levels = sorted({str(level): level for level in parsed.values()}.values(), key=order)
    position = {str(level): i for i, level in enumerate(levels)}
    codes = np.array([position[str(parsed[text])] for text in texts], dtype=np.int64)
    several = {level: tuple(sorted(found)) for level, found in spelled.items() if len(found) > 1}
    return Column(name, tuple(levels), codes, several)


def columns(runs: Sequence[RawRun]) -> dict[str, Column]:
    """Every param, then every tag of the user's own that all runs have, by name; in natural order."""
    params = sorted({name for run in runs for name in run.params}, key=order)
    tags = set.intersection(*(set(run.tags) for run in runs)) if runs else set()
    if "datetime_start" in tags:
        tags = {tag for tag in tags if not _OPTUNA.fullmatch(tag)}
    own = sorted((tag for tag in tags if not tag.startswith(_SYSTEM_TAGS)), key=order)
    names = [PARAM + name if name.startswith((TAG, PARAM)) else name for name in params]
    names += [TAG + tag for tag in own]
    return {name: column(name, [text_of(run, name) for run in runs]) for name in names}


def text_of(run: RawRun, name: str) -> str | None:
    """What a run holds as the param ``name`` or as the tag ``tag:NAME``, None where it lacks it; a param
    whose own name begins like that goes by ``param:NAME``."""
    if name.startswith(TAG):
        return run.tags.get(name.removeprefix(TAG))
    return run.params.get(name.removeprefix(PARAM))


def misspelt(found: Iterable[Column]) -> list[str]:
    """Sentences about levels that are spelled in several ways."""
    return [
        f"{item.name}={level} is spelled {' and '.join(map(repr, texts[:3]))} in MLflow: one level."
        for item in found
        for level, texts in item.spellings.items()
    ]
