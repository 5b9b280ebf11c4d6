"""The report run's description: Markdown that MLflow shows on the run's first page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mm_mlflow.render import verdicts, words
from mm_mlflow.render.index import bound, by_chance, healthy, mean_sd, ratio
from mm_mlflow.render.md import escape, table
from mm_mlflow.report import Report, SummaryRow

LIMIT = 7_200  # MLflow cuts tags at 8,000 characters; DESIGN allows 7,500 for this one and its link
NOTES = 4_000  # of these, so that the table has room
HEAD = ("Metric", "Examples", "Runs", "Mean ± sd", "Δall", "By chance", "× accuracy")
WHERE = (
    "Open **index.html** under Artifacts: every sheet on one page. Single sheets are in `sheets/`, "
    "all values in `cells.csv`."
)
UNITS = (
    "Values in percent and Δall (highest minus lowest value) in points, where a metric is a "
    "fraction. Small groups and larger ranges vary more by chance alone."
)


def digest(report: Report) -> str:
    """Title, notes, summary table and where to look, cut to :data:`LIMIT` characters."""
    name = escape(words.clip(words.clean(report.experiment.name), 200))
    planned = "" if report.plan.inferred else " planned"
    top = [
        f"# Multiplicity of {name}",
        "",
        f"{words.plural(report.counted, 'run')} of {report.planned:,}{planned}. {WHERE}",
        "",
    ]
    notes = _notes(report.notes)
    bottom = ["", UNITS]
    shown = [True] * len(HEAD)
    if report.judged is None:
        shown[HEAD.index("By chance")] = False
    else:
        bottom += ["", verdicts.BY_CHANCE, "", escape(verdicts.judged(report.judged))]
    head, rule, *rows = table(
        list(itertools.compress(HEAD, shown)),
        (list(itertools.compress(_row(row), shown)) for row in report.summary),
    )
    room = LIMIT - sum(len(line) + 1 for line in [*top, *notes, "", head, rule, *bottom]) - 60
    kept = []
    for row in rows:
        room -= len(row) + 1
        if room < 0:
            break
        kept.append(row)
    if left := len(rows) - len(kept):
        bottom[:0] = ["", f"… and {words.plural(left, 'more metric')}: see index.html."]
    return "\n".join([*top, *notes, "", head, rule, *kept, *bottom]) + "\n"


def _notes(notes: Sequence[str]) -> list[str]:
    """The first few, in at most :data:`NOTES` characters: escaped, one is up to five times as long."""
    items = [f"- {escape(words.clip(words.clean(note), 300))}" for note in notes[:8]]
    lengths = itertools.accumulate(len(item) + 1 for item in items)
    kept = [item for item, length in zip(items, lengths, strict=True) if length <= NOTES]
    if left := len(notes) - len(kept):
        kept.append(f"- … and {words.plural(left, 'more note')} in index.html.")
    return kept


def cut(text: str) -> str:
    """``text`` in at most :data:`LIMIT` characters, whole lines."""
    if len(text) <= LIMIT:
        return text
    room = text[: LIMIT - 60].rsplit("\n", 1)[0]
    return f"{room}\n\n… the rest is in index.html.\n"


def _row(row: SummaryRow) -> list[str]:
    without = healthy(row)
    return [
        escape(words.clip(words.clean(row.title), 80)),
        words.NOTHING if row.n_examples is None else f"{row.n_examples:,}",
        f"{row.n_runs:,}",
        mean_sd(row),
        f"**{bound(row, row.delta_all)}**"
        + (f" ({without} without diverged runs)" if without else ""),
        by_chance(row),
        ratio(row),
    ]
