"""Selected models into MLflow's model registry. Needs torch, which reading commands do not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mm_mlflow import models, tracking
from mm_mlflow.errors import InvalidInput
from mm_mlflow.tracking import Store


def register(store: Store, report: str, name: str, chosen: Mapping[str, str]) -> list[str]:
    """Register the models of cells as versions of ``name``; returns the versions.

    Each is stored with the report run, as a traced graph that loads without this package; the weights
    come from the cell's ``model.safetensors``, so nothing is unpickled.

    Args:
        store: the experiment.
        report: id of the report run that selected them.
        name: of the registered model, made where there is none.
        chosen: cell id to the run that holds it.

    Raises:
        InvalidInput: a run keeps no weights.
        TrackingError: its weights cannot be read.
    """
    versions = []
    for cell, run_id in chosen.items():
        if not tracking.has_artifact(store, run_id, "model.safetensors"):
            raise InvalidInput(
                f"run {run_id} keeps no weights (keep: weights: none), so its model cannot be registered"
            )
        model, spec = models.from_bytes(tracking.artifact(store, run_id, "model.safetensors"))
        # Two images: a batch of one would be traced as a constant.
        example = np.full((2, spec["channels"], *spec["size"]), 0.5, dtype=np.float32)
        tags = {"mm.cell": cell, "mm.cell_run": run_id, "mm.selected_by": report}
        with tracking.reading_errors(store.uri):
            version = tracking.register_model(
                store, report, name, model, example, f"models/{cell[:12]}", tags
            )
        versions.append(version)
    return versions
