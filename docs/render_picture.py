"""Draw docs/sheet.png, the README's picture, from docs/sheet.json: ``python docs/render_picture.py``."""

import json
from pathlib import Path

from mm_mlflow import Sheet
from mm_mlflow.render import renderer

FOLDER = Path(__file__).parent


def render() -> bytes:
    """The picture as PNG."""
    sheet = Sheet.from_dict(json.loads((FOLDER / "sheet.json").read_text(encoding="utf-8")))
    return renderer("png")(sheet)


if __name__ == "__main__":
    (FOLDER / "sheet.png").write_bytes(render())
