"""The whole second pass of an arm against diffusers' video-to-video pipeline, on tiny checkpoints of both styles.

The reference is WanVideoToVideoPipeline itself (its encoding, noising, guidance, Euler steps and decoding) with the
adapter loaded by diffusers and GCLF as a dense mask; noise, schedule and enlarging are written out here.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline, WanVideoToVideoPipeline
from torch import Tensor

from tests.dense_gclf import install_dense_gclf
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.decode import decode_video
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation import clip_cache, denoiser
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import read_clip, write_lossless

CAPTIONS = ["a striped red circle moving left over woven navy", "a plain blue cross moving up over ribbed gray"]
NEGATIVE = "a plain green square moving down"
SEEDS = [3, 11]
STEPS, STRENGTH, GUIDANCE, SHIFT = 4, 0.5, 3.0, 9.0
PARAMS = GenerationParams(prompts="miniature", negative_prompt=NEGATIVE, batch_size=2)
ARM = {
    "label": "full",
    "adapter": "own",
    "attention": {"kind": "gclf", "pool": 2},
    "steps": STEPS,
    "strength": STRENGTH,
    "guidance_scale": GUIDANCE,
    "flow_shift": SHIFT,
}


@pytest.fixture
def native(tiny, tmp_path: Path) -> pd.DataFrame:
    """Two native clips of smooth random pixels, as `native_clips` lists them."""
    rows = []
    for index, (caption, seed) in enumerate(zip(CAPTIONS, SEEDS, strict=True)):
        clip = np.random.default_rng(index).random((5, 2 * tiny.token, 3 * tiny.token, 3), np.float32)
        path = write_lossless(tmp_path / "native" / f"{index}.mp4", clip, 8)
        place = {"prompt_index": index, "prompt": caption, "seed": seed, "key": f"n{index}", "path": str(path)}
        rows.append(place | {"preview_path": "", "seconds": 1.0})
    return pd.DataFrame(rows)


@pytest.fixture
def adapter(tiny, tmp_path: Path) -> AdapterManifest:
    """The manifest of a random adapter, of another alpha than its rank."""
    transformer, generator = tiny.transformer(), torch.Generator().manual_seed(1)
    lora.add_adapter(transformer, "own", 4, 8.0, ("to_q", "to_v", "ffn.net.2"), 1)
    state = lora.adapter_state(transformer, "own")
    lora.set_adapter_state(
        transformer, "own", {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    )
    return AdapterManifest(name="own", key="own", path=lora.save_adapter(transformer, "own", tmp_path / "own"))


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every clip as it goes to its file, before it is rounded to bytes: [T, H, W, 3]."""
    seen: list[np.ndarray] = []
    write = clip_cache.write_lossless

    def seeing(path: Path, clip: Iterable[np.ndarray], fps: float) -> Path:
        own: list[np.ndarray] = []
        written = write(path, (own.append(frame.copy()) or frame for frame in clip), fps)
        seen.append(np.stack(own))
        return written

    monkeypatch.setattr(clip_cache, "write_lossless", seeing)
    monkeypatch.setattr(denoiser, "decode_bytes", lambda vae, latent, change: decode_video(vae, latent))
    return seen


def shifted(u: np.ndarray, shift: float = SHIFT) -> np.ndarray:
    return shift * u / (1 + (shift - 1) * u)


SCHEDULES = {
    "all_steps": (shifted(np.linspace(STRENGTH, 0, STEPS + 1)[:-1]), 1.0),
    "truncated": (shifted(np.linspace(1, 0, STEPS + 1)[:-1]), STRENGTH),
    "direct": (shifted(np.linspace(1, 0, STEPS + 1)[:-1]), 1.0),  # from sigma 1, so that nothing of the clip is left
}
"""Noise levels of the whole schedule, and the strength by which diffusers cuts it."""


def reference_pipeline(tiny, folder: Path) -> WanVideoToVideoPipeline:
    parts = WanPipeline.from_pretrained(tiny.path).components
    wanted = {name: parts[name] for name in ("tokenizer", "text_encoder", "transformer", "vae")}
    pipe = WanVideoToVideoPipeline(**wanted, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0))
    pipe.vae_scale_factor_spatial = pipe.vae.config.scale_factor_spatial  # it assumes the 8 of Wan2.1
    pipe.load_lora_weights(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def enlarged(path: str, tiny) -> Tensor:
    """Bicubic to 4 x 6 tokens, frame by frame, [1, T, 3, H, W]."""
    frames = torch.from_numpy(read_clip(Path(path))).permute(0, 3, 1, 2)
    large = F.interpolate(frames, (4 * tiny.token, 6 * tiny.token), mode="bicubic", align_corners=False)
    return large.clamp(0, 1)[None]


def generator_of(prompt: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


NATIVE_HALF = 2 // 2, 3 // 2  # of the native 2 x 3 tokens; half of the target's would see everything
FREESWIM_SCALE = (np.log(2 * 6) / np.log(6) / 16) ** 0.5  # 6 native tokens a frame, 16 channels a head
VARIANTS: dict[str, tuple[dict[str, Any], tuple[Any, ...] | None]] = {
    "gclf": ({}, (NATIVE_HALF, 2)),
    "gclf, truncated": ({"strength_mode": "truncated"}, (NATIVE_HALF, 2)),
    "gclf, unipc": ({"scheduler": "unipc"}, (NATIVE_HALF, 2)),
    "gclf, freeswim's scale": ({"attention": {"kind": "gclf", "scale": "freeswim"}}, (NATIVE_HALF, 2, FREESWIM_SCALE)),
    "window": ({"attention": {"kind": "window"}}, (NATIVE_HALF, 0)),
    "window of its own": ({"attention": {"kind": "window", "half_window": (1, 2)}}, ((1, 2), 0)),
    "full": ({"attention": {"kind": "full"}}, None),
    "direct": ({"method": "direct"}, (NATIVE_HALF, 2)),
    "without guidance": ({"guidance_scale": 1.0}, (NATIVE_HALF, 2)),
}
"""Changes of the arm, and the dense attention (half window, tile, scale) that is the same; None: diffusers' own."""


class GivenUniPC(UniPCMultistepScheduler):
    """Takes its timesteps from the pipeline's caller: 1000 sigma, which diffusers would cut to whole numbers."""

    def set_timesteps(self, timesteps: list[float] | None = None, device: Any = None) -> None:
        super().set_timesteps(sigmas=np.asarray(timesteps) / 1000)
        self.timesteps = 1000 * self.sigmas[:-1]


@pytest.mark.parametrize(
    ("tiny", "variant"),
    [*(("wan21", name) for name in VARIANTS), ("wan22", "gclf"), ("wan22", "full")],
    indirect=["tiny"],
)
def test_the_second_pass_is_diffusers_video_to_video(tiny, native, adapter, pixels, tmp_path, variant: str) -> None:
    changes, attention = VARIANTS[variant]
    arm = ArmParams(**ARM | changes)
    arm_clips("full", arm, native, adapter, None, tiny.model(flow_shift=2.0), PARAMS, tmp_path / "clips")
    pipe = reference_pipeline(tiny, adapter.path.parent)
    if arm.scheduler == "unipc":
        pipe.scheduler = GivenUniPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    if attention is not None:
        install_dense_gclf(pipe.transformer, (2, 4, 6), *attention)
    sigmas, strength = SCHEDULES["direct" if arm.method == "direct" else arm.strength_mode]
    for row, ours in zip(native.to_dict("records"), pixels, strict=True):
        theirs = pipe(
            enlarged(row["path"], tiny),
            row["prompt"],
            NEGATIVE,
            4 * tiny.token,
            6 * tiny.token,
            timesteps=(1000 * sigmas).tolist(),
            strength=strength,
            guidance_scale=arm.guidance_scale,
            generator=generator_of(row["prompt"], row["seed"]),
            max_sequence_length=12,
            output_type="np",
        ).frames[0]
        scale = theirs.std()
        assert scale > 1e-3
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=2e-3)


class GivenEuler(FlowMatchEulerDiscreteScheduler):
    """Euler steps over the shifted levels from pure noise, however many are asked for."""

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **_: Any) -> None:
        sigmas = shifted(np.linspace(1, 0, num_inference_steps + 1)[:-1], 2.5)
        super().set_timesteps(sigmas=sigmas.tolist(), device=device)


@pytest.mark.parametrize("seed", SEEDS)
def test_native_clips_are_wan_pipelines_at_native_size(tiny, pixels, tmp_path, seed: int) -> None:
    """With the negative prompt, guidance and the model's flow shift of the parameters; the arms' own do not count."""
    params = PARAMS.model_copy(update={"native_steps": 3, "native_guidance_scale": 2.0})
    prompts = pd.DataFrame([{"prompt_index": 0, "prompt": CAPTIONS[0], "seed": seed}])
    native_clips(prompts, tiny.model(flow_shift=2.5), params, tmp_path)
    pipe = WanPipeline.from_pretrained(tiny.path, scheduler=GivenEuler(shift=1.0))
    pipe.set_progress_bar_config(disable=True)
    height, width, latent = 2 * tiny.token, 3 * tiny.token, (1, pipe.vae.config.z_dim, 2, 4, 6)
    noise = torch.randn(latent, generator=generator_of(CAPTIONS[0], seed))
    theirs = pipe(
        CAPTIONS[0], NEGATIVE, height, width, 5, 3, 2.0, max_sequence_length=12, output_type="np", latents=noise
    ).frames[0]  # fmt: skip
    np.testing.assert_allclose(pixels[0] / theirs.std(), theirs / theirs.std(), rtol=0, atol=2e-3)


def make_first(tiny, native: pd.DataFrame, adapter: dict[str, Any], folder: Path, **changes: Any) -> None:
    """Make the first clip of an arm."""
    arm = ArmParams(**ARM | changes)
    arm_clips("arm", arm, native[:1], adapter, None, tiny.model(), PARAMS, folder)


def test_freeswim_whose_window_sees_everything_is_full_attention(tiny, native, adapter, pixels, tmp_path) -> None:
    """Both of its paths are then the same, in the form that repeats and in the cached one that renews every step."""
    whole = {"method": "freeswim", "attention": {"kind": "window", "half_window": (4, 6)}}
    for changes in (whole, whole | {"refresh_every": 1}, {"attention": {"kind": "full"}}):
        make_first(tiny, native, adapter, tmp_path, **changes)
    dual, cached, full = pixels
    np.testing.assert_allclose(dual / full.std(), full / full.std(), rtol=0, atol=2e-3)
    np.testing.assert_allclose(cached / full.std(), full / full.std(), rtol=0, atol=2e-3)


def test_freeswim_takes_the_layout_from_full_attention(tiny, native, adapter, pixels, tmp_path) -> None:
    """Without guidance the cached form that renews every step is the other form; one that does so less often is not."""
    own = {"attention": {"kind": "window"}, "guidance_scale": 1.0}
    swim = own | {"method": "freeswim"}
    for changes in (swim, swim | {"refresh_every": 1}, swim | {"refresh_every": 2}, own):
        make_first(tiny, native, adapter, tmp_path, **changes)
    dual, every, second, window = (clip / pixels[0].std() for clip in pixels)
    np.testing.assert_allclose(every, dual, rtol=0, atol=2e-3)
    assert np.abs(second - dual).max() > 1e-2 and np.abs(window - dual).max() > 1e-2


def test_adaspa_gives_a_clip_the_same_alone_and_in_a_batch(tiny, native, adapter, pixels, tmp_path) -> None:
    """Through an arm's models, guided: its blocks are the clip's own, and the clip after it starts without any."""
    own = {"kind": "adaspa", "block": 8, "sparsity": 0.5, "search_steps": [1, 2], "recall": 0.6}
    arm = ArmParams(**ARM | {"attention": own})
    for size in (2, 1):
        params = PARAMS.model_copy(update={"batch_size": size})
        arm_clips("arm", arm, native, adapter, None, tiny.model(), params, tmp_path / str(size))
    make_first(tiny, native, adapter, tmp_path, attention={"kind": "full"})
    first, second, alone, after, full = (clip / pixels[0].std() for clip in pixels)
    np.testing.assert_allclose(alone, first, rtol=0, atol=2e-3)
    np.testing.assert_allclose(after, second, rtol=0, atol=2e-3)
    assert np.abs(first - full).max() > 1e-2
