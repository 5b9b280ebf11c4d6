"""Distributions: every run once, in the order of what varies, from what records say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mm_mlflow.design import Design
from mm_mlflow.distribution import Distribution, Strip, build_distributions
from mm_mlflow.figures import FIGURES, figure_of, figure_rows
from mm_mlflow.frame import ExperimentRef, Frame, RawRun, conform
from mm_mlflow.render import strips

DESIGN = Design.parse("""
name: paper
dataset: {name: cifar10_skewed}
training: {epochs: 1}
default: {learning_rate: 0.1, batch_size: 128, augmentation: randaugment, optimizer: sgd,
          architecture: resnet18}
axes:
  learning_rate: [0.1, 0.05, 0.01]
  batch_size: [128, 256, 640]
  augmentation: [randaugment, trivialaugment]
  optimizer: [sgd, {name: adam_scaled, training: {optimizer: adam, learning_rate_scale: 0.1}}]
  architecture: [resnet18, resnet50, wide_resnet50_2]
seeds: 5
""")


def record(
    intervention: str, n: int = 100, group: dict[str, str] | None = None, **parameters: object
) -> dict[str, object]:
    data = {"split": "test", "examples": None, "dataset": None}
    return {"intervention": intervention, "version": 2, "title": f"{intervention}, x", "group": group,
            "parameters": {**data, **parameters}, "split": "test", "n": n, "unit": "fraction"}  # fmt: skip


RECORDS = {
    "accuracy": record("accuracy"),
    "pgd_accuracy/delta-0.02": record("pgd", delta=0.02, steps=20),
    "pgd_accuracy/delta-0.005": record("pgd", delta=0.005, steps=20),
    "pgd_accuracy/delta-0.005.examples-50": record("pgd", n=50, delta=0.005, steps=20, examples=50),
    "pgd_accuracy/delta-0.01.examples-50": record("pgd", n=50, delta=0.01, steps=20, examples=50),
    "output_perturbation_accuracy/lambda-5": record("output_perturbation", **{"lambda": 5}),
    "group_accuracy/skew-gs_minority": record("group_accuracy", 7, {"skew": "gs_minority"}),
    "group_accuracy/skew-gs_majority": record("group_accuracy", 93, {"skew": "gs_majority"}),
    "group_accuracy/race-asian.age-1_2": record("group_accuracy", 5, {"race": "asian", "age": "1-2"}),
    "group_accuracy/race-black.age-1_2": record("group_accuracy", 4, {"race": "black", "age": "1-2"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> Frame:
    rng = np.random.default_rng(0)
    runs = [
        RawRun(
            run_id=f"run{i}", name=cell.label, status="FINISHED", start_time=0, end_time=1, params={},
            tags={"mm.kind": "cell", "mm.schema": "1", "mm.cell": cell.id, "mm.health": "ok"},
            metrics={**dict(zip(RECORDS, rng.random(len(RECORDS)), strict=True)), "foreign": 1.0},
            records=RECORDS,
        )
        for i, cell in enumerate(DESIGN.cells())
    ]  # fmt: skip
    return conform(runs, DESIGN, ExperimentRef("1", "paper"))


def test_each_run_counts_once(frame: Frame) -> None:
    """45 runs fill the star's 65 entries: a strip has 45 points, the very values of the runs."""
    for distribution in build_distributions(frame):
        for strip in distribution.strips:
            assert len(set(strip.run_ids)) == len(strip.values) == 45
            by_run = dict(zip(frame.cells["run_id"], frame.values[strip.metric], strict=True))
            assert [by_run[run] for run in strip.run_ids] == strip.values.tolist()


def test_families(frame: Frame) -> None:
    """By strength in rising order on the same examples, by set of attributes; a single λ is no
    distribution, and clean accuracy leads only where it is over the same examples."""
    found = {d.name: [strip.label for strip in d.strips] for d in build_distributions(frame)}
    assert found == {
        "pgd": ["all, clean", "δ = 0.005", "δ = 0.02"],
        "pgd-2": ["δ = 0.005", "δ = 0.01"],
        "groups-skew": ["all, clean", "gs_majority", "gs_minority"],
        "groups-race-age": ["all, clean", "asian, 1-2", "black, 1-2"],
    }
    figures = {d.name: d.figure for d in build_distributions(frame)}
    assert figures == {"pgd": 8, "pgd-2": 8, "groups-skew": 3, "groups-race-age": 3}


def test_the_figures_of_the_paper() -> None:
    """All 14, each on its dataset; a sheet knows its own number, and only its own."""
    assert [figure.number for figure in FIGURES] == list(range(1, 15))
    assert {f.number for f in FIGURES if f.dataset == "cifar10_skewed"} == {10, 11, 12, 13, 14}
    cases = {
        ("cifar10_skewed", "accuracy"): 10,
        ("utkface", "accuracy"): 1,
        ("digits_skewed", "accuracy"): None,
        ("cifar10_skewed", "group_accuracy/skew-gs_minority"): 11,
        ("cifar10_skewed", "group_accuracy/skew-gs_majority"): None,
        ("cifar10_skewed", "output_perturbation_accuracy/lambda-5"): 13,
        ("cifar10_skewed", "pgd_accuracy/delta-0.005.examples-50"): 14,
        ("cifar10_skewed", "pgd_accuracy/delta-0.02"): None,
        ("utkface", "pgd_accuracy/delta-0.005"): 7,
    }
    for (dataset, key), number in cases.items():
        assert figure_of(dataset, RECORDS[key]) == number, (dataset, key)
    asian = record("group_accuracy", group={"race": "Asian"})
    assert figure_of("utkface", asian) == 2
    ood = record("ood_accuracy", source="cifar10_gs")
    assert figure_of("cifar10_skewed", {**ood, "split": "cifar10_gs"}) == 12


def test_every_figure_is_linked_or_said_to_be_missing() -> None:
    """A report on CIFAR10-Skewed: its own figures by path, the others with what they need."""
    sheets = {"sheets/accuracy/sheet.html": RECORDS["accuracy"]}
    rows = {
        row.number: row
        for row in figure_rows("cifar10_skewed", sheets, {"pgd": ["distributions/pgd.png"]}, [])
    }
    assert rows[10].artifacts == ("sheets/accuracy/sheet.html",)
    assert rows[10].note == ""
    assert rows[11].note == "not run: needs group_accuracy of {'skew': 'gs_minority'}"
    assert rows[8].artifacts == ("distributions/pgd.png",)
    assert rows[8].note == "not run: needs dataset utkface; the same view of cifar10_skewed"
    assert rows[9].note.startswith("not run: needs dataset utkface")
    assert all(row.artifacts or row.note for row in rows.values())


@pytest.mark.parametrize(
    "values", [[], [0.5], [0.5, 0.5], [0.0, 1.0], [1e-9, 2e-9], list(np.linspace(0.2, 0.9, 45))]
)
def test_pictures_of_anything(values: list[float]) -> None:
    """No run, one, equal ones, tiny ones, and a stranger's label: a picture and a page come out."""
    strip = Strip(
        "<b>$x^2$ & \n co" + "x" * 90, "m", np.array(values), tuple(map(str, values)), 1234
    )
    banded = replace(strip, label="b", note="3 of 4 runs", band=(0.1, 0.2))
    distribution = Distribution("d", "t <i>", "All runs", "fraction", (strip, banded), figure=3)
    assert strips.picture([distribution], "png").startswith(b"\x89PNG")
    assert strips.picture([distribution, distribution], "pdf").startswith(b"%PDF")
    html = strips.section(distribution)
    assert "<b>$" not in html
    assert "t &lt;i&gt;" in html
    assert html.count("<circle") == 2 * len(values)


def test_text_is_never_below_8_points(frame: Frame) -> None:
    """In every picture, sheets and strips alike, all text is at least 8 pt at its own size."""
    from mm_mlflow.render.figure import Canvas, figure
    from mm_mlflow.sheet import build_sheet

    sizes = [text.get_fontsize() for text in figure(build_sheet(frame, DESIGN, "accuracy")).texts]
    canvas = Canvas()
    for distribution in build_distributions(frame):
        strips.panel(canvas, distribution, 0.3)
    sizes += [style["size"] for *_, style in canvas.texts]
    assert len(sizes) > 50
    assert min(sizes) >= 8
