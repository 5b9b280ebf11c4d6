"""What is to be done with each run, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from mm_mlflow import datasets
from mm_mlflow.design import Keep
from mm_mlflow.evaluation import Task
from mm_mlflow.frame import RawRun
from mm_mlflow.request import Measurement, Request
from mm_mlflow.tracking import Consent, Store, StoredModel


@dataclass(frozen=True)
class Job:
    """One run to be measured; small, because it travels to a worker.

    Attributes:
        label: what people call the run.
        stored: the model that another program logged; None for a cell of ours.
        keys: the metrics that it lacks and its kind of model can give.
        skipped: by metric key, why it is not taken.
        digests: of the splits that it is measured on, by name.
        seconds: what evaluating it took before, where that is known.
        trusted: the folder whose modules names may be import paths of, or None (``--trust-code``).
    """

    store: Store
    run_id: str
    label: str
    stored: StoredModel | None
    measurement: Measurement
    keys: tuple[str, ...]
    skipped: Mapping[str, str]
    digests: Mapping[str, str]
    seconds: float
    keep: Keep
    consent: Consent
    trusted: str | None


@dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Attributes:
        status: ``evaluated``, ``present`` (nothing was missing that its model can give),
            ``impossible`` or ``failed``.
        started: seconds since 1970; ``busy`` are the seconds of evaluation itself.
        error: one line: why it is impossible, or what failed.
        metrics: the keys that were logged.
        skipped: by metric key, why it was not taken from this run.
        traceback: of what failed.
    """

    label: str
    run_id: str
    status: Literal["evaluated", "present", "impossible", "failed"]
    started: float
    busy: float = 0.0
    error: str | None = None
    metrics: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    traceback: str | None = None


@dataclass(frozen=True)
class Work:
    """What an ``evaluate`` call is to do.

    Attributes:
        jobs: the runs that lack metrics which their models can give.
        settled: runs of which it is known already that there is nothing to do.
        measurements: what is taken, on which data; one for each kind of run.
        left_out: how many runs were not looked at because of their status, by status.
        abandoned: earlier evaluations whose process is gone, with the reason.
    """

    store: Store
    request: Request
    jobs: tuple[Job, ...]
    settled: tuple[RunResult, ...]
    measurements: tuple[Measurement, ...]
    left_out: Mapping[str, int]
    abandoned: tuple[tuple[RawRun, str], ...]


@dataclass(frozen=True)
class Outcome:
    """What an ``evaluate`` call did."""

    work: Work
    run_id: str
    results: tuple[RunResult, ...]

    def of(self, status: str) -> list[RunResult]:
        """The runs that ended so."""
        return [result for result in self.results if result.status == status]

    @property
    def good(self) -> bool:
        """Whether nothing failed, and some run has what was asked for."""
        return is_good(self.results)


def is_good(results: Sequence[RunResult]) -> bool:
    """As :attr:`Outcome.good`."""
    found = {result.status for result in results}
    return "failed" not in found and bool(found & {"evaluated", "present"})


@lru_cache(maxsize=8)
def planned(measurement_json: str) -> tuple[Task, ...]:
    """Planned once per process: a worker takes many runs of one measurement."""
    return Measurement.model_validate_json(measurement_json).tasks(datasets.open_splits)


def nothing_to_do(
    settled: Callable[..., RunResult],
    run: RawRun,
    tasks: Sequence[Task],
    skipped: Mapping[str, str],
) -> RunResult:
    """``present`` if the run has some of the metrics, else ``impossible`` for the reasons skipped."""
    if any(task.key in run.metrics for task in tasks):
        return settled("present", skipped=skipped)
    reasons = "; ".join(dict.fromkeys(skipped.values()))
    return settled("impossible", error=f"none of the interventions: {reasons}", skipped=skipped)
