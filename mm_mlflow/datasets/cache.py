"""A cache of built splits: one folder per content key, written atomically, read by memory map."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mm_mlflow.design import canonical_json
from mm_mlflow.split import Split

logger = logging.getLogger(__name__)

_FORMAT = 1
_META = "meta.json"


def folder(root: Path | None, name: str, key: Mapping[str, Any]) -> Path:
    """Where the content with this key lies: below ``root``, ``$MM_MLFLOW_CACHE``, or the user's cache."""
    if root is None:
        fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mm_mlflow"
        root = Path(os.environ.get("MM_MLFLOW_CACHE") or fallback)
    digest = hashlib.sha256(canonical_json({"format": _FORMAT, **key}).encode()).hexdigest()
    return root / f"{name}-{digest[:16]}"


def load_or_build(path: Path, build: Callable[[], Mapping[str, Split]]) -> dict[str, Split]:
    """The splits in ``path``; built and written there first if it is not there, cut short or unreadable.

    Several processes may do this at once: each writes a folder of its own and renames it, and who
    comes second uses the first one's.
    """
    if path.exists():
        problem = _problem(path)
        if problem is None:
            return _load(path)
        logger.warning("the cache %s is broken (%s): building it again", path, problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
    fresh.chmod(path.parent.stat().st_mode & 0o777)  # mkdtemp's own is for one user only
    try:
        _write(fresh, build())
        _replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return _load(path)


def _replace(fresh: Path, path: Path) -> None:
    """Put ``fresh`` where ``path`` is; whoever has the old files mapped keeps them (POSIX)."""
    if path.exists() and _problem(path) is not None:
        broken = Path(tempfile.mkdtemp(prefix=f"{path.name}.broken.", dir=path.parent))
        try:
            path.rename(broken)
        except FileNotFoundError:
            logger.info("another process took the broken cache away first")
        shutil.rmtree(broken, ignore_errors=True)
    try:
        fresh.rename(path)
    except OSError:
        if _problem(path) is not None:  # not somebody else's whole copy: a real failure
            raise


def _write(path: Path, splits: Mapping[str, Split]) -> None:
    meta: dict[str, Any] = {"format": _FORMAT, "splits": {}, "bytes": {}}
    for name, split in splits.items():
        np.save(path / f"{name}.images.npy", split.images)
        columns: dict[str, Any] = {
            "labels": split.labels,
            "example_ids": split.example_ids.astype(np.str_),
            **{f"group:{key}": value.astype(np.str_) for key, value in split.groups.items()},
        }
        np.savez(path / f"{name}.examples.npz", **columns)
        meta["splits"][name] = {
            "class_names": split.class_names,
            "mean": split.mean,
            "std": split.std,
            "digest": split.digest,
        }
    for file in sorted(path.iterdir()):
        meta["bytes"][file.name] = file.stat().st_size
    (path / _META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _problem(path: Path) -> str | None:
    """Why the folder cannot be used; None if every file is there at its full length."""
    try:
        meta = json.loads((path / _META).read_text(encoding="utf-8"))
        sizes: dict[str, int] = meta["bytes"]
    except PermissionError:
        raise  # somebody else's: not broken
    except (OSError, ValueError, KeyError) as error:
        return f"{_META}: {error}"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is not there"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
    return None


def _load(path: Path) -> dict[str, Split]:
    meta = json.loads((path / _META).read_text(encoding="utf-8"))
    splits = {}
    for name, item in meta["splits"].items():
        with np.load(path / f"{name}.examples.npz") as columns:
            splits[name] = Split(
                name=name,
                images=np.load(path / f"{name}.images.npy", mmap_mode="r"),
                labels=columns["labels"],
                example_ids=columns["example_ids"],
                class_names=tuple(item["class_names"]),
                groups={key[6:]: columns[key] for key in columns.files if key.startswith("group:")},
                mean=tuple(item["mean"]),
                std=tuple(item["std"]),
                digest=item["digest"],
            )
    return splits
