"""Selection: rules, masks, and what random subsets of the same size show."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_mlflow import rules
from mm_mlflow.design import Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import ExperimentRef, Frame, RawRun, conform
from mm_mlflow.inference import infer
from mm_mlflow.render import selection as render
from mm_mlflow.render import selection_words as words
from mm_mlflow.rules import Pareto, Require, Top
from mm_mlflow.selection import (
    Effect,
    build_selection,
    pareto_front,
    select,
    thresholds,
    top_fraction,
)
from mm_mlflow.sheet import build_sheet
from mm_mlflow.statistics.outcomes import Outcomes
from mm_mlflow.statistics.subsets import random_subsets


def frame_of(values: dict[str, list[float]], records: dict[str, Any] | None = None) -> Frame:
    """One run per position; its values may hold NaN, which MLflow then returns."""
    number = len(next(iter(values.values())))
    design = Design.parse(f"""
name: d
dataset: {{name: x}}
training: {{epochs: 1}}
default: {{batch_size: 1}}
axes: {{batch_size: [1]}}
seeds: {number}
""")
    runs = [
        RawRun(
            run_id=f"run{i}", name=cell.label, status="FINISHED", start_time=0, end_time=1, params={},
            tags={"mm.kind": "cell", "mm.schema": "1", "mm.cell": cell.id, "mm.health": "ok"},
            metrics={key: column[i] for key, column in values.items()},
            records=records or {},
        )
        for i, cell in enumerate(design.cells())
    ]  # fmt: skip
    frame = conform(runs, design, ExperimentRef("1", "x"))
    unknown = [k for k in values if "higher_is_better" not in (records or {}).get(k, {})]
    return frame.with_directions(unknown, [])


def chosen(mask: Any) -> list[int]:
    return np.flatnonzero(mask.to_numpy()).tolist()


# Few distinct values, so that ties abound; two runs at least.
GRID = st.integers(2, 12).flatmap(
    lambda n: st.lists(
        st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), min_size=n, max_size=n),
        min_size=1, max_size=4,
    )
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(GRID, st.sampled_from([Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1)]))
def test_top_is_the_intersection_of_each_metrics_best(
    columns: list[list[float]], fraction: Fraction
) -> None:
    """A run is in iff, in every metric, fewer than ⌈k n⌉ runs are better: ties with the last stay."""
    values = {f"m{i}": column for i, column in enumerate(columns)}
    count = math.ceil(fraction * len(columns[0]))
    expected = [
        run
        for run in range(len(columns[0]))
        if all(sum(other > column[run] for other in column) < count for column in columns)
    ]
    assert chosen(top_fraction(frame_of(values), list(values), fraction)) == expected


@settings(max_examples=100, deadline=None)
@given(GRID)
def test_a_larger_share_contains_a_smaller_one(columns: list[list[float]]) -> None:
    """Top 50% is inside top 75% is inside all."""
    values = {f"m{i}": column for i, column in enumerate(columns)}
    frame = frame_of(values)
    half, most, all_of = (
        set(chosen(top_fraction(frame, list(values), share))) for share in ("50%", 0.75, 1)
    )
    assert half <= most <= all_of == set(range(len(columns[0])))


@settings(max_examples=100, deadline=None)
@given(GRID)
def test_pareto_equals_a_double_loop_and_survives_monotone_transforms(
    columns: list[list[float]],
) -> None:
    """Equal runs stay together; only the order of values within a metric matters."""
    values = {f"m{i}": column for i, column in enumerate(columns)}
    points = list(zip(*columns, strict=True))
    expected = []
    for i, one in enumerate(points):
        dominated = False
        for other in points:
            if all(b >= a for a, b in zip(one, other, strict=True)) and one != other:
                dominated = True
        if not dominated:
            expected.append(i)
    frame = frame_of(values)
    assert chosen(pareto_front(frame, list(values))) == expected
    cubed = {key: [value**3 for value in column] for key, column in values.items()}
    assert chosen(pareto_front(frame_of(cubed), list(values))) == expected


@pytest.mark.parametrize("seed", range(20))
def test_pareto_equals_optuna(seed: int) -> None:
    """Against ``best_trials``, with one metric of three to be made small, and ties."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 6, (25, 3)) / 5
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "maximize", "minimize"])
    for row in table:
        study.add_trial(optuna.trial.create_trial(values=list(row)))
    records = {"gap": {"intervention": "x", "higher_is_better": False}}
    frame = frame_of(
        {"a": list(table[:, 0]), "b": list(table[:, 1]), "gap": list(table[:, 2])}, records
    )
    expected = sorted(trial.number for trial in study.best_trials)
    assert chosen(pareto_front(frame, ["a", "b", "gap"])) == expected


def test_small_is_good_where_the_metric_says_so() -> None:
    """The top of a gap is its smallest values."""
    records = {"gap": {"higher_is_better": False}}
    frame = frame_of({"gap": [0.1, 0.4, 0.2, 0.3]}, records)
    assert chosen(top_fraction(frame, ["gap"], 0.5)) == [0, 2]


def test_metrics_of_unknown_direction() -> None:
    """More is better, or less, where a record or the user says it; else there is no best."""
    values = {"a": [1.0, 2.0, 3.0, 4.0], "loss": [1.0, 2.0, 3.0, 4.0]}
    frame = replace(frame_of(values), directions={})
    assert frame.higher_is_better("loss") is None
    for rule in (Top(Fraction(1, 2)), Pareto()):
        with pytest.raises(
            InvalidInput, match="nothing says whether more of metric 'loss' is better"
        ):
            select(frame, rule, ["loss"])
    told = frame.with_directions(["a"], ["loss"])
    assert chosen(select(told, Top(Fraction(1, 2)), ["loss"])) == [0, 1]
    assert chosen(select(told, Pareto(), ["a", "loss"])) == [0, 1, 2, 3]
    assert chosen(select(told, Pareto(), ["a"])) == [3]
    with pytest.raises(
        InvalidInput, match="minimize 'a' is not allowed: it is to be maximized too"
    ):
        frame.with_directions(["a"], ["a"])
    known = frame_of(values, {"a": {"higher_is_better": True}})
    with pytest.raises(InvalidInput, match="minimize 'a' is not allowed: more of it is better"):
        known.with_directions([], ["a"])


def test_runs_without_a_value_are_not_counted() -> None:
    """N is the number of runs with a finite value of each metric: 2 of 4 here, so half is one."""
    frame = frame_of({"a": [0.9, 0.8, math.nan, 1.0], "b": [0.5, 0.6, 0.9, math.nan]})
    assert chosen(top_fraction(frame, ["a", "b"], 1)) == [0, 1]
    assert chosen(top_fraction(frame, ["a"], "50%")) == [0, 3]  # n is 3
    assert chosen(top_fraction(frame, ["a", "b"], "50%")) == []
    assert chosen(pareto_front(frame, ["a", "b"])) == [0, 1]
    assert chosen(thresholds(frame, [rules.parse_threshold("a>=0.85")])) == [0, 3]


def test_shares_are_exact() -> None:
    """0.07 of 100 runs are 7, though 0.07 * 100 is 7.000000000000001."""
    frame = frame_of({"a": [i / 100 for i in range(100)]})
    assert len(chosen(top_fraction(frame, ["a"], 0.07))) == 7
    assert len(chosen(top_fraction(frame, ["a"], "7%"))) == 7
    assert len(chosen(top_fraction(frame, ["a"], "7.01%"))) == 8


def test_ties_are_kept() -> None:
    """Half of four is two, but three share the second place."""
    frame = frame_of({"a": [0.9, 0.8, 0.8, 0.8]})
    assert chosen(top_fraction(frame, ["a"], 0.5)) == [0, 1, 2, 3]
    assert chosen(top_fraction(frame, ["a"], 0.25)) == [0]


@pytest.mark.parametrize(
    ("value", "text"), [("75%", "75%"), ("0.75", "75%"), (0.75, "75%"), (1, "100%"), ("33.3 %", "33.3%")]
)  # fmt: skip
def test_spellings_of_a_share(value: object, text: str) -> None:
    """A percentage or a fraction."""
    assert rules.parse_top(value).text == text


@pytest.mark.parametrize(
    ("value", "hint"),
    [("75", "write 75% or 0.75"), (75, "0.75"), ("0%", "above 0%"), (0, "above 0%"), ("-5%", "above"),
     ("101%", "up to 100%"), ("all", "such as 75%"), ("nan", "such as"), (True, "such as"), ("", "such")],
)  # fmt: skip
def test_shares_that_are_refused(value: object, hint: str) -> None:
    """One line: what was given and what is allowed."""
    with pytest.raises(InvalidInput) as caught:
        rules.parse_top(value)
    assert hint in str(caught.value)
    assert repr(str(value)) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy>0.9", ">=0.9", "a>=x", "a>=nan", "a>=1e999"]
)
def test_thresholds_that_are_refused(text: str) -> None:
    """METRIC>=VALUE or METRIC<=VALUE, and a finite number."""
    with pytest.raises(InvalidInput, match="METRIC>=VALUE"):
        rules.parse_threshold(text)


def test_thresholds_that_are_read() -> None:
    """With either sense, spaces and percent."""
    one, other = map(rules.parse_threshold, ("pgd_accuracy/delta-0.01 >= 45%", "gap/skew<=.1"))
    assert (one.metric, one.sense, one.bound) == ("pgd_accuracy/delta-0.01", ">=", 0.45)
    assert (other.metric, other.sense, other.bound) == ("gap/skew", "<=", 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), False, (), ("a",)), "one of top, pareto and require"),
        ((("75%",), True, (), ("a",)), "one of top, pareto and require"),
        ((("75%", "0.75"), False, (), ("a",)), "top 75% stands twice"),
        ((("75%",), False, (), ()), "on is empty"),
        (((), True, (), ("a", "a")), "on has a metric twice"),
    ],
)
def test_rules_that_make_no_selection(arguments: Any, message: str) -> None:
    """Said before anything is read."""
    top, pareto, require, on = arguments
    with pytest.raises(InvalidInput, match=message):
        rules.rules(top, pareto=pareto, require=require, on=on)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_random_subsets_against_all_of_them(seed: int, size: int) -> None:
    """Every subset counted one by one; some values tie."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.random(8), 1)
    found = float(rng.choice([0.0, 0.2, 0.35, 1.0]))
    subsets = np.array(list(itertools.combinations(values, size)))
    chance = random_subsets(values, size, found)
    assert chance.low == pytest.approx(subsets.min(axis=1).mean(), abs=1e-12)
    assert chance.high == pytest.approx(subsets.max(axis=1).mean(), abs=1e-12)
    assert chance.delta == pytest.approx(np.ptp(subsets, axis=1).mean(), abs=1e-12)
    share = (np.ptp(subsets, axis=1) <= found + 1e-9).mean()
    assert chance.share == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-13, 1.0, 1e6, 1e300])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_random_subsets_on_any_scale(scale: float, offset: float) -> None:
    """The range of a subset is found again, and nothing wider counts, however large the values are."""
    rng = np.random.default_rng(5)
    for _ in range(200):
        values = scale * (offset + rng.random(6))
        found = float(np.ptp(rng.choice(values, 3, replace=False)))
        subsets = np.array(list(itertools.combinations(values, 3)))
        share = (np.ptp(subsets, axis=1) <= found).mean()
        assert random_subsets(values, 3, found).share == pytest.approx(share, abs=1e-9)


def test_random_subsets_of_many_runs() -> None:
    """3,000 runs: no overflow; by sampling, within 4 standard errors."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=3000)
    found = 6.0
    chance = random_subsets(values, 500, found)
    ranges = np.array([np.ptp(rng.choice(values, 500, replace=False)) for _ in range(4000)])
    assert abs(chance.delta - ranges.mean()) < 4 * ranges.std() / np.sqrt(4000)
    share = (ranges <= found).mean()
    assert 0.1 < share < 0.9
    assert abs(chance.share - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    for size in (0, 3001):
        with pytest.raises(InvalidInput, match="size"):
            random_subsets(values, size, found)


RECORDS = {
    "a": {"title": "A", "unit": "fraction", "n": 100, "split_digest": "one"},
    "b": {"title": "B", "unit": "fraction", "n": 100, "split_digest": "one"},
    "c": {
        "title": "C <b>", "unit": "fraction", "n": 10, "split_digest": "two",
        "parameters": {"dataset": {"name": "other"}},
    },
}  # fmt: skip


def six() -> Frame:
    return frame_of(
        {
            "a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            "b": [0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
            "c": [0.0, 0.5, 0.6, 0.7, 0.5, 1.0],
        },
        RECORDS,
    )


def test_a_selection_by_hand() -> None:
    """Opposed metrics: the top 4 of each leave runs 2 and 3; of C they keep 0.6 and 0.7."""
    found = build_selection(six(), "id", [Top(Fraction(2, 3)), Top(Fraction(1, 2))], ["a", "b"])
    most, half = found.choices
    assert (found.eligible, found.shown) == (6, ("c",))
    assert most.run_ids == ("run2", "run3")
    effect = most.effects[0]
    assert (effect.metric, effect.before.delta, effect.selected_on) == ("c", 1.0, False)
    assert effect.after.delta == pytest.approx(0.1)
    assert effect.chance is not None
    # Pairs of 0, .5, .5, .6, .7, 1 at most 0.1 apart: .5-.5, twice .5-.6, .6-.7.
    assert effect.chance.share == pytest.approx(4 / 15)
    assert most.reason == "fewer than 5 runs: whatever they show is uncertain"
    assert half.run_ids == ()
    assert half.reason == (
        "empty: no run is in the top 50% of every metric (each alone has a: 3; b: 3)"
    )
    assert half.effects[0].chance is None
    strips = found.distributions[0].strips
    assert [(strip.label, strip.note) for strip in strips] == [
        ("all runs", "6 of 6 runs"), ("top 66.6666666667%", "2 of 6 runs"), ("top 50%", "0 of 6 runs"),
    ]  # fmt: skip
    assert strips[1].band == (effect.chance.low, effect.chance.high)


def sharing(records: dict[str, Any], **kept: Outcomes) -> str:
    """Whether ``b`` shares examples with ``a``, which is selected on."""
    values = {"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "b": [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]}
    found = build_selection(
        frame_of(values, records), "id", [Top(Fraction(1, 2))], ["a"], outcomes=kept
    )
    return found.choices[0].effects[0].sharing


def predicted(metric: str, ids: list[str]) -> Outcomes:
    right = np.random.default_rng(0).random((6, len(ids))) < 0.8
    return Outcomes(metric, tuple(f"run{i}" for i in range(6)), np.array(ids), right.astype(float))


def test_whether_a_metric_shares_examples() -> None:
    """One split, unless of groups that exclude each other; another dataset never; another split of the
    same data by the ids of its examples, else perhaps; and nobody knows of records that say nothing."""
    test = {"split_digest": "test", "parameters": {"dataset": None}}
    gray = {"split_digest": "gray", "parameters": {"dataset": None}}
    faces = {"split_digest": "faces", "parameters": {"dataset": {"name": "faces"}}}
    old, young = ({"age": age} for age in ("old", "young"))
    assert sharing({"a": test, "b": test}) == "yes"
    assert sharing({"a": {**test, "group": old}, "b": {**test, "group": young}}) == "no"
    assert sharing({"a": {**test, "group": old}, "b": test}) == "yes"
    assert sharing({"a": {**test, "group": old}, "b": {**test, "group": {"race": "any"}}}) == "yes"
    both = {**young, "race": "any"}
    assert sharing({"a": {**test, "group": old}, "b": {**test, "group": both}}) == "no"
    assert sharing({"a": test, "b": faces}) == "no"
    assert sharing({"a": test, "b": gray}) == "likely"
    one = predicted("a", ["1", "2", "3"])
    assert sharing({"a": test, "b": gray}, a=one, b=predicted("b", ["3", "4"])) == "yes"
    assert sharing({"a": test, "b": gray}, a=one, b=predicted("b", ["4", "5"])) == "no"
    assert sharing({}) == "unknown"


def test_metrics_on_the_same_data_are_named_and_not_judged() -> None:
    """B shares its examples with A and moves with it by chance alone; C does not."""
    found = build_selection(six(), "id", [Top(Fraction(1, 2))], ["a"], ["b", "c"])
    (note,) = found.notes
    assert note.startswith("Measured on examples that were selected on, in whole or in part: B. ")
    b, c, _ = found.choices[0].effects
    assert (b.sharing, b.shares_with, b.subsets, b.q) == ("yes", ("A",), None, None)
    assert words.verdict(b) == "no claim: shares its examples with what was selected on"
    assert c.subsets is not None
    assert found.judged == 1
    # Of the 20 subsets of 3 of 0, .5, .5, .6, .7, 1: .7 + .5 + 1 is beaten by .7 + .6 + 1, and equalled
    # by the other .5.
    assert c.subsets.mean.runs.p == c.q == pytest.approx(3 / 20)
    assert words.verdict(c) == "not clearly more than a random choice of 3 runs shows (p = 0.15)"


def effect_of(values: list[float], selected: int, **record: Any) -> Effect:
    """``b``, of the ``selected`` best by ``a``."""
    n = len(values)
    records = {
        "a": {"split_digest": "1", "higher_is_better": True, "parameters": {"dataset": None}},
        "b": {"split_digest": "2", "higher_is_better": True, "parameters": {"dataset": "x"}, **record},
    }  # fmt: skip
    frame = frame_of({"a": [i / n for i in range(n)], "b": values}, records)
    require = Require((rules.parse_threshold(f"a>={(n - selected) / n:.9f}"),))
    return build_selection(frame, "id", [require], ["a"], ["b"]).choices[0].effects[0]


def test_verdicts() -> None:
    """What is claimed, what is not, and what cannot be told, which is not the same."""
    rising = [i / 20 for i in range(20)]
    told = words.verdict(effect_of(rising, 6))
    assert told == "more than a random choice of 6 runs would show (p < 0.001)"
    assert words.claimed(effect_of(rising, 6))
    falling = words.verdict(effect_of(rising[::-1], 6))
    assert falling == "not clearly more than a random choice of 6 runs shows (p = 1)"
    better = words.verdict(effect_of(rising[::-1], 6, higher_is_better=False))
    assert better == "more than a random choice of 6 runs would show (p < 0.001)"
    assert words.verdict(effect_of(rising, 0)) == "cannot be told: no run selected"
    assert words.verdict(effect_of(rising, 1)) == "cannot be told: only 1 run selected"
    assert words.verdict(effect_of(rising, 20)) == "cannot be told: every run is selected"
    assert words.verdict(effect_of([0.5] * 20, 6)) == "cannot be told: all values are equal"
    at_best = words.verdict(effect_of(rising[:5], 3))
    assert at_best == "cannot be told with these runs: at best p = 0.1"
    assert not words.claimed(effect_of(rising[:5], 3))
    unknown = words.verdict(effect_of(rising, 6, split_digest=None))
    assert unknown.endswith("(p < 0.001), if its examples are not those selected on")
    nobody = replace(effect_of(rising, 6), higher_is_better=None)
    assert words.verdict(nobody).startswith("Δ: more than a random choice of 6 runs would show (p")


def test_runs_of_configurations_are_moved_together() -> None:
    """Two levels of which one is selected whole: of two arrangements no p can be small, though single
    runs would claim much."""
    runs = [
        RawRun(
            run_id=f"run{i}", name="", status="FINISHED", start_time=i, end_time=i + 1,
            params={"lr": str(lr), "seed": str(seed)}, tags={}, metrics={"acc": lr, "other": lr + seed / 100},
        )
        for i, (lr, seed) in enumerate(itertools.product((0.1, 0.2), range(5)))
    ]  # fmt: skip
    frame, plan = infer(runs, ExperimentRef("1", "theirs"))
    frame = frame.with_directions(["acc", "other"], [])
    found = build_selection(frame, plan.id, [Top(Fraction(1, 2))], ["acc"])
    effect = found.choices[0].effects[0]
    assert effect.subsets is not None
    assert effect.subsets.mean.runs.p == pytest.approx(1 / 252)
    assert words.verdict(effect) == "cannot be told with these runs: at best p = 0.5"


def predicted_frame(metrics: int = 2, **records: Any) -> tuple[Frame, dict[str, Outcomes]]:
    """12 runs on 80 examples per metric, ``m0``, ``m1``, ... and accuracy; values are the means."""
    rng = np.random.default_rng(7)
    names = ["accuracy", *(f"m{i}" for i in range(metrics))]
    kept = {}
    for i, name in enumerate(names):
        right = (rng.random((12, 80)) < np.linspace(0.6, 0.9, 12)[:, None]).astype(float)
        ids = np.array([str(1000 * i + j) for j in range(80)])
        kept[name] = Outcomes(name, tuple(f"run{r}" for r in range(12)), ids, right)
    told = {
        name: {"split_digest": name, "unit": "fraction", "n": 80, "higher_is_better": True,
               "title": f"<i>{name}|@x", "parameters": {"dataset": name}, **records.get(name, {})}
        for name in names
    }  # fmt: skip
    values = {name: kept[name].values.mean(axis=1).tolist() for name in names}
    return frame_of(values, told), kept


def test_a_selection_with_predictions() -> None:
    """Halves and resamples choose by the rule itself; the actual choice is the same; regrets stand."""
    frame, kept = predicted_frame()
    found = build_selection(
        frame, "id", [Top(Fraction(1, 2)), Pareto()], ["m0", "m1"], outcomes=kept
    )
    assert found.unhalved == {}
    for choice in found.choices:
        assert choice.halves is not None
        assert choice.stability is not None
        assert [gain.metric for gain in choice.halves.gains] == ["m0", "m1", "accuracy"]
        assert choice.stability.n_selected == len(choice.run_ids)
        assert {run.run_id for run in choice.stability.runs if run.selected} == set(choice.run_ids)
        first = choice.halves.gains[0]
        effect = next(e for e in choice.effects if e.metric == "m0")
        assert first.whole == pytest.approx(effect.after.mean - effect.before.mean)
        assert first.optimism > 0
    assert [(r.metric, r.halves is not None) for r in found.regrets] == [("m0", True), ("m1", True)]
    plain = build_selection(frame, "id", [Top(Fraction(1, 2))], ["m0", "m1"])
    assert plain.choices[0].halves is plain.choices[0].stability is None
    assert [r.halves for r in plain.regrets] == [None, None]
    assert not plain.unhalved
    assert plain.choices[0].without == ""


def test_predictions_that_are_not_there_are_named() -> None:
    """A metric that is selected on: no halves, and why; any other: left out, and why."""
    frame, kept = predicted_frame()
    rule = [Top(Fraction(1, 2))]
    gap = {**kept, "m1": replace(kept["m1"], is_mean=False)}
    found = build_selection(frame, "id", rule, ["m0", "m1"], outcomes=gap)
    assert found.choices[0].halves is None
    assert found.choices[0].without == "m1: it is not the mean of its examples' outcomes"
    del gap["m1"]
    some = {**gap, "accuracy": replace(kept["accuracy"], run_ids=tuple(f"x{i}" for i in range(12)))}
    found = build_selection(frame, "id", rule, ["m0"], outcomes=some, missing={"m1": "no <file>"})
    assert found.choices[0].halves is not None
    assert found.unhalved == {
        "m1": "no <file>", "accuracy": "12 of 12 runs have no predictions of it"
    }  # fmt: skip
    assert all(told.halves is None for told in found.regrets)
    nothing = build_selection(frame, "id", rule, ["m0"], missing={"m0": "no predictions"})
    assert nothing.choices[0].without == "m0: no predictions"


def test_every_rendering_of_a_selection_with_predictions() -> None:
    """Hostile names are escaped in every format, every statistic is in the document, and no NaN is."""
    frame, kept = predicted_frame(m1={"title": "<script>alert(1)</script> | `x`"})
    missing = {"m2<b>": "<img src=x>"}
    frame = replace(frame, values=frame.values.assign(**{"m2<b>": 0.5}))
    found = build_selection(
        frame, "id", [Top(Fraction(1, 2))], ["m0"], ["m1", "m2<b>"], outcomes=kept, missing=missing
    )
    files = dict(render.files(found))
    page, text = render.page_of(found).decode(), files["selection/selection.md"].decode()
    for bad in ("<script>alert", "<img", "<b>", "<i>"):
        assert bad not in page
        assert bad not in text
    for head in ("Against random choices", "On other test examples", "Choosing by accuracy alone"):
        assert head in page
        assert head in text
    assert "m2&lt;b&gt;: &lt;img src=x&gt;" in page
    document = json.loads(files["selection/selection.json"])
    (chosen_,) = document["selections"]
    assert document["not_halved"] == missing
    effect = chosen_["metrics"][0]
    assert effect["sharing"] == "no"
    assert effect["verdict"] == words.verdict(found.choices[0].effects[0])
    assert effect["subsets"]["mean"]["runs"]["draws"] is None  # of 924 subsets, every one
    assert len(chosen_["split_half"]["gains"]) == 3
    assert len(chosen_["stability"]["runs"]) == 12
    assert document["regret"][0]["halves"]["n_runs"] == 12


def test_an_empty_set_is_a_result_with_its_reason() -> None:
    """Thresholds that nothing keeps: how many keep each alone."""
    require, on = rules.rules((), pareto=False, require=["a>=0.5", "b>=0.5"], on=())
    (choice,) = build_selection(six(), "id", require, on).choices
    assert choice.reason == (
        "empty: no run keeps every threshold (a: 2 of 6 runs keep a>=0.5; b: 2 of 6 runs keep b>=0.5)"
    )
    hollow = frame_of({"a": [math.nan, 0.5], "b": [0.5, math.nan]})
    for rule in (Top(Fraction(1, 2)), Pareto(), Require((rules.parse_threshold("a>=0"),))):
        (choice,) = build_selection(hollow, "id", [rule], ["a", "b"]).choices
        assert choice.reason == "empty: no run has a finite value of every metric of a, b"


def test_a_metric_that_no_run_has() -> None:
    """Refused with the nearest name, selected on or shown."""
    for on, shown in ((["aa"], ()), (["a"], ["cc"])):
        with pytest.raises(InvalidInput, match="unknown metric"):
            build_selection(six(), "id", [Pareto()], on, shown)


def test_a_threshold_on_what_is_not_selected_on_is_refused() -> None:
    """Such a metric would pass for held out."""
    require = Require((rules.parse_threshold("b>=0.5"),))
    with pytest.raises(
        InvalidInput, match=r"require 'b>=0.5' is not allowed: .* selected on \(a\)"
    ):
        build_selection(six(), "id", [require], ["a"])


def test_the_selected_runs_are_again_a_frame() -> None:
    """``frame[mask]`` makes sheets of the selected runs; the others are left out, not missing."""
    frame = six()
    (choice,) = build_selection(frame, "id", [Top(Fraction(2, 3))], ["a", "b"]).choices
    design = Design.parse("""
name: d
dataset: {name: x}
training: {epochs: 1}
default: {batch_size: 1}
axes: {batch_size: [1]}
seeds: 6
""")
    sheet = build_sheet(frame[choice.mask], design, "c")
    assert (sheet.n_runs, sheet.n_excluded, sheet.complete) == (2, 4, True)
    assert sheet.delta_all == pytest.approx(0.1)


def test_every_rendering_of_a_selection() -> None:
    """CSV has every eligible run, JSON every number and null for NaN, HTML escapes; pictures exist."""
    found = build_selection(six(), "id", [Top(Fraction(2, 3)), Top(Fraction(1, 2))], ["a", "b"])
    files = dict(render.files(found))
    assert {path.rsplit(".")[-1] for path in files} == {"csv", "json", "md", "png", "pdf"}
    head, *lines = files["selection/selection.csv"].decode().splitlines()
    assert head == "run_id,configuration,seed,selected:top-66.6666666667,selected:top-50,a,b,c"
    assert len(lines) == 6
    assert lines[2] == "run2,default,2,True,False,0.3,0.4,0.6"
    document = json.loads(files["selection/selection.json"])
    most, half = document["selections"]
    assert most["selected"] == ["run2", "run3"]
    assert most["metrics"][0]["random"]["share"] == pytest.approx(4 / 15)
    assert (half["metrics"][0]["after"]["delta"], half["metrics"][0]["random"]) == (None, None)
    text = files["selection/selection.md"].decode()
    assert "| C &lt;b&gt; | 55.00 | 65.00 | 0.00 | 60.00 | 100.00 | 10.00 |" in text
    page = render.page_of(found).decode()
    assert "C &lt;b&gt;" in page
    assert "<b>" not in page
    assert files["selection/selection.png"].startswith(b"\x89PNG")
    assert files["selection/selection.pdf"].startswith(b"%PDF")


def test_a_design_says_what_to_select() -> None:
    """The key is read, checked, has one spelling, and enters the design's id only where it stands."""
    text = """
name: d
dataset: {name: x}
training: {epochs: 1}
default: {batch_size: 1}
axes: {batch_size: [1]}
seeds: 2
"""
    plain = Design.parse(text)
    one = Design.parse(text + "selection: {top: [75%, 0.5], on: [a, b], report: c}")
    other = Design.parse(text + "selection: {top: [0.75, 50%], on: [a, b], report: [c]}")
    assert one == other
    assert one.id == other.id != plain.id
    assert Design.parse(one.dump()) == one
    assert one.selection is not None
    assert one.selection.rules() == ((Top(Fraction(3, 4)), Top(Fraction(1, 2))), ("a", "b"))
    for selection, message in [
        ("{top: 75, on: [a]}", "write 75% or 0.75"),
        ("{top: 75%}", "on is empty"),
        ("{tops: 75%, on: [a]}", "did you mean 'top'"),
        ("{on: [a]}", "one of top, pareto and require"),
        ("{require: [a], on: [a]}", "METRIC>=VALUE"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            Design.parse(text + f"selection: {selection}")


def test_percent_thresholds_are_exact() -> None:
    """566 right of 1,000 keep 56.6%, though 56.6 / 100 lies above 0.566."""
    assert 56.6 / 100 > 0.566
    for tenths in range(500, 1000):
        assert rules.parse_threshold(f"a>={tenths / 10}%").bound == tenths / 1000


def test_metrics_that_may_not_be_compared_are_refused() -> None:
    """Runs that measured it differently, unless mixed; shown by default, such a metric is left out."""
    frame = replace(six(), conflicts={"c": ("run0", "run1")})
    with pytest.raises(InvalidInput, match=r"c: runs run0 and run1 .*--mixed"):
        build_selection(frame, "id", [Pareto()], ["a"], ["c"])
    with pytest.raises(InvalidInput, match="--mixed"):
        build_selection(frame, "id", [Pareto()], ["c"])
    assert build_selection(frame, "id", [Pareto()], ["a"]).shown == ("b",)
    assert build_selection(frame, "id", [Pareto()], ["a"], mixed=True).shown == ("b", "c")


def test_swapped_labels_are_refused_unless_confirmed() -> None:
    """A median of 30% on two classes where the models' own is 90%."""
    records = {
        "accuracy": {"intervention": "accuracy", "classes": 2},
        "ood": {"intervention": "ood_accuracy", "classes": 2},
    }
    frame = frame_of({"accuracy": [0.9, 0.91], "ood": [0.3, 0.31]}, records)
    with pytest.raises(InvalidInput, match="swapped"):
        build_selection(frame, "id", [Pareto()], ["ood"])
    found = build_selection(frame, "id", [Pareto()], ["ood"], confirm_labels=True)
    assert found.choices[0].run_ids == ("run1",)


def test_runs_left_out_on_purpose_are_said() -> None:
    """``--within`` leaves a note and its width."""
    frame = six().near_best(0.25, "a")
    found = build_selection(frame, "id", [Pareto()], ["a"], ["b"])
    assert found.within == 0.25
    assert found.eligible == 3
    assert any(
        "within 25 points of the best accuracy are considered; 3 are" in n for n in found.notes
    )
    frame = replace(six(), records={}).near_best(0.25, "a")
    notes = build_selection(frame, "id", [Pareto()], ["a"], ["b"]).notes
    assert any("within 0.25 of the best accuracy are considered; 3 are" in note for note in notes)


def test_selected_runs_of_others_in_a_table() -> None:
    """Configurations without the seed, whatever it is called; metrics overwrite no other column."""
    runs = [
        RawRun(
            run_id=f"run{i}", name="", status="FINISHED", start_time=i, end_time=i + 1,
            params={"lr": str(lr), "random_state": str(seed)}, tags={},
            metrics={"acc": i / 10, "seed": 7.0 + i, "run_id": 1.0, "metric:seed": 2.0},
        )
        for i, (lr, seed) in enumerate(itertools.product((0.1, 0.2), (1, 2, 3)))
    ]  # fmt: skip
    frame, plan = infer(runs, ExperimentRef("1", "theirs"))
    require = Require((rules.parse_threshold("acc>=0.3"),))
    cells = build_selection(
        frame, plan.id, [require], ["acc"], ["metric:seed", "seed", "run_id"]
    ).cells
    assert cells["run_id"].tolist() == [run.run_id for run in runs]
    assert cells["configuration"].tolist() == ["default"] * 3 + ["lr=0.2"] * 3
    assert cells["seed"].tolist() == [1, 2, 3] * 2
    assert cells["selected:required"].tolist() == [False] * 3 + [True] * 3
    assert cells["metric:metric:seed"].tolist() == [7.0 + i for i in range(6)]
    assert cells["metric:run_id"].tolist() == [1.0] * 6
    assert cells["metric:seed"].tolist() == [2.0] * 6
