"""Scores of an arm's clips: measures that see resolution, and measures against the known truth."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage

from vibe_pipeline.config import EvaluationParams, GenerationParams
from vibe_pipeline.evaluation import detail
from vibe_pipeline.evaluation.clips import WHOLE_ARM, difference_of, score_table
from vibe_pipeline.generation.clips import read_clip
from vibe_pipeline.images.camera import shrink
from vibe_pipeline.miniature.measures import object_saliency
from vibe_pipeline.miniature.measures import read_clip as read_attributes
from vibe_pipeline.miniature.scene import BACKGROUNDS, parse_caption

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

SPECTRUM_BINS = 48
OF_THE_CLIP = ("high_frequency_share", "flicker", "residual_noise", "first_frame_jump")
TO_TRUTH = ("psnr", "band_correlation", "band_error")
ATTRIBUTES = ("colours_right", "motion_right", "shape_right", "one_object")


def measure_arm(
    arm: str, clips: pd.DataFrame, native: pd.DataFrame, evaluation: EvaluationParams, generation: GenerationParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every clip of an arm.

    Args:
        arm: Its name.
        clips: One row a clip: prompt_index, prompt, seed, path, reference_path, method.
        native: The native clips: prompt_index, seed, path.
        evaluation: The band of detail.
        generation: Whether true renders are paired with the clips.

    Returns:
        The score table (see `evaluation.clips`), and the radial spectrum (arm, cycles,
        power; geometric mean over clips).
    """
    known_truth = generation.prompts == "miniature"
    native_path = native.set_index(["prompt_index", "seed"])["path"]
    # The ceiling arm renders the very scene of the reference, whatever the native clips come from.
    paired = known_truth and (generation.native_source == "truth" or bool((clips["method"] == "truth").all()))
    rows, spectra, height = [], [], 0
    for clip in clips.itertuples(index=False):
        pixels = read_clip(Path(clip.path))
        bins = min(SPECTRUM_BINS, pixels.shape[1] // 2)
        differs = difference_of(clip)
        try:
            values = detail_scores(pixels, evaluation.fine_band)
        except ValueError as error:  # another system's clip may be too small or too short for a measure
            if not differs:
                raise
            values, reason = {}, f"{differs}: {error}"
            rows += [_unequal(arm, clip, metric, reason) for metric in OF_THE_CLIP]
        if clip.method != "external":  # another system's clips have no native clip of ours
            values["native_psnr"] = _native_psnr(pixels, read_clip(Path(native_path[clip.prompt_index, clip.seed])))
        if known_truth and differs:
            values |= attribute_scores(pixels, clip.prompt)
            rows += [
                _unequal(arm, clip, metric, differs) for metric in ("spectrum_distance", *(TO_TRUTH if paired else ()))
            ]
        elif known_truth:
            truth = read_clip(Path(clip.reference_path))
            values |= attribute_scores(pixels, clip.prompt)
            values["spectrum_distance"] = detail.spectrum_distance(pixels, truth, bins)
            if paired:
                values["psnr"] = detail.psnr(pixels, truth)
                values["band_correlation"] = detail.band_correlation(pixels, truth, *evaluation.fine_band)
                values["band_error"] = detail.band_error(pixels, truth, *evaluation.fine_band)
        height = height or pixels.shape[1]
        if height == pixels.shape[1]:  # a clip of another height has other rings
            spectra.append(detail.spectrum(pixels, bins))
        rows += [_row(arm, clip.prompt_index, clip.seed, k, v) for k, v in values.items()]
    if known_truth and not paired:
        rows += [_unpaired(arm, metric) for metric in TO_TRUTH]
    bins = len(spectra[0])
    cycles = (np.arange(bins) + 0.5) * height / 2 / bins
    spectrum = pd.DataFrame({"arm": arm, "cycles": cycles, "power": np.power(10.0, np.mean(spectra, 0))})
    return score_table(rows), spectrum


def detail_scores(clip: Array, band: tuple[float, float]) -> dict[str, float]:
    """Measures that need no truth; flicker, noise and the first-frame jump look at the static background."""
    static = static_mask(clip)
    return {
        "high_frequency_share": detail.high_frequency_share(clip, *band),
        "flicker": detail.flicker(clip, static),
        "residual_noise": detail.residual_noise(clip, static),
        "first_frame_jump": detail.first_frame_jump(clip, static),
    }


def static_mask(clip: Array) -> Array:
    """Where nothing moves in any frame, [T, H, W], 1 or 0: away from the object's whole path."""
    saliency, _ = object_saliency(clip)
    touched = ndimage.binary_dilation((saliency > 0.35).any(0), iterations=max(2, clip.shape[1] // 24))
    static = ~touched if (~touched).mean() > 0.1 else np.ones_like(touched)
    return np.broadcast_to(static, clip.shape[:3]).astype(np.float32)


def attribute_scores(clip: Array, prompt: str) -> dict[str, float]:
    """What the clip shows against what its caption says: 0 or 1 each, and the colours' distance (RGB, 0 to 1)."""
    truth = parse_caption(prompt)
    reading = read_attributes(clip)
    background = np.linalg.norm(object_saliency(clip)[1] - np.array(BACKGROUNDS[truth["background"]]))
    right = {k: float(v) for k, v in reading.right(truth).items()}
    return right | {"background_colour_error": float(background)}


def _native_psnr(clip: Array, native: Array) -> float:
    """How well the second pass kept the picture: PSNR of the clip, shrunk, to the native clip."""
    tensor = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
    small = shrink(tensor, *native.shape[1:3])[0].permute(1, 2, 3, 0).numpy()
    return detail.psnr(small, native)


def _direction(metric: str) -> str:
    if metric in ATTRIBUTES or metric == "native_psnr":
        return "higher"
    return detail.DIRECTIONS.get(metric, "lower")


def _family(metric: str) -> str:
    return "detail" if metric in detail.DIRECTIONS else "miniature"


def _row(arm: str, prompt_index: int, seed: int, metric: str, value: float) -> dict[str, Any]:
    fine = bool(np.isfinite(value))
    return {
        "arm": arm,
        "prompt_index": prompt_index,
        "seed": seed,
        "metric": metric,
        "value": value if fine else np.nan,
        "direction": _direction(metric),
        "family": _family(metric),
        "status": "scored" if fine else "failed",
        "reason": "" if fine else f"the measure gave {value}",
    }


def _unequal(arm: str, clip: Any, metric: str, differs: str) -> dict[str, Any]:
    row = _row(arm, clip.prompt_index, clip.seed, metric, np.nan)
    return row | {"status": "skipped", "reason": f"the clip differs from those that it is compared with: {differs}"}


def _unpaired(arm: str, metric: str) -> dict[str, Any]:
    reason = (
        "native clips come from the base, so no true render shows the same scene; set generation.native_source: truth"
    )
    row = _row(arm, WHOLE_ARM, WHOLE_ARM, metric, np.nan)
    return row | {"status": "skipped", "reason": reason}
