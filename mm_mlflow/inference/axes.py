"""Which columns are axes, which is the seed, and why the others are neither."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mm_mlflow.design import Scalar
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.inference.asked import Asked
from mm_mlflow.inference.columns import NOT_SET, TAG, Column, typed

_SEED = re.compile(
    r"(.*_)?(seeds?|random_?state|random_?seed)|seed_(everything|value|number|num|id)"
)
_PATH = re.compile(r"(~|\.{1,2})?/.*|[A-Za-z]:\\.*|[a-z][a-z0-9+.-]*://.*", re.DOTALL)
NEARLY = 0.9  # of the runs: a number with as many values is no level that runs share


@dataclass(frozen=True, eq=False)
class Roles:
    """What each column is.

    Attributes:
        seed: the column of seeds, None where runs of a configuration can only be numbered.
        axes: in natural order of their names.
        applies: per axis that some runs lack because another axis makes it meaningless, ``(n,)``
            booleans: where it has a meaning.
        ignored, candidates: names with reasons.
        notes: sentences about the seed.
    """

    seed: Column | None
    axes: tuple[Column, ...]
    applies: Mapping[str, np.ndarray]
    ignored: Mapping[str, str]
    candidates: Mapping[str, str]
    notes: tuple[str, ...]


def roles(found: Mapping[str, Column], asked: Asked) -> Roles:
    """Decide what every column is.

    Raises:
        InvalidInput: a name that no run has, or a seed that cannot be told.
    """
    asked_for = [*asked.named, *asked.bins, *([asked.seed_param] if asked.seed_param else [])]
    for name in asked_for:
        if name not in found:
            raise unknown("param or tag", name, found)
    for name in (*asked.named, *asked.bins):
        if len(found[name].levels) < 2:
            raise InvalidInput(f"{name} is no axis: it is {found[name].levels[0]!r} in every run")
    ignored: dict[str, str] = {}
    candidates: dict[str, str] = {}
    seed, notes = _seed(found, asked, ignored)
    varying: dict[str, Column] = {}
    for name, item in found.items():
        if item is seed or name in ignored:
            continue
        if name in asked.named:
            varying[name] = item
        elif len(item.levels) < 2:
            ignored[name] = "constant"
        elif reason := _identifies(item):
            ignored[name] = reason
        elif item.numeric and _nearly_unique(item):
            candidates[name] = f"{item.distinct} values in {int(item.is_set.sum())} runs"
        else:
            varying[name] = item
    axes = _independent(varying, seed, asked, ignored)
    if len(axes) == 1 and not asked.named:
        axes = _confounded(axes[0], varying, ignored)
    applies = {item.name: mask for item in axes if (mask := _conditional(item, axes)) is not None}
    return Roles(seed, tuple(axes), applies, ignored, candidates, tuple(notes))


# ---- the seed ----


def is_seed_name(name: str) -> bool:
    """Whether the last part of a name is one that seeds have: ``model.random_state``, ``dataSeed``."""
    last = re.split(r"[./:]|__", name.removeprefix(TAG))[-1]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower().replace("-", "_").replace(" ", "_")
    return _SEED.fullmatch(words) is not None


def _seed(
    found: Mapping[str, Column], asked: Asked, ignored: dict[str, str]
) -> tuple[Column | None, list[str]]:
    if asked.seed_param is not None:
        return found[asked.seed_param], []
    named = [
        item
        for name, item in found.items()
        if is_seed_name(name) and not name.startswith(TAG) and name not in asked.named
    ]
    varying = [item for item in named if len(item.levels) > 1]
    for item in named:
        if item not in varying:
            ignored[item.name] = "seed, constant"
    if not varying:
        words = (
            f"{', '.join(item.name for item in named)} is the same in every run"
            if named
            else "no param is named like a seed (--seed-param names one)"
        )
        return None, [f"Columns number the runs of each configuration: {words}."]
    first = varying[0]
    for other in varying[1:]:
        if not _same_partition(first, other):
            names = ", ".join(item.name for item in varying)
            raise InvalidInput(
                f"the seed cannot be told: {names} vary, and differently; --seed-param names one, "
                "and the others are axes"
            )
        ignored[other.name] = f"same as {first.name}"
    return first, []


# ---- axes ----


def _identifies(item: Column) -> str | None:
    """Why a column of text only says which run it is; None if it may be an axis."""
    own = [str(level) for level in item.levels if level != NOT_SET]
    if item.numeric:
        # A tag that is a number, different in each run, is a count or a time.
        tag = item.name.startswith(TAG)
        return "unique number" if tag and _nearly_unique(item) else None
    if sum(_PATH.fullmatch(text) is not None for text in own) > len(own) / 2:
        return "path"
    runs = int(item.is_set.sum())
    if item.distinct == runs and runs > 2:
        return "unique text"
    return None


def _nearly_unique(item: Column) -> bool:
    runs = int(item.is_set.sum())
    return runs > 2 and item.distinct >= min(runs, max(3, NEARLY * runs))


def _independent(
    varying: Mapping[str, Column], seed: Column | None, asked: Asked, ignored: dict[str, str]
) -> list[Column]:
    """The columns that vary on their own: not as another does, nor as the seed, nor all at once."""
    kept: list[Column] = []

    def drop(item: Column, reason: str) -> None:
        if item.name not in asked.named:
            kept.remove(item)
            ignored[item.name] = reason

    for item in varying.values():
        twin = next((other for other in kept if _same_partition(other, item)), None)
        kept.append(item)
        if twin is not None:
            drop(item, f"same as {twin.name}")
    # A seed that no two configurations share determines everything, and means nothing.
    if seed is not None and _repeats(seed):
        for item in [item for item in kept if _determines(seed, item)]:
            drop(item, f"follows {seed.name}")
    # Before what follows one axis: a name of the whole configuration determines every axis.
    for item in kept:
        if _names_configurations(item, [other for other in kept if other is not item]):
            drop(item, "names a configuration")
    for item in kept:
        others = [other for other in kept if other is not item]
        source = next((other for other in others if _determines(other, item)), None)
        if source is not None:
            drop(item, f"follows {source.name}")
    return kept


def _confounded(
    only: Column, varying: Mapping[str, Column], ignored: dict[str, str]
) -> list[Column]:
    """``only`` with the columns that vary just as it does, if it cannot stand for them: in a repeated
    random search each value of one param goes with a value of every other."""
    found = [only]
    for name, item in varying.items():
        reason = ignored.get(name, "")
        twin = reason == f"same as {only.name}" and item.numeric and item.levels != only.levels
        if only.numeric and (twin or reason == f"follows {only.name}"):
            del ignored[name]
            found.append(item)
    return sorted(found, key=lambda item: list(varying).index(item.name))


def _same_partition(one: Column, other: Column) -> bool:
    pairs = len(set(zip(one.codes.tolist(), other.codes.tolist(), strict=True)))
    return pairs == len(one.levels) == len(other.levels)


def _determines(one: Column, other: Column) -> bool:
    """Whether runs that agree in ``one`` agree in ``other``; a run that lacks ``one`` says nothing of
    what its value would be, so ``one`` must be there wherever ``other`` is."""
    if (other.is_set & ~one.is_set).any():
        return False
    pairs = len(set(zip(one.codes.tolist(), other.codes.tolist(), strict=True)))
    return pairs == len(one.levels)


def _repeats(seed: Column) -> bool:
    return len(seed.levels) <= len(seed.codes) / 2


def _names_configurations(item: Column, others: Sequence[Column]) -> bool:
    """Whether a column of text is at least as fine as two or more others together."""
    return (
        not item.numeric
        and len(others) > 1
        and all(_determines(item, other) for other in others)
        and not any(_determines(other, item) for other in others)
    )


def _conditional(item: Column, axes: Sequence[Column]) -> np.ndarray | None:
    """Where an axis has a meaning, if another axis decides it (momentum, by the optimizer)."""
    if NOT_SET not in item.levels:
        return None
    for other in axes:
        if other is item:
            continue
        pairs = set(zip(other.codes.tolist(), item.is_set.tolist(), strict=True))
        if len(pairs) == len(other.levels) and other.is_set.all():
            return item.is_set
    return None


def level_of(item: Column, text: str) -> Scalar:
    """The level of a column that the user calls ``text``.

    Raises:
        InvalidInput: no run has it.
    """
    wanted = str(typed(text))
    for level in item.levels:
        if str(level) == wanted:
            return level
    raise unknown(f"{item.name} level", text, item.levels)
