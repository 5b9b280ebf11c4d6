"""Back-fill of runs that other programs made: found, loaded only with consent, measured, never tagged."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import mlflow.pytorch
import mlflow.sklearn
import numpy as np
import pytest
import torch
from helpers import Command, artifact, artifacts, runs_of
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.linear_model import LogisticRegression
from torch import nn

from mm_mlflow import loading, tracking
from mm_mlflow.datasets import bound, open_splits
from mm_mlflow.design import DatasetSpec
from mm_mlflow.split import Split
from mm_mlflow.tracking import Consent, StoredModel, refusal

PGD = "pgd_accuracy/delta-0.05"
ALL = ["accuracy", "input_perturbation_accuracy/lambda-1", PGD]
ASKED = [
    *("--intervention", "accuracy"),
    *("--intervention", "{name: input_perturbation, lambda: 1}"),
    *("--intervention", "{name: pgd, delta: 0.05, steps: 5}"),
    *("--dataset", "digits_skewed"),
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """MLflow warns of pickles, and of signatures, when these tests log them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def data() -> tuple[Split, Split]:
    splits = open_splits(bound(DatasetSpec(name="digits_skewed")))
    return splits["train"], splits["test"]


def net(split: Split, steps: int = 60, outputs: int = 10) -> nn.Module:
    """A small net as a stranger would write it: it views its memory, and has no normalisation."""
    torch.manual_seed(0)
    model = View(outputs)
    images, labels = split.batch(slice(None)), torch.from_numpy(np.array(split.labels))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


class View(nn.Module):
    """A convolution and a linear head."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8 * 36, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(torch.relu(self.conv(x)).view(-1, 8 * 36))


def flat(split: Split) -> np.ndarray:
    return split.batch(slice(None)).numpy().reshape(len(split), -1)


def evaluate(command: Command, *arguments: str, code: int = 0) -> Any:
    said = command("evaluate", "--experiment-name", "others", *arguments, "--json", code=code)
    return json.loads(said.stdout)


def reasons(document: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in document["impossible"]}


def started(name: str) -> mlflow.ActiveRun:
    """A run of the experiment; ``mlflow.set_experiment`` would outlive the test's store."""
    found = MlflowClient().get_experiment_by_name("others")
    identifier = found.experiment_id if found else mlflow.create_experiment("others")
    return mlflow.start_run(run_name=name, experiment_id=identifier)


def run_called(name: str) -> Run:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("others")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=100)
    (run,) = (run for run in found if run.info.run_name == name)
    return run


@pytest.mark.usefixtures("in_process")
def test_models_logged_with_mlflow_are_measured(
    data: tuple[Split, Split], command: Command
) -> None:
    """A traced graph, a pickled net and a scikit-learn model, the last in a folder of a run's artifacts as
    older programs left it: with --trust-pickle alone, which is said plainly. What needs gradients is not
    possible for the last, and the rest is; metrics and artifacts are added, no tags."""
    train, test = data
    model = net(train)
    linear = LogisticRegression(max_iter=50).fit(flat(train), train.labels)
    with started("graph"):
        mlflow.log_metric("val_acc", 0.9)
        example = test.batch(slice(0, 2)).numpy()
        mlflow.pytorch.log_model(model, name="net", input_example=example)
    with started("pickle"):
        mlflow.pytorch.log_model(model, name="net", serialization_format="pickle")
    with started("linear"), tempfile.TemporaryDirectory() as folder:
        mlflow.sklearn.save_model(linear, f"{folder}/m", serialization_format="cloudpickle")
        mlflow.log_artifacts(f"{folder}/m", "models/linear")
    with started("nothing"):
        mlflow.log_metric("val_acc", 0.9)
    with pytest.raises(RuntimeError), started("broken"):
        raise RuntimeError
    tags = {name: run_called(name).data.tags for name in ("graph", "pickle", "linear")}

    first = evaluate(command, *ASKED, code=1)
    assert not first["evaluated"]
    assert first["left_out"] == {"FAILED": 1}
    refused = reasons(first)
    for name, part in [
        ("graph", "an exported graph (pt2), whose expressions torch evaluates"),
        ("pickle", "stored as a pickle"),
        ("linear", "may hold pickles"),
    ]:
        assert (
            f"{part}, and loading it runs whatever code it holds: --trust-pickle" in refused[name]
        )
    assert refused["nothing"] == "no model is logged with it"

    second = evaluate(command, *ASKED, "--trust-pickle")
    found = {entry["name"]: entry for entry in second["evaluated"]}
    assert set(found) == {"graph", "pickle", "linear"}
    keys = {name: set(run_called(name).data.metrics) - {"val_acc"} for name in tags}
    pgd = f"{PGD}.steps-5"
    assert keys["graph"] == keys["pickle"] == {*ALL[:2], pgd}
    assert keys["linear"] == set(ALL[:2])
    assert found["linear"]["skipped"] == {pgd: "it needs gradients, and this model gives none"}
    # Independent: the models themselves.
    with torch.no_grad():
        right = model(test.batch(slice(None))).argmax(dim=1).numpy() == test.labels
    for name in ("graph", "pickle"):
        metrics = run_called(name).data.metrics
        assert metrics["accuracy"] == right.mean()
        assert 0 < metrics[pgd] < metrics["accuracy"]
    assert (
        abs(run_called("graph").data.metrics[pgd] - run_called("pickle").data.metrics[pgd]) < 0.01
    )
    by_hand = (linear.predict(flat(test)) == test.labels).mean()
    assert run_called("linear").data.metrics["accuracy"] == by_hand
    for name, before in tags.items():
        assert run_called(name).data.tags == before

    # A third call: nothing is left, and that is no failure.
    third = evaluate(command, *ASKED, "--trust-pickle")
    assert not third["evaluated"]
    assert {entry["name"] for entry in third["present"]} == {"graph", "pickle", "linear"}

    # Readers find what was measured, and how, also over what a killed call left.
    store = tracking.open_store(None, "others")
    runs = tracking.read_runs(store)
    named = {run_called(name).info.run_id for name in tags}
    assert tracking.evaluated_runs(store, runs) == named
    shutil.rmtree(Path(run_called("graph").info.artifact_uri) / "evaluations")
    recorded = {run.name: run.records for run in tracking.with_records(store, runs)}
    assert set(recorded["pickle"]) == {*ALL[:2], pgd}
    assert recorded["pickle"][pgd]["parameters"]["delta"] == 0.05
    assert recorded["graph"] == recorded["nothing"] == {}
    ended = [run.info.status for run in runs_of("evaluation", "others")]  # newest first
    assert ended == ["FINISHED", "FINISHED", "FAILED"]


@pytest.mark.usefixtures("in_process")
def test_a_model_is_found_wherever_it_lies(data: tuple[Split, Split], command: Command) -> None:
    """At the root of a run's artifacts, and in folders."""
    train, test = data
    linear = LogisticRegression(max_iter=5).fit(flat(train), train.labels)
    places = [None, "ü/a model"]
    for place in places:
        with started(str(place)), tempfile.TemporaryDirectory() as folder:
            mlflow.sklearn.save_model(linear, f"{folder}/m", serialization_format="cloudpickle")
            mlflow.log_artifacts(f"{folder}/m", place)
    asked = ["--intervention", "accuracy", "--dataset", "digits_skewed", "--trust-pickle"]
    document = evaluate(command, *asked)
    assert not document["impossible"]
    by_hand = (linear.predict(flat(test)) == test.labels).mean()
    for place in places:
        assert run_called(str(place)).data.metrics["accuracy"] == by_hand


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).touch()",)


def log_files(name: str, files: dict[str, bytes], mlmodel: str) -> None:
    with started(name), tempfile.TemporaryDirectory() as folder:
        for path, content in {**files, "MLmodel": mlmodel.encode()}.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        mlflow.log_artifacts(folder, "model")


TORCH = """
flavors:
  pytorch: {model_data: data, pytorch_version: %s}
"""
SKLEARN = """
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl, python_version: 3.11.0}
  sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}
"""


def with_changed(source: Path, change: Callable[[str, bytes], bytes]) -> bytes:
    """A pt2 file (an archive) with ``change`` of the name and content of each of its files."""
    target = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return target.getvalue()


@pytest.mark.usefixtures("in_process")
def test_a_hostile_model_does_not_run_without_consent(
    tmp_path: Path, data: tuple[Split, Split], command: Command
) -> None:
    """Pickled with torch, hidden in what calls itself pt2, beside a pt2, of scikit-learn, and without any
    pickle in the expressions of a pt2: refused; and with consent each of them does run, so that the
    check can fail."""
    names = ("torch", "hidden", "beside", "sklearn", "guards", "sizes")
    ran = {name: tmp_path / f"ran-{name}" for name in names}
    version = TORCH % torch.__version__

    def torch_file(name: str) -> bytes:
        path = tmp_path / "model.pth"
        torch.save(Hostile(ran[name]), path)
        return path.read_bytes()

    def touching(name: str) -> str:
        return f"__import__('pathlib').Path({str(ran[name])!r}).touch()"

    def with_guard(path: str, content: bytes) -> bytes:
        if not path.endswith("models/model.json"):
            return content
        document = json.loads(content)
        document["guards_code"] = [f"{touching('guards')} is None"]
        return json.dumps(document).encode()

    def with_size(path: str, content: bytes) -> bytes:
        if not path.endswith("models/model.json"):
            return content
        text, number = re.subn(
            r'"expr_str": "[^"]*"',
            f'"expr_str": "{touching("sizes")} or 2"',
            content.decode(),
            count=1,
        )
        assert number
        return text.encode()

    shapes = ({0: torch.export.Dim("n")},)
    good = torch.export.export(net(data[0], 1), (torch.rand(2, 3, 8, 8),), dynamic_shapes=shapes)
    path = tmp_path / "good.pt2"
    torch.export.save(good, path)
    module = b"mlflow.pytorch.pickle_module"
    pickled = {"data/model.pth": torch_file("torch"), "data/pickle_module_info.txt": module}
    log_files("torch", pickled, version)
    beside = {"data/model.pth": torch_file("beside"), "data/pickle_module_info.txt": module}
    log_files("beside", {**beside, "data/model.pt2": path.read_bytes()}, version)
    hidden = torch_file("hidden")
    for name, change in [
        ("hidden", lambda path, content: hidden if "sample_inputs" in path else content),
        ("guards", with_guard),
        ("sizes", with_size),
    ]:
        log_files(name, {"data/model.pt2": with_changed(path, change)}, version)
    log_files("sklearn", {"model.pkl": pickle.dumps(Hostile(ran["sklearn"]))}, SKLEARN)
    document = evaluate(command, *ASKED, code=1)
    assert not any(path.exists() for path in ran.values())
    refused = reasons(document)
    assert set(refused) == set(ran)
    assert all("--trust-pickle" in reason for reason in refused.values())
    said = command("evaluate", "--experiment-name", "others", *ASKED, "--trust-pickle", code=1)
    assert "loading the models of 6 runs runs whatever code they hold" in said.stderr
    assert all(path.exists() for path in ran.values()), ran


@pytest.mark.usefixtures("in_process")
def test_an_import_path_is_not_followed_without_consent(tmp_path: Path, command: Command) -> None:
    """A loader module, a file of code, a folder of code: --trust-pickle is not enough for any of them."""
    (tmp_path / "evil_loader.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "def _load_pyfunc(path): raise ValueError('loaded')"
    )
    log_files("loader", {}, "flavors: {python_function: {loader_module: evil_loader}}")
    script = f"import pathlib; pathlib.Path({str(tmp_path / 'ran-script')!r}).touch()".encode()
    log_files(
        "script",
        {"script.py": script},
        "flavors: {python_function: {loader_module: mlflow.pyfunc.model, model_code_path: script.py}}",
    )
    folder = "flavors: {pytorch: {model_data: data, code: code, pytorch_version: '2'}}"
    log_files("folder", {"code/x.py": b"", "data/model.pt2": b""}, folder)
    document = evaluate(command, *ASKED, "--trust-pickle", code=1)
    refused = reasons(document)
    for name, path in [("loader", "evil_loader"), ("script", "script.py"), ("folder", "code")]:
        assert f"names code to import ('{path}')" in refused[name]
        assert "--trust-code" in refused[name]
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ran-script").exists()
    assert "evil_loader" not in sys.modules
    evaluate(command, *ASKED, "--trust-pickle", "--trust-code", code=1)
    assert (tmp_path / "ran").exists()
    sys.modules.pop("evil_loader", None)


def test_consent_is_asked_by_what_is_stored() -> None:
    """Every form needs consent, and code that it brings along a second one."""
    for form, code, pickled, trusted, allowed in [
        ("pt2", (), False, True, False),
        ("pt2", (), True, False, True),
        ("pickle", (), False, True, False),
        ("pickle", (), True, False, True),
        ("pyfunc", (), False, True, False),
        ("pyfunc", ("a",), True, False, False),
        ("pyfunc", ("a",), True, True, True),
        ("pt2", ("a",), True, False, False),
        ("pt2", ("a",), True, True, True),
    ]:
        model = StoredModel("m", "models:/m", "somewhere", form, code)  # type: ignore[arg-type]
        said = refusal(model, Consent(pickle=pickled, code=trusted))
        assert (said is None) == allowed


@pytest.mark.usefixtures("in_process")
def test_what_is_no_model_is_listed_with_the_reason(
    tmp_path: Path, data: tuple[Split, Split], command: Command
) -> None:
    """Files that are gone or cut short, flavors that nothing here can ask, several models, other shapes
    of images and numbers of classes, an own metric of the same name: none stops another run."""
    train, _ = data
    version = TORCH % torch.__version__
    small = torch.export.export(
        net(train, 1), (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(small, tmp_path / "small.pt2")
    whole = (tmp_path / "small.pt2").read_bytes()
    log_files("cut", {"data/model.pt2": whole[: len(whole) // 2]}, version)
    log_files("gone", {}, version)
    log_files("spark", {}, "flavors: {spark: {}}")
    log_files("list", {}, "[1, 2]")
    log_files("no yaml", {}, "{a: {")
    log_files("good", {"data/model.pt2": whole}, version)
    wide = torch.export.export(nn.Flatten(), (torch.rand(2, 3, 8, 8),))
    torch.export.save(wide, tmp_path / "wide.pt2")
    log_files("classes", {"data/model.pt2": (tmp_path / "wide.pt2").read_bytes()}, version)
    gray = torch.export.export(nn.Flatten(), (torch.rand(2, 1, 8, 8),))
    torch.export.save(gray, tmp_path / "gray.pt2")
    log_files("gray", {"data/model.pt2": (tmp_path / "gray.pt2").read_bytes()}, version)
    with started("several"):
        linear = LogisticRegression(max_iter=5).fit(flat(train), train.labels)
        mlflow.log_metric("accuracy", 0.123)
        for name in ("a", "b", "a"):
            mlflow.sklearn.log_model(linear, name=name, serialization_format="pickle")
    document = evaluate(command, *ASKED, "--trust-pickle")
    assert [entry["name"] for entry in document["evaluated"]] == ["good"]
    refused = reasons(document)
    for name, part in [
        ("cut", "cannot be loaded"),
        ("gone", "cannot be loaded"),
        ("spark", "has flavors spark: pytorch or python_function is needed"),
        ("list", "is no mapping"),
        ("no yaml", "not YAML"),
        (
            "classes",
            "gives (2, 192) for images (2, 3, 8, 8) of split 'test', and the data have 10 classes",
        ),
        ("gray", "does not take the data"),
        ("several", "it has 2 models (a, b): --model NAME says which"),
    ]:
        assert part in refused.pop(name), name
    assert not refused
    document = evaluate(
        command,
        *ASKED,
        "--trust-pickle",
        "--model",
        "b",
        "--run",
        run_called("several").info.run_id,
    )
    (entry,) = document["evaluated"]
    assert entry["metrics"] == ["input_perturbation_accuracy/lambda-1"]
    assert entry["skipped"]["accuracy"] == "its own program logged it"
    assert run_called("several").data.metrics["accuracy"] == 0.123
    gone = run_called("good").info.run_id
    document = evaluate(command, *ASKED, "--run", gone, "--model", "c", code=1)
    assert reasons(document) == {"good": "it has no model 'c' (it has model)"}


@pytest.mark.usefixtures("in_process")
def test_a_label_map_says_which_output_is_which_class(
    tmp_path: Path, data: tuple[Split, Split], command: Command
) -> None:
    """A net with its outputs in another order, and more of them than classes: by the map its accuracy is
    that of the net itself; the map is in the record, and so is that of a scikit-learn model."""
    train, test = data
    model = net(train, outputs=10)
    order = np.roll(np.arange(10), 3)  # the output that means each class

    class Rearranged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            self.where = nn.Parameter(
                torch.from_numpy(np.argsort(order)).float(), requires_grad=False
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.inner(x)[:, torch.from_numpy(np.argsort(order))]
            return torch.cat([logits, logits[:, :2] - 100], dim=1)

    images = test.batch(slice(None))
    program = torch.export.export(
        Rearranged().eval(), (images[:2],), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    log_files(
        "net", {"data/model.pt2": (tmp_path / "net.pt2").read_bytes()}, TORCH % torch.__version__
    )
    with started("linear"):
        linear = LogisticRegression(max_iter=50).fit(flat(train), order[train.labels] + 1)
        mlflow.sklearn.log_model(linear, name="m", serialization_format="pickle")
    document = evaluate(command, *ASKED, "--trust-pickle", code=0)
    assert "12) for images" in reasons(document)["net"]
    assert "--label-map" in reasons(document)["net"]
    mapping = {name: int(order[label]) for label, name in enumerate(test.class_names)}
    client = MlflowClient()
    client.delete_run(run_called("linear").info.run_id)
    with started("again"):
        mlflow.sklearn.log_model(linear, name="m", serialization_format="pickle")
    document = evaluate(command, *ASKED, "--trust-pickle", "--label-map", json.dumps(mapping))
    assert {entry["name"] for entry in document["evaluated"]} == {"net", "again"}
    with torch.no_grad():
        right = (model(images).argmax(dim=1).numpy() == test.labels).mean()
    assert run_called("net").data.metrics["accuracy"] == right > 0.5
    by_hand = (linear.predict(flat(test)) == order[test.labels] + 1).mean()
    assert run_called("again").data.metrics["accuracy"] == by_hand > 0.5
    (path,) = (path for path in artifacts(run_called("net")) if path.endswith("metrics.json"))
    record = json.loads(artifact(run_called("net"), path))["metrics"]["accuracy"]
    assert record["parameters"]["label_map"] == mapping
    too_far = {**mapping, test.class_names[0]: 12}
    with started("far"):
        pass
    log_files(
        "far net",
        {"data/model.pt2": (tmp_path / "net.pt2").read_bytes()},
        TORCH % torch.__version__,
    )
    document = evaluate(command, *ASKED, "--trust-pickle", "--label-map", json.dumps(too_far))
    assert "the label map would need output 12" in reasons(document)["far net"]
    (entry,) = (entry for entry in document["present"] if entry["name"] == "net")
    assert "measured with other parameters" in entry["skipped"]["accuracy"]


def test_data_of_strangers_runs_have_to_be_named(command: Command) -> None:
    """One line that says so."""
    with started("run"):
        pass
    said = command(
        "evaluate", "--experiment-name", "others", "--intervention", "accuracy", code=2
    ).stderr
    assert "its data are not known: --dataset says which to evaluate it on" in said
    assert len(said.strip().splitlines()) == 1


def test_an_exported_graph_is_never_told_its_mode() -> None:
    """Its own ``eval`` raises; nothing in it claims to be in train mode."""
    program = torch.export.export(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (torch.rand(2, 1, 2, 2),)
    )
    graph = program.module()
    with pytest.raises(NotImplementedError):
        graph.eval()
    model = loading.Exported(graph).train().eval()
    assert not any(module.training for module in model.modules())
    assert model(torch.rand(2, 1, 2, 2)).shape == (2, 2)
