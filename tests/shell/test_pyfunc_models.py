"""Models that ``mlflow.pyfunc`` loads, on images: what their signatures and outputs say is understood."""

from __future__ import annotations

import contextlib
import logging
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from mm_mlflow import loading, tracking
from mm_mlflow.design import InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import evaluate, from_pyfunc, plan, split_tasks
from mm_mlflow.evaluation.input_perturbation import noise
from mm_mlflow.frame import ExperimentRef
from mm_mlflow.split import Split
from mm_mlflow.tracking import Consent, Store, StoredModel

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*input example"),
    pytest.mark.filterwarnings("ignore:.*load_module"),
]


@lru_cache(maxsize=1)
def _digits() -> tuple[Split, Any]:
    """200 colour images, 3 x 4 x 16 of the digits' values, and a classifier that was fitted on others."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32).reshape(-1, 1, 4, 16)
    images = np.concatenate([images, images[:, :, ::-1], 1 - images], axis=1)
    test = slice(0, 200)
    estimator = LogisticRegression(max_iter=200).fit(flat(images[200:]), data.target[200:])
    split = Split(
        name="test",
        images=images[test],
        labels=data.target[test].astype(np.int64),
        example_ids=np.arange(200).astype(str),
        class_names=tuple("0123456789"),
        groups={},
        mean=(0.3, 0.3, 0.7),
        std=(0.4, 0.4, 0.4),
        digest="digits",
    )
    return split, estimator


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def loaded(folder: Path, method: str, signature: ModelSignature | None) -> Any:
    """A model that gives what the estimator's method does for rows, images, or images with channels
    last (of ``frame``, a DataFrame with names of classes), saved and loaded again."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)  # it warns of its own pickles
    _, estimator = _digits()

    with warnings.catch_warnings(record=True):  # MLflow asks for type hints, past all filters

        class Predict(mlflow.pyfunc.PythonModel):
            def predict(self, model_input):  # type: ignore[no-untyped-def]
                given = np.asarray(model_input)
                if given.ndim == 4 and given.shape[3] == 3:
                    given = given.transpose(0, 3, 1, 2)
                if method != "frame":
                    return getattr(estimator, method)(flat(given))
                p = estimator.predict_proba(flat(given))
                return pd.DataFrame(p[:, ::-1], columns=estimator.classes_[::-1].astype(str))

    mlflow.pyfunc.save_model(
        folder / "model", python_model=Predict(), signature=signature, pip_requirements=[]
    )
    return mlflow.pyfunc.load_model(str(folder / "model"))


SHAPES = {
    "rows": flat,
    "images": lambda x: x,
    "channels last": lambda x: x.transpose(0, 2, 3, 1),
    "float64": lambda x: flat(x).astype(np.float64),
    "columns": lambda x: pd.DataFrame(flat(x), columns=[f"pixel {i}" for i in range(192)]),
}


@pytest.mark.parametrize("shape", [*SHAPES, "nothing"])
@pytest.mark.parametrize("method", ["predict_proba", "predict", "frame"])
def test_inputs_by_signature_and_outputs_by_form(tmp_path: Path, shape: str, method: str) -> None:
    """Every shape of input, and labels, probabilities or columns with names: accuracies are the
    estimator's own, also under noise."""
    split, estimator = _digits()
    signature = None
    if shape in SHAPES:
        signature = infer_signature(SHAPES[shape](split.images), np.zeros(1))
    specs = [{"name": "accuracy"}, {"name": "output_perturbation", "lambda": 1}]
    specs += [{"name": "input_perturbation", "lambda": 1}]
    tasks = plan(
        [InterventionSpec.model_validate(spec) for spec in specs], {"test": split}, lambda _: {}
    )
    model = from_pyfunc(loaded(tmp_path, method, signature), split.class_names, split.images[:20])
    doable, refused = split_tasks(tasks, model)
    found = evaluate(model, doable)
    assert found.checks["failed"] == []
    assert found.values["accuracy"] == estimator.score(flat(split.images), split.labels)
    drawn = [noise(0, "test", name, split.images.shape[1:]) for name in split.example_ids]
    noisy = split.images + np.float32(split.std)[:, None, None] * np.stack(drawn)
    expected = estimator.score(flat(noisy), split.labels)
    assert found.values["input_perturbation_accuracy/lambda-1"] == expected
    assert 0.2 < expected < found.values["accuracy"] - 0.05
    labels_only = {"output_perturbation_accuracy/lambda-1"} if method == "predict" else set()
    assert set(refused) == labels_only


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 64), np.float32),
        np.zeros((2, 192), np.uint8),
        pd.DataFrame(np.zeros((2, 3)), columns=list("abc")),
    ],
    ids=["shape", "whole numbers", "columns"],
)
def test_signatures_that_fit_no_image(tmp_path: Path, wrong: Any) -> None:
    """One line, before the model is asked."""
    split, _ = _digits()
    model = loaded(tmp_path, "predict", infer_signature(wrong, np.zeros(1)))
    with pytest.raises(InvalidInput, match="the model takes"):
        from_pyfunc(model, split.class_names, split.images[:2])


def test_what_a_model_gives_is_told_from_all_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come sorted by class, and the scores of the first one may all look like labels."""
    split, _ = _digits()
    asked: list[np.ndarray] = []

    class Model:
        metadata = None

        def predict(self, rows: np.ndarray) -> np.ndarray:
            asked.append(rows)
            return split.labels[: len(rows)]

    monkeypatch.setattr(tracking, "loaded", lambda *_: contextlib.nullcontext(Model()))
    tasks = plan([InterventionSpec(name="accuracy")], {"test": split}, lambda _: {})
    stored = StoredModel("m", "models:/m", "somewhere", "pyfunc")
    store = Store("sqlite://", ExperimentRef(id="1", name="x"))
    with loading.opened(store, "run", stored, tasks, Consent(pickle=True)):
        rows = {row.tobytes() for row in asked[0]}
    images = flat(split.batch(slice(None)).numpy())
    assert len(rows) == 64
    assert {images[0].tobytes(), images[-1].tobytes()} <= rows
