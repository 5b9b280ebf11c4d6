"""What is inferred from experiments of other programs, against tables written out by hand.

``EXPECTED`` was written from the rules and from what the makers of ``foreign.py`` log, before there was
an inference to ask. The oracles below it import mlflow and pandas, and nothing of this package.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import foreign
import mlflow
import numpy as np
import pandas as pd
import pytest

from mm_mlflow import inference, tracking
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import Frame
from mm_mlflow.sheet import build_sheet

NOT_SET = "(not set)"
ADAM, SGD = (
    f'{{"name": "{name}", "lr": 0.001, "nesterov": true, "wd": null}}' for name in ("adam", "sgd")
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one experiment must give.

    Attributes:
        runs: how many runs count; ``values``: of these, how many have a finite ``metric`` (default:
            all of them).
        axes: names and levels in order.
        seed, columns: the seed axis and its values; ``columns`` an int where only their number is sure.
        default: the default configuration; None where several are equally good (or there is none).
        rows: how many rows the tables have, sorted (default: a table per axis, a row per level).
        ignored: how the reason of a param begins; either of several beginnings.
        candidates: numeric params of which (nearly) every run has its own value.
        notes: patterns, each found in some note.
        replaced: runs that do not count because a later run fills their cell.
        nested: whether the runs that count are nested ones.
        cell: params that tell a cell where runs are repeated.
        absent: params that do not apply to every run.
        error: patterns that the refusal has.
    """

    runs: int = 0
    values: int | None = None
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seed: str = "seed"
    columns: tuple[Any, ...] | int = ()
    default: Mapping[str, Any] | None = None
    layout: str = "star"
    rows: tuple[int, ...] | None = None
    ignored: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    candidates: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    replaced: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    nested: bool = False
    cell: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    error: tuple[str, ...] = ()


# A case is a maker of foreign.py, or several with what is asked after a colon.
EXPECTED: dict[str, Expected] = {
    # Twelve nested runs differ in alpha, penalty and random_state (3 x 2 x 2 settings); their two
    # parents differ in `estimator` and best_* alone (2 settings). All else that an SGDClassifier has is
    # constant, `learning_rate` and `eta0` among it. The grid is full: any default is as good.
    "sklearn_grid_search": Expected(
        runs=12,
        axes={"alpha": (0.0001, 0.001, 0.01), "penalty": ("l1", "l2")},
        seed="random_state",
        columns=(0, 1),
        layout="factorial",
        ignored={"learning_rate": "constant", "eta0": "constant", "max_iter": "constant"},
        notes=(r"\b2 .*(top-level|parent)|(top-level|parent).* 2\b",),
        metric="mean_test_score",
        nested=True,
    ),
    # lr is a float of its own in every trial, so that no two runs differ in one param only: no star.
    # The trial that raised has a FINISHED run without metrics (the callback ends every run so).
    # `number`, `state`, `datetime_*` and `*_distribution` are tags of the callback, not of the user:
    # `state` is COMPLETE or FAIL here, an outcome and no choice. No seed, each configuration once.
    "optuna_tpe": Expected(
        runs=15,
        values=14,
        axes={"n_layers": (1, 2, 3), "optimizer": ("adam", "sgd")},
        seed="replicate",
        columns=(1,),
        layout="none",
        rows=(),
        candidates=frozenset({"lr"}),
        notes=("seed",),
    ),
    # Six points, each in both studies: 6 settings nested against 2 at top level (`repeat`, which has
    # the best accuracy of all, must not count). The trial number stands for nothing: the sampler
    # shuffles. Without a seed the runs of a configuration are numbered.
    "optuna_nested": Expected(
        runs=12,
        axes={"activation": ("relu", "tanh"), "hidden": (16, 32, 64)},
        seed="replicate",
        columns=(1, 2),
        layout="factorial",
        notes=(r"\b2 .*(top-level|parent)|(top-level|parent).* 2\b", "seed"),
        nested=True,
    ),
    # Levels and seeds in numeric order, where text has 0.01 < 0.1 < 1e-05 and 10 < 2 < 42. Around
    # (0.01, 64) there are two tables, around any other configuration one with two levels.
    "plain_loop": Expected(
        runs=12,
        axes={"batch_size": (64, 128), "lr": (1e-05, 0.01, 0.1)},
        seed="random_state",
        columns=(2, 10, 42),
        default={"batch_size": 64, "lr": 0.01},
        ignored={"epochs": "constant"},
        metric="loss",
    ),
    # `seed_everything` is LightningCLI's name for the seed. Lists are levels, in natural order (text
    # has 128 < 32). default_root_dir is of each run, data/root of each machine: both are paths.
    "lightning": Expected(
        runs=8,
        axes={
            "model/dropout": (0.1, 0.5),
            "model/layers": ("[32, 32]", "[64, 64]", "[128, 128]"),
        },
        seed="seed_everything",
        columns=(1, 2),
        default={"model/dropout": 0.1, "model/layers": "[32, 32]"},
        ignored={
            "trainer/default_root_dir": ("path", "unique text"),
            "data/root": "path",
            "model/activation": "constant",
            "trainer/max_epochs": "constant",
            "ckpt_path": "constant",
        },
        metric="val/acc",
    ),
    # The seed is the last part of a dotted name. The job's number is of its own in every run, hence a
    # candidate; the star with its seeds does not need it. [9] < [64, 64] < [128, 128] naturally.
    "hydra": Expected(
        runs=8,
        axes={
            "model.layers": ("[9]", "[64, 64]", "[128, 128]"),
            "optimizer": (ADAM, SGD),
        },
        seed="training.seed",
        columns=(0, 1),
        default={"model.layers": "[64, 64]", "optimizer": ADAM},
        ignored={
            "hydra.run.dir": ("path", "unique text"),
            "hydra.job.override_dirname": "unique text",
            "hydra.runtime.cwd": "constant",
            "model.name": "constant",
        },
        candidates=frozenset({"hydra.job.num"}),
    ),
    "two_seeds": Expected(error=(r"'?\bseed\b", "data_seed", "--seed-param")),
    # Asked for one, the other is an axis like any; the grid is full.
    "two_seeds:seed": Expected(
        asked={"seed_param": "seed"},
        runs=12,
        axes={"data_seed": (0, 1, 2), "lr": (0.01, 0.1)},
        columns=(0, 1),
        layout="factorial",
    ),
    "two_seeds:data_seed": Expected(
        asked={"seed_param": "data_seed"},
        runs=12,
        axes={"lr": (0.01, 0.1), "seed": (0, 1)},
        seed="data_seed",
        columns=(0, 1, 2),
        layout="factorial",
    ),
    "one_seed_of_two": Expected(
        runs=6,
        axes={"lr": (0.01, 0.1)},
        columns=(0, 1, 2),
        ignored={"data_seed": ("seed", "constant")},
    ),
    # They vary in the same way, so there is nothing to ask.
    "seeds_in_step": Expected(
        runs=6,
        axes={"lr": (0.01, 0.1)},
        columns=(0, 1, 2),
        ignored={"torch_seed": ("same as", "seed")},
    ),
    # No column could hold two configurations: the two runs of each are numbered.
    "unique_seeds": Expected(
        runs=6,
        axes={"batch": (32, 64), "lr": (0.01, 0.1)},
        seed="replicate",
        columns=(1, 2),
        default={"batch": 32, "lr": 0.1},
        ignored={"seed": ("seed", "unique")},
        notes=(r"\bseed\b",),
    ),
    # Three runs of the default, one of each other configuration: 6 runs, no duplicates.
    "constant_seed": Expected(
        runs=6,
        axes={"batch": (32, 64), "lr": (0.001, 0.01, 0.1)},
        seed="replicate",
        columns=(1, 2, 3),
        default={"batch": 32, "lr": 0.1},
        ignored={"seed": ("seed", "constant")},
        notes=(r"\bseed\b",),
    ),
    # No axis, but a configuration that repeats: one row.
    "only_the_seed": Expected(
        runs=5,
        columns=(0, 1, 2, 3, 4),
        layout="repeats",
        rows=(1,),
        ignored={"lr": "constant", "batch": "constant"},
    ),
    # `reviewed` is on two runs only, `owner` constant, `git_sha` of each run (one is a float too large
    # for one, another an integer: still a text); mlflow.* is never an axis.
    "tags": Expected(
        runs=8,
        axes={"tag:dataset": ("cifar10", "mnist", "svhn"), "tag:env": ("dev", "prod")},
        columns=(0, 1),
        default={"tag:dataset": "mnist", "tag:env": "prod"},
        ignored={"epochs": "constant", "tag:git_sha": "unique text"},
    ),
    # Nine cells; of the three runs of one the latest counts, and the other two are far out. With one
    # axis every configuration has the same star.
    "repeated_runs": Expected(
        runs=9,
        axes={"lr": (0.001, 0.01, 0.1)},
        columns=(0, 1, 2),
        replaced=2,
        cell=("lr", "seed"),
    ),
    # Two columns more.
    "repeated_runs:as-replicates": Expected(
        asked={"duplicates": "as-replicates"},
        runs=11,
        axes={"lr": (0.001, 0.01, 0.1)},
        columns=5,
    ),
    # Only (0.01, 64) has three levels in both tables and runs for all of them but none elsewhere:
    # lr 0.001 ran with batch 64 alone, batch 128 not with lr 0.1, and (0.1, 32) lacks a seed.
    "factorial_with_holes": Expected(
        runs=11,
        axes={"batch": (32, 64, 128), "lr": (0.001, 0.01, 0.1)},
        columns=(0, 1),
        default={"batch": 64, "lr": 0.01},
        layout="factorial",
    ),
    # 16, 16 and 15 distinct values in 16 runs.
    "random_search": Expected(
        runs=16,
        seed="replicate",
        columns=(1,),
        layout="none",
        rows=(),
        ignored={"epochs": "constant"},
        candidates=frozenset({"dropout", "hidden", "lr"}),
        notes=("random search|star",),
    ),
    # Four rows of four runs.
    "random_search:bins": Expected(
        asked={"bins": {"lr": 4}},
        runs=16,
        axes={"lr": (None,) * 4},
        seed="replicate",
        columns=(1, 2, 3, 4),
        candidates=frozenset({"dropout", "hidden"}),
    ),
    # Every configuration has values of its own, three times: a row per configuration.
    "random_search_repeated": Expected(
        runs=15,
        columns=(0, 1, 2),
        layout="repeats",
        rows=(5,),
        ignored={"epochs": "constant"},
        candidates=frozenset({"dropout", "lr"}),
    ),
    # adam has no momentum: that is no level of momentum, and the run of adam is in the optimizer's
    # table, whose other row has the default's momentum. Only (sgd, 0.1, 0.9) has three tables.
    "conditional": Expected(
        runs=8,
        axes={"lr": (0.05, 0.1), "momentum": (0, 0.9), "optimizer": ("adam", "sgd")},
        columns=(0, 1),
        default={"lr": 0.1, "momentum": 0.9, "optimizer": "sgd"},
        absent=frozenset({"momentum"}),
    ),
    # With lr 0.1 augment is there or not: nothing else tells, so that it is a level.
    "not_set": Expected(
        runs=6,
        axes={"augment": (NOT_SET, "flip"), "lr": (0.01, 0.1)},
        columns=(0, 1),
        default={"augment": "flip", "lr": 0.1},
    ),
    # warmup is 10 for lr 0.001 and 5 for the other two: it tells nothing of its own. `variant` names
    # each of the four configurations, `label` each run.
    "derived": Expected(
        runs=8,
        axes={"batch": (32, 64), "lr": (0.001, 0.01, 0.1)},
        columns=(0, 1),
        default={"batch": 32, "lr": 0.1},
        ignored={
            "optimizer.lr": "same as lr",
            "warmup": "follows lr",
            "variant": "names a configuration",
            "label": "unique text",
        },
    ),
    # Numbers first, in numeric order, then words; None is Python's word for "no limit", not a hole.
    "mixed_levels": Expected(
        runs=10,
        axes={"max_depth": (5, 10, "None"), "max_features": (0.5, "log2", "sqrt")},
        columns=(0, 1),
        default={"max_depth": 10, "max_features": "sqrt"},
    ),
    # Six settings at top level against two folds nested; the folds' 0.5 and 0.99 must not count.
    "folds": Expected(
        runs=6,
        axes={"lr": (0.001, 0.01, 0.1)},
        columns=(0, 1),
        notes=(r"\b12\b.*nested|nested.*\b12\b",),
    ),
    # 10 of 15 runs finished, one is deleted (MLflow does not show it); NaN and both infinities are no
    # values. Levels of text keep what they say to the letter.
    "hostile": Expected(
        runs=10,
        values=7,
        axes={"größe": (1, 2, 10), "学习率 augment": foreign.HOSTILE},
        columns=(0, 1),
        default={"größe": 1, "学习率 augment": foreign.HOSTILE[1]},
        ignored={"description": "unique text", "empty": "constant"},
        notes=("2 .*failed|failed.* 2", "1 .*killed|killed.* 1", "1 .*running|running.* 1"),
        metric="genauigkeit/größe",
    ),
    # 1, 1.0 and "1" are one level, True and "true" another one level; seeds 0, 1.0 and "2" are
    # three, and 0.0001, 1e-4 and 1E-04 no variation at all.
    "types": Expected(
        runs=9,
        axes={"bias": (False, True), "depth": (1, 2)},
        columns=(0, 1, 2),
        default={"bias": True, "depth": 1},
        ignored={"decay": "constant"},
    ),
    "many_params": Expected(
        runs=4,
        axes={"lr": (0.01, 0.1)},
        columns=(0, 1),
        ignored={
            **{f"zero/{i}": "constant" for i in (0, 1399)},
            **{f"schedule/{i}": "same as lr" for i in (0, 299)},
            **{f"text/{i}": "unique text" for i in (0, 299)},
        },
    ),
    "one_run": Expected(error=(r"two|\b2\b",)),
    "nothing_varies": Expected(error=("var|differ",)),
}
READABLE = [case for case, expected in EXPECTED.items() if not expected.error]


@pytest.fixture(scope="module")
def _stored(
    tmp_path_factory: pytest.TempPathFactory, _database: Path
) -> tuple[str, dict[str, str]]:
    """One database for this file, and which makers have filled it: each runs once."""
    path = tmp_path_factory.mktemp("foreign") / "mlflow.db"
    shutil.copy(_database, path)
    return f"sqlite:///{path}", {}


@pytest.fixture
def made(
    _stored: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """The name of the experiment of a case."""
    uri, names = _stored
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def name(case: str) -> str:
        maker = case.partition(":")[0]
        if maker not in names:
            names[maker] = getattr(foreign, maker)()
        return names[maker]

    return name


def inferred(
    name: str, asked: Mapping[str, Any], *, backwards: bool = False
) -> tuple[Frame, Any, list[Any]]:
    store = tracking.open_store(None, name)
    runs = tracking.read_runs(store)
    frame, plan = inference.infer(
        runs[::-1] if backwards else runs, store.experiment, inference.Asked(**asked)
    )
    return frame, plan, runs


# ---- oracles: mlflow and pandas only


def spelt(value: Any) -> Any:
    """One spelling for the numbers and booleans that MLflow returns as text."""
    text = str(value)
    if text.lower() in {"true", "false"}:
        return text.lower()
    try:
        return float(text)
    except ValueError:
        return text


def counted(name: str, expected: Expected) -> pd.DataFrame:
    """The runs that count, a row each, oldest first."""
    runs = mlflow.search_runs(experiment_names=[name])
    nested = runs.get("tags.mlflow.parentRunId", pd.Series(index=runs.index, dtype=object)).notna()
    runs = runs[(runs["status"] == "FINISHED") & (nested == expected.nested)]
    runs = runs.sort_values(["end_time", "start_time"])
    if expected.cell:
        cell = [f"params.{key}" for key in expected.cell]
        runs = runs.assign(**{key: runs[key].map(spelt) for key in cell})
        runs = runs.drop_duplicates(cell, keep="last")
    value = runs[f"metrics.{expected.metric}"]
    return runs.assign(value=value.where(value.abs() < 1.797e308)).reset_index(drop=True)


def column_of(runs: pd.DataFrame, axis: str) -> pd.Series:
    values = runs[f"tags.{axis[4:]}" if axis.startswith("tag:") else f"params.{axis}"]
    return values.fillna(NOT_SET).map(spelt)


def tables(name: str, expected: Expected) -> dict[str, np.ndarray]:
    """Per axis, levels x columns: the runs that have all other axes at their default."""
    runs = counted(name, expected)
    axes = {axis: column_of(runs, axis) for axis in expected.axes}
    if expected.seed == "replicate":
        seed = runs.groupby(list(axes.values())).cumcount() + 1.0
    else:
        seed = column_of(runs, expected.seed)
    found = {}
    for axis, levels in expected.axes.items():
        here = pd.Series(data=True, index=runs.index)
        for other, values in axes.items():
            if other != axis:
                at_default = values == spelt((expected.default or {})[other])
                here &= at_default | (values == NOT_SET) & (other in expected.absent)
        found[axis] = np.array(
            [
                [
                    runs["value"][here & (axes[axis] == spelt(level)) & (seed == spelt(column))]
                    for column in expected.columns
                ]
                for level in levels
            ],
            dtype=object,
        )
        entries = [[entry if len(entry) else [np.nan] for entry in row] for row in found[axis]]
        found[axis] = np.array(entries, dtype=float)[..., 0]
    return found


# ---- tests


@pytest.mark.parametrize("case", READABLE)
def test_the_design_that_a_stranger_had_in_mind(case: str, made: Callable[[str], str]) -> None:
    """Axes, levels and their order, seed, default, layout, tables; every param is accounted for."""
    expected = EXPECTED[case]
    frame, plan, runs = inferred(made(case), expected.asked)
    if "bins" in expected.asked:  # how a bin is called is a matter of words
        assert {axis: len(levels) for axis, levels in plan.axes.items()} == {
            axis: len(levels) for axis, levels in expected.axes.items()
        }
    else:
        assert {axis: list(map(spelt, levels)) for axis, levels in plan.axes.items()} == {
            axis: list(map(spelt, levels)) for axis, levels in expected.axes.items()
        }
    assert plan.seed_axis == expected.seed
    if isinstance(expected.columns, int):
        assert len(set(plan.columns)) == expected.columns
    else:
        assert list(map(spelt, plan.columns)) == list(map(spelt, expected.columns))
    assert plan.layout == expected.layout
    if expected.default is not None:
        assert {axis: spelt(level) for axis, level in plan.default.items()} == {
            axis: spelt(level) for axis, level in expected.default.items()
        }
    elif expected.layout in {"star", "factorial"}:
        for axis, level in plan.default.items():
            assert level in plan.axes[axis]
        assert set(plan.default) == set(plan.axes)

    assert set(plan.candidates) == expected.candidates
    for param, begins in expected.ignored.items():
        assert plan.ignored[param].startswith(begins), plan.ignored[param]
    deep = [run for run in runs if ("mlflow.parentRunId" in run.tags) == expected.nested]
    params = {param for run in deep if run.status == "FINISHED" for param in run.params}
    parts = [set(plan.axes), set(plan.ignored), set(plan.candidates), {plan.seed_axis}]
    assert params <= set().union(*parts)
    assert sum(map(len, parts)) == len(set().union(*parts)), "a param has two roles"
    for pattern in expected.notes:
        assert any(re.search(pattern, note, re.IGNORECASE) for note in plan.notes), plan.notes

    assert int(frame.counted.sum()) == len(frame.values) == expected.runs
    assert sum(len(same.others) for same in frame.duplicates) == expected.replaced
    rows = expected.rows
    if rows is None:
        rows = tuple(sorted(len(levels) for levels in expected.axes.values()))
    assert tuple(sorted(len(table.levels) for table in plan.tables)) == rows
    used = set()
    for table in plan.tables:
        assert tuple(table.columns) == tuple(plan.columns)
        assert [len(row) for row in table.cells] == [len(plan.columns)] * len(table.levels)
        used |= {cell for row in table.cells for entry in row for cell in entry}
    assert used <= set(frame.values.index)
    if expected.layout in {"star", "repeats"}:
        assert used == set(frame.values.index), "a run that counts is in no table"


@pytest.mark.parametrize("case", READABLE)
def test_the_order_in_which_mlflow_lists_runs_does_not_matter(
    case: str, made: Callable[[str], str]
) -> None:
    """Read backwards, an experiment has the same plan and the same values."""
    expected = EXPECTED[case]
    frame, plan, _ = inferred(made(case), expected.asked)
    other, again = inferred(made(case), expected.asked, backwards=True)[:2]
    for name in (
        "layout",
        "axes",
        "default",
        "seed_axis",
        "columns",
        "ignored",
        "candidates",
        "notes",
    ):
        assert getattr(again, name) == getattr(plan, name), name
    pd.testing.assert_frame_equal(
        frame.values.sort_index(), other.values.sort_index(), check_like=True
    )


@pytest.mark.parametrize("case", [case for case, expected in EXPECTED.items() if expected.error])
def test_what_has_no_design_is_refused(case: str, made: Callable[[str], str]) -> None:
    """In one line that says what is wrong and, where there is one, the way out."""
    expected = EXPECTED[case]
    with pytest.raises(InvalidInput) as caught:
        inferred(made(case), expected.asked)
    text = str(caught.value)
    assert "\n" not in text
    for pattern in expected.error:
        assert re.search(pattern, text), text


@pytest.mark.parametrize("case", READABLE)
def test_delta_over_all_runs(case: str, made: Callable[[str], str]) -> None:
    """Δall, the number of runs and both ends equal those of mlflow and pandas alone."""
    expected = EXPECTED[case]
    name = made(case)
    oracle = counted(name, expected)
    finite = oracle["value"].dropna()
    assert len(oracle) == expected.runs
    assert len(finite) == (expected.runs if expected.values is None else expected.values)
    assert finite.nunique() > len(finite) / 2, "values that agree by accident hide mistakes"
    frame, plan, _ = inferred(name, expected.asked)
    sheet = build_sheet(frame, plan, expected.metric)
    assert sheet.n_runs == len(finite)
    assert sheet.delta_all == pytest.approx(finite.max() - finite.min(), abs=1e-12)
    assert sheet.delta_all > 0
    values = oracle.set_index("run_id")["value"]
    assert [values[run] for run in sheet.delta_all_runs] == [finite.min(), finite.max()]


TABLED = [
    case
    for case in READABLE
    if EXPECTED[case].layout in {"star", "factorial"}
    and not EXPECTED[case].asked
    and (EXPECTED[case].default is not None or len(EXPECTED[case].axes) == 1)
]


@pytest.mark.parametrize("case", TABLED)
def test_every_value_of_every_table(case: str, made: Callable[[str], str]) -> None:
    """Each entry is the run with that level and that seed, all other axes at their default."""
    expected = EXPECTED[case]
    name = made(case)
    frame, plan, _ = inferred(name, expected.asked)
    sheet = build_sheet(frame, plan, expected.metric)
    oracle = tables(name, expected)
    assert {table.axis for table in sheet.tables} == set(oracle)
    for table in sheet.tables:
        np.testing.assert_array_equal(np.asarray(table.values, dtype=float), oracle[table.axis])
        assert np.isfinite(oracle[table.axis]).any(axis=1).all(), "a row without a value"


def test_a_row_per_configuration_that_repeats(made: Callable[[str], str]) -> None:
    """Random search with three seeds: each row holds the three runs of one configuration."""
    name = made("random_search_repeated")
    expected = EXPECTED["random_search_repeated"]
    frame, plan, _ = inferred(name, {})
    (table,) = build_sheet(frame, plan, "accuracy").tables
    runs = counted(name, expected).astype({"params.seed": int})
    oracle = runs.pivot_table("value", ["params.lr", "params.dropout"], "params.seed")
    assert sorted(map(tuple, table.values)) == sorted(map(tuple, oracle.to_numpy()))


def test_bins_hold_equal_parts_of_the_runs(made: Callable[[str], str]) -> None:
    """Four bins of a learning rate: the rows are its quarters, lowest first."""
    name = made("random_search")
    expected = EXPECTED["random_search:bins"]
    frame, plan, _ = inferred(name, expected.asked)
    (table,) = build_sheet(frame, plan, "accuracy").tables
    runs = counted(name, expected)
    quarter = pd.qcut(runs["params.lr"].astype(float), 4, labels=False)
    oracle = [sorted(runs["value"][quarter == number]) for number in range(4)]
    assert [sorted(row) for row in np.asarray(table.values, dtype=float)] == oracle


def test_pooling_averages_over_the_other_axes(made: Callable[[str], str]) -> None:
    """With ``pool``, an entry is the mean of all runs of that level and seed."""
    name = made("factorial_with_holes")
    expected = EXPECTED["factorial_with_holes"]
    frame, plan, _ = inferred(name, {"pool": True})
    sheet = build_sheet(frame, plan, "accuracy")
    runs = counted(name, expected)
    seed = column_of(runs, "seed")
    assert {table.axis for table in sheet.tables} == {"batch", "lr"}
    for table in sheet.tables:
        level = column_of(runs, table.axis)
        means = runs.pivot_table("value", index=level, columns=seed)  # means, both in numeric order
        np.testing.assert_allclose(np.asarray(table.values, dtype=float), means.to_numpy())


def test_the_latest_run_of_a_cell_counts(made: Callable[[str], str]) -> None:
    """Which run counts and which two do not is said by id."""
    frame = inferred(made("repeated_runs"), {})[0]
    runs = mlflow.search_runs(experiment_names=[made("repeated_runs")])
    cell = runs[(runs["params.lr"] == "0.1") & (runs["params.seed"] == "1")]
    *others, counts = cell.sort_values("end_time")["run_id"]
    (duplicate,) = frame.duplicates
    assert duplicate.counted == counts
    assert set(duplicate.others) == set(others)
