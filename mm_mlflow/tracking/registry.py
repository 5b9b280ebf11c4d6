"""MLflow's model registry."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from mm_mlflow.tracking.store import Store


def registered(store: Store, name: str) -> dict[str, str]:
    """Versions of a registered model that cells gave, by the cell's run id."""
    versions = store.client.search_model_versions(f"name='{name}'")
    return {
        version.tags["mm.cell_run"]: str(version.version)
        for version in versions
        if "mm.cell_run" in version.tags
    }


def register_model(
    store: Store,
    run_id: str,
    name: str,
    model: Any,
    example: Any,
    path: str,
    tags: Mapping[str, str],
) -> str:
    """Store a torch model as an MLflow model of a run, and register it as a version of ``name``.

    It is stored as a traced graph (``pt2``), which loads without this package and without unpickling.

    Args:
        store: the experiment.
        run_id: the run that stores it.
        name: of the registered model, made where there is none.
        model: an ``nn.Module`` on the CPU, in eval mode.
        example: ``(n, C, H, W)`` float32 images, at least two, so that batches may have any size.
        path: of the model among the run's artifacts.
        tags: of the version.

    Returns:
        The version.
    """
    import mlflow.pytorch

    with tempfile.TemporaryDirectory(prefix="mm_mlflow-") as folder:
        target = Path(folder) / "model"
        mlflow.pytorch.save_model(
            model, target, serialization_format="pt2", input_example=example,
            pip_requirements=[f"torch=={version('torch')}", f"mlflow=={version('mlflow')}"],
        )  # fmt: skip
        store.client.log_artifacts(run_id, str(target), path)
    try:
        store.client.create_registered_model(name)
    except MlflowException:
        store.client.get_registered_model(name)  # raises where that was not the reason
    made = store.client.create_model_version(
        name, source=f"runs:/{run_id}/{path}", run_id=run_id, tags=dict(tags)
    )
    return str(made.version)
