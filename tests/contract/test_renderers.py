"""What every renderer must do, run over all that are registered."""

from __future__ import annotations

import importlib
from functools import cache

import pytest

from mm_mlflow import registry
from mm_mlflow.errors import InvalidInput
from mm_mlflow.render import GROUP, RENDERERS, names, renderer, samples
from mm_mlflow.sheet import Sheet

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!doctype html>", "json": b"{"}


@cache
def sheet(case: str) -> Sheet:
    """A sample, built once."""
    return samples.SHEETS[case]()


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("case", [case for case in samples.SHEETS if case != "large"])
def test_same_bytes_twice(name: str, case: str) -> None:
    """A sheet becomes bytes of the format, and the same bytes again: no dates, no versions."""
    content = renderer(name)(sheet(case))
    assert isinstance(content, bytes)
    assert content.startswith(MAGIC.get(name, b""))
    assert len(content) > 50
    # A new object: nothing may be remembered by identity.
    assert renderer(name)(samples.SHEETS[case]()) == content


@pytest.mark.parametrize("name", names())
def test_large(name: str) -> None:
    """60 levels by 30 seeds are drawn."""
    assert len(renderer(name)(sheet("large"))) > 10_000


@pytest.mark.parametrize("name", ["csv", "html", "md", "json", "tex"])
def test_text_is_utf8(name: str) -> None:
    """Text formats are UTF-8 whatever names hold."""
    assert renderer(name)(sheet("hostile")).decode("utf-8")


def test_table_is_whole() -> None:
    """Every entry of the table can be imported, and the seven formats of a report are there."""
    assert list(RENDERERS) == ["html", "png", "pdf", "csv", "tex", "md", "json"]
    for target in RENDERERS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_unknown_format() -> None:
    """An unknown format is refused with its near match."""
    with pytest.raises(InvalidInput, match="unknown format 'pgn'; did you mean 'png'"):
        renderer("pgn")


def test_entry_points_extend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renderer of another package is listed after ours and found by its name."""
    from importlib.metadata import EntryPoint

    point = EntryPoint("shout", "mm_mlflow.render.md:render", GROUP)

    def entry_points(*, group: str, name: str = "shout") -> list[EntryPoint]:
        return [point] if (group, name) == (GROUP, "shout") else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert names()[-1] == "shout"
    assert renderer("shout")(sheet("small")) == renderer("md")(sheet("small"))
