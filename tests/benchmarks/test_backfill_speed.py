"""Back-fill of one new δ over the 45 runs of the embedded design, against the evaluation time itself.

    pytest -m bench tests/benchmarks/test_backfill_speed.py -s

The peer is ``evaluate`` alone: what each worker spends in it is measured in the same process, so that a
busy machine slows both. Start-up (workers and their imports) stands on a line of its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mm_mlflow import backfill, tracking
from mm_mlflow.cli import main
from mm_mlflow.design import Keep
from mm_mlflow.request import Request, parse_interventions
from mm_mlflow.tracking import Consent

pytestmark = pytest.mark.bench
DESIGN = Path(__file__).parents[2] / "projects" / "digits_skewed"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the 45 runs: that of ``MM_MLFLOW_BENCH_STORE``, else trained here (1.5 minutes)."""
    if given := os.environ.get("MM_MLFLOW_BENCH_STORE"):
        return given
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    previous = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, ["sweep", str(DESIGN), "--tracking-uri", uri])
    finally:
        os.chdir(previous)
    assert result.exit_code == 0, result.output
    return uri


@pytest.mark.parametrize("jobs", [1, 2])
def test_steady_state(uri: str, jobs: int) -> None:
    """Within 1.25 times the evaluation time itself plus 0.15 s a run, for each worker."""
    store = tracking.open_store(uri, "digits_skewed")
    # A δ that no run has: the clock gives a new one each time.
    delta = 0.04 + time.time() % 1e5 * 1e-8
    request = Request(interventions=parse_interventions([f"{{name: pgd, delta: {delta:.6g}}}"]))
    began = time.time()
    work = backfill.prepare(store, request, consent=Consent(), keep=Keep())
    assert len(work.jobs) == 45
    ended: list[float] = []
    outcome = backfill.run(work, jobs=jobs, on_result=lambda _: ended.append(time.time()))
    assert len(outcome.of("evaluated")) == 45
    started = min(result.started for result in outcome.results)
    busy = sum(result.busy for result in outcome.results)
    wall = ended[-1] - started
    allowed = (1.25 * busy + 0.15 * len(work.jobs)) / jobs
    print(
        f"\n{jobs} worker(s): start-up {started - began:.1f} s; steady state {wall:.2f} s for 45 runs, "
        f"evaluation itself {busy / jobs:.2f} s a worker; allowed {allowed:.2f} s"
        f" (overhead {(wall * jobs - busy) / 45:.3f} s a run)"
    )
    assert MlflowClient(uri).get_run(outcome.run_id).info.status == "FINISHED"
    assert wall <= allowed
