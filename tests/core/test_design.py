"""Designs: what is planned, what a cell's identity is, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_mlflow.design import Design, TrainingSettings, canonical_json, normalise
from mm_mlflow.errors import InvalidInput
from mm_mlflow.specs import parameter

PAPER = """
name: utkface
dataset: {name: utkface, split_seed: 0}
training: {epochs: 50}
default:
  {learning_rate: 0.1, batch_size: 128, augmentation: randaugment, optimizer: sgd, architecture: resnet18}
axes:
  learning_rate: [0.1, 0.05, 0.01]
  batch_size: [128, 256, 640]
  augmentation: [randaugment, trivialaugment]
  optimizer: [sgd, {name: adam_scaled, training: {optimizer: adam, learning_rate_scale: 0.1}}]
  architecture: [resnet18, resnet50, wide_resnet50_2]
seeds: 5
"""


@pytest.fixture
def paper() -> Design:
    """The star of Section 3.1."""
    return Design.parse(PAPER)


def changed(old: str, new: str) -> str:
    assert PAPER.count(old) == 1, old
    return PAPER.replace(old, new)


def test_the_papers_star_has_65_entries_and_45_cells(paper: Design) -> None:
    """3+3+2+2+3 levels by 5 seeds are 65 table entries; the default row is one set of 5 runs."""
    entries = [cell for table in paper.tables() for row in table.cells for cell in row]
    assert len(entries) == 65
    assert len(paper.cells()) == 45
    assert {cell.id for cell in entries} == {cell.id for cell in paper.cells()}
    default = [cell for cell in paper.cells() if cell.label.startswith("default")]
    assert [cell.label for cell in default] == [f"default seed={seed}" for seed in range(5)]


def test_a_star_differs_from_the_default_in_at_most_one_axis(paper: Design) -> None:
    """One axis at a time around the default configuration."""
    default = paper.default_levels
    for cell in paper.cells():
        assert sum(cell.axes[axis] != level for axis, level in default.items()) <= 1


def test_a_factorial_is_the_product(paper: Design) -> None:
    """All combinations of levels, each with every seed."""
    full = paper.model_copy(update={"layout": "factorial"})
    assert len(full.cells()) == 3 * 3 * 2 * 2 * 3 * 5
    assert {cell.id for cell in paper.cells()} < {cell.id for cell in full.cells()}


def test_smoke_has_every_level_once_and_only_planned_cells(paper: Design) -> None:
    """The smallest design whose sheets have all their rows; its runs count for the real one too."""
    smoke = paper.smoke()
    assert len(smoke.cells()) == 9
    assert {cell.id for cell in smoke.cells()} <= {cell.id for cell in paper.cells()}
    for axis in paper.axes:
        assert {cell.axes[axis.name] for cell in smoke.cells()} == set(axis.names)


def test_golden_ids(paper: Design) -> None:
    """Ids are forever: experiments of last year must still be recognised."""
    by_label = {cell.label: cell.id for cell in paper.cells()}
    assert by_label["default seed=0"] == (
        "382fe369f8aa1c3fda426e8b3ea23518b5960423ac6757019d0de223427e1a4e"
    )
    assert by_label["optimizer=adam_scaled seed=4"] == (
        "842d6470ed85b22f58513a533fdc3af2f5814c8461d75b29c45b4700d30c5d13"
    )


def test_the_spelling_of_numbers_and_the_order_of_keys_do_not_matter(paper: Design) -> None:
    """128, 128.0 and "128" are one level, as they are one MLflow param."""
    other = Design.parse(
        changed("[128, 256, 640]", '[640, "128", 256.0]').replace(
            "batch_size: 128", "batch_size: 128.0"
        )
    )
    assert {cell.id for cell in other.cells()} == {cell.id for cell in paper.cells()}
    lines = PAPER.strip().split("\n")
    blocks = [line for line in lines if line.startswith("  ") and "[" in line and ":" in line]
    shuffled = random.Random(0).sample(blocks, len(blocks))
    text = PAPER
    for old, new in zip(blocks, [f"@{i}" for i in range(len(blocks))], strict=True):
        text = text.replace(old, new)
    for i, new in enumerate(shuffled):
        text = text.replace(f"@{i}", new)
    assert {c.id for c in Design.parse(text).cells()} == {c.id for c in paper.cells()}


def test_everything_that_determines_the_weights_enters_the_id(paper: Design) -> None:
    """Each setting, the seed and each dataset argument alone changes the id; locations do not."""
    cell = paper.cells()[0]
    ids = {cell.id}
    other = {
        "epochs": 51, "learning_rate": 0.2, "learning_rate_scale": 0.5, "batch_size": 64,
        "optimizer": "adam", "momentum": 0.8, "weight_decay": 0.0, "schedule": "constant",
        "augmentation": "none", "architecture": "mlp", "architecture_arguments": {"width": 3},
    }  # fmt: skip
    assert set(other) == set(TrainingSettings.model_fields)
    for name, value in other.items():
        settings = cell.training.model_copy(update={name: value})
        ids.add(dataclasses.replace(cell, training=settings).id)
    ids.add(dataclasses.replace(cell, seed=1).id)
    ids.add(Design.parse(changed("split_seed: 0", "split_seed: 1")).cells()[0].id)
    assert len(ids) == 1 + len(other) + 2
    moved = cell.dataset.model_copy(update={"locations": {"cache": "/elsewhere"}})
    assert dataclasses.replace(cell, dataset=moved).id == cell.id
    assert dataclasses.replace(cell, label="anything").id == cell.id


def test_interventions_and_keep_do_not_enter_the_cell(paper: Design) -> None:
    """What is measured, and what is stored, changes the design's id but no cell's."""
    other = Design.parse(PAPER + "interventions: [{name: pgd, delta: 0.1}]\nkeep: {logits: none}\n")
    assert [cell.id for cell in other.cells()] == [cell.id for cell in paper.cells()]
    assert other.id != paper.id


def test_a_bundle_overrides_settings_under_its_name(paper: Design) -> None:
    """The axis shows the name; what it overrides is in the settings and apart."""
    cell = paper.cell({"optimizer": "adam_scaled"}, 3)
    assert cell.axes["optimizer"] == "adam_scaled"
    assert (cell.training.optimizer, cell.training.learning_rate_scale) == ("adam", 0.1)
    assert cell.bundled == {"optimizer": "adam", "learning_rate_scale": 0.1}
    assert cell.label == "optimizer=adam_scaled seed=3"
    assert cell.configuration == "optimizer=adam_scaled"


def test_dump_reads_back_to_the_same_design(paper: Design) -> None:
    """``design.yaml`` on the sweep run is the design."""
    again = Design.parse(paper.dump())
    assert again == paper
    assert again.id == paper.id
    assert [cell.id for cell in again.cells()] == [cell.id for cell in paper.cells()]


@given(
    st.one_of(
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
    )
)
def test_a_level_survives_the_way_through_mlflow(value: float) -> None:
    """MLflow returns ``str(value)``: the same level comes back, and spelling is stable."""
    level = normalise(value)
    if not isinstance(level, bool):
        assert normalise(str(level)) == level
    assert normalise(level) == level
    assert canonical_json(level) == canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, [1], object()])
def test_a_level_is_a_finite_scalar(value: object) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidInput, match="is not allowed"):
        normalise(value)


BAD = [
    ("epochs: 50", "epoch: 50", "unknown key 'epoch'; did you mean 'epochs'"),
    ("epochs: 50", "epochs: 0", "epochs: .*greater than or equal to 1, got 0"),
    ("epochs: 50", "epochs: 50, weight_decay: .inf", "weight_decay.*finite"),
    ("epochs: 50", "epochs: 50, learning_rate: 0.2", "'learning_rate', which is an axis"),
    ("name: utkface\n", "nam: utkface\n", "unknown key 'nam'; did you mean 'name'"),
    ("name: utkface\n", "", "name: Field required"),
    ("seeds: 5", "seeds: 0", "seeds: 0 is not allowed"),
    ("seeds: 5", "seeds: -1", "seeds: -1 is not allowed"),
    ("seeds: 5", "seeds: []", "is not allowed: a count of at least 1"),
    ("seeds: 5", "seeds: [1, 1]", "is not allowed"),
    ("seeds: 5", "seeds: [1.5]", "is not allowed"),
    ("seeds: 5", "seeds: true", "is not allowed"),
    ("seeds: 5", "seeds: {init: 5, order: 1, augment: 1}", "separate seeds"),
    ("[128, 256, 640]", "[]", "axis 'batch_size' has no levels"),
    ("[128, 256, 640]", "[128, 128.0]", "axis 'batch_size' has a level twice"),
    ("[128, 256, 640]", "[128, 0]", "batch_size: .*greater than or equal to 1"),
    ("batch_size: 128", "batch_size: 64", "unknown batch_size level '64'"),
    ("optimizer: sgd,", "optimizer: sdg,", "did you mean 'sgd'"),
    ("batch_size: 128, ", "", "default names no level of axis 'batch_size'"),
    ("optimizer: adam,", "optimiser: adam,", "did you mean 'optimizer'"),
    ("  batch_size: [", "  batchsize: [", "'batchsize'; did you mean 'batch_size'"),
    ("  batch_size: [", "  seed: [", "'seed'"),
    ("dataset: {name: utkface, split_seed: 0}", "dataset: 3", "dataset"),
    ("seeds: 5", "seeds: 5\nseeds: 3", "key 'seeds' twice, line"),
    ("seeds: 5", "seeds: 5\ninterventions: []", "interventions is empty"),
    ("axes:", "axes: {}\nlayout: star\nother:", "unknown key 'other'"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_bad_designs_are_refused_in_one_line(old: str, new: str, message: str) -> None:
    """The line names the file, the place, the value and what is allowed."""
    with pytest.raises(InvalidInput, match=message) as caught:
        Design.parse(changed(old, new), source="my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "!!python/object/apply:os.getcwd []"])
def test_what_is_no_design_is_refused(text: str) -> None:
    """Not YAML, not a mapping, or YAML that would run code."""
    with pytest.raises(InvalidInput):
        Design.parse(text)


def test_a_missing_file_is_one_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The path is named."""
    with pytest.raises(InvalidInput, match="nowhere"):
        Design.load(tmp_path_factory.mktemp("designs") / "nowhere.yaml")


def test_two_bundles_may_not_fight(paper: Design) -> None:
    """Two levels of one configuration that set one setting to different values are refused."""
    text = changed(
        "architecture: [resnet18, resnet50, wide_resnet50_2]",
        "architecture: [{name: resnet18, training: {momentum: 0.1}}, resnet50]",
    ).replace("optimizer: adam, learning", "momentum: 0.2, learning")
    with pytest.raises(InvalidInput, match="momentum"):
        Design.parse(text)


def test_optuna_enumerates_exactly_the_plan(paper: Design) -> None:
    """GridSampler's tables together are the planned cells, each once, for star and factorial."""
    from mm_mlflow.sampling import enumerate_cells

    small = Design.parse(PAPER.replace("seeds: 5", "seeds: [3, 7]"))
    for design, number in [
        (paper, 45),
        (small, 18),
        (small.model_copy(update={"layout": "factorial"}), 216),
    ]:
        cells = enumerate_cells(design)
        assert len(cells) == number
        assert {cell.id for cell in cells} == {cell.id for cell in design.cells()}


def test_ids_differ_whenever_cells_differ(paper: Design) -> None:
    """No two cells of the factorial share an id."""
    full = paper.model_copy(update={"layout": "factorial"})
    product = itertools.product(*(axis.names for axis in full.axes), full.seeds)
    assert len({cell.id for cell in full.cells()}) == len(list(product))


def test_keys_are_text_and_merging_works() -> None:
    """YAML 1.1 reads ``on`` as true, and ``<<`` merges a mapping: own keys win."""
    text = """
name: d
dataset: {name: x}
training: &base {epochs: 1, momentum: 0.5}
default: {batch_size: 1}
axes: {batch_size: [1]}
seeds: 1
selection: {pareto: true, on: [a]}
"""
    design = Design.parse(text)
    assert design.selection is not None
    assert design.selection.on == ("a",)
    merged = text.replace("training: &base {epochs: 1, momentum: 0.5}",
                          "training: {<<: {epochs: 1, momentum: 0.5}, epochs: 2}")  # fmt: skip
    assert Design.parse(merged).training == {"epochs": 2, "momentum": 0.5}


PROJECT = """
name: theirs
project: {name: digits, entry_point: train, parameters: {epochs: 3, version: "3.10"}, seed_parameter: rs}
default: {alpha: 0.1, size: small}
axes:
  alpha: [0.1, 1.0]
  size:
    - {name: small, parameters: {depth: 2}}
    - {name: big, parameters: {depth: 10, width: 64}}
seeds: 2
"""


def test_a_project_takes_the_place_of_dataset_and_training() -> None:
    """A cell has what its entry point is given: fixed parameters, scalar levels under the names of
    their axes, and those of bundles; the axes show the bundle's name."""
    design = Design.parse(PROJECT)
    assert [cell.label for cell in design.cells()] == [
        "default seed=0", "default seed=1", "alpha=1 seed=0", "alpha=1 seed=1",
        "size=big seed=0", "size=big seed=1",
    ]  # fmt: skip
    cell = design.cell({"size": "big"}, 1)
    assert cell.axes == {"alpha": 0.1, "size": "big"}
    assert cell.project is not None
    assert cell.project.parameters == {
        "epochs": 3, "version": "3.10", "alpha": 0.1, "depth": 10, "width": 64,
    }  # fmt: skip
    assert cell.canonical().keys() == {"id_version", "axes", "seeds", "project"}
    assert cell.canonical()["seeds"]["init"] == 1
    again = Design.parse(design.dump())
    assert again.id == design.id
    assert [c.id for c in again.cells()] == [c.id for c in design.cells()]
    assert len(design.smoke().cells()) == 3
    assert not design.interventions


def test_golden_ids_of_projects() -> None:
    """As those of trainings, they are forever; how a design is swept is not in them."""
    cell = Design.parse(PROJECT).cell({"size": "big"}, 1)
    assert cell.id == "bcfb08ab9be7eeca81a8056fdaf440fba715595b19cbc2e5424d48f7f0ff3453"
    swept = Design.parse(PROJECT + "sweep: {jobs: 1, smoke: true}")
    assert swept.id == Design.parse(PROJECT).id
    assert swept.cell({"size": "big"}, 1).id == cell.id


def test_golden_ids_of_designs(paper: Design) -> None:
    """Keys that are younger than a design do not change its id."""
    assert paper.id == "51342b38428a3845593e9adeaf27155a653d9f17e14530aef2fe7ffd304cdf75"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: digits", "name: other"),
        ("entry_point: train", "entry_point: main"),
        ("epochs: 3", "epochs: 4"),
        ('"3.10"', '"3.1"'),
        ("depth: 10", "depth: 11"),
        ("seed_parameter: rs", "seed_parameter: seed"),
        ("name: big", "name: large"),
    ],
)
def test_what_a_project_is_given_enters_the_id(old: str, new: str) -> None:
    """Each alone, the name that it has for the seed among them."""
    assert PROJECT.count(old) == 1
    cells = Design.parse(PROJECT).cells()
    assert Design.parse(PROJECT.replace(old, new)).cells()[-1].id != cells[-1].id


def test_a_parameter_is_passed_as_it_is_written() -> None:
    """A number that is spelled as text is that number; text that only looks like one stays text."""
    wanted = {
        "10": 10,
        "0.5": 0.5,
        "3.10": "3.10",
        "007": "007",
        "1e-3": "1e-3",
        "x": "x",
        "-2": -2,
    }
    assert {text: parameter(text) for text in wanted} == wanted
    assert [parameter(value) for value in (3, 2.0, True)] == [3, 2, True]


def test_a_project_without_a_name_has_no_cells_yet() -> None:
    """The MLproject file names it: until then its cells cannot be recognised."""
    design = Design.parse(PROJECT.replace("name: digits, ", ""))
    with pytest.raises(InvalidInput, match="no name yet"):
        design.cells()


BAD_PROJECTS = [
    ("axes:\n", "dataset: {name: x}\naxes:\n", "dataset is not allowed beside project"),
    ("axes:\n", "training: {epochs: 3}\naxes:\n", "training is not allowed beside project"),
    ("axes:\n", "interventions: [accuracy]\naxes:\n", "interventions is not allowed"),
    ("axes:\n", "keep: {weights: none}\naxes:\n", "keep is not allowed"),
    ("seeds: 2", "seeds: 2\nselection: {pareto: true, on: [a]}", "selection is not allowed"),
    ("epochs: 3", "alpha: 3", "'alpha', which is an axis"),
    ("epochs: 3", "rs: 3", "'rs', which is the seed"),
    ("epochs: 3", "epochs: [3]", "is not allowed: a finite number"),
    (
        "seed_parameter: rs",
        "seed_parameter: alpha",
        "'alpha' is not allowed: it is the project's seed",
    ),
    ("seed_parameter: rs", "seed: rs", "unknown key 'seed'"),
    ("width: 64", "rs: 64", "level 'big' of axis 'size' sets 'rs', which is the seed"),
    ("width: 64", "alpha: 64", "level 'big' of axis 'size' sets 'alpha', which is an axis"),
    ("{depth: 10, width: 64}", "{}, training: {epochs: 3}", "has training settings"),
    ("alpha: 0.1, ", "", "default names no level of axis 'alpha'"),
    ("seeds: 2", "seeds: 2\nsweep: {job: 3}", "unknown key 'job'; did you mean 'jobs'"),
    ("seeds: 2", "seeds: 2\nsweep: {jobs: 0}", "jobs.*got 0"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD_PROJECTS)
def test_bad_designs_of_projects_are_refused_in_one_line(old: str, new: str, message: str) -> None:
    """With the place, the value and what is allowed."""
    assert PROJECT.count(old) == 1, old
    with pytest.raises(InvalidInput, match=message) as caught:
        Design.parse(PROJECT.replace(old, new), source="my.json")
    assert str(caught.value).startswith("my.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 5", "seeds: 5\nsweep: {jobs: 1}", "sweep is for a project's design"),
        ("training: {optimizer: adam", "parameters: {optimizer: adam", "has parameters"),
        ("training: {epochs: 50}\n", "", "training: Field required"),
        ("dataset: {name: utkface, split_seed: 0}\n", "", "dataset: Field required"),
    ],
)
def test_what_only_projects_have_is_refused_elsewhere(old: str, new: str, message: str) -> None:
    """And what only they lack is still asked for."""
    with pytest.raises(InvalidInput, match=message):
        Design.parse(changed(old, new))
