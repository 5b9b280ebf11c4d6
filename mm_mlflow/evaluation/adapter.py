"""Models of other libraries, which give no gradients, as modules that ``evaluate`` takes.

What such a model cannot be measured by is known before anything runs: :func:`impossible` tells of one
task, :func:`split_tasks` of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import scores
from mm_mlflow.evaluation.planning import Task
from mm_mlflow.evaluation.scores import Output

Predict = Callable[[np.ndarray], np.ndarray]
Inputs = Callable[[np.ndarray], Any]

NO_GRADIENTS = "it needs gradients, and this model gives none"
NO_SCALE = "it adds noise to scores, and this model gives labels only"


class PredictFunction(nn.Module):
    """A function of images that gives scores, as a model without gradients.

    Args:
        predict: ``(n, C, H, W)`` images in [0, 1], in the split's own float type, to ``(n, K)``
            logits, or what serves as such (:mod:`~mm_mlflow.evaluation.scores`). It is called with
            batches of any size, and has to give every example the same scores in each.
        unable: what the model lacks and why, by what a task needs: ``inputs`` (it cannot be asked
            again), ``scale`` (the size of its scores means nothing).

    Attributes:
        gradients: False: no task that needs gradients is possible.
    """

    gradients = False

    def __init__(self, predict: Predict, *, unable: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.predict = predict
        self.unable = dict(unable or {})

    def forward(self, images: Tensor) -> Tensor:
        """``(n, K)`` float32 logits, on the device of ``images``.

        Raises:
            InvalidInput: the function returns anything else than ``(n, K)`` numbers.
        """
        given = np.asarray(self.predict(images.detach().cpu().numpy()))
        if given.ndim != 2 or len(given) != len(images) or given.dtype.kind not in "fiu":
            raise InvalidInput(
                f"the model returns {given.dtype} of shape {given.shape} for {len(images)} examples: "
                "(n, K) scores are needed"
            )
        return torch.from_numpy(scores.single_precision(given)).to(images.device)


def impossible(task: Task, model: object) -> str | None:
    """Why ``model`` cannot be measured by ``task``, or None if it can.

    Models say so by the attributes of :class:`PredictFunction`; one without them can do all.
    """
    intervention = task.intervention
    unable: Mapping[str, str] = getattr(model, "unable", {})
    if intervention.needs == "gradients" and not getattr(model, "gradients", True):
        return NO_GRADIENTS
    if intervention.needs != "logits" and "inputs" in unable:
        return unable["inputs"]
    if intervention.scaled and "scale" in unable:
        return unable["scale"]
    return None


def split_tasks(tasks: Sequence[Task], model: object) -> tuple[tuple[Task, ...], dict[str, str]]:
    """The tasks that ``model`` can be measured by, and of the others why not, by metric key."""
    reasons = {task.key: impossible(task, model) for task in tasks}
    doable = tuple(task for task in tasks if reasons[task.key] is None)
    return doable, {key: reason for key, reason in reasons.items() if reason is not None}


def from_estimator(
    estimator: Any,
    class_names: Sequence[str],
    *,
    output: Output | None = None,
    inputs: Inputs | None = None,
) -> PredictFunction:
    """A fitted classifier of scikit-learn, or of a library that follows it.

    Args:
        estimator: with ``classes_`` and ``predict_proba``, ``decision_function`` or ``predict``.
        class_names: of the data. Classes of the estimator are found by name, or by position.
        output: ``probabilities``, ``logits`` (decision values) or ``labels``; None is the first of
            these that the estimator has. An estimator whose ``predict`` follows another rule (a
            tuned threshold, ``SVC`` with its votes) is what ``output`` says, not what its
            ``predict`` says: ``labels`` takes that.
        inputs: makes of ``(n, C, H, W)`` images what the estimator takes; by default
            ``(n, C * H * W)``, under the names that it was fitted with if it knows any.

    Raises:
        InvalidInput: no classifier, an output that it lacks, or classes that are none of the data's.
    """
    methods: dict[Output, str] = {
        "probabilities": "predict_proba",
        "logits": "decision_function",
        "labels": "predict",
    }
    has = [kind for kind, method in methods.items() if hasattr(estimator, method)]
    if not has or not hasattr(estimator, "classes_"):
        raise InvalidInput(f"model {type(estimator).__name__} is no fitted classifier")
    _check_output(output, has)
    kind = output or has[0]
    function: Callable[[Any], Any] = getattr(estimator, methods[kind])
    if kind == "logits" and getattr(estimator, "decision_function_shape", None) == "ovo":
        raise InvalidInput("decision values of pairs of classes (ovo) are no scores of classes")
    prepare = _named(estimator, inputs or _flat(None))
    classes = np.asarray(estimator.classes_).tolist()
    return _adapted(lambda images: function(prepare(images)), kind, classes, class_names)


def from_pyfunc(
    model: Any,
    class_names: Sequence[str],
    sample: np.ndarray,
    *,
    output: Output | None = None,
    inputs: Inputs | None = None,
) -> PredictFunction:
    """A model that ``mlflow.pyfunc.load_model`` gives, of any flavor.

    One that holds a classifier of scikit-learn's kind is :func:`from_estimator`, because pyfunc
    gives its labels alone. Of others, what ``predict`` returns is told by its form on ``sample``:
    one column are labels, as many columns as classes probabilities if rows sum to 1, else logits.

    Args:
        model: with ``predict``; its signature, if it has one, says what it takes: a DataFrame with
            named columns, or an array of any of the shapes ``(n, C * H * W)``, ``(n, C, H, W)`` and
            ``(n, H, W, C)``.
        class_names: of the data, in the order of columns, unless columns have their names.
        sample: ``(m, C, H, W)`` a few images in [0, 1].
        output: what ``predict`` returns, where its form does not tell. A single column of
            ``probabilities`` or ``logits`` is that of the second of two classes.
        inputs: makes of images what the model takes, whatever its signature says.

    Raises:
        InvalidInput: a signature or an output that fits nothing of this.
    """
    _check_output(output, get_args(Output))
    raw = raw_classifier(model)
    if raw is not None:
        return from_estimator(raw, class_names, output=output, inputs=inputs)
    prepare = inputs or _by_signature(model, sample.shape[1:])

    def predict(images: np.ndarray) -> np.ndarray:
        return as_array(model.predict(prepare(images)), class_names)

    return from_output(predict, class_names, predict(sample), output=output)


def from_output(
    predict: Predict,
    class_names: Sequence[str],
    sample: np.ndarray,
    *,
    output: Output | None = None,
) -> PredictFunction:
    """A function that returns labels ``(n,)``, or scores ``(n, K)`` or, of two classes, ``(n,)``.

    Args:
        predict: from ``(n, C, H, W)`` images.
        class_names: of the data, in the order of columns.
        sample: what it returns for some images, which tells what it is where ``output`` does not.
        output: as for :func:`from_pyfunc`.

    Raises:
        InvalidInput: an output that fits nothing of this.
    """
    _check_output(output, get_args(Output))
    kind = output or scores.told(sample, len(class_names))
    classes: Sequence[object] = class_names
    if kind == "labels":
        classes = list(dict.fromkeys(map(scores.text, np.asarray(sample).tolist())))
        if output is None:
            predict = _labels_only(predict)
    return _adapted(predict, kind, classes, class_names)


def _labels_only(predict: Predict) -> Predict:
    """``predict``, which gave labels on a sample, as long as it goes on to."""

    def checked(images: np.ndarray) -> np.ndarray:
        said = predict(images)
        if scores.fractions(said):
            raise InvalidInput(
                "the model gave whole numbers, taken for labels, and now others: output says what it gives"
            )
        return said

    return checked


def _adapted(
    predict: Predict, kind: Output, classes: Sequence[object], class_names: Sequence[str]
) -> PredictFunction:
    """Columns, or labels, of a model's ``classes`` as logits of the data's."""
    table = scores.places(classes, class_names)
    columns = [table[scores.text(value)] for value in classes]
    total = max(len(class_names), *(column + 1 for column in columns))

    def labels(images: np.ndarray) -> np.ndarray:
        # One column more, for what no sample of the model's labels had.
        return scores.one_hot(scores.label_positions(predict(images), table, total), total + 1)

    def logits(images: np.ndarray) -> np.ndarray:
        return scores.arranged(scores.decisions(predict(images)), columns, total, scores.ABSENT)

    def probabilities(images: np.ndarray) -> np.ndarray:
        given = scores.arranged(scores.both(predict(images)), columns, total, 0.0)
        return scores.log_probabilities(given)

    if kind == "labels":
        return PredictFunction(labels, unable={"scale": NO_SCALE})
    return PredictFunction(logits if kind == "logits" else probabilities)


def _check_output(output: str | None, has: Sequence[str]) -> None:
    if output is not None and output not in has:
        raise InvalidInput(f"output {output!r} is not allowed: {', '.join(has)}")


def _flat(names: Any) -> Inputs:
    def prepare(images: np.ndarray) -> Any:
        flat = images.reshape(len(images), -1)
        return flat if names is None else pd.DataFrame(flat, columns=list(names))

    return prepare


def _named(estimator: Any, inputs: Inputs) -> Inputs:
    """Inputs with columns as the estimator was fitted: scikit-learn warns at every call of others."""
    names = getattr(estimator, "feature_names_in_", None)

    def prepare(images: np.ndarray) -> Any:
        given = inputs(images)
        if names is None:
            numbers = isinstance(given, pd.DataFrame) and all(
                d.kind in "fiub" for d in given.dtypes
            )
            return given.to_numpy() if numbers else given
        if not isinstance(given, pd.DataFrame):
            return pd.DataFrame(given, columns=list(names))
        return given[list(names)] if set(names) == set(given.columns) else given

    return prepare


def raw_classifier(model: Any) -> Any:
    """The classifier in a pyfunc model, if it is one of scikit-learn's kind; else None."""
    try:
        raw = model.get_raw_model()
    except (AttributeError, NotImplementedError):
        return None
    scored = hasattr(raw, "predict_proba") or hasattr(raw, "decision_function")
    return raw if scored and hasattr(raw, "classes_") else None


def _by_signature(model: Any, shape: tuple[int, ...]) -> Inputs:
    metadata = getattr(model, "metadata", None)
    schema = metadata.get_input_schema() if metadata is not None else None
    if schema is None:
        return _flat(None)
    if not schema.is_tensor_spec():
        names = schema.input_names()
        if len(names) != np.prod(shape):
            raise InvalidInput(
                f"the model takes {len(names)} columns, and an image has {np.prod(shape)} values"
            )
        return _flat(names if schema.has_input_names() else None)
    (spec, *others) = schema.inputs
    channels, height, width = shape
    wanted = {
        (channels * height * width,): lambda x: x.reshape(len(x), -1),
        (height, width, channels): lambda x: x.transpose(0, 2, 3, 1),
        (channels, height, width): lambda x: x,
    }
    takes = tuple(spec.shape[1:])
    if others or spec.type.kind != "f" or takes not in wanted:
        raise InvalidInput(
            f"the model takes {spec.type} of shape {spec.shape}: "
            f"floats of one of the shapes {', '.join(str((-1, *s)) for s in wanted)} are needed"
        )
    return lambda images: wanted[takes](images).astype(spec.type)


def as_array(
    returned: Any, class_names: Sequence[str] | None = None, column: str | None = None
) -> np.ndarray:
    """What a model returns, a DataFrame or a dictionary too, as ``(n,)`` or ``(n, K)``.

    Args:
        returned: by the model.
        class_names: if columns have these names, they are put in this order.
        column: the only one to take.
    """
    if isinstance(returned, Mapping):
        returned = pd.DataFrame({name: list(values) for name, values in returned.items()})
    if isinstance(returned, pd.DataFrame):
        if column is not None and column in returned:
            returned = returned[[column]]
        named = {scores.text(name): name for name in returned.columns}
        if class_names is not None and set(class_names) <= set(named):
            returned = returned[[named[name] for name in class_names]]
    array = np.asarray(returned)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.dtype == object and array.ndim == 1 and len(array) and np.ndim(array[0]) == 1:
        return np.stack(list(array))  # a column of lists of scores
    return array
