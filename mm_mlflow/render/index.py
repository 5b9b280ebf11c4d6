"""The report's page: everything about one experiment, in reading order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from mm_mlflow.design import Axis, Design
from mm_mlflow.figures import PAPER
from mm_mlflow.render import selection, strips, words
from mm_mlflow.render.html import DELTA_ALL, bar, page, section
from mm_mlflow.report import Report, SummaryRow

WHAT = (
    "The same task, trained many times with different choices and seeds: this report shows how far "
    "apart the resulting models lie, one sheet per metric."
)
RATIO = (
    "“× accuracy” is Δall as a multiple of accuracy's. Small groups vary more by chance alone, and so "
    "do larger ranges (over more runs): a ratio above 1 is not by itself a finding."
)
# MLflow shows pages as a blob in a sandboxed frame, where Chromium refuses to follow even a link to
# the same page ("Not allowed to load local resource", seen). Without scripts the links stay links.
SCRIPT = """<script>
document.addEventListener("click", event => {
  const link = event.target.closest('a[href^="#"]');
  const target = link && document.getElementById(link.getAttribute("href").slice(1));
  if (!target) return;
  event.preventDefault();
  target.tabIndex = -1;
  target.focus({preventScroll: true});
  target.scrollIntoView();
});
</script>"""


def render(report: Report) -> bytes:
    """``index.html`` of a report."""
    return page(report.experiment.name, "".join(_parts(report))).encode()


def bound(row: SummaryRow, value: float) -> str:
    """A Δ of ``row`` with its mark, where it is a lower bound."""
    mark = f"{words.LOWER_BOUND} " if math.isfinite(value) and not row.complete else ""
    return mark + _numbers(row).value(value)


def ratio(row: SummaryRow) -> str:
    """Δ over all as a multiple of accuracy's."""
    return words.NOTHING if row.ratio is None else f"{row.ratio:.2f}"


def mean_sd(row: SummaryRow) -> str:
    """Mean and standard deviation over all runs."""
    return _numbers(row).mean_sd(row.mean, row.sd)


def healthy(row: SummaryRow) -> str | None:
    """Δ over all without diverged runs, where that is another number."""
    one, other = row.delta_all, row.delta_all_healthy
    return None if one == other or not math.isfinite(one) else bound(row, other)


def _numbers(row: SummaryRow) -> words.Numbers:
    ends = (row.low[2], row.high[2]) if row.low and row.high else (row.mean, row.mean)
    return words.numbers(row.unit, *ends)


def _parts(report: Report) -> Iterator[str]:
    name = escape(words.clean(report.experiment.name))
    yield f'<p class="eyebrow">Multiplicity report</p><h1>{name}</h1>'
    yield f'<p style="margin-top:8px">{WHAT}</p>'
    yield '<nav aria-label="Contents"><a href="#summary">Summary</a><a href="#design">Design</a>'
    number = words.plural(len(report.sheets), "sheet")
    if report.distributions:
        yield '<a href="#distributions">Distributions</a>'
    if report.selection is not None:
        yield '<a href="#selection">Selection</a>'
    yield f'<a href="#sheets">{number[:1].upper()}{number[1:]}</a>'
    yield '<a href="#figures">The paper\'s figures</a></nav>' if report.figures else "</nav>"
    if report.notes:
        notes = "".join(f"<li>{escape(words.clean(note))}</li>" for note in report.notes)
        yield f'<ul class="notes">{notes}</ul>'
    yield from _summary(report)
    yield from _design(report)
    if report.distributions:
        yield '<section class="part" id="distributions"><h2>Distributions</h2>'
        for item in report.distributions:
            yield f'<section class="sheet">{strips.section(item)}</section>'
        yield "</section>"
    if report.selection is not None:
        yield f'<section class="part" id="selection"><h2>Selection</h2>{selection.section(report.selection)}'
        yield "</section>"
    yield '<section class="part" id="sheets"><h2>Sheets</h2>'
    for i, sheet in enumerate(report.sheets):
        yield f'<section class="sheet" id="sheet-{i}">{section(sheet, level=3)}'
        yield '<p class="up"><a href="#summary">Back to the summary</a></p></section>'
    yield "</section>"
    if report.figures:
        yield from _figures(report)
    yield '<p class="foot">Beside this page: summary.csv and summary.json, cells.csv with every value '
    yield "of every run, and each sheet as html, png, pdf, csv, tex, md and json under sheets/.</p>"
    yield SCRIPT


def _figures(report: Report) -> Iterator[str]:
    anchors = {
        f"sheets/{report.slug(sheet.metric)}/sheet.html": f"#sheet-{i}"
        for i, sheet in enumerate(report.sheets)
    }
    anchors["selection/selection.png"] = "#selection"
    yield '<section class="part" id="figures"><h2>The paper\'s figures</h2>'
    yield f"<p>What {PAPER} shows, and where this report shows the same.</p>"
    yield '<div class="box" role="region" tabindex="0" aria-label="The paper\'s figures">'
    yield '<table class="summary"><thead><tr><th scope="col">Figure</th>'
    yield '<th scope="col" class="l">Shows</th><th scope="col" class="l">Here</th></tr></thead><tbody>'
    for row in report.figures:
        links = ", ".join(
            f'<a href="{anchors.get(path, "#distributions")}">{escape(path)}</a>'
            for path in row.artifacts
        )
        here = "<br>".join(filter(None, [links, escape(row.note)]))
        yield f'<tr><th scope="row">{row.number}</th><td class="l">{escape(row.shows)} '
        yield f'<small>{escape(row.dataset)}</small></td><td class="l">{here}</td></tr>'
    yield "</tbody></table></div></section>"


def _summary(report: Report) -> Iterator[str]:
    yield '<section class="part" id="summary"><h2>Summary</h2>'
    yield '<div class="box" role="region" tabindex="0" aria-label="Summary">'
    yield '<table class="summary"><thead><tr><th scope="col">Metric</th>'
    yield '<th scope="col">Examples</th><th scope="col">Runs</th><th scope="col">Mean ± sd</th>'
    yield f'<th scope="col">{DELTA_ALL}</th><th scope="col">× accuracy</th></tr></thead>'
    comparable = [row.delta_all for row in report.summary if row.unit == "fraction"]
    widest = max((value for value in comparable if math.isfinite(value)), default=0.0)
    for i, row in enumerate(report.summary):
        yield _row(i, row, widest)
    yield "</table></div>"
    if comparable:
        yield f'<p class="aside">Values in percent, {DELTA_ALL} in points (percentage points): '
        yield "the highest minus the lowest value over all runs, each run counted once.</p>"
    if any(row.ratio is not None for row in report.summary):
        yield f'<p class="aside">{RATIO}</p>'
    yield "</section>"


def _row(i: int, row: SummaryRow, widest: float) -> str:
    how = _numbers(row)
    examples = words.NOTHING if row.n_examples is None else f"{row.n_examples:,}"
    ends = "".join(
        f'<span title="run {escape(end[0])}">{word} <b>{how.with_unit(end[2])}</b> '
        f"{escape(words.clip(words.clean(end[1]), 80))}</span>"
        for word, end in (("lowest", row.low), ("highest", row.high))
        if end
    )
    without = healthy(row)
    small = f"<small>{without} without diverged runs</small>" if without else ""
    share = row.delta_all / widest if row.unit == "fraction" and widest > 0 else 0.0
    title = words.clip(words.clean(row.title), 160).replace(" = ", "\u00a0=\u00a0")
    return (
        f'<tbody><tr><th scope="row"><a class="name" href="#sheet-{i}">{escape(title)}</a></th>'
        f"<td>{examples}</td><td>{row.n_runs:,}</td><td>{mean_sd(row)}</td>"
        f'<td class="d">{bound(row, row.delta_all)}{small}{bar(share)}</td><td>{ratio(row)}</td></tr>'
        f'<tr><td class="runs" colspan="6">{ends}</td></tr></tbody>'
    )


def _design(report: Report) -> Iterator[str]:
    design = report.design
    layout = {
        "star": "one axis at a time around the default configuration",
        "factorial": "every combination of levels",
    }[design.layout]
    seeds = ", ".join(map(str, design.seeds[:12])) + (", …" if len(design.seeds) > 12 else "")
    facts = [
        _subject(design),
        *((escape(words.axis_label(axis.name)), _levels(axis, report)) for axis in design.axes),
        ("Seeds", f"{len(design.seeds):,} ({seeds})"),
        ("Layout", f"{layout}: {words.plural(report.planned, 'planned run')}"),
        ("Counted", f"{words.plural(report.counted, 'run')} of {report.planned:,}"),
        ("Design", f"{escape(words.clean(design.name))} <code>{design.id[:12]}</code>"),
    ]
    items = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in facts)
    yield '<section class="part" id="design"><h2>Design</h2>'
    yield f'<dl class="facts">{items}</dl></section>'


def _subject(design: Design) -> tuple[str, str]:
    """The dataset, or the project that trains."""
    if design.project is not None:
        return "Project", escape(words.clean(design.project.name or "unnamed"))
    return "Dataset", escape(words.clean(design.dataset.name if design.dataset else "none"))


def _levels(axis: Axis, report: Report) -> str:
    default = report.design.default_levels[axis.name]
    labels = zip(axis.names, words.level_labels(axis.names), strict=True)
    return ", ".join(
        f"<b>{escape(label)}</b> (default)" if level == default else escape(label)
        for level, label in labels
    )
