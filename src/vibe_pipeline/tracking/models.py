"""An adapter as one of MLflow's logged models, so that its registry takes it and an arm can name it."""

import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput

from vibe_pipeline.io.manifests import AdapterManifest

FLAVOUR = "diffusers_lora"


def log_adapter(client: MlflowClient, run_id: str, manifest: AdapterManifest) -> str:
    """Upload an adapter as the output of the run that trained it.

    Args:
        client: Of the store.
        run_id: The adapter's run.
        manifest: Its weights, and the settings they were trained with.

    Returns:
        The id of the model; `models:/ID` is its address.

    Raises:
        MlflowException: The store did not take it.
        OSError: The weights cannot be read, or the store's place not be written.
    """
    experiment = client.get_run(run_id).info.experiment_id
    about = {"adapter_key": manifest.key, "row": manifest.name}
    model = client.create_logged_model(experiment, manifest.name, run_id, tags=about, model_type="LoRA")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / manifest.path.name).symlink_to(manifest.path.absolute())
        (folder / "MLmodel").write_text(yaml.safe_dump(_description(model, manifest)), encoding="utf-8")
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, int(manifest.parameters.get("steps", 0)))])
    return str(model.model_id)


def _description(model: Any, manifest: AdapterManifest) -> dict[str, Any]:
    """The file that the registry asks of a model; by hand, since MLflow's own writer imports all its flavours."""
    return {
        "artifact_path": f"models:/{model.model_id}",  # not its place, which changes with the project's
        "flavors": {FLAVOUR: {"weights": manifest.path.name} | ({"part": manifest.part} if manifest.part else {})},
        "mlflow_version": version("mlflow"),
        "model_id": model.model_id,
        "run_id": model.source_run_id,
        "utc_time_created": str(datetime.now(UTC).replace(tzinfo=None)),
    }
