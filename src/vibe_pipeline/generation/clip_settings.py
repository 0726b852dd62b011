"""What determines a clip beside its prompt and seed: settings, hashed into its key, and notes that follow from them."""

from typing import Any

import torch

from vibe_pipeline.diffusion.bridge import SHIFT, bridge_schedule
from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.diffusion.lora import fused_key
from vibe_pipeline.diffusion.models import find_model, pick_device
from vibe_pipeline.experiment.arms import ArmParams, ExtraAdapter, StageParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.experts import expert_steps
from vibe_pipeline.generation.stages import Sampling
from vibe_pipeline.io.keys import file_sha256, folder_fingerprint, weights_fingerprint
from vibe_pipeline.io.manifests import AdapterManifest

LATER: tuple[str, ...] = ("bridge", "detail_transfer", "enlarge", "guidance_interval", "guidance_scale_2", "long")
LATER += ("region_adaptive", "sharpen", "sr", "stages", "step_cache", "unconditional_attention")
"""Fields that came after the first clips were made."""


def base_settings(model: ModelParams, generation: GenerationParams) -> dict[str, Any]:
    """The base, how texts reach it, and its precision."""
    return {
        "model": folder_fingerprint(find_model(model.path).path),
        "text": [model.text_length, generation.negative_prompt],
        "precision": [model.dtype, model.vae_dtype, model.tile],
        # It came later: clips of a base that is not quantised keep their keys.
        **({} if model.quantisation is None else {"quantisation": model.quantisation}),
    }


def arm_settings(
    arm: ArmParams,
    model: ModelParams,
    generation: GenerationParams,
    adapter: AdapterManifest | None,
    stage1: AdapterManifest | None,
) -> dict[str, Any]:
    """Everything that determines an arm's clips; no name of a row, its own or its adapter's, and no label.

    Args:
        arm: The row of `arms`.
        model: The base, and the target size.
        generation: The negative prompt.
        adapter: Manifest of the arm's adapter.
        stage1: Manifest of the stage-1 adapter that is kept.
    """
    # A field that came later and is off is left out, so that older clips count.
    off = {name for name in LATER if getattr(arm, name) is None}
    off |= {"rope"} if arm.rope.kind == "none" else set()
    own: dict[str, Any] = {} if arm.transformer is None else {"transformer": weights_fingerprint(arm.transformer.path)}
    own |= {"network": file_sha256(arm.sr.weights)} if arm.sr else {}
    own |= {"chunk": arm.long.frames(model.native.frames)} if arm.long else {}
    left_out: dict[str, Any] = dict.fromkeys({"label", "adapter", "optional", "transformer"} | off, True)
    if arm.sr is not None:
        left_out["sr"] = {"weights"}  # by content, wherever it lies
    if arm.step_cache is not None:
        left_out["step_cache"] = {"ratios"}  # likewise, by the method
    if arm.extra_adapters:  # by content too
        left_out["extra_adapters"] = {i: _off(extra) for i, extra in enumerate(arm.extra_adapters)}
    return (
        base_settings(model, generation)
        | own
        | {
            "arm": arm.model_dump(mode="json", exclude=left_out),
            "adapter": adapter.key if adapter else None,
            "extra_adapters": [sha for extra in arm.extra_adapters for sha in _contents(extra)],
            "stage1": fused_key(stage1.key, getattr(torch, model.dtype), model.quantisation is not None)
            if stage1
            else None,
            "target": model.target.model_dump(),
            "flow_shift": model.flow_shift,
        }
    )


def _off(extra: ExtraAdapter) -> set[str]:
    """Fields of an adapter that are in no key: where it lies, and later ones that are off."""
    later = {"differences": extra.differences, "expert": extra.expert == "high"}
    return {"path"} | {name for name, on in later.items() if not on}


def _contents(extra: ExtraAdapter) -> list[str]:
    """What an adapter's files hold."""
    return [file_sha256(path) for path in (extra.path, *([extra.differences_path] if extra.differences else []))]


def arm_sampling(arm: ArmParams, model: ModelParams, strength: float) -> Sampling:
    """An arm's noise levels, solver and guidance.

    Args:
        arm: The row of `arms`.
        model: Its flow shift, where the row has none.
        strength: Share of the noise schedule that is run; see `methods.base.Method.strength`.

    Raises:
        ValueError: A truncated schedule that leaves no step.
    """
    if arm.bridge is not None:
        sigmas = bridge_schedule(arm.steps, arm.bridge.sigma, arm.bridge.form, arm.flow_shift or SHIFT)
    else:
        sigmas = sigma_schedule(arm.steps, arm.flow_shift or model.flow_shift, strength, arm.strength_mode)
    return _sampling(sigmas, arm)


def _sampling(sigmas: torch.Tensor, arm: ArmParams) -> Sampling:
    return Sampling(sigmas, arm.scheduler, arm.guidance_scale, arm.guidance_interval, arm.guidance_scale_2)


def stage_sampling(stage: StageParams, arm: ArmParams, model: ModelParams) -> Sampling:
    """Noise levels of a pass before a row's own; solver and guidance are the row's."""
    shift = stage.flow_shift or model.flow_shift
    return _sampling(sigma_schedule(stage.steps, shift, stage.strength, stage.strength_mode), arm)


def notes(model: ModelParams, sampling: Sampling) -> dict[str, Any]:
    """What a clip's manifest repeats of its sampling, and the device; of two experts, the steps of each."""
    device = pick_device(model.device)
    steps = expert_steps(find_model(model.path), sampling.sigmas)
    return ({"expert_steps": steps} if steps else {}) | {
        "sigmas": [round(float(s), 6) for s in sampling.sigmas],
        "sigma_start": float(sampling.sigmas[0]),
        "steps": len(sampling.sigmas) - 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
