"""A selection: ``selection.{csv,json,md,png,pdf}``, a part of the report's page, and a page of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from mm_mlflow.render import selection_words as say
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
        "judged": selection.judged,
        "not_halved": dict(selection.unhalved),
        "regret": [found.model_dump() for found in selection.regrets],
        "selections": [
            {
                "name": choice.rule.name,
                "rule": choice.rule.title,
                "n_selected": len(choice.run_ids),
                "selected": list(choice.run_ids),
                "labels": list(choice.labels),
                "reason": choice.reason or None,
                "metrics": [_effect_document(effect) for effect in choice.effects],
                "split_half": choice.halves.model_dump() if choice.halves else None,
                "stability": choice.stability.model_dump() if choice.stability else None,
                "without_halves": choice.without or None,
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
        "higher_is_better": effect.higher_is_better,
        "selected_on": effect.selected_on,
        "sharing": effect.sharing,
        "shares_with": list(effect.shares_with),
        "verdict": say.verdict(effect),
        "q": effect.q,
        "subsets": effect.subsets.model_dump() if effect.subsets else None,
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
            lines += [md_escape(_reason(choice)), ""]
        lines += [*_md_table(say.effects(choice)), ""]
        lines += [f"- {md_escape(text)}" for text in verdicts(choice)]
        lines += ["", "Selected: " + (md_escape(", ".join(choice.labels)) or "none")]
        if table := say.details(choice):
            lines += ["", "### Against random choices", "", *_md_table(table)]
        if sentences := parts(choice):
            lines += ["", "### On other test examples", "", md_escape(" ".join(sentences))]
            if table := say.halves(choice):
                lines += ["", *_md_table(table)]
    if table := say.regrets(selection):
        lines += ["", "## Choosing by accuracy alone", "", *_md_table(table)]
    return "\n".join([*lines, "", *(f"{md_escape(text)}\n" for text in _how_to_read(selection))])


def _md_table(table: say.Columns) -> Iterator[str]:
    rows = [[md_escape(cell) for cell in row] for row in table.rows]
    return md_table([md_escape(head) for head in table.flat], rows)


def verdicts(choice: Choice) -> list[str]:
    """``Metric: verdict``, of every metric that was not selected on; those without a claim together."""
    told: dict[str, list[str]] = {}
    for effect in choice.effects:
        if not effect.selected_on:
            told.setdefault(say.verdict(effect), []).append(say.title(effect.title))
    return [words.sentence(f"{'; '.join(titles)}: {verdict}") for verdict, titles in told.items()]


def parts(choice: Choice) -> list[str]:
    """What predictions tell of a choice, in sentences."""
    if choice.without:
        return [words.sentence(f"Not chosen on halves: {choice.without}")]
    return [*say.half_sentences(choice), *say.stability_sentences(choice)]


def _how_to_read(selection: Selection) -> Iterator[str]:
    """Sentences below everything, on whatever is shown."""
    yield say.CHANCE
    if any(say.details(choice) for choice in selection.choices):
        yield f"{say.DETAILS} {say.judged(selection)}".strip()
    if any(choice.halves for choice in selection.choices):
        yield say.HALVES
    if selection.regrets:
        on_halves = any(found.halves for found in selection.regrets)
        yield say.REGRET + (say.REGRET_HALVES if on_halves else ".")
    if selection.unhalved:
        yield say.unhalved(selection)


def _reason(choice: Choice) -> str:
    return words.sentence(choice.reason[:1].upper() + choice.reason[1:])


def _on(selection: Selection) -> str:
    names = {effect.metric: effect.title for c in selection.choices for effect in c.effects}
    return words.sentence("Selected on " + "; ".join(names.get(key, key) for key in selection.on))


def chosen(selection: Selection, choice: Choice) -> str:
    """``Top 75%: 23 of 45 runs``."""
    title = choice.rule.title
    if not isinstance(choice.rule, Require):  # which begins with the key of a metric
        title = title[:1].upper() + title[1:]
    return f"{title}: {len(choice.run_ids):,} of {words.plural(selection.eligible, 'run')}"


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
            yield f"<p>{escape(_reason(choice))}</p>"
        under = [_under(effect) for effect in choice.effects]
        yield from _table("Before and after selection", say.effects(choice), under)
        labels = escape(words.clip(words.clean(", ".join(choice.labels)), 2000)) or "none"
        yield f'<p class="aside">Selected: {labels}</p>'
        if table := say.details(choice):
            yield "<h4>Against random choices of as many runs</h4>"
            yield from _table("Against random choices", table)
        if sentences := parts(choice):
            yield "<h4>On other test examples</h4>"
            yield "".join(f"<p>{escape(text)}</p>" for text in sentences)
            if table := say.halves(choice):
                yield from _table("Chosen on one half, read on the other", table)
            if often := say.shares(selection, choice):
                text = escape(words.clip(words.clean(often), 2000))
                yield "<details><summary>How often each run would be selected</summary>"
                yield f'<p class="aside">{text}</p></details>'
        yield "</section>"
    if table := say.regrets(selection):
        yield '<section class="sheet"><h3>Choosing by accuracy alone</h3>'
        yield from _table("Choosing by accuracy alone", table)
        yield "</section>"
    yield "".join(f'<p class="aside">{escape(text)}</p>' for text in _how_to_read(selection))
    for distribution in selection.distributions:
        yield f'<section class="sheet">{strips.table(distribution)}</section>'
    yield f'<p class="aside">{LEAD} {strips.JITTER} {strips.COMPARED}</p>'


def _under(effect: Effect) -> str:
    if effect.selected_on:
        return ""
    kind = ' class="claim"' if say.claimed(effect) else ""
    return f"<small{kind}>{escape(say.verdict(effect))}</small>"


def _table(label: str, table: say.Columns, under: Sequence[str] = ()) -> Iterator[str]:
    """A table with grouped columns; ``under`` is HTML below the name of each row."""
    yield box(label, len(table.rows))
    yield '<table class="effects" data-sortable><thead><tr>'
    yield f'<th rowspan="2" scope="col">{escape(table.label)}</th>'
    for group, heads in table.groups:
        name = DELTA_ALL if group == "Δall" else escape(group)
        yield f'<th colspan="{len(heads)}" scope="colgroup" class="g">{name}</th>'
    yield "</tr><tr>"
    places = [(head, i == 0) for _, names in table.groups for i, head in enumerate(names)]
    kinds = [' class="g"' if first else "" for _, first in places]
    for (head, _), kind in zip(places, kinds, strict=True):
        yield f'<th scope="col"{kind}>{escape(head)}</th>'
    yield "</tr></thead><tbody>"
    verdicts = under or [""] * len(table.rows)
    for (name, *cells), verdict in zip(table.rows, verdicts, strict=True):
        text = escape(name).replace(" = ", "\u00a0=\u00a0")
        yield f'<tr><th scope="row"><span class="name">{text}</span>{verdict}</th>'
        for cell, kind in zip(cells, kinds, strict=True):
            yield f"<td{kind}>{escape(cell)}</td>"
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
