"""Sheets of runs that other programs made, against slow and obvious versions of the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_mlflow.errors import InvalidInput
from mm_mlflow.experiment import choose_metrics
from mm_mlflow.frame import ExperimentRef, Frame, RawRun
from mm_mlflow.inference import Asked, infer
from mm_mlflow.inference.axes import is_seed_name
from mm_mlflow.inference.columns import column, typed
from mm_mlflow.plan import Plan
from mm_mlflow.report import build_report
from mm_mlflow.sheet import Sheet, build_sheet

HERE = ExperimentRef("7", "theirs")


def run(number: int, params: Mapping[str, Any], value: float | None = None, **more: Any) -> RawRun:
    metrics = {"score": float(number) if value is None else value}
    return RawRun(
        run_id=f"run{number}",
        name=f"name {number}",
        status=more.pop("status", "FINISHED"),
        start_time=1000 * number,
        end_time=1000 * number + 500,
        params={key: str(text) for key, text in params.items()},
        tags=more.pop("tags", {}),
        metrics=more.pop("metrics", metrics),
        **more,
    )


def runs(rows: Iterable[Mapping[str, Any]]) -> list[RawRun]:
    return [run(number, row) for number, row in enumerate(rows)]


def product(**levels: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(levels, point, strict=True)) for point in itertools.product(*levels.values())]


def inferred(found: Sequence[RawRun], **asked: Any) -> tuple[Frame, Plan]:
    return infer(found, HERE, Asked(**asked))


def sheet(found: Sequence[RawRun], **asked: Any) -> Sheet:
    frame, plan = inferred(found, **asked)
    return build_sheet(frame, plan, "score")


def table(shown: Sheet, axis: str) -> pd.DataFrame:
    """Values of one table, by level and column."""
    (one,) = (item for item in shown.tables if item.axis == axis)
    return pd.DataFrame(one.values, index=list(one.levels), columns=list(one.seeds))


STAR = [
    {"lr": lr, "batch": batch, "seed": seed}
    for lr, batch in [(0.1, 32), (0.01, 32), (0.001, 32), (0.1, 64)]
    for seed in range(3)
]


# ---- what columns are ----


def test_a_star() -> None:
    """The default is the configuration that both tables share, whatever the order of the runs."""
    for rows in (STAR, STAR[::-1]):
        _, plan = inferred(runs(rows))
        assert plan.layout == "star"
        assert plan.axes == {"batch": (32, 64), "lr": (0.001, 0.01, 0.1)}
        assert plan.default == {"batch": 32, "lr": 0.1}
        assert (plan.seed_axis, plan.columns) == ("seed", (0, 1, 2))
        assert [(t.axis, t.default) for t in plan.tables] == [("batch", 0), ("lr", 2)]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("seed", True), ("random_state", True), ("random_seed", True), ("data_seed", True),
        ("model.random_state", True), ("clf__random_state", True), ("hparams/seed", True),
        ("dataSeed", True), ("seed_everything", True), ("Seed", True), ("torch-seed", True),
        ("seeds", True), ("seeded", False), ("seedling_count", False), ("reseed", False),
        ("state", False), ("random", False), ("seed.path", False),
    ],
)  # fmt: skip
def test_names_of_seeds(name: str, is_one: bool) -> None:
    """The last part of a name decides."""
    assert is_seed_name(name) is is_one


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("1", 1), ("1.0", 1), ('"1"', 1), ("1e0", 1), ("0.10", 0.1), ("True", True), ("true", True),
        ('"true"', True), ("none", "none"), ("nan", "nan"), ("1e999", "1e999"), ("", ""),
        ('"a', '"a'), ("[64, 64]", "[64, 64]"), ("9" * 400, int("9" * 400)), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_one_spelling(text: str, level: object) -> None:
    """Numbers, quoted numbers and booleans are one level however they are spelled."""
    found = typed(text)
    assert (found, type(found)) == (level, type(level))


def test_levels_that_differ_by_type_only_are_one_and_said() -> None:
    """1, 1.0 and "1" are one level; True and 1 are two."""
    rows = [{"depth": depth, "seed": seed} for depth in ["1", "1.0", '"1"', "2"] for seed in [0]]
    rows += [{"depth": depth, "seed": 1} for depth in ["1", "2"]]
    _, plan = inferred(runs(rows))
    assert plan.axes == {"depth": (1, 2)}
    assert any("depth=1 is spelled '\"1\"' and '1' and '1.0'" in note for note in plan.notes)
    assert column("flag", ["1", "True"]).levels == (1, True)
    assert [type(level) for level in column("flag", ["1", "True"]).levels] == [int, bool]


def test_order_of_levels() -> None:
    """Numbers by size, numbers in text by size, what is not set last."""
    assert column("x", ["10", "9", "1e-3", "-2"]).levels == (-2, 0.001, 9, 10)
    assert column("x", ["b10", "b9", "A1", None, "3"]).levels == (3, "A1", "b9", "b10", "(not set)")


def test_what_is_no_axis_and_why() -> None:
    """Every param that is no axis has its reason."""
    rows = [
        {**row, "epochs": 3, "name": f"run-{i}", "out": f"/tmp/x/{row['lr']}", "rate": row["lr"],
         "steps": 6400 // row["batch"], "wide": row["lr"] > 0.05, "time": 0.1 * i + 7,
         "config": f"lr{row['lr']}-b{row['batch']}", "fold": row["seed"] % 2, "numpy_seed": row["seed"],
         "torch.seed": 5}
        for i, row in enumerate(STAR)
    ]  # fmt: skip
    _, plan = inferred(runs(rows))
    assert set(plan.axes) == {"batch", "lr"}
    assert plan.ignored == {
        "epochs": "constant",
        "name": "unique text",
        "out": "path",
        "rate": "same as lr",
        "steps": "same as batch",
        "wide": "follows lr",
        "config": "names a configuration",
        "fold": "follows numpy_seed",
        "seed": "same as numpy_seed",
        "torch.seed": "seed, constant",
    }
    assert plan.candidates == {"time": "12 values in 12 runs"}


def test_a_param_of_one_optimizer_only() -> None:
    """Momentum, which Adam has not, is no difference between SGD at its default and Adam."""
    rows = [
        {"optimizer": "sgd", "momentum": momentum, "seed": seed}
        for momentum in (0.9, 0.5)
        for seed in (0, 1)
    ] + [{"optimizer": "adam", "seed": seed} for seed in (0, 1)]
    shown = sheet(runs(rows))
    assert shown.default == {"optimizer": "sgd", "momentum": 0.9}
    assert table(shown, "optimizer").loc["adam"].tolist() == [4.0, 5.0]
    assert list(table(shown, "momentum").index) == [0.5, 0.9]
    assert shown.layout == "star"


def test_a_param_that_some_runs_lack() -> None:
    """Where nothing explains its absence, absence is a level."""
    rows = [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (0, 1)]
    rows += [{"lr": lr, "seed": seed, "dropout": 0.5} for lr in (0.1, 0.2) for seed in (0, 1)]
    _, plan = inferred(runs(rows))
    assert plan.axes["dropout"] == (0.5, "(not set)")


def test_tags_are_axes_where_all_runs_have_them() -> None:
    """MLflow's own tags and this program's are none."""
    found = [
        run(i, {"seed": seed}, tags={"env": env, "mlflow.user": env, "mm.x": env, "id": f"t{i}"})
        for i, (env, seed) in enumerate(itertools.product(["maze", "cart"], range(3)))
    ]
    _, plan = inferred(found)
    assert plan.axes == {"tag:env": ("cart", "maze")}
    assert plan.ignored == {"tag:id": "unique text"}
    _, plan = (
        inferred([*found, run(9, {"seed": 0})], axes=("tag:id",)) if False else inferred(found)
    )
    assert plan.seed_axis == "seed"


def test_asking_for_an_ignored_param_makes_it_an_axis() -> None:
    """Three models, each once: unique text, unless the user says that it is an axis."""
    found = runs([{"model": name} for name in ("svm", "forest", "net")])
    with pytest.raises(InvalidInput, match=r"no axis varies .*model \(--axis makes one an axis\)"):
        inferred(found)
    shown = sheet(found, axes=("model",))
    assert table(shown, "model").index.tolist() == ["forest", "net", "svm"]
    assert table(shown, "model")[1].tolist() == [1.0, 2.0, 0.0]
    with pytest.raises(InvalidInput, match="unknown param or tag 'modle'; did you mean 'model'"):
        inferred(found, axes=("modle",))


# ---- seeds ----


def test_two_seeds_that_differ() -> None:
    """The program does not guess: one of them is named, and the other is an axis."""
    found = runs(product(data_seed=[0, 1], init_seed=[0, 1, 2]))
    with pytest.raises(
        InvalidInput, match="data_seed, init_seed vary, and differently; --seed-param"
    ):
        inferred(found)
    _, plan = inferred(found, seed_param="init_seed")
    assert (plan.seed_axis, plan.axes) == ("init_seed", {"data_seed": (0, 1)})


def test_a_seed_that_no_two_configurations_share() -> None:
    """Its values pair nothing: columns number the runs, and no Δ over levels is given for them."""
    rows = [{"lr": lr, "seed": 100 * i + j} for i, lr in enumerate((0.1, 0.2)) for j in range(3)]
    shown = sheet(runs(rows))
    assert (shown.seed_axis, shown.tables[0].seeds) == ("replicate", (1, 2, 3))
    assert table(shown, "lr").to_numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.isnan(shown.tables[0].delta_by_seed).all()
    assert shown.tables[0].delta_by_level.tolist() == [2, 2]
    frame, plan = inferred(runs(rows))
    assert any("No two configurations share a value of seed" in note for note in plan.notes)
    assert frame.counted.all()


def test_ragged_replicates_leave_nothing_missing() -> None:
    """Nobody planned the runs that a shorter row lacks."""
    rows = [{"lr": 0.1}] * 3 + [{"lr": 0.2}] * 2
    shown = sheet(runs(rows))
    assert shown.complete
    assert shown.tables[0].status[1] == ("ok", "ok", "absent")


def test_one_configuration() -> None:
    """Seeds alone: one row. Nothing at all: refused, unless replicates are asked for."""
    shown = sheet(runs([{"lr": 1, "seed": seed} for seed in range(4)]))
    assert (shown.layout, shown.delta_all) == ("repeats", 3.0)
    assert shown.tables[0].values.tolist() == [[0, 1, 2, 3]]
    same = runs([{"lr": 1}] * 4)
    with pytest.raises(InvalidInput, match="no axis varies in 4 runs; --duplicates as-replicates"):
        inferred(same)
    assert sheet(same, duplicates="as-replicates").tables[0].values.tolist() == [[0, 1, 2, 3]]


def test_repeated_runs_of_a_cell() -> None:
    """The latest counts and it is said how far they differ; or each is a column of its own."""
    rows = [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (0, 1)]
    found = [*runs(rows), run(7, rows[0]), run(9, rows[3])]
    shown = sheet(found)
    assert table(shown, "lr").to_numpy().tolist() == [[7, 1], [2, 9]]
    assert (shown.n_runs, shown.spread, len(shown.duplicates)) == (4, 7.0, 2)
    every = table(sheet(found, duplicates="as-replicates"), "lr")
    assert list(every.columns) == [0, "0 #2", 1, "1 #2"] or set(every.columns) == {
        0,
        1,
        "0 #2",
        "1 #2",
    }
    assert every.loc[0.1, "0 #2"] == 7
    assert math.isnan(every.loc[0.2, "0 #2"])
    assert sheet(found, duplicates="as-replicates").n_runs == 6


# ---- which runs ----


def test_the_depth_with_most_configurations_holds_the_cells() -> None:
    """A search's trials, not the run that they are nested in; or what is asked for."""
    children = [
        run(i, {"c": c, "seed": s}, tags={"mlflow.parentRunId": "run99"})
        for i, (c, s) in enumerate(itertools.product([1, 2], [0, 1]))
    ]
    found = [run(99, {"cv": 5}), run(98, {"cv": 6}), *children]
    frame, plan = inferred(found)
    assert (plan.axes, len(frame.cells)) == ({"c": (1, 2)}, 4)
    assert any("2 top-level or parent" in note for note in plan.notes)
    _, plan = inferred(found, level="top", axes=("cv",))
    assert plan.axes == {"cv": (5, 6)}
    loop = [run(i, {"a": i % 2, "seed": i // 2}, tags={"mlflow.parentRunId": f"run{(i + 1) % 4}"})
            for i in range(4)]  # fmt: skip
    with pytest.raises(InvalidInput, match=r"\d finished runs"):  # each its own ancestor: no crash
        inferred(loop[:1])


def test_what_is_not_finished_is_counted() -> None:
    """Failed, running and scheduled runs, and such without a metric."""
    found = runs(STAR)
    more = [
        run(50, {"lr": 5}, status="RUNNING"),
        run(51, {"lr": 5}, status="FAILED"),
        run(52, {"lr": 5}, metrics={}),
        run(53, {}, tags={"mm.kind": "report"}),
    ]
    _, plan = inferred([*found, *more])
    assert plan.notes[0] == "Runs left out: 1 failed, 1 finished without a metric, 1 running."
    assert 5 not in plan.axes["lr"]
    with pytest.raises(
        InvalidInput, match="1 finished runs with metrics: a sheet needs at least 2"
    ):
        inferred(found[:1])


def test_a_level_whose_runs_all_failed_is_shown_as_failed() -> None:
    """It was planned, so every Δ is a lower bound."""
    failed = [run(60 + s, {"lr": 9, "batch": 32, "seed": s}, status="FAILED") for s in range(3)]
    shown = sheet([*runs(STAR), *failed])
    lr = next(item for item in shown.tables if item.axis == "lr")
    assert (lr.levels[-1], lr.status[-1]) == (9, ("failed",) * 3)
    assert not shown.complete


def test_values_that_are_not_finite_leave_holes() -> None:
    """MLflow returns infinities as the largest float."""
    found = runs(STAR)
    odd = [math.nan, math.inf, -1.797e308]
    found[:3] = [run(i, STAR[i], value) for i, value in enumerate(odd)]
    shown = sheet(found)
    assert shown.n_runs == 9
    assert shown.delta_all == 11 - 3


# ---- tables against brute force ----


def brute_star(found: Sequence[RawRun], default: Mapping[str, Any], axis: str) -> dict[Any, Any]:
    """By level and seed, the value of the run that differs from the default in ``axis`` at most."""
    return {
        (run.params[axis], run.params["seed"]): run.metrics["score"]
        for run in found
        if all(run.params[name] == str(level) for name, level in default.items() if name != axis)
    }


grids = st.builds(
    lambda shape, seeds, drop, order: [
        row
        for i, row in enumerate(order.sample(
            product(a=range(shape[0]), b=range(shape[1]), c=range(shape[2]), seed=range(seeds)),
            shape[0] * shape[1] * shape[2] * seeds))
        if i not in drop
    ],
    st.tuples(st.integers(2, 3), st.integers(2, 3), st.integers(2, 3)),
    st.integers(2, 3),
    st.sets(st.integers(0, 60), max_size=20),
    st.randoms(use_true_random=False),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(grids)
def test_star_tables_are_those_of_a_double_loop(rows: list[dict[str, int]]) -> None:
    """Of a factorial with holes, around the default that was chosen."""
    found = runs(rows)
    try:
        shown = sheet(found)
    except InvalidInput:
        return
    if set(shown.default) != {"a", "b", "c"}:
        return  # so many holes that one axis follows another
    for item in shown.tables:
        wanted = brute_star(found, shown.default, item.axis)
        got = {
            (str(level), str(seed)): item.values[i, j]
            for i, level in enumerate(item.levels)
            for j, seed in enumerate(item.seeds)
            if item.run_ids[i][j]
        }
        assert got == wanted
    assert shown.n_runs == len(found)
    assert shown.delta_all == max(r.metrics["score"] for r in found) - min(
        r.metrics["score"] for r in found
    )


@settings(max_examples=40, deadline=None)
@given(grids)
def test_the_default_is_the_one_with_most_tables(rows: list[dict[str, int]]) -> None:
    """No other configuration has more axes of which two levels or more have a run."""
    found = runs(rows)
    try:
        frame, plan = inferred(found)
    except InvalidInput:
        return
    if set(plan.axes) != {"a", "b", "c"} or not plan.default:
        return

    def tables(default: Mapping[str, Any]) -> int:
        return sum(
            len({level for level, _ in brute_star(found, default, axis)}) > 1 for axis in plan.axes
        )

    best = max(tables(levels) for levels in frame.axes.to_dict("records"))
    assert tables(plan.default) == best == len(plan.tables)


@settings(max_examples=40, deadline=None)
@given(grids)
def test_pooled_entries_are_means_over_what_every_level_has(rows: list[dict[str, int]]) -> None:
    """Per seed, over the combinations of the other axes that no level lacks."""
    found = runs(rows)
    try:
        shown = sheet(found, pool=True)
    except InvalidInput:
        return
    if set(shown.default) != {"a", "b", "c"}:
        return
    by = {tuple(row.values()): float(i) for i, row in enumerate(rows)}
    names = ["a", "b", "c"]
    for item in shown.tables:
        rest = [name for name in names if name != item.axis]
        for j, seed in enumerate(item.seeds):
            combos: dict[Any, set[Any]] = {}
            for row in rows:
                if row["seed"] == seed:
                    combos.setdefault(row[item.axis], set()).add(tuple(row[n] for n in rest))
            common = set.intersection(*combos.values()) if combos else set()
            for i, level in enumerate(item.levels):
                chosen = [
                    by[(*(point[n] for n in names), seed)]
                    for point in (
                        {item.axis: level, **dict(zip(rest, c, strict=True))} for c in common
                    )
                    if level in combos
                ]
                value = item.values[i, j]
                if chosen:
                    assert value == pytest.approx(np.mean(chosen))
                else:
                    assert math.isnan(value)


def means(frame: pd.DataFrame, row: str, column: str) -> pd.DataFrame:
    return frame.pivot_table(index=row, columns=column, values="score", aggfunc="mean")


def test_pooling_a_whole_factorial_is_a_pivot_table() -> None:
    """Without holes nothing is left out, and the sheet says what an entry is."""
    rows = product(a=[1, 2], b=[1, 2, 3], seed=[0, 1])
    shown = sheet(runs(rows), pool=True)
    wanted = pd.DataFrame(rows).assign(score=range(len(rows)))
    assert np.allclose(table(shown, "b"), means(wanted, "b", "seed"))
    assert "all combinations of the other params" in shown.pooled


def test_two_axes_crossed() -> None:
    """Levels of one axis as columns; an entry is the mean over the seeds that all entries have."""
    rows = product(a=[1, 2], b=["x", "y"], seed=[0, 1, 2])
    rows.remove({"a": 2, "b": "y", "seed": 2})
    found = runs(rows)
    shown = sheet(found, columns="b")
    assert [item.axis for item in shown.tables] == ["a"]
    assert shown.seed_axis == "b"
    wanted = pd.DataFrame(rows).assign(score=range(len(rows))).query("seed < 2")
    assert np.allclose(table(shown, "a"), means(wanted, "a", "b"))
    assert shown.n_runs == 11


def test_bins_hold_equally_many_runs() -> None:
    """As pandas' qcut has them; every run is in one bin, and the bins are in order."""
    random = np.random.default_rng(0)
    rates = 10 ** random.uniform(-4, -1, 23)
    found = runs([{"lr": rate, "drop": random.random()} for rate in rates])
    shown = sheet(found, bins={"lr": 4})
    wanted = pd.Series(pd.qcut(rates, 4, labels=False))
    got = table(shown, "lr")
    for i in range(4):
        mine = sorted(value for value in got.iloc[i] if not math.isnan(value))
        assert mine == sorted(np.flatnonzero(wanted == i).tolist())
    assert shown.layout == "bins"
    assert shown.n_runs == 23
    assert not shown.tables[0].paired


def test_bins_of_few_values_and_of_text() -> None:
    """Ties may leave fewer bins; text has none."""
    found = runs([{"depth": d, "kind": k} for d in (1, 1, 1, 2, 3) for k in ("u", "v")])
    assert table(sheet(found, bins={"depth": 4}), "depth").index.tolist() == ["1", "2", "3"]
    with pytest.raises(InvalidInput, match="bins kind is not allowed: its values are no numbers"):
        inferred(found, bins={"kind": 3})
    with pytest.raises(InvalidInput, match="bins depth=1 is not allowed"):
        inferred(found, bins={"depth": 1})


def test_random_search() -> None:
    """Δ over all runs and their distribution, no table, and why."""
    random = np.random.default_rng(1)
    found = runs([{"lr": random.random(), "drop": random.random(), "seed": 42} for _ in range(20)])
    frame, plan = inferred(found)
    assert (plan.layout, plan.tables) == ("none", ())
    assert plan.candidates == dict.fromkeys(["drop", "lr"], "20 values in 20 runs")
    report = build_report(frame, plan)
    assert report.sheets[0].delta_all == 19
    assert [len(item.strips[0].values) for item in report.distributions] == [20]
    assert any("random search over drop, lr" in note for note in report.notes)


def test_a_repeated_random_search() -> None:
    """A row per configuration; params that vary together are told together."""
    random = np.random.default_rng(2)
    points = [{"lr": random.random(), "drop": random.random()} for _ in range(6)]
    found = runs([{**point, "seed": seed} for point in points for seed in range(3)])
    shown = sheet(found)
    assert shown.layout == "repeats"
    (one,) = shown.tables
    assert (one.axis, one.values.shape, one.default) == ("configuration", (6, 3), None)
    assert sorted(map(tuple, one.values.tolist())) == [(i, i + 1, i + 2) for i in range(0, 18, 3)]


def test_a_default_that_is_asked_for() -> None:
    """Tables go through it; levels that no run has together are refused."""
    shown = sheet(runs(STAR), default={"lr": "0.01"})
    assert shown.default == {"batch": 32, "lr": 0.01}
    assert [item.axis for item in shown.tables] == ["lr"]
    assert shown.layout == "factorial"  # lr 0.1 with batch 64 differs in two
    with pytest.raises(InvalidInput, match="unknown lr level '7'"):
        inferred(runs(STAR), default={"lr": "7"})
    with pytest.raises(InvalidInput, match=r"default lr=0\.01 and batch=64 is not allowed"):
        inferred(runs(STAR), default={"lr": "0.01", "batch": "64"})


def test_a_param_that_makes_no_difference() -> None:
    """Ignored as asked: a duration is no candidate then, and a seed no seed."""
    rows = [{"lr": lr, "time": 7.5 * i + lr} for i, lr in enumerate([0.1, 0.2] * 3)]
    assert inferred(runs(rows))[1].layout == "none"
    shown = sheet(runs(rows), ignore=("time",))
    assert table(shown, "lr").to_numpy().tolist() == [[0, 2, 4], [1, 3, 5]]
    _, plan = inferred(runs(STAR), ignore=("seed",))
    assert (plan.seed_axis, plan.ignored["seed"]) == ("replicate", "as asked")


def test_bins_of_a_search_hold_nothing_else_fixed() -> None:
    """Beside them no table pretends that two runs differ in a choice alone."""
    rows = [{"lr": 0.37 * i, "kind": "ab"[i % 2]} for i in range(20)]
    assert [item.axis for item in sheet(runs(rows), bins={"lr": 4}).tables] == ["lr"]


def test_no_finite_value_at_all() -> None:
    """Said in one line."""
    found = [run(i, row, math.nan) for i, row in enumerate(STAR)]
    with pytest.raises(InvalidInput, match="no run has a finite value of any metric"):
        build_report(*inferred(found))


def test_thousands_of_params() -> None:
    """Each is looked at once, and counted."""
    rows = [{**row, **{f"p{i}": i for i in range(3000)}} for row in STAR]
    _, plan = inferred(runs(rows))
    assert len(plan.ignored) == 3000
    assert set(plan.axes) == {"batch", "lr"}


def test_environments_and_data_that_differ_are_said() -> None:
    """Commits that MLflow noted, and digests of datasets."""
    found = [
        run(i, row, tags={"mlflow.source.git.commit": "abc" if i < 6 else "def"},
            datasets=("d1",) if i < 5 else ("d2",))
        for i, row in enumerate(STAR)
    ]  # fmt: skip
    notes = " ".join(build_report(*inferred(found)).notes)
    assert "different environments: git_commit abc / def" in notes
    assert "2 different sets of data (digests d1, d2)" in notes


def test_many_metrics_are_cut_and_counted() -> None:
    """The most widespread have sheets; those left out are named."""
    metrics = {f"m{i:03}": float(i) for i in range(60)}
    found = [
        run(i, row, metrics={**metrics, "late": 1.0} if i else metrics)
        for i, row in enumerate(STAR)
    ]
    report = build_report(*inferred(found))
    assert len(report.sheets) == 40
    assert any("21 more metrics have no sheet here" in note for note in report.notes)


@pytest.mark.parametrize("asked", [{}, {"pool": True}, {"columns": "lr"}, {"bins": {"lr": 2}}])
def test_every_format_renders(asked: dict[str, Any]) -> None:
    """Tables of every kind, and hostile names."""
    from mm_mlflow.render import report_files

    rows = [{"<script>alert(1)</script>\n|x": kind, "lr": lr, "seed": s}
            for kind in ("</table>", "😀" * 300) for lr in (0.1, 0.2) for s in (0, 1)]  # fmt: skip
    report = build_report(*inferred(runs(rows), **asked))
    files = dict(report_files(report))
    page = files["index.html"].decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert files["sheets/score/sheet.png"].startswith(b"\x89PNG")


# ---- what a review found ----

FULL = product(lr=[0.1, 0.01], batch=[32, 64], seed=[0, 1])


@pytest.mark.parametrize("names", [("lr",), ("lr", "wd")])
def test_bins_of_a_search_over_nothing_else(names: tuple[str, ...]) -> None:
    """A random search of one param is what bins are for."""
    random = np.random.default_rng(3)
    found = runs([{name: random.random() for name in names} for _ in range(8)])
    shown = sheet(found, bins=dict.fromkeys(names, 2))
    assert [(t.axis, t.values.shape) for t in shown.tables] == [(name, (2, 4)) for name in names]
    assert (shown.layout, shown.seed_axis, shown.pooled) == ("bins", "replicate", "")


def test_digits_without_end() -> None:
    """Numbers too large for a float, and for Python to read, are levels like others, in order."""
    long = ["9" * 5000, "9" * 400, "1" + "0" * 400, "7"]
    assert column("x", long).levels == (7, int(long[1]), int(long[2]), long[0])
    assert column("x", ["a" + "9" * 5000, "a10", "a9"]).levels[:2] == ("a9", "a10")
    rows = [{"id": text, "seed": seed} for text in long[1:] for seed in (0, 1)]
    assert sheet(runs(rows)).n_runs == 6
    assert sheet(runs(rows), bins={"id": 2}).n_runs == 6


@pytest.mark.parametrize(
    "asked",
    [
        {"ignore": ("lr",), "default": {"lr": "0.1"}},
        {"ignore": ("lr",), "columns": "lr"},
        {"ignore": ("lr",), "axes": ("lr",)},
        {"ignore": ("lr",), "bins": {"lr": 2}},
        {"seed_param": "seed", "columns": "seed"},
        {"seed_param": "seed", "default": {"seed": "1"}},
        {"seed_param": "seed", "axes": ("seed",)},
        {"seed_param": "seed", "ignore": ("seed",)},
        {"bins": {"lr": 2}, "columns": "batch"},
        {"bins": {"lr": 2}, "axes": ("batch",)},
    ],
)
def test_options_that_exclude_each_other(asked: dict[str, Any]) -> None:
    """One line, no traceback and no silence."""
    with pytest.raises(InvalidInput, match="not allowed"):
        inferred(runs(FULL), **asked)


def test_true_and_one_are_two_levels_and_two_seeds() -> None:
    """Though to Python they are equal."""
    rows = product(lr=(1, 2), flag=("1", "True"), seed=(0, 1))
    crossed = next(t for t in sheet(runs(rows), columns="flag").tables if t.axis == "lr")
    assert [type(column) for column in crossed.seeds] == [int, bool]
    assert crossed.values.tolist() == [[0.5, 2.5], [4.5, 6.5]]
    shown = sheet(runs(product(lr=(5, 6), seed=("1", "True"))))
    assert (shown.n_runs, shown.duplicates) == (4, ())
    assert shown.tables[0].values.tolist() == [[0, 1], [2, 3]]


def test_replicates_of_seeds_that_look_like_replicates() -> None:
    """No run is lost."""
    found = runs([{"lr": lr, "seed": seed} for lr in (1, 2) for seed in ("a", "a", "a #2")])
    shown = sheet(found, duplicates="as-replicates")
    assert (shown.n_runs, shown.tables[0].seeds) == (6, ("a", "a #2", "a #3"))


def test_nested_runs_where_there_are_none() -> None:
    """Asked for, and not there: said."""
    with pytest.raises(InvalidInput, match="0 finished runs with metrics"):
        inferred(runs(FULL), level="nested")


def test_axes_named_like_columns_of_the_tidy_file() -> None:
    """Levels are not overwritten, and no column stands twice."""
    names = ("value", "metric", "run_id", "status", "configuration")
    rows = product(**{name: ["x", "y"] for name in names}, seed=[0, 1])
    cells = build_report(*inferred(runs(rows))).cells
    assert cells.columns.is_unique
    for name in names:
        assert set(cells[f"param:{name}"]) == {"x", "y"}
    assert set(cells["value"]) == set(range(len(rows)))
    crossed = build_report(*inferred(runs(product(lr=[1, 2], seed=[0, 1])), columns="seed")).cells
    assert crossed["param:seed"].tolist() == [0, 1, 0, 1]


def test_params_with_names_and_values_of_our_own() -> None:
    """A param called tag:env is no tag, and the text "(not set)" is a value."""
    rows = [{"tag:env": env, "seed": seed} for env in "ab" for seed in (0, 1)]
    _, plan = inferred(runs(rows))
    assert plan.axes == {"param:tag:env": ("a", "b")}
    rows = [{"kind": kind, "seed": s} for kind in ("(not set)", "b") for s in (0, 1)]
    found = [*runs(rows), run(8, {"seed": 0}), run(9, {"seed": 1})]
    assert sheet(found).n_runs == 6


def test_labels_of_crossed_runs_name_the_seed() -> None:
    """Not the axis that makes the columns."""
    frame, _ = inferred(runs(FULL), columns="batch")
    assert all(" seed=" in label for label in frame.cells["label"])
    assert not any(" batch=0" in label for label in frame.cells["label"])


REPEATED = [{"lr": a, "wd": b, "seed": s} for a, b in ((1, 2), (2, 3), (3, 1)) for s in (0, 1)]
SEARCH = [{"lr": 0.1 * i + 0.01 * i * i, "wd": 0.3 * (i % 5) + i} for i in range(8)]


def notes(found: Sequence[RawRun], **asked: Any) -> str:
    return " ".join(inferred(found, **asked)[1].notes)


@pytest.mark.parametrize(
    ("asked", "word"), [({"pool": True}, "--pool"), ({"columns": "lr"}, "--columns")]
)
def test_what_gave_no_table_is_said(asked: dict[str, Any], word: str) -> None:
    """And no sheet claims a mean over what is no mean."""
    frame, plan = inferred(runs(REPEATED), **asked)
    shown = build_sheet(frame, plan, "score")
    assert plan.layout == "repeats"
    assert (shown.pooled, shown.seed_axis) == ("", "seed")
    assert f"{word} gave no table" in " ".join(plan.notes)


def test_no_sentence_is_false() -> None:
    """About a default that was asked for, tables that are there, and a seed that is none."""
    assert "but the seed" not in notes(runs(SEARCH), pool=True)
    lone = run(40, {"lr": 7, "batch": 128, "seed": 0})
    assert "around the default asked for (lr=7)" in notes([*runs(STAR), lone], default={"lr": "7"})
    assert "are in no table" not in notes(runs(FULL), columns="batch")
    assert "seed is asked to be something else" in notes(runs(FULL), ignore=("seed",))
    assert "No table" not in notes(runs(STAR), bins={"lr": 2})
    with pytest.raises(InvalidInput, match="unknown lr level '77'"):
        inferred(runs(SEARCH), default={"lr": "77"})


def test_a_failed_run_of_a_new_seed_makes_no_holes() -> None:
    """Nobody planned that seed for the other levels."""
    failed = [run(60 + s, {"lr": 7, "batch": 32, "seed": 9}, status="FAILED") for s in range(2)]
    shown = sheet([*runs(STAR), *failed])
    assert shown.complete
    assert all(9 not in item.seeds for item in shown.tables)


@pytest.mark.parametrize(
    ("rows", "asked", "kind"),
    [
        (product(lr=[1, 2], trial=[1, 2, 3]), {"seed_param": "trial"}, "seeds"),
        (product(lr=[1, 2], replicate=[1, 2, 3]), {"seed_param": "replicate"}, "seeds"),
        (product(lr=[1, 2], random_crop=[0, 1], seed=[0, 1]), {"columns": "random_crop"}, "levels"),
        (product(lr=[1, 2], seed=[0, 1]), {"columns": "seed"}, "seeds"),
        (product(lr=[1, 2], seed=[0, 1]), {"bins": {"lr": 2}}, "runs"),
        (product(lr=[1, 2]) * 3, {}, "runs"),
        (product(lr=[1, 2], seed=[0, 1]), {}, "seeds"),
    ],
)
def test_what_the_columns_are(rows: Any, asked: dict[str, Any], kind: str) -> None:
    """No name tells: a seed may be called trial, and random_crop is none."""
    from mm_mlflow.render import index, renderer

    shown = sheet(runs(rows), **asked)
    assert shown.column_kind == kind
    assert f"Δmax over {kind} |" in renderer("md")(shown).decode()
    page = index.render(build_report(*inferred(runs(rows), **asked))).decode()
    assert ("numbered from 1" in page) == (kind == "runs")
    assert Sheet.from_dict(shown.to_dict()).column_kind == kind


def test_nothing_of_theirs_was_planned() -> None:
    """A run that lacks a metric, and a seed that one level lacks, are holes that nobody planned."""
    from mm_mlflow.render import digest, renderer

    found = [
        run(i, row, metrics={"score": float(i), **({"late": 1.0} if i > 3 else {})})
        for i, row in enumerate(STAR[:-1])
    ]
    frame, plan = inferred(found)
    report = build_report(frame, plan)
    texts = [renderer("md")(item).decode() for item in report.sheets]
    assert "Incomplete: 5 cells have no value" in texts[0]
    assert "missing: no finished run has these levels and this metric" in texts[0]
    assert "Incomplete: 1 of 12 cells have no finished run" in " ".join(report.notes)
    assert not any("planned" in text for text in [*texts, *report.notes, digest(report)])


def test_runs_that_tell_of_their_training_only() -> None:
    """Where there is no other metric, what is about the training has sheets; the system has none."""
    found = [
        run(i, row, metrics={"train_loss": float(i), "system/cpu": 1.0})
        for i, row in enumerate(STAR)
    ]
    frame, plan = inferred(found)
    assert frame.metrics == ["train_loss"]
    assert [item.metric for item in build_report(frame, plan).sheets] == ["train_loss"]


def test_levels_that_were_tried_in_no_common_company() -> None:
    """Nothing can be averaged: no table, and why."""
    rows = [{"a": a, "b": 10 * a + b, "seed": s} for a in (1, 2) for b in (1, 2) for s in (0, 1)]
    frame, plan = inferred(runs(rows), axes=("a", "b"), pool=True)
    assert all(table.axis == "configuration" for table in plan.tables)
    note = "--pool gave no table: no two levels of an axis were tried with the same combination"
    assert any(text.startswith(note) for text in plan.notes)
    assert math.isfinite(build_sheet(frame, plan, "score").delta_all)


def test_seeds_that_nobody_planned_are_not_missing() -> None:
    """Of a search most configurations have one seed of many; of a plan some seeds may be missing."""
    for places in ([0] * 12, [i * i % 11 for i in range(12)]):
        search = [{"x": i / 7, "y": y, "seed": i % 4} for i, y in enumerate(places)]
        search += [{**search[0], "seed": 1}, {**search[5], "seed": 3}]
        shown = sheet(runs(search))
        assert [item.axis for item in shown.tables] == ["x" if not any(places) else "configuration"]
        assert shown.complete
        assert not shown.missing
    _, plan = inferred(runs(search))
    assert any("--bins x=4 groups all runs" in note for note in plan.notes)
    planned = [{"x": x, "y": x * x, "seed": s} for x in range(4) for s in range(4)][:-2]
    assert len(sheet(runs(planned)).missing) == 2


def test_what_entries_of_numbered_runs_are_means_of() -> None:
    """Without seeds no run of one level belongs to one of another: all its runs count."""
    rows = [*product(a=[1, 2], b=["x", "y"]), {"a": 1, "b": "x"}]
    shown = sheet(runs(rows), columns="b")
    assert shown.pooled == "its runs"
    assert table(shown, "a").loc[1, "x"] == np.mean([0, 4])


def test_metrics_about_training_are_said_to_be_left() -> None:
    """They have no sheet unless they are asked for; of our own runs everybody knows that."""
    found = [
        run(i, row, metrics={"score": float(i), "train_loss": float(i)})
        for i, row in enumerate(STAR)
    ]
    frame, plan = inferred(found)
    note = "Metrics about training itself have no sheet (train_loss)"
    assert any(text.startswith(note) for text in build_report(frame, plan).notes)
    assert not any(note in text for text in build_report(frame, plan, ["score"]).notes)
    assert choose_metrics(frame, ["train*"]) == ["train_loss"]
    assert choose_metrics(frame, ["*"]) == ["score"]
