"""Sheets as text: what is said, how numbers are written, what is escaped."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import mm_mlflow.render
from mm_mlflow.render import html, md, renderer, samples, shades, tex, words
from mm_mlflow.render.view import view
from mm_mlflow.sheet import Sheet

VOID = {"meta", "col", "br"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; tags must be closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Elements close in order."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Visible text only."""
        if not {"style", "script"} & {*self.open}:
            self.text += data


def page(sheet: Sheet) -> Page:
    """A sheet's page, parsed."""
    return Page(renderer("html")(sheet).decode())


@pytest.mark.parametrize("case", samples.SHEETS)
def test_html_is_whole(case: str) -> None:
    """Every page parses, is self-contained, runs no script but ours and says Δall."""
    parsed = page(samples.SHEETS[case]())
    names = [tag for tag, _ in parsed.tags]
    assert not {*names} & {"link", "img", "iframe", "object", "base", "form"}
    assert [found for tag, found in parsed.tags if tag == "script"] == [{}]
    assert not any(key.startswith("on") for _, found in parsed.tags for key in found)
    source = renderer("html")(samples.SHEETS[case]()).decode()
    assert f"<script>{html.script()}</script>" in source
    assert not re.search(r"fetch|import|XMLHttp|https?:|eval|innerHTML", html.script())
    assert "@import" not in source
    assert "url(" not in source
    assert "Δall" in parsed.text


def test_html_is_semantic() -> None:
    """Tables have a caption and scoped heads; cells carry the run's name and id on hover."""
    sheet = samples.sheet()
    parsed = page(sheet)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("table") == tags.count("caption") == 5
    assert all(found.get("scope") in {"row", "col"} for tag, found in parsed.tags if tag == "th")
    titles = {found.get("title") for tag, found in parsed.tags if tag == "td"}
    for row in sheet.tables[0].run_ids:
        for run in row:
            assert any(title and title.endswith(f"run {run}") for title in titles)


def test_the_best_is_the_lowest_where_lower_is_better() -> None:
    """Of gaps, and of any metric, the ends are named in the order of the values that follow."""
    sheet = samples.sheet()
    how = words.numbers(sheet.unit, 0, 1)
    assert "Between the worst and the best of 45 runs" in words.delta_sentence(sheet, how)
    gap = replace(sheet, higher_is_better=False)
    assert "Between the best and the worst of 45 runs" in words.delta_sentence(gap, how)
    raw = replace(gap, unit="raw")
    assert "Between the lowest and the highest of 45 runs" in words.delta_sentence(raw, how)


def test_html_says_it_all() -> None:
    """The sentence, Δall, every value with two decimals, mean ± sd, the default and its mark."""
    sheet = samples.sheet()
    text = page(sheet).text
    low, high = sheet.ends or (0.0, 0.0)
    assert (
        f"Between the worst and the best of 45 runs lie {100 * sheet.delta_all:.2f} points "
        f"({100 * low:.2f}% to {100 * high:.2f}%)." in text
    )
    assert "Each value is over 719 examples." in text
    for value in sheet.tables[0].values.ravel():
        assert f"{100 * value:.2f}" in text
    table = sheet.tables[0]
    for mean, sd in zip(table.mean, table.sd, strict=True):
        assert f"{100 * mean:.2f} ± {100 * sd:.2f}" in text
    assert text.count("default") >= 5
    assert "Learning rate" in text
    assert "missing" not in text
    assert "≥" not in text


def test_axes_keep_the_order_of_the_design() -> None:
    """Tables follow the design."""
    titles = [table.title for table in view(samples.sheet()).tables]
    assert titles == ["Learning rate", "Batch size", "Augmentation", "Optimizer", "Architecture"]


@pytest.mark.parametrize("name", ["html", "md", "tex"])
def test_incomplete_is_said_everywhere(name: str) -> None:
    """With holes every Δ of every rendering is marked as a lower bound, and the marks explained."""
    sheet = samples.sheet(samples.SMALL, missing=3)
    shown = view(sheet)
    deltas = [row.delta for row in shown.tables[0].rows] + [*shown.tables[0].deltas]
    for delta in [shown.delta_all, *deltas]:
        assert delta.text == words.NOTHING or delta.text.startswith("≥ ")
    text = renderer(name)(sheet).decode()
    assert "Incomplete" in text
    assert "at least" in text
    assert "lower bound" in text
    assert "missing" in text
    assert "failed" in text
    assert ("ge" if name == "tex" else "≥") in text


@pytest.mark.parametrize("name", ["html", "md", "tex"])
def test_diverged_is_said_everywhere(name: str) -> None:
    """Diverged cells are marked, and Δ is there with and without them."""
    sheet = samples.sheet(samples.SMALL, diverged=1)
    text = renderer(name)(sheet).decode()
    assert f"{100 * sheet.delta_all:.2f}" in text
    assert f"{100 * sheet.delta_all_healthy:.2f}" in text
    assert ("dagger" if name == "tex" else "†") in text
    assert "without it" in text


def test_scale_leaves_diverged_runs_out() -> None:
    """One collapsed run must not make all others look alike."""
    shown = view(samples.sheet(samples.SMALL, diverged=1))
    positions = [e.position for row in shown.tables[0].rows for e in row.entries]
    assert positions.count(None) == 1
    assert {0.0, 1.0} <= set(positions)


def test_one_scale_for_all_tables() -> None:
    """A run has the same shade in every table."""
    shades_of: dict[str, set[float | None]] = {}
    for table in view(samples.sheet()).tables:
        for row in table.rows:
            for entry in row.entries:
                shades_of.setdefault(entry.run, set()).add(entry.position)
    assert len(shades_of) == 45
    assert all(len(found) == 1 for found in shades_of.values())


def test_within_and_mixed_are_said() -> None:
    """A filtered or mixed sheet says so."""
    text = page(samples.SHEETS["within"]()).text
    assert "Only runs within 1 point of the best accuracy are counted" in text
    assert "left out" in text
    assert "different parameters" in page(samples.SHEETS["mixed"]()).text
    raw = replace(samples.SHEETS["within"](), within=2.0, within_unit="raw")
    assert "Only runs within 2 of the best accuracy are counted" in page(raw).text


def test_few_runs_are_said() -> None:
    """No value, and one value."""
    assert "No run has a value yet." in page(samples.SHEETS["nothing"]()).text
    one = samples.sheet(samples.SMALL, missing=5)
    assert "Only one run has a value" in page(one).text


@pytest.mark.parametrize("name", ["html", "md", "tex"])
def test_hostile_names(name: str) -> None:
    """Nothing that a stranger wrote is read as markup."""
    text = renderer(name)(samples.SHEETS["hostile"]()).decode()
    assert "<script" not in text.replace(f"<script>{html.script()}</script>", "")
    assert "\x00" not in text
    if name == "tex":
        assert text.isascii()
        assert "\\input" not in text
    if name == "md":
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert not re.search(r"(?<!\\)[*_`](b|u|c)(?<!\\)[*_`]", text)


def test_hostile_text_survives() -> None:
    """Escaped text reads as what was written."""
    parsed = page(samples.SHEETS["hostile"]())
    assert "<script>alert('x')</script> & \"q\" | `c` *b* _u_" in parsed.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50%", r"a\_b \& 50\%"),
        ("é ñ ß", r"\'{e} \~{n} \ss{}"),
        ("λ ≥ 1", r"\ensuremath{\lambda} \ensuremath{\ge} 1"),
        ("日", "U+65E5"),
        ("\\end{x}", r"\textbackslash{}end\{x\}"),
    ],
)
def test_tex_escape(text: str, expected: str) -> None:
    """LaTeX shows the same characters, in ASCII."""
    assert tex.escape(text) == expected


def test_tex_rows_begin_with_nothing_that_a_command_takes() -> None:
    """After a line's end, LaTeX reads a bracket or a star as an argument."""
    source = renderer("tex")(samples.SHEETS["brackets"]()).decode()
    rows = [line for line in source.splitlines() if line.endswith(r"\\") and "mmcell" in line]
    assert [row.split(" & ")[0] for row in rows] == [
        r"{}\textbf{None} (default)",
        "{}*",
        "{}[64, 32]",
    ]


def test_md_escape() -> None:
    """Markdown shows the same characters."""
    assert md.escape("a|b *c* <i> [x](y)") == r"a\|b \*c\* &lt;i&gt; \[x\](y)"


@pytest.mark.parametrize("ramp", [shades.LIGHT, shades.DARK])
def test_contrast(ramp: shades.Ramp) -> None:
    """Text on every shade has a contrast of at least 4.5."""
    for i in range(shades.STEPS):
        assert shades.contrast(ramp.ink, ramp.shade(i / (shades.STEPS - 1))) >= 4.5


def test_contrast_of_the_style_sheet() -> None:
    """So has text on the page, light and dark; the ink of the ramps is the page's."""
    sources = re.findall(
        r"--(\w+):(#[0-9a-f]+)", Path(html.__file__).with_name("style.css").read_text()
    )
    half = len(sources) // 2
    for part, ramp in ((sources[:half], shades.LIGHT), (sources[half:], shades.DARK)):
        colours = {
            name: c if len(c) == 7 else "#" + "".join(2 * x for x in c[1:]) for name, c in part
        }
        assert colours["ink"] == ramp.ink
        for front in ("ink", "soft", "accent"):
            for back in ("paper", "wash"):
                assert shades.contrast(colours[front], colours[back]) >= 4.5


def test_contrast_formula() -> None:
    """Known values of WCAG."""
    assert shades.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert shades.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "value", "expected"),
    [
        (0.21, 0.26, 0.2345678, "0.2346"),
        (100.0, 900.0, 123.456, "123"),
        (1.0, 3.0, 2.0, "2.00"),
        (1.6e-10, 2.6e-10, 2.0e-10, "2.00e-10"),
        (1.0e12, 2.0e12, 1.5e12, "1.50e+12"),
        (5.0, 5.0, 5.0, "5.000"),
        (0.0, 0.0, 0.0, "0.00"),
        (12345.0, 12345.0000001, 12345.0, "12345.0000"),
        (-1e308, 1e308, 1e307, "1.00e+307"),
    ],
)
def test_raw_numbers(low: float, high: float, value: float, expected: str) -> None:
    """Raw metrics get the digits that tell them apart, and no percent."""
    assert words.numbers("raw", low, high).value(value) == expected


def test_fractions() -> None:
    """Two decimals, no negative zero, a dash for nothing."""
    how = words.numbers("fraction", 0, 1)
    assert how.value(0.97364) == "97.36"
    assert how.value(-0.0) == "0.00"
    assert how.value(-1e-9) == "0.00"
    assert how.value(float("nan")) == "–"
    assert how.with_unit(0.5) == "50.00%"
    assert how.mean_sd(0.5, float("nan")) == "50.00"


def test_labels() -> None:
    """Names for people; spelled as they are where two would read the same."""
    assert words.axis_label("learning_rate") == "Learning rate"
    assert words.level_labels(["sgd", "adam_scaled", 0.1, True]) == [
        "SGD",
        "Adam scaled",
        "0.1",
        "True",
    ]
    assert words.level_labels(["resnet8", "runs/exp_1"]) == ["ResNet-8", "runs/exp_1"]
    assert words.level_labels(["a_b", "a b"]) == ["a_b", "a b"]


def test_csv_is_exact() -> None:
    """Reading the table back gives every value to the bit, with its run."""
    sheet = samples.sheet(missing=7, diverged=2)
    rows = list(csv.DictReader(io.StringIO(renderer("csv")(sheet).decode())))
    assert len(rows) == 65
    read = iter(rows)
    for table in sheet.tables:
        for i, level in enumerate(table.levels):
            for j, seed in enumerate(table.seeds):
                row = next(read)
                assert (row["axis"], row["level"], row["seed"]) == (
                    table.axis,
                    str(level),
                    str(seed),
                )
                value = table.values[i, j]
                assert row["value"] == ("" if np.isnan(value) else repr(float(value)))
                assert row["status"] == table.status[i][j]


def schema() -> dict[str, Any]:
    """The schema that ships with the package."""
    path = Path(mm_mlflow.render.__file__).with_name("sheet.schema.json")
    found: dict[str, Any] = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize("case", samples.SHEETS)
def test_json_follows_its_schema(case: str) -> None:
    """Every sheet.json is valid, without NaN, and allows keys to be added."""
    text = renderer("json")(samples.SHEETS[case]()).decode()
    data = json.loads(text, parse_constant=pytest.fail)
    check = jsonschema.Draft202012Validator(schema())
    check.validate(data)
    check.validate({**data, "added_later": 1})


def test_schema_bites() -> None:
    """A sheet that lacks a key or has a wrong status is refused."""
    check = jsonschema.Draft202012Validator(schema())
    data = samples.sheet(samples.SMALL).to_dict()
    assert not check.is_valid({k: v for k, v in data.items() if k != "delta_all"})
    data["tables"][0]["status"][0][0] = "fine"
    assert not check.is_valid(data)


def test_schema_names_every_key() -> None:
    """What ``to_dict`` writes is described; keys that came later are not required of older files."""
    data = samples.sheet(samples.SMALL).to_dict()
    found = schema()
    later = {"duplicates_spread", "pooled", "column_kind", "inferred", "within_unit"}
    # Statistics are added where they are computed.
    assert set(data) == set(found["properties"]) - {"statistics"} == set(found["required"]) | later
    table = found["$defs"]["table"]
    assert set(data["tables"][0]) == set(table["properties"]) - {"statistics"}
    assert set(data["tables"][0]) == set(table["required"]) | {"paired"}


def test_notebook() -> None:
    """A sheet shows itself in notebooks, with its styles."""
    sheet = samples.sheet(samples.SMALL)
    shown = sheet._repr_html_()
    assert shown == html.fragment(sheet)
    assert "<style>" in shown
    assert "Δall" in Page(shown).text


def test_values_whose_difference_no_float_holds() -> None:
    """Each is shown; what cannot be computed is a dash, and null."""
    sheet = samples.SHEETS["raw overflow"]()
    text = page(sheet).text
    assert "1.00e+308" in text
    assert "1.50e+308" in text
    assert all(sheet.to_dict()[name] is None for name in ("delta_all", "sd"))
    for table in view(sheet).tables:
        for row in table.rows:
            assert all(entry.position is not None for entry in row.entries)
            assert all(0 <= (entry.position or 0) <= 1 for entry in row.entries)
