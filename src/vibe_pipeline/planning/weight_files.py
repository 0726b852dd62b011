"""Files of weights that rows name, judged by their headers before a run."""

from collections.abc import Callable
from pathlib import Path

from vibe_pipeline.diffusion.own_weights import require_own_weights
from vibe_pipeline.diffusion.weights import Shapes
from vibe_pipeline.experiment.arms import ExtraAdapter
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.io.named import require_file
from vibe_pipeline.planning.architecture import load_architecture


def own_transformer(path: Path, field: str, model: ModelParams) -> str:
    """Whether a row's own transformer is one of the base's architecture; says what is there.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    architecture = load_architecture(model.path)
    if not path.is_dir():
        require_file(path, field)
    try:
        return require_own_weights(path, architecture.transformer, architecture.name)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def extra_adapter(extra: ExtraAdapter, field: str, layers: Callable[[], Shapes]) -> str:
    """Whether an arm's extra adapter fits the base's layers; says what is there.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    from vibe_pipeline.diffusion.lora import check_adapter  # with peft and diffusers: for arms that have such a file

    try:
        changed = check_adapter(require_file(extra.path, field), layers())
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(field) else f"{field}: {error}") from error
    return f"{extra.path}, {changed} layers"
