"""What is inferred from experiments of other programs, against the table of ``foreign_expected.py``.

The oracles import mlflow and pandas, and nothing of this package.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import foreign
import mlflow
import numpy as np
import pandas as pd
import pytest
from foreign_expected import EXPECTED, NOT_SET, Expected

from mm_mlflow import inference, tracking
from mm_mlflow.errors import InvalidInput
from mm_mlflow.frame import Frame
from mm_mlflow.sheet import build_sheet

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
    measured = runs.filter(regex="^metrics[.]").notna().any(axis=1)
    runs = runs[(runs["status"] == "FINISHED") & (nested == expected.nested) & measured]
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
        assert set(table.columns) <= set(plan.columns)
        assert [len(row) for row in table.cells] == [len(table.columns)] * len(table.levels)
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
        # Seeds that no run of a table has are no columns of it.
        wanted = oracle[table.axis][:, np.isfinite(oracle[table.axis]).any(axis=0)]
        np.testing.assert_array_equal(np.asarray(table.values, dtype=float), wanted)
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
    """With ``pool`` and without holes, an entry is the mean of all runs of that level and seed."""
    name = made("two_seeds")
    expected = EXPECTED["two_seeds:seed"]
    frame, plan, _ = inferred(name, {**expected.asked, "pool": True})
    sheet = build_sheet(frame, plan, "accuracy")
    runs = counted(name, expected)
    seed = column_of(runs, "seed")
    assert {table.axis for table in sheet.tables} == {"data_seed", "lr"}
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
