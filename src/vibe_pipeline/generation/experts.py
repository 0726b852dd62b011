"""The transformers of a base at work: its one, or two experts of which one is on the device at a time.

Wan2.2-A14B has an expert of high noise and one of low, which change places at `boundary_ratio`. An expert of 14B is 29
GB in 16 bit: the one that waits is kept in main memory, whether `model.offload` is set or not. Noise falls through a
pass, so they change places once in it; an expert that none of its levels asks for is never read from disk. With
`model.offload: blocks` the one at work is there block by block, from when a pass asks for it to the pass's end: nothing
that is put on a transformer, or taken off, meets diffusers' hooks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.block_offload import compile_forwards, gather_blocks, offload_blocks
from vibe_pipeline.diffusion.compiling import begin_compiling
from vibe_pipeline.diffusion.flow import is_high_noise
from vibe_pipeline.diffusion.freeswim import FreeSwim
from vibe_pipeline.diffusion.lifetime import release
from vibe_pipeline.diffusion.lora_differences import fused_differences
from vibe_pipeline.diffusion.models import WanCheckpoint, load_transformer, token_grid
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.regions import Regions, install_regions
from vibe_pipeline.diffusion.step_cache import forget_steps, install_step_cache, remove_step_cache, step_cache_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.stages import Attach
from vibe_pipeline.io.manifests import AdapterManifest


@dataclass(kw_only=True)
class Expert:
    """A transformer, with all that an arm puts on it.

    Attributes:
        part: Its folder in the model.
        transformer: With adapters, attention and caches.
        swim: FreeSwim's two paths, where the arm has them.
        regions: Region-adaptive sampling, likewise.
        fused: What is taken back from its weights when it is closed.
    """

    part: str
    transformer: WanTransformer3DModel
    swim: FreeSwim | None = None
    regions: Regions | None = None
    fused: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Give up its memory."""
        self.fused.close()
        if self.regions is not None:
            self.regions.detach()
        remove_step_cache(self.transformer)
        release(self.transformer)


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What is put on transformers; what was trained here belongs to the last one alone, the low-noise expert of two.

    Attributes:
        model: Which base, in which precision.
        arm: Attention, other adapters, weights of its own; None for the native pass.
        adapter: Manifest of the arm's adapter.
        stage1: Manifest of the stage-1 adapter to keep (an ablation).
        attach: Gives a transformer the arm's attention; (expert, arm, native token grid).
    """

    model: ModelParams
    arm: ArmParams | None
    adapter: AdapterManifest | None
    stage1: AdapterManifest | None
    attach: Attach

    def load(self, checkpoint: WanCheckpoint, part: str, home: torch.device) -> Expert:
        """The transformer of a part of the model, with all of it."""
        last, dtype = part == checkpoint.experts[-1], getattr(torch, self.model.dtype)
        own = self.arm.transformer.path if last and self.arm is not None and self.arm.transformer is not None else None
        transformer = load_transformer(checkpoint, home, dtype, own, part, self.model.quantisation)
        expert = Expert(part=part, transformer=transformer)
        try:
            if last and self.stage1 is not None:
                lora.fuse_adapter(expert.transformer, self.stage1.path)
            if last and self.adapter is not None:
                lora.load_adapter(expert.transformer, self.adapter.path, self.adapter.name)
            if self.arm is not None:
                _add_extras(expert, self.arm, "low" if last else "high")
                native = self.model.native
                self.attach(expert, self.arm, token_grid(checkpoint, native.height, native.width))
            self._hasten(expert, checkpoint)
        except BaseException:
            expert.close()
            raise
        return expert

    def _hasten(self, expert: Expert, checkpoint: WanCheckpoint) -> None:
        """What leaves out work, or compiled blocks: hooks decide in Python, which torch.compile cannot look into."""
        cache = step_cache_of(self.arm.step_cache) if self.arm is not None else None
        if self.arm is not None and self.arm.region_adaptive is not None:
            native = token_grid(checkpoint, self.model.native.height, self.model.native.width)
            schedule = self.arm.region_adaptive.schedule
            expert.regions = install_regions(expert.transformer, schedule, self.arm.attention, native)
        elif cache is not None:
            install_step_cache(expert.transformer, cache)
        elif self.model.compile:
            begin_compiling()
            if self.model.offload == "blocks":
                compile_forwards(expert.transformer)
            else:
                expert.transformer.compile_repeated_blocks()


def _add_extras(expert: Expert, arm: ArmParams, which: str) -> None:
    """The row's other adapters, as far as they are this expert's."""
    for i, extra in enumerate(arm.extra_adapters):
        if extra.expert == which:
            lora.load_adapter(expert.transformer, extra.path, f"extra_{i}", extra.weight)
            if extra.differences:
                changed = fused_differences(expert.transformer, extra.differences_path, extra.weight)
                expert.fused.enter_context(changed)


class Experts:
    """The transformers of a model, each loaded when the first noise level asks for it; at least one is, from the start.

    Args:
        checkpoint: How many there are, and the boundary between them.
        device: Where the one at work is.
        equipment: What is put on each; with the model's offload none is on the device between passes.
        sigmas: Levels that will be asked for; their experts are loaded here.
    """

    def __init__(self, checkpoint: WanCheckpoint, device: torch.device, equipment: Equipment, sigmas: Tensor) -> None:
        self.checkpoint, self.device, self.offload = checkpoint, device, equipment.model.offload
        self.equipment, self._loaded = equipment, dict[str, Expert]()
        self._active: Expert | None = None
        try:
            self.ensure(sigmas)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Expert]:
        return iter(self._loaded.values())

    @property
    def home(self) -> torch.device:
        """Where a transformer waits: with two of them, and with offload, in main memory."""
        return torch.device("cpu") if self.offload or self.checkpoint.boundary is not None else self.device

    def ensure(self, sigmas: Tensor) -> None:
        """Load what a pass at these levels [n + 1], the last of which is its end, will need."""
        for sigma in sigmas[:-1].tolist():
            self.at(sigma)

    def at(self, sigma: float) -> Expert:
        """The expert of a noise level."""
        high = self.checkpoint.boundary is None or is_high_noise(sigma, self.checkpoint.boundary)
        part = self.checkpoint.experts[0 if high else -1]
        if part not in self._loaded:
            self._loaded[part] = self.equipment.load(self.checkpoint, part, self.home)
        return self._loaded[part]

    def switching(self, predictor: Callable[[Expert], Predict]) -> Predict:
        """The velocity by the expert of each level, which is brought to the device when the levels come to it.

        Args:
            predictor: Of one of them; asked for once an expert.
        """
        made: dict[str, Predict] = {}

        def predict(x: Tensor, sigma: Tensor) -> Tensor:
            """By the expert of this level, the same for the whole batch."""
            expert = self.at(float(sigma[0]))
            self._bring(expert)
            if expert.part not in made:
                made[expert.part] = predictor(expert)
            return made[expert.part](x, sigma)

        return predict

    @contextmanager
    def at_work(self, sigmas: Tensor) -> Iterator[None]:
        """A pass at these levels [n + 1]: nothing of the one before, nothing kept; with offload none stays there."""
        asked = [self.at(sigma) for sigma in sigmas[:-1].tolist()]
        for expert in self:
            forget_steps(expert.transformer)
            if expert.regions is not None:
                expert.regions.begin(sum(other is expert for other in asked))
        try:
            yield
        finally:
            for expert in self:
                forget_steps(expert.transformer)
                if expert.swim is not None:
                    expert.swim.stored.clear()
                if expert.regions is not None:
                    expert.regions.begin(0)  # the VAE has need of the memory
                if self.offload:
                    self._send_home(expert)
            if self.offload:
                self._active = None

    def close(self) -> None:
        """Free the models' memory: the next arm, or training, loads its own."""
        for expert in self:
            expert.close()

    def _bring(self, expert: Expert) -> None:
        """One on the device, the other off it first: both would not fit."""
        if self._active is expert:
            return
        with torch.inference_mode(False):  # which denoising is in: torchao's weights cannot be put in place there
            for other in self:
                if other is not expert:
                    self._send_home(other)
                    if other.swim is not None:
                        other.swim.stored.clear()
            if self.offload == "blocks":
                offload_blocks(expert.transformer, self.device)
            else:
                expert.transformer.to(self.device)
        self._active = expert

    def _send_home(self, expert: Expert) -> None:
        """To main memory."""
        if self.offload == "blocks":
            gather_blocks(expert.transformer)
        else:
            expert.transformer.to("cpu")


def expert_steps(checkpoint: WanCheckpoint, sigmas: Tensor) -> dict[str, int]:
    """How many steps of a pass at `sigmas` [n + 1] each of two experts takes; nothing where there is one."""
    if checkpoint.boundary is None:
        return {}
    high = sum(is_high_noise(sigma, checkpoint.boundary) for sigma in sigmas[:-1].tolist())
    return dict(zip(checkpoint.experts, (high, len(sigmas) - 1 - high), strict=True))
