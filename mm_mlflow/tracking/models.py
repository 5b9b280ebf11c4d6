"""Models that other programs logged with MLflow: which there are, and loading them with consent only.

An ``MLmodel`` file and what lies beside it are a stranger's: they say how a model is stored, and they are
read as data. Nothing of a model is imported or loaded before :func:`refusal` has been asked about
the very files that are loaded.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mm_mlflow.design import parse_yaml
from mm_mlflow.errors import InvalidInput
from mm_mlflow.tracking.store import Store, reading_errors

_DEPTH = 3  # of folders in which a model is looked for among a run's artifacts
_FOLDERS = 200  # at most so many of them: some runs keep thousands of files


@dataclass(frozen=True)
class Consent:
    """What the user said may run: ``pickle`` whatever code a model's own files hold, ``code`` imports."""

    pickle: bool = False
    code: bool = False


@dataclass(frozen=True)
class StoredModel:
    """A model that a run logged, as its ``MLmodel`` file describes it.

    Attributes:
        name: what the run calls it.
        uri: MLflow's address of it.
        location: the folder of its files, an address too (``models:/`` is looked up in whatever store
            MLflow's environment names: seen).
        form: ``pt2`` (torch.export), ``pickle`` (a pickled torch module), ``pyfunc`` (all else).
        code: import paths and files of code that loading it would run, beside pickles.
    """

    name: str
    uri: str
    location: str
    form: Literal["pt2", "pickle", "pyfunc"]
    code: tuple[str, ...] = ()

    @property
    def gradients(self) -> bool:
        """Whether it gives gradients of its outputs."""
        return self.form != "pyfunc"


def refusal(model: StoredModel, consent: Consent) -> str | None:
    """Why a model is not to be loaded without more consent than this; None if it may be."""
    if model.code and not consent.code:
        named = ", ".join(repr(name) for name in model.code)
        return (
            f"model {model.name!r} names code to import ({named}), and importing it runs it: "
            "--trust-code says that you trust it"
        )
    if not consent.pickle:
        held = {
            "pickle": "is stored as a pickle",
            # As Python: its guards by exec, its symbolic sizes by sympy (torch 2.14, seen).
            "pt2": "is an exported graph (pt2), whose expressions torch evaluates",
            "pyfunc": "may hold pickles",
        }
        return (
            f"model {model.name!r} {held[model.form]}, and loading it runs whatever code it holds: "
            "--trust-pickle says that you trust it"
        )
    return None


def find_models(
    store: Store, run_ids: Sequence[str], name: str | None = None
) -> dict[str, StoredModel | str]:
    """The model of every run, or why there is none to take, in words.

    Models that MLflow 3 logged are found by their source run, older ones by the ``MLmodel`` file among
    a run's artifacts. Of several of one name the newest is taken; of several names the one called
    ``name``.
    """
    with reading_errors(store.uri):
        logged = _logged(store)

        def find(run_id: str) -> StoredModel | str:
            try:
                found = logged.get(run_id) or _among_artifacts(store.client, run_id)
                return _describe_stored(store, _choose(found, name))
            except InvalidInput as error:
                return str(error)
            except Exception as error:  # noqa: BLE001 - one run's artifact store is no other run's
                text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                return f"its artifacts cannot be read: {text}"

        with ThreadPoolExecutor(max_workers=8) as pool:
            return dict(zip(run_ids, pool.map(find, run_ids), strict=True))


@contextmanager
def loaded(store: Store, model: StoredModel, consent: Consent) -> Iterator[Any]:
    """A model in memory, on the CPU: a torch module, or a pyfunc model where its form is ``pyfunc``.

    Its files, and modules that it brought along, are there while the block lasts.

    Raises:
        InvalidInput: it is refused, its files are missing, or they make no model; in words.
    """
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as temporary, _own_imports(temporary):
        folder = _download(store, model.location, temporary)
        found = describe(
            model.name,
            model.uri,
            model.location,
            _mlmodel((folder / "MLmodel").read_text("utf-8"), model.name),
            lambda path: {item.name for item in (folder / path).glob("*")},
        )
        if reason := refusal(found, consent):
            raise InvalidInput(reason)
        yield _load(found, folder)


def describe(
    name: str,
    uri: str,
    location: str,
    document: Mapping[str, Any],
    files: Callable[[str], Collection[str]],
) -> StoredModel:
    """A model by its ``MLmodel`` document.

    Args:
        name: of the model.
        uri: of the model.
        location: of its folder.
        document: the content of its ``MLmodel`` file.
        files: names of the files in one of its folders.

    Raises:
        InvalidInput: none of its flavors can be evaluated.
    """
    flavors = document.get("flavors")
    if not isinstance(flavors, Mapping) or not all(
        isinstance(f, Mapping) for f in flavors.values()
    ):
        raise InvalidInput(f"model {name!r}: its MLmodel file lists no flavors")
    if "pytorch" in flavors:
        settings = flavors["pytorch"]
        # As MLflow itself tells them apart: a file model.pth wins, and is unpickled.
        data = set(files(str(settings.get("model_data", "data"))))
        form: Literal["pt2", "pickle"] = (
            "pt2" if data & {"model.pt2", "model.pth"} == {"model.pt2"} else "pickle"
        )
        return StoredModel(name, uri, location, form, _code(settings))
    if "python_function" not in flavors:
        raise InvalidInput(
            f"model {name!r} has flavors {', '.join(map(str, flavors)) or 'none'}: "
            "pytorch or python_function is needed"
        )
    settings = flavors["python_function"]
    module = str(settings.get("loader_module", ""))
    brought = _code(settings)
    foreign = () if module.startswith("mlflow.") else (module,)
    return StoredModel(name, uri, location, "pyfunc", (*foreign, *brought))


def _code(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(settings[key]) for key in ("code", "model_code_path") if settings.get(key))


# ---- finding ----


@dataclass(frozen=True)
class _Found:
    """A model's name and addresses, and the reader of names in one of its folders."""

    name: str
    uri: str
    location: str
    files: Callable[[str], Collection[str]]


def _logged(store: Store) -> dict[str, list[_Found]]:
    """Models that are entities of MLflow 3, by source run, oldest first."""
    found: dict[str, list[_Found]] = {}
    models: list[Any] = []
    token = None
    while True:
        try:
            page = store.client.search_logged_models([store.experiment.id], page_token=token)
        except MlflowException as error:
            if error.get_http_status_code() != 404:  # type: ignore[no-untyped-call]
                raise
            return {}  # a server of MLflow 2 has no such entities
        models += page
        token = page.token
        if not token:
            break
    for model in sorted(models, key=lambda model: model.creation_timestamp):
        if model.source_run_id and str(model.status) == "READY":
            files = _files_of_logged(store.client, model.model_id)
            item = _Found(model.name, model.model_uri, model.artifact_location, files)
            found.setdefault(model.source_run_id, []).append(item)
    return found


def _files_of_logged(client: MlflowClient, model_id: str) -> Callable[[str], Collection[str]]:
    return lambda path: {
        Path(item.path).name for item in client.list_logged_model_artifacts(model_id, path)
    }


def _among_artifacts(client: MlflowClient, run_id: str) -> list[_Found]:
    found: list[_Found] = []
    folders, looked = [""], 0
    while folders and looked < _FOLDERS:
        folder = folders.pop(0)
        looked += 1
        items = client.list_artifacts(run_id, folder or None)
        if any(not item.is_dir and Path(item.path).name == "MLmodel" for item in items):
            files = _files_of_run(client, run_id, folder)
            uri = f"runs:/{run_id}/{folder}".rstrip("/")
            found.append(_Found(folder or "model", uri, uri, files))
        elif folder.count("/") < _DEPTH - 1:
            folders += [item.path for item in items if item.is_dir]
    return found


def _files_of_run(
    client: MlflowClient, run_id: str, folder: str
) -> Callable[[str], Collection[str]]:
    return lambda path: {
        Path(item.path).name
        for item in client.list_artifacts(run_id, f"{folder}/{path}".strip("/"))
    }


def _choose(found: Sequence[_Found], name: str | None) -> _Found:
    by_name = {model.name: model for model in found}  # the newest of each name
    if name is not None and name in by_name:
        return by_name[name]
    if not by_name:
        raise InvalidInput("no model is logged with it")
    if name is not None:
        raise InvalidInput(f"it has no model {name!r} (it has {', '.join(by_name)})")
    if len(by_name) > 1:
        raise InvalidInput(
            f"it has {len(by_name)} models ({', '.join(by_name)}): --model NAME says which"
        )
    return next(iter(by_name.values()))


def _describe_stored(store: Store, found: _Found) -> StoredModel:
    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        text = _download(store, f"{found.location}/MLmodel", folder).read_text("utf-8")
    return describe(found.name, found.uri, found.location, _mlmodel(text, found.name), found.files)


def _mlmodel(text: str, name: str) -> Mapping[str, Any]:
    document = parse_yaml(text, f"model {name!r}: MLmodel")
    if not isinstance(document, Mapping):
        raise InvalidInput(f"model {name!r}: its MLmodel file is no mapping")
    return document


def _download(store: Store, uri: str, folder: str) -> Path:
    run_id, _, inside = uri.removeprefix("runs:/").partition("/")
    try:
        if uri.startswith("runs:/"):  # which is no address of all of a run's artifacts
            path = store.client.download_artifacts(run_id, inside, folder)
        else:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=folder, tracking_uri=store.uri
            )
    except (OSError, MlflowException) as error:
        text = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{uri} cannot be read: {text}") from error
    return Path(path)


# ---- loading ----


def _load(model: StoredModel, folder: Path) -> Any:
    name = "mlflow.pyfunc" if model.form == "pyfunc" else "mlflow.pytorch"
    arguments = {"map_location": "cpu"} if model.form == "pickle" else {}
    try:
        return importlib.import_module(name).load_model(str(folder), **arguments)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InvalidInput(f"model {model.name!r} cannot be loaded: {text}") from error


@contextmanager
def _own_imports(folder: str) -> Iterator[None]:
    """Forget afterwards what was imported from below ``folder``: the next model may bring another
    module of the same name."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(folder):
                del sys.modules[name]
