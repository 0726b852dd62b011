"""Does the miniature's base work? Its own samples against their captions, and its VAE against the truth.

.venv/bin/python benchmarks/base_model.py [--model data/06_models/base] [--prompts 64] [--json out.json]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import vibe_pipeline  # noqa: F401  (before diffusers: makes torchvision importable beside a CPU build of torch)
from vibe_pipeline.diffusion.models import decode_video, encode_video, find_model, load_vae
from vibe_pipeline.evaluation.metrics.detail import psnr
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.generation.render import native_clips
from vibe_pipeline.io.video import read_clip
from vibe_pipeline.miniature.readout import share_right
from vibe_pipeline.miniature.scene import scene_of_prompt
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, render

GATES = {
    "colours_right": 0.97,
    "motion_right": 0.97,
    "shape_right": 0.97,
    "one_object": 0.97,
    "texture_right": 0.90,
    "vae_psnr_clip_48": 36.0,
    "vae_psnr_clip_144": 36.0,
    "vae_psnr_still_48": 36.0,
    "vae_psnr_still_144": 36.0,
}


def sampled(model: ModelParams, prompts: pd.DataFrame, steps: int, guidance: float, batch: int) -> dict[str, float]:
    """Share of the base's own native clips that show what their captions say."""
    params = GenerationParams(prompts="miniature", native_steps=steps, native_guidance_scale=guidance)
    params = params.model_copy(update={"batch_size": batch})
    with tempfile.TemporaryDirectory() as folder:  # the run's own function, its clips as they are stored
        clips = native_clips(prompts, model, params, Path(folder))
        return share_right((read_clip(Path(row.path)), row.prompt) for row in clips.itertuples())


def reconstructed(model: ModelParams, prompts: pd.DataFrame) -> dict[str, float]:
    """PSNR of true renders through the VAE, dB, clips and stills at both sizes."""
    vae = load_vae(find_model(model.path), torch.device("cpu"))
    found: dict[str, float] = {}
    for size in (model.native.height, model.target.height):
        for kind, frames, style in (("clip", model.native.frames, VIDEO_STYLE), ("still", 1, STILL_STYLE)):
            values = []
            for row in prompts.itertuples():
                truth = render(scene_of_prompt(row.prompt, row.seed), size, size, frames, style)
                pixels = torch.from_numpy(truth).permute(3, 0, 1, 2)[None]
                back = decode_video(vae, encode_video(vae, pixels))[0].permute(1, 2, 3, 0).numpy()
                values.append(psnr(back, truth))
            found[f"vae_psnr_{kind}_{size}"] = float(np.mean(values))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/06_models/base")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    native, target = (ClipSize(height=n, width=n, frames=9, fps=8) for n in (48, 144))
    model = ModelParams(
        path=args.model, native=native, target=target, device="cpu", text_length=16, flow_shift=args.shift
    )
    prompts = load_prompts(GenerationParams(prompts="miniature", count=args.prompts))
    begun = time.monotonic()
    figures = sampled(model, prompts, args.steps, args.guidance, args.batch) | reconstructed(model, prompts.head(24))
    print(f"{args.prompts} held-out prompts, {args.steps} Euler steps, shift {args.shift}, guidance {args.guidance}")
    print(f"{'measure':<22}{'value':>8}{'goal':>8}")
    for name, value in figures.items():
        goal = GATES[name]
        print(f"{name:<22}{value:>8.2f}{goal:>8.2f}  {'ok' if value >= goal else 'MISSED'}")
    print(f"{time.monotonic() - begun:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(vars(args) | figures, indent=1, default=str) + "\n")
    return int(any(value < GATES[name] for name, value in figures.items()))


if __name__ == "__main__":
    raise SystemExit(main())
