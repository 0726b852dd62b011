"""A second base of the miniature within so many seconds, for a GPU that is lent for minutes.

Goes on from a trained base: first its VAE, with the equivariance that is asked for, then that VAE's decoder alone, then
text encoder and transformer on clips encoded again. Each part ends at its seconds, its rate falling to zero before.
What it has so far lies in the output at every checkpoint, so being cut off loses little. Needs neither Kedro nor
MLflow. The same training by steps:
`kedro run --pipelines=base_model --params=model.device=cuda,miniature.start=...`.

    python benchmarks/timed_base.py --output OUT --equivariance 0.1 --device cuda --vae-seconds 120 --base-seconds 90
"""

import argparse
import json
import logging
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable

from diffusers import AutoencoderKLWan, WanPipeline  # isort: skip
from vibe_pipeline.diffusion.models import encode_video
from vibe_pipeline.diffusion.objectives import degrade
from vibe_pipeline.evaluation.gates import holdable
from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.images.degradation import degradation_figures
from vibe_pipeline.images.resize import enlarge, shrink
from vibe_pipeline.miniature.base import BaseObjective, encode_clips
from vibe_pipeline.miniature.networks import save_pipeline
from vibe_pipeline.miniature.pairs import Sizes
from vibe_pipeline.miniature.readout import share_right
from vibe_pipeline.miniature.scene import sample_scenes
from vibe_pipeline.miniature.vae import VaeObjective
from vibe_pipeline.miniature.world import STILL_STYLE, VIDEO_STYLE, render
from vibe_pipeline.training.base_model import (
    clips_job,
    decoder_job,
    transformer_job,
    vae_job,
    vae_of,
    workers_of,
)
from vibe_pipeline.training.modules import ModuleJob, train_module

log = logging.getLogger("timed_base")

NO_END = 1_000_000
CAMERA_BLUR = 0.52
"""As `data.camera_blur` of the miniature's environments."""
HELD_OUT_SEED = 20_260


def copied_vae(module: VaeObjective) -> AutoencoderKLWan:
    """A VAE of these weights, 16 bit; the module's stay what they are."""
    vae = AutoencoderKLWan.from_config(module.vae.config)
    vae.load_state_dict(module.vae.state_dict())
    return vae.to(torch.float16)


def keep_vae(module: VaeObjective, folder: Path) -> None:
    """Write the VAE as it is."""
    copied_vae(module).save_pretrained(folder)


def keep_base(module: BaseObjective, vae: AutoencoderKLWan, folder: Path) -> None:
    """Write the base as it is."""
    copy = BaseObjective()
    copy.load_state_dict(module.state_dict())
    save_pipeline(vae, copy.transformer, copy.text_encoder, folder)


@torch.inference_mode()
def statistics_of(vae: AutoencoderKLWan, sizes: Sizes) -> None:
    """Put mean and standard deviation of native clips' latents into the VAE's configuration."""
    scenes = sample_scenes(np.random.default_rng([sizes.seed, 2]), sizes.held_out_scenes, held_out=False)
    latents = []
    for scene in scenes:
        clip = torch.from_numpy(render(scene, sizes.native, sizes.native, sizes.frames, VIDEO_STYLE))
        pixels = clip.permute(3, 0, 1, 2)[None].to(vae.device) * 2 - 1
        latents.append(vae.encode(pixels).latent_dist.mode().float().cpu())
    every = torch.cat(latents)
    mean, std = every.mean((0, 2, 3, 4)).tolist(), every.std((0, 2, 3, 4)).tolist()
    vae.register_to_config(latents_mean=mean, latents_std=std)


def degradation(vae: AutoencoderKLWan, sizes: Sizes) -> dict[str, float]:
    """The degradation check of held-out stills, the paper's form: its figures, and two of them as shares."""
    scenes = sample_scenes(np.random.default_rng([sizes.seed, 1]), sizes.held_out_scenes, held_out=True)
    found = []
    for scene in scenes:
        still = torch.from_numpy(render(scene, sizes.target, sizes.target, 1, STILL_STYLE)).permute(3, 0, 1, 2)[None]
        small = shrink(still, sizes.native, sizes.native, CAMERA_BLUR)
        true, enlarged = encode_video(vae, still), encode_video(vae, enlarge(small, sizes.target, sizes.target))
        found.append(degradation_figures(degrade(true), true, enlarged))
    mean = {name: math.fsum(figures[name] for figures in found) / len(found) for name in found[0]}
    return mean | {
        "degraded_over_upsampled": mean["mse_degraded"] / mean["mse_upsampled"],
        "between_over_upsampled": mean["mse_between"] / mean["mse_upsampled"],
    }


def judged_vae(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, float]:
    """Gate 3 and the degradation check of a VAE."""
    vae = AutoencoderKLWan.from_pretrained(folder).eval().to(device)
    gates = {gate.name: gate.value for gate in holdable(vae, sizes)}
    statistics_of(vae, sizes)
    return gates | degradation(vae, sizes)


@torch.inference_mode()
def judged_base(folder: Path, prompts: int, size: int, frames: int, device: torch.device) -> dict[str, float]:
    """Share of a base's own clips for held-out captions that show what these say: 20 steps, guidance 5."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipe = WanPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.to(torch.float32)
    captions = [s.caption for s in sample_scenes(np.random.default_rng(HELD_OUT_SEED), prompts, held_out=True)]
    shown: list[tuple[Any, str]] = []
    for start in range(0, len(captions), 32):
        part = captions[start : start + 32]
        clips = pipe(
            part,
            height=size,
            width=size,
            num_frames=frames,
            num_inference_steps=20,
            guidance_scale=5.0,
            max_sequence_length=16,
            generator=torch.Generator().manual_seed(start),
            output_type="np",
        ).frames
        shown += zip(np.asarray(clips), part, strict=True)
    return share_right(shown)


def bounded(job: ModuleJob, seconds: float, keep: Callable[[Any], None], args: argparse.Namespace) -> ModuleJob:
    """A job that ends with its seconds, and leaves what it has in the output at every checkpoint."""

    def kept(module: Any) -> None:
        keep(module)
        shutil.copyfile(job.folder / "log.jsonl", args.output / f"{job.name}.jsonl")
        log.info("%s: %s", job.name, (job.folder / "log.jsonl").read_text().splitlines()[-1])

    often = {"log_every": args.every, "save_every": args.every}
    return replace(job, steps=NO_END, seconds=seconds, keep=kept, warmup=20, **often)


class Report:
    """What was measured, on the disk and on the screen as soon as it is."""

    def __init__(self, path: Path) -> None:
        self.path, self.begun = path, time.monotonic()
        self.content: dict[str, Any] = {}

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure; an error is a result too, since the trainings go on without."""
        begun = time.monotonic()
        try:
            value = measure()
        except Exception:
            value = {"error": traceback.format_exc()}
        self.content[name] = value
        self.content[f"{name}_seconds"] = round(time.monotonic() - begun, 1)
        self.path.write_text(json.dumps(self.content, indent=1, default=str) + "\n")
        log.info("after %.0f s, %s: %s", time.monotonic() - self.begun, name, json.dumps(value, default=str))


def trained(args: argparse.Namespace, report: Report) -> None:
    """All three parts, each judged when it is done."""
    device, output, work = torch.device(args.device), args.output, args.work
    params = MiniatureParams(
        start=args.start,
        vae_equivariance=args.equivariance,
        vae_batch=args.vae_batch,
        base_batch=args.base_batch,
        clips=args.clips,
        workers=args.workers,
        seed=args.seed,
    )
    sizes = Sizes(held_out_scenes=args.scenes)
    whole, vae, base = work / "whole", output / "base/vae", output / "base"

    keep = partial(keep_vae, folder=vae)
    first = bounded(vae_job(params, work / "vae", device), args.vae_seconds, keep, args)
    report.add("vae", lambda: keep_vae(train_module(first), whole))
    second = bounded(decoder_job(params, whole, work / "decoder", device), args.decoder_seconds, keep, args)
    report.add("decoder", lambda: keep_vae(train_module(second), work / "final"))
    final = work / "final" if (work / "final/config.json").exists() else vae
    report.add("vae_figures", lambda: judged_vae(final, sizes, device))

    clips = work / "clips"
    job = clips_job(params, final, clips)
    report.add("clips", lambda: encode_clips(job, params.processes, device, workers_of(params, device)))
    third = transformer_job(params, clips, work / "transformer", device)
    third = bounded(third, args.base_seconds, partial(keep_base, vae=vae_of(final, clips), folder=base), args)
    report.add("base", lambda: train_module(third) and None)
    report.add("base_figures", lambda: judged_base(base, args.prompts, params.size, params.frames, device))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="gets base/, logs and report.json")
    parser.add_argument("--work", type=Path, default=Path("timed_base_work"), help="gets checkpoints and encoded clips")
    parser.add_argument("--start", type=Path, default=Path("data/06_models/base"), help="the trained base gone on from")
    parser.add_argument("--equivariance", type=float, default=0.1, help="weight of the VAE's equivariance term")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vae-seconds", type=float, default=120)
    parser.add_argument("--decoder-seconds", type=float, default=40)
    parser.add_argument("--base-seconds", type=float, default=90)
    parser.add_argument("--vae-batch", type=int, default=32)
    parser.add_argument("--base-batch", type=int, default=256)
    parser.add_argument("--clips", type=int, default=24_000)
    parser.add_argument("--workers", type=int, help="processes that render ahead; all cores but one, if not given")
    parser.add_argument("--every", type=int, default=100, help="steps between two log lines and checkpoints")
    parser.add_argument("--scenes", type=int, default=64, help="held-out, that the VAE is judged on")
    parser.add_argument("--prompts", type=int, default=64, help="held-out, that the base is judged on")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    args.output.mkdir(parents=True, exist_ok=True)
    report = Report(args.output / "report.json")
    report.add("asked", lambda: vars(args) | {"torch": torch.__version__})
    trained(args, report)
    return int(any(isinstance(value, dict) and "error" in value for value in report.content.values()))


if __name__ == "__main__":
    raise SystemExit(main())
