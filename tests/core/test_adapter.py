"""Models of other libraries, which give no gradients, measured like nets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_digits import digits, trained_net
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC, LinearSVC

from mm_mlflow import outcomes
from mm_mlflow.design import InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import (
    Task,
    evaluate,
    from_estimator,
    from_output,
    from_pyfunc,
    impossible,
    plan,
    scores,
    split_tasks,
)
from mm_mlflow.evaluation.adapter import PredictFunction

TRAIN, TEST = digits()
NAMES = TEST.class_names
SPECS: list[dict[str, Any]] = [
    {"name": "accuracy"},
    {"name": "group_accuracy", "by": ["race"]},
    {"name": "worst_group_accuracy", "by": ["age"]},
    {"name": "group_accuracy_gap", "by": ["race"]},
    {"name": "output_perturbation", "lambda": [0, 1, 5]},
    {"name": "input_perturbation", "lambda": [0, 0.3]},
    {"name": "corruption", "kind": "gaussian_blur", "severity": 0.6},
    {"name": "pgd", "delta": 0.02, "steps": 3},
]


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def tasks(*names: str) -> tuple[Task, ...]:
    """The tasks of these interventions, or of all."""
    chosen = [spec for spec in SPECS if not names or spec["name"] in names]
    return plan([InterventionSpec.model_validate(s) for s in chosen], {"test": TEST}, lambda _: {})


@lru_cache(maxsize=8)
def fitted(kind: str) -> Any:
    """Classifiers of digits: classes are 0 to 9."""
    made: Mapping[str, ClassifierMixin] = {
        "logistic": LogisticRegression(max_iter=500),
        "forest": RandomForestClassifier(30, random_state=0),
        "neighbours": KNeighborsClassifier(5),
        "linear_svc": LinearSVC(),
        "svc": SVC(),
        "ridge": RidgeClassifier(),
    }
    return made[kind].fit(flat(TRAIN.images), TRAIN.labels)


class TestWithoutGradients:
    """What such a model can be measured by is measured as of a net, and the rest is known before."""

    def test_values_are_those_of_the_net_that_it_wraps(self) -> None:
        """To the bit, outcome by outcome, for every intervention but the attack."""
        net = trained_net()

        def predict(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return net(torch.from_numpy(images)).numpy()

        doable, refused = split_tasks(tasks(), PredictFunction(predict))
        assert list(refused) == ["pgd_accuracy/delta-0.02.steps-3"]
        assert len(doable) == len(tasks()) - 1
        adapted = evaluate(PredictFunction(predict), doable)
        # The net itself would have its batch norms folded, which rounds otherwise.
        plain = torch.nn.Sequential(torch.nn.Identity(), _Unfolded(net))
        direct = evaluate(plain, doable)
        assert adapted.values == direct.values
        for key, outcome in direct.outcomes.items():
            assert np.array_equal(adapted.outcomes[key], outcome), key
        assert np.array_equal(adapted.logits["test"], direct.logits["test"])
        assert adapted.checks["failed"] == direct.checks["failed"] == []

    def test_an_attack_is_refused_before_anything_runs(self) -> None:
        """With the reason; a net can do all."""
        model = PredictFunction(lambda _: pytest.fail("it ran"))
        (attack,) = tasks("pgd")
        assert impossible(attack, model) == "it needs gradients, and this model gives none"
        assert impossible(attack, trained_net()) is None
        planned = tasks()
        assert split_tasks(planned, trained_net()) == (planned, {})

    def test_what_a_model_lacks_is_said_by_it(self) -> None:
        """Labels have no scale; stored predictions no further inputs."""
        model = PredictFunction(lambda x: x, unable={"inputs": "no model", "scale": "no scale"})
        reasons = split_tasks(tasks(), model)[1]
        assert {key.split("/")[0]: why for key, why in reasons.items()} == {
            "output_perturbation_accuracy": "no scale",
            "input_perturbation_accuracy": "no model",
            "corruption_accuracy": "no model",
            "pgd_accuracy": "it needs gradients, and this model gives none",
        }

    def test_what_is_no_table_of_scores_is_refused(self) -> None:
        """One number per image, text, another number of rows."""
        for wrong in (
            lambda x: np.zeros(len(x)),
            lambda x: np.full((len(x), 3), "a"),
            lambda _: np.zeros((3, 10)),
        ):
            with pytest.raises(InvalidInput, match=r"\(n, K\) scores are needed"):
                evaluate(PredictFunction(wrong), tasks("accuracy"))


class _Unfolded(torch.nn.Module):
    """A net whose modules evaluation does not see."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self._hidden = [net]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Its logits."""
        logits: torch.Tensor = self._hidden[0](images)
        return logits


class TestSelfChecks:
    """The checks of an evaluation see through the adapter."""

    def test_an_honest_model_passes_them(self) -> None:
        """Deterministic, and strength 0 is clean accuracy, also as perturbed images are judged."""
        doable, _ = split_tasks(tasks(), from_estimator(fitted("logistic"), NAMES))
        checks = evaluate(from_estimator(fitted("logistic"), NAMES), doable).checks
        assert checks["failed"] == []
        assert checks["deterministic"]["same_twice"]
        kinds = {key.split("/")[0] for key in checks["zero_strength"]}
        assert "input_perturbation_accuracy" in kinds
        assert all(found["different"] == 0 for found in checks["zero_strength"].values())

    def test_a_model_that_draws_is_caught(self) -> None:
        """Two passes differ."""
        rng = np.random.default_rng(0)
        model = PredictFunction(lambda x: rng.random((len(x), 10)))
        (failed,) = evaluate(model, tasks("accuracy")).checks["failed"]
        assert "not deterministic" in failed

    def test_a_model_that_looks_at_the_batch_is_caught(self) -> None:
        """Logits depend on the company."""

        def predict(images: np.ndarray) -> np.ndarray:
            return flat(images)[:, :10] - images.mean()

        (failed,) = evaluate(PredictFunction(predict), tasks("accuracy")).checks["failed"]
        assert "depend on the rest of the batch" in failed

    def test_an_attack_all_the_same_is_known_to_measure_nothing(self) -> None:
        """Zero gradients, which is why it is refused."""
        model = from_estimator(fitted("logistic"), NAMES)
        (failed,) = evaluate(model, tasks("pgd")).checks["failed"]
        assert "gradients are zero" in failed


class TestEstimators:
    """scikit-learn's classifiers."""

    @pytest.mark.parametrize("kind", ["logistic", "forest", "neighbours", "linear_svc", "ridge"])
    @pytest.mark.parametrize("output", [None, "labels"])
    def test_accuracies_are_scikit_learns(self, kind: str, output: Any) -> None:
        """Exactly, on all examples and on a group."""
        estimator = fitted(kind)
        model = from_estimator(estimator, NAMES, output=output)
        found = evaluate(model, tasks("accuracy", "group_accuracy")).values
        assert found["accuracy"] == estimator.score(flat(TEST.images), TEST.labels)
        asian = TEST.groups["race"] == "Asian"
        expected = estimator.score(flat(TEST.images)[asian], TEST.labels[asian])
        assert found["group_accuracy/race-asian"] == expected

    def test_a_predict_with_another_rule_is_taken_as_labels(self) -> None:
        """SVC's predict counts votes of pairs, which its scores do not follow: ``output`` chooses."""
        svc = fitted("svc")
        by_scores = svc.decision_function(flat(TEST.images)).argmax(1) == TEST.labels
        by_votes = svc.predict(flat(TEST.images)) == TEST.labels
        assert (by_scores != by_votes).any()
        for output, right in ((None, by_scores), ("labels", by_votes)):
            model = from_estimator(svc, NAMES, output=output)  # type: ignore[arg-type]
            found = evaluate(model, tasks("accuracy")).outcomes["accuracy"]
            assert np.array_equal(found, right.astype(float))

    def test_log_probabilities_stand_in_for_logits(self) -> None:
        """Logistic regression has both: output perturbation is the same from either, up to rounding."""
        found = []
        for output in ("probabilities", "logits"):
            model = from_estimator(fitted("logistic"), NAMES, output=output)  # type: ignore[arg-type]
            found.append(evaluate(model, tasks("output_perturbation")))
        for key, outcome in found[0].outcomes.items():
            assert np.abs(outcome - found[1].outcomes[key]).max() < 1e-5
        assert found[0].values["output_perturbation_accuracy/lambda-5"] < 0.8

    def test_two_classes_by_one_decision_value(self) -> None:
        """The margin is the value, and the noise is on it: P = 1 - e^(-f)/2 where f > 0 is right."""
        two = TRAIN.labels < 2
        estimator = RidgeClassifier().fit(flat(TRAIN.images)[two], TRAIN.labels[two])
        given = TEST.images[TEST.labels < 2]
        model = from_estimator(estimator, ("zero", "one"))
        logits = model(torch.from_numpy(given)).numpy()
        f = estimator.decision_function(flat(given))
        assert np.array_equal(logits, np.stack([np.zeros_like(f), f], axis=1).astype(np.float32))
        wins = outcomes.output_perturbation(logits, np.ones(len(f), int), 0.25)
        d = f / 0.25
        expected = np.where(d > 0, 1 - np.exp(-np.abs(d)) / 2, np.exp(-np.abs(d)) / 2)
        assert np.abs(wins - expected).max() < 1e-6

    def test_classes_are_found_by_name_or_position(self) -> None:
        """In another order, as text, and by position where names say something else."""
        names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        by_name = np.array(names)[TRAIN.labels]
        estimator = LogisticRegression(max_iter=500).fit(flat(TRAIN.images), by_name)
        assert list(estimator.classes_) != list(names)  # sorted as text
        expected = estimator.score(flat(TEST.images), np.array(names)[TEST.labels])
        for model in (
            from_estimator(estimator, names),
            from_estimator(estimator, names, output="labels"),
            from_estimator(fitted("logistic"), names),
        ):
            assert evaluate(model, tasks("accuracy")).values["accuracy"] == expected

    def test_classes_that_one_side_lacks(self) -> None:
        """A class that the model does not know never wins; one that the data lack may, and is wrong."""
        few = TRAIN.labels < 8
        estimator = fitted_on(few)
        model = from_estimator(estimator, NAMES)
        logits = model(torch.from_numpy(TEST.images))
        assert logits.shape == (len(TEST), 10)
        assert set(logits.argmax(1).tolist()) <= set(range(8))
        narrow = from_estimator(fitted("logistic"), ("0", "1", "2"))
        logits = narrow(torch.from_numpy(TEST.images))
        assert logits.shape == (len(TEST), 10)
        predicted = fitted("logistic").predict(flat(TEST.images))
        assert np.array_equal(logits.argmax(1).numpy(), predicted)

    def test_an_output_that_it_lacks_is_refused(self) -> None:
        """Naming those that it has; pairwise decision values are none; a regressor is none."""
        with pytest.raises(InvalidInput, match="output 'probabilities' is not allowed: logits, la"):
            from_estimator(fitted("svc"), NAMES, output="probabilities")
        with pytest.raises(InvalidInput, match="pairs of classes"):
            from_estimator(
                SVC(decision_function_shape="ovo").fit([[0.0], [1.0]], [0, 1]), ("0", "1")
            )
        with pytest.raises(InvalidInput, match="LogisticRegression is no fitted classifier"):
            from_estimator(LogisticRegression(), NAMES)
        with pytest.raises(InvalidInput, match="are none of the data's"):
            from_estimator(fitted("logistic"), ("cat", "dog"), output="labels")


@lru_cache(maxsize=1)
def _fitted_on(key: bytes) -> Any:
    mask = np.frombuffer(key, bool)
    return LogisticRegression(max_iter=500).fit(flat(TRAIN.images)[mask], TRAIN.labels[mask])


def fitted_on(mask: np.ndarray) -> Any:
    """Logistic regression on a part of the training digits."""
    return _fitted_on(mask.tobytes())


class TestScores:
    """Probabilities, decision values and labels as logits."""

    @given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
    def test_the_answer_survives_rounding(self, rows: list[list[float]]) -> None:
        """The first largest in float64 is the first largest in float32."""
        given_ = np.array(rows)
        rounded = scores.single_precision(given_)
        assert rounded.dtype == np.float32
        assert np.array_equal(rounded.argmax(1), given_.argmax(1))
        assert np.abs(rounded - given_).max() < 1e-6

    def test_rounding_alone_would_change_it(self) -> None:
        """Two scores that float32 cannot tell apart."""
        given_ = np.array([[0.3, 0.1 + 0.2, 0.0], [5.0, 5.0, 1.0]])
        assert given_.astype(np.float32).argmax(1).tolist() == [0, 0]
        assert scores.single_precision(given_).argmax(1).tolist() == [1, 0]

    def test_probability_zero_is_finite_and_beaten_by_every_other(self) -> None:
        """-708.4, the logarithm of the smallest normal number."""
        found = scores.log_probabilities(np.array([[1.0, 0.0], [1 - 1e-300, 1e-300]]))
        assert found[0, 1] == pytest.approx(math.log(np.finfo(float).tiny))
        assert found[1, 1] > found[0, 1]
        assert outcomes.finite(found).all()
        softmax = np.exp(scores.log_probabilities(np.array([[0.2, 0.3, 0.5]])).astype(float))
        assert softmax == pytest.approx(np.array([[0.2, 0.3, 0.5]]))

    def test_what_are_no_probabilities(self) -> None:
        """Are refused; NaN is an example that is wrong."""
        with pytest.raises(InvalidInput, match=r"probabilities from -0.1 to 1.1"):
            scores.log_probabilities(np.array([[1.1, -0.1]]))
        broken = scores.log_probabilities(np.array([[np.nan, 0.5], [0.1, 0.9]]))
        assert outcomes.finite(broken).tolist() == [False, True]

    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            (np.array(["a", "b"]), "labels"),
            (np.array([1.0, 0.0]), "labels"),
            (np.array([[0.25, 0.75], [1.0, 0.0]]), "probabilities"),
            (np.array([[0.25, 0.7], [1.0, 0.0]]), "logits"),
            (np.array([[2.0, -1.0]]), "logits"),
            (np.array([[np.nan, 0.1], [0.5, 0.5]]), "probabilities"),
        ],
    )
    def test_the_form_tells(self, said: np.ndarray, kind: str) -> None:
        """Labels, probabilities or logits."""
        assert scores.told(said, 2) == kind

    @pytest.mark.parametrize("said", [np.array([0.5]), np.zeros((2, 3)), np.array([["a", "b"]])])
    def test_forms_that_tell_nothing(self, said: np.ndarray) -> None:
        """A single column of fractions, another number of columns, text in columns."""
        with pytest.raises(InvalidInput, match=r"the model (gives|returns)"):
            scores.told(said, 2)


class TestFunctions:
    """Functions that return labels, probabilities or logits."""

    def test_labels_that_turn_out_to_be_scores(self) -> None:
        """A sample of saturated scores looks like labels: what comes later is refused, not mistaken."""

        def say(images: np.ndarray) -> np.ndarray:
            return images[:, 0, 0, 0]

        saturated = np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
        model = from_output(say, ["0", "1"], say(saturated))
        assert model(torch.from_numpy(saturated)).argmax(1).tolist() == [0, 1]
        with pytest.raises(InvalidInput, match="whole numbers, taken for labels, and now others"):
            model(torch.from_numpy(saturated / 2))
        halves = from_output(say, ["0", "0.5"], say(saturated / 2), output="labels")
        assert halves(torch.from_numpy(saturated / 2)).argmax(1).tolist() == [0, 1]

    def labels(self, say: Callable[[np.ndarray], np.ndarray]) -> PredictFunction:
        """Of what the estimator predicts."""
        predicted = fitted("logistic").predict

        def predict(images: np.ndarray) -> np.ndarray:
            return say(predicted(flat(images)))

        return from_output(predict, NAMES, predict(TEST.images[:20]))

    @pytest.mark.parametrize(
        "say", [np.asarray, np.ndarray.astype, lambda x: x.astype(str)], ids=["int", "float", "str"]
    )
    def test_labels_of_any_type(self, say: Any) -> None:
        """Whole numbers, floats and text name the same classes; noise on scores is refused."""
        model = self.labels((lambda x: x.astype(float)) if say is np.ndarray.astype else say)
        assert evaluate(model, tasks("accuracy")).values["accuracy"] == fitted("logistic").score(
            flat(TEST.images), TEST.labels
        )
        (reason,) = set(split_tasks(tasks("output_perturbation"), model)[1].values())
        assert reason == "it adds noise to scores, and this model gives labels only"

    def test_a_label_that_is_no_class_is_wrong(self) -> None:
        """Whatever the sample had, and also where class 0 is the truth."""

        def predict(images: np.ndarray) -> np.ndarray:
            found = fitted("logistic").predict(flat(images)).astype(object)
            found[flat(images)[:, 20] > 0.5] = "unheard of"
            return found

        sample = predict(TEST.images[:20])
        for known in (sample, np.array([label for label in sample if label != "unheard of"])):
            found = evaluate(from_output(predict, NAMES, known), tasks("accuracy"))
            right = predict(TEST.images) == TEST.labels
            assert np.array_equal(found.outcomes["accuracy"], right.astype(float))

    def test_one_column_of_two_classes(self) -> None:
        """Probabilities of the second class, if that is said."""
        p = np.array([0.2, 0.5, 0.9])

        def predict(images: np.ndarray) -> np.ndarray:
            return p[: len(images)]

        model = from_output(predict, ("no", "yes"), p, output="probabilities")
        found = model(torch.zeros(3, 1, 1, 1)).numpy()
        assert np.exp(found) == pytest.approx(np.stack([1 - p, p], axis=1), rel=1e-5)
        with pytest.raises(InvalidInput, match="output says whether it is probabilities or logits"):
            from_output(predict, ("no", "yes"), p)

    def test_a_dataframe_with_names_of_classes(self) -> None:
        """Its columns are put in order; a pyfunc model need be no more than an object with predict."""
        import pandas as pd

        class Model:
            def predict(self, rows: np.ndarray) -> pd.DataFrame:
                p = fitted("logistic").predict_proba(rows)
                return pd.DataFrame(p[:, ::-1], columns=list(range(9, -1, -1)))

        model = from_pyfunc(Model(), NAMES, TEST.images[:8])
        direct = from_estimator(fitted("logistic"), NAMES)
        one, other = (evaluate(m, tasks("output_perturbation")) for m in (model, direct))
        assert one.values == other.values
