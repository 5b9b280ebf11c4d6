"""UTKFace, FairFace and CelebA from generated files in the published formats."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import face_files
import numpy as np
import pytest
import torchvision
from helpers import Command, artifact, artifacts, runs_of
from mlflow import MlflowClient
from PIL import Image

from mm_mlflow.datasets import bind, create, image_files, open_splits
from mm_mlflow.datasets.utkface import IMAGENET, age_bins
from mm_mlflow.design import DatasetSpec, Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.runner import prepare
from mm_mlflow.split import Split

ROOT = Path(__file__).parents[2]


def opened(name: str, folder: Path, **arguments: object) -> dict[str, Split]:
    """The splits at 32 pixels, or at another ``size``."""
    spec = DatasetSpec(name=name, folder=folder, **{"size": 32, **arguments})
    return dict(open_splits(spec))


def ids(splits: dict[str, Split]) -> set[str]:
    return {name for split in splits.values() for name in split.example_ids}


# ---- UTKFace ----


def test_names_hold_labels_and_groups(tmp_path: Path) -> None:
    """Gender 0 is male; races are those of the published table; both name forms give one kind of id."""
    splits = opened("utkface", face_files.utkface(tmp_path, 60, face_files.WHOLE))
    races = {"0": "White", "1": "Black", "2": "Asian", "3": "Indian", "4": "Others"}
    for split in splits.values():
        assert split.class_names == ("male", "female")
        for i, name in enumerate(split.example_ids):
            age, gender, race, _ = name.split("_")
            assert split.labels[i] == int(gender)
            assert split.groups["race"][i] == races[race]
            assert split.groups["class"][i] == ("male", "female")[int(gender)]
            low, high = map(int, split.groups["age"][i].split("-"))
            assert low <= int(age) <= high
    assert {name.split(".")[0] for name in face_files.WHOLE} <= ids(splits)


def test_the_sizes_of_the_published_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """23,708 names of which three lack the race: 23,705 faces, 4,741 of them in test."""
    for i in range(23_703):
        (tmp_path / f"{i % 117}_{i % 2}_{i % 5}_201701{i:011d}.jpg.chip.jpg").touch()
    for name in [*face_files.DAMAGED[:2], *list(face_files.MALFORMED)[:3]]:
        (tmp_path / name).touch()
    monkeypatch.setattr(
        image_files, "decode", lambda files, size: np.zeros((len(files), 3, size, size), np.uint8)
    )
    with caplog.at_level(logging.WARNING):
        splits = opened("utkface", tmp_path, size=1)
    assert {name: len(split) for name, split in splits.items()} == {"train": 18_964, "test": 4_741}
    assert "skipped 3 of 23708 files" in caplog.text


@pytest.mark.parametrize("name", face_files.MALFORMED)
def test_a_malformed_name_is_skipped_and_named(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One by one: the other faces are there, and one note names the one that is not."""
    face_files.utkface(tmp_path, 6, [name])
    with caplog.at_level(logging.WARNING):
        splits = opened("utkface", tmp_path)
    assert sum(map(len, splits.values())) == 6
    assert [record.message for record in caplog.records] == [
        "utkface: skipped 1 of 7 files whose names lack a label or have one out of range: " + name
    ]


@pytest.mark.parametrize("name", face_files.DAMAGED)
def test_a_name_with_a_damaged_end_is_read(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its labels are whole, so it stays: nothing is skipped."""
    face_files.utkface(tmp_path, 6, [name])
    with caplog.at_level(logging.WARNING):
        splits = opened("utkface", tmp_path)
    date = name.split("_")[3][:17]
    assert "_".join([*name.split("_")[:3], date]) in ids(splits)
    assert not caplog.records


def test_all_malformed_names_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One note for all: how many, and the first five."""
    names = [*face_files.WHOLE, *face_files.DAMAGED, *face_files.MALFORMED]
    face_files.utkface(tmp_path, 0, names)
    with caplog.at_level(logging.WARNING):
        splits = opened("utkface", tmp_path)
    assert sum(map(len, splits.values())) == len(face_files.WHOLE) + len(face_files.DAMAGED) == 10
    (record,) = caplog.records
    assert "skipped 12 of 22 files" in record.message
    assert record.message.endswith(", and 7 more")


def test_the_split_depends_on_the_names_alone(tmp_path: Path) -> None:
    """Not on the order of the folder, its depth, or the form of the names; on the seed it does."""
    one, other = tmp_path / "one", tmp_path / "other"
    face_files.utkface(one, 40)
    for file in sorted(one.iterdir(), reverse=True):
        place = other / str(len(file.name) % 3) / file.name.replace(".jpg.chip.jpg", ".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    splits, moved = opened("utkface", one), opened("utkface", other)
    assert {name: len(split) for name, split in splits.items()} == {"train": 32, "test": 8}
    assert not set(splits["train"].example_ids) & set(splits["test"].example_ids)
    for name, split in splits.items():
        assert moved[name].digest == split.digest
    again = opened("utkface", one, split_seed=1)
    assert set(again["test"].example_ids) != set(splits["test"].example_ids)


def test_one_image_in_both_name_forms_is_refused(tmp_path: Path) -> None:
    """It could fall into training and test; the aligned one is to be kept."""
    face_files.utkface(tmp_path, 6, [face_files.WHOLE[0], face_files.WHOLE[0][:-9]])
    with pytest.raises(InvalidInput, match=r"holds 1 images twice \(26_1_2_.*\.jpg and 26_1_2_"):
        opened("utkface", tmp_path)


def test_age_bins() -> None:
    """Every age from 0 to 116 is in the bin whose name holds it."""
    ages = np.arange(117)
    names = age_bins(ages, (0, 19, 29, 39, 59))
    assert list(dict.fromkeys(names)) == ["0-18", "19-28", "29-38", "39-58", "59-116"]
    for age, name in zip(ages, names, strict=True):
        low, high = map(int, name.split("-"))
        assert low <= age <= high
    assert set(age_bins(ages, (0,))) == {"0-116"}


@pytest.mark.parametrize("edges", [[], [5, 10], [0, 10, 10], [0, 117], [0, 20, 10], [0, 0.5]])
def test_bad_age_edges_are_refused(edges: list[float]) -> None:
    """With the value, before any file is looked at."""
    with pytest.raises(InvalidInput, match="age_edges"):
        create(DatasetSpec(name="utkface", age_edges=edges))


def test_a_subset_keeps_the_shares_of_class_and_race(tmp_path: Path) -> None:
    """A fixed part of the training images; the test split stays."""
    folder = face_files.utkface(tmp_path, 100)
    whole, part = opened("utkface", folder), opened("utkface", folder, subset=40)
    assert len(part["train"]) == 40
    assert set(part["train"].example_ids) < set(whole["train"].example_ids)
    assert part["test"].digest == whole["test"].digest
    shares = [
        Counter(zip(splits["train"].groups["race"], splits["train"].labels, strict=True))
        for splits in (whole, part)
    ]
    for stratum, number in shares[0].items():
        assert abs(shares[1][stratum] - number / 2) < 1
    with pytest.raises(InvalidInput, match="subset 81 is not allowed: 1 to 80"):
        opened("utkface", folder, subset=81)


def test_normalisation_is_imagenets_or_the_datas(tmp_path: Path) -> None:
    """As the argument says."""
    folder = face_files.utkface(tmp_path, 10)
    assert (
        opened("utkface", folder)["test"].mean,
        opened("utkface", folder)["test"].std,
    ) == IMAGENET
    splits = opened("utkface", folder, normalisation="data")
    pixels = np.asarray(splits["train"].images) / 255
    assert splits["test"].mean == pytest.approx(pixels.mean(axis=(0, 2, 3)).tolist())


def test_images_have_the_size_asked_for(tmp_path: Path) -> None:
    """200 x 200, as published, become 48 x 48; at their own size they are PIL's pixels."""
    folder = face_files.utkface(tmp_path, 5, size=200)
    assert opened("utkface", folder, size=48)["train"].images.shape == (4, 3, 48, 48)
    train = opened("utkface", folder, size=200)["train"]
    for i, name in enumerate(train.example_ids):
        with Image.open(folder / f"{name}.jpg.chip.jpg") as image:
            assert (train.images[i] == np.asarray(image).transpose(2, 0, 1)).all()


# ---- FairFace and CelebA ----


def test_fairface_labels_come_from_its_words(tmp_path: Path) -> None:
    """Against the csv module; 0 is male, whatever the order of rows; groups as in the csv."""
    folder = face_files.fairface(tmp_path, 40)
    splits = opened("fairface", folder)
    assert set(splits) == {"test"}
    test = splits["test"]
    with (folder / "fairface_label_val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(test.example_ids) == [row["file"] for row in rows]
    assert [test.class_names[label] for label in test.labels] == [
        row["gender"].lower() for row in rows
    ]
    assert 0 < test.labels.sum() < 40
    assert list(test.groups["race"]) == [row["race"] for row in rows]
    assert set(test.groups["age"]) == set(face_files.FAIRFACE_AGES)
    assert len(opened("fairface", folder, part="train")["test"]) == 4


def test_fairface_unpacked_with_its_archives_name(tmp_path: Path) -> None:
    """Images below the folder that the archive is called, the csv files beside it."""
    folder = face_files.fairface(tmp_path, 4)
    before = opened("fairface", folder)["test"].digest
    archive = folder / "fairface-img-margin025-trainval"
    archive.mkdir()
    for part in ("train", "val"):
        (folder / part).rename(archive / part)
    assert opened("fairface", folder, cache=tmp_path / "c")["test"].digest == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Male,", "Man,", "unknown gender of val/1.jpg in .*'Man'.*known: Male, Female"),
        ("gender", "sex", "has no column 'gender'"),
        ("val/1.jpg", "val/2.jpg", "names files twice: val/2.jpg"),
        ("val/1.jpg", "val/0.jpg", r"names files that are not in .* \(1 of 4\): val/0\.jpg"),
        (",True", ",True,1", "row 2: 6 values for 5 columns"),
        ("file,age", "file,gender", "a column twice"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """With what is wrong in it, on one line."""
    folder = face_files.fairface(tmp_path, 4)
    table = folder / "fairface_label_val.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(InvalidInput, match=message) as caught:
        opened("fairface", folder)
    assert "\n" not in str(caught.value)


def test_celeba_equals_torchvisions_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of each part and both attributes; Male 1 is our class 0. torchvision compares checksums of
    the real lists, which generated ones do not have."""
    folder = face_files.celeba(tmp_path / "celeba", 30)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda _: True)
    for part in ("train", "valid", "test"):
        theirs = torchvision.datasets.CelebA(tmp_path, split=part, target_type="attr")
        male = theirs.attr[:, theirs.attr_names.index("Male")].numpy()
        young = theirs.attr[:, theirs.attr_names.index("Young")].numpy()
        test = opened("celeba", folder, part=part)["test"]
        assert list(test.example_ids) == theirs.filename
        assert (test.labels == 1 - male).all()
        assert ((test.groups["age"] == "young") == (young == 1)).all()
        assert test.class_names == ("male", "female")
        assert test.images.shape == (10, 3, 32, 32)
    assert set(male) == {0, 1}
    above = opened("celeba", tmp_path)["test"]  # the folder that holds celeba/
    assert above.digest == test.digest


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "30\n", "31\n", "says '31' images and lists 30"),
        ("list_attr_celeba.txt", " Male ", " Mole ", "unknown attribute in .*'Male'"),
        ("list_attr_celeba.txt", "000003.jpg", "000033.jpg", "lacks 1 images.*: 000003.jpg"),
        ("list_eval_partition.txt", "000003.jpg 2", "000003.jpg 3", "line 3: '000003.jpg 3'"),
        (
            "list_eval_partition.txt",
            "000003.jpg",
            "000033.jpg",
            r"names files .*\(1 of 10\): 000033.jpg",
        ),
    ],
)
def test_bad_lists_of_celeba_are_refused(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    """With the file and the line or the name."""
    folder = face_files.celeba(tmp_path, 30)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidInput, match=message):
        opened("celeba", folder)


# ---- files that are not there, or cannot be read ----


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "utkface",
            ["susanqq.github.io/UTKFace", "UTKFace.tar.gz", "non-commercial research only"],
        ),
        ("fairface", ["github.com/joojs/fairface", "margin025-trainval.zip", "CC BY 4.0"]),
        (
            "celeba",
            ["mmlab.ie.cuhk.edu.hk/projects/CelebA", "list_attr_celeba.txt", "non-commercial"],
        ),
    ],
)
def test_missing_data_say_what_to_get(tmp_path: Path, name: str, said: list[str]) -> None:
    """Where it was looked for, what to download, from where, under which licence; in the project's
    README too."""
    readme = (ROOT / "projects" / "utkface" / "README.md").read_text(encoding="utf-8")
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(InvalidInput) as caught:
            opened(name, folder)
        text = str(caught.value)
        assert "\n" not in text
        assert str(folder) in text
        for words in said:
            assert words in text
            assert words in readme


def test_data_lie_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``MM_MLFLOW_DATA/<name>``, else ``data/<name>`` of the working folder."""
    face_files.utkface(tmp_path / "data" / "utkface", 10)
    spec = DatasetSpec(name="utkface", size=32)
    assert len(open_splits(spec)["train"]) == 8
    monkeypatch.setenv("MM_MLFLOW_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(InvalidInput, match="elsewhere/utkface"):
        create(spec).splits()


def test_one_face_is_refused(tmp_path: Path) -> None:
    """Nothing would be left to test on."""
    with pytest.raises(InvalidInput, match="holds 1 faces with labels: at least two"):
        opened("utkface", face_files.utkface(tmp_path, 1))


@pytest.mark.parametrize("name", ["utkface", "fairface", "celeba"])
def test_an_unreadable_image_is_named_and_poisons_nothing(tmp_path: Path, name: str) -> None:
    """The build fails and leaves no cache; when the file is whole again, the next one works, and the
    one after reads the cache alone."""
    folder = getattr(face_files, name)(tmp_path / name, 30)
    arguments = {"folder": folder, "size": 32, "cache": tmp_path / "cache"}
    victim = sorted(file for file in folder.rglob("*.jpg") if "train" not in file.parts)[2]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"1 of .* images cannot be read: ") as caught:
        create(DatasetSpec(name=name, **arguments)).splits()
    assert str(victim) in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []
    victim.write_bytes(whole)
    splits = create(DatasetSpec(name=name, **arguments)).splits()
    assert isinstance(splits["test"].images, np.memmap)


def test_the_cache_is_used_again_and_belongs_to_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged files are not decoded twice; a new one is."""
    folder = face_files.utkface(tmp_path / "faces", 10)
    spec = DatasetSpec(name="utkface", folder=folder, size=32, cache=tmp_path / "cache")
    digest = create(spec).splits()["train"].digest
    decoded: list[int] = []
    real = image_files.decode

    def counting(files: list[Path], size: int) -> np.ndarray:
        decoded.append(len(files))
        return real(files, size)

    monkeypatch.setattr(image_files, "decode", counting)
    assert create(spec).splits()["train"].digest == digest
    assert not decoded
    face_files.save(folder / face_files.WHOLE[0])
    assert sum(map(len, create(spec).splits().values())) == sum(decoded) == 11


def test_a_dataset_to_test_on_only_is_no_design(tmp_path: Path) -> None:
    """Said before anything is trained."""
    face_files.fairface(tmp_path, 4)
    text = (ROOT / "projects" / "utkface" / "small.yaml").read_text(encoding="utf-8")
    head = text.index("dataset:")
    end = text.index("\n", head)
    design = bind(
        Design.parse(f"{text[:head]}dataset: {{name: fairface, folder: {tmp_path}}}{text[end:]}")
    )
    with pytest.raises(InvalidInput, match=r"'fairface' has no split 'train' \(it has test\)"):
        prepare(design)


# ---- the project ----


@pytest.mark.parametrize("name", ["design.yaml", "small.yaml"])
def test_the_designs_are_the_papers_star(name: str) -> None:
    """9 configurations by 5 seeds, no name or argument unknown; they can be read without the data."""
    design = bind(Design.load(ROOT / "projects" / "utkface" / name))
    assert len(design.cells()) == 45
    assert len({cell.configuration for cell in design.cells()}) == 9
    assert {level for axis in design.axes for level in axis.names} >= {0.05, 640, "adam_scaled"}
    assert design.dataset.arguments["age_edges"][-1] == 59
    named = [spec.name for spec in design.interventions]
    assert named.count("ood_accuracy") == 2
    if name == "design.yaml":
        assert design.training["epochs"] == 50


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """All three sets where the designs look for them."""
    face_files.utkface(tmp_path / "data" / "utkface", 500)
    face_files.fairface(tmp_path / "data" / "fairface", 40)
    face_files.celeba(tmp_path / "data" / "celeba", 60)
    return tmp_path / "data"


@pytest.mark.usefixtures("in_process", "faces")
def test_the_small_design_runs_end_to_end(tmp_path: Path, command: Command) -> None:
    """``sweep --smoke --sheet`` on generated faces: nine models, which learn them, and every sheet."""
    text = (ROOT / "projects" / "utkface" / "small.yaml").read_text(encoding="utf-8")
    for old, new in [
        ("epochs: 12", "epochs: 3"),
        ("subset: 6000", "subset: 300"),
        ("examples: 1000", "examples: 10, steps: 2"),
        ("pgd_accuracy/delta-0.005.examples-1000", "pgd_accuracy/delta-0.005.steps-2.examples-10"),
        ("pgd_accuracy/delta-0.01.examples-1000", "pgd_accuracy/delta-0.01.steps-2.examples-10"),
        ("batch_size: 128", "batch_size: 16"),
        ("[128, 256, 640]", "[16, 32, 80]"),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = tmp_path / "small.yaml"
    path.write_text(text)
    command("sweep", path, "--smoke", "--sheet")
    cells = runs_of("cell", "utkface_small")
    assert len(cells) == 9
    assert {run.info.status for run in cells} == {"FINISHED"}
    accuracies = [run.data.metrics["accuracy"] for run in cells]
    assert np.median(accuracies) > 0.9
    for key in ("ood_accuracy/fairface", "ood_accuracy/celeba"):  # the label maps are right
        assert np.median([run.data.metrics[key] for run in cells]) > 0.8
    (report,) = runs_of("report", "utkface_small")
    sheets = {path.split("/")[1] for path in artifacts(report) if path.startswith("sheets/")}
    expected = {
        "accuracy", "group_accuracy__race-asian", "group_accuracy__age-59_116",
        "ood_accuracy__fairface", "ood_accuracy__celeba", "output_perturbation_accuracy__lambda-5",
        "input_perturbation_accuracy__lambda-1",
        "pgd_accuracy__delta-0.005.steps-2.examples-10",
    }  # fmt: skip
    assert expected <= sheets, expected - sheets
    assert any(name.startswith("group_accuracy__race-asian.age-") for name in sheets)
    # Every figure of the paper on UTKFace is there, the others say what they need.
    summary = json.loads(artifact(report, "summary.json"))
    rows = {row["number"]: row for row in summary["figures"]}
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        assert rows[number]["artifacts"], rows[number]
        assert rows[number]["note"] == ""
        assert set(rows[number]["artifacts"]) <= artifacts(report)
    for number in (10, 11, 12, 13, 14):
        assert rows[number]["note"].startswith("not run: needs dataset cifar10_skewed")


FLIPPED = """
name: flipped
dataset: {name: utkface, size: 32, normalisation: data}
training: {epochs: 12, architecture: mlp, batch_size: 16}
default: {learning_rate: 0.01}
axes:
  learning_rate: [0.01, 0.02]
seeds: 2
interventions:
  - accuracy
  - {name: ood_accuracy, dataset: {name: fairface, size: 32}}
"""


@pytest.mark.usefixtures("in_process")
def test_a_flipped_label_map_is_refused_unless_confirmed(
    tmp_path: Path, faces: Path, command: Command
) -> None:
    """Left out of the report with a note; refused by name; shown, and said, with ``--confirm-labels``."""
    table = faces / "fairface" / "fairface_label_val.csv"
    text = table.read_text()
    swapped = {",Male,": ",Female,", ",Female,": ",Male,"}
    table.write_text(
        "\n".join(
            next((line.replace(a, b) for a, b in swapped.items() if a in line), line)
            for line in text.splitlines()
        )
    )
    path = tmp_path / "flipped.yaml"
    path.write_text(FLIPPED)
    command("sweep", path, "--sheet")
    (report,) = runs_of("report", "flipped")
    cells = runs_of("cell", "flipped")
    own, other = (
        np.median([run.data.metrics[key] for run in cells])
        for key in ("accuracy", "ood_accuracy/fairface")
    )
    assert own > 0.8
    assert other < 0.5
    note = MlflowClient().get_run(report.info.run_id).data.tags["mlflow.note.content"]
    assert r"Left out: ood\_accuracy/fairface: over 4 healthy runs the median is" in note
    assert not [file for file in artifacts(report) if "fairface" in file]
    summary = json.loads(artifact(report, "summary.json"))
    assert "ood_accuracy/fairface" not in [row["metric"] for row in summary["metrics"]]
    asked = ("sheet", "--experiment-name", "flipped", "--metric", "ood*", "--json")
    refused = command(*asked, code=2)
    (line,) = refused.stderr.strip().splitlines()
    assert "as if the two classes of these data were swapped" in line
    assert "--confirm-labels" in line
    (sheet,) = json.loads(command(*asked, "--confirm-labels").stdout)["sheets"]
    assert sheet["metric"] == "ood_accuracy/fairface"
    assert np.nanmax(np.array(sheet["tables"][0]["values"], dtype=float)) < 0.5
    assert "Left out" not in command(*asked[:3], "--metric", "accuracy").stdout
    assert "Shown all the same" in command(*asked[:3], "--confirm-labels").stdout
