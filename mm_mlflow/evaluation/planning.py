"""From what a design says to tasks: every error that can be found before training is found here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mm_mlflow import registry
from mm_mlflow.design import DatasetSpec, InterventionSpec, canonical_json
from mm_mlflow.errors import InvalidInput, unknown
from mm_mlflow.evaluation import GROUP, INTERVENTIONS
from mm_mlflow.evaluation.base import Intervention, LogitsIntervention
from mm_mlflow.split import Split

MAX_KEY = 240  # MLflow refuses metric keys above 250 characters


@dataclass(frozen=True, eq=False)
class Task:
    """One metric to take: an intervention on some examples of a split.

    Attributes:
        key: the metric's key.
        split: the data; its name is unique among the tasks of a plan, and tells another dataset's
            split from the design's.
        indices: ``(n,)`` sorted int64 positions in the split: the examples it runs on.
        parameters: all that the value depends on besides the model: the intervention's parameters,
            ``split``, ``examples`` (None: all), ``dataset`` (None: the design's) and, where labels are
            mapped, ``label_map``, JSON-able.
        locations: where another dataset's files are; None for the design's own.
    """

    key: str
    intervention: Intervention
    split: Split
    indices: np.ndarray
    parameters: Mapping[str, Any]
    locations: Mapping[str, Any] | None = None

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.indices)

    @property
    def group(self) -> Mapping[str, str] | None:
        """The group that the metric is about; None if it is about no group."""
        return self.parameters.get("group")

    @property
    def smallest_group(self) -> int | None:
        """Examples in the smallest of the groups that the metric compares; None if it does not."""
        return self.intervention.smallest_group(self.split, self.indices)

    @property
    def stored(self) -> bool:
        """Whether outcomes need a column of their own, because clean logits do not give them."""
        return not isinstance(self.intervention, LogitsIntervention)


def plan(
    specs: Sequence[InterventionSpec],
    splits: Mapping[str, Split],
    open_dataset: Callable[[DatasetSpec], Mapping[str, Split]],
) -> tuple[Task, ...]:
    """The tasks that ``specs`` ask for, in their order; lists of values are spelled out.

    Args:
        specs: interventions as a design file gives them.
        splits: of the design's own dataset.
        open_dataset: opens the splits of another dataset.

    Raises:
        InvalidInput: one line about the first thing that is not allowed: an unknown intervention,
            parameter, split or group, a value out of range, more examples than there are, data that
            do not fit the design's, two metrics with one key, or a key that is too long.
    """
    tasks: dict[str, Task] = {}
    data: dict[str, Split] = dict(splits)
    for spec in specs:
        cls = intervention_class(spec.name)
        split = _split(spec, splits, open_dataset)
        if data.setdefault(split.name, split).digest != split.digest:
            raise InvalidInput(
                f"{spec.name}: two sets of evaluation data are called {split.name!r} "
                "and differ in content"
            )
        chosen = _examples(split, spec.examples)
        for intervention in cls.expand(spec.parameters, split):
            task = _task(intervention, spec, split, chosen)
            if task.key in tasks:
                raise InvalidInput(
                    f"{intervention!r} and {tasks[task.key].intervention!r} "
                    f"have one metric key, {task.key!r}: keep one of them"
                )
            tasks[task.key] = task
    _refuse_same_group_twice(list(tasks.values()))
    return tuple(tasks.values())


def plan_recorded(
    records: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Split],
    open_dataset: Callable[[DatasetSpec], Mapping[str, Split]],
) -> tuple[Task, ...]:
    """The tasks whose :func:`metric_records` these are: the same metrics, on the same examples.

    Args:
        records: by metric key, as ``metrics.json`` holds them.
        splits: of the dataset that the model was trained on.
        open_dataset: opens the splits of another dataset.

    Raises:
        InvalidInput: a metric of another version, data that are not there or differ in content, or
            a record that no task of this version has.
    """
    tasks = []
    for key, record in records.items():
        try:
            task = _recorded_task(record, splits, open_dataset)
            expected = key, record["split_digest"], record["n"]
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"the record of metric {key!r} is not whole: {error!r}") from error
        if task.split.digest != expected[1]:
            raise InvalidInput(
                f"{key}: split {task.split.name!r} has digest {task.split.digest[:12]} here, "
                f"{str(expected[1])[:12]} when it was measured: these are other data"
            )
        if (task.key, task.split.digest, task.n) != expected:
            raise InvalidInput(f"{key}: its record makes metric {task.key!r} of {task.n} examples")
        for name, value in record["parameters"].items():
            if canonical_json(task.parameters.get(name)) != canonical_json(value):
                raise InvalidInput(
                    f"{key}: its record has {name} {value!r}, which this version cannot take again"
                )
        tasks.append(task)
    return tuple(tasks)


def _recorded_task(
    record: Mapping[str, Any],
    splits: Mapping[str, Split],
    open_dataset: Callable[[DatasetSpec], Mapping[str, Split]],
) -> Task:
    intervention, parameters = _recorded(record), record["parameters"]
    split, dataset = parameters["split"], parameters["dataset"]
    other = None
    if dataset is not None:
        other = DatasetSpec(**{**dataset, "locations": record.get("locations") or {}})
        # As _split names it.
        split = "test" if split == other.name else split.removeprefix(f"{other.name}/")
    spec = InterventionSpec(
        name=record["intervention"], split=split, dataset=other, examples=parameters["examples"]
    )
    data = _split(spec, splits, open_dataset)
    return _task(intervention, spec, data, _examples(data, spec.examples))


def intervention_class(name: str) -> type[Intervention]:
    """The intervention that design files call ``name``.

    Raises:
        InvalidInput: no such intervention.
    """
    cls = registry.resolve("intervention", name, INTERVENTIONS, GROUP)
    if not (isinstance(cls, type) and issubclass(cls, Intervention)):
        raise InvalidInput(
            f"intervention {name!r} is {cls!r}, which is no subclass of Intervention"
        )
    return cls


def metric_records(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """What ``metrics.json`` says of every metric, by key; the batch size is the evaluation's."""
    return {
        task.key: {
            "intervention": task.intervention.name,
            "version": task.intervention.version,
            "title": _title(task),
            "description": _description(task),
            "parameters": dict(task.parameters),
            "split": task.split.name,
            "split_digest": task.split.digest,
            "group": dict(task.group) if task.group else None,
            "n": task.n,
            "classes": len(task.split.class_names),
            "smallest_group": task.smallest_group,
            "unit": "fraction",
            "higher_is_better": task.intervention.higher_is_better,
            "stored": task.stored,
            "locations": dict(task.locations) if task.locations else None,
        }
        for task in tasks
    }


def recompute(record: Mapping[str, Any], logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``(n,)`` outcomes of a recorded metric from stored logits: no torch, the same bits.

    Args:
        record: of :func:`metric_records`, one whose outcomes are not stored.
        logits: ``(n, K)`` float32 of the metric's examples.
        labels: ``(n,)``.

    Raises:
        InvalidInput: a metric that clean logits do not determine, or of another version.
    """
    intervention = _recorded(record)
    if not isinstance(intervention, LogitsIntervention):
        raise InvalidInput(
            f"{intervention.name} cannot be recomputed from logits: "
            "its outcomes are stored in a column"
        )
    return intervention.from_logits(logits, labels)


def recorded_indices(record: Mapping[str, Any], split: Split) -> np.ndarray:
    """``(n,)`` sorted positions in ``split`` of the examples that a recorded metric is over.

    Args:
        record: of :func:`metric_records`.
        split: the one that the record names. Its images are not looked at, so one made of stored
            example ids, labels, class names and groups will do (with images ``(N, C, 0, 0)``).

    Raises:
        InvalidInput: a metric of another version, or a split that does not fit.
    """
    chosen = _examples(split, record["parameters"]["examples"])
    return _recorded(record).select(split, chosen)


def recompute_value(
    record: Mapping[str, Any],
    outcomes: np.ndarray,
    split: Split,
    indices: np.ndarray | None = None,
) -> float:
    """The value of a recorded metric from its outcomes: the bits that were logged.

    Args:
        record: of :func:`metric_records`.
        outcomes: ``(n,)`` float64 of the examples at :func:`recorded_indices`, recomputed or read
            from the metric's column.
        split: as for :func:`recorded_indices`.
        indices: what that gives, where it is known: of many runs on the same data.

    Raises:
        InvalidInput: a metric of another version, a split that does not fit, or another number of
            outcomes.
    """
    if indices is None:
        indices = recorded_indices(record, split)
    if outcomes.shape != indices.shape:
        raise InvalidInput(
            f"outcomes of shape {outcomes.shape} are not allowed: {indices.shape} are needed"
        )
    return _recorded(record).value(outcomes, split, indices)


def is_mean(record: Mapping[str, Any]) -> bool:
    """Whether the value of a recorded metric is the mean of its outcomes; a gap between groups is not.

    Raises:
        InvalidInput: a metric of another version.
    """
    return type(_recorded(record)).value is Intervention.value


def _recorded(record: Mapping[str, Any]) -> Intervention:
    cls = intervention_class(record["intervention"])
    if record["version"] != cls.version:
        raise InvalidInput(
            f"{cls.name} was recorded as version {record['version']}, this is {cls.version}"
        )
    return cls.from_parameters(record["parameters"])


def _task(
    intervention: Intervention, spec: InterventionSpec, split: Split, chosen: np.ndarray
) -> Task:
    key = intervention.key_on(split.name, spec.examples)
    if len(key) > MAX_KEY:
        raise InvalidInput(
            f"metric key {key[:60]!r}... has {len(key)} characters: at most {MAX_KEY} are allowed"
        )
    indices = intervention.select(split, chosen)
    if not len(indices):
        raise InvalidInput(f"{key}: split {split.name!r} has no examples for it")
    parameters = {
        **intervention.parameters(),
        "split": split.name,
        "examples": spec.examples,
        "dataset": spec.dataset.identity() if spec.dataset else None,
    }
    if split.label_map is not None:
        parameters["label_map"] = dict(split.label_map)
    locations = spec.dataset.locations if spec.dataset else None
    return Task(key, intervention, split, indices, parameters, locations)


def _examples(split: Split, number: int | None) -> np.ndarray:
    return np.arange(len(split)) if number is None else split.stratified(number)


def _split(
    spec: InterventionSpec,
    splits: Mapping[str, Split],
    open_dataset: Callable[[DatasetSpec], Mapping[str, Split]],
) -> Split:
    if spec.dataset is None:
        if spec.split not in splits:
            raise unknown(f"split for {spec.name}", spec.split, splits)
        return splits[spec.split]
    theirs = open_dataset(spec.dataset)
    if spec.split not in theirs:
        raise unknown(f"split of dataset {spec.dataset.name!r} for {spec.name}", spec.split, theirs)
    ours = next(iter(splits.values()))
    name = spec.dataset.name if spec.split == "test" else f"{spec.dataset.name}/{spec.split}"
    split = theirs[spec.split]
    _refuse_misfit(spec.dataset.name, split, ours)
    # Models normalise with their own training data's statistics, so perturbations do too.
    return replace(split, name=name, mean=ours.mean, std=ours.std)


def _refuse_misfit(name: str, split: Split, ours: Split) -> None:
    shape, expected = split.images.shape[1:], ours.images.shape[1:]
    if shape != expected:
        raise InvalidInput(
            f"dataset {name!r} has images of shape {shape}: the design's, {expected}, is needed"
        )
    same = set(split.class_names) == set(ours.class_names)
    if same and split.class_names != ours.class_names and split.label_map is None:
        raise InvalidInput(
            f"dataset {name!r} has the design's classes in another order "
            f"({', '.join(split.class_names)}): map its labels"
        )
    if len(split.labels) and split.labels.max() >= len(ours.class_names):
        raise InvalidInput(
            f"dataset {name!r} has labels up to {split.labels.max()}: "
            f"the design has {len(ours.class_names)} classes"
        )


def _refuse_same_group_twice(tasks: Sequence[Task]) -> None:
    seen: dict[tuple[Any, ...], str] = {}
    for task in tasks:
        if task.group is None:
            continue
        members = (frozenset(task.group.items()), task.split.name, task.parameters["examples"])
        if members in seen:
            raise InvalidInput(
                f"{seen[members]!r} and {task.key!r} are one group: keep one of them"
            )
        seen[members] = task.key


def _title(task: Task) -> str:
    title = task.intervention.title
    if task.split.name != "test" and not task.intervention.names_data:
        title += f", {task.split.name}"
    return title


def _description(task: Task) -> str:
    """What the number is; how many examples it is over is ``n``."""
    what = task.intervention.describe_on(task.split, task.indices)
    if task.parameters["examples"] is not None:
        return f"{what} On a fixed part of split {task.split.name!r}."
    if task.split.name != "test" and not task.intervention.names_data:
        return f"{what} On split {task.split.name!r}."
    return what
