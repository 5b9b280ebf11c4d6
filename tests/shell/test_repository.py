"""What the repository promises: README, MLproject, conda.yaml and the picture are true."""

from __future__ import annotations

import ast
import configparser
import contextlib
import io
import re
import runpy
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from mm_mlflow import cli, runner
from mm_mlflow.datasets import bind
from mm_mlflow.design import Design

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    """The code blocks of the README in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("in_process")
def test_the_ten_lines_of_python_run(small: Path) -> None:
    """As they stand, on an experiment of that name."""
    small.write_text(small.read_text().replace("name: small", "name: digits_skewed"))
    assert CliRunner().invoke(cli.main, ["sweep", str(small)]).exit_code == 0
    code, *_others = blocks("python")  # which test_own_code.py and test_evaluator.py run
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert "points between the worst and the best of 6 runs" in said.getvalue()
    assert "pgd_accuracy/delta-0.02" in said.getvalue()


def test_the_design_in_the_readme_is_a_design() -> None:
    """With every name in it known."""
    text, _own = blocks("yaml")
    design = bind(Design.parse(text))
    material = runner.prepare(design)
    assert len(design.cells()) == (1 + 2 + 1 + 1 + 2) * 5
    keys = {task.key for task in material.tasks}
    assert "group_accuracy/skew-gs_minority.class-3" in keys
    assert "pgd_accuracy/delta-0.03.examples-500" in keys


def options(command: click.Command) -> set[str]:
    return {
        name for parameter in command.params for name in parameter.opts if name.startswith("--")
    }


def test_commands_in_the_readme_exist() -> None:
    """Every command and option that it shows."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "mm-mlflow":
                command = cli.main.commands[words[1]]
                assert {word for word in words if word.startswith("--")} <= options(command)
    for command, table in re.findall(r"\| `(--[^|]*)` \| `(\w+)` \|", README):
        for option in re.findall(r"--[\w-]+", command):
            assert option in options(cli.main.commands[table])


def test_select_lays_runs_out_as_sheet_does() -> None:
    """By the same options, but for the one that the README names."""
    (section,) = (
        part for part in README.split("\n## ") if part.startswith("Runs that you already")
    )
    assert "`select` takes the same options, but for `--axis`" in " ".join(section.split())
    table = re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)
    assert len(table) == 10
    assert set(table) <= options(cli.main.commands["sheet"])
    assert set(table) - options(cli.main.commands["select"]) == {"--axis"}


@pytest.mark.parametrize("entry", PROJECT["entry_points"])
def test_project_entries_call_commands_that_exist(entry: str) -> None:
    """And their defaults name a design that is there."""
    settings = PROJECT["entry_points"][entry]
    words = shlex.split(settings["command"])
    assert words[:3] == ["python", "-m", "mm_mlflow"]
    command = cli.main.commands[words[3]]
    assert {word for word in words if word.startswith("--")} <= options(command)
    default = settings.get("parameters", {}).get("design", {}).get("default")
    if default:
        assert len(bind(Design.load(ROOT / default)).cells()) == 45


def test_conda_lists_the_dependencies_of_setup_cfg() -> None:
    """``mlflow run --env-manager uv`` or ``conda`` builds the same environment as pip."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    assert conda["dependencies"][-1]["pip"] == wanted


@pytest.mark.pictures
def test_the_picture_is_what_its_data_draw() -> None:
    """docs/sheet.png is docs/sheet.json, drawn by this version: the same size, and equal up to the
    smoothing of letters, which differs between versions of matplotlib."""
    script = runpy.run_path(str(ROOT / "docs" / "render_picture.py"))
    drawn = np.asarray(Image.open(io.BytesIO(script["render"]())).convert("L"), dtype=float)
    stored = np.asarray(Image.open(ROOT / "docs" / "sheet.png").convert("L"), dtype=float)
    assert drawn.shape == stored.shape
    assert np.abs(drawn - stored).mean() < 1


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_are_collected_without_what_only_system_tests_need(path: Path) -> None:
    """The README's command installs no browser: who needs one imports it when it runs."""
    found = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = [getattr(node, "module", None) or node.names[0].name for node in found]
    assert not {name.split(".")[0] for name in modules} & {"playwright", "axe_playwright_python"}
