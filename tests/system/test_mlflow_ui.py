"""MLflow's own UI on a real server with a real sweep: what somebody sees who follows what is printed.

Selectors are roles and texts; MLflow's class names change with every release.
"""

from __future__ import annotations

import io
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow_site
import pytest
from mlflow_site import Site
from PIL import Image

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]

DESIGN = """
name: small
dataset: {name: digits_skewed}
training: {epochs: 2}
default: {learning_rate: 0.1, batch_size: 256, architecture: mlp}
axes:
  learning_rate: [0.1, 0.05]
  batch_size: [256, 512]
  architecture: [mlp]
seeds: 2
interventions:
  - accuracy
  - {name: group_accuracy, by: [skew]}
  - {name: output_perturbation, lambda: 3}
  - {name: pgd, delta: 0.02, examples: 100, steps: 2}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, and 6 cells in it."""
    folder = tmp_path_factory.mktemp("site")
    design = folder / "design.yaml"
    design.write_text(DESIGN, encoding="utf-8")
    with mlflow_site.site(folder, design, "--jobs", "1") as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    with mlflow_site.browser() as started:
        yield started


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page with storage of its own."""
    page = mlflow_site.new_page(chromium)
    yield page
    page.context.close()


def deltas(site: Site) -> dict[str, str]:
    """Δall of every metric in points, from the cells as MLflow alone returns them."""
    frames = [run.data.metrics for run in site.runs("cell")]
    keys = [key for key in frames[0] if not re.match(r"train_|system/", key)]
    values = {key: [frame[key] for frame in frames] for key in keys}
    return {key: f"{100 * (max(v) - min(v)):.2f}" for key, v in values.items()}


def report_frame(page: Any) -> Any:
    """The report inside MLflow's sandboxed frame."""
    frame = page.locator("iframe").element_handle().content_frame()
    frame.wait_for_selector("#summary")
    return frame


def test_runs_table_shows_params_and_metrics(page: Any, site: Site) -> None:
    """The printed address opens the cells, and only them, a column for each axis, the seed and each
    metric, with their values; grouping by a param needs two clicks."""
    page.goto(site.pages["Runs"])
    page.get_by_text("6 matching runs").wait_for()
    heads = {text.strip() for text in page.get_by_role("columnheader").all_inner_texts()}
    assert {"learning_rate", "batch_size", "seed", "accuracy"} <= heads
    for run in site.runs("cell"):
        value = f"{run.data.metrics['accuracy']:.6f}"[:-1]  # the table cuts the rest off
        assert page.get_by_role("gridcell").filter(has_text=value).count() > 0
    assert page.get_by_role("gridcell", name="0.05", exact=True).count() == 2
    page.get_by_role("button", name="Group by").click()
    page.get_by_role("menuitemcheckbox", name="learning_rate", exact=True).click()
    page.get_by_text(re.compile("Group: 0.05|learning_rate: 0.05")).first.wait_for()


def test_charts_show_every_run(page: Any, site: Site) -> None:
    """The printed address opens parallel coordinates of params and metrics, and a point per run in
    every plot of accuracy against another metric."""
    page.set_viewport_size({"width": 1440, "height": 2400})
    page.goto(site.pages["Charts"])
    page.get_by_text("Parallel Coordinates").wait_for()
    for axis in ("learning_rate", "seed", "accuracy"):
        page.locator("svg").get_by_text(axis, exact=True).first.wait_for()
    page.get_by_text("Every metric against accuracy").first.wait_for()
    others = len(deltas(site)) - 1
    page.wait_for_function(
        f"document.querySelectorAll('.scatterlayer .point').length >= {6 * min(others, 3)}"
    )


def test_charts_without_our_view_are_not_empty(page: Any, site: Site) -> None:
    """Cells are top-level runs: MLflow's own chart view draws bars of them."""
    page.set_viewport_size({"width": 1440, "height": 2400})
    address = f"{site.url}/#/experiments/{site.experiment}/runs?compareRunsMode=CHART"
    page.goto(f"{address}&workflowType=machine_learning")
    page.wait_for_function("document.querySelectorAll('.barlayer .point').length >= 6")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_renders_and_sorts(chromium: Any, site: Site, scheme: str) -> None:
    """The printed address shows the report in MLflow's frame: Δall of every metric as the runs have
    it, sorted by a click, in the system's light or dark, without a serious fault for axe-core."""
    page = mlflow_site.new_page(chromium, scheme=scheme, width=1200)
    page.goto(site.pages["Report"])
    frame = report_frame(page)
    cells = frame.locator("#summary tbody tr:first-child td.d")
    expected = deltas(site)
    shown = [text.strip() for text in cells.all_inner_texts()]
    assert sorted(shown) == sorted(expected.values())
    frame.locator("#summary").get_by_role("button", name="Δ").click()
    values = [float(text) for text in cells.all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 2
    back = frame.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back != "rgb(255, 255, 255)") == (scheme == "dark")
    size = frame.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1]
    found = mlflow_site.violations(frame)
    assert [fault["id"] for fault in found if fault["impact"] in {"serious", "critical"}] == []
    page.context.close()


def test_overview_of_the_report_shows_the_digest(page: Any, site: Site) -> None:
    """A table of Δall in the run's description, and a link to the page that works."""
    (report,) = site.runs("report")
    address = f"{site.url}/#/experiments/{site.experiment}/runs/{report.info.run_id}"
    page.goto(f"{address}?workflowType=machine_learning")
    page.get_by_role("heading", name="Multiplicity of small").wait_for()
    name = page.get_by_role("cell", name="Accuracy", exact=True)
    row = page.get_by_role("row").filter(has=name)
    assert deltas(site)["accuracy"] in row.inner_text()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the report").click()
    assert report_frame(opened.value).locator("h1").inner_text() == "small"


def test_description_of_the_experiment_links_the_newest_report(page: Any, site: Site) -> None:
    """Seen above the runs without our view too; clicking it opens the report."""
    page.goto(f"{site.url}/#/experiments/{site.experiment}/runs?workflowType=machine_learning")
    page.get_by_text("Model multiplicity.").first.wait_for()
    assert page.get_by_text("<!--").count() == 0
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Newest report").first.click()
    assert report_frame(opened.value).locator("h1").inner_text() == "small"


def test_the_readme_s_picture_can_be_taken_again(chromium: Any, site: Site) -> None:
    """docs/render_screenshot.py works with this MLflow; the stored picture has its size, and is small."""
    script = runpy.run_path(str(ROOT / "docs" / "render_screenshot.py"))
    stored = ROOT / "docs" / "mlflow.png"
    drawn = Image.open(io.BytesIO(script["draw"](chromium, site)))
    with Image.open(stored) as image:
        assert drawn.size == image.size
    assert len(drawn.convert("RGB").getcolors(1 << 24)) > 100
    assert stored.stat().st_size < 300_000
