"""MLflow's own projects: fetched and read, and their entry points run as MLflow's local backend does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.projects.submitted_run import LocalSubmittedRun
from mlflow.projects.utils import (
    MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG,
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
    fetch_and_validate_project,
    load_project,
)
from mlflow.utils.git_utils import get_git_commit
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PROJECT_BACKEND,
    MLFLOW_PROJECT_ENTRY_POINT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from mm_mlflow.errors import InvalidInput, MultiplicityError
from mm_mlflow.tracking.store import Store

# What `mlflow run` adds to a backend's configuration: its own options.
OPTIONS = (
    PROJECT_ENV_MANAGER, PROJECT_SYNCHRONOUS, PROJECT_DOCKER_ARGS, PROJECT_STORAGE_DIR,
    PROJECT_BUILD_IMAGE, PROJECT_DOCKER_AUTH,
)  # fmt: skip

BACKEND = "multiplicity"


class ProjectError(MultiplicityError):
    """The environment of a project, or its command, cannot be made."""


Launch = Callable[[str, str], Any]


@dataclass(frozen=True)
class Checkout:
    """An MLflow project on this machine, and how its entry point is to be run.

    Attributes:
        uri: as the user named it.
        folder: where it is.
        name: of its MLproject file; else of the folder or repository.
        entry_point: which is run.
        declared: parameters of the entry point, with their defaults (None: it has to be given).
        commit: of the git repository that the folder is in, if it is in one.
        options: of ``mlflow run``: environment manager, storage folder, docker.
    """

    uri: str
    folder: str
    name: str
    entry_point: str
    declared: Mapping[str, Any]
    commit: str | None
    options: Mapping[str, Any]

    @property
    def env_manager(self) -> str:
        """What makes the environment; ``auto`` where MLflow chooses."""
        return str(self.options.get(PROJECT_ENV_MANAGER) or "auto")

    def tags(self) -> dict[str, str]:
        """What MLflow's own backends say of a run's project."""
        tags = {
            MLFLOW_SOURCE_NAME: self.uri,
            MLFLOW_SOURCE_TYPE: "PROJECT",
            MLFLOW_PROJECT_ENTRY_POINT: self.entry_point,
            MLFLOW_PROJECT_BACKEND: BACKEND,
        }
        return tags | ({MLFLOW_GIT_COMMIT: self.commit} if self.commit else {})


def fetch_project(
    uri: str,
    version: str | None,
    entry_point: str,
    parameters: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Checkout:
    """Fetch a project (a folder stays where it is) and check its entry point.

    Raises:
        InvalidInput: no such project, version or entry point, or a parameter that has no value.
    """
    try:
        fetched = fetch_and_validate_project(  # type: ignore[no-untyped-call]
            uri, version, entry_point, dict(parameters)
        )
        folder = str(fetched)
        project = load_project(folder)  # type: ignore[no-untyped-call]
        found = project.get_entry_point(entry_point)
    except Exception as error:  # git's, YAML's, MLflow's: a project may be broken anyhow
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidInput(f"project {uri!r} cannot be used: {text[:500]}") from error
    declared = {} if found is None else {p.name: p.default for p in found.parameters.values()}
    name = project.name or Path(uri.partition("#")[0].rstrip("/")).name.removesuffix(".git")
    if name in {"", "."}:
        name = Path(folder).name
    return Checkout(
        uri, folder, str(name), entry_point, declared, get_git_commit(folder), dict(options)
    )


def run_entry_point(
    store: Store,
    run_id: str,
    checkout: Checkout,
    parameters: Mapping[str, Any],
    storage: str,
    launch: Launch,
) -> None:
    """Have MLflow's local backend make the environment and the command, and ``launch(command,
    folder)`` in the place of its own start of a process.

    Its own would leave the process behind when a worker is killed, and its output nowhere.
    ``storage`` is a folder for what is downloaded, unless the user named one.

    Raises:
        ProjectError: the environment or the command cannot be made.
    """
    from mlflow.projects.backend import local

    def launched(command: str, work_dir: str, *_: object, **__: object) -> LocalSubmittedRun:
        launch(command, work_dir)
        return LocalSubmittedRun(run_id, None)  # type: ignore[no-untyped-call]

    config = {**dict.fromkeys(OPTIONS), **checkout.options}
    config[PROJECT_SYNCHRONOUS] = True
    config[PROJECT_STORAGE_DIR] = config[PROJECT_STORAGE_DIR] or storage
    config[MLFLOW_LOCAL_BACKEND_RUN_ID_CONFIG] = run_id
    with _tracking_uri(store.uri), _replaced(local, "_run_entry_point", launched):
        try:
            local.LocalBackend().run(  # type: ignore[no-untyped-call]
                checkout.folder,
                checkout.entry_point,
                dict(parameters),
                None,
                config,
                store.uri,
                store.experiment.id,
            )
        except Exception as error:  # as above
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise ProjectError(
                f"project {checkout.name!r} with --env-manager {checkout.env_manager}: {text[:500]}"
            ) from error


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Without what these loggers tell of every command, folder and environment."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """MLflow's local backend asks the environment for it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)  # an MLflow without it fails here, not by running twice
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
