"""Which columns are axes, which is the seed, and why the others are neither."""

from __future__ import annotations

import itertools
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
        axes: in natural order of their names, params before tags.
        held: candidates that make configurations, though no table is theirs.
        applies: per axis that some runs lack because another axis makes it meaningless, ``(n,)``
            booleans: where it has a meaning.
        ignored, candidates: names with reasons.
        notes: sentences about the seed.
    """

    seed: Column | None
    axes: tuple[Column, ...]
    held: tuple[Column, ...]
    applies: Mapping[str, np.ndarray]
    ignored: Mapping[str, str]
    candidates: Mapping[str, str]
    notes: tuple[str, ...]


def roles(found: Mapping[str, Column], asked: Asked) -> Roles:
    """Decide what every column is.

    Raises:
        InvalidInput: a name that no run has, or a seed that cannot be told.
    """
    seeds = [asked.seed_param] if asked.seed_param else []
    asked_for = [*asked.named, *asked.bins, *asked.ignore, *seeds]
    for name in asked_for:
        if name not in found:
            raise unknown("param or tag", name, found)
    _refuse_conflicts(asked)
    for name in (*asked.named, *asked.bins):
        if len(found[name].levels) < 2:
            raise InvalidInput(f"{name} is no axis: it is {found[name].levels[0]!r} in every run")
    ignored: dict[str, str] = dict.fromkeys(asked.ignore, "as asked")
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
    held: list[Column] = []
    if not _float(axes, seed, asked):
        held = [found[name] for name in candidates]
    if len(axes) == 1 and not asked.named:
        axes, confounded = _confounded(axes[0], varying, ignored)
        candidates |= {item.name: f"varies with {confounded[0].name}" for item in confounded[1:]}
        candidates |= {item.name: f"{item.distinct} values" for item in confounded[:1]}
        held += confounded
    for name in asked.bins:  # an axis on request
        candidates.pop(name, None)
    applies = {item.name: mask for item in axes if (mask := _conditional(item, axes)) is not None}
    return Roles(seed, tuple(axes), tuple(held), applies, ignored, candidates, tuple(notes))


def _refuse_conflicts(asked: Asked) -> None:
    """Refuse a name that is asked for twice, in ways that exclude each other."""
    if both := sorted({*asked.named, *asked.bins} & set(asked.ignore)):
        raise InvalidInput(f"ignore {both[0]!r} is not allowed: another option asks for it")
    if asked.seed_param in {*asked.named, *asked.bins, *asked.ignore}:
        raise InvalidInput(
            f"seed-param {asked.seed_param!r} is not allowed: another option makes it something else"
        )
    others = {
        "axis": asked.axes,
        "columns": asked.columns,
        "pool": asked.pool,
        "default": asked.default,
    }
    if asked.bins and (name := next((name for name, value in others.items() if value), None)):
        raise InvalidInput(
            f"bins and {name} are not allowed together: bins group all runs by one number, whatever "
            "their other params"
        )


def _float(axes: Sequence[Column], seed: Column | None, asked: Asked) -> bool:
    """Whether candidates may vary within a configuration: the user asks for tables all the same, or
    the axes and a seed tell (nearly) every run, so that a number of its own is just one more name."""
    if asked.axes or asked.pool or asked.columns or asked.default:
        return True
    if seed is None:
        return False
    cells = set(zip(*(item.codes.tolist() for item in [*axes, seed]), strict=True))
    return len(cells) > len(seed.codes) / 2


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
        if is_seed_name(name)
        and not name.startswith(TAG)
        and name not in (*asked.named, *asked.ignore)
    ]
    varying = [item for item in named if len(item.levels) > 1]
    for item in named:
        if item not in varying:
            ignored[item.name] = "seed, constant"
    if not varying:
        taken = [name for name in (*asked.named, *asked.ignore) if is_seed_name(name)]
        if named:
            words = f"{', '.join(item.name for item in named)} is the same in every run"
        elif taken:
            words = f"{taken[0]} is asked to be something else"
        else:
            words = "no param is named like one (--seed-param names it)"
        return None, [f"No seed: {words}. Runs of one configuration are only numbered."]
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
        return "a number in a tag" if item.name.startswith(TAG) else None
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
    # Of two that vary alike, the one that every run has speaks for both; a param before a tag, and of
    # tags the shorter name (estimator_name, not estimator_class).
    tags = {name: len(name) for name in varying if name.startswith(TAG)}
    whole_first = sorted(
        varying.values(), key=lambda item: (NOT_SET in item.levels, tags.get(item.name, 0))
    )

    def drop(item: Column, reason: str) -> None:
        if item.name not in asked.named:
            kept.remove(item)
            ignored[item.name] = reason

    for item in whole_first:
        twin = next((other for other in kept if _same_partition(other, item)), None)
        kept.append(item)
        if twin is not None:
            drop(item, f"same as {twin.name}")
    # A seed that no two configurations share determines everything, and means nothing.
    if seed is not None and _repeats(seed):
        for item in [item for item in kept if _determines(seed, item)]:
            drop(item, f"follows {seed.name}")
    # Before what follows one axis: a name of the whole configuration determines every axis.
    for item in kept.copy():
        if _names_configurations(item, [other for other in kept if other is not item]):
            drop(item, "names a configuration")
    for item in kept.copy():
        others = [other for other in kept if other is not item]
        source = next((other for other in others if _determines(other, item)), None)
        if source is not None:
            drop(item, f"follows {source.name}")
    return [item for item in varying.values() if item in kept]


def _confounded(
    only: Column, varying: Mapping[str, Column], ignored: dict[str, str]
) -> tuple[list[Column], list[Column]]:
    """The axes, and what no table can tell apart: in a repeated random search each value of one param
    goes with one value of every other. A number that rises or falls with ``only`` is derived from it;
    where any goes up and down, none is."""
    followers = [
        item
        for name, item in varying.items()
        if ignored.get(name) in {f"same as {only.name}", f"follows {only.name}"}
    ]
    others = [
        item for item in followers if item.numeric or ignored[item.name].startswith("follows")
    ]
    if not only.numeric or all(_derived(only, item) for item in others):
        return [only], []
    for item in others:
        del ignored[item.name]
    return [], [item for item in varying.values() if item is only or item in others]


def _derived(only: Column, item: Column) -> bool:
    """Whether the levels of ``item`` come in one piece each, and numbers in order, along ``only``."""
    pairs = sorted(set(zip(only.codes.tolist(), item.codes.tolist(), strict=True)))
    along = [code for _, code in pairs]
    changes = sum(one != other for one, other in itertools.pairwise(along))
    ordered = along in (sorted(along), sorted(along, reverse=True))
    return ordered if item.numeric else changes == len(item.levels) - 1


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
    """Whether a column of text is at least as fine as two or more others together; those that some
    runs lack may be params of just one of its levels."""
    whole = [other for other in others if NOT_SET not in other.levels]
    return (
        not item.numeric
        and len(whole) > 1
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
