"""Outcomes from logits: accuracy and the exact expectation under output perturbation."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mm_mlflow import outcomes
from mm_mlflow.errors import InvalidInput

# Quarters from -50 to 50: float32 holds them, and sums of them, exactly.
QUARTERS = st.integers(-200, 200).map(lambda k: k / 4)
LOGITS = arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(2, 7)), elements=QUARTERS)
SCALES = st.floats(0.01, 100)


def labels_for(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random labels."""
    return np.random.default_rng(seed).integers(0, logits.shape[1], len(logits))


def sampled(logits: np.ndarray, labels: np.ndarray, scale: float, draws: int) -> np.ndarray:
    """``(N,)`` fraction of draws in which the label wins: the slow, obvious version."""
    rng = np.random.default_rng(7)
    wins = np.zeros(len(logits))
    for _ in range(draws):
        wins += (logits + rng.exponential(scale, logits.shape)).argmax(axis=1) == labels
    return wins / draws


@pytest.mark.parametrize(
    ("classes", "scale", "spread"), [(2, 1.0, 1), (10, 5.0, 6), (10, 0.7, 1), (100, 3.0, 4)]
)
def test_the_expectation_equals_sampling(classes: int, scale: float, spread: float) -> None:
    """Over 10,000 draws, the mean difference and nearly every example lie within 3 standard errors."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, spread, (40, classes)).astype(np.float32)
    labels = np.where(rng.random(40) < 0.6, logits.argmax(axis=1), labels_for(logits))
    exact = outcomes.output_perturbation(logits, labels, scale)
    draws = 10_000
    drawn = sampled(logits, labels, scale, draws)
    errors = np.sqrt(exact * (1 - exact) / draws)
    mean_error = np.sqrt((errors**2).sum()) / len(exact)
    assert 0.05 < exact.mean() < 0.95  # the case is not a trivial one
    assert abs(drawn.mean() - exact.mean()) < 3 * mean_error
    assert (np.abs(drawn - exact) <= 4 * errors + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(margin=st.floats(-30, 30), scale=SCALES)
def test_two_classes_have_a_closed_form(margin: float, scale: float) -> None:
    """K = 2 with margin d in units of λ: 1 - e^-d / 2 for d ≥ 0, else e^d / 2."""
    logits = np.array([[margin, 0.0]])
    d = margin / scale
    expected = 1 - math.exp(-d) / 2 if d >= 0 else math.exp(d) / 2
    got = outcomes.output_perturbation(logits, np.array([0]), scale)
    assert got[0] == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("classes", [2, 3, 10, 101, 300])
def test_probabilities_of_all_labels_sum_to_one(classes: int) -> None:
    """Exactly one class wins, whatever K: the quadrature is exact."""
    logits = np.random.default_rng(0).normal(0, 3, (1, classes))
    total = sum(
        outcomes.output_perturbation(logits, np.array([label]), 2.0)[0] for label in range(classes)
    )
    assert total == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 5.0])
def test_huge_margins_give_numbers(classes: int, scale: float) -> None:
    """Margins of ±10,000 give 1 and 0, not NaN and no warning."""
    logits = np.zeros((2, classes), dtype=np.float32)
    logits[0, 0], logits[1, 0] = 1e4, -1e4
    got = outcomes.output_perturbation(logits, np.array([0, 0]), scale)
    assert got == pytest.approx([1, 0], abs=1e-12)


def test_a_moderate_margin_beyond_double_overflow() -> None:
    """Where e^(-d) would overflow (margin 800 λ against the label), the value is a tiny number."""
    got = outcomes.output_perturbation(np.array([[0.0, 700.0]]), np.array([0]), 1.0)
    assert got[0] == pytest.approx(math.exp(-700) / 2, rel=1e-9)
    assert outcomes.output_perturbation(np.array([[0.0, 800.0]]), np.array([0]), 1.0)[0] == 0


@settings(max_examples=40, deadline=None)
@given(logits=LOGITS)
def test_without_noise_it_is_accuracy(logits: np.ndarray) -> None:
    """λ = 0 equals clean accuracy exactly, ties included."""
    labels = labels_for(logits)
    clean = outcomes.accuracy(logits, labels)
    assert np.array_equal(outcomes.output_perturbation(logits, labels, 0), clean)


@settings(max_examples=40, deadline=None)
@given(logits=LOGITS, scale=SCALES, shift=st.integers(-100, 100))
def test_a_constant_changes_nothing(logits: np.ndarray, scale: float, shift: int) -> None:
    """Adding the same constant to all logits leaves every outcome as it is, to the bit."""
    labels = labels_for(logits)
    moved = logits + np.float32(shift)
    for one, other in [
        (outcomes.accuracy(logits, labels), outcomes.accuracy(moved, labels)),
        (
            outcomes.output_perturbation(logits, labels, scale),
            outcomes.output_perturbation(moved, labels, scale),
        ),
    ]:
        assert np.array_equal(one, other)


@settings(max_examples=40, deadline=None)
@given(logits=LOGITS, scale=SCALES, seed=st.integers(0, 2**32 - 1))
def test_permuting_examples_permutes_outcomes(logits: np.ndarray, scale: float, seed: int) -> None:
    """Each outcome is a function of its own row alone, to the bit."""
    labels = labels_for(logits)
    order = np.random.default_rng(seed).permutation(len(logits))
    for measure in (outcomes.accuracy, lambda z, y: outcomes.output_perturbation(z, y, scale)):
        assert np.array_equal(measure(logits, labels)[order], measure(logits[order], labels[order]))


def test_memory_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are worked on at once, outcomes are the same to the bit."""
    logits = np.random.default_rng(3).normal(0, 4, (50, 13)).astype(np.float32)
    labels = labels_for(logits)
    whole = outcomes.output_perturbation(logits, labels, 2)
    monkeypatch.setattr(outcomes, "_CHUNK", 40)
    assert np.array_equal(outcomes.output_perturbation(logits, labels, 2), whole)


@settings(max_examples=40, deadline=None)
@given(logits=LOGITS, scales=st.lists(SCALES, min_size=2, max_size=5, unique=True))
def test_noise_wears_a_correct_answer_down(logits: np.ndarray, scales: list[float]) -> None:
    """For a correct example the outcome falls with λ, from 1 toward 1/K."""
    labels = logits.argmax(axis=1)
    values = [outcomes.output_perturbation(logits, labels, scale) for scale in sorted(scales)]
    assert all((b <= a + 1e-12).all() for a, b in zip(values, values[1:], strict=False))
    assert (values[-1] >= 1 / logits.shape[1] - 1e-12).all()
    far = outcomes.output_perturbation(logits, labels, 1e9)
    assert far == pytest.approx(1 / logits.shape[1], rel=1e-6)


def test_the_first_of_equal_logits_counts() -> None:
    """Ties are settled as argmax settles them, the same at λ = 0."""
    logits = np.zeros((3, 3), dtype=np.float32)
    labels = np.array([0, 1, 2])
    assert outcomes.accuracy(logits, labels).tolist() == [1, 0, 0]
    assert outcomes.output_perturbation(logits, labels, 0).tolist() == [1, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_logits_that_are_not_finite_are_wrong(bad: float) -> None:
    """NaN and infinities, and logits whose loss overflows, are wrong with and without noise."""
    logits = np.array([[5, 1, 1], [5, bad, -3e38], [5, 1, 1]], dtype=np.float32)
    for label in range(3):
        labels = np.array([0, label, 0])
        assert outcomes.accuracy(logits, labels).tolist() == [1, 0, 1]
        noisy = outcomes.output_perturbation(logits, labels, 1)
        assert noisy[1] == 0
        assert noisy[0] == noisy[2] > 0.9
        assert outcomes.finite(logits).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [-1, math.nan, math.inf])
def test_scales_that_are_refused(scale: float) -> None:
    """λ is finite and not negative."""
    with pytest.raises(InvalidInput, match=r"lambda .* is not allowed"):
        outcomes.output_perturbation(np.zeros((1, 2)), np.array([0]), scale)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.array([0]), "do not fit"),
        (np.zeros(3), np.array([0, 1, 2]), "do not fit"),
        (np.zeros((1, 3)), np.array([3]), "labels from 3 to 3"),
        (np.zeros((1, 3)), np.array([-1]), "labels from -1"),
    ],
)
def test_arrays_that_do_not_fit(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    """Shapes and labels are checked with one clear line."""
    with pytest.raises(InvalidInput, match=message):
        outcomes.output_perturbation(logits, labels, 1)


def test_no_torch() -> None:
    """Outcomes, and recorded metrics, are recomputed where torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from mm_mlflow.evaluation import recompute, plan, INTERVENTIONS\n"
        "record = {'intervention': 'output_perturbation', 'version': 2,"
        " 'parameters': {'lambda': 5, 'split': 'test'}}\n"
        "print(recompute(record, np.zeros((1, 4), dtype='float32'), np.array([2]))[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.25)
