"""A user's own dataset and model: the README's example, by import path and by entry point."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from helpers import Command, artifact, runs_of

from mm_mlflow import models, registry
from mm_mlflow.datasets import DATASETS, GROUP
from mm_mlflow.errors import InvalidInput

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (text,) = (text for text in found if holding in text)
    return str(text)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's example as files in the working folder, which is no folder of modules."""
    assert str(tmp_path) not in sys.path
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    (tmp_path / "my_task.py").write_text(block("python", "class Squares"), encoding="utf-8")
    design = tmp_path / "my_squares.yaml"
    design.write_text(block("yaml", "my_task:Squares"), encoding="utf-8")
    return design


def test_the_readmes_example_runs(example: Path, command: Command) -> None:
    """In a real worker, which must find the file too; the model's weights are read back."""
    command("sweep", example, "--jobs", "1", "--trust-code")
    cells = runs_of("cell", "squares")
    assert len(cells) == 6
    assert {run.info.status for run in cells} == {"FINISHED"}
    by_model = {run.data.params["architecture"]: run for run in cells}
    assert set(by_model) == {"my_task:tiny", "mlp"}
    assert all(run.data.metrics["accuracy"] > 0.9 for run in cells)
    assert "group_accuracy/kind-dark" in by_model["mlp"].data.metrics
    stored = artifact(by_model["my_task:tiny"], "model.safetensors")
    with pytest.raises(InvalidInput, match="--trust-code"):
        models.from_bytes(stored)
    with registry.trusting(str(example.parent)):
        model, _ = models.from_bytes(stored)
    assert sum(weights.numel() for weights in model.parameters()) == 192 * 16 + 16 + 16 * 2 + 2
    assert str(example.parent) not in sys.path
    command("status", "--experiment-name", "squares")  # reading runs nobody's code
    # A worker that measures has to be told of the trust, too.
    asked = ["--intervention", "{name: output_perturbation, lambda: 3}", "--jobs", "1"]
    command("evaluate", "--experiment-name", "squares", *asked, "--trust-code")
    key = "output_perturbation_accuracy/lambda-3"
    assert all(key in run.data.metrics for run in runs_of("cell", "squares"))


def test_without_trust_nothing_is_imported(example: Path, command: Command) -> None:
    """Refused in one line, before the module runs and before anything is written."""
    (example.parent / "my_task.py").write_text("raise SystemExit('ran')")
    result = command("sweep", example, code=2)
    assert "dataset 'my_task:Squares' is an import path" in result.stderr
    assert "--trust-code" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_task:Squars", "has no attribute 'Squars'"),
        ("my_tusk:Squares", "No module named 'my_tusk'"),
        ("my_task:", "cannot be loaded"),
    ],
)
def test_an_import_path_that_leads_nowhere(
    example: Path, command: Command, name: str, message: str
) -> None:
    """One line that names it."""
    text = example.read_text()
    example.write_text(text.replace("name: my_task:Squares", f"name: '{name}'"))
    result = command("sweep", example, "--trust-code", code=2)
    assert name in result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("in_process")
def test_an_installed_package_needs_no_trust(
    example: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry points, found as pip writes them, are names like any other."""
    monkeypatch.syspath_prepend(str(example.parent))
    info = example.parent / "squares-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mm_mlflow.datasets]\nsquares = my_task:Squares\n[mm_mlflow.models]\ntiny = my_task:tiny\n"
    )
    text = example.read_text().replace("my_task:Squares", "squares")
    example.write_text(text.replace("my_task:tiny", "tiny"))
    assert "squares" in registry.names(DATASETS, GROUP)
    command("sweep", example)
    assert len(runs_of("cell", "squares")) == 6
