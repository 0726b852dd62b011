"""Files of weights, the base's and those that rows name, judged by their headers before a run."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from vibe_pipeline.diffusion.checkpoint import find_model, require_whole
from vibe_pipeline.diffusion.foreign import HUB_ID
from vibe_pipeline.diffusion.mag_cache import read_ratios
from vibe_pipeline.diffusion.own_weights import require_own_weights
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.diffusion.weights import Once, linear_shapes, made
from vibe_pipeline.experiment.arms import ArmParams, ExtraAdapter
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.generation.calibration import planned_calls, require_passes
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.generation.methods.sr import usable_network
from vibe_pipeline.generation.peer_weights import how_to_get
from vibe_pipeline.io.named import require_file
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.checks import Check
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


def weights_check(path_or_id: str, once: Once = made) -> Check:
    """The base: a model that can be run, whole; `once` keeps the shapes that its configurations ask for."""

    def look() -> str:
        checkpoint = find_model(path_or_id)
        require_whole(checkpoint, once)
        return str(checkpoint.path)

    is_id = HUB_ID.fullmatch(path_or_id) and not Path(path_or_id).exists()
    fix = f"hf download {path_or_id}" if is_id else "set model.path to a whole model, as the line above says"
    return Check("weights", look, fix)


def expert_checks(model: ModelParams, generation: GenerationParams, arms: Mapping[str, ArmParams]) -> Iterator[Check]:
    """Fields that speak of the second of two experts, where any are set."""
    fields = {"generation.native_guidance_scale_2": generation.native_guidance_scale_2 is not None}
    for name, arm in arms.items():
        fields[f"arms.{name}.guidance_scale_2"] = arm.guidance_scale_2 is not None
        for i, extra in enumerate(arm.extra_adapters):
            fields[f"arms.{name}.extra_adapters.{i}.expert"] = extra.expert == "high"
    for field in (field for field, given in fields.items() if given):
        yield Check(field, partial(_two_experts, model, field), f"leave {field} out")


def _two_experts(model: ModelParams, field: str) -> str:
    architecture = load_architecture(model.path)
    if architecture.boundary is None:
        raise ValueError(f"{field} speaks of a base of two experts, and {architecture.name} has one: leave it out")
    return f"{architecture.name} has two experts, which change at sigma {architecture.boundary:g}"


def weight_checks(model: ModelParams, arms: Mapping[str, ArmParams]) -> Iterator[Check]:
    """Every file of weights that these arms name."""
    transformer = cache(lambda: load_architecture(model.path).build_transformer())
    for name, arm in arms.items():
        if arm.transformer is not None:
            field, path = f"arms.{name}.transformer", arm.transformer.path
            fix = "fetch it as docs/baselines.md says, or give another whole transformer of the base's architecture"
            fix = how_to_get(path) or fix
            yield Check(field, partial(own_transformer, path, field, model), fix)
        for extra in arm.extra_adapters:
            field = f"arms.{name}.extra_adapters"
            fix = f"kedro vibe import-adapter FILE --output DIR --base {model.path}, or mend the path"
            fix = how_to_get(extra.path) or fix
            yield Check(field, partial(extra_adapter, extra, field, transformer), fix)
        if arm.step_cache is not None and (ratios := arm.step_cache.ratios) is not None:
            field = f"arms.{name}.step_cache.ratios"
            yield Check(field, partial(step_ratios, ratios, field, arm, model), "leave it out, and a run finds them")
        if arm.sr is not None:
            fix = how_to_get(arm.sr.weights) or "name a .pth or .safetensors file of a network that spandrel knows"
            yield Check(f"arms.{name}.sr.weights", partial(network, name, arm.sr, model), fix)
