"""An arm's scores against their formulas, on clips whose error and flicker differ by band and by mask."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from vibe_pipeline.evaluation.measure import measure_arm, static_mask
from vibe_pipeline.evaluation.metrics.static import find_static
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.miniature.scene import sample_scene
from vibe_pipeline.miniature.world import render

Array = NDArray[np.float64]
SIZE, FRAMES = 64, 6
LOW, FINE = (4.0, 8.0), (13.0, 20.0)
LUMA = np.array([0.2126, 0.7152, 0.0722])


def spectra(clip: Array) -> Array:
    """Fourier transforms of the luminance under a Hann window, its weighted mean taken out, [T, H, W]."""
    one = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(1, SIZE + 1) / (SIZE + 1))
    window, luma = np.outer(one, one), clip @ LUMA
    mean = (luma * window).sum((1, 2), keepdims=True) / window.sum()
    return np.fft.fft2((luma - mean) * window)


def in_band(low: float, high: float) -> NDArray[np.bool_]:
    cycles = np.fft.fftfreq(SIZE, 1 / SIZE)
    radius = np.hypot(cycles[:, None], cycles)
    return (radius >= low) & (radius < high)


def against_the_truth(clip: Array, truth: Array, band: tuple[float, float]) -> dict[str, float]:
    chosen, ours, theirs = in_band(*band), spectra(clip), spectra(truth)
    a, b = ours[:, chosen], theirs[:, chosen]
    both = (a * b.conj()).real.sum(1) / np.sqrt((abs(a) ** 2).sum(1) * (abs(b) ** 2).sum(1))
    power = abs(ours) ** 2
    power[:, 0, 0] = 0
    return {
        "band_error": (abs(a - b) ** 2).sum() / (abs(b) ** 2).sum(),
        "band_correlation": both.mean(),
        "band_unmendable": 1 - np.vdot(a, b).real ** 2 / (abs(a) ** 2).sum() / (abs(b) ** 2).sum(),
        "high_frequency_share": (power[:, chosen].sum(1) / power.sum((1, 2))).mean(),
        "psnr": -10 * math.log10(((clip - truth) ** 2).mean()),
    }


def over_time(clip: Array, mask: NDArray[np.bool_]) -> dict[str, float]:
    steps = np.abs(np.diff(clip, axis=0)).mean(-1)[:, mask].mean(1)
    second = np.diff(np.diff(np.diff(clip @ LUMA, axis=0), 2, 1), 2, 2)
    inner = np.lib.stride_tricks.sliding_window_view(mask, (3, 3)).all((2, 3))
    values = second[:, inner]
    spread = np.median(np.abs(values - np.median(values))) * 1.4826
    return {
        "flicker": steps.mean(),
        "first_frame_jump": steps[0] - np.median(steps[1:]),
        "residual_noise": spread / (6 * math.sqrt(2)),
        "static_share": mask.mean(),
    }


def restless(clip: Array, seed: int) -> Array:
    """The clip with errors of other strength in each band, a first frame apart, and more noise where things move."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    rng = np.random.default_rng(seed)
    moves = np.ptp(clip, axis=0).max(-1) > 0.05
    noise = rng.normal(0, 1, clip.shape) * np.where(moves, 0.12, 0.02)[None, ..., None]
    waves = 0.08 * np.sin(2 * math.pi * 6 * x) + 0.02 * np.sin(2 * math.pi * (15 * y + 4 * x))
    first = np.array([0.05] + [0.0] * (len(clip) - 1))
    return np.clip(clip + noise + waves[None, ..., None] + first[:, None, None, None], 0, 1)


def scored(folder: Path, clips: dict[str, Array], prompt: str, prompts: str | Path, band: tuple) -> pd.Series:
    """What `measure_arm` gives for one clip."""
    paths = {n: str(write_lossless(folder / f"{n}.mp4", c.astype(np.float32), 8)) for n, c in clips.items()}
    row = {"prompt_index": 0, "prompt": prompt, "seed": 0, "key": "k", "method": "refine", "differs": ""}
    table = pd.DataFrame([row | {"path": paths["arm"], "reference_path": paths.get("truth", "")}])
    native = pd.DataFrame([{"prompt_index": 0, "seed": 0, "path": paths["native"], "key": "n"}])
    evaluation = EvaluationParams(vbench_dimensions=("dynamic_degree",), fine_band=band, reference_arm="a")
    generation = GenerationParams(prompts=prompts, native_source="truth" if prompts == "miniature" else "base")
    found, _ = measure_arm("a", table, native, evaluation, generation)
    return found[found["status"] == "scored"].set_index("metric")["value"]


def stored(folder: Path, name: str) -> Array:
    return read_clip(folder / f"{name}.mp4").astype(np.float64)


def test_of_the_miniature_band_by_band_and_under_the_objects_mask(tmp_path: Path) -> None:
    scene = sample_scene(np.random.default_rng(4))
    truth = render(scene, SIZE, SIZE, FRAMES).astype(np.float64)
    clips = {"truth": truth, "arm": restless(truth, 0), "native": render(scene, 32, 32, FRAMES)}
    errors = {}
    for band in (LOW, FINE):
        found = scored(tmp_path, clips, scene.caption, "miniature", band)
        clip, right = stored(tmp_path, "arm"), stored(tmp_path, "truth")
        mask = static_mask(read_clip(tmp_path / "arm.mp4")).mask
        expected = against_the_truth(clip, right, band) | over_time(clip, mask)
        assert found[list(expected)].to_dict() == pytest.approx(expected, rel=2e-3)
        errors[band] = found["band_error"]
    assert max(errors.values()) > 2 * min(errors.values()), "a band must be told from another"
    everywhere = over_time(clip, np.ones_like(mask))
    assert everywhere["flicker"] > 1.3 * expected["flicker"], "a mask must be told from none"
    small = torch.nn.functional.interpolate(
        torch.from_numpy(clip).permute(0, 3, 1, 2), (32, 32), mode="bicubic", antialias=True
    ).clamp(0, 1)
    error = float(((small.permute(0, 2, 3, 1).numpy() - stored(tmp_path, "native")) ** 2).mean())
    assert found["native_psnr"] == pytest.approx(-10 * math.log10(error), rel=1e-3)


def test_of_other_prompts_under_the_native_clips_mask(tmp_path: Path) -> None:
    """A block that crosses the native clip; the arm's own noise is everywhere, more where the block goes."""
    native = np.full((FRAMES, SIZE, SIZE, 3), 0.3)
    for t in range(FRAMES):
        native[t, 10:30, 5 + 6 * t : 20 + 6 * t] = 0.9
    arm = restless(native, 1)
    found = scored(tmp_path, {"arm": arm, "native": native}, "anything", tmp_path / "prompts.txt", FINE)
    mask = find_static(read_clip(tmp_path / "native.mp4")).mask
    assert 0.4 < mask.mean() < 0.8 and not mask[10:30, 5:50].any()
    expected = over_time(stored(tmp_path, "arm"), mask)
    assert found[list(expected)].to_dict() == pytest.approx(expected, rel=2e-3)
    everywhere = over_time(stored(tmp_path, "arm"), np.ones_like(mask))
    assert everywhere["flicker"] > 1.3 * expected["flicker"]
    assert "psnr" not in found and "band_error" not in found
