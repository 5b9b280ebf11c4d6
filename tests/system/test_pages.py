"""Pages in a browser, framed as MLflow frames them: 650 px, sandboxed. Debian: chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mm_mlflow.render import index, renderer, samples

pytestmark = pytest.mark.system

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
# As MLflow does it: a blob in a frame that may run scripts and nothing else.
FRAME = """content => new Promise(done => {
  document.body.style.margin = 0;
  const frame = document.createElement('iframe');
  frame.sandbox = 'allow-scripts';
  frame.style = 'border:0;width:100vw;height:100vh;display:block';
  frame.onload = () => done(true);
  frame.src = URL.createObjectURL(new Blob([content], {type: 'text/html'}));
  document.body.append(frame);
})"""
MEASURE = """() => {
  const root = document.scrollingElement;
  const inBox = e => e.closest('.box') && !e.matches('.box');
  const wide = [...document.querySelectorAll('body *')]
    .filter(e => !inBox(e) && e.getBoundingClientRect().right > root.clientWidth + 1)
    .map(e => e.outerHTML.slice(0, 80));
  return {page: root.scrollWidth, pane: root.clientWidth, wide};
}"""
CONTRAST = """() => {
  const numbers = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const back = e => {
    for (; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  let worst = 21, where = '';
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.tagName === 'STYLE') continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(back(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst) [worst, where] = [ratio, e.outerHTML.slice(0, 120)];
  }
  return [worst, where];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield started
        started.close()


def framed(browser: Any, content: bytes, width: int, scheme: str) -> tuple[Any, Any]:
    """A page of ``width`` that is nothing but the frame, and the frame."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    # A blob of a real origin, as MLflow's is; nothing is fetched.
    page.route(
        "http://mlflow.test/", lambda route: route.fulfill(body="", content_type="text/html")
    )
    page.goto("http://mlflow.test/")
    page.evaluate(FRAME, content.decode())
    frame = page.frames[1]
    frame.wait_for_load_state()
    return page, frame


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [650, 1400])
@pytest.mark.parametrize("case", [*samples.SHEETS, "index", "index with holes"])
def test_page(browser: Any, case: str, width: int, scheme: str) -> None:
    """Nothing is wider than the pane, Δall is in sight, every text has a contrast of 4.5."""
    if case.startswith("index"):
        holes = {"missing": 7, "diverged": 2} if case != "index" else {}
        content = index.render(samples.report(**holes))
    else:
        content = renderer("html")(samples.SHEETS[case]())
    page, frame = framed(browser, content, width, scheme)
    try:
        size = frame.evaluate(MEASURE)
        assert size["wide"] == []
        assert size["page"] <= size["pane"] <= width
        if case != "hostile" and not case.startswith("index"):
            shown = frame.locator(".all b").bounding_box()
            assert shown["y"] + shown["height"] < 400
        worst, where = frame.evaluate(CONTRAST)
        assert worst >= 4.5, where
        dark = (
            frame.evaluate("getComputedStyle(document.body).backgroundColor")
            != "rgb(255, 255, 255)"
        )
        assert dark == (scheme == "dark")
    finally:
        page.close()


def test_seeds_of_the_paper_fit_without_scrolling(browser: Any) -> None:
    """Five seeds fit the pane, with holes and diverged cells too; nothing overlaps the Δ column."""
    for case in ("complete", "diverged and incomplete"):
        page, frame = framed(browser, renderer("html")(samples.SHEETS[case]()), 650, "light")
        sizes = frame.evaluate(
            "[...document.querySelectorAll('.box')].map(e => [e.scrollWidth, e.clientWidth])"
        )
        assert all(inner <= outer for inner, outer in sizes), json.dumps(sizes)
        page.close()


def test_many_seeds_scroll_in_their_box(browser: Any) -> None:
    """A wide table scrolls by itself, and its Δ column stays in sight."""
    page, frame = framed(browser, renderer("html")(samples.SHEETS["large"]()), 650, "light")
    inner, outer = frame.evaluate(
        "(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.box'))"
    )
    assert inner > outer
    last = frame.locator("tbody tr:first-child td:last-child").bounding_box()
    assert last["x"] + last["width"] <= 650
    page.close()


def test_fragment_links_work_in_the_sandbox(browser: Any) -> None:
    """From the summary to a sheet and back."""
    page, frame = framed(browser, index.render(samples.report()), 650, "light")
    frame.locator("a[href='#sheet-5']").click()
    top = "document.querySelector('{}').getBoundingClientRect().top"
    frame.wait_for_function(f"Math.abs({top.format('#sheet-5')}) < 5")
    frame.locator("#sheet-5 .up a").click()
    frame.wait_for_function(f"Math.abs({top.format('#summary')}) < 5")
    page.close()


def test_hover_names_the_run(browser: Any) -> None:
    """A cell's title is the run's name and id."""
    sheet = samples.sheet()
    page, frame = framed(browser, renderer("html")(sheet), 650, "light")
    title = frame.locator("td.v").first.get_attribute("title")
    assert title == f"{sheet.tables[0].run_names[0][0]} · run {sheet.tables[0].run_ids[0][0]}"
    page.close()
