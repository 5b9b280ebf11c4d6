"""A real `mlflow server` with a real sweep in it, for tests in a browser and for the README's picture."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

BROWSER = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
# What MLflow opens for newcomers: its assistant, which takes a third of the window.
SETTLED = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""


@dataclass(frozen=True)
class Site:
    """A server and what the command line said of the sweep in it.

    Attributes:
        url: the server's address, without a slash at its end.
        experiment: the experiment's id.
        pages: addresses that the command printed, by their names ("Report", "Runs", "Charts").
    """

    url: str
    experiment: str
    pages: dict[str, str]

    def runs(self, kind: str) -> list[Run]:
        """Runs of one kind, as MLflow alone returns them."""
        found = MlflowClient(self.url).search_runs([self.experiment], max_results=1000)
        return [run for run in found if run.data.tags.get("mm.kind") == kind]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """`mlflow server` on a free port of this machine; yields its address, and stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**clean(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        session = requests.Session()
        patient = Retry(total=None, connect=120, backoff_factor=0.1, backoff_max=1)
        session.mount("http://", HTTPAdapter(max_retries=patient))
        session.get(f"{url}/health", timeout=60).raise_for_status()
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@contextlib.contextmanager
def site(folder: Path, design: Path, *options: str) -> Iterator[Site]:
    """A server with a sweep of ``design`` in it, and its sheets, by the real command line."""
    with server(folder) as url:
        command = [sys.executable, "-m", "mm_mlflow", "sweep", str(design), "--sheet", *options]
        environment = {**clean(), "MLFLOW_TRACKING_URI": url}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        pages = dict(re.findall(r"^(\w+): (http\S+)$", done.stdout, re.MULTILINE))
        found = re.search(r"/experiments/(\w+)/", pages["Report"])
        assert found
        yield Site(url, found[1], pages)


def clean() -> dict[str, str]:
    """The environment without what MLflow and this program read from it, but for the cache."""
    ours = ("MLFLOW_", "MM_MLFLOW_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    cache = os.environ.get("MM_MLFLOW_CACHE")
    return {**kept, **({"MM_MLFLOW_CACHE": cache} if cache else {})}


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield started
        started.close()


def new_page(chromium: Any, *, scheme: str = "light", width: int = 1440, height: int = 900) -> Any:
    """A page with storage of its own, of somebody who has closed MLflow's assistant."""
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.add_init_script(SETTLED)
    context.set_default_timeout(45_000)
    return context.new_page()


def violations(frame: Any) -> list[dict[str, Any]]:
    """What axe-core finds wrong with a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(frame, options={"resultTypes": ["violations"]}).response
    violated: list[dict[str, Any]] = found["violations"]
    return violated
