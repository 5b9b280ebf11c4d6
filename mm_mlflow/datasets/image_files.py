"""Image files as arrays: found, identified and decoded the same way for every dataset of files."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"]
)
_NAMED = 5  # so many bad files are named in an error


def data_folder(given: Path | None, name: str) -> Path:
    """Where a dataset's files are: ``given``, else ``$MM_MLFLOW_DATA/<name>``, else ``data/<name>``."""
    return given or Path(os.environ.get("MM_MLFLOW_DATA") or "data") / name


def visible_files(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted by their path, hidden ones left out."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def image_files(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted by their path, hidden ones left out."""
    return [file for file in visible_files(folder) if file.suffix.lower() in SUFFIXES]


def some(names: Iterable[object]) -> str:
    """The first few names, and how many more there are: for errors and notes."""
    listed = [str(name) for name in names]
    more = f", and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def refuse_missing(names: Sequence[str], folder: Path, listed_in: Path) -> None:
    """Refuse a list whose ``names`` are not all files below ``folder``.

    Raises:
        InvalidInput: how many are not, and some of them.
    """
    missing = [
        name
        for name in names
        if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).is_file()
    ]
    if missing:
        raise InvalidInput(
            f"{listed_in} names files that are not in {str(folder)!r} ({len(missing)} of "
            f"{len(names)}): {some(missing)}"
        )


def read_csv(file: Path, needed: Sequence[str] = ("file",)) -> list[dict[str, str]]:
    """The rows of a csv with a header; ``file`` in it names one image per row.

    Raises:
        InvalidInput: it cannot be read, lacks a column of ``needed``, has a column twice or without a
            name, a row of another length, or names a file twice.
    """
    try:
        with file.open(
            encoding="utf-8-sig", newline=""
        ) as opened:  # Excel writes a byte order mark
            header, *rows = [row for row in csv.reader(opened, strict=True) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"csv {str(file)!r} cannot be read: {error}") from error
    if "" in header or len(set(header)) < len(header):
        raise InvalidInput(
            f"csv {str(file)!r} has a column twice or without a name: {', '.join(header)}"
        )
    for name in needed:
        if name not in header:
            raise InvalidInput(
                f"csv {str(file)!r} has no column {name!r} (its columns: {', '.join(header) or 'none'})"
            )
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise InvalidInput(
                f"csv {str(file)!r}, row {number}: {len(row)} values for {len(header)} columns"
            )
    named = [row[header.index("file")] for row in rows]
    if len(set(named)) < len(named):
        twice = [name for name, number in Counter(named).items() if number > 1]
        raise InvalidInput(f"csv {str(file)!r} names files twice: {some(twice)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def fingerprint(files: Iterable[Path], folder: Path) -> str:
    """What the files are, without reading them: paths below ``folder``, sizes, times of change.

    A cache belongs to it, no id does: files copied with new times are decoded again, and give the
    same content digest.
    """
    digest = hashlib.sha256()
    for file in files:
        info = file.stat()
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def decode(files: Sequence[Path], size: int) -> np.ndarray:
    """``(N, 3, size, size)`` uint8 RGB: the shorter side resized to ``size``, the centre cut out.

    Grayscale is repeated, transparency lies on white, 16 bits become 8, and a camera's orientation
    is applied; a file that already has the size is left as it is.

    Raises:
        InvalidInput: files that cannot be read as images, named.
    """
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    broken: list[str] = []

    def load(i: int) -> None:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(files[i]) as opened:
                images[i] = np.asarray(square(to_rgb(opened), size)).transpose(2, 0, 1)
        # PIL raises SyntaxError and ValueError too, for files that are cut short or made to harm.
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError,
                Image.DecompressionBombError) as error:  # fmt: skip
            broken.append(f"{files[i]}: {' '.join(str(error).split())}")

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(load, range(len(files)), chunksize=64):
            pass
    if broken:
        more = f", and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        shown = "; ".join(sorted(broken)[:_NAMED])
        raise InvalidInput(f"{len(broken)} of {len(files)} images cannot be read: {shown}{more}")
    return images


def to_rgb(image: Image) -> Image:
    """An 8-bit RGB image of whatever PIL opened."""
    import PIL.Image
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: convert() would clip at 255
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels outside of 16 bits")
        image = PIL.Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", layer.size, "white")
        image = PIL.Image.alpha_composite(ground, layer)
    return image.convert("RGB")


def square(image: Image, size: int) -> Image:
    """The centre of an image whose shorter side is ``size``."""
    import PIL.Image

    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return image
