"""Show that guards are needed: take one out of a copy of the package, and its test has to fail.

    python tests/system/guards.py            # every guard
    python tests/system/guards.py pickle     # those with this in their name

A test that passes without its guard shows nothing. Patches are exact: a guard that was rewritten has
to be rewritten here too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Guard:
    """What is taken out, and the test that has to notice.

    Attributes:
        name: what it keeps from happening.
        file: below ``mm_mlflow``.
        guard: text that occurs once in the file.
        without: what stands there when it is gone.
        test: pytest's name of the test, below ``tests``.
    """

    name: str
    file: str
    guard: str
    without: str
    test: str


GUARDS = (
    Guard(
        "consent: another program's model loaded without",
        "tracking/models.py",
        "if not consent.pickle:",
        "if False:",
        "shell/test_evaluate_others.py::test_a_hostile_model_does_not_run_without_consent",
    ),
    Guard(
        "consent: an import path that a model's header names",
        "tracking/models.py",
        "if model.code and not consent.code:",
        "if False:",
        "shell/test_evaluate_others.py::test_consent_is_asked_by_what_is_stored",
    ),
    Guard(
        "consent: an import path in a design or a tag",
        "registry.py",
        "if _TRUSTED.get() is None:",
        "if False:",
        "shell/test_own_code.py::test_without_trust_nothing_is_imported",
    ),
    Guard(
        "engine: a Ctrl-C that lands in Dask's callback of the collector",
        "engine.py",
        "disable_gc_diagnosis(force=True)",
        "pass",
        "shell/test_engine.py::test_workers_are_fast_and_private",
    ),
    Guard(
        "engine: one thread a worker, whatever the environment says",
        "engine.py",
        "    os.environ.update(ONE_THREAD)",
        "    pass",
        "shell/test_engine.py::test_workers_are_fast_and_private",
    ),
    Guard(
        "training: one thread a cell, whatever torch has",
        "runner.py",
        "    torch.set_num_threads(1)",
        "    pass",
        "shell/test_evaluate.py::test_cells_are_trained_and_measured_by_one_thread",
    ),
    Guard(
        "evaluation: one thread a run, whatever torch has",
        "backfill/worker.py",
        "    torch.set_num_threads(1)",
        "    pass",
        "shell/test_evaluate.py::test_cells_are_trained_and_measured_by_one_thread",
    ),
    Guard(
        "escape: hostile names in a page",
        "render/html.py",
        "<h{level}>{escape(sheet.title)}</h{level}>",
        "<h{level}>{sheet.title}</h{level}>",
        "core/test_render.py::test_hostile_names",
    ),
    Guard(
        "write: a description that somebody edited",
        "tracking/experiment_page.py",
        'if tags.is_ours(present.get(tags.NOTE, "")):',
        "if True:",
        "shell/test_experiment_page.py::test_an_edited_description_is_never_overwritten",
    ),
    Guard(
        "write: a saved view that somebody changed",
        "tracking/experiment_page.py",
        'if design is not None and tags.is_our_view(present.get(tags.VIEW, "")):',
        "if design is not None:",
        "shell/test_experiment_page.py::test_a_saved_view_that_was_changed_is_never_overwritten",
    ),
    Guard(
        "write: a run that somebody works on",
        "tracking/writing.py",
        "if MLFLOW_PROJECT_ENTRY_POINT not in run.data.tags or logged:",
        "if False:",
        "shell/test_sweep.py::test_a_run_that_somebody_works_on_is_never_taken",
    ),
    Guard(
        "write: tags on runs of other programs",
        "experiment.py",
        "chosen = [run for run in choice.run_ids if tag_others or run in ours]",
        "chosen = list(choice.run_ids)",
        "shell/test_reports.py::test_runs_of_others_are_tagged_only_upon_request",
    ),
    Guard(
        "write: a store that reading would create",
        "tracking/store.py",
        "        _refuse_nothing(uri)\n",
        "        pass\n",
        "shell/test_bad_stores.py::test_reading_a_store_that_is_not_there_creates_nothing",
    ),
    Guard(
        "back-fill: metrics that are there measured again",
        "backfill/planning.py",
        "lacking = [task for task in tasks if task.key not in run.metrics]",
        "lacking = list(tasks)",
        "shell/test_evaluate.py::test_only_what_is_missing_is_measured_and_nothing_is_written_twice",
    ),
    Guard(
        "back-fill: what a killed worker left half written",
        "tracking/writing.py",
        "if path not in there or artifact(store, run_id, path) != content",
        "if path not in there",
        "shell/test_evaluate.py::test_what_a_killed_worker_left_is_completed_and_read_over",
    ),
    Guard(
        "back-fill: records of a pass that was killed before it logged",
        "tracking/reading.py",
        "return key not in values or values[key] == metrics[key]",
        "return True",
        "shell/test_evaluate.py::test_records_of_a_killed_pass_are_not_those_of_the_next",
    ),
    Guard(
        "back-fill: another cell's test data",
        "backfill/planning.py",
        "canonical_json(own.identity()) if own is not None else",
        "'' if own is not None else",
        "shell/test_evaluate.py::test_every_cell_is_measured_on_its_own_test_data",
    ),
    Guard(
        "back-fill: data that have changed since training",
        "backfill/planning.py",
        "if train.digest != trained_on:",
        "if False:",
        "shell/test_evaluate.py::test_data_that_have_changed_since_are_not_measured_on",
    ),
    Guard(
        "sweep: a cell that another sweep has finished meanwhile",
        "jobs.py",
        "if is_finished(run, job.dataset):",
        "if False:",
        "shell/test_sweep.py::test_a_finished_twin_is_found_before_training",
    ),
    Guard(
        "sweep: other training data counted as the same cell",
        "sweeping.py",
        'done = {run.tags.get("mm.cell") for run in runs if is_finished(run, dataset)} | set(adopted)',
        'done = {run.tags.get("mm.cell") for run in runs if is_finished(run, None)} | set(adopted)',
        "shell/test_sweep.py::test_other_training_data_is_not_counted_and_both_digests_are_named",
    ),
    Guard(
        "project: a cell whose process failed",
        "project.py",
        "if status != 0:",
        "if False:",
        "shell/test_project_backend.py::test_only_the_exit_status_says_that_a_cell_is_finished",
    ),
    Guard(
        "evaluate: a model in train mode",
        "evaluation/run.py",
        "            model.eval()\n",
        "",
        "core/test_evaluation_checks.py::test_a_model_in_train_mode",
    ),
    Guard(
        "evaluate: bits that depend on a model's memory layout",
        "evaluation/run.py",
        "model = channels_last(model, first)",
        "pass",
        "shell/test_evaluate.py::test_values_are_those_of_a_sweep_to_the_bit",
    ),
    Guard(
        "evaluate: PGD that leaves its budget",
        "evaluation/pgd.py",
        "return images.add(ascent, alpha=step_size).clamp_(low, high)",
        "return images.add(ascent, alpha=step_size).clamp_(0, 1)",
        "core/test_pgd.py::test_it_agrees_with_torchattacks",
    ),
    Guard(
        "train: initial weights drawn from the stream of the order",
        "training.py",
        'stream_seed("init", cell.seed)',
        'stream_seed("order", cell.seed)',
        "shell/test_training.py::test_each_stream_changes_exactly_one_thing",
    ),
    Guard(
        "reproduce: a cell.json that was changed",
        "reproduction.py",
        'if cell.id != run.tags.get("mm.cell"):',
        "if False:",
        "shell/test_reproduce.py::test_artifacts_that_do_not_give_the_cell_back",
    ),
    Guard(
        "reproduce: one bit of one logit",
        "comparison.py",
        "alike = not self.differing and not any(self.logits.values())",
        "alike = not self.differing",
        "core/test_comparison.py::test_one_bit_of_one_logit_is_a_difference",
    ),
    Guard(
        "outcomes: those of other examples than another run's",
        "tracking/outcomes.py",
        "if len(theirs.ids) != len(self._ids):",
        "if False:",
        "shell/test_outcomes_reading.py::test_other_examples_are_refused_by_name",
    ),
    Guard(
        "outcomes: those that do not give the logged value",
        "tracking/outcomes.py",
        "if value != logged:",
        "if False:",
        "shell/test_outcomes_reading.py::test_outcomes_that_are_not_those_of_the_logged_value",
    ),
    Guard(
        "copies: equal labels taken for equal images",
        "statistics/copies.py",
        "known > classes and alone >= TELLING * known",
        "True",
        "shell/test_outcomes_reading.py::test_models_that_give_labels_have_no_copies",
    ),
)


class Copy:
    """A copy of the package and its tests, in which guards are taken out and put back."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        ignored = shutil.ignore_patterns("__pycache__", "mlruns")
        for name in ("mm_mlflow", "tests", "projects", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "MLproject", "conda.yaml"):
            shutil.copy(ROOT / name, folder)

    def run(self, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """What pytest says of some tests of the copy, run with the copy's package."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line"]
            + [f"tests/{test}" for test in tests],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def without(self, guard: Guard) -> tuple[bool, str]:
        """Whether the test fails without the guard, and what it said.

        Raises:
            ValueError: the guard's text does not occur exactly once in its file.
            RuntimeError: pytest could not run the test, which is no failure of it.
        """
        path = self.root / "mm_mlflow" / guard.file
        text = path.read_text()
        if (number := text.count(guard.guard)) != 1:
            raise ValueError(f"{guard.name}: its text occurs {number} times in {guard.file}")
        path.write_text(text.replace(guard.guard, guard.without))
        try:
            done = self.run([guard.test])
        finally:
            path.write_text(text)
        if done.returncode not in {0, 1}:
            raise RuntimeError(f"{guard.name}: pytest ended with {done.returncode}:\n{done.stdout}")
        return done.returncode == 1, done.stdout


def main(words: Sequence[str]) -> int:
    """Print what becomes of each guard's test; 1 if one passes without its guard."""
    chosen = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    tests = sorted({guard.test for guard in chosen})
    needless = 0
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        copy = Copy(Path(folder))
        control = copy.run(tests)
        print(f"with all guards, {control.stdout.strip().splitlines()[-1]}", flush=True)
        if control.returncode != 0:
            print(control.stdout)
            return 1
        for guard in chosen:
            failed, _ = copy.without(guard)
            word = "fails, as it must" if failed else "PASSES: it shows nothing"
            print(f"without the guard of {guard.name}: {guard.test} {word}", flush=True)
            needless += not failed
    return int(needless > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
