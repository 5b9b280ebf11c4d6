"""Any folder of images with a csv of groups, and whatever kinds of image files people have."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import face_files
import numpy as np
import pytest
import torchvision
from click.testing import CliRunner
from helpers import Command, runs_of
from PIL import Image

from mm_mlflow.cli import main
from mm_mlflow.datasets import bind, create, open_splits
from mm_mlflow.design import DatasetSpec, Design
from mm_mlflow.errors import InvalidInput
from mm_mlflow.runner import prepare
from mm_mlflow.split import Split

PETS = ("cat", "dog", "emu")


def opened(folder: Path, **arguments: object) -> dict[str, Split]:
    """The splits at 32 pixels, or at another ``size``."""
    return dict(open_splits(DatasetSpec(name="folder", folder=folder, **{"size": 32, **arguments})))


def pixels(path: Path, size: int = 4) -> np.ndarray:
    """``(3, size, size)`` of the only image of class a."""
    splits = opened(path, size=size)
    names = {
        name: (split, i) for split in splits.values() for i, name in enumerate(split.example_ids)
    }
    (found,) = [name for name in names if name.startswith("a/")]
    split, i = names[found]
    return np.asarray(split.images[i])


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """``train``, ``test`` and ``dark``, three classes, 8, 4 and 2 images in each."""
    for split, number in [("train", 8), ("test", 4), ("dark", 2)]:
        face_files.class_folders(tmp_path / "pets" / split, PETS, number)
    return tmp_path / "pets"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Class folders alone, 20 images in each."""
    return face_files.class_folders(tmp_path / "pets", PETS, 20)


@pytest.mark.parametrize("split", ["train", "test", "dark"])
def test_divided_folders_equal_torchvisions_reading(divided: Path, split: str) -> None:
    """Classes, order, labels and pixels of ``torchvision.datasets.ImageFolder``."""
    theirs = torchvision.datasets.ImageFolder(str(divided / split))
    ours = opened(divided)[split]
    assert list(ours.class_names) == theirs.classes
    assert [divided / name for name in ours.example_ids] == [
        Path(path) for path, _ in theirs.samples
    ]
    assert ours.labels.tolist() == theirs.targets
    for i in range(len(theirs)):
        assert (ours.images[i] == np.asarray(theirs[i][0]).transpose(2, 0, 1)).all()


def test_class_folders_are_divided_within_each_class(plain: Path) -> None:
    """A fifth of each class, by seed; together they are what torchvision finds."""
    splits = opened(plain)
    assert set(splits) == {"train", "test"}
    for split, number in [("train", 16), ("test", 4)]:
        assert np.bincount(splits[split].labels).tolist() == [number] * 3
    both = sorted([*splits["train"].example_ids, *splits["test"].example_ids])
    theirs = torchvision.datasets.ImageFolder(str(plain))
    assert [str(plain / name) for name in both] == [path for path, _ in theirs.samples]
    again = opened(plain, split_seed=1)
    assert set(again["test"].example_ids) != set(splits["test"].example_ids)
    assert np.bincount(opened(plain, test_fraction=0.01)["test"].labels).tolist() == [1, 1, 1]


def groups_csv(folder: Path, text: str) -> Path:
    (folder / "groups.csv").write_text(text)
    return folder


def test_groups_come_from_the_csv(divided: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every column is an attribute; what the csv lacks is ``unknown``, and a note counts it."""
    names = [file.relative_to(divided).as_posix() for file in sorted(divided.rglob("*.png"))]
    rows = [
        f"{name},{'old' if i % 2 else 'young'},{i % 3 or ''}" for i, name in enumerate(names[1:])
    ]
    groups_csv(divided, "\n".join(["\ufefffile,age,coat", *rows]))
    with caplog.at_level(logging.WARNING):
        splits = opened(divided, groups="groups.csv")
    expected = {row.split(",")[0]: row.split(",")[1:] for row in rows}
    for split in splits.values():
        assert set(split.groups) == {"class", "age", "coat"}
        for i, name in enumerate(split.example_ids):
            age, coat = expected.get(name, ["unknown", ""])
            assert split.groups["age"][i] == age
            assert split.groups["coat"][i] == (coat or "unknown")
            assert split.groups["class"][i] == name.split("/")[1]
    lacking, empty = caplog.records
    assert f"1 of {len(names)} images are not in groups.csv" in lacking.message
    assert names[0] in lacking.message
    number = sum(row.endswith(",") for row in rows)
    assert f"{number} of {len(names)} images no value of 'coat'" in empty.message


def test_the_csv_may_lie_elsewhere_and_changes_the_cache(plain: Path, tmp_path: Path) -> None:
    """In the working folder, or under an absolute path; other groups are other content, one id."""
    names = [file.relative_to(plain).as_posix() for file in plain.rglob("*.png")]
    table = tmp_path / "elsewhere.csv"
    digests = []
    for value in ("a", "b"):
        table.write_text("\n".join(["file,kind", *(f"{name},{value}" for name in names)]))
        for path in (table, Path("elsewhere.csv")):
            spec = DatasetSpec(name="folder", folder=plain, size=32, groups=path)
            train = create(spec).splits()["train"]
            assert set(train.groups["kind"]) == {value}
            digests.append(train.digest)
    assert len(set(digests)) == 2


def test_folder_and_csv_are_places(plain: Path, tmp_path: Path) -> None:
    """They do not enter the ids of cells: the content is told by its digest."""
    moved = tmp_path / "moved"
    text = face_design(plain)
    ids = [[cell.id for cell in bind(Design.parse(t)).cells()] for t in (text, face_design(moved))]
    assert ids[0] == ids[1]
    before = opened(plain)["train"].digest
    plain.rename(moved)
    assert opened(moved)["train"].digest == before


def face_design(folder: Path, extra: str = "", interventions: str = "[accuracy]") -> str:
    return (
        f"name: pets\ndataset: {{name: folder, folder: {folder}, size: 32{extra}}}\n"
        "training: {epochs: 1, architecture: mlp}\ndefault: {learning_rate: 0.01}\n"
        "axes: {learning_rate: [0.01]}\nseeds: 1\n"
        f"interventions: {interventions}\n"
    )


@pytest.mark.usefixtures("in_process")
def test_a_folder_runs_without_code(divided: Path, tmp_path: Path, command: Command) -> None:
    """Sweep on it: groups of the csv, and the third folder as data of another distribution."""
    names = [file.relative_to(divided).as_posix() for file in divided.rglob("*.png")]
    rows = [f"{name},{'left' if i % 2 else 'right'}" for i, name in enumerate(sorted(names))]
    groups_csv(divided, "\n".join(["file,side", *rows]))
    path = tmp_path / "design.yaml"
    wanted = "[accuracy, {name: group_accuracy, by: [side]}, {name: ood_accuracy, split: dark}]"
    path.write_text(face_design(divided, ", groups: groups.csv", wanted))
    command("sweep", path)
    (cell,) = runs_of("cell", "pets")
    assert {
        "accuracy", "group_accuracy/side-left", "group_accuracy/side-right", "ood_accuracy/dark",
    } <= set(cell.data.metrics)  # fmt: skip


def test_groups_without_a_test_image_are_refused(divided: Path) -> None:
    """The values that the test split has are named, before anything is trained."""
    names = [file.relative_to(divided).as_posix() for file in divided.rglob("*.png")]
    rows = [f"{name},{'tame' if name.startswith('test') else 'wild'}" for name in names]
    groups_csv(divided, "\n".join(["file,kind", *rows]))
    wanted = "[{name: group_accuracy, groups: [{kind: wild}]}]"
    design = bind(Design.parse(face_design(divided, ", groups: groups.csv", wanted)))
    with pytest.raises(InvalidInput, match=r"value of group 'kind' 'wild'.*known: tame"):
        prepare(design)


# ---- what is refused, on one line ----


def remove(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no image": (lambda f: remove(f, "*/*/*"), "holds no image: two classes are needed"),
    "one image": (
        lambda f: [remove(f, "*/*/*"), face_files.save(f / "train" / "cat" / "a.png")],
        "holds one image",
    ),
    "one class": (
        lambda f: [
            shutil.rmtree(f / split / name)
            for split in ("train", "test", "dark")
            for name in ("dog", "emu")
        ],
        "only one class, 'cat'",
    ),
    "empty classes": (
        lambda f: [remove(f, "*/dog/*"), (f / "train" / "ant").mkdir()],
        "class folders without an image: train/ant, train/dog",
    ),
    "no test": (lambda f: remove(f, "test/*/*"), r"has no image in 'test' \(it has train, dark\)"),
    "class that train lacks": (
        lambda f: shutil.rmtree(f / "train" / "emu"),
        "'train' lacks classes that 'test' has: emu",
    ),
    "class that train lacks, elsewhere": (
        lambda f: face_files.save(f / "dark" / "yak" / "a.png"),
        "'train' lacks classes that 'dark' has: yak",
    ),
    "images outside of class folders": (
        lambda f: face_files.save(f / "train" / "a.png"),
        "holds images outside of the layout .*: train/a.png",
    ),
    "unreadable": (
        lambda f: [(f / "test" / "dog" / f"{i:03d}.png").write_text("no") for i in range(2)],
        "2 of 12 images cannot be read: .*test/dog/000.png.*test/dog/001.png",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_refused(divided: Path, case: str, tmp_path: Path) -> None:
    """With exit status 2, one line, and no cache."""
    spoil, message = BAD[case]
    spoil(divided)
    path = tmp_path / "design.yaml"
    path.write_text(face_design(divided, f", cache: {tmp_path / 'cache'}"))
    result = CliRunner().invoke(main, ["sweep", str(path)])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    with pytest.raises(InvalidInput, match=message):
        opened(divided)
    assert line.startswith(f"Error: folder {str(divided)!r}") or "cannot be read" in line
    cache = tmp_path / "cache"
    assert not cache.exists() or not list(cache.iterdir())


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """Named."""
    with pytest.raises(InvalidInput, match="absent' is not there"):
        opened(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="folder: Field required"):
        create(DatasetSpec(name="folder"))


def test_one_image_in_each_class_is_refused(tmp_path: Path) -> None:
    """Where nothing says which are for testing."""
    with pytest.raises(InvalidInput, match="one image in each class"):
        opened(face_files.class_folders(tmp_path / "pets", PETS, 1))


def test_a_class_that_test_lacks_is_a_note(divided: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It can be trained on, and what is measured lacks it."""
    remove(divided, "test/emu/*")
    with caplog.at_level(logging.WARNING):
        splits = opened(divided)
    assert splits["test"].class_names == PETS
    (record,) = caplog.records
    assert record.message == "folder: split 'test' has no image of these classes: emu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,side\ncat/000.png,l\nyak/1.png,l\n../x.png,r",
            r"names files .*\(2 of 3\): yak/1.png",
        ),
        ("name,side\ncat/000.png,l", "has no column 'file'"),
        ("file\ncat/000.png", "gives no groups"),
        ("file,side", "gives no groups"),
        ("", "has no column 'file' .*none"),
        ("file,\ncat/000.png,l", "a column twice or without a name"),
        ("file,side\ncat/000.png", "row 2: 1 values for 2 columns"),
        ("file,side\ncat/000.png,l\ncat/000.png,r", "names files twice: cat/000.png"),
    ],
)
def test_a_bad_csv_is_refused(plain: Path, text: str, message: str) -> None:
    """With the file and what is wrong in it."""
    groups_csv(plain, text)
    with pytest.raises(InvalidInput, match=message) as caught:
        opened(plain, groups="groups.csv")
    assert "groups.csv" in str(caught.value)


def test_a_missing_csv_is_refused(plain: Path) -> None:
    """Named, with the folder in which it was looked for."""
    with pytest.raises(InvalidInput, match=r"csv 'absent\.csv' is neither in '.*' nor in '/"):
        opened(plain, groups="absent.csv")


def test_after_repair_the_next_run_works(plain: Path, tmp_path: Path) -> None:
    """An unreadable image leaves no cache behind."""
    spec = DatasetSpec(name="folder", folder=plain, size=32, cache=tmp_path / "cache")
    victim = plain / "dog" / "003.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100])
    with pytest.raises(InvalidInput, match=r"1 of .*dog/003\.png"):
        create(spec).splits()
    assert not list((tmp_path / "cache").iterdir())
    victim.write_bytes(whole)
    assert sum(map(len, create(spec).splits().values())) == 60


# ---- kinds of images ----


def with_image(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    """A folder of two classes: this image is the only one of class a."""
    face_files.class_folders(folder, ["b"], 4)
    (folder / "a").mkdir()
    image.save(folder / "a" / name, **options)
    return folder


def test_grayscale_is_repeated(tmp_path: Path) -> None:
    """Three equal channels with the file's values."""
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    found = pixels(with_image(tmp_path / "x", "i.png", Image.fromarray(gray)))
    assert (found == gray).all()


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    """RGBA over a white ground, by the formula of compositing."""
    rgba = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    rgba[0, 0] = 0
    found = pixels(with_image(tmp_path / "x", "i.png", Image.fromarray(rgba)))
    alpha = rgba[..., 3:] / 255
    expected = (rgba[..., :3] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)
    assert np.abs(found - expected).max() <= 1
    assert (found[:, 0, 0] == 255).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    """Full cyan is green and blue light; no ink is white."""
    cmyk = np.zeros((8, 8, 4), dtype=np.uint8)
    cmyk[:, :, 0] = 255
    image = Image.frombytes("CMYK", (8, 8), cmyk.tobytes())
    found = pixels(with_image(tmp_path / "x", "i.jpg", image, quality=100), 8)
    assert found.shape == (3, 8, 8)
    assert (found[0] <= 2).all()
    assert (found[1:] >= 253).all()


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    """By 257, not clipped at 255."""
    deep = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    found = pixels(with_image(tmp_path / "x", "i.png", Image.fromarray(deep)))
    assert (found == np.rint(deep / 257)).all()


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    """GIF and palette PNG."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    found = pixels(with_image(tmp_path / "x", "i.gif", image))
    assert found.reshape(3, -1).T.tolist() == [[10, 20, 30]] * 16


def test_sizes_may_differ(tmp_path: Path) -> None:
    """The shorter side is resized, the centre cut out: of a wide flag, the middle."""
    flag = np.zeros((20, 60, 3), dtype=np.uint8)
    flag[:, :20, 0] = flag[:, 20:40, 1] = flag[:, 40:, 2] = 255
    found = pixels(with_image(tmp_path / "x", "i.png", Image.fromarray(flag)), 10)
    assert found.shape == (3, 10, 10)
    assert (found[1, :, 1:-1] > 200).all()
    assert (found[0, :, 2:] < 30).all()
    small = pixels(with_image(tmp_path / "y", "i.png", Image.fromarray(flag[:5, 20:24])), 16)
    assert small.shape == (3, 16, 16)


def test_a_class_that_is_empty_later_is_refused_too(divided: Path, tmp_path: Path) -> None:
    """Though a cache of the other classes is there already."""
    dataset = create(DatasetSpec(name="folder", folder=divided, cache=str(tmp_path / "cache")))
    assert len(dataset.splits()["train"].class_names) == 3
    (divided / "train" / "owl").mkdir()
    with pytest.raises(InvalidInput, match="class folders without an image: train/owl"):
        dataset.splits()


def test_empty_values_of_the_csv_are_counted(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Like images that it lacks: both are the group unknown."""
    names = sorted(path.relative_to(plain).as_posix() for path in plain.glob("*/*.png"))
    rows = [f"{name},{'l' if i > 1 else ' '}" for i, name in enumerate(names)]
    groups_csv(plain, "\n".join(["file,side", *rows]))
    with caplog.at_level(logging.WARNING):
        splits = opened(plain, groups="groups.csv")
    assert sum((split.groups["side"] == "unknown").sum() for split in splits.values()) == 2
    (record,) = caplog.records
    assert record.message == (
        f"folder: groups.csv gives 2 of {len(names)} images no value of 'side', so it is 'unknown': "
        f"{names[0]}, {names[1]}"
    )
