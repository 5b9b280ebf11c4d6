"""A selection: ``selection.{csv,json,md,png,pdf}``, a part of the report's page, and a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from mm_mlflow.render import strips, words
from mm_mlflow.render.html import DELTA_ALL, box, page
from mm_mlflow.render.json import dump
from mm_mlflow.render.md import escape as md_escape
from mm_mlflow.render.md import table as md_table
from mm_mlflow.rules import Require
from mm_mlflow.selection import Choice, Effect, Selection

FIGURE = 9  # of the paper
PICTURED = 12  # more distributions make no picture that anybody reads
LEAD = "Before and after selection: a point is a run, each run counted once."
CHANCE = (
    "A random subset of the same size spans a smaller range too: its mean range stands beside what "
    "the selection left, and the share of all such subsets that span as little or less. A selection that "
    "looks no different from them has not reduced that metric's multiplicity."
)
HEAD = ("Metric", "Mean before", "after", "Δall before", "after", "random", "as small")


def files(selection: Selection) -> Iterator[tuple[str, bytes]]:
    """``(path, content)`` of every artifact."""
    yield "selection/selection.csv", table_csv(selection)
    yield "selection/selection.json", dump(document(selection))
    yield "selection/selection.md", (markdown(selection) + "\n").encode()
    for kind in ("png", "pdf"):
        yield f"selection/selection.{kind}", picture(selection, kind)


def picture(selection: Selection, kind: str) -> bytes:
    """The distributions before and after, as ``png`` or ``pdf``."""
    left = len(selection.distributions) - PICTURED
    more = [*(words.sentence(chosen(selection, choice)) for choice in selection.choices)]
    if left > 0:
        more.append(f"{words.plural(left, 'more metric')}: see selection.csv.")
    lead = f"{LEAD} {words.figure_sentence(FIGURE)} {_on(selection)}"
    return strips.picture(selection.distributions[:PICTURED], kind, lead, more)


def table_csv(selection: Selection) -> bytes:
    """One line per eligible run: what selected it, and its values as fractions."""
    return str(selection.cells.to_csv(index=False, lineterminator="\n")).encode()


def document(selection: Selection) -> dict[str, Any]:
    """``selection.json``: rules, selected runs, and every metric before and after; null for NaN."""
    return {
        "schema": 1,
        "experiment": {"id": selection.experiment.id, "name": selection.experiment.name},
        "design_id": selection.design_id,
        "on": list(selection.on),
        "report": list(selection.shown),
        "eligible": selection.eligible,
        "within": selection.within,
        "notes": list(selection.notes),
        "selections": [
            {
                "name": choice.rule.name,
                "rule": choice.rule.title,
                "n_selected": len(choice.run_ids),
                "selected": list(choice.run_ids),
                "labels": list(choice.labels),
                "reason": choice.reason or None,
                "metrics": [_effect_document(effect) for effect in choice.effects],
            }
            for choice in selection.choices
        ],
    }


def _effect_document(effect: Effect) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "metric": effect.metric,
        "title": effect.title,
        "unit": effect.unit,
        "n_examples": effect.n_examples,
        "selected_on": effect.selected_on,
        "random": vars(effect.chance) if effect.chance else None,
    }
    for name, spread in (("before", effect.before), ("after", effect.after)):
        plain[name] = {**vars(spread), "delta": spread.delta}
    return plain


def markdown(selection: Selection) -> str:
    """The selection as one Markdown document."""
    lines = ["# Selection", "", md_escape(_on(selection)), ""]
    for note in selection.notes:
        lines += [f"- {md_escape(note)}"]
    for choice in selection.choices:
        lines += ["", f"## {md_escape(chosen(selection, choice))}", ""]
        if choice.reason:
            lines += [md_escape(words.sentence(choice.reason[:1].upper() + choice.reason[1:])), ""]
        rows = [[md_escape(cell) for cell in row(effect)] for effect in choice.effects]
        lines += md_table(HEAD, rows)
        lines += ["", "Selected: " + (md_escape(", ".join(choice.labels)) or "none")]
    return "\n".join([*lines, "", CHANCE])


def _on(selection: Selection) -> str:
    names = {effect.metric: effect.title for c in selection.choices for effect in c.effects}
    return words.sentence("Selected on " + "; ".join(names.get(key, key) for key in selection.on))


def chosen(selection: Selection, choice: Choice) -> str:
    """``Top 75%: 23 of 45 runs``."""
    title = choice.rule.title
    if not isinstance(choice.rule, Require):  # which begins with the key of a metric
        title = title[:1].upper() + title[1:]
    return f"{title}: {len(choice.run_ids):,} of {words.plural(selection.eligible, 'run')}"


def row(effect: Effect) -> list[str]:
    """The cells below :data:`HEAD`."""
    how = words.numbers(effect.unit, effect.before.low, effect.before.high)
    title = effect.title + (" (selected on)" if effect.selected_on else "")
    chance = effect.chance
    return [
        words.clip(words.clean(title), 160),
        how.value(effect.before.mean),
        how.value(effect.after.mean),
        how.value(effect.before.delta),
        how.value(effect.after.delta),
        how.value(chance.delta) if chance and effect.after.n > 1 else words.NOTHING,
        f"{100 * chance.share:.0f}%" if chance and effect.after.n > 1 else words.NOTHING,
    ]


def section(selection: Selection) -> str:
    """The selection as a fragment of HTML, below a heading of level 2."""
    return "".join(_parts(selection))


def _parts(selection: Selection) -> Iterator[str]:
    yield f"<p>{escape(_on(selection))} {escape(words.figure_sentence(FIGURE))}</p>"
    if selection.notes:
        items = "".join(f"<li>{escape(words.clean(note))}</li>" for note in selection.notes)
        yield f'<ul class="notes">{items}</ul>'
    for choice in selection.choices:
        yield f'<section class="sheet"><h3>{escape(chosen(selection, choice))}</h3>'
        if choice.reason:
            reason = choice.reason[:1].upper() + choice.reason[1:]
            yield f"<p>{escape(words.sentence(words.clean(reason)))}</p>"
        yield from _table(choice)
        labels = escape(words.clip(words.clean(", ".join(choice.labels)), 2000)) or "none"
        yield f'<p class="aside">Selected: {labels}</p></section>'
    yield f'<p class="aside">{escape(CHANCE)}</p>'
    for distribution in selection.distributions:
        yield f'<section class="sheet">{strips.table(distribution)}</section>'
    yield f'<p class="aside">{LEAD} {strips.JITTER} {strips.COMPARED}</p>'


def _table(choice: Choice) -> Iterator[str]:
    yield box("Before and after selection", len(choice.effects))
    yield '<table class="effects" data-sortable><thead><tr><th rowspan="2" scope="col">Metric</th>'
    yield '<th colspan="2" scope="colgroup">Mean</th>'
    yield f'<th colspan="4" scope="colgroup">{DELTA_ALL}</th></tr><tr>'
    for head in ("before", "after", "before", "after", "random", "as small"):
        yield f'<th scope="col">{head}</th>'
    yield "</tr></thead><tbody>"
    for effect in choice.effects:
        title, *cells = row(effect)
        title = escape(title).replace(" = ", "\u00a0=\u00a0")
        yield f'<tr><th scope="row">{title}</th>'
        for i, cell in enumerate(cells):
            yield f'<td class="d">{cell}</td>' if i == 3 else f"<td>{cell}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"


def page_of(selection: Selection) -> bytes:
    """A page of its own: ``index.html`` of what ``select`` writes."""
    name = escape(words.clean(selection.experiment.name))
    head = f'<p class="eyebrow">Selection of models</p><h1>{name}</h1>'
    foot = (
        '<p class="foot">Beside this page: selection.csv with every run, selection.json, '
        "selection.md and the picture as png and pdf, under selection/.</p>"
    )
    title = f"Selection, {selection.experiment.name}"
    return page(title, f'{head}<section class="part">{section(selection)}</section>{foot}').encode()
