r"""A sheet as LaTeX, to be taken into a paper by ``\input``: tabulars with booktabs.

The file is pure ASCII and needs only ``\usepackage{booktabs}``. Where ``\cellcolor`` is known
(``\usepackage[table]{xcolor}``), cells are shaded as well.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from mm_mlflow.render import words
from mm_mlflow.render.chance import (
    AXES_NOTE,
    FLOOR_HEAD,
    MEANS_HEAD,
    PLAN_HEAD,
    PLAN_NOTE,
    TESTS_HEAD,
    TESTS_NOTE,
    ChanceView,
)
from mm_mlflow.render.verdicts import TITLE
from mm_mlflow.render.view import Entry, Row, SheetView, TableView, view
from mm_mlflow.sheet import Sheet

_PLAIN = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"": ': "", '"': "''",
    "-": "-{}", "`": r"\textasciigrave{}" , "'": "'{}",
    "Δ": r"\ensuremath{\Delta}", "λ": r"\ensuremath{\lambda}", "δ": r"\ensuremath{\delta}",
    "ε": r"\ensuremath{\varepsilon}", "σ": r"\ensuremath{\sigma}", "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}", "γ": r"\ensuremath{\gamma}", "μ": r"\ensuremath{\mu}",
    "θ": r"\ensuremath{\theta}", "∞": r"\ensuremath{\infty}", "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}", "≥": r"\ensuremath{\ge}", "≤": r"\ensuremath{\le}",
    "†": r"\ensuremath{\dagger}", "·": r"\ensuremath{\cdot}", "…": r"\ldots{}", "–": "--",
    "—": "---", "’": "'", "‘": "`", "“": "``", "”": "''", "ß": r"\ss{}", "ø": r"\o{}",
    "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "ł": r"\l{}", "Ł": r"\L{}",
    "ı": r"\i{}", "√": r"\ensuremath{\surd}", "ω": r"\ensuremath{\omega}", "²": r"\textsuperscript{2}",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip

PREAMBLE = r"""% A multiplicity sheet by mm_mlflow. Needs \usepackage{booktabs};
% \usepackage[table]{xcolor} shades the cells as well.
\providecommand{\mmcell}[2]{\ifdefined\cellcolor\cellcolor{cyan!#1!white}\fi #2}"""


def render(sheet: Sheet) -> bytes:
    r"""The sheet as a fragment for ``\input``."""
    return ("\n".join(_lines(view(sheet))) + "\n").encode("ascii")


def escape(text: object) -> str:
    """``text`` as LaTeX of ASCII characters; what LaTeX's own fonts lack stands as its code."""
    return "".join(map(_character, unicodedata.normalize("NFC", words.clean(text))))


def _character(char: str) -> str:
    if char in _PLAIN:
        return _PLAIN[char]
    if char.isascii():
        return char
    base, *marks = list(unicodedata.normalize("NFKD", char))
    if base.isascii() and base.isalnum() and len(marks) == 1 and marks[0] in _ACCENTS:
        return rf"\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"U+{ord(char):04X}"


def _lines(sheet: SheetView) -> Iterator[str]:
    yield PREAMBLE
    unit = f" {sheet.numbers.points_word}".rstrip()
    healthy = sheet.delta_all.healthy
    without = f" ({healthy} without {words.DIVERGED_MARK})" if healthy else ""
    yield r"\par\noindent"
    yield rf"\textbf{{{escape(sheet.title)}}} \hfill"
    yield rf"$\Delta_{{\max}}^{{\mathrm{{all}}}}$ = \textbf{{{escape(sheet.delta_all.text + unit)}}}"
    yield f"{escape(without)}\\par"
    yield rf"\noindent {escape(f'{sheet.delta_words} {sheet.lead}')}\par"
    for notice in sheet.notices:
        yield rf"\noindent {escape(notice)}\par"
    yield rf"\noindent {escape(sheet.unit)}\par"
    for table in sheet.tables:
        yield from _table(sheet, table)
    if sheet.legend:
        text = "; ".join(f"{mark}: {meaning}" for mark, meaning in sheet.legend)
        yield rf"\medskip\noindent {escape(text)}.\par"
    if sheet.chance is not None:
        yield from _chance(sheet.chance)


def _chance(found: ChanceView) -> Iterator[str]:
    """What chance would give: the verdicts, and the numbers of the axes."""
    yield rf"\medskip\noindent \textbf{{{escape(TITLE)}}}\par"
    for text in found.verdicts:
        yield rf"\noindent {escape(text)}\par"
    for term, text in found.facts:
        yield rf"\noindent {escape(term)}: {escape(text)}\par"
    yield from _rows(FLOOR_HEAD, found.floor)
    if found.floor_note:
        yield rf"\noindent {escape(found.floor_note)}\par"
    yield from _rows(TESTS_HEAD, found.tests)
    yield rf"\noindent {escape(TESTS_NOTE)}\par"
    yield from _rows(found.axes_head, found.axes)
    if found.axes:
        yield rf"\noindent {escape(AXES_NOTE)}\par"
    if found.plan:
        yield rf"\noindent {escape(found.plan)}\par"
    yield from _rows(PLAN_HEAD, found.plans)
    if found.plans:
        yield rf"\noindent {escape(PLAN_NOTE)}\par"
    yield from _rows(MEANS_HEAD, found.means)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A tabular of plain texts; nothing without rows."""
    if not rows:
        return
    yield r"\medskip\noindent"
    yield rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    yield r"\toprule"
    yield "{}" + " & ".join(map(escape, head)) + r" \\"
    yield r"\midrule"
    for row in rows:
        yield "{}" + " & ".join(escape(words.clip(text, 40)) for text in row) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}\par"


def _table(sheet: SheetView, table: TableView) -> Iterator[str]:
    seeds = len(table.seeds)
    seed = escape(sheet.seed_word)
    yield r"\medskip\noindent"
    yield rf"\begin{{tabular}}{{l{'c' * seeds}rr}}"
    yield r"\toprule"
    yield rf"\textbf{{{escape(table.title)}}} & \multicolumn{{{seeds}}}{{c}}{{{seed}}} & & \\"
    yield rf"\cmidrule(lr){{2-{seeds + 1}}}"
    yield f" & {' & '.join(map(escape, table.seeds))} & mean $\\pm$ sd & $\\Delta_{{\\max}}$ \\\\"
    yield r"\midrule"
    for row in table.rows:
        yield _row(row)
    if table.deltas:
        yield r"\midrule"
        yield rf"$\Delta_{{\max}}$ & {' & '.join(escape(delta.whole) for delta in table.deltas)} & & \\"
    yield r"\bottomrule"
    yield r"\end{tabular}\par"


def _row(row: Row) -> str:
    label = escape(words.clip(row.label, 40))
    first = rf"\textbf{{{label}}} (default)" if row.default else label
    cells = [first, *map(_entry, row.entries), escape(row.mean_sd), escape(row.delta.whole)]
    # "{}": a bracket or a star after a line's end would be an argument of that command.
    return "{}" + " & ".join(cells) + r" \\"


def _entry(entry: Entry) -> str:
    text = rf"\textbf{{{escape(entry.text)}}}" if entry.end else escape(entry.text)
    if entry.position is None:
        return text
    return rf"\mmcell{{{round(4 + 46 * entry.position)}}}{{{text}}}"
