"""Draw docs/mlflow.png, the README's picture of MLflow's UI: ``python docs/render_screenshot.py``.

Sweeps projects/digits_skewed (some minutes) on a server of its own, opens the address that the sweep
prints, and sorts the report's summary by Δ. Needs Debian's chromium and ``pip install -e '.[system]'``.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))

import mlflow_site  # noqa: E402 - found in the folder above

WIDTH, HEIGHT = 1240, 900


def draw(chromium: Any, site: mlflow_site.Site) -> bytes:
    """The picture as PNG."""
    page = mlflow_site.new_page(chromium, width=WIDTH, height=HEIGHT)
    page.goto(site.pages["Report"])
    frame = page.locator("iframe").element_handle().content_frame()
    frame.locator("#summary").get_by_role("button", name="Δ").click()
    page.mouse.move(0, 0)
    # The button of MLflow's assistant floats over the page.
    page.add_style_tag(content="[data-assistant-ui]{display:none!important}")
    picture: bytes = page.screenshot(animations="disabled")
    page.context.close()
    return picture


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        design = ROOT / "projects" / "digits_skewed"
        with mlflow_site.site(Path(folder), design) as running, mlflow_site.browser() as browser:
            (FOLDER / "mlflow.png").write_bytes(draw(browser, running))
