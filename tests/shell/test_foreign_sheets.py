"""The command line on runs that this program did not make."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import mlflow
import pandas as pd
import pytest
from helpers import Command, artifact, artifacts, runs_of
from mlflow import MlflowClient

RATES, SIZES, SEEDS = (0.1, 0.05, 0.001), (32, 64), (1, 2, 3)


@pytest.fixture
def plain() -> str:
    """A loop as people write it: a star of two params, three seeds, a loss and an accuracy."""
    experiment = mlflow.set_experiment("plain")
    for rate, size in [*((rate, 32) for rate in RATES), (0.1, 64)]:
        for seed in SEEDS:
            with mlflow.start_run():
                mlflow.log_params(
                    {"lr": rate, "batch_size": size, "random_state": seed, "epochs": 4}
                )
                for step in range(3):  # the last value counts
                    mlflow.log_metric("val_loss", 10 * rate + size / 100 + seed + step, step)
                mlflow.log_metric("val/acc", 0.9 + rate / seed)
    return str(experiment.name)


def theirs(name: str) -> pd.DataFrame:
    """What MLflow itself returns: nothing of this package."""
    found = mlflow.search_runs(experiment_names=[name])
    assert isinstance(found, pd.DataFrame)
    return found[found.get("tags.mm.kind", pd.Series(index=found.index, dtype=object)).isna()]


def test_values_are_those_of_mlflow(plain: str, command: Command) -> None:
    """Every value, Δ of rows and columns and Δ over all, computed again from MLflow's own table."""
    document = json.loads(command("sheet", "--experiment-name", plain, "--json").output)
    found = theirs(plain)
    assert {sheet["metric"] for sheet in document["sheets"]} == {"val_loss", "val/acc"}
    for sheet in document["sheets"]:
        values = found.set_index(["params.lr", "params.batch_size", "params.random_state"])[
            f"metrics.{sheet['metric']}"
        ]
        assert sheet["delta_all"] == values.max() - values.min()
        assert sheet["default"] == {"lr": 0.1, "batch_size": 32}
        assert (sheet["layout"], sheet["seed_axis"], sheet["unit"]) == (
            "star",
            "random_state",
            "raw",
        )
        for table in sheet["tables"]:
            for i, level in enumerate(table["levels"]):
                chosen = {**sheet["default"], table["axis"]: level}
                row = [values[str(chosen["lr"]), str(chosen["batch_size"]), str(s)] for s in SEEDS]
                assert table["values"][i] == row
                assert table["delta_by_level"][i] == max(row) - min(row)
            for j in range(len(SEEDS)):
                column = [row[j] for row in table["values"]]
                assert table["delta_by_seed"][j] == max(column) - min(column)


def test_a_report_in_their_experiment(plain: str, command: Command) -> None:
    """A run of its own, whole and valid; nothing is written to the runs that were there."""
    before = {run.info.run_id: run.to_dictionary() for run in _all(plain)}
    output = command("sheet", "--experiment-name", plain).output
    assert "axis lr: 0.001, 0.05, 0.1" in output
    assert "no axes: epochs (constant)" in output
    (report,) = runs_of("report", plain)
    assert report.data.metrics["delta_all/val_loss"] > 0
    schema = json.loads(_schema().read_text(encoding="utf-8"))
    for path in artifacts(report):
        if path.endswith("sheet.json"):
            jsonschema.validate(json.loads(artifact(report, path)), schema)
    page = artifact(report, "index.html").decode()
    assert "from the params and tags of runs" in page
    assert "cifar10_skewed" not in page  # the paper's figures are not theirs
    after = {run.info.run_id: run.to_dictionary() for run in _all(plain)}
    assert {run_id: after[run_id] for run_id in before} == before


def _schema() -> Path:
    import mm_mlflow

    return Path(mm_mlflow.__file__).parent / "render" / "sheet.schema.json"


def _all(name: str) -> list[mlflow.entities.Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_reports_of_other_options_stand_side_by_side(plain: str, command: Command) -> None:
    """Only one of the same options supersedes another."""
    for options in ([], ["--pool"], ["--default", "lr=0.05"], ["--pool"]):
        command("sheet", "--experiment-name", plain, "--metric", "val_loss", *options)
    superseded = [run for run in runs_of("report", plain) if "mm.superseded_by" in run.data.tags]
    assert len(superseded) == 1
    assert '"pool":true' in superseded[0].data.tags["mm.report"]


def test_options_reach_the_tables(plain: str, command: Command, tmp_path: Path) -> None:
    """Pooled, crossed, binned, by another default, one axis only."""

    def tables(*options: str) -> list[dict[str, object]]:
        words = ["sheet", "--experiment-name", plain, "--metric", "val_loss", "--json"]
        document = json.loads(command(*words, *options, "--out", tmp_path / "out").output)
        assert document["report_run_id"] is None
        return list(document["sheets"][0]["tables"])

    assert [table["axis"] for table in tables("--axis", "lr")] == ["lr"]
    (crossed,) = tables("--columns", "batch_size")
    assert (crossed["axis"], crossed["seeds"]) == ("lr", [32, 64])
    assert tables("--default", "lr=0.05")[0]["levels"] == [0.001, 0.05, 0.1]
    (binned,) = tables("--bins", "random_state=3")
    assert binned["levels"] == ["1", "2", "3"]
    (numbered,) = tables("--seed-param", "batch_size", "--axis", "lr")
    assert numbered["seeds"] == [32, 64]
    assert runs_of("report", plain) == []


@pytest.mark.pictures
def test_select_on_their_runs(plain: str, command: Command) -> None:
    """By threshold; or by the user's word which way their metrics are better, which nothing else says."""
    words = ["select", "--experiment-name", plain, "--json"]
    document = json.loads(command(*words, "--require", "val/acc>=0.95").output)
    found = theirs(plain)
    wanted = set(found.loc[found["metrics.val/acc"] >= 0.95, "run_id"])
    assert set(document["selected"]) == wanted
    assert len(wanted) == 5
    assert (
        "nothing says whether more"
        in command(*words, "--pareto", "--on", "val_loss", code=2).output
    )
    both = ["--pareto", "--on", "val*", "--minimize", "val_loss"]
    assert "metric 'val/acc' is better" in command(*words, *both, code=2).output
    document = json.loads(command(*words, *both, "--maximize", "val/*").output)
    loss, accuracy = (found[f"metrics.{key}"].to_numpy() for key in ("val_loss", "val/acc"))
    front = [
        not ((loss <= a) & (accuracy >= b) & ((loss < a) | (accuracy > b))).any()
        for a, b in zip(loss, accuracy, strict=True)
    ]
    assert 0 < sum(front) < len(front)
    assert set(document["selected"]) == set(found.loc[front, "run_id"])
    refused = command(*words, *both, "--maximize", "vall*", code=2).output
    assert "unknown metric 'vall*'" in refused


def test_bad_options(plain: str, command: Command, small: Path) -> None:
    """One line each, with what is allowed; nothing is written."""
    words = ["sheet", "--experiment-name", plain]
    for options, line in [
        (["--metric", "nothing"], "unknown metric 'nothing' (known: val/acc, val_loss)"),
        (["--seed-param", "sed"], "unknown param or tag 'sed'"),
        (["--axis", "random_sate"], "did you mean 'random_state'?"),
        (["--bins", "lr"], "--bins 'lr' is not allowed: --bins A=N is"),
        (["--bins", "lr=x"], "bins lr=x is not allowed: a whole number of at least 2"),
        (["--default", "lr=7"], "unknown lr level '7'"),
        (
            ["--ignore", "lr", "--axis", "lr"],
            "ignore 'lr' is not allowed: another option asks for it",
        ),
        (["--bins", "lr=2", "--pool"], "bins and pool are not allowed together"),
        (["--level", "nested"], "0 finished runs with metrics"),
        (["--columns", "epochs"], "epochs is no axis: it is 4 in every run"),
        (["--design", str(small), "--pool"], "leave it out, or the options that say otherwise"),
    ]:
        result = command(*words, *options, code=2)
        assert line in " ".join(result.output.split())
        assert len(result.output.strip().splitlines()) == 1
    assert "no sweep" in command("status", "--experiment-name", plain, code=2).output
    assert runs_of("report", plain) == []


def test_our_own_cells_can_be_read_by_their_params(
    small: Path, command: Command, in_process: None
) -> None:
    """A factorial of another program's making and a sweep's cells are read alike, if asked for."""
    command("sweep", small)
    by_design = json.loads(command("sheet", "--experiment-name", "small", "--json").output)
    by_params = json.loads(
        command("sheet", "--experiment-name", "small", "--json", "--seed-param", "seed").output
    )
    for one, other in zip(by_design["sheets"], by_params["sheets"], strict=True):
        assert one["metric"] == other["metric"]
        assert one["delta_all"] == other["delta_all"]
        assert one["unit"] == other["unit"] == "fraction"
        tables = {table["axis"]: table for table in one["tables"]}
        for table in other["tables"]:
            rows = dict(
                zip(tables[table["axis"]]["levels"], tables[table["axis"]]["values"], strict=True)
            )
            assert dict(zip(table["levels"], table["values"], strict=True)) == rows


def test_metrics_with_the_longest_names(command: Command) -> None:
    """MLflow takes 250 characters, and ours go before them."""
    _runs("long", {"m" * 249: 1.0, "m" * 248 + "n": 2.0})
    command("sheet", "--experiment-name", "long")
    (report,) = runs_of("report", "long")
    keys = [key for key in report.data.metrics if key.startswith("delta_all/")]
    assert len(keys) == 2
    assert max(map(len, keys)) == 250


def test_metrics_about_the_training_alone(command: Command, tmp_path: Path) -> None:
    """Shown where there is nothing else; what is about the machine only if it is named."""
    _runs("training", {"train_loss": 1.0, "system/cpu": 2.0})
    _runs("machine", {"system/cpu": 2.0})
    words = ["sheet", "--json", "--out", tmp_path / "out", "--experiment-name"]

    def metrics(*options: str) -> list[str]:
        return [s["metric"] for s in json.loads(command(*words, *options).output)["sheets"]]

    assert metrics("training") == ["train_loss"]
    assert metrics("training", "--metric", "train_*") == ["train_loss"]
    assert metrics("machine", "--metric", "system/cpu") == ["system/cpu"]
    assert "have no metric that a sheet could show" in command(*words, "machine", code=2).output


def _runs(experiment: str, metrics: dict[str, float]) -> None:
    """Two levels by two seeds."""
    client = MlflowClient()
    found = client.create_experiment(experiment)
    for i, (rate, seed) in enumerate((rate, seed) for rate in RATES[:2] for seed in SEEDS[:2]):
        run_id = client.create_run(found).info.run_id
        client.log_param(run_id, "lr", rate)
        client.log_param(run_id, "seed", seed)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value + i)
        client.set_terminated(run_id)
