"""What MagCache needs to know of a model and a schedule: measured on one clip before the first, and kept."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.flow import guides
from vibe_pipeline.diffusion.mag_cache import Mag, PassCalls, Ratios, found_ratios, read_ratios
from vibe_pipeline.diffusion.step_cache import install_step_cache, remove_step_cache, step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.io.files import write_json
from vibe_pipeline.io.keys import content_key, file_sha256

if TYPE_CHECKING:
    from vibe_pipeline.generation.denoiser import Denoiser
    from vibe_pipeline.generation.methods.base import ArmJob

log = logging.getLogger(__name__)

FOLDER = "mag_ratios"
"""Below the folder of all clips."""


def calibration_settings(job: "ArmJob") -> dict[str, Any]:
    """What a step cache's ratios add to an arm's settings: the content of their file, or the clip they come from."""
    cache = step_cache_of(job.arm.step_cache)
    if not isinstance(cache, Mag):
        return {}
    return {"ratios": _clip_of(job) if cache.ratios is None else file_sha256(cache.ratios)}


def calibrate(denoiser: "Denoiser", job: "ArmJob", from_native: bool) -> None:
    """Give an arm's transformers the ratios that its MagCache goes by; nothing for other arms.

    Args:
        denoiser: The arm's models, which still compute every step.
        job: The arm; its first clip is denoised, if no file has the ratios yet.
        from_native: Whether clips start from their native ones.

    Raises:
        ValueError, FileNotFoundError: The file that the row names is not one, or lacks a transformer.
    """
    cache = step_cache_of(job.arm.step_cache)
    if not isinstance(cache, Mag):
        return
    ratios = read_ratios(cache.ratios) if cache.ratios is not None else _calibrated(denoiser, job, from_native)
    calls = _calls(denoiser)
    require_passes(cache.ratios, ratios, calls)
    for expert in denoiser.experts:
        remove_step_cache(expert.transformer)
        if own := calls.get(expert.part):
            install_step_cache(expert.transformer, cache.with_ratios(ratios[expert.part], own))


def require_passes(path: Path | None, ratios: Ratios, calls: Mapping[str, PassCalls]) -> None:
    """Refuse ratios that lack a transformer or a guidance pass that runs.

    Raises:
        ValueError: Names it.
    """
    for part, own in calls.items():
        lacking = [name for name, times in own.items() if times and name not in ratios.get(part, {})]
        if lacking:
            raise ValueError(
                f"{path or FOLDER} has no ratios of {part}, {' and '.join(lacking)}: leave step_cache.ratios out, and "
                "a run finds them"
            )


def planned_calls(arm: ArmParams, levels: Mapping[str, tuple[float, ...]]) -> dict[str, PassCalls]:
    """Forwards of each guidance pass by transformer, from the levels of each, high noise first."""
    low = arm.guidance_scale if arm.guidance_scale_2 is None else arm.guidance_scale_2
    found: dict[str, PassCalls] = {}
    for part, own in levels.items():
        scale = arm.guidance_scale if part == next(iter(levels)) else low
        guided = sum(guides(sigma, scale, arm.guidance_interval) for sigma in own)
        if own:
            found[part] = {"conditional": len(own), "unconditional": guided}
    return found


def _calls(denoiser: "Denoiser") -> dict[str, PassCalls]:
    levels: dict[str, tuple[float, ...]] = dict.fromkeys(denoiser.checkpoint.experts, ())
    for sigma in denoiser.sampling.sigmas[:-1].tolist():
        levels[denoiser.experts.at(sigma).part] += (sigma,)
    assert denoiser.arm is not None  # which has the cache
    return planned_calls(denoiser.arm, levels)


def _calibrated(denoiser: "Denoiser", job: "ArmJob", from_native: bool) -> Ratios:
    """Those of the file that a calibration of the same settings has written; else of a clip that is denoised here."""
    file = job.root / FOLDER / f"{_key(job)}.json"
    if file.is_file():
        try:
            return read_ratios(file)
        except ValueError as error:
            log.warning("%s; it is made again", error)
    row = _first(job)
    log.info("%s: calibrating MagCache on a clip of %r, which is not kept", job.name, row["prompt"])
    denoiser.latent([row], job.size, from_native)
    ratios = {expert.part: found_ratios(expert.transformer) for expert in denoiser.experts}
    write_json(file, {"ratios": ratios, "clip": _clip_of(job), "sigmas": denoiser.sampling.sigmas.tolist()})
    log.info("its ratios are in %s, which step_cache.ratios of other runs may name", file)
    return ratios


def _key(job: "ArmJob") -> str:
    """Of the ratios: the row without its step cache, so that rows that differ in it alone share them."""
    from vibe_pipeline.generation.clip_settings import arm_settings

    plain = job.arm.model_copy(update={"step_cache": None})
    return content_key(arm_settings(plain, job.model, job.generation, job.adapter, job.stage1), _clip_of(job))


def _first(job: "ArmJob") -> dict[str, Any]:
    """The first clip of a run, as methods take it."""
    rows = job.native.rename(columns={"path": "native_path", "key": "native_key"})
    return dict(rows.sort_values(["prompt_index", "seed"], kind="stable").iloc[0].to_dict())


def _clip_of(job: "ArmJob") -> list[Any]:
    """What makes the first clip what it is."""
    row = _first(job)
    return [row["prompt"], int(row["seed"]), row.get("native_key"), row.get("first_frame_sha256", "")]
