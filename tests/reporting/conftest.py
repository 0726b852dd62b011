"""A small synthetic run, made up so that every part of the page has something to show."""

from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Asked, Claim
from vibe_pipeline.experiment.published import load_published
from vibe_pipeline.miniature.scene import sample_scene
from vibe_pipeline.miniature.world import render
from vibe_pipeline.reporting.report_inputs import ReportInputs

ROOT = Path(__file__).parents[2]
NASTY = "<script>alert('x')</script> & \"quoted\""

ARMS = {
    "full": ArmParams(label="Full (ViBe)", adapter="full"),
    "full_pixel": ArmParams(label="Full, pixel degradation (ours)", adapter="full_pixel"),
    "no_relay": ArmParams(label="Without Relay", adapter="naive"),
    "no_hfato": ArmParams(label="Without HFATO", adapter="velocity"),
    "keep_stage1": ArmParams(label="Stage 1 kept", adapter="full", keep_stage1=True),
    "refine_base": ArmParams(label="Base refined, no adapter"),
    "upsample": ArmParams(label="Native clip, upsampled", method="upsample"),
    "truth": ArmParams(label="True render, through the VAE", method="truth"),
}
ADAPTERS = {
    "full": AdapterParams(label="Relay + HFATO, latent"),
    "full_pixel": AdapterParams(label="Relay + HFATO, pixel"),
    "naive": AdapterParams(label="Naive", start="base"),
    "velocity": AdapterParams(label="Relay, velocity"),
}
# metric: family, direction, spread, value of each arm in the order of ARMS
METRICS = {
    "residual_noise": ("detail", "lower", 0.0009, (0.0064, 0.0071, 0.0096, 0.0073, 0.0093, 0.0034, 0.0000, 0.0040)),
    "flicker": ("detail", "lower", 0.003, (0.0151, 0.0167, 0.0206, 0.0157, 0.0199, 0.0077, 0.0001, 0.0068)),
    "first_frame_jump": ("detail", "lower", 0.002, (0.0131, 0.0077, 0.0263, 0.0118, 0.0226, 0.0059, 0.0004, 0.0036)),
    "band_correlation": ("detail", "higher", 0.04, (0.31, 0.62, 0.35, 0.36, 0.55, 0.12, 0.09, 0.93)),
    "high_frequency_share": ("detail", "none", 0.02, (0.053, 0.284, 0.119, 0.111, 0.290, 0.035, 0.039, 0.315)),
    "spectrum_distance": ("detail", "lower", 0.06, (0.78, 0.61, 0.79, 0.78, 0.61, 1.02, 1.09, 0.0)),
    "psnr": ("detail", "higher", 0.8, (19.0, 20.4, 19.9, 20.5, 19.9, 19.2, 23.2, 29.2)),
    "colours_right": ("miniature", "higher", 0.1, (0.95, 0.96, 0.9, 0.97, 0.88, 0.98, 1.0, 1.0)),
    "motion_right": ("miniature", "higher", 0.1, (0.97, 0.98, 0.96, 0.97, 0.94, 0.99, 1.0, 1.0)),
    "temporal_flickering": ("vbench", "higher", 0.004, (0.981, 0.980, 0.975, 0.980, 0.976, 0.991, 0.999, 0.992)),
}
SKIPPED = {
    "aesthetic_quality": "weights clip ViT-L-14 are not in the cache",
    "human_action": "<b>needs</b> timm 1.0.12",
}


def make_scores(prompts: int, seed: int = 0) -> pd.DataFrame:
    """Per-clip scores: a value per arm, a part shared by all arms of a prompt, and noise."""
    rng = np.random.default_rng(seed)
    shared = {(m, p): rng.normal(0, METRICS[m][2]) for m in METRICS for p in range(prompts)}
    rows = []
    for metric, (family, direction, spread, values) in METRICS.items():
        for arm, value in zip(ARMS, values, strict=True):
            for prompt in range(prompts):
                noisy = max(0.0, value + shared[metric, prompt] + rng.normal(0, 0.5 * spread))
                rows.append((arm, prompt, 0, metric, noisy, direction, family, "scored", ""))
    for metric, reason in SKIPPED.items():
        rows += [
            (arm, p, 0, metric, np.nan, "higher", "vbench", "skipped", reason) for arm in ARMS for p in range(prompts)
        ]
    columns = ["arm", "prompt_index", "seed", "metric", "value", "direction", "family", "status", "reason"]
    return pd.DataFrame(rows, columns=columns)


def make_table(scores: pd.DataFrame, reference: str = "full") -> pd.DataFrame:
    """The ablation table of these scores, with intervals from the normal distribution: good enough to look at."""
    rows = []
    for (arm, metric), group in scores.groupby(["arm", "metric"], sort=False):
        first = group.iloc[0]
        base = scores[(scores["arm"] == reference) & (scores["metric"] == metric)]["value"].to_numpy()
        values, diff = group["value"].to_numpy(), group["value"].to_numpy() - base
        half, half_diff = (1.96 * v.std() / np.sqrt(len(v)) for v in (values, diff))
        row = {"arm": arm, "metric": metric, "mean": values.mean(), "n": len(values), "n_pairs": len(diff)}
        row |= {"ci_low": values.mean() - half, "ci_high": values.mean() + half, "diff": diff.mean()}
        row |= {"diff_low": diff.mean() - half_diff, "diff_high": diff.mean() + half_diff}
        rows.append(row | {k: first[k] for k in ("direction", "family", "status", "reason")})
    return pd.DataFrame(rows)


def write_clip(path: Path, clip: np.ndarray, fps: float, lossless: bool) -> Path:
    """Write RGB in [0, 1], [frames, height, width, 3], as an mp4."""
    height, width = clip.shape[1:3]
    codec, pixels = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    options = ["-qp", "0", "-threads", "1"] if lossless else ["-crf", "16", "-threads", "1", "-movflags", "+faststart"]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, codec=codec, pix_fmt_out=pixels, quality=None,
        macro_block_size=1, output_params=options,
    )  # fmt: skip
    writer.send(None)
    for frame in (255 * np.clip(clip, 0, 1)).round().astype(np.uint8):
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path


def make_clips(folder: Path, prompts: int, size: int, first_prompt: str | None = None) -> pd.DataFrame:
    """Clips of all arms: the true render at `size`, blurred and dirtied to look like each arm."""
    rng = np.random.default_rng(1)
    rows = []
    for prompt in range(prompts):
        scene = sample_scene(np.random.default_rng(10 + prompt))
        truth, small = render(scene, size, size, 9), render(scene, size // 2, size // 2, 9)
        blurred = small.repeat(2, 1).repeat(2, 2)
        for i, arm in enumerate(ARMS):
            keep = {"truth": 1.0, "upsample": 0.0}.get(arm, METRICS["band_correlation"][3][i])
            dirt = 8 * METRICS["residual_noise"][3][i] if ARMS[arm].method == "refine" else 0.0
            clip = keep * truth + (1 - keep) * blurred + rng.normal(0, dirt, truth.shape)
            path = write_clip(folder / f"{arm}-{prompt}.mp4", clip, 8, lossless=True)
            preview = write_clip(folder / f"{arm}-{prompt}-preview.mp4", clip, 8, lossless=False)
            text = first_prompt if first_prompt and prompt == 0 else scene.caption
            seconds = {"truth": 0.4, "upsample": 0.02}.get(arm, 2.1 + 0.3 * i)
            rows.append((arm, prompt, text, 0, str(path), str(preview), size, size, 9, 8.0, seconds, "truth", ""))
    columns = ["arm", "prompt_index", "prompt", "seed", "path", "preview_path", "height", "width", "frames", "fps"]
    return pd.DataFrame(rows, columns=[*columns, "seconds", "native_source", "reference_path"])


def make_losses() -> pd.DataFrame:
    """Loss curves of both stages."""
    rng = np.random.default_rng(2)
    rows = []
    for stage, names, steps in (("stage1", ["stage1"], 150), ("stage2", list(ADAPTERS), 300)):
        for i, name in enumerate(names):
            for step in range(0, steps, 3):
                loss = 0.2 + 0.05 * i + 0.2 * np.exp(-step / 60) + rng.normal(0, 0.015)
                rows.append((name, stage, step, loss, 14.0, 3600.0))
    return pd.DataFrame(rows, columns=["adapter", "stage", "step", "loss", "images_per_second", "tokens_per_second"])


def make_spectra() -> pd.DataFrame:
    """Spectra that fall off, each arm keeping its share of the fine band."""
    cycles = np.arange(1, 64)
    rows = []
    for i, arm in enumerate(ARMS):
        share = METRICS["high_frequency_share"][3][i]
        bumps = 30 * np.exp(-((cycles - 6.4) ** 2)) + 30 * share * np.exp(-(((cycles - 19) / 2.5) ** 2))
        power = 100 * cycles**-2.4 * np.exp(-cycles / (20 + 60 * share)) + bumps + 1e-4
        rows += [(arm, c, p) for c, p in zip(cycles, power, strict=True)]
    return pd.DataFrame(rows, columns=["arm", "cycles", "power"])


CHECKS = pd.DataFrame(
    [
        ("full", "latent", 0.5, "trilinear", 1.03, 0.57),
        ("full_pixel", "pixel", np.nan, np.nan, 0.58, 0.57),
        ("velocity", "latent", 0.25, "nearest", np.nan, np.nan),
    ],
    columns=["adapter", "kind", "factor", "mode", "mse_degraded", "mse_upsampled"],
)
PROVENANCE = {
    "versions": {"python": "3.11", "torch": "2.13.0", "diffusers": "0.42.1"},
    "git_commit": "0123abcd", "config_hash": "f" * 64, "device": "cpu", "seeds": [0],
    "prompt_list_hash": "a" * 64, "native_source": "truth", "quarantined_images": 2,
    "seconds_per_stage": {"stage1": 104.2, "stage2": 290.7, "generation": 45.0}, "git_dirty": None,
}  # fmt: skip


def make_inputs(folder: Path, prompts: int, size: int, first_prompt: str | None = None) -> ReportInputs:
    """A whole run; 16 prompts are scored, `prompts` are rendered."""
    scores = make_scores(16)
    claim = Claim(
        name="relay",
        statement="Relay beats naive tuning",
        arm="full",
        other="no_relay",
        kind="clean",
        primary=Asked(metric="residual_noise", better="lower", margin=0.0005),
    )
    return ReportInputs(
        title="ViBe ablation report", arms=ARMS, adapters=ADAPTERS, reference="full", table=make_table(scores),
        scores=scores, clips=make_clips(folder, prompts, size, first_prompt), losses=make_losses(), checks=CHECKS,
        spectra=make_spectra(), provenance=PROVENANCE, published=load_published(ROOT / "conf/base/published.yml"),
        claims=(claim, claim.model_copy(update={"other": "no_such_arm", "statement": "A claim without its arm"})),
        band=(12.0, 32.0), clips_shown=prompts,
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def inputs(run_folder: Path) -> ReportInputs:
    """A small run whose first prompt tries to break out of the page."""
    return make_inputs(run_folder, prompts=2, size=32, first_prompt=NASTY)


@pytest.fixture
def bare(inputs: ReportInputs) -> ReportInputs:
    """The same arms, but nothing was run."""
    return ReportInputs(title="Empty", arms=inputs.arms, adapters=inputs.adapters, reference="full")


@pytest.fixture
def unrun(inputs: ReportInputs) -> ReportInputs:
    """A run whose clips have vanished from the disk."""
    gone = inputs.clips.assign(path="/nowhere/at/all.mp4", preview_path="/nowhere/at/all.mp4")
    return replace(inputs, clips=gone)
