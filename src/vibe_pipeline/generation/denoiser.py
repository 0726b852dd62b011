"""Text encoder, VAE and transformer of one arm at work: from noise, or from an enlarged native clip."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from vibe_pipeline.diffusion.bridge import bridge_start
from vibe_pipeline.diffusion.chunks import chunked
from vibe_pipeline.diffusion.decode import Piece
from vibe_pipeline.diffusion.flow import add_noise, seeded_generator, seeded_noise
from vibe_pipeline.diffusion.freeswim import freeswim_predictor
from vibe_pipeline.diffusion.lifetime import release
from vibe_pipeline.diffusion.models import (
    decode_bytes,
    decode_video,
    encode_video,
    find_model,
    latent_shape,
    load_vae,
    pick_device,
    settle_torch,
    velocity_predictor,
)
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.sampling import denoise, guided, resize_latents
from vibe_pipeline.diffusion.step_cache import in_context
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.clip_cache import Rows, Scale
from vibe_pipeline.generation.experts import Equipment, Expert, Experts
from vibe_pipeline.generation.first_frames import first_frame_pixels
from vibe_pipeline.generation.native_latents import NativeLatents
from vibe_pipeline.generation.stages import Attach, Sampling, Stage, attach_attention
from vibe_pipeline.generation.text_cache import TextCache
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import read_clip
from vibe_pipeline.runtime.progress import Progress


class Denoiser:
    """One arm's models, until it is closed; a context manager. The text encoder is gone when this is built.

    Args:
        model: Which base, and how it is kept in memory.
        params: The negative prompt.
        texts: Embeddings; those of every prompt are made here if they are not there yet.
        prompts: Every prompt that will be asked for.
        sampling: Noise levels, solver, guidance.
        arm: Attention, extra adapters, weights of its own; None for the native pass.
        adapter: Manifest of the arm's adapter.
        stage1: Manifest of the stage-1 adapter to keep (an ablation).
        attach: Gives a transformer the arm's attention; (expert, arm, native token grid).
        natives: Latents of enlarged native clips that all arms share; None: every clip is encoded here.
    """

    def __init__(
        self,
        model: ModelParams,
        params: GenerationParams,
        texts: TextCache,
        prompts: set[str],
        sampling: Sampling,
        arm: ArmParams | None = None,
        adapter: AdapterManifest | None = None,
        stage1: AdapterManifest | None = None,
        attach: Attach | None = None,
        natives: NativeLatents | None = None,
    ) -> None:
        settle_torch(model.threads, model.deterministic)
        texts.ensure([*prompts, params.negative_prompt])
        self.texts, self.sampling, self.negative = texts, sampling, params.negative_prompt
        self.checkpoint, self.offload = find_model(model.path), model.offload
        self.native, self.natives = Scale.of(model.native), natives
        self.device, self.dtype = pick_device(model.device), getattr(torch, model.dtype)
        home = torch.device("cpu") if model.offload else self.device
        self.refresh_every = arm.refresh_every if arm is not None else None
        self.detail_transfer = arm.detail_transfer if arm is not None else None
        self.enlarge = arm.enlarge if arm is not None else None
        self.bridge = arm.bridge if arm is not None else None
        self.long = arm.long if arm is not None else None
        self.arm = arm

        equipment = Equipment(model=model, arm=arm, adapter=adapter, stage1=stage1, attach=attach or attach_attention)
        self.experts = Experts(self.checkpoint, self.device, equipment, sampling.sigmas)
        try:
            self.vae = load_vae(self.checkpoint, home, model.tile, getattr(torch, model.vae_dtype))
        except BaseException:
            self.experts.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the models' memory: the next arm, or training, loads its own."""
        self.experts.close()
        release(self.vae)

    def from_noise(self, rows: Rows, size: Scale) -> Tensor:
        """Text (and a first frame) to video from pure noise: bytes [B, 3, T, H, W]."""
        return self._decoded(self.latent(rows, size, from_native=False))

    def latent(self, rows: Rows, size: Scale, from_native: bool) -> Tensor:
        """Clips from pure noise or from their native ones, not decoded."""
        if from_native:
            return self._refined(rows, size)[1]
        return self._denoised(rows, size, self._noise(rows, size), self.sampling)

    def refine(self, rows: Rows, size: Scale) -> Tensor:
        """The second pass: enlarge the native clip, encode, noise to sigma_start, denoise: bytes [B, 3, T, H, W].

        With `detail_transfer` w it gives enlarged + w (decoded - D(E(enlarged))): what the VAE itself loses or adds is
        in both decoded clips and cancels, so that the native clip is kept wherever the transformer changes nothing.
        """
        latents, latent = self._refined(rows, size)
        return self._decoded(latent, self._transfer(rows, size, latents) if self.detail_transfer is not None else None)

    def _refined(self, rows: Rows, size: Scale) -> tuple[Tensor, Tensor]:
        """Latents of the enlarged native clips, and what the second pass makes of them."""
        with self._on_device(self.vae):
            latents = torch.cat([self._native_latent(row, size) for row in rows])
        start = self._second_start(latents, self._noise(rows, size))
        return latents, self._denoised(rows, size, start, self.sampling)

    def _transfer(self, rows: Rows, size: Scale, latents: Tensor) -> Callable[[Piece], Tensor]:
        """What the second pass changed, by the weight of the row, upon the enlarged clip."""
        with self._on_device(self.vae):
            own = torch.cat([decode_video(self.vae, latent[None]) for latent in latents])
        enlarged = torch.cat([_enlarged(row, size) for row in rows])

        def transferred(piece: Piece) -> Tensor:
            before, native = (x[piece.place].to(piece.pixels) for x in (own, enlarged))
            return piece.pixels.sub_(before).mul_(self.detail_transfer).add_(native).clamp_(0, 1)

        return transferred

    def cascade(self, rows: Rows, size: Scale, stages: Sequence[Stage]) -> Tensor:
        """From noise at the first stage's size to the target, each pass from the enlarged latent of the one before.

        Nothing is decoded in between (CineScale, arXiv 2508.15774). Every pass has fresh noise: the row's own that of
        every other arm, and the first that of any clip from noise of its size, such as the native one.
        """
        latent: Tensor | None = None
        for stage in stages:
            self.experts.ensure(stage.sampling.sigmas)
        for index, stage in enumerate(stages):
            marked = [row | {"prompt": f"stage {index}\n{row['prompt']}"} for row in rows] if index else rows
            noise = self._noise(marked, stage.size)
            start = noise if latent is None else self._noised(latent, noise, stage.sampling)
            with stage.entered(self):
                latent = self._denoised(rows, stage.size, start, stage.sampling)
        if latent is None:
            raise ValueError("a cascade has at least one stage before the row's own pass")
        start = self._noised(latent, self._noise(rows, size), self.sampling)
        return self._decoded(self._denoised(rows, size, start, self.sampling))

    def _noised(self, latent: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
        enlarged = resize_latents(latent.to(noise), *noise.shape[-2:])
        return add_noise(enlarged, noise, sampling.sigmas[0].expand(len(noise)))

    def _second_start(self, latents: Tensor, noise: Tensor) -> Tensor:
        """The noised native clip: at the first level of the schedule, or at the start of a bridge."""
        if self.bridge is None:
            return add_noise(latents, noise, self.sampling.sigmas[0].expand(len(noise)))
        return bridge_start(latents, noise, torch.full((len(noise),), self.bridge.sigma), self.bridge.form)

    def _native_latent(self, row: dict[str, Any], size: Scale) -> Tensor:
        """A row's native clip as a latent of the target size, from the arms' common store where there is one."""
        if self.natives is None:
            return self._encoded(row, size)
        return self.natives.once(row, self.enlarge or "pixels", lambda: self._encoded(row, size))

    def _encoded(self, row: dict[str, Any], size: Scale) -> Tensor:
        """Enlarged as pixels, or once it is encoded."""
        if self.enlarge != "latent":
            return encode_video(self.vae, _enlarged(row, size))
        latent = encode_video(self.vae, _pixels(row))
        return resize_latents(latent, *latent_shape(dict(self.vae.config), size.height, size.width, size.frames)[-2:])

    def _decoded(self, latent: Tensor, change: Callable[[Piece], Tensor] | None = None) -> Tensor:
        with self._on_device(self.vae):
            return decode_bytes(self.vae, latent, change)

    def _denoised(self, rows: Rows, size: Scale, start: Tensor, sampling: Sampling) -> Tensor:
        first_frame = self._first_frames(rows, size)
        steps = len(sampling.sigmas) - 1

        def predictor(expert: Expert) -> Predict:
            return self._whole(expert, rows, first_frame is not None, sampling, start.shape[2])

        bar = Progress[None](total=steps, desc=f"{size.height}x{size.width}")
        with self.experts.at_work(sampling.sigmas), bar:
            return denoise(
                predict=self.experts.switching(predictor),
                x=start.to(self.device),
                sigmas=sampling.sigmas,
                scheduler=sampling.scheduler,
                on_step=bar.update,
                first_frame=first_frame,
            )

    def _whole(self, expert: Expert, rows: Rows, first_frame: bool, sampling: Sampling, frames: int) -> Predict:
        """The velocity of clips of so many latent frames, at once or in chunks."""
        one = self._predict(expert, rows, first_frame, sampling)
        if self.long is None:
            return one
        later = self._predict(expert, rows, False, sampling) if first_frame else one
        draws = [seeded_generator(f"cuts\n{row['prompt']}", row["seed"]) for row in rows]
        return chunked(one, later, self.long.chunks(frames, self.native.frames), self.long.blend, draws)

    def _predict(self, expert: Expert, rows: Rows, first_frame: bool, sampling: Sampling) -> Predict:
        conditional = self.texts.load([r["prompt"] for r in rows])
        empty = self.texts.load([self.negative]).expand_as(conditional)
        within = partial(in_context, expert.transformer) if expert.regions is None else expert.regions.within
        one, other = (
            within(
                name,
                velocity_predictor(expert.transformer, t, self.checkpoint.expand_timesteps, self.dtype, first_frame),
            )
            for name, t in (("conditional", conditional), ("unconditional", empty))
        )
        first, interval = expert.part == self.checkpoint.experts[0], sampling.guidance_interval
        scale = sampling.guidance_scale if first else sampling.low_noise_scale
        if expert.swim is not None:
            return freeswim_predictor(expert.swim, one, other, scale, self.refresh_every, interval)
        predict = guided(one, other, scale, interval)
        return predict if expert.regions is None else expert.regions.stepping(predict)

    def _noise(self, rows: Rows, size: Scale) -> Tensor:
        shape = latent_shape(dict(self.vae.config), size.height, size.width, size.frames)
        return torch.stack([seeded_noise(shape, r["prompt"], r["seed"]) for r in rows])

    def _first_frames(self, rows: Rows, size: Scale) -> Tensor | None:
        """The latents [B, C, 1, h, w] of the rows' first frames; None where the prompts have none."""
        if not rows[0].get("first_frame"):
            return None
        images = np.stack([first_frame_pixels(Path(r["first_frame"]), size, self.native) for r in rows])
        with self._on_device(self.vae):
            return encode_video(self.vae, torch.from_numpy(images).permute(0, 3, 1, 2)[:, :, None])

    @contextmanager
    def _on_device(self, part: nn.Module) -> Iterator[None]:
        """With offload, `part` is on the device inside and off it afterwards; otherwise everything always is."""
        if self.offload:
            part.to(self.device)
        try:
            yield
        finally:
            if self.offload:
                part.to("cpu")


def _pixels(row: dict[str, Any]) -> Tensor:
    """A row's native clip, [1, 3, T, H, W]."""
    return torch.from_numpy(read_clip(Path(row["native_path"]))).permute(3, 0, 1, 2)[None]


def _enlarged(row: dict[str, Any], size: Scale) -> Tensor:
    """A row's native clip at the target size, [1, 3, T, H, W]."""
    return enlarge(_pixels(row), size.height, size.width)
