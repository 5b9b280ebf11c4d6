"""Two experiments compared: ``change.{json,md}``, a page of its own, and rows for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from mm_mlflow.change import Change, MetricChange, Range, Side
from mm_mlflow.render import words
from mm_mlflow.render.html import DELTA_ALL, box, page
from mm_mlflow.render.json import dump
from mm_mlflow.render.md import escape as md_escape
from mm_mlflow.render.md import table as md_table
from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.records import Interval, SignificanceTest

SPREAD_HEAD = ("Metric", "SD in A", "in B", "B / A", "Distance", "p", "q", "Spread in B")
MEAN_HEAD = ("Metric", "Mean in A", "in B", "Change", "95% interval", "p", "q", "Mean in B")
RANGE_HEAD = ("Metric", "Runs of A", "Δall", "/ d2", "Runs of B", "Δall", "/ d2")
SHOWN = 6  # configurations that are named one by one

# The rules behind the words, shown with them.
_SPREAD = (
    "Spread is what lies between runs of one configuration: other seeds, nothing else. SD: standard "
    "deviation of runs around their configuration's mean, pooled over configurations."
)
_JUDGED = (
    "Judged is the distance of a run from its configuration's median, which single runs far out drive less "
    "than the SD: the mean distance of each configuration in B, minus that in A, by a t test over "
    "configurations (Brown and Forsythe's, paired by configuration). Distance: 95% interval of its change."
)
_VERDICTS = (
    "More or less: p is at most 0.05. Not shown: it is not, which does not say that nothing changed; the "
    "interval says what these runs leave possible. Cannot be told: these runs allow no test."
)
_CHANCE = (
    "p: how often chance alone gives a difference this large if nothing changed. q: of the metrics with this "
    "q or less, the share of false claims to expect (Benjamini and Hochberg, over the metrics here)."
)
_MEANS = (
    "Means: each configuration's mean difference, B minus A, counts once; t test and interval over "
    "configurations."
)
_INDEPENDENT = (
    "All of it takes the runs of different configurations for independent. Where equal seeds move all "
    "configurations together, and otherwise in B than in A (a seed that draws the training set, say), chance "
    "calls a change more often than 5%: about 25% where that is as large as all the rest."
)
_FLOOR = (
    "The further an accuracy is from 100%, the more it varies by its test examples alone. Where the mean "
    "fell, part of a larger spread may be that: the sampling floor of each experiment's own sheets tells."
)
RULES = (_SPREAD, _JUDGED, _VERDICTS, _CHANCE, _MEANS, _FLOOR, _INDEPENDENT)
KEY = "Distance: of runs from their configuration's median, 95% interval of its change."
RANGES = (
    "Δall, highest minus lowest of all compared runs, grows with their number. Divided by d2, the mean "
    "range of that many normal values with SD 1, it compares between numbers of runs."
)


def files(change: Change) -> Iterator[tuple[str, bytes]]:
    """``(path, content)`` of everything that ``compare --out`` writes."""
    yield "index.html", page_of(change)
    yield "change.md", (markdown(change) + "\n").encode()
    yield "change.json", dump(document(change))


def document(change: Change) -> dict[str, object]:
    """``change.json``: ``schema`` (1), then the fields of :class:`~mm_mlflow.change.Change`, those of its
    records within it; values as logged (fractions where ``unit`` is ``fraction``), null where a number is
    undefined."""
    return {"schema": 1, **change.model_dump(mode="json")}


# ---- words ----


def numbers(item: MetricChange) -> words.Numbers:
    """How values of one metric are written."""
    means = [mean for mean in (item.mean.mean_a, item.mean.mean_b) if mean is not None]
    wide = max((found.delta_all or 0.0 for found in (item.range_a, item.range_b)), default=0.0)
    low = min(means, default=0.0)
    return words.numbers(item.unit, low, max([*means, low + wide]))


def lead(change: Change) -> str:
    """How many metrics changed, and how many would be called so by chance."""
    count = {kind: len(change.verdicts(kind)) for kind in ("more", "less", "not shown")}
    text = (
        f"Of {words.plural(change.judged, 'metric')} judged, the spread within configurations is larger in "
        f"B for {count['more']}, smaller for {count['less']}, and for {count['not shown']} a change is not "
        f"shown. If nothing had changed, chance alone would call {change.expected_false:.2g} of them "
        "changed."
    )
    if not change.judged:
        text = "Whether any spread changed cannot be told with these runs."
    return text


def compared(change: Change) -> str:
    """Which runs stand beside which."""
    number = words.plural(len(change.configurations), "configuration")
    pairs = (
        "means are paired by cell (the same configuration and seed)"
        if change.pairing == "cells"
        else "means are paired by configuration"
    )
    return f"{number} in common: {_runs(change.a)} of A and {_runs(change.b)} of B; {pairs}."


def _runs(side: Side) -> str:
    if side.compared == side.runs:
        return f"all {words.plural(side.runs, 'run')}"
    return f"{side.compared:,} of {words.plural(side.runs, 'run')}"


def left_out(change: Change) -> list[str]:
    """What of either experiment has no counterpart."""
    found = []
    for name, side in (("A", change.a), ("B", change.b)):
        if side.only_here:
            number = words.plural(len(side.only_here), "configuration")
            found.append(f"Only in {name}: {number} ({_some(side.only_here)}).")
        if change.pairing == "cells" and side.unpaired:
            found.append(
                f"{words.plural(side.unpaired, 'run')} of {name} with a seed that the other lacks there: "
                "not counted for the means."
            )
    fewer = [
        item.spread.runs_judged
        for item in change.metrics
        if item.spread.runs_judged < max(item.spread.runs_a, item.spread.runs_b)
    ]
    if fewer:
        found.append(
            "Spreads are judged on as many runs of each configuration as both experiments have: "
            f"{_one_or_range(fewer)} of either. SDs are of all."
        )
    return found


def _one_or_range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(words.clip(words.clean(name), 60) for name in names[:SHOWN]) + more


def spread_sentences(change: Change) -> list[str]:
    """What became of the spreads, in words; metrics of which nothing is shown stand together."""
    told = {"more", "less"}
    found = [_spread_sentence(i, change.judged) for i in change.metrics if i.verdict in told]
    if unclear := [(title(i), i.spread.test) for i in change.verdicts("not shown")]:
        found.append(
            f"A change of the spread is not shown: {_listed(unclear)}. That is not the same as no change: "
            "the intervals say what these runs leave possible."
        )
    return [*found, *_untold("spread", [(title(i), i.spread.test) for i in change.metrics])]


def mean_sentences(change: Change) -> list[str]:
    """What became of the means, in the same way."""
    told = {"higher", "lower"}
    found = [_mean_sentence(i) for i in change.metrics if i.mean_verdict in told]
    unclear = [(title(i), i.mean.test) for i in change.metrics if i.mean_verdict == "not shown"]
    if unclear:
        found.append(f"A change of the mean is not shown: {_listed(unclear)}.")
    return [*found, *_untold("mean", [(title(i), i.mean.test) for i in change.metrics])]


def title(item: MetricChange) -> str:
    """The metric's name for people, at most as long as a sentence bears."""
    return words.clip(words.clean(item.title), 120)


def _spread_sentence(item: MetricChange, judged: int) -> str:
    how, spread = numbers(item), item.spread
    sd = f"{_value(how, spread.sd_a)} to {_points(how, spread.sd_b)}"
    distance = f"{_value(how, spread.deviation_a)} to {_points(how, spread.deviation_b)}"
    strength = _strength(spread.test, judged)
    grew = _float(spread.sd_b) > _float(spread.sd_a)
    if grew == (item.verdict == "more"):
        return f"{title(item)}: the spread within configurations went from {sd} ({strength})."
    return (
        f"{title(item)}: the mean distance of runs from their configuration's median went from {distance} "
        f"({strength}); the SD, which single runs far out drive, says otherwise: from {sd}."
    )


def _mean_sentence(item: MetricChange) -> str:
    how, mean = numbers(item), item.mean
    ends = (
        f"{_signed(how, mean.interval.low)} to {_signed(how, mean.interval.high)}"
        if mean.interval
        else ""
    )
    old, new = (how.with_unit(_float(value)) for value in (mean.mean_a, mean.mean_b))
    return (
        f"{title(item)}: the mean went from {old} to {new}, by {_signed(how, _float(mean.difference))}"
        f"{_unit(how)} (95% interval {ends}; {_p_q(mean.test)})."
    )


def _strength(test: SignificanceTest, judged: int) -> str:
    if judged > 1 and test.q is not None and test.q > ALPHA:
        return (
            f"more than chance by itself, {words.equals('p', test.p)}; among {judged} metrics it may be "
            f"chance, {words.equals('q', test.q)}"
        )
    return f"more than chance, {_p_q(test)}"


def _p_q(test: SignificanceTest) -> str:
    return f"{words.equals('p', test.p)}, {words.equals('q', test.q)}"


def _listed(tests: Sequence[tuple[str, SignificanceTest]]) -> str:
    return "; ".join(f"{name} ({words.equals('p', test.p)})" for name, test in tests)


def _untold(what: str, tests: Sequence[tuple[str, SignificanceTest]]) -> Iterator[str]:
    """Metrics of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, test in tests:
        if test.p is None:
            reasons.setdefault(why(what, test), []).append(name)
    for reason, names in reasons.items():
        yield (
            f"Whether the {what} changed cannot be told with these runs ({reason}): {'; '.join(names)}."
        )


def why(what: str, test: SignificanceTest) -> str:
    """Why a test says nothing: ``needs 2 configurations``, or what is wrong with the values."""
    if not test.needs:
        return test.reason
    more = " with 2 runs in both experiments" if what == "spread" else " in both experiments"
    return f"needs {words.plural(test.needs, 'configuration')}{more}, has {test.reason}"


def swapped(change: Change) -> str:
    """Where the exact test that swaps whole configurations stands beside the one that is judged by."""
    tests = [(item, item.spread.swap) for item in change.metrics if item.spread.test.p is not None]
    if not tests:
        return ""
    name = "The exact test, which swaps whole configurations between A and B,"
    if all(test.needs for _, test in tests):
        return (
            f"{name} cannot reach 5% with these runs (needs {tests[0][1].needs} configurations): the t "
            "test stands alone."
        )
    other = [
        f"{title(item)} ({words.equals('p', test.p)})"
        for item, test in tests
        if test.p is not None and (test.p <= ALPHA) != (item.verdict in {"more", "less"})
    ]
    if other:
        return f"{name} says otherwise of {'; '.join(other)}: take these as open."
    return f"{name} says the same of every metric that it can judge."


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _value(how: words.Numbers, value: float | None) -> str:
    return how.value(_float(value))


def _points(how: words.Numbers, value: float | None) -> str:
    return _value(how, value) + _unit(how)


def _unit(how: words.Numbers) -> str:
    return f" {how.points_word}" if how.points_word else ""


def _signed(how: words.Numbers, value: float | None) -> str:
    """With its sign, unless it rounds to 0."""
    text = how.value(_float(value))
    positive = text != words.NOTHING and float(text) > 0
    return f"+{text}" if positive else text


def _between(how: words.Numbers, interval: Interval | None) -> str:
    if interval is None:
        return words.NOTHING
    return f"{_signed(how, interval.low)} to {_signed(how, interval.high)}"


# ---- rows ----


def spread_row(item: MetricChange) -> list[str]:
    """The cells below :data:`SPREAD_HEAD`."""
    how, spread = numbers(item), item.spread
    return [
        title(item),
        _value(how, spread.sd_a),
        _value(how, spread.sd_b),
        words.NOTHING if spread.ratio is None else f"{spread.ratio:.2f}",
        _between(how, spread.interval),
        words.probability(spread.test.p),
        words.probability(spread.test.q),
        item.verdict,
    ]


def mean_row(item: MetricChange) -> list[str]:
    """The cells below :data:`MEAN_HEAD`."""
    how, mean = numbers(item), item.mean
    return [
        title(item),
        _value(how, mean.mean_a),
        _value(how, mean.mean_b),
        _signed(how, mean.difference),
        _between(how, mean.interval),
        words.probability(mean.test.p),
        words.probability(mean.test.q),
        item.mean_verdict,
    ]


def range_row(item: MetricChange) -> list[str]:
    """The cells below :data:`RANGE_HEAD`."""
    how = numbers(item)

    def half(found: Range) -> list[str]:
        return [f"{found.n:,}", _value(how, found.delta_all), _value(how, found.adjusted)]

    return [title(item), *half(item.range_a), *half(item.range_b)]


def units(change: Change) -> str:
    """In what tables are."""
    if any(item.unit == "fraction" for item in change.metrics):
        return "Means in percent, SD, distances and Δ in points, where a metric is a fraction."
    return "Values as logged."


# ---- documents ----


def _names(change: Change) -> list[tuple[str, str]]:
    return [("A", words.clean(change.a.experiment)), ("B", words.clean(change.b.experiment))]


def markdown(change: Change) -> str:
    """The comparison as one Markdown document."""
    lines = ["# What changed from A to B", ""]
    lines += [f"- {side}: {md_escape(name)}" for side, name in _names(change)]
    lines += ["", f"**{md_escape(lead(change))}** {md_escape(compared(change))}", ""]
    lines += [f"- {md_escape(text)}" for text in [*left_out(change), *change.notes]]
    for name, head, row, told in (
        ("Spread within configurations", SPREAD_HEAD, spread_row, spread_sentences(change)),
        ("Means", MEAN_HEAD, mean_row, mean_sentences(change)),
        ("Range of all compared runs", RANGE_HEAD, range_row, []),
    ):
        if change.metrics:
            rows = [[md_escape(cell) for cell in row(item)] for item in change.metrics]
            lines += ["", f"## {name}", "", *(f"- {md_escape(text)}" for text in told), ""]
            lines += md_table(head, rows)
    lines += ["", units(change)]
    if change.not_compared:
        lines += ["", "## Not compared", ""]
        lines += [
            f"- {md_escape(item.metric)}: {md_escape(item.reason)}" for item in change.not_compared
        ]
    closing = [*RULES, swapped(change), RANGES]
    lines += ["", "## How to read it", "", *(f"- {md_escape(text)}" for text in closing if text)]
    return "\n".join(lines)


def page_of(change: Change) -> bytes:
    """A page of its own: ``index.html`` of what ``compare --out`` writes."""
    title = f"{change.a.experiment} and {change.b.experiment}"
    return page(title, "".join(_parts(change))).encode()


def _parts(change: Change) -> Iterator[str]:
    yield '<p class="eyebrow">Two experiments compared</p><h1>What changed from A to B</h1>'
    facts = "".join(f"<dt>{side}</dt><dd>{escape(name)}</dd>" for side, name in _names(change))
    yield f'<dl class="facts sides">{facts}</dl>'
    yield f'<div class="lead"><p class="say">{escape(lead(change))}</p>'
    yield f"<p>{escape(compared(change))}</p></div>"
    notes = [*left_out(change), *map(words.clean, change.notes)]
    if notes:
        yield f'<ul class="notes">{_items(notes)}</ul>'
    if change.metrics:
        rows = [(spread_row(item), item.verdict) for item in change.metrics]
        yield from _section(
            "Spread within configurations", SPREAD_HEAD, rows, spread_sentences(change)
        )
        yield f'<p class="aside">{escape(units(change))} {escape(swapped(change))}</p></section>'
        means = [(mean_row(item), item.mean_verdict) for item in change.metrics]
        yield from _section("Means", MEAN_HEAD, means, mean_sentences(change))
        yield "</section>"
        ranges = [(range_row(item), "") for item in change.metrics]
        yield from _section("Range of all compared runs", RANGE_HEAD, ranges)
        yield f'<p class="aside">{escape(RANGES)}</p></section>'
    if change.not_compared:
        items = "".join(
            f"<dt><code>{escape(words.clean(item.metric))}</code></dt><dd>{escape(words.clean(item.reason))}</dd>"
            for item in change.not_compared
        )
        yield f'<section class="part"><h2>Not compared</h2><dl class="facts">{items}</dl></section>'
    yield f'<section class="part"><h2>How to read it</h2><ul class="plain">{_items(RULES)}</ul></section>'
    yield (
        '<p class="foot">Beside this page: change.json with every number, and change.md. Nothing was '
        "written to MLflow.</p>"
    )


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{_kept_together(text)}</li>" for text in texts)


def _kept_together(text: str) -> str:
    """``p = 0.012`` on one line."""
    return escape(text).replace(" = ", "\u00a0=\u00a0").replace(" &lt; ", "\u00a0&lt;\u00a0")


def _section(
    name: str,
    head: Sequence[str],
    rows: Sequence[tuple[list[str], str]],
    told: Sequence[str] = (),
) -> Iterator[str]:
    """A section without its end: sentences, and a table of ``rows`` with their verdict, which stands out
    where there is a change."""
    yield f'<section class="part"><h2>{name}</h2>'
    if told:
        yield f'<ul class="plain">{_items(told)}</ul>'
    yield box(name, len(rows))
    yield f'<table class="changes{" verdicts" if told else ""}" data-sortable><thead><tr>'
    for text in head:
        shown = escape(text).replace("Δall", DELTA_ALL).replace("d2", "d<sub>2</sub>")
        yield f'<th scope="col">{shown}</th>'
    yield "</tr></thead><tbody>"
    for (first, *others), verdict in rows:
        kind = "" if verdict in {"", "not shown", "cannot be told"} else ' class="changed"'
        yield f'<tr{kind}><th scope="row">{_kept_together(first)}</th>'
        for cell in others:
            yield f"<td>{escape(cell)}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"
