"""Tags of an experiment that MLflow's page of it shows first: its description, and a saved view whose
table and charts need no set-up. Pure: texts in, texts out.

Each carries a digest of itself, so that one that somebody has changed since is recognised.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

NOTE = "mlflow.note.content"
VIEW_KEY = "multiplicity"
VIEW = f"mlflow.sharedViewState.{VIEW_KEY}"
VIEW_NAME = "Multiplicity"
CELLS = "tags.`mm.kind` = 'cell'"
COLUMNS = 20  # metrics in the table
AXES = 6  # metrics that the parallel coordinates end in: more are not told apart
SCATTERS = 9

# The page shows the first line only, until the rest is asked for; the list of experiments as plain text.
TITLE = "Model multiplicity."
WHAT = (
    "The same task, trained many times with different choices and seeds: each run here is one "
    "configuration and one seed, and each of its metrics an accuracy under an intervention. Reports "
    "show how far these models come apart."
)
NO_REPORT = "No report yet: `mm-mlflow sheet` writes one."
_MARK = re.compile(r"\n*<!-- mm_mlflow ([0-9a-f]{64}) -->\s*\Z")


def first_tags(now: int) -> dict[str, str]:
    """The tags of a new experiment; ``now`` in milliseconds since 1970."""
    return {NOTE: description([]), VIEW: envelope(view_state(), now)}


def description(reports: Sequence[tuple[str, str]], pages: Sequence[tuple[str, str]] = ()) -> str:
    """What the experiment is, with links to its ``reports`` and other ``pages``: pairs of a title and
    an address."""
    links = " · ".join(f"[{title}]({address})" for title, address in [*reports, *pages])
    first = " ".join([TITLE, *([] if reports else [NO_REPORT]), links]).rstrip()
    return marked(f"{first}\n\n{WHAT}")


def marked(text: str) -> str:
    """``text`` with a digest of itself, in a comment that Markdown does not show."""
    return f"{text}\n\n<!-- mm_mlflow {_digest(text)} -->"


def is_ours(text: str) -> bool:
    """Whether ``text`` is one of :func:`marked`, unchanged."""
    found = _MARK.search(text)
    return found is not None and _digest(text[: found.start()]) == found[1]


def envelope(state: Mapping[str, Any], created: int) -> str:
    """A saved view as MLflow's page stores it (3.16 on): a name, milliseconds since 1970, and the
    state as deflated JSON; ours also has a digest of the state, which the page drops when somebody
    saves over it."""
    packed = zlib.compress(json.dumps(state, sort_keys=True).encode())
    text = f"deflate;{base64.b64encode(packed).decode()}"
    return json.dumps(
        {"name": VIEW_NAME, "createdAt": created, "updatedAt": created, "state": text,
         "mm": _digest(text)}
    )  # fmt: skip


def is_our_view(value: str) -> bool:
    """Whether ``value`` is one of :func:`envelope`, unchanged."""
    try:
        found = json.loads(value)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("mm") == _digest(str(found.get("state")))


def view_state(params: Sequence[str] = (), metrics: Sequence[str] = ()) -> dict[str, Any]:
    """The state of MLflow's page: cells only, a column for each param and metric, every run in the
    charts; a parallel coordinates chart, and accuracy against each other metric."""
    columns = [f"params.`{name}`" for name in params]
    columns += [f"metrics.`{key}`" for key in metrics[:COLUMNS]]
    charts = [
        {
            **_chart("PARALLEL", "parallel", "together"),
            "selectedParams": [*params],
            "selectedMetrics": [*metrics[:AXES]],
            "showAllRuns": False,
        }
    ]
    first, *others = metrics or ("",)
    for i, key in enumerate(others[:SCATTERS]):
        charts.append(
            {
                **_chart("SCATTER", f"scatter-{i}", "against"),
                "xaxis": {"key": first, "type": "METRIC"},
                "yaxis": {"key": key, "type": "METRIC"},
            }
        )
    sections = [
        _section("together", "Params and metrics of every run", columns=1, height=420),
        _section("against", f"Every metric against {first}", columns=3, height=360),
    ]
    return {
        "searchFilter": CELLS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "isAccordionReordered": True,  # else the page sorts our sections behind its own
        # The page adds a chart for every metric that has none.
        "compareRunCharts": charts if metrics else [],
        "compareRunSections": sections[: 1 + bool(others)] if metrics else [],
    }


def _chart(kind: str, name: str, section: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"mm-{name}",
        "metricSectionId": f"mm-{section}",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
    }


def _section(name: str, title: str, *, columns: int, height: int) -> dict[str, Any]:
    return {
        "uuid": f"mm-{name}",
        "name": title,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
        "cardHeight": height,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
