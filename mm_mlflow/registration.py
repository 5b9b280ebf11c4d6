"""Selected models into MLflow's model registry. Needs torch, which reading commands do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from mm_mlflow import models, tracking
from mm_mlflow.errors import InvalidInput
from mm_mlflow.tracking import Store

Loaded = Mapping[tuple[str, str], tuple[nn.Module, Mapping[str, Any]]]


def check_name(name: str) -> None:
    """Refuse a name that MLflow's registry does not take, or that its queries cannot quote."""
    if not name.strip() or any(character in name for character in "/:'"):
        raise InvalidInput(f"register {name!r} is not allowed: a name without '/', ':' and quotes")


def load(store: Store, chosen: Mapping[str, str]) -> Loaded:
    """The models of cells, by cell id and run id, before anything is written.

    Args:
        store: the experiment.
        chosen: cell id to the run that holds it.

    Raises:
        InvalidInput: a run keeps no weights, or its architecture is not known here.
        TrackingError: its weights cannot be read.
    """
    loaded = {}
    for cell, run_id in chosen.items():
        if not tracking.has_artifact(store, run_id, "model.safetensors"):
            raise InvalidInput(
                f"run {run_id} keeps no model.safetensors, so its model cannot be registered: models "
                "that mm_mlflow trained can, unless their design says keep: {weights: none}"
            )
        data = tracking.artifact(store, run_id, "model.safetensors")
        loaded[cell, run_id] = models.from_bytes(data)
    return loaded


def register(store: Store, report: str, name: str, loaded: Loaded) -> list[str]:
    """Register models as versions of ``name``; returns the versions. Those that are there stay as
    they are.

    Each is stored with the report run, as a traced graph that loads without this package; nothing is
    unpickled.

    Args:
        store: the experiment.
        report: id of the report run that selected them.
        name: of the registered model, made where there is none.
        loaded: what :func:`load` gave.
    """
    versions = []
    with tracking.reading_errors(store.uri):
        present = tracking.registered(store, name)
        for (cell, run_id), (model, spec) in loaded.items():
            if run_id not in present:
                # Two images: a batch of one would be traced as a constant.
                example = np.full((2, spec["channels"], *spec["size"]), 0.5, dtype=np.float32)
                tags = {"mm.cell": cell, "mm.cell_run": run_id, "mm.selected_by": report}
                present[run_id] = tracking.register_model(
                    store, report, name, model, example, f"models/{cell[:12]}", tags
                )
            versions.append(present[run_id])
    return versions
