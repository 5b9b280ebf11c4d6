"""What a selection shows, in sentences: the rules behind the words stand here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mm_mlflow.render import words
from mm_mlflow.selection import Choice, Effect, Selection
from mm_mlflow.statistics.axis import ALPHA
from mm_mlflow.statistics.records import SignificanceTest
from mm_mlflow.statistics.regret import Regret
from mm_mlflow.statistics.split_half import HalfGain
from mm_mlflow.statistics.stability import CORE

CHANCE = (
    "Δ random: the mean Δ of random subsets of the same size, since fewer runs span a smaller range by "
    'chance alone. "More than a random choice would show": the mean of the selected runs is better than '
    "that of all but 5% of random choices (p ≤ 0.05). Where configurations have several runs, it is "
    "compared with the same pattern moved between whole configurations; single runs alarm too often "
    "there."
)
DETAILS = (
    "The share of random choices that are as good: a mean as good, a worst run as good, a Δ as small. "
    "whole: the selected runs' pattern is moved between whole configurations; single: any runs of the "
    "same number. The test of Δ finds little: 25% of the effects of which the mean finds 98%."
)
HALVES = (
    "Gain: how much better the selected runs are than the mean of all runs on the same examples. Same half: "
    "chosen and read on the same examples; other half: read on examples that had no part in the choice. The "
    "difference is optimism. The choice is on half as many examples as there are, so it is a little "
    "worse than the one above."
)
REGRET = (
    "Regret: how much better the best run of each metric is than the one chosen by accuracy, and than a run "
    "taken at random. The best of many runs is best partly by luck, which makes both too large"
)
REGRET_HALVES = (
    "; on halves, both runs are chosen on one half of the test examples and read on the other, which is "
    "free of that."
)


def test_of(effect: Effect) -> SignificanceTest | None:
    """The test that speaks: of the mean, or of the range where nobody knows which way is better."""
    if effect.subsets is None:
        return None
    statistic = effect.subsets.mean if effect.higher_is_better is not None else effect.subsets.range
    return statistic.test


def verdict(effect: Effect) -> str:
    """What the selection did to a metric that it did not look at, without capital and full stop."""
    if effect.selected_on:
        return "selected on"
    if effect.sharing in {"yes", "likely"}:
        may = "may share" if effect.sharing == "likely" else "shares"
        return f"no claim: {may} its examples with what was selected on"
    test = test_of(effect)
    if test is None or effect.subsets is None:
        return "no claim"
    if test.p is None:
        return f"cannot be told: {test.reason}"
    runs = words.plural(effect.after.n, "run")
    if test.smallest_p is not None and test.smallest_p > ALPHA:
        return f"cannot be told with these runs: at best p = {words.probability(test.smallest_p)}"
    what, q = ("", effect.q) if effect.higher_is_better is not None else ("Δ: ", None)
    told = words.equals("p", test.p) + (
        f", {words.equals('q', q)}" if q is not None and q != test.p else ""
    )
    if test.p <= ALPHA:
        text = f"{what}more than a random choice of {runs} would show ({told})"
    else:
        text = f"{what}not clearly more than a random choice of {runs} shows ({told})"
    if effect.sharing == "unknown":
        text += ", if its examples are not those selected on"
    return text


def claimed(effect: Effect) -> bool:
    """Whether the verdict claims an effect: never where nobody knows whether examples are shared."""
    test = test_of(effect)
    return effect.sharing == "no" and test is not None and test.p is not None and test.p <= ALPHA


def judged(selection: Selection) -> str:
    """How many comparisons were made, and how many false claims to expect."""
    if not selection.judged:
        return ""
    return (
        f"{words.plural(selection.judged, 'comparison')} with random choices: by chance alone about "
        f"{ALPHA * selection.judged:.2g} of them would be claimed. q corrects for their number "
        "(Benjamini and Hochberg): of the claims at q ≤ 0.05, at most 5% are expected to be false."
    )


# ---- tables: heads and cells ----


@dataclass(frozen=True)
class Columns:
    """A table: groups of columns as ``(group, heads)``, and rows whose first cell is a name."""

    label: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def flat(self) -> list[str]:
        """Heads on one line, for formats without groups."""
        heads = [self.label]
        for group, names in self.groups:
            first, *rest = names
            heads += [f"{group} {first}".strip(), *rest]
        return heads


def effects(choice: Choice) -> Columns:
    """Every metric before and after."""
    groups = (("Mean", ("before", "after")), ("Worst run", ("before", "after")),
              ("Δall", ("before", "after", "random")))  # fmt: skip
    return Columns("Metric", groups, tuple(_effect(effect) for effect in choice.effects))


def _effect(effect: Effect) -> tuple[str, ...]:
    how = words.numbers(effect.unit, effect.before.low, effect.before.high)
    chance, spreads = effect.chance, (effect.before, effect.after)
    return (
        title(effect.title, selected_on=effect.selected_on),
        *(how.value(spread.mean) for spread in spreads),
        *(how.value(spread.worst(effect.higher_is_better)) for spread in spreads),
        *(how.value(spread.delta) for spread in spreads),
        how.value(chance.delta) if chance and effect.after.n > 1 else words.NOTHING,
    )


def title(text: str, *, selected_on: bool = False) -> str:
    """A metric's name for a table."""
    return words.clip(words.clean(text + (" (selected on)" if selected_on else "")), 160)


def details(choice: Choice) -> Columns | None:
    """The p of every comparison with random choices; None where there is none."""
    tested = [e for e in choice.effects if e.subsets is not None and not e.subsets.reason]
    if not tested:
        return None
    whole = any(e.subsets.range.configurations for e in tested if e.subsets)
    heads = ("whole", "single") if whole else ("single",)
    rows = []
    for effect in tested:
        assert effect.subsets is not None
        cells = [title(effect.title)]
        for statistic in (effect.subsets.mean, effect.subsets.worst, effect.subsets.range):
            moved = statistic.configurations
            cells += [words.probability(moved.p if moved else None)] if whole else []
            cells.append(words.probability(statistic.runs.p))
            if statistic is effect.subsets.mean:
                cells.append(words.probability(effect.q))
        rows.append(tuple(cells))
    groups = (("Mean", (*heads, "q")), ("Worst run", heads), ("Δall", heads))
    return Columns("Metric", groups, tuple(rows))


def halves(choice: Choice) -> Columns | None:
    """Gains on halves of the test examples; None where there are none."""
    if choice.halves is None or not choice.halves.gains:
        return None
    named = {effect.metric: effect for effect in choice.effects}
    rows = []
    for gain in choice.halves.gains:
        effect = named.get(gain.metric)
        if effect is None:  # accuracy, there for the regret alone
            continue
        how = words.numbers(effect.unit, effect.before.low, effect.before.high)
        rows.append((
            title(effect.title, selected_on=effect.selected_on),
            *(signed(how, value) for value in (gain.same_half, gain.other_half, gain.optimism)),
        ))  # fmt: skip
    heads = ("same half", "other half", "optimism")
    return Columns("Metric", (("Gain", heads),), tuple(rows))


def signed(how: words.Numbers, value: float) -> str:
    """``+0.40``: a gain or a loss."""
    text = how.value(value)
    return text if text.startswith("-") or text == words.NOTHING else f"+{text}"


def regrets(selection: Selection) -> Columns | None:
    """What choosing by accuracy alone costs; None without accuracy."""
    if not selection.regrets:
        return None
    on_halves = any(found.halves for found in selection.regrets)
    known = {effect.metric: effect for choice in selection.choices for effect in choice.effects}
    rows = [_regret(found, known[found.metric], on_halves=on_halves) for found in selection.regrets]
    groups: list[tuple[str, tuple[str, ...]]] = [
        ("Best run", ("by accuracy", "by itself")), ("Regret", ("chosen", "random"))
    ]  # fmt: skip
    if on_halves:
        groups.append(("On halves", ("chosen", "random")))
    return Columns("Metric", tuple(groups), tuple(rows))


def _regret(found: Regret, effect: Effect, *, on_halves: bool) -> tuple[str, ...]:
    how = words.numbers(effect.unit, effect.before.low, effect.before.high)
    cells = [
        title(effect.title),
        *map(how.value, (found.chosen, found.best, found.regret, found.random_regret)),
    ]
    if on_halves:
        there = found.halves
        cells += [how.value(there.regret), how.value(there.random_regret)] if there else ["–", "–"]
    return tuple(cells)


# ---- sentences ----


def half_sentences(choice: Choice) -> Iterator[str]:
    """What choosing on one half and reading on the other shows."""
    found = choice.halves
    if found is None:
        return
    if not found.gains:
        yield "On no half of the test examples was any run selected."
        return
    named = {effect.metric: effect for effect in choice.effects}
    first = next((gain for gain in found.gains if gain.metric in named), None)
    if first is not None:
        yield _half_sentence(first, named[first.metric])
    if found.empty:
        yield (
            f"{100 * found.empty:.0f}% of the choices on halves selected no run, and are left out."
        )


def _half_sentence(gain: HalfGain, effect: Effect) -> str:
    how = words.numbers(effect.unit, effect.before.low, effect.before.high)
    name = words.clip(words.clean(effect.title), 100)
    points = f" {how.points_word}".rstrip()
    return (
        f"Chosen on one half of the test examples, the selected runs beat the mean run there by "
        f"{signed(how, gain.same_half)}{points} in {name}; on the other half, by "
        f"{signed(how, gain.other_half)}{points}."
    )


def stability_sentences(choice: Choice) -> Iterator[str]:
    """How much of the selection would be the same with other test examples."""
    found = choice.stability
    if found is None:
        return
    if found.jaccard is None or found.jaccard_by_chance is None:
        yield (
            f"With other test examples of the same kind, {found.mean_selected:.1f} runs would be "
            "selected on average."
        )
    else:
        yield (
            "With other test examples of the same kind, the selection would overlap with this one by "
            f"{100 * found.jaccard:.0f}% on average (runs in both, of the runs in either); a random "
            f"selection would by {100 * found.jaccard_by_chance:.0f}%."
        )
    share = f"{100 * CORE:.0f}%"
    some = f"{words.plural(found.core, 'run')} {'is' if found.core == 1 else 'are'}"
    yield (
        f"{some if found.core else 'No run is'} selected in at least {share} of "
        f"{words.plural(found.resamples, 'resample')}."
    )


def shares(selection: Selection, choice: Choice) -> str:
    """Selected runs, and runs that are as often selected as not, with how often; the most often first."""
    if choice.stability is None:
        return ""
    label = selection.labels
    often = [run for run in choice.stability.runs if run.selected or run.share >= 0.5]
    often.sort(key=lambda run: -run.share)
    told = [
        f"{label.get(run.run_id, run.run_id)} {100 * run.share:.0f}%"
        + ("" if run.selected else " (not selected)")
        for run in often
    ]
    return ", ".join(told)


def unhalved(selection: Selection) -> str:
    """Which metrics are not on halves, and why."""
    if not selection.unhalved:
        return ""
    told = "; ".join(f"{words.clean(key)}: {why}" for key, why in selection.unhalved.items())
    return words.sentence(f"Not on halves: {words.clip(told, 600)}")
