"""Pages in a browser, framed as MLflow frames them: 650 px, sandboxed. Debian: chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import mlflow_site
import pytest

from mm_mlflow.render import index, renderer, samples, selection

pytestmark = pytest.mark.system

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
    with mlflow_site.browser() as started:
        yield started


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


# Pages of more than one sheet.
PAGES = {
    "index": lambda: index.render(samples.report()),
    "index with holes": lambda: index.render(samples.report(missing=7, diverged=2)),
    "index, judged": lambda: index.render(samples.report(predictions=True)),
    "index of many metrics": lambda: index.render(samples.many_metrics()),
    "selection": lambda: selection.page_of(samples.selection()),
}


@cache
def content_of(case: str) -> bytes:
    """A page, made once."""
    return PAGES[case]() if case in PAGES else renderer("html")(samples.SHEETS[case]())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [650, 1400])
@pytest.mark.parametrize("case", [*samples.SHEETS, *PAGES])
def test_page(browser: Any, case: str, width: int, scheme: str) -> None:
    """Nothing is wider than the pane, Δall is in sight, every text has a contrast of 4.5."""
    page, frame = framed(browser, content_of(case), width, scheme)
    try:
        frame.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        size = frame.evaluate(MEASURE)
        assert size["wide"] == []
        assert size["page"] <= size["pane"] <= width
        if "hostile" not in case and case not in PAGES:
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


@pytest.mark.parametrize("width", [650, 1000, 1600])
def test_points_lie_on_the_scale_above_them(browser: Any, width: int) -> None:
    """Whatever the width: the place of the lowest and the highest point of every strip follows from its
    value and the ends of the scale, which stand at the ends of the strip."""
    page, frame = framed(browser, content_of("selection"), width, "light")
    tables = frame.evaluate(
        """() => [...document.querySelectorAll('table.strips')].map(table => ({
          ends: [...table.querySelectorAll('thead .plot span')].map(e => {
            const box = e.getBoundingClientRect();
            return [parseFloat(e.textContent), box.left, box.right];
          }),
          rows: [...table.querySelectorAll('tbody tr')].map(row => ({
            values: [...row.querySelectorAll('td:not(.plot)')].map(e => parseFloat(e.textContent)),
            points: [...row.querySelectorAll('circle')].map(e => {
              const box = e.getBoundingClientRect();
              return (box.left + box.right) / 2;
            }),
          })),
        }))"""
    )
    assert tables
    for table in tables:
        (low, left, _), (high, _, right) = table["ends"]
        for row in table["rows"]:
            if row["points"]:
                for value, place in zip(
                    row["values"][:2], (min(row["points"]), max(row["points"])), strict=True
                ):
                    expected = left + (right - left) * (value - low) / (high - low)
                    assert place == pytest.approx(expected, abs=5 + 0.01 * (right - left))
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


# ---- tables sort ----


def column(frame: Any, table: str, place: int) -> list[str]:
    """What a column of a table holds, from top to bottom; of each body its first row."""
    bodies = frame.locator(f"{table} tbody")
    rows = f"{table} tbody tr:first-child" if bodies.count() > 1 else f"{table} tbody tr"
    found: list[str] = frame.locator(f"{rows} > :nth-child({place})").all_inner_texts()
    return [text.strip() for text in found]


def numbers(texts: list[str]) -> list[float]:
    """The number that each text starts with, behind its mark; holes at either end are an error."""
    return [float(text.removeprefix("≥").split()[0].replace(",", "")) for text in texts]


def test_summary_sorts_by_click(browser: Any) -> None:
    """The largest Δ first, then the smallest, then the page's own order; runs stay with their metric."""
    page, frame = framed(browser, content_of("index"), 650, "light")
    before = column(frame, "#summary .summary", 1)
    bodies = frame.locator("#summary .summary tbody")
    wholes = {text.strip() for text in bodies.all_inner_texts()}
    button = frame.locator("#summary").get_by_role("button", name="Δ")
    head = button.locator("..")
    for state, reverse in (("descending", True), ("ascending", False)):
        button.click()
        values = numbers(column(frame, "#summary .summary", 5))
        assert values == sorted(values, reverse=reverse)
        assert head.get_attribute("aria-sort") == state
        assert frame.locator("[aria-sort]").count() == 1
        assert {text.strip() for text in bodies.all_inner_texts()} == wholes
    button.click()
    assert column(frame, "#summary .summary", 1) == before
    assert head.get_attribute("aria-sort") is None
    page.close()


def test_sheets_sort_levels_and_values(browser: Any) -> None:
    """Levels as numbers, their own order again, another column at once; holes last both ways, and
    the default's mark, † and ± do not matter; the row of Δ stays where it is."""
    page, frame = framed(browser, content_of("diverged and incomplete"), 1400, "light")
    grid = ".tables .box:nth-child(1) .grid"
    frame.locator(grid).get_by_role("button", name="Seed", exact=True).click()
    levels = column(frame, grid, 1)
    assert [text.split()[0] for text in levels] == ["0.01", "0.05", "0.1"]
    frame.locator(grid).get_by_role("button", name="Mean ± sd").click()
    assert frame.locator(f"{grid} [aria-sort]").inner_text().endswith("Mean ± sd")
    means = numbers(column(frame, grid, 7))
    assert means == sorted(means, reverse=True)
    grid = ".tables .box:nth-child(5) .grid"  # the last axis: its last runs are missing or failed
    for state in ("descending", "ascending"):
        frame.locator(grid).get_by_role("button", name="4", exact=True).click()
        found = column(frame, grid, 6)
        holes = [text in {"missing", "failed"} for text in found]
        assert any(holes), found
        assert holes == sorted(holes), state
        values = numbers([text for text in found if text not in {"missing", "failed"}])
        assert values == sorted(values, reverse=state == "descending")
    assert frame.locator(f"{grid} tfoot th").inner_text() == "Δmax over levels"
    page.close()


def test_sorting_by_keyboard(browser: Any) -> None:
    """Headers are buttons: Tab reaches them, Enter and space press them, focus stays."""
    page, frame = framed(browser, content_of("selection"), 650, "light")
    button = frame.locator(".effects").first.get_by_role("button", name="random")
    button.focus()
    for key, state in (("Enter", "descending"), ("Space", "ascending"), ("Enter", None)):
        button.press(key)
        head = button.locator("..")
        assert head.get_attribute("aria-sort") == state
        assert button.evaluate("e => e === document.activeElement")
    page.close()


def test_effects_sort_by_the_column_below_the_header(browser: Any) -> None:
    """With a head of two rows, "before" of Δ is not "before" of the mean."""
    page, frame = framed(browser, content_of("selection"), 650, "light")
    table = ".part > .sheet:nth-of-type(1) > .box:nth-of-type(1) .effects"
    means, deltas = (numbers(column(frame, table, place)) for place in (2, 6))
    assert means != sorted(means, reverse=True)
    before = frame.locator(table).get_by_role("button", name="before")
    before.nth(0).click()
    assert numbers(column(frame, table, 2)) == sorted(means, reverse=True)
    before.nth(2).click()
    assert numbers(column(frame, table, 6)) == sorted(deltas, reverse=True)
    page.close()


def test_without_scripts_tables_stay(browser: Any) -> None:
    """No buttons that do nothing."""
    page = browser.new_page(java_script_enabled=False)
    page.set_content(content_of("index").decode())
    assert page.locator("button").count() == 0
    assert page.locator("#summary thead th").count() == 6
    page.close()


def test_long_tables_scroll_in_their_box(browser: Any) -> None:
    """60 levels: the page stays short, head and Δ row stay in sight, every row can be reached."""
    page, frame = framed(browser, content_of("large"), 650, "light")
    box = frame.locator(".box.tall")
    inner, outer = box.evaluate("e => [e.scrollHeight, e.clientHeight]")
    assert inner > 2 * outer
    assert outer < 900
    box.focus()
    box.press("End")
    frame.wait_for_function("(e => e.scrollTop > 0)(document.querySelector('.box.tall'))")
    box.evaluate("e => e.scrollTo(0, e.scrollHeight)")
    edges = box.bounding_box()
    for part in ("thead th:first-child", "tbody tr:last-child th", "tfoot th"):
        shown = frame.locator(part).bounding_box()
        assert edges["y"] - 1 <= shown["y"]
        assert shown["y"] + shown["height"] <= edges["y"] + edges["height"] + 1
    page.close()


# ---- accessibility ----


AUDITED = [
    "complete", "one seed", "diverged and incomplete", "raw", "hostile", "nothing", "large",
    "index", "index with holes", "selection",
]  # fmt: skip


def grave(frame: Any) -> list[tuple[str, list[str]]]:
    """Rules of axe-core that are broken seriously or critically, and three places of each."""
    found = mlflow_site.violations(frame)
    return [
        (fault["id"], [node["html"][:200] for node in fault["nodes"]][:3])
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("case", AUDITED)
def test_axe_finds_nothing_serious(browser: Any, case: str, scheme: str) -> None:
    """No serious or critical fault by axe-core, tables sorted and long ones scrollable."""
    page, frame = framed(browser, content_of(case), 650, scheme)
    for table in frame.locator("table[data-sortable]").all()[:2]:
        if table.locator("button").count():
            table.locator("button").last.click()
    assert grave(frame) == []
    page.close()


def test_axe_finds_a_planted_fault(browser: Any) -> None:
    """The audit can fail: pale text and a page without a language are found."""
    content = content_of("complete").replace(b' lang="en"', b"")
    content = content.replace(b"</style>", b".mm .lead p{color:#aaa!important}</style>")
    page, frame = framed(browser, content, 650, "light")
    assert {"color-contrast", "html-has-lang"} <= {rule for rule, _ in grave(frame)}
    page.close()
