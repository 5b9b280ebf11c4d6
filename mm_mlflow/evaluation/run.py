"""Measure a model on tasks: values, per-example outcomes, clean logits, and self-checks."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mm_mlflow import outcomes
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation.checks import Checks
from mm_mlflow.evaluation.folding import channels_last, folded
from mm_mlflow.evaluation.planning import Task
from mm_mlflow.evaluation.probe import Probe, clean_logits

# On a CPU the activations of 64 small images stay in its cache (PGD takes a fifth longer at 250).
BATCH_SIZE = {"cpu": 64, "cuda": 250}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model did on the tasks of a plan.

    Attributes:
        values: metric key to a number in [0, 1]: the mean of the metric's outcomes, or what its
            intervention makes of them.
        outcomes: metric key to ``(n,)`` float64, probability that each example is correct.
        logits: split name to ``(N, K)`` float32 logits of all its clean images.
        checks: JSON-able record of the self-checks; ``failed`` lists those that failed, in words.
        health: ``diverged`` if any logits are not finite, else ``ok``.
        batch_size: the one used; smaller than asked for only after running out of memory.
    """

    values: Mapping[str, float]
    outcomes: Mapping[str, np.ndarray]
    logits: Mapping[str, np.ndarray]
    checks: Mapping[str, Any]
    health: Literal["ok", "diverged"]
    batch_size: int

    @property
    def id(self) -> str:
        """12 hex digits that the metric keys determine: names this pass among a cell's passes."""
        return hashlib.sha256("\n".join(sorted(self.values)).encode()).hexdigest()[:12]


def evaluate(
    model: nn.Module,
    tasks: Sequence[Task],
    *,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
) -> Evaluation:
    """Measure ``model`` on ``tasks``.

    The model maps ``(n, C, H, W)`` float32 images in [0, 1] to ``(n, K)`` logits; it is moved to
    ``device``. Its modes, gradient flags and gradients, and all global random state, are left as
    they were found. Batches have one size (:data:`BATCH_SIZE` by default), halved only where memory
    runs out, and then for all.

    Raises:
        InvalidInput: a batch size below 1, or a model or an intervention that breaks its contract.
    """
    device = torch.device(device)
    batch_size = BATCH_SIZE.get(device.type, 250) if batch_size is None else batch_size
    if batch_size < 1:
        raise InvalidInput(f"batch_size {batch_size} is not allowed: at least 1")
    model.to(device)
    asked = batch_size
    with _undisturbed(model, device):
        while True:
            try:
                evaluation = _evaluate(model, tasks, batch_size, asked, device)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or batch_size == 1:
                    raise
            else:
                return evaluation
            batch_size = (batch_size + 1) // 2
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _evaluate(
    model: nn.Module, tasks: Sequence[Task], batch_size: int, asked: int, device: torch.device
) -> Evaluation:
    checks = Checks()
    if batch_size < asked:
        checks.failed.append(f"out of memory: batch size {batch_size} instead of {asked}")
    checks.record["batch_size"] = {"asked": asked, "used": batch_size}
    logits: dict[str, np.ndarray] = {}
    healthy = True
    first = tasks[0].split.batch(slice(0, 2)).to(device) if tasks else None
    if first is not None:
        model, checks.record["folded_batch_norms"] = folded(model, first)
        model = channels_last(model, first)
    for split in {task.split.name: task.split for task in tasks}.values():
        if not logits:
            checks.deterministic(model, split, batch_size=batch_size, device=device)
        logits[split.name] = clean_logits(model, split, batch_size=batch_size, device=device)
        healthy &= checks.non_finite(split, logits[split.name])

    probes: dict[tuple[str, bytes], Probe] = {}
    judged: set[tuple[Any, ...]] = set()
    found: dict[str, np.ndarray] = {}
    for task in tasks:
        examples = (task.split.name, task.indices.tobytes())
        if examples not in probes:
            probes[examples] = Probe(
                model,
                task.split,
                task.indices,
                logits[task.split.name],
                batch_size=batch_size,
                device=device,
            )
        probe = probes[examples]
        with probe.watched() as watch:
            found[task.key] = _conform(task, task.intervention.outcomes(probe), probe.logits)
        checks.images(task.key, task.intervention, watch)
        if (kind := (*examples, type(task.intervention))) not in judged:
            judged.add(kind)
            checks.zero_strength(task.key, task.intervention, probe, batch_size)
    for probe in probes.values():
        checks.gradients(probe)
    values = {task.key: _value(task, found[task.key]) for task in tasks}
    checks.monotone(tasks, values)
    checks.groups(tasks)
    return Evaluation(
        values=values,
        outcomes=found,
        logits=logits,
        checks=checks.as_json(),
        health="ok" if healthy else "diverged",
        batch_size=batch_size,
    )


def _conform(task: Task, outcome: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """``(n,)`` float64 in [0, 1], 0 for every example whose clean logits are not finite."""
    shaped = isinstance(outcome, np.ndarray) and outcome.shape == (task.n,)
    if not shaped or not ((outcome >= 0) & (outcome <= 1)).all():  # NaN fails too
        got = f"shape {np.shape(outcome)}" if not shaped else "values outside [0, 1]"
        raise InvalidInput(
            f"{task.intervention!r} returned {got}: ({task.n},) outcomes in [0, 1] are needed"
        )
    return np.where(outcomes.finite(logits), outcome, 0.0).astype(np.float64)


def _value(task: Task, outcome: np.ndarray) -> float:
    value = task.intervention.value(outcome, task.split, task.indices)
    if not 0 <= value <= 1:  # NaN fails too
        raise InvalidInput(f"{task.intervention!r} has value {value!r}: one in [0, 1] is needed")
    return value


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # torch's CPU allocator raises a RuntimeError


@contextlib.contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode and frozen parameters inside; everything as it was found afterwards.

    Random state is fixed inside, so that a model that draws (it should not, and a check says so)
    still gives one result.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(0)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        try:
            model.eval()
            model.requires_grad_(requires_grad=False)
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
