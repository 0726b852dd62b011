"""Training the miniature's text-to-video base: native-size videos only, so that a still is a true modality gap."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from vibe_pipeline.miniature.batches import SHARD, draw_shard, rendered, shard_scenes
from vibe_pipeline.miniature.networks import TEXT_LENGTH, build_text_encoder, build_tokenizer, build_transformer
from vibe_pipeline.runtime.ahead import results
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

SIGMA_SHIFT = 2.0


@dataclass(frozen=True, kw_only=True)
class ClipsJob:
    """Which training clips are rendered and encoded, and by what; picklable.

    Attributes:
        vae: A trained VAE, diffusers layout.
        folder: Gets `NNNN.safetensors` (latents [n, C, T, h, w], 16-bit) and `NNNN.json` (captions).
        clips: How many, rounded up to whole shards.
        size: Side in pixels.
        frames: Frames per clip.
        seed: Shard i draws its scenes from (seed, i).
    """

    vae: Path
    folder: Path
    clips: int
    size: int
    frames: int
    seed: int

    def missing(self) -> list[int]:
        """Shards that are not there."""
        return [i for i in range(-(-self.clips // SHARD)) if not (self.folder / f"{i:04d}.json").exists()]


def encode_clips(job: ClipsJob, processes: int, device: torch.device, workers: int) -> None:
    """Render and encode the training clips once, in shards; finished shards are kept.

    Args:
        job: Which clips, from which VAE, into which folder.
        processes: How many single-thread processes render and encode side by side, where there are no workers.
        device: What encodes, in this process, what workers render.
        workers: How many processes render for it; none beside a CPU, if all of its cores are to encode.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    if not (missing := job.missing()):
        return
    bar = Progress[None](total=len(missing), desc="encoding clips", unit="shard")
    if not workers and device.type == "cpu":
        with bar, mp.get_context("spawn").Pool(processes) as pool:
            for _ in pool.imap_unordered(partial(_encode_shard, job=job), missing):
                bar.update()
        return
    vae = AutoencoderKLWan.from_pretrained(job.vae).eval().to(device)
    draw = partial(draw_shard, seed=job.seed, size=job.size, frames=job.frames)
    with bar:
        for index, (pixels, captions) in zip(missing, results(draw, missing, workers), strict=True):
            _write_shard(index, _latents(vae, pixels.split(50)), captions, job.folder)
            bar.update()


def _encode_shard(index: int, job: ClipsJob) -> None:
    torch.set_num_threads(1)
    vae = AutoencoderKLWan.from_pretrained(job.vae).eval()
    scenes = shard_scenes(index, job.seed)
    pixels = (rendered(scenes[start : start + 5], job.size, job.frames) for start in range(0, SHARD, 5))
    _write_shard(index, _latents(vae, pixels), [scene.caption for scene in scenes], job.folder)


@torch.inference_mode()
def _latents(vae: AutoencoderKLWan, batches: Iterable[Tensor]) -> Tensor:
    """Latents [n, C, T, h, w] of pixels, 16 bit, on the CPU."""
    latents = []
    for pixels in batches:
        with torch.autocast(vae.device.type, torch.bfloat16):
            latents.append(vae.encode(pixels.to(vae.device)).latent_dist.mode().to("cpu", torch.float16))
    return torch.cat(latents).contiguous()


def _write_shard(index: int, latents: Tensor, captions: list[str], folder: Path) -> None:
    save_file({"latents": latents}, folder / f"{index:04d}.safetensors")
    (folder / f"{index:04d}.json").write_text(json.dumps(captions))


def load_clips(folder: Path) -> tuple[Tensor, list[str]]:
    """All encoded clips: latents [N, C, T, h, w] in 16 bit, and their captions."""
    latents, captions = [], []
    for shard in sorted(folder.glob("*.json")):
        latents.append(load_file(shard.with_suffix(".safetensors"))["latents"])
        captions += json.loads(shard.read_text())
    return torch.cat(latents), captions


def latent_statistics(latents: Tensor) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation, for the VAE's configuration."""
    sample = latents[:2000].float()
    return sample.mean((0, 2, 3, 4)).tolist(), sample.std((0, 2, 3, 4)).tolist()


def tokenize(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [N, TEXT_LENGTH] each."""
    tokens = build_tokenizer()(
        list(captions), padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    return tokens.input_ids, tokens.attention_mask


class BaseObjective(nn.Module):
    """Velocity loss of a rectified flow, text encoder and transformer trained jointly.

    With `start`, the folder of a trained base, training goes on from its weights.
    """

    def __init__(self, start: Path | None = None) -> None:
        super().__init__()
        if start is None:
            self.transformer, self.text_encoder = build_transformer(), build_text_encoder()
        else:
            self.transformer = WanTransformer3DModel.from_pretrained(start, subfolder="transformer").float().train()
            self.text_encoder = UMT5EncoderModel.from_pretrained(start, subfolder="text_encoder").float().train()

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """The velocity loss of latents [B, C, F, H, W] with their captions' ids and mask [B, L], at drawn noise."""
        x0, ids, mask = batch
        noise = torch.randn_like(x0)
        # Stratified: one draw from each of B equal slices, so that a small batch covers all noise levels.
        u = (torch.randperm(len(x0), device=x0.device) + torch.rand(len(x0), device=x0.device)) / len(x0)
        sigma = SIGMA_SHIFT * u / (1 + (SIGMA_SHIFT - 1) * u)
        s = sigma.view(-1, 1, 1, 1, 1)
        text = self.text_encoder(ids, attention_mask=mask).last_hidden_state * mask[..., None]
        velocity = self.transformer((1 - s) * x0 + s * noise, 1000 * sigma, text, return_dict=False)[0]
        return {"loss": (velocity.float() - (noise - x0)).square().mean()}


class ClipBatches:
    """Draws batches of normalised latents with tokens; a tenth of the captions are empty, for guidance."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self._data: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        if self._data is None:
            latents, captions = load_clips(self.folder)
            mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in latent_statistics(latents))
            self._data = ((latents.float() - mean) / std, *tokenize(captions))
            self._empty = tokenize([""])
        x0, ids, mask = self._data
        chosen = torch.from_numpy(rng.choice(len(x0), self.size, replace=False))
        dropped = torch.from_numpy(rng.random(self.size) < 0.1)[:, None]
        return (
            x0[chosen],
            torch.where(dropped, self._empty[0], ids[chosen]),
            torch.where(dropped, self._empty[1], mask[chosen]),
        )


def base_optimisers(module: BaseObjective, muon_rate: float, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks, AdamW for everything else."""
    matrices = [p for p in module.transformer.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=muon_rate, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
