"""Which metrics share test examples with those selected on: these move by chance alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mm_mlflow.frame import Frame
from mm_mlflow.selection.records import Choice, Sharing
from mm_mlflow.statistics.outcomes import Outcomes


def shared_examples(
    frame: Frame, metric: str, on: Sequence[str], outcomes: Mapping[str, Outcomes]
) -> tuple[Sharing, tuple[str, ...]]:
    """Whether ``metric`` shares examples with any metric of ``on``, and with which."""
    found = {key: _shares(frame, metric, key, outcomes) for key in on}
    for sharing in ("yes", "likely", "unknown"):
        if with_it := tuple(key for key, how in found.items() if how == sharing):
            return sharing, with_it
    return "no", ()


def _shares(frame: Frame, one: str, other: str, outcomes: Mapping[str, Outcomes]) -> Sharing:
    """By what the records say: the split, the group, the data; else by the ids of the examples."""
    first, second = frame.records.get(one, {}), frame.records.get(other, {})
    if first.get("split_digest") is None or second.get("split_digest") is None:
        return "unknown"
    if first["split_digest"] == second["split_digest"]:
        return "no" if _apart(first.get("group"), second.get("group")) else "yes"
    if _dataset(first) != _dataset(second):
        return "no"
    if one not in outcomes or other not in outcomes:
        return "likely"
    # The grayscale version of a test image has the image's id: a run that errs on one errs on both.
    ids = set(map(str, outcomes[one].example_ids))
    return "no" if ids.isdisjoint(map(str, outcomes[other].example_ids)) else "yes"


def _apart(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether no example can be in both groups: some attribute has two different values."""
    return any(
        name in (other or {}) and (other or {})[name] != v for name, v in (one or {}).items()
    )


def _dataset(record: Mapping[str, Any]) -> object:
    """Which data the split belongs to; None is the design's own."""
    return record.get("parameters", {}).get("dataset")


def sharing_notes(choices: Sequence[Choice]) -> list[str]:
    """What held-out metrics have in common with those selected on: the same under every rule."""
    effects = [
        effect for effect in (choices[0].effects if choices else ()) if not effect.selected_on
    ]
    told = {
        "yes": "Measured on examples that were selected on, in whole or in part: {}. Such a metric moves "
        "with the selection even where runs differ by chance alone, so nothing is claimed of it.",
        "likely": "Measured on another split of the same data, which may hold the same examples in another "
        "form: {}. Nothing is claimed of it unless predictions show that it does not (--split-half).",
        "unknown": "Nothing says on which examples these were measured: {}. If on those that were selected "
        "on, they move with the selection even where runs differ by chance alone.",
    }
    notes = []
    for sharing, sentence in told.items():
        if titles := [effect.title for effect in effects if effect.sharing == sharing]:
            more = f", and {len(titles) - 6} more" if len(titles) > 6 else ""
            notes.append(sentence.format("; ".join(titles[:6]) + more))
    return notes
