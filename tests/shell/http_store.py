"""A tracking server for tests: MLflow's own handlers behind a door that may refuse, fail or hang."""

from __future__ import annotations

import http.server
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
from mlflow.server import app, handlers
from mlflow.tracking._tracking_service.utils import _tracking_store_registry

with warnings.catch_warnings():  # deprecated; the first search imports it
    warnings.simplefilter("ignore")
    import starlette.middleware.wsgi  # noqa: F401

Answer = int | Literal["json 403", "hang"] | None
Rule = Callable[[str, str], Answer]


@dataclass
class HttpStore:
    """What the server does, and what it was asked.

    Attributes:
        rule: from method and path (after ``mlflow/``) to a status to answer, ``json 403`` for one in
            MLflow's own words, ``hang`` to say nothing, or None for MLflow's answer.
        asked: method, path and status of every request.
    """

    uri: str = ""
    rule: Rule = lambda *_: None
    asked: list[tuple[str, str, Answer]] = field(default_factory=list)


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch, database: str) -> Iterator[HttpStore]:
    """A server over ``database`` (a sqlite URI) on a free loopback port."""
    # In place of handlers' own opening, which would set the tracking URI of this whole process.
    monkeypatch.setattr(handlers, "_tracking_store", _tracking_store_registry.get_store(database))
    store, over = HttpStore(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0].partition("mlflow/")[2]
            said = store.rule(self.command, path)
            store.asked.append((self.command, path, said))
            if said == "hang":
                over.wait()
                return
            if said is None:
                real = app.test_client().open(
                    self.path, method=self.command, data=body,
                    content_type=self.headers.get("Content-Type"),
                )  # fmt: skip
                self.reply(real.status_code, real.data)
            elif said == "json 403":
                text = {"error_code": "PERMISSION_DENIED", "message": "not yours"}
                self.reply(403, json.dumps(text).encode())
            else:
                self.reply(int(said), b"go away")

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

        def reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Tests read standard error."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.uri = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
