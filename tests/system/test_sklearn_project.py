"""The commands of ``projects/sklearn_digits``' README, as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
PROJECT = Path(__file__).parents[2] / "projects" / "sklearn_digits"


def test_the_commands_of_its_readme(tmp_path: Path) -> None:
    """Every cell is trained, and its sheets are shown."""
    folder = shutil.copytree(PROJECT, tmp_path / "project")
    (commands,) = re.findall(
        r"```sh\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MM_MLFLOW_"))}
    environment = {
        **kept, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    done = subprocess.run(["sh", "-e", "-c", commands], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "9 cells: 9 trained, 0 were finished, 0 failed" in done.stdout
    for metric in ("accuracy", "accuracy_of_eights", "accuracy_noisy"):
        assert re.search(rf"^\W*{metric}\b", done.stdout, re.MULTILINE), done.stdout
