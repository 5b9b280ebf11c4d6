"""Small folders in the formats that UTKFace, FairFace, CelebA and CIFAR-10 are published in.

The "faces" are generated: class 0 (male) is light above and dark below, class 1 the other way round,
with noise, so that a small net learns them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Names as they were published. Whole ones, in both forms:
WHOLE = [
    "26_1_2_20170116184024662.jpg.chip.jpg",
    "1_0_0_20161219140623097.jpg.chip.jpg",
    "116_1_2_20170120134921760.jpg.chip.jpg",
    "9_0_4_20170103200637399.jpg",
    "35_0_3_20170117173028423.jpg",
]
# Damaged after the date, with whole labels: a blank, a lost dot, a lost letter, a trailing dot.
DAMAGED = [
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "55_0_0_20170116232725357jpg.chip.jpg",
    "55_0_0_20170116232725358jpg",
    "44_1_4_20170116235150272.pg",
    "31_1_0_20170117120000001..jpg",
]
# Without a label, or with one out of range.
MALFORMED = {
    "61_1_20170109142408075.jpg.chip.jpg": "race missing",
    "61_1_20170109150557335.jpg.chip.jpg": "race missing",
    "39_1_20170116174525125.jpg.chip.jpg": "race missing",
    "61_3_20170109150557335.jpg": "race missing, as in the uncropped part",
    "53__0_20170116184028385.jpg": "doubled underscore: gender missing",
    "117_0_0_20170116184028386.jpg.chip.jpg": "age out of range",
    "999_1_0_20170116184028387.jpg": "age out of range",
    "-1_1_0_20170116184028388.jpg": "age out of range",
    "20_2_0_20170116184028389.jpg": "gender out of range",
    "20_0_5_20170116184028390.jpg": "race out of range",
    "20_0_1.jpg": "date missing",
    "portrait.jpg": "no labels at all",
}
FAIRFACE_RACES = (
    "East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian",
)  # fmt: skip
FAIRFACE_AGES = (
    "0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70",
)  # fmt: skip
CELEBA_ATTRIBUTES = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
]


def face(label: int, rng: np.random.Generator, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture of ``size`` (width, height) whose class can be learnt: see the module's words."""
    width, height = size
    light, dark = rng.integers(150, 230), rng.integers(20, 100)
    rows = np.where(np.arange(height) < height // 2, light, dark)
    rows = rows[::-1] if label else rows
    pixels = rows[:, None, None] + rng.normal(0, 25, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save(path: Path, label: int = 0, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Path:
    """Write a face; what the name says after its dot does not matter: the content is JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    face(label, np.random.default_rng(seed), size).save(path, kind, quality=95)
    return path


def utkface(folder: Path, number: int = 60, names: Sequence[str] = (), size: int = 32) -> Path:
    """``number`` faces in the aligned and cropped form, every race and age, then those of ``names``."""
    rng = np.random.default_rng(1)
    for i in range(number):
        age, gender, race = (i * 37) % 117, (i // 5) % 2, i % 5
        name = f"{age}_{gender}_{race}_201701{i % 28 + 1:02d}1840{i:07d}.jpg.chip.jpg"
        folder.mkdir(parents=True, exist_ok=True)
        face(gender, rng, (size, size)).save(folder / name, "JPEG", quality=95)
    for i, name in enumerate(names):
        save(folder / name, seed=i, size=(size, size))
    return folder


def fairface(folder: Path, number: int = 40, size: int = 32) -> Path:
    """``number`` validation faces and four training faces, with both csv files."""
    for part, count in [("train", 4), ("val", number)]:
        rows = []
        for i in range(count):
            gender = ("Male", "Female")[(i // 7) % 2]
            save(folder / part / f"{i + 1}.jpg", int(gender == "Female"), i, (size, size))
            race, age = FAIRFACE_RACES[i % 7], FAIRFACE_AGES[i % 9]
            rows.append([f"{part}/{i + 1}.jpg", age, gender, race, str(i % 2 == 0)])
        with (folder / f"fairface_label_{part}.csv").open("w", newline="") as file:
            header = ["file", "age", "gender", "race", "service_test"]
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return folder


def celeba(folder: Path, number: int = 30) -> Path:
    """``number`` images of 178 x 218 in torchvision's layout, parts 0, 1 and 2 by turns, with all five
    lists that torchvision reads."""
    rng = np.random.default_rng(2)
    names = [f"{i + 1:06d}.jpg" for i in range(number)]
    male = np.where(np.arange(number) // 3 % 2 == 0, 1, -1)
    attributes = rng.choice([-1, 1], (number, 40))
    attributes[:, CELEBA_ATTRIBUTES.index("Male")] = male
    for i, name in enumerate(names):
        save(folder / "img_align_celeba" / name, int(male[i] == -1), i, (178, 218))

    def write(file: str, rows: np.ndarray, header: str | None = None) -> None:
        pairs = zip(names, rows, strict=True)
        lines = [f"{name} " + " ".join(f"{v:2d}" for v in row) for name, row in pairs]
        first = [] if header is None else [str(number), header]
        (folder / file).write_text("\n".join([*first, *lines]) + "\n")

    write("list_attr_celeba.txt", attributes, " ".join(CELEBA_ATTRIBUTES) + " ")
    parts = np.arange(number)[:, None] % 3
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, (part,) in zip(names, parts, strict=True))
    )
    write("identity_CelebA.txt", np.arange(number)[:, None])
    write("list_bbox_celeba.txt", np.ones((number, 4), int), "image_id x_1 y_1 width height")
    write("list_landmarks_align_celeba.txt", np.ones((number, 10), int), " ".join("abcdefghij"))
    return folder


def class_folders(folder: Path, classes: Sequence[str], number: int, size: int = 32) -> Path:
    """``number`` images in a folder per class."""
    for label, name in enumerate(classes):
        for i in range(number):
            save(folder / name / f"{i:03d}.png", label % 2, 100 * label + i, (size, size))
    return folder
