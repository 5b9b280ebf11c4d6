"""The gate: what keeps a bound, what does not, and what cannot be judged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mm_mlflow.chance import Evidence
from mm_mlflow.design import Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.gate import Bound, check, parse_bound
from mm_mlflow.render import samples
from mm_mlflow.report import Report, build_report

SMALL = Design.parse(samples.SMALL.replace("seeds: 2", "seeds: 4"))
KEY = samples.METRICS[0][0]


def report(*, missing: int = 0, predictions: bool = True) -> Report:
    frame = samples.frame(SMALL, samples.METRICS[:2], missing=missing)
    found = samples.outcomes(frame, samples.METRICS[:1]) if predictions else {}
    return build_report(frame, SMALL, evidence=Evidence(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("delta_all/accuracy<=0.02", Bound("delta_all", "accuracy", 0.02)),
        (" delta_all/accuracy <= 2% ", Bound("delta_all", "accuracy", 0.02)),
        ("delta_all_above_floor/a/b-c<=0", Bound("delta_all_above_floor", "a/b-c", 0.0)),
        ("delta_all_adjusted/pgd*<=.5", Bound("delta_all_adjusted", "pgd*", 0.5)),
    ],
)
def test_bounds(text: str, expected: Bound) -> None:
    """A quantity, a metric, a number or a percentage."""
    assert parse_bound(text) == expected
    assert parse_bound(expected.text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy<=0.02", "max 'accuracy<=0.02' is not allowed: QUANTITY/METRIC<=VALUE"),
        ("delta_all/accuracy>=0.02", "is not allowed: QUANTITY/METRIC<=VALUE"),
        ("delta_all/accuracy<0.02", "is not allowed"),
        ("delta_all/accuracy<=-1", "is not allowed"),
        ("delta_all/<=1", "is not allowed"),
        ("delta_al/accuracy<=1", "unknown quantity 'delta_al'; did you mean 'delta_all'?"),
    ],
)
def test_what_is_no_bound(text: str, said: str) -> None:
    """One line that shows the form."""
    with pytest.raises(InvalidInput) as error:
        parse_bound(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_each_quantity_is_the_summarys() -> None:
    """A bound at the value itself is kept, one a hair below is not."""
    whole = report()
    row = whole.summary[0]
    for quantity in (
        "delta_all",
        "delta_all_healthy",
        "delta_all_adjusted",
        "delta_all_above_floor",
    ):
        value = getattr(row, quantity)
        (kept,) = check(whole, [Bound(quantity, KEY, value)])
        assert value is not None
        (over,) = check(whole, [Bound(quantity, KEY, value - 1e-6)])
        assert (kept.outcome, over.outcome) == ("kept", "exceeded")
        assert kept.value == over.value == value


def test_rounding_of_fractions_does_not_fail_a_gate() -> None:
    """0.97 - 0.95 is a hair above 0.02."""
    whole = report()
    row = replace(whole.summary[0], delta_all=0.97 - 0.95)
    assert row.delta_all > 0.02
    (found,) = check(replace(whole, summary=(row,)), [Bound("delta_all", KEY, 0.02)])
    assert found.outcome == "kept"


def test_what_cannot_be_judged_is_not_kept() -> None:
    """A floor needs predictions; a Δ with holes can only grow, unless that is allowed."""
    (found,) = check(report(predictions=False), [Bound("delta_all_above_floor", KEY, 1.0)])
    assert (found.outcome, found.value) == ("unknown", None)
    assert "predictions" in found.reason
    holes = report(missing=2)
    bound = [Bound("delta_all", KEY, 1.0)]
    assert check(holes, bound)[0].outcome == "incomplete"
    assert check(holes, bound, allow_incomplete=True)[0].outcome == "kept"
    assert check(holes, [Bound("delta_all", KEY, 0.0)])[0].outcome == "exceeded"
    # Divided by d2 of more runs, or freed of more chance, a Δ may also shrink.
    for quantity in ("delta_all_adjusted", "delta_all_above_floor"):
        assert check(holes, [Bound(quantity, KEY, 0.0)])[0].outcome == "incomplete"
    row = replace(holes.summary[0], delta_all=math.nan, n_runs=1)
    (found,) = check(replace(holes, summary=(row,)), bound)
    assert found.reason == "a difference needs two runs"


def test_patterns_name_several_metrics_and_never_none() -> None:
    """Every metric that matches is checked; none that matches is an error that names the nearest."""
    whole = report()
    found = check(whole, [Bound("delta_all", "*", 1.0)])
    assert [one.metric for one in found] == [row.metric for row in whole.summary]
    with pytest.raises(InvalidInput, match="did you mean 'accuracy'"):
        check(whole, [Bound("delta_all", "acuracy", 1.0)])


def test_percents_are_told_from_fractions() -> None:
    """A bound of 2 on a fraction would always be kept: it was meant as points."""
    with pytest.raises(InvalidInput, match=r"2 points are 0\.02 or 2%"):
        check(report(), [Bound("delta_all", KEY, 2.0)])
