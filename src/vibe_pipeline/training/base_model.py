"""The whole recipe of what the miniature ships, from nothing.

The base: VAE, encoded clips, transformer with text encoder, as a diffusers folder. And the pixel network, which makes
large frames of native ones.
"""

import logging
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.io.files import read_json, write_atomic, write_json
from vibe_pipeline.miniature.base import (
    BaseObjective,
    ClipBatches,
    ClipsJob,
    base_optimisers,
    encode_clips,
    latent_statistics,
    load_clips,
)
from vibe_pipeline.miniature.batches import draw_pictures
from vibe_pipeline.miniature.networks import save_pipeline
from vibe_pipeline.miniature.pairs import Sizes, draw_pairs
from vibe_pipeline.miniature.pixel_network import PixelTraining, save_network, train_pixel_network
from vibe_pipeline.miniature.vae import DecoderObjective, VaeObjective, VaeWeights, vae_optimisers
from vibe_pipeline.training.modules import ModuleJob, train_module

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
FROM_NOTHING = {"rate": 1e-3, "muon_rate": 1.5e-3}
GOING_ON = {"rate": 4e-4, "muon_rate": 6e-4}
"""The VAE's rates; gentler where it goes on from where a decay ended."""


def workers_of(params: MiniatureParams, device: torch.device) -> int:
    """How many processes render ahead of each that trains."""
    if params.workers is not None:
        return params.workers
    return 0 if device.type == "cpu" else max(1, ((os.cpu_count() or 1) - 1) // params.processes)


def vae_job(params: MiniatureParams, folder: Path, device: torch.device = CPU) -> ModuleJob:
    """The whole VAE."""
    start = None if params.start is None else params.start / "vae"
    return ModuleJob(
        name="vae",
        folder=folder,
        build=partial(VaeObjective, VaeWeights(equivariance=params.vae_equivariance), start),
        optimisers=partial(vae_optimisers, **(FROM_NOTHING if start is None else GOING_ON)),
        batch=partial(draw_pictures, native=params.size, frames=params.frames, clips=params.vae_batch),
        steps=params.vae_steps,
        processes=params.processes,
        decay=0.4,
        save_every=100,
        seed=params.seed,
        device=device,
        workers=workers_of(params, device),
    )


def decoder_job(params: MiniatureParams, vae: Path, folder: Path, device: torch.device = CPU) -> ModuleJob:
    """The decoder alone, behind the encoder of the VAE in folder `vae`; other scenes than before."""
    return replace(
        vae_job(params, folder, device),
        name="decoder",
        build=partial(DecoderObjective, vae),
        optimisers=partial(vae_optimisers, **GOING_ON),
        steps=params.decoder_steps,
        decay=0.8,
        seed=params.seed + 1,
    )


def clips_job(params: MiniatureParams, vae: Path, folder: Path) -> ClipsJob:
    """The clips that the transformer is trained on."""
    size = {"clips": params.clips, "size": params.size, "frames": params.frames}
    return ClipsJob(vae=vae, folder=folder, seed=params.seed, **size)


def transformer_job(params: MiniatureParams, clips: Path, folder: Path, device: torch.device = CPU) -> ModuleJob:
    """Transformer and text encoder, on the clips encoded in `clips`."""
    return ModuleJob(
        name="transformer",
        folder=folder,
        build=partial(BaseObjective, params.start),
        optimisers=partial(base_optimisers, muon_rate=4e-3, rate=1.2e-3),
        batch=ClipBatches(clips, size=params.base_batch),
        steps=params.base_steps,
        processes=params.processes,
        warmup=100,
        save_every=250,
        seed=params.seed,
        device=device,
    )


def train_vae(params: MiniatureParams, work: Path, device: torch.device = CPU) -> Path:
    """Train the VAE and then its decoder alone, or return what an earlier run finished; a 16-bit diffusers folder."""
    whole, folder = work / "vae_before_decoder", work / "vae_model"
    if (folder / "config.json").exists():
        return folder
    if not (whole / "config.json").exists():
        train_module(vae_job(params, work / "vae", device)).vae.to(torch.float16).save_pretrained(whole)
    decoder = decoder_job(params, whole, work / "decoder", device)
    train_module(decoder).vae.to(torch.float16).save_pretrained(folder)
    return folder


def train_base(params: MiniatureParams, work: Path, output: Path, device: torch.device = CPU) -> Path:
    """Train the miniature's base and write it as a diffusers folder; every part resumes.

    Args:
        params: Sizes and lengths.
        work: Checkpoints, logs and encoded clips.
        output: The diffusers folder, 16-bit safetensors.
        device: Where it is trained.
    """
    vae_folder = train_vae(params, work, device)
    clips = work / "clips"
    encode_clips(clips_job(params, vae_folder, clips), params.processes, device, workers_of(params, device))
    objective = train_module(transformer_job(params, clips, work / "transformer", device))
    save_pipeline(vae_of(vae_folder, clips), objective.transformer, objective.text_encoder, output)
    log.info("the miniature's base is in %s", output)
    return output


def vae_of(folder: Path, clips: Path) -> AutoencoderKLWan:
    """The VAE in a folder, with the statistics of the clips that it encoded into `clips` in its configuration."""
    vae = AutoencoderKLWan.from_pretrained(folder)
    mean, std = latent_statistics(load_clips(clips)[0])
    vae.register_to_config(latents_mean=mean, latents_std=std)
    return vae


def train_restorer(params: MiniatureParams, target: int, work: Path, output: Path) -> dict[str, Any]:
    """Train the pixel network on true pairs of frames, or take the one that an earlier run finished.

    Args:
        params: The native side and frames, how many scenes and steps, the seed.
        target: Side of the large frames in pixels, a whole multiple of the native one.
        work: Gets the weights when they are trained, and beside them what training took.
        output: Where the weights are shipped, safetensors.

    Returns:
        path, scenes, steps, seconds: of one processor core.
    """
    trained, log_file = work / output.name, work / f"{output.stem}.json"
    if not (trained.exists() and log_file.exists()):
        sizes = Sizes(
            native=params.size,
            target=target,
            frames=params.frames,
            training_scenes=params.pixel_scenes,
            seed=params.seed,
        )
        pairs = draw_pairs(sizes, held_out=False)
        begun = time.process_time()
        how = PixelTraining(steps=params.pixel_steps, seed=params.seed)
        save_network(train_pixel_network(pairs.native, pairs.target, how), trained)
        seconds = round(time.process_time() - begun, 1)
        write_json(log_file, {"scenes": params.pixel_scenes, "steps": params.pixel_steps, "seconds": seconds})
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, partial(shutil.copyfile, trained))
    log.info("the miniature's pixel network is in %s", output)
    return {"path": str(output)} | read_json(log_file)
