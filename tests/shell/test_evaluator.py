"""The evaluator ``multiplicity`` of ``mlflow.models.evaluate``: the same keys and values as a sweep's."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from helpers import artifact, artifacts, predictions
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.models.evaluation.base import EvaluationResult, resolve_evaluators_and_configs
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from test_own_code import block

from mm_mlflow import evaluation, training
from mm_mlflow.datasets import open_splits
from mm_mlflow.design import DatasetSpec, Design, InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation.input_perturbation import noise
from mm_mlflow.plugins.evaluator import MultiplicityEvaluator
from mm_mlflow.split import Split

pytestmark = [
    # MLflow's own code with this pandas and Python; not ours to change.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    pytest.mark.filterwarnings("ignore:.*Inferred schema contains integer column"),
    pytest.mark.filterwarnings("ignore:.*load_module:"),
    pytest.mark.filterwarnings("ignore:.*exec_module:ImportWarning"),
]


def measured(data: Any, model: Any = None, **arguments: Any) -> EvaluationResult:
    """``mlflow.models.evaluate`` with this evaluator alone; keywords are its configuration, but for
    those that MLflow takes."""
    own = {key: arguments.pop(key) for key in ("targets", "predictions") if key in arguments}
    if "scores" in arguments:
        arguments["predictions"] = arguments.pop("scores")
    return mlflow.models.evaluate(
        model,
        data,
        targets=own.get("targets", "target"),
        predictions=own.get("predictions"),
        model_type="classifier",
        evaluators=["multiplicity"],
        evaluator_config={"multiplicity": arguments},
    )


NOISY = {"name": "input_perturbation", "lambda": 1}

# ---- a net on digits_skewed: the evaluator and evaluation.evaluate ----

SPECS: list[Any] = [
    "accuracy",
    {"name": "group_accuracy", "by": ["skew", ["skew", "class"]]},
    {"name": "worst_group_accuracy", "by": ["skew", ["skew", "colour"]]},
    {"name": "group_accuracy_gap", "by": "class"},
    {"name": "output_perturbation", "lambda": [0, 1, 5]},
    {"name": "output_perturbation", "lambda": 3, "examples": 100},
]


@lru_cache(maxsize=1)
def _trained() -> tuple[Mapping[str, Split], Any]:
    text = """
name: x
dataset: {name: digits_skewed}
training: {epochs: 5, batch_size: 256, architecture: mlp}
default: {learning_rate: 0.05}
axes: {learning_rate: [0.05]}
seeds: 1
interventions: [accuracy]
"""
    (cell,) = Design.parse(text).cells()
    splits = open_splits(DatasetSpec(name="digits_skewed"))
    return splits, training.train(cell, splits["train"]).model


def by_sweep(specs: list[Any]) -> tuple[evaluation.Evaluation, tuple[evaluation.Task, ...], Split]:
    """What a cell with these interventions would log."""
    splits, net = _trained()
    planned = [InterventionSpec.model_validate(spec) for spec in specs]
    tasks = evaluation.plan(planned, splits, lambda _: {})
    return evaluation.evaluate(net, tasks), tasks, tasks[0].split


def as_table(split: Split, logits: np.ndarray) -> pd.DataFrame:
    """Logits, groups, ids and class names in one table."""
    frame = pd.DataFrame(logits, columns=[f"logit_{name}" for name in split.class_names])
    names = np.array(split.class_names)[split.labels]
    return frame.assign(id=split.example_ids, target=names, **split.groups)


def test_values_are_those_of_a_sweep() -> None:
    """A net's logits through MLflow and the net through ``evaluate``: every key, value and outcome is
    equal to the bit, and the records say the same of them."""
    direct, tasks, split = by_sweep(SPECS)
    table = as_table(split, direct.logits["test"])
    with mlflow.start_run() as run:
        result = measured(
            table,
            interventions=SPECS,
            groups=list(split.groups),
            ids="id",
            scores=[name for name in table if name.startswith("logit_")],
        )
    assert 0.3 < direct.values["accuracy"] < 0.999
    assert result.metrics == dict(direct.values)
    logged = mlflow.get_run(run.info.run_id)
    assert logged.data.metrics == dict(direct.values)
    folder = f"evaluations/{direct.id}"
    assert artifacts(logged) == {f"{folder}/metrics.json", f"{folder}/predictions.parquet"}
    records = json.loads(artifact(logged, f"{folder}/metrics.json"))
    expected = json.loads(json.dumps(evaluation.metric_records(tasks)))
    for record in [*records["metrics"].values(), *expected.values()]:
        del record["split_digest"]  # of rows with logits, and of images
    assert records["metrics"] == expected
    stored = predictions(logged)
    assert stored["example_id"].tolist() == split.example_ids.tolist()
    assert np.array_equal(np.stack(stored["logits"]), direct.logits["test"])
    assert np.array_equal(stored["label"], split.labels)


def test_predictions_as_a_column_of_lists_and_as_an_array() -> None:
    """MLflow's own ``predictions`` is one column; an array of logits alone is an array of data."""
    direct, _, split = by_sweep(["accuracy", {"name": "output_perturbation", "lambda": 2}])
    specs = ["accuracy", {"name": "output_perturbation", "lambda": 2}]
    logits = direct.logits["test"]
    table = pd.DataFrame({"said": list(logits.tolist()), "target": split.labels})
    listed = measured(table, predictions="said", interventions=specs)
    assert listed.metrics == dict(direct.values)
    array = measured(logits, targets=split.labels, interventions=specs)
    assert array.metrics == dict(direct.values)


def test_other_data_have_their_name_in_the_key() -> None:
    """``split`` is the design's: out-of-distribution accuracy, and whatever else on that split."""
    specs: list[Any] = [
        {"name": "ood_accuracy", "split": "grayscale"},
        {"name": "worst_group_accuracy", "by": "class", "split": "grayscale"},
    ]
    direct, _, split = by_sweep(specs)
    result = measured(
        as_table(split, direct.logits["grayscale"]),
        interventions=["ood_accuracy", {"name": "worst_group_accuracy", "by": "class"}],
        groups=list(split.groups),
        ids="id",
        split="grayscale",
    )
    assert set(result.metrics) == {
        "ood_accuracy/grayscale",
        "worst_group_accuracy/class.split-grayscale",
    }
    assert result.metrics == dict(direct.values)


# ---- scikit-learn on tables: independent oracles ----


@lru_cache(maxsize=1)
def _cancer() -> tuple[pd.DataFrame, Any]:
    """A table with a group column, and a classifier of malignant and benign fitted on its other rows."""
    data = load_breast_cancer(as_frame=True)
    frame = data.data.iloc[:, :10].assign(target=np.array(["malignant", "benign"])[data.target])
    frame["size"] = np.where(frame["mean radius"] > 13, "large", "small")
    train, test = frame.iloc[:250], frame.iloc[250:].reset_index(drop=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05))
    return test, model.fit(train.drop(columns=["target", "size"]), train["target"])


FEATURES = [f"mean {name}" for name in ("radius", "texture", "perimeter", "area", "smoothness")] + [
    f"mean {name}"
    for name in ("compactness", "concavity", "concave points", "symmetry", "fractal dimension")
]


def logged_model(model: Any, signature: Any = None) -> str:
    """URI of a scikit-learn model in the artifact store."""
    logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)  # it warns of its own pickles
    info = mlflow.sklearn.log_model(
        model, name="model", signature=signature, pip_requirements=[], serialization_format="pickle"
    )
    return str(info.model_uri)


@pytest.mark.parametrize("how", ["pyfunc", "probabilities", "labels"])
def test_fairness_is_fairlearns(how: str) -> None:
    """Accuracy, per group, worst, gap and rates, against MetricFrame and counting by hand, however the
    model is given."""
    frame, model = _cancer()
    given = {"probabilities": model.predict_proba, "labels": model.predict}.get(how)
    result = measured(
        frame,
        given or logged_model(model),
        interventions=[
            "accuracy",
            {"name": "group_accuracy", "by": "size"},
            {"name": "worst_group_accuracy", "by": "size"},
            {"name": "group_accuracy_gap", "by": "size"},
            {"name": "true_positive_rate_gap", "by": "size"},
            {"name": "false_positive_rate_gap", "by": "size"},
        ],
        groups=["size"],
    )
    predicted = model.predict(frame[FEATURES])
    oracle = MetricFrame(
        metrics=accuracy_score,
        y_true=frame["target"],
        y_pred=predicted,
        sensitive_features=frame["size"],
    )
    expected = {
        "accuracy": oracle.overall,
        "group_accuracy/size-large": oracle.by_group["large"],
        "group_accuracy/size-small": oracle.by_group["small"],
        "worst_group_accuracy/size": oracle.group_min(),
        "group_accuracy_gap/size": oracle.difference(),
    }
    for name, label in (("true", "malignant"), ("false", "benign")):
        rates = [
            np.mean(predicted[(frame["size"] == size) & (frame["target"] == label)] == label)
            for size in ("large", "small")
        ]
        expected[f"{name}_positive_rate_gap/size"] = abs(rates[0] - rates[1])
    assert result.metrics == pytest.approx(expected, abs=1e-12)
    assert result.metrics["accuracy"] == oracle.overall
    assert expected["group_accuracy_gap/size"] > 0.01


def test_output_perturbation_is_its_sampled_self() -> None:
    """On logarithms of probabilities: against exponential noise drawn 4,000 times per row."""
    frame, model = _cancer()
    specs = [{"name": "output_perturbation", "lambda": 1}]
    result = measured(frame, model.predict_proba, interventions=specs, groups=["size"])
    (value,) = result.metrics.values()
    p = model.predict_proba(frame[FEATURES])
    truth = (frame["target"] == "malignant").to_numpy().astype(int)
    rng = np.random.default_rng(0)
    wins = [
        np.mean((np.log(p) + rng.exponential(1.0, p.shape)).argmax(1) == truth) for _ in range(4000)
    ]
    assert abs(np.mean(wins) - value) < 4 * np.std(wins) / np.sqrt(len(wins))
    assert value < accuracy_score(frame["target"], model.predict(frame[FEATURES])) - 0.02


def test_input_perturbation_is_noise_on_standardised_features() -> None:
    """To the bit by hand for one seed; over seeds, as numpy's own noise would have it; none at 0."""
    frame, model = _cancer()
    seeds = list(range(30))
    specs = ["accuracy"]
    specs += [{"name": "input_perturbation", "lambda": [0, 0.5], "noise_seed": seeds}]  # type: ignore[list-item]
    specs += [{"name": "input_perturbation", "lambda": 0.5, "examples": 50}]  # type: ignore[list-item]
    found = measured(frame, logged_model(model), interventions=specs, groups=["size"]).metrics
    at_zero = {value for key, value in found.items() if "lambda-0" in key and "0.5" not in key}
    assert at_zero == {found["accuracy"]}
    x = frame[FEATURES].to_numpy()
    std = x.std(axis=0)
    drawn = np.stack([noise(3, "test", str(i), (10,)) for i in range(len(x))])
    noisy = x + (np.float32(0.5) * std.astype(np.float32)) * drawn
    right = model.predict(pd.DataFrame(noisy, columns=FEATURES)) == frame["target"]
    assert found["input_perturbation_accuracy/lambda-0.5.noise_seed-3"] == np.mean(right)
    ours = [v for key, v in found.items() if "lambda-0.5" in key and "examples" not in key]
    assert len(ours) == len(seeds)
    rng = np.random.default_rng(1)
    numpys = []
    for _ in range(200):
        perturbed = pd.DataFrame(x + 0.5 * std * rng.exponential(1.0, x.shape), columns=FEATURES)
        numpys.append(np.mean(model.predict(perturbed) == frame["target"]))
    error = np.hypot(np.std(ours) / np.sqrt(len(ours)), np.std(numpys) / np.sqrt(len(numpys)))
    assert abs(np.mean(ours) - np.mean(numpys)) < 4 * error
    assert np.mean(ours) < found["accuracy"] - 0.02


def test_noise_goes_by_the_training_datas_deviation_where_it_is_given() -> None:
    """Ten times the deviation at a tenth of λ is the same noise; rows in another order too, by ids."""
    frame, model = _cancer()
    std = frame[FEATURES].std(ddof=0)
    small = {"name": "input_perturbation", "lambda": 0.0625}
    large = {"name": "input_perturbation", "lambda": 1}
    named = frame.assign(row=np.arange(len(frame)))
    shuffled = named.sample(frac=1, random_state=0)
    settings: dict[str, Any] = {"groups": ["size"], "ids": "row"}
    found = [
        measured(named, model.predict, interventions=large, **settings),
        measured(named, model.predict, interventions=small, std=dict(std * 16), **settings),
        measured(shuffled, model.predict, interventions=large, std=dict(std), **settings),
    ]
    values = [next(iter(result.metrics.values())) for result in found]
    assert values[0] == values[1] == values[2]


def test_arrays_with_groups_beside_them() -> None:
    """A 2-dimensional array has no names: groups are given value by value, or by position."""
    frame, model = _cancer()
    bare = LogisticRegression(max_iter=5000).fit(frame[FEATURES].to_numpy(), frame["target"])
    array, targets = frame[FEATURES].to_numpy(), frame["target"].to_numpy()
    specs = ["accuracy", {"name": "group_accuracy_gap", "by": "size"}]
    given = measured(
        array,
        bare.predict,
        targets=targets,
        interventions=specs,
        groups={"size": frame["size"].tolist()},
    )
    coded = np.column_stack([array, frame["size"] == "large"])
    by_position = measured(
        coded, bare.predict, targets=targets, interventions=specs, groups={"size": 10}
    )
    assert given.metrics == by_position.metrics
    assert given.metrics["accuracy"] == accuracy_score(targets, bare.predict(array))
    assert model is not bare


def test_rows_with_text_can_be_measured_but_not_given_noise() -> None:
    """A pipeline that encodes a column of text, which is a feature and a group at once."""
    frame, _ = _cancer()
    features = [*FEATURES[:3], "size"]
    encode = make_column_transformer((OneHotEncoder(), ["size"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression(max_iter=5000))
    model.fit(frame[features], frame["target"])
    settings = {"groups": ["size"], "features": features}
    specs: list[Any] = ["accuracy", {"name": "output_perturbation", "lambda": 1}]
    found = measured(frame, logged_model(model), interventions=specs, **settings).metrics
    assert found["accuracy"] == model.score(frame[features], frame["target"])
    with pytest.raises(InvalidInput, match=r"lambda-1: features 'size' hold no numbers"):
        measured(frame, model.predict, interventions=[NOISY], **settings)


class WholeNumbers(mlflow.pyfunc.PythonModel):
    """Predicts whether a whole number is large."""

    def predict(self, model_input: pd.DataFrame) -> np.ndarray:
        """Labels."""
        return np.where(model_input["n"] > 4, "large", "small")


@pytest.mark.filterwarnings("ignore:.*(type hint|input example)")
def test_a_signature_of_whole_numbers_takes_no_noise() -> None:
    """What MLflow would refuse at the first batch is refused at the start; the rest is measured."""
    frame = pd.DataFrame({"n": np.arange(10)})
    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=WholeNumbers(),
        signature=infer_signature(frame, np.array(["large"])),
        pip_requirements=[],
    )
    table = frame.assign(target=["small"] * 4 + ["large"] * 6)
    assert measured(table, info.model_uri, interventions="accuracy").metrics == {"accuracy": 0.9}
    with pytest.raises(InvalidInput, match="the model's signature has whole numbers"):
        measured(table, info.model_uri, interventions=NOISY)


# ---- what it leaves behind, and what it refuses ----


def test_nothing_is_left_but_metrics_and_two_files(caplog: pytest.LogCaptureFixture) -> None:
    """No tag of ours, no param; failed self-checks are said; the result can be saved and loaded."""
    frame, model = _cancer()
    rare = np.where(np.arange(len(frame)) < 7, "rare", "usual")
    specs = [{"name": "group_accuracy", "by": "kind"}]
    with mlflow.start_run() as run:
        mlflow.set_tag("mine", "kept")
        result = measured(
            frame.assign(kind=rare), model.predict, interventions=specs, groups=["kind", "size"]
        )
        assert mlflow.active_run() is not None
    data = mlflow.get_run(run.info.run_id).data
    ours = {key for key in data.tags if not key.startswith("mlflow.")}
    assert ours == {"mine"}
    assert data.params == {}
    assert "group_accuracy/kind-rare: n = 7, below 30" in caplog.text
    result.save("saved")
    again = EvaluationResult.load("saved")
    assert again.metrics == result.metrics
    records = again.artifacts["multiplicity/metrics"].content
    assert records["metrics"]["group_accuracy/kind-rare"]["n"] == 7
    assert len(again.artifacts["multiplicity/predictions"].content) == len(frame)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"intervention": ["accuracy"]},
        "unknown key of evaluator_config 'intervention'",
    ),
    "unknown intervention": (
        {"interventions": ["pdg"]},
        "unknown intervention 'pdg'; did you mean",
    ),
    "no strength": ({"interventions": ["pgd"]}, "pgd needs delta"),
    "an attack": (
        {"interventions": [{"name": "pgd", "delta": 0.1}, "accuracy"]},
        "cannot be measured here: pgd_accuracy/delta-0.1: it needs gradients",
    ),
    "pixels": (
        {"interventions": [{"name": "corruption", "kind": "gaussian_noise", "severity": 0.1}]},
        "corruption_accuracy/gaussian_noise.severity-0.1: it changes pixels between 0 and 1",
    ),
    "another dataset": (
        {"interventions": [{"name": "ood_accuracy", "dataset": {"name": "celeba"}}]},
        "dataset 'celeba' in interventions is not allowed here",
    ),
    "another split": (
        {"interventions": [{"name": "accuracy", "split": "train"}]},
        "unknown split for accuracy 'train'",
    ),
    "unknown group": (
        {"groups": ["sizes"]},
        "unknown column of group 'sizes' 'sizes'; did you mean",
    ),
    "a group of another length": ({"groups": {"g": ["a"]}}, r"group 'g' of shape \(1,\)"),
    "unknown features": ({"features": ["radius"]}, "unknown column in features 'radius'"),
    "ids twice": ({"ids": "size"}, "ids 'size' is not allowed"),
    "unknown output": ({"output": "scores"}, "output: Input should be 'logits'"),
    "unknown classes": ({"classes": ["a", "b"]}, "unknown class in targets 'malignant'"),
    "predictions beside a model": ({"predictions": ["mean area"]}, "are for model=None"),
    "std of no feature": ({"std": {"x": 1}}, "unknown feature of std 'x'"),
    "no interventions": ({"interventions": []}, "at least 1 item"),
    "batch size": ({"batch_size": 0}, "batch_size: Input should be greater"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_anything_is_measured(case: str) -> None:
    """It names the argument, the value and what is allowed; nothing is logged."""
    frame, model = _cancer()
    config, message = BAD[case]
    settings = {"interventions": ["accuracy"], "groups": ["size"]} | config
    with mlflow.start_run() as run, pytest.raises(InvalidInput, match=message) as error:
        measured(frame, model.predict, **_scores(settings))
    assert "\n" not in str(error.value)
    logged = mlflow.get_run(run.info.run_id)
    assert logged.data.metrics == {}
    assert artifacts(logged) == set()


def _scores(settings: dict[str, Any]) -> dict[str, Any]:
    return {"scores" if key == "predictions" else key: value for key, value in settings.items()}


def test_predictions_that_are_not_enough() -> None:
    """Labels have no scale, and no predictions can be asked about other inputs."""
    table = pd.DataFrame({"said": ["a", "b", "a"], "target": ["a", "a", "a"]})
    found = measured(table, predictions="said", interventions=["accuracy"]).metrics
    assert found == {"accuracy": 2 / 3}
    with pytest.raises(InvalidInput, match="this model gives labels only"):
        measured(table, predictions="said", interventions={**NOISY, "name": "output_perturbation"})
    with pytest.raises(
        InvalidInput, match="it needs the model, and there are its predictions only"
    ):
        measured(table, predictions="said", interventions=NOISY)
    fraction = pd.DataFrame({"said": [0.2, 0.9, 0.6], "target": [0, 1, 0]})
    with pytest.raises(InvalidInput, match="output says whether it is probabilities or logits"):
        measured(fraction, predictions="said", interventions=["accuracy"])
    said = measured(
        fraction, predictions="said", interventions=["accuracy"], output="probabilities"
    )
    assert said.metrics == {"accuracy": 2 / 3}


def test_images_are_refused_by_mlflow_itself() -> None:
    """As the documentation says: they go through the command line."""
    images = np.zeros((4, 1, 8, 8))
    with pytest.raises(MlflowException, match="2-dimensional"):
        measured(images, lambda x: x, targets=np.zeros(4), interventions=["accuracy"])
    assert "mm-mlflow evaluate" in (MultiplicityEvaluator.__doc__ or "")


def test_it_runs_only_where_interventions_are_asked_for() -> None:
    """MLflow tries every installed evaluator where none is named: ours stays out of the way."""
    found = resolve_evaluators_and_configs(None, None, "classifier")
    assert "multiplicity" not in {bundle.name for bundle in found}
    config = {"multiplicity": {"interventions": ["accuracy"]}}
    found = resolve_evaluators_and_configs(None, config, "classifier")
    assert "multiplicity" in {bundle.name for bundle in found}
    found = resolve_evaluators_and_configs(None, config, "regressor")
    assert "multiplicity" not in {bundle.name for bundle in found}


LIGHT = """
import sys
import mlflow
assert not any(name.startswith("mm_mlflow") for name in sys.modules)
import mlflow.models
assert "multiplicity" in mlflow.models.list_evaluators()
assert "mm_mlflow.plugins.evaluator" in sys.modules
heavy = {"torch", "torchvision", "optuna", "dask", "mm_mlflow.tracking"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_mlflow_does_not_load_it() -> None:
    """Nor does looking for evaluators load torch, or change what MLflow prints."""
    subprocess.run([sys.executable, "-c", LIGHT], check=True, cwd=Path(__file__).parents[2])


def test_the_readmes_example_runs() -> None:
    """As it stands."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block("python", 'evaluators="multiplicity"'), "README.md", "exec"), {})
    assert "worst_group_accuracy/size" in said.getvalue()
