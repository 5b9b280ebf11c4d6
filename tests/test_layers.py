"""The layers of DESIGN: imports run one way, and names of the shell stay in the shell."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mm_mlflow

ROOT = Path(mm_mlflow.__file__).parent
# Bottom to top. A module may import from its own layer's folder and from what stands before it.
ORDER = [
    "errors", "registry", "rules", "specs", "cell", "design", "plan", "foreign", "frame",
    "adoption", "inference", "figures", "statistics", "sheet", "chance", "distribution", "selection",
    "matching", "change", "report", "gate", "split", "augmentation", "outcomes", "comparison",
    "evaluation", "request", "render",
    # ---- shell ----
    "datasets", "models", "training", "artifacts", "sampling", "tracking", "provenance", "registration",
    "engine", "evidence", "experiment", "jobs", "sweeping", "runner", "project", "reproduction", "estimate",
    "loading", "backfill", "console", "cli", "__main__", "plugins",
]  # fmt: skip
CORE = ORDER[: ORDER.index("datasets")]
TORCH = {"split", "evaluation", "augmentation", "models", "training", "runner"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports: outside of functions and of ``if TYPE_CHECKING`` only, or
    anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [*ast.walk(tree)]
    if top_level:
        nodes = [node for statement in tree.body if not isinstance(statement, ast.If | ast.FunctionDef)
                 for node in ([statement] if not isinstance(statement, ast.ClassDef) else [])]  # fmt: skip
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def outside(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_every_module_has_a_place_in_the_order() -> None:
    """A new room must be given its layer here."""
    assert {room(path) for path in modules()} == set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    """Also inside functions: a lazy import upwards is an arrow upwards all the same."""
    used = {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith("mm_mlflow.") and name.count(".")
    } & set(ORDER)
    # Sheet._repr_html_ is the one arrow up: a notebook asks the object itself for its looks.
    allowed = {
        *ORDER[: ORDER.index(room(path)) + 1],
        *(["render"] if room(path) == "sheet" else []),
    }
    assert used <= allowed, used - allowed


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if room(path) in CORE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_core_is_pure(path: Path) -> None:
    """Nothing above the line imports mlflow, optuna, dask or click; matplotlib only in functions."""
    forbidden = {"mlflow", "optuna", "dask", "distributed", "click", "rich", "requests"}
    assert not outside(path) & forbidden
    assert not {name for name in imports(path, top_level=True) if name.startswith("matplotlib")}
    if room(path) not in TORCH:
        assert "torch" not in outside(path)


def test_only_tracking_names_the_client() -> None:
    """One reader and writer of runs; plugins are MLflow's own classes, and import it too."""
    users = {room(path) for path in modules() if "mlflow" in outside(path)}
    assert users == {"tracking", "plugins"}


def test_matplotlib_is_only_in_render() -> None:
    """And there only inside functions (see above)."""
    assert {room(path) for path in modules() if "matplotlib" in outside(path)} <= {"render"}


def loaded(code: str) -> set[str]:
    """Names in ``sys.modules`` after ``code`` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-c", script]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


LIST_NAMES = """
import mm_mlflow.datasets, mm_mlflow.render
from mm_mlflow import evaluation, registry
registry.names(evaluation.INTERVENTIONS, evaluation.GROUP)
"""
HEAVY = {"mlflow", "torch", "torchvision", "optuna", "dask", "distributed", "matplotlib", "pandas"}


@pytest.mark.parametrize(
    "code",
    [
        "import mm_mlflow; dir(mm_mlflow)",
        "import mm_mlflow.cli",
        LIST_NAMES,
    ],
)
def test_importing_is_light(code: str) -> None:
    """The package, its command and its lists of names load nothing heavy."""
    assert not loaded(code) & HEAVY


def test_statistics_load_scipy_when_they_are_made() -> None:
    """Reading experiments and comparing them are imported without."""
    found = loaded("import mm_mlflow.experiment, mm_mlflow.change")
    assert "mm_mlflow.statistics.axis" in found
    assert not found & {"scipy.stats", "scipy.optimize"}


def test_every_public_name_is_there() -> None:
    """What ``dir`` promises can be had."""
    for name in mm_mlflow.__all__:
        assert getattr(mm_mlflow, name) is not None


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.rglob("test_*.py")), ids=lambda p: p.stem
)
def test_every_test_says_what_is_true(path: Path) -> None:
    """In its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), node.name
