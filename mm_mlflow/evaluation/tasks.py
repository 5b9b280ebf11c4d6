"""From what a design asks for to tasks: one metric key, one intervention, one set of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mm_mlflow import registry
from mm_mlflow.design import DatasetSpec, InterventionSpec
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation import GROUP, INTERVENTIONS
from mm_mlflow.evaluation.base import Intervention, slug
from mm_mlflow.split import Split

MAX_KEY = 240  # MLflow refuses metric keys above 250 characters


@dataclass(frozen=True, eq=False)
class Task:
    """One metric to take.

    Attributes:
        key: the metric key.
        split: the data; its name is unique among the tasks of one plan.
        indices: ``(n,)`` sorted positions in ``split`` of the examples that the metric is over.
        examples: the size of the fixed stratified part that was asked for, None for all.
    """

    key: str
    intervention: Intervention
    split: Split
    indices: np.ndarray
    examples: int | None

    @property
    def n(self) -> int:
        """How many examples the metric is over."""
        return len(self.indices)

    @property
    def title(self) -> str:
        """What the metric is called on sheets."""
        extra = [] if self.split.name == self.intervention.default_split else [self.split.name]
        extra += [f"{self.examples} examples"] if self.examples else []
        return (
            f"{self.intervention.title} ({', '.join(extra)})" if extra else self.intervention.title
        )


def plan(
    specs: Sequence[InterventionSpec],
    splits: Mapping[str, Split],
    open_dataset: Callable[[DatasetSpec], Mapping[str, Split]],
) -> tuple[Task, ...]:
    """All metrics that ``specs`` ask for, in their order, with everything checked.

    ``splits`` are those of the design's own dataset; ``open_dataset`` opens another one, whose images
    are normalised like the training data.

    Raises:
        InvalidInput: an unknown intervention, parameter, split or group, a value that is not allowed,
            two metrics with one key, or a key of over 240 characters.
    """
    tasks: dict[str, Task] = {}
    for spec in specs:
        cls: type[Intervention] = registry.resolve("intervention", spec.name, INTERVENTIONS, GROUP)
        split = _split(spec, splits, open_dataset)
        if cls.default_split is None and split is splits.get("test"):
            raise InvalidInput(
                f"intervention {spec.name!r} needs a split other than test, or a dataset"
            )
        everything = np.arange(len(split))
        part = split.stratified(spec.examples) if spec.examples else everything
        for intervention in cls.expand(spec.parameters, split):
            key = metric_key(intervention, split.name, spec.examples)
            if key in tasks:
                raise InvalidInput(
                    f"two interventions have the metric key {key!r}: {tasks[key].intervention} "
                    f"and {intervention}"
                )
            if len(key) > MAX_KEY:
                raise InvalidInput(
                    f"metric key {key!r} has {len(key)} characters: {MAX_KEY} are allowed"
                )
            indices = intervention.select(split, part)
            if not len(indices):
                raise InvalidInput(f"metric {key!r} is over no example of split {split.name!r}")
            tasks[key] = Task(key, intervention, split, indices, spec.examples)
    return tuple(tasks.values())


def metric_key(intervention: Intervention, split: str, examples: int | None) -> str:
    """The key of a metric: strengths, and whatever differs from the intervention's defaults."""
    parts = intervention.key_parts()
    if intervention.default_split is None:
        parts = [slug(split), *parts]
    elif split != intervention.default_split:
        parts.append(f"split-{slug(split)}")
    if examples is not None:
        parts.append(f"examples-{examples}")
    return "/".join([intervention.metric, ".".join(parts)]).rstrip("/")


def _split(
    spec: InterventionSpec,
    splits: Mapping[str, Split],
    open_dataset: Callable[[DatasetSpec], Mapping[str, Split]],
) -> Split:
    if spec.dataset is None:
        if spec.split not in splits:
            raise unknown("split", spec.split, splits)
        return splits[spec.split]
    others = open_dataset(spec.dataset)
    if spec.split not in others:
        raise unknown(f"split of dataset {spec.dataset.name!r}", spec.split, others)
    other, train = others[spec.split], splits["train"]
    if len(other.class_names) != len(train.class_names):
        raise InvalidInput(
            f"dataset {spec.dataset.name!r} has {len(other.class_names)} classes, "
            f"the training data {len(train.class_names)}"
        )
    name = spec.dataset.name if spec.split == "test" else f"{spec.dataset.name}.{spec.split}"
    return replace(other, name=name, mean=train.mean, std=train.std)


def metric_records(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """What ``metrics.json`` says of each metric: enough never to parse a key."""
    return {task.key: dict(_record(task)) for task in tasks}


def _record(task: Task) -> Iterator[tuple[str, Any]]:
    intervention = task.intervention
    parameters = intervention.parameters()
    yield "intervention", intervention.name
    yield "version", intervention.version
    yield "title", task.title
    yield "description", intervention.describe()
    yield "parameters", parameters
    yield "split", task.split.name
    yield "split_digest", task.split.digest
    yield "group", parameters.get("group")
    yield "examples", task.examples
    yield "n", task.n
    yield "unit", "fraction"
    yield "higher_is_better", True
