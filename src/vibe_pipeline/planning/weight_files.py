"""Files of weights that rows name, judged by their headers before a run."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vibe_pipeline.diffusion.mag_cache import read_ratios
from vibe_pipeline.diffusion.own_weights import require_own_weights
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.diffusion.weights import linear_shapes
from vibe_pipeline.experiment.arms import ArmParams, ExtraAdapter
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.calibration import planned_calls, require_passes
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.generation.methods.sr import usable_network
from vibe_pipeline.generation.peer_weights import how_to_get
from vibe_pipeline.io.named import require_file
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.expert_loads import split

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

log = logging.getLogger(__name__)


def own_transformer(path: Path, field: str, model: ModelParams) -> str:
    """Whether a row's own transformer is one of the base's architecture; says what is there.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    architecture = load_architecture(model.path)
    if not path.is_dir():
        require_file(path, field, how_to_get(path))
    try:
        return require_own_weights(path, architecture.transformer, architecture.name)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def network(name: str, sr: SuperResolutionParams, model: ModelParams) -> str:
    """Whether a row's network can be loaded and run; says what it is and makes. It is small, and read whole.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    found = usable_network(sr, model.dtype, f"arms.{name}.sr.weights")
    sizes = ", ".join([found.architecture.name, *found.tags])
    given = f"{model.native.height * found.scale}x{model.native.width * found.scale}"
    return f"{sr.weights}: {sizes}; {given}, resized to {model.target.height}x{model.target.width}"


def step_ratios(path: Path, field: str, arm: ArmParams, model: ModelParams) -> str:
    """Whether a file has the ratios of every forward that an arm runs; says how many are computed.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    method, architecture = method_of(arm), load_architecture(model.path)
    levels = split(method.levels(arm, model.flow_shift), architecture.boundary)
    calls = planned_calls(arm, dict(zip(architecture.experts, levels, strict=True)))
    try:
        require_passes(path, read_ratios(require_file(path, field, "")), calls)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
    cache = step_cache_of(arm.step_cache)
    assert cache is not None  # which names the file
    every = len(method.levels(arm, model.flow_shift))
    return f"{path}: {cache.computed(every)} of {every} steps computed"


def extra_adapter(extra: ExtraAdapter, field: str, transformer: "Callable[[], WanTransformer3DModel]") -> str:
    """Whether an arm's extra adapter, and differences that it asks for, fit the base; says what is there.

    Args:
        extra: The adapter.
        field: Its dotted name.
        transformer: Gives the base's, without weights.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    from vibe_pipeline.diffusion.lora import check_adapter  # with peft and diffusers: for arms that have such a file
    from vibe_pipeline.diffusion.lora_differences import check_differences, parameter_shapes

    beside = extra.differences_path
    try:
        changed = check_adapter(require_file(extra.path, field, how_to_get(extra.path)), linear_shapes(transformer()))
        if extra.differences:
            require_file(beside, f"{field}: differences", "import-adapter --differences writes it")
            count = check_differences(beside, parameter_shapes(transformer()))
            return f"{extra.path}, {changed} layers, and {count} parameters that are fused"
        if beside.is_file():
            log.warning("%s: %s is not fused, as the row does not say `differences: true`", field, beside)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(field) else f"{field}: {error}") from error
    return f"{extra.path}, {changed} layers"


def require_fitting_adapter(path: Path, field: str, model: ModelParams) -> None:
    """Refuse an adapter whose layers or shapes are not the base's, by its header.

    Raises:
        ValueError, FileNotFoundError: Names the field, the file and what is wrong.
    """
    from vibe_pipeline.diffusion.lora import check_adapter

    try:
        check_adapter(require_file(path, field, ""), linear_shapes(load_architecture(model.path).build_transformer()))
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
