"""The model of a finished run, as ``evaluate`` takes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mm_mlflow import models, tracking
from mm_mlflow.errors import InvalidInput, TrackingError
from mm_mlflow.evaluation import Task, from_pyfunc
from mm_mlflow.evaluation.adapter import raw_classifier
from mm_mlflow.evaluation.scores import text
from mm_mlflow.split import Split
from mm_mlflow.tracking import Consent, Store, StoredModel

WEIGHTS = "model.safetensors"


class Exported(nn.Module):
    """A graph that ``torch.export`` made: it has one mode, the one in which it was exported."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.train(mode=False)

    def train(self, mode: bool = True) -> Exported:
        """Nothing to switch: the graph itself refuses to be told."""
        del mode
        for module in self.modules():
            module.training = False
        return self

    def forward(self, images: Tensor) -> Tensor:
        """As the graph's own."""
        logits: Tensor = self.graph(images)
        return logits


@contextmanager
def opened(
    store: Store, run_id: str, stored: StoredModel | None, tasks: Sequence[Task], consent: Consent
) -> Iterator[nn.Module]:
    """A run's model while the block lasts: of a cell of ours, or the one that another program stored.

    Args:
        store: the experiment.
        run_id: the run.
        stored: its model; None for a cell, whose weights are ``model.safetensors``.
        tasks: at least one, on whose images the model is tried.
        consent: what may run.

    Raises:
        InvalidInput: it is missing, broken, refused, or does not fit the tasks' data; in words.
    """
    split = tasks[0].split
    if stored is None:
        yield _fitting(_cell_model(store, run_id), tasks)
        return
    with tracking.loaded(store, stored, consent) as raw:
        if stored.form == "pyfunc":
            names = _class_names(raw, split)
            # From all over the split: the first of them may be of one class.
            chosen = np.linspace(0, len(split) - 1, min(64, len(split))).astype(int)
            sample = split.batch(chosen).numpy()
            yield _fitting(_guarded(lambda: from_pyfunc(raw, names, sample)), tasks)
            return
        if not isinstance(raw, nn.Module):
            raise InvalidInput(f"the model is a {type(raw).__name__}, which is no torch module")
        model = Exported(raw) if stored.form == "pt2" else raw.eval()
        yield _fitting(model, tasks, outputs=_outputs(split))


def _cell_model(store: Store, run_id: str) -> nn.Module:
    try:
        data = tracking.artifact(store, run_id, WEIGHTS)
    except TrackingError:
        if tracking.has_artifact(store, run_id, WEIGHTS):
            raise
        raise InvalidInput(f"it keeps no weights ({WEIGHTS})") from None
    return models.from_bytes(data)[0]


def _class_names(model: Any, split: Split) -> Sequence[str]:
    """Names by which a model's classes find their columns: with a label map, its outputs as they are."""
    if split.label_map is None:
        return split.class_names
    classifier = raw_classifier(model)
    if classifier is None:
        return [str(index) for index in range(len(split.class_names))]
    return [text(value) for value in np.asarray(classifier.classes_).tolist()]


def _outputs(split: Split) -> int | None:
    """How many outputs a model has to have; with a label map, any number that its indices are below."""
    return len(split.class_names) if split.label_map is None else None


def _fitting(model: nn.Module, tasks: Sequence[Task], outputs: int | None = None) -> nn.Module:
    """``model``, tried on two images of every split.

    Raises:
        InvalidInput: it does not take them, or gives other than one logit for each class.
    """
    for split in {task.split.name: task.split for task in tasks}.values():
        images = split.batch(slice(0, 2))
        with torch.no_grad():
            logits = _guarded(lambda: model(images))  # noqa: B023 - called at once
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        given = f"the model gives {shape} for images {tuple(images.shape)} of split {split.name!r}"
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            raise InvalidInput(f"{given}: (n, K) logits are needed")
        if outputs is not None and logits.shape[1] != outputs:
            raise InvalidInput(
                f"{given}, and the data have {outputs} classes: --label-map says which output is which"
            )
        if logits.shape[1] <= (largest := int(split.labels.max())):
            what = "the label map" if split.label_map is not None else "the data"
            raise InvalidInput(f"{given}: {what} would need output {largest}")
    return model


def _guarded(call: Any) -> Any:
    """What ``call`` returns; whatever a stranger's model raises, in words."""
    try:
        return call()
    except InvalidInput:
        raise
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InvalidInput(f"the model does not take the data: {line}") from error
