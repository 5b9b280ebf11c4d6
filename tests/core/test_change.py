"""Two experiments matched and compared, metric by metric; what is said of it."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mm_mlflow.change import Change, compare
from mm_mlflow.design import Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import ExperimentRef, Frame, RawRun, conform
from mm_mlflow.inference import Asked, infer
from mm_mlflow.plan import Plan, plan_of
from mm_mlflow.render import change as render

RECORD = {
    "intervention": "accuracy", "version": 1, "parameters": {}, "split": "test", "split_digest": "d" * 64,
    "n": 1000, "unit": "fraction", "higher_is_better": True, "title": "Accuracy",
}  # fmt: skip


def design(*, seeds: Any = 5, name: str = "d", **axes: Any) -> Design:
    """A star of ``axes``, the first level of each being the default."""
    axes = axes or {
        "learning_rate": [0.1, 0.05, 0.01],
        "batch_size": [64, 32, 160],
        "momentum": [0.9, 0.8],
    }
    return Design.model_validate(
        {
            "name": name,
            "dataset": {"name": "x"},
            "training": {"epochs": 1},
            "default": {axis: levels[0] for axis, levels in axes.items()},
            "axes": axes,
            "seeds": seeds,
        }
    )


def frame(
    planned: Design,
    value: Callable[[str, int], Mapping[str, float]],
    *,
    name: str = "a",
    records: Mapping[str, Any] | None = None,
    health: Callable[[int], str] = lambda _: "ok",
    skip: Callable[[int], bool] = lambda _: False,
    shuffled: bool = False,
) -> Frame:
    """Runs whose metrics are ``value(configuration, seed)``; ``health`` and ``skip`` by position."""
    runs = [
        RawRun(
            run_id=f"{name}{i}", name=cell.label, status="FINISHED", start_time=i, end_time=i + 1,
            params={},
            tags={
                "mm.kind": "cell", "mm.schema": "1", "mm.cell": cell.id, "mm.health": health(i),
                "mm.dataset": "e" * 64,
            },
            metrics=dict(value(cell.configuration, cell.seed)),
            records={"accuracy": RECORD} if records is None else records,
        )
        for i, cell in enumerate(planned.cells())
        if not skip(i)
    ]  # fmt: skip
    if shuffled:
        random.Random(0).shuffle(runs)
    return conform(runs, planned, ExperimentRef(name, name))


def drawn(
    scale: float, salt: str = "", *, shift: float = 0.0
) -> Callable[[str, int], dict[str, float]]:
    """Accuracies that depend on configuration and seed alone."""

    def value(configuration: str, seed: int) -> dict[str, float]:
        rng = random.Random(f"{salt} {configuration} {seed}")
        centre = random.Random(f"{salt} {configuration}").gauss(0.9, 0.01)
        return {"accuracy": centre + shift + scale * rng.gauss(0, 1)}

    return value


def both(change_b: float = 1.0, **settings: Any) -> Change:
    """A star of 6 configurations x 5 seeds, and the same with its spread times ``change_b``."""
    one = frame(design(), drawn(0.004, "a"))
    other = frame(design(), drawn(0.004 * change_b, "b"), name="b", **settings)
    return compare(one, design(), other, design())


def tables(found: Frame) -> np.ndarray:
    """``(C, S)`` accuracies by configuration, with pandas alone."""
    cells = found.cells.assign(value=found.values["accuracy"])
    wide = cells.pivot_table("value", "configuration", "seed", sort=False)
    return np.asarray(wide.to_numpy(dtype=float))


def test_numbers_are_those_of_the_runs() -> None:
    """Recomputed with pandas and scipy: SD, deviations, means, ranges, tests."""
    one = frame(design(), drawn(0.004, "a"), shuffled=True)
    other = frame(design(), drawn(0.009, "b", shift=-0.02), name="b", shuffled=True)
    found = compare(one, design(), other, design())
    (item,) = found.metrics
    x, y = tables(one), tables(other)
    distances = [np.abs(t - np.median(t, axis=1, keepdims=True)).mean(axis=1) for t in (x, y)]
    assert item.spread.test.p == pytest.approx(stats.ttest_rel(*distances).pvalue)
    assert item.spread.sd_b == pytest.approx(math.sqrt(y.var(axis=1, ddof=1).mean()))
    assert item.mean.test.p == pytest.approx(stats.ttest_rel(x.mean(axis=1), y.mean(axis=1)).pvalue)
    assert item.mean.difference == pytest.approx(y.mean() - x.mean())
    assert item.range_a.delta_all == pytest.approx(np.ptp(x))
    assert item.range_a.n == 30
    # d2(30), Tippett's table
    assert item.range_a.adjusted == pytest.approx(np.ptp(x) / 4.0855, rel=1e-4)
    assert (item.verdict, item.mean_verdict) == (
        "more",
        "lower" if item.mean.test.p < 0.05 else "not shown",
    )
    assert (found.pairing, len(found.configurations), item.mean.cells) == ("cells", 6, 30)
    assert (found.a.compared, found.a.unpaired, found.a.only_here) == (30, 0, [])
    assert (item.spread.test.q, item.mean.test.q) == (item.spread.test.p, item.mean.test.p)


def test_mirrored() -> None:
    """B against A: less where it was more, by the same p."""
    one, other = frame(design(), drawn(0.004, "a")), frame(design(), drawn(0.01, "b"), name="b")
    there, back = compare(one, design(), other, design()), compare(other, design(), one, design())
    assert (there.metrics[0].verdict, back.metrics[0].verdict) == ("more", "less")
    assert there.metrics[0].spread.test.p == pytest.approx(back.metrics[0].spread.test.p)
    assert there.metrics[0].range_a == back.metrics[0].range_b


def test_seeds_and_configurations_that_one_lacks() -> None:
    """Spreads use all runs of common configurations, means the common cells; the rest is counted."""
    planned_a = design(learning_rate=[0.1, 0.05, 0.01], seeds=[0, 1, 2, 3])
    planned_b = design(learning_rate=[0.1, 0.05, 0.001], seeds=[2, 3, 4], name="e")
    one, other = frame(planned_a, drawn(0.004)), frame(planned_b, drawn(0.004, "b"), name="b")
    found = compare(one, planned_a, other, planned_b)
    (item,) = found.metrics
    assert (item.spread.configurations, item.spread.runs_a, item.spread.runs_b) == (2, 8, 6)
    x, y = tables(one)[:2], tables(other)[:2]
    # Seeds 2 and 3 are in both; A's next is 0, B's 4.
    judged = [x[:, [2, 3, 0]], y[:, [0, 1, 2]]]
    distances = [np.abs(t - np.median(t, axis=1, keepdims=True)).mean(axis=1) for t in judged]
    assert item.spread.test.p == pytest.approx(stats.ttest_rel(*distances).pvalue)
    assert (item.mean.configurations, item.mean.cells) == (2, 4)
    assert (found.a.compared, found.a.unpaired, found.b.unpaired) == (8, 4, 2)
    assert found.a.only_here == ["learning_rate=0.01"]
    assert found.b.only_here == ["learning_rate=0.001"]
    cells = one.cells.assign(value=one.values["accuracy"])
    kept = cells[(cells["configuration"] != "learning_rate=0.01") & cells["seed"].isin([2, 3])]
    assert item.mean.mean_a == pytest.approx(kept["value"].mean())
    text = render.markdown(found)
    assert "Only in A: 1 configuration (learning\\_rate=0.01)." in text
    assert "4 runs of A with a seed that the other lacks there" in text


def test_without_common_seeds_means_are_paired_by_configuration() -> None:
    """All runs of a configuration count, and it is said."""
    planned_a, planned_b = design(seeds=[0, 1, 2]), design(seeds=[10, 11])
    one, other = frame(planned_a, drawn(0.004)), frame(planned_b, drawn(0.004, "b"), name="b")
    found = compare(one, planned_a, other, planned_b)
    assert found.pairing == "configurations"
    assert any("share no seed" in note for note in found.notes)
    x, y = tables(one).mean(axis=1), tables(other).mean(axis=1)
    assert found.metrics[0].mean.test.p == pytest.approx(stats.ttest_rel(x, y).pvalue)
    assert (found.a.unpaired, found.b.unpaired) == (18, 12)


def test_shared_seeds_are_warned_of() -> None:
    """Where a design declares them, the tests rest on what may not hold."""
    one, other = frame(design(), drawn(0.01)), frame(design(), drawn(0.01, "b"), name="b")
    found = compare(one, design(), other, replace(plan_of(design()), shared_seed=True))
    (note,) = found.notes
    assert note.startswith("The design of B declares that equal seeds share more than a label")


def test_an_axis_with_one_level_in_each_matches_nothing_out() -> None:
    """It may be what was changed: said, and not matched by."""
    planned_a = design(learning_rate=[0.1, 0.05], optimizer=["sgd"])
    planned_b = design(learning_rate=[0.1, 0.05], optimizer=["adam"])
    found = compare(
        frame(planned_a, drawn(0.01)), planned_a, frame(planned_b, drawn(0.01, "b")), planned_b
    )
    assert len(found.configurations) == 2
    assert "optimizer is sgd in A and adam in B." in found.notes


def test_an_axis_of_one_experiment_is_held_at_its_default() -> None:
    """Where it has one; else it is refused."""
    planned_a = design(learning_rate=[0.1, 0.05, 0.01], optimizer=["sgd", "adam"])
    planned_b = design(learning_rate=[0.1, 0.05, 0.01])
    one, other = frame(planned_a, drawn(0.01)), frame(planned_b, drawn(0.01, "b"), name="b")
    found = compare(one, planned_a, other, planned_b)
    assert len(found.configurations) == 3
    assert found.a.only_here == ["optimizer=adam"]
    assert (
        "optimizer is an axis of A alone: its runs at the default, sgd, are compared."
        in found.notes
    )
    with pytest.raises(
        InvalidInput, match=r"axis 'optimizer' is not allowed: it is in experiment 'a' alone"
    ):
        compare(one, replace(plan_of(planned_a), default={}), other, planned_b)


def test_nothing_in_common() -> None:
    """One line that names the axis."""
    planned_a, planned_b = (
        design(batch_size=[1, 2], momentum=[0.9, 0.8]),
        design(batch_size=[3], momentum=[0.9, 0.8]),
    )
    with pytest.raises(InvalidInput) as caught:
        compare(
            frame(planned_a, drawn(1)), planned_a, frame(planned_b, drawn(1), name="b"), planned_b
        )
    assert str(caught.value) == (
        "experiments 'a' and 'b' have no configuration in common: batch_size is 1, 2 in the first and 3 in "
        "the second"
    )


def test_diverged_and_missing_runs() -> None:
    """Diverged ones are counted and left out; what has no run is said."""
    plain = both(1.0)
    found = both(
        1.0, health=lambda i: "diverged: loss" if i == 7 else "ok", skip=lambda i: i in {1, 2}
    )
    assert (found.b.diverged, found.b.runs, found.b.compared) == (1, 27, 27)
    assert "Diverged, and not compared: 1 run of B." in found.notes
    assert "Without a run: 2 of the 30 cells of B." in found.notes
    assert found.metrics[0].spread.runs_b == 27
    assert found.metrics[0].spread.runs_judged == 27
    assert "judged on as many runs" in " ".join(render.left_out(found))
    assert render.left_out(plain) == []
    assert plain.notes == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"split_digest": "f" * 64}, "data is dddddddddddd… in A and ffffffffffff… in B"),
    ({"n": 900}, "number of examples is 1000 in A and 900 in B"),
    ({"parameters": {"steps": 40}}, "steps is None in A and 40 in B"),
    ({"version": 2}, "version is 1 in A and 2 in B"),
    ({"higher_is_better": False}, "in A more is said to be better, in B less"),
    ({"unit": "raw"}, "unit is fraction in A and raw in B"),
]


@pytest.mark.parametrize(("other", "reason"), REFUSED)
def test_metrics_measured_differently_are_not_compared(other: dict[str, Any], reason: str) -> None:
    """With the reason, while the others are."""
    records = {"accuracy": RECORD, "m": {**RECORD, **other}}

    def value(configuration: str, seed: int) -> dict[str, float]:
        same = drawn(0.01)(configuration, seed)["accuracy"]
        return {"accuracy": same, "m": same}

    one = frame(design(), value, records={"accuracy": RECORD, "m": RECORD})
    found = compare(one, design(), frame(design(), value, name="b", records=records), design())
    (left,) = found.not_compared
    assert left.metric == "m"
    assert left.reason.endswith(reason)
    assert [item.metric for item in found.metrics] == ["accuracy"]
    assert reason in render.markdown(found)
    assert reason in render.page_of(found).decode()


def test_other_reasons_not_to_compare() -> None:
    """Only one has it; only one says how it was measured; runs of one experiment disagree."""

    def value(configuration: str, seed: int) -> dict[str, float]:
        return {"accuracy": 0.5, "odd": 0.5, "mixed": 0.5 + seed / 100}

    one = frame(design(), value, records={"accuracy": RECORD, "odd": RECORD, "mixed": RECORD})
    other = frame(
        design(), lambda *a: {**value(*a), "own": 1.0}, name="b", records={"mixed": RECORD}
    )
    other = replace(other, conflicts={"mixed": ("b1", "b2")})
    found = compare(one, design(), other, design(), ["odd", "own", "mixed"])
    assert {item.metric: item.reason for item in found.not_compared} == {
        "odd": "nothing says how it was measured in B",
        "own": "no run of A has a value",
        "mixed": "runs of B were measured with different parameters",
    }
    assert found.metrics == []
    assert (found.judged, found.expected_false) == (0, 0)
    assert "cannot be told" in render.lead(found)
    with pytest.raises(InvalidInput, match=r"unknown metric 'nope'"):
        compare(one, design(), other, design(), ["nope"])


def many(factors: list[float]) -> Change:
    """As many metrics, each with its spread times a factor in B."""
    records = {f"m{i}": {**RECORD, "title": f"Metric {i}"} for i in range(len(factors))}

    def values(salt: str, scales: list[float]) -> Callable[[str, int], dict[str, float]]:
        return lambda *cell: {
            f"m{i}": drawn(0.004 * scale, f"{salt}{i}")(*cell)["accuracy"]
            for i, scale in enumerate(scales)
        }

    one = frame(design(), values("a", [1.0] * len(factors)), records=records)
    other = frame(design(), values("b", factors), name="b", records=records)
    return compare(one, design(), other, design())


def test_q_is_over_the_metrics() -> None:
    """Benjamini and Hochberg by hand, spreads and means apart; and how many false claims to expect."""
    found = many([1, 3, 1, 0.3, 1, 1])
    for tests in (
        [item.spread.test for item in found.metrics],
        [item.mean.test for item in found.metrics],
    ):
        ps = [test.p for test in tests]
        order = np.argsort(np.array(ps, dtype=float))
        q = math.inf
        for rank in range(len(order), 0, -1):
            test = tests[order[rank - 1]]
            assert test.p is not None
            q = min(q, test.p * len(order) / rank)
            assert test.q == pytest.approx(min(q, 1))
    assert (found.judged, found.expected_false) == (6, pytest.approx(0.3))
    assert "Of 6 metrics judged" in render.lead(found)
    assert "chance alone would call 0.3 of them changed" in render.lead(found)


def test_verdicts_in_words() -> None:
    """What changed has a sentence with SD, p and q; what is not shown is not called unchanged."""
    found = many([1, 3, 1])
    told = render.spread_sentences(found)
    item = found.metrics[1]
    assert item.verdict == "more"
    assert item.spread.sd_a is not None
    assert item.spread.sd_b is not None
    sentence = next(text for text in told if text.startswith("Metric 1: "))
    assert sentence.startswith(
        f"Metric 1: the spread within configurations went from {100 * item.spread.sd_a:.2f} to "
        f"{100 * item.spread.sd_b:.2f} points (more than chance, p "
    )
    unclear = [m.title for m in found.metrics if m.verdict == "not shown"]
    assert unclear
    assert told[-1].startswith(f"A change of the spread is not shown: {unclear[0]} (p = ")
    assert "not the same as no change" in told[-1]
    everything = " ".join([*told, *render.mean_sentences(found), render.lead(found)])
    assert not re.search(r"no more than chance|did not change|unchanged", everything)


def test_a_claim_that_does_not_stand_among_the_others() -> None:
    """At most 5% by p and q above: said with the verdict."""
    found = both(3.0)
    (item,) = found.metrics
    weak = item.spread.test.model_copy(update={"p": 0.04, "q": 0.24})
    item = item.model_copy(update={"spread": item.spread.model_copy(update={"test": weak})})
    found = found.model_copy(update={"metrics": [item], "judged": 6})
    (sentence,) = render.spread_sentences(found)
    assert (
        "(more than chance by itself, p = 0.04; among 6 metrics it may be chance, q = 0.24)"
        in sentence
    )


def test_where_the_sd_says_otherwise() -> None:
    """One run far out in A: B's runs lie further from their median all the same, and both are told."""
    far = drawn(0.001, "a")

    def value(configuration: str, seed: int) -> dict[str, float]:
        found = far(configuration, seed)["accuracy"]
        return {"accuracy": found - (0.02 if (configuration, seed) == ("default", 0) else 0)}

    one = frame(design(), value)
    found = compare(one, design(), frame(design(), drawn(0.0035, "b"), name="b"), design())
    (item,) = found.metrics
    item = item.model_copy(
        update={"verdict": "more", "spread": item.spread.model_copy(update={"sd_b": 0.002})}
    )
    (sentence,) = render.spread_sentences(found.model_copy(update={"metrics": [item]}))
    assert "the mean distance of runs from their configuration's median went from" in sentence
    assert "the SD, which single runs far out drive, says otherwise" in sentence


def test_what_cannot_be_told() -> None:
    """One configuration, or one run of each: what would be needed, never "no change"."""
    single = design(seeds=5, momentum=[0.9])
    found = compare(frame(single, drawn(1)), single, frame(single, drawn(2), name="b"), single)
    assert found.metrics[0].verdict == found.metrics[0].mean_verdict == "cannot be told"
    (sentence,) = render.spread_sentences(found)
    assert sentence == (
        "Whether the spread changed cannot be told with these runs (needs 2 configurations with 2 runs in "
        "both experiments, has 1 configuration to compare): Accuracy."
    )
    once = design(seeds=1)
    found = compare(frame(once, drawn(0.1)), once, frame(once, drawn(0.1, "b"), name="b"), once)
    assert found.metrics[0].verdict == "cannot be told"
    assert found.metrics[0].mean_verdict != "cannot be told"
    few = design(momentum=[0.9, 0.8, 0.7])
    found = compare(frame(few, drawn(0.1)), few, frame(few, drawn(0.1, "b"), name="b"), few)
    assert "cannot reach 5% with these runs (needs 6 configurations)" in render.swapped(found)
    same = compare(frame(few, drawn(0.0)), few, frame(few, drawn(0.0), name="b"), few)
    assert "no two runs of a configuration differ" in render.spread_sentences(same)[0]


def strangers(name: str, scale: float, **fixed: str) -> tuple[Frame, Plan]:
    """Runs of another program: 6 learning rates, 3 runs each, numbered only."""
    runs = [
        RawRun(
            run_id=f"{name}{i}{j}", name="run", status="FINISHED", start_time=10 * i + j, end_time=99,
            params={"lr": str(0.1 / (i + 1)), **fixed}, tags={},
            metrics={"val_loss": 2 + random.Random(f"{name}{i}{j}").gauss(0, scale)},
        )
        for i in range(6)
        for j in range(3)
    ]  # fmt: skip
    return infer(runs, ExperimentRef(name, name), Asked(duplicates="as-replicates"))


def test_runs_of_other_programs() -> None:
    """Numbered runs are no pairs; nothing says how their metric was measured; values as logged."""
    one, other = strangers("a", 0.01), strangers("b", 0.2, optimizer="adam")
    found = compare(*one, *other)
    assert found.pairing == "configurations"
    assert (found.metrics[0].verdict, found.metrics[0].unit) == ("more", "raw")
    assert any(note.startswith("Nothing says how these were measured") for note in found.notes)
    assert "points" not in render.spread_sentences(found)[0]
    assert render.units(found) == "Values as logged."


def test_documents() -> None:
    """JSON comes back as the same record; the page is whole, escaped and loads nothing."""
    found = both(2.5)
    document = json.loads(dict(render.files(found))["change.json"])
    assert document.pop("schema") == 1
    assert Change.model_validate(document) == found
    hostile = found.model_copy(
        update={"a": found.a.model_copy(update={"experiment": "<script>alert(1)</script>|x"})}
    )
    page = dict(render.files(hostile))["index.html"].decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(?:src|href)="http', page)
    markdown = dict(render.files(hostile))["change.md"].decode()
    assert "<script>" not in markdown
    assert "\\|x" in markdown
    for rule in render.RULES:
        assert rule[:60].split("<")[0] in markdown

    class Closed(HTMLParser):
        depth = 0

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.depth += tag not in {"meta", "br"}

        def handle_endtag(self, tag: str) -> None:
            self.depth -= 1

    parser = Closed()
    parser.feed(page)
    assert parser.depth == 0
