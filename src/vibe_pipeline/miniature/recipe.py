"""The whole recipe of the miniature's base: VAE, encoded clips, transformer with text encoder, diffusers folder."""

import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.miniature.base import BaseObjective, base_task, encode_clips, latent_statistics, load_clips
from vibe_pipeline.miniature.networks import save_pipeline
from vibe_pipeline.miniature.trainer import Schedule, train
from vibe_pipeline.miniature.vae import VaeObjective, VaeWeights, vae_task

log = logging.getLogger(__name__)


def train_vae(params: MiniatureParams, work: Path) -> Path:
    """Train the VAE, or return the one that an earlier run finished; a 16-bit diffusers folder."""
    folder = work / "vae_model"
    if (folder / "config.json").exists():
        return folder
    schedule = Schedule(
        steps=params.vae_steps,
        processes=params.processes,
        warmup=50,
        decay=0.4,
        ema=0.998,
        save_every=50,
        seed=params.seed,
    )
    task = vae_task(params.size, params.frames, clips=2, weights=VaeWeights(equivariance=params.vae_equivariance))
    weights = train(task, schedule, work / "vae")
    objective = VaeObjective()
    objective.load_state_dict(weights)
    objective.vae.to(torch.float16).save_pretrained(folder)
    return folder


def train_base(params: MiniatureParams, work: Path, output: Path) -> Path:
    """Train the miniature's base from nothing and write it as a diffusers folder; every part resumes.

    Args:
        params: Sizes and lengths.
        work: Checkpoints, logs and encoded clips.
        output: The diffusers folder, 16-bit safetensors.
    """
    vae_folder = train_vae(params, work)
    clips = work / "clips"
    encode_clips(
        vae_folder=vae_folder,
        folder=clips,
        clips=params.clips,
        size=params.size,
        frames=params.frames,
        seed=params.seed,
        processes=params.processes,
    )
    schedule = Schedule(
        steps=params.base_steps, processes=params.processes, warmup=100, save_every=250, seed=params.seed
    )
    weights = train(base_task(clips, batch_size=12), schedule, work / "transformer")
    objective = BaseObjective()
    objective.load_state_dict(weights)
    vae = AutoencoderKLWan.from_pretrained(vae_folder)
    mean, std = latent_statistics(load_clips(clips)[0])
    vae.register_to_config(latents_mean=mean, latents_std=std)
    save_pipeline(vae, objective.transformer, objective.text_encoder, output)
    log.info("the miniature's base is in %s", output)
    return output
