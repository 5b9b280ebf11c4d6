"""One small sheet, 3 levels by 2 seeds, in every text format, to the byte.

After a wanted change: ``pytest tests/golden --update-golden``, then read the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mm_mlflow.render import html, renderer, samples
from mm_mlflow.sheet import Sheet

HERE = Path(__file__).parent


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """Compares with the golden file of a name, or rewrites it with ``--update-golden``."""

    def check(name: str, content: bytes) -> None:
        path = HERE / name
        if request.config.getoption("--update-golden"):
            path.write_bytes(content)
        assert content.decode() == path.read_text(encoding="utf-8")

    return check


def small() -> Sheet:
    """Three learning rates by two seeds, one run diverged, one missing."""
    return samples.sheet(samples.SMALL, missing=1, diverged=1)


@pytest.mark.parametrize("name", ["csv", "md", "tex", "json"])
def test_format(name: str, golden: Callable[[str, bytes], None]) -> None:
    """A format is what it was."""
    golden(f"sheet.{name}", renderer(name)(small()))


def test_html(golden: Callable[[str, bytes], None]) -> None:
    """The fragment is what it was, apart from its styles."""
    golden("fragment.html", html.section(small(), level=3).replace("><", ">\n<").encode())
