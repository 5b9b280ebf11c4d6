"""Where runs are: the store, the experiment, and what goes wrong when they are reached."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import get_tracking_uri
from requests.utils import get_environ_proxies
from sqlalchemy.exc import SQLAlchemyError

from mm_mlflow.errors import (
    InvalidInput,
    MultiplicityError,
    TrackingError,
    UnknownExperiment,
    unknown,
)
from mm_mlflow.frame import ExperimentRef
from mm_mlflow.tracking.experiment_tags import first_tags

_CONNECT_SECONDS = 5.0
_KIND = "custom_model_development"


@dataclass(frozen=True)
class Store:
    """An experiment in a tracking store: small enough to travel to a worker.

    Attributes:
        uri: the tracking URI, with relative sqlite paths made absolute.
        experiment: where runs are read and written.
    """

    uri: str
    experiment: ExperimentRef

    @property
    def client(self) -> MlflowClient:
        """A client of this store; MLflow keeps the connections behind it, one per process."""
        return MlflowClient(tracking_uri=self.uri)


def connect(uri: str | None = None, *, create: bool = False) -> str:
    """The tracking URI to use, after one quick attempt to reach a server.

    Raises:
        UnknownExperiment: ``create`` is false and the URI names a database or a folder that holds no
            MLflow runs: MLflow would make them there.
        TrackingError: nothing answers (MLflow itself would go on trying for minutes: seen).
    """
    uri = uri or get_tracking_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    if not create:
        _refuse_nothing(uri)
    address = urlsplit(uri)
    # Who goes by a proxy cannot be asked directly.
    if address.scheme in {"http", "https"} and not get_environ_proxies(uri).get(address.scheme):
        try:
            port = address.port or {"http": 80, "https": 443}[address.scheme]
        except ValueError as error:
            raise InvalidInput(f"tracking server {uri!r} is no address: {error}") from error
        try:  # a connection only: certificates and patience are MLflow's own business
            socket.create_connection((address.hostname or "", port), _CONNECT_SECONDS).close()
        except OSError as error:
            raise TrackingError(
                f"tracking server {uri!r} does not answer ({type(error).__name__}); "
                "start it, or name another with --tracking-uri or MLFLOW_TRACKING_URI"
            ) from error
    return uri


def _refuse_nothing(uri: str) -> None:
    """Refuse a local store that is not there, which opening it would create."""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        found = path.is_file() and _holds_experiments(path)
        what = "is no MLflow database" if path.is_file() else "does not exist"
    elif uri != "databricks" and urlsplit(uri).scheme in {"", "file"}:
        path = Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)
        found = any(path.glob("*/meta.yaml"))
        what = "holds no MLflow experiments" if path.is_dir() else "does not exist"
    else:
        return
    if not found:
        raise UnknownExperiment(
            f"tracking store {uri!r}: {path.name} {what}, and reading creates nothing; name another "
            "with --tracking-uri or MLFLOW_TRACKING_URI"
        )


def _holds_experiments(path: Path) -> bool:
    """Whether a sqlite file has MLflow's tables, looked at without touching it."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'experiments'"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchone() is not None
    except sqlite3.DatabaseError as error:
        raise TrackingError(f"tracking store {str(path)!r} cannot be read: {error}") from error


@contextmanager
def reading_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into one line that says what to do."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, requests.RequestException) as error:
        raise TrackingError(f"tracking store {uri!r}: {explain(error)}") from error


def explain(error: Exception) -> str:
    """One line: the status that a server answered, what was wrong in its words, and what to do."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MultiplicityError):  # one line already
        return text
    status = _status(error, text)
    told = f"status {status}: " if status else ""
    if "out-of-date database schema" in text:
        hint = "; copy the database and run `mlflow db upgrade` on the copy"
    elif "MLFLOW_ALLOW_FILE_STORE" in text:
        text = "MLflow reads a file store only where MLFLOW_ALLOW_FILE_STORE=true is set"
        hint = ", and `mlflow migrate-filestore` moves it to a database"
    elif status in {401, 403}:
        hint = (
            "; who asks is said by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or by "
            "MLFLOW_TRACKING_TOKEN: ask the server's owner for the right"
        )
    elif status >= 500:
        hint = "; the server failed, after MLflow's own retries: its log says why"
    elif "timeout" in text or "timed out" in text:
        text = "no answer in time, after MLflow's own retries"
        hint = "; MLFLOW_HTTP_REQUEST_TIMEOUT (seconds) gives the server longer"
    else:
        hint = ""
    return f"{told}{text[:300]}{hint}"


def _status(error: Exception, text: str) -> int:
    """The HTTP status behind an error of MLflow, which only its words tell; 0 where there is none."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    found = re.search(r"failed with error code (\d{3})\b|too many (\d{3}) error responses", text)
    if found:
        return int(found[1] or found[2])
    if isinstance(error, RestException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 0


def open_store(
    uri: str | None, experiment_name: str | None, fallback: str | None = None, create: bool = False
) -> Store:
    """The experiment to work in: the one named, else the one that MLflow's environment names (by id
    or name, unless that is just Default: a bare ``mlflow run`` sets id 0), else ``fallback``.

    Raises:
        InvalidInput: no experiment is named, or it or the store does not exist and ``create`` is false.
        TrackingError: the store cannot be read or written.
    """
    uri = connect(uri, create=create)
    with reading_errors(uri):
        client = MlflowClient(tracking_uri=uri)
        name = experiment_name or _named_by_environment(client) or fallback
        if name is None:
            raise InvalidInput(
                "no experiment is named: --experiment-name NAME, MLFLOW_EXPERIMENT_NAME, or a design does"
            )
        found = client.get_experiment_by_name(name)
        if found is None and not create:
            known = [item.name for item in client.search_experiments(max_results=1000)]
            raise UnknownExperiment(f"{unknown('experiment', name, known)} in {uri}")
        if found is None:
            found = client.get_experiment(_create_experiment(client, name))
        if found.lifecycle_stage != "active":
            raise InvalidInput(f"experiment {name!r} is deleted: restore it, or name another")
    return Store(uri=uri, experiment=ExperimentRef(id=str(found.experiment_id), name=found.name))


def _create_experiment(client: MlflowClient, name: str) -> str:
    try:
        # Older UIs open experiments of unknown kind as GenAI, with a table that shows no params.
        tags = {"mlflow.experimentKind": _KIND, **first_tags(time.time_ns() // 1_000_000)}
        return str(client.create_experiment(name, tags=tags))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another sweep made it meanwhile
        if found is None:
            raise
        return str(found.experiment_id)


def _named_by_environment(client: MlflowClient) -> str | None:
    identifier = os.environ.get("MLFLOW_EXPERIMENT_ID")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if identifier and identifier != "0":
        try:
            return str(client.get_experiment(identifier).name)
        except MlflowException as error:
            raise InvalidInput(
                f"MLFLOW_EXPERIMENT_ID {identifier!r} is no experiment of this store"
            ) from error
    return name if name and name != "Default" else None
