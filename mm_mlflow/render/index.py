"""The report's page: everything about one experiment, in reading order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from mm_mlflow.design import Scalar
from mm_mlflow.figures import PAPER
from mm_mlflow.plan import Plan
from mm_mlflow.render import selection, strips, verdicts, words
from mm_mlflow.render.html import DELTA_ALL, bar, box, page, rules_section, section
from mm_mlflow.report import Report, SummaryRow

MOST = 30  # names in a list; more are counted
WHAT = (
    "The same task, trained many times with different choices and seeds: this report shows how far "
    "apart the resulting models lie, one sheet per metric."
)
RATIO = (
    "“× accuracy” is Δall as a multiple of accuracy's. Small groups vary more by chance alone, and so "
    "do larger ranges (over more runs): a ratio above 1 is not by itself a finding."
)


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
    if _has_figures(report):
        yield '<a href="#figures">The paper\'s figures</a>'
    if report.judged is not None:
        yield '<a href="#rules">How the words are chosen</a>'
    yield "</nav>"
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
    if _has_figures(report):
        yield from _figures(report)
    if report.judged is not None:
        yield rules_section(blocked=report.plan.shared_seed)
    yield '<p class="foot">Beside this page: summary.csv and summary.json, cells.csv with every value '
    yield "of every run, and each sheet as html, png, pdf, csv, tex, md and json under sheets/.</p>"


def _has_figures(report: Report) -> bool:
    """Runs of other programs can hardly show what the paper shows."""
    return not report.plan.inferred or any(row.artifacts for row in report.figures)


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
    yield box("Summary", len(report.summary))
    # Runs of other programs tell neither their examples nor which metric is their accuracy.
    examples = not report.plan.inferred or any(row.n_examples for row in report.summary)
    ratios = not report.plan.inferred or any(row.ratio is not None for row in report.summary)
    heads = ["Metric", *(["Examples"] if examples else []), "Runs", "Mean ± sd", DELTA_ALL]
    chances = any(row.delta_all_by_chance is not None for row in report.summary)
    heads += ["By chance"] if chances else []
    heads += ["× accuracy"] if ratios else []
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield f'<table class="summary" data-sortable><thead><tr>{columns}</tr></thead>'
    comparable = [row.delta_all for row in report.summary if row.unit == "fraction"]
    widest = max((value for value in comparable if math.isfinite(value)), default=0.0)
    for i, row in enumerate(report.summary):
        said = verdicts.short(report.sheets[i])
        yield _row(i, row, widest, said, examples=examples, ratios=ratios, chances=chances)
    yield "</table></div>"
    if report.judged is not None:
        yield f'<p class="aside">{escape(verdicts.judged(report.judged))}</p>'
    if comparable:
        yield f'<p class="aside">Values in percent, {DELTA_ALL} in points (percentage points): '
        yield "the highest minus the lowest value over all runs, each run counted once.</p>"
    if chances:
        yield f'<p class="aside">{verdicts.BY_CHANCE}</p>'
    if any(row.ratio is not None for row in report.summary):
        yield f'<p class="aside">{RATIO}</p>'
    yield "</section>"


def by_chance(row: SummaryRow) -> str:
    """What flips of single examples alone would give; marked where it is an upper guide."""
    if row.delta_all_by_chance is None:
        return words.NOTHING
    return ("≤ " if row.floor == "binomial" else "") + _numbers(row).value(row.delta_all_by_chance)


def _row(
    i: int,
    row: SummaryRow,
    widest: float,
    said: str,
    *,
    examples: bool,
    ratios: bool,
    chances: bool,
) -> str:
    how = _numbers(row)
    number = words.NOTHING if row.n_examples is None else f"{row.n_examples:,}"
    ends = "".join(
        f'<span title="run {escape(end[0])}">{word} <b>{how.with_unit(end[2])}</b> '
        f"{escape(words.clip(words.clean(end[1]), 80))}</span>"
        for word, end in (("lowest", row.low), ("highest", row.high))
        if end
    )
    verdicts = f'<div class="said">{escape(said[:1].upper() + said[1:])}</div>' if said else ""
    without = healthy(row)
    small = f"<small>{without} without diverged runs</small>" if without else ""
    share = row.delta_all / widest if row.unit == "fraction" and widest > 0 else 0.0
    title = words.clip(words.clean(row.title), 160).replace(" = ", "\u00a0=\u00a0")
    return (
        f'<tbody><tr><th scope="row"><a class="name" href="#sheet-{i}">{escape(title)}</a></th>'
        f"{f'<td>{number}</td>' if examples else ''}<td>{row.n_runs:,}</td><td>{mean_sd(row)}</td>"
        f'<td class="d">{bound(row, row.delta_all)}{small}{bar(share)}</td>'
        f"{f'<td>{by_chance(row)}</td>' if chances else ''}"
        f"{f'<td>{ratio(row)}</td>' if ratios else ''}</tr>"
        f'<tr><td class="runs" colspan="{4 + examples + ratios + chances}">{ends}{verdicts}</td></tr>'
        "</tbody>"
    )


def _design(report: Report) -> Iterator[str]:
    plan = report.plan
    layout = {
        "star": "one axis at a time around the default configuration",
        "factorial": "combinations of levels" if plan.inferred else "every combination of levels",
        "repeats": "a row per configuration: no two differ in one param alone",
        "bins": "all runs, grouped by a number whatever their other params",
        "none": "no table: no two runs differ in one param alone",
    }[plan.layout]
    planned = "run" if plan.inferred else "planned run"
    facts = [
        ("Dataset", escape(words.clean(plan.dataset or ""))),
        *(
            (escape(words.axis_label(axis)), _levels(levels, plan.default.get(axis)))
            for axis, levels in plan.axes.items()
        ),
        ("Columns" if plan.inferred else "Seeds", _columns(plan)),
        *(
            [("Shared seed", "declared: runs of equal seeds share more than a label")]
            if plan.shared_seed
            else []
        ),
        ("Layout", f"{layout}: {words.plural(report.planned, planned)}"),
        ("Counted", f"{words.plural(report.counted, 'run')} of {report.planned:,}"),
        ("Design", f"{escape(words.clean(plan.name))} <code>{plan.id[:12]}</code>"),
    ]
    if plan.inferred:
        facts[-1] = ("Inferred", "from the params and tags of runs")
    items = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in facts if text)
    yield '<section class="part" id="design"><h2>Design</h2>'
    yield f'<dl class="facts">{items}</dl>'
    yield from _no_axes("Params that could be axes", plan.candidates)
    yield from _no_axes("Params that are no axes", plan.ignored)
    yield "</section>"


def _columns(plan: Plan) -> str:
    shown = ", ".join(escape(words.clip(words.clean(c), 40)) for c in plan.columns[:12])
    more = ", …" if len(plan.columns) > 12 else ""
    if plan.column_kind == "runs":
        return f"runs of a row, numbered from 1 to {len(plan.columns):,}" if plan.tables else ""
    name = f"{escape(words.clean(plan.seed_axis))}: " if plan.inferred else ""
    return f"{name}{len(plan.columns):,} ({shown}{more})"


def _levels(levels: Sequence[Scalar], default: Scalar | None) -> str:
    shown = list(zip(levels, words.level_labels(levels), strict=True))[:MOST]
    parts = [
        f"<b>{escape(label)}</b> (default)" if level == default else escape(label)
        for level, label in shown
    ]
    more = [f"… and {len(levels) - MOST} more"] if len(levels) > MOST else []
    return ", ".join([*parts, *more])


def _no_axes(title: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """Params that have no table, and why: thousands of them stay readable by being counted."""
    if not reasons:
        return
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(words.clip(words.clean(name), 80))
    yield f"<details><summary>{title}: {len(reasons):,}</summary><ul>"
    for reason, names in by_reason.items():
        shown = ", ".join(f"<code>{escape(name)}</code>" for name in names[:MOST])
        more = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
        yield f"<li>{escape(words.clip(words.clean(reason), 160))}: {shown}{more}</li>"
    yield "</ul></details>"
