"""Time and memory of the single jobs of a run: a training step, a forward, a VAE call, a prompt."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vibe_pipeline.config import AttentionParams, ClipSize, LoraParams, ModelParams, TrainParams
from vibe_pipeline.planning import flops, memory
from vibe_pipeline.planning.architecture import Architecture, Grid
from vibe_pipeline.planning.devices import Device

STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0}
"""AdamW's two moments of each trained number; 8 bit as bitsandbytes keeps them."""

MEASURE_SECONDS = 0.16
"""Processor seconds of our own measures a megapixel of every frame, over half of it decoding: benchmarks/measures.py on
noisy lossless clips of 1408x2560 and 2176x3840, two cores of a shared machine."""
MEASURE_CORES = 2  # a decoder beside the measures
MEASURE_FRAMES = 4
"""Pictures in 32-bit floats that measuring holds beside the interpreter, however long the clip: 2.1 to 2.5 as measured,
and a true render."""


@dataclass(frozen=True)
class Work:
    """TFLOP and the seconds they take at the assumed share of peak."""

    teraflops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.teraflops + other.teraflops, self.seconds + other.seconds)

    def __mul__(self, times: float) -> "Work":
        return Work(self.teraflops * times, self.seconds * times)


def measuring(size: ClipSize, cores: int) -> Work:
    """Our own measures of a clip, on the machine's processors."""
    megapixels = size.height * size.width * size.frames / 1e6
    return Work(0.0, MEASURE_SECONDS * megapixels / min(cores, MEASURE_CORES))


def measuring_memory(size: ClipSize) -> float:
    """Bytes of main memory that measuring takes."""
    return MEASURE_FRAMES * 12.0 * size.height * size.width


@dataclass(frozen=True)
class Costs:
    """Work and peak memory (bytes) of one model on one device.

    Attributes:
        share: Of the device's peak that is reached.
    """

    architecture: Architecture
    model: ModelParams
    device: Device
    share: float
    _memo: dict[tuple, Any] = field(default_factory=dict, compare=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of transformer and text encoder."""
        return getattr(torch, self.model.dtype)

    @property
    def vae_dtype(self) -> torch.dtype:
        """Of the VAE."""
        return getattr(torch, self.model.vae_dtype)

    def weights(self, part: str) -> float:
        """Bytes of a part's weights on the device."""
        dtype = self.vae_dtype if part == "vae" else self.dtype
        return float(self.architecture.parameters[part] * dtype.itemsize)

    def keys(self, size: ClipSize, attention: AttentionParams) -> int:
        """Keys that each query of self-attention sees."""
        return flops.keys_per_query(self.architecture.grid(size), attention, self.native_grid)

    @property
    def native_grid(self) -> Grid:
        """Tokens of a native clip."""
        return self.architecture.grid(self.model.native)

    def forward(self, size: ClipSize, attention: AttentionParams, lora: LoraParams | None = None) -> Work:
        """One sample through the transformer, with an adapter beside it if there is one."""
        return self._work(self._forward_flops(size, attention, lora).total, self.dtype)

    def step(self, size: ClipSize, attention: AttentionParams, row: TrainParams) -> Work:
        """One optimiser step of a LoRA training, over all its images and processes."""
        forward = self._forward_flops(size, attention, row.lora)
        one = flops.training_flops(forward, row.gradient_checkpointing)
        work = self._work(one * row.batch_size, torch.bfloat16 if row.autocast else self.dtype)
        return Work(work.teraflops, work.seconds / row.processes)

    def step_memory(self, size: ClipSize, row: TrainParams) -> float:
        """Peak bytes of a training step on each device."""
        batch = row.micro_batch or -(-row.batch_size // row.processes)
        grid = self.architecture.grid(size)
        key = ("train", grid, batch, row.lora, row.autocast, row.gradient_checkpointing)
        activations = self._once(
            key,
            lambda: memory.training_activations(
                self.architecture, grid, batch, self.model.text_length, row.lora, self.dtype, row.autocast,
                row.gradient_checkpointing,
            ),
        )  # fmt: skip
        per_number = 8 + STATE_BYTES[row.optimiser.kind] + (4 if row.ema_decay else 0)
        trained = self.adapter_parameters(row.lora) * per_number
        return memory.CONTEXT_BYTES + self.weights("transformer") + trained + activations

    def forward_memory(self, size: ClipSize, batch: int) -> float:
        """Bytes of a forward beside weights."""
        grid, text = self.architecture.grid(size), self.model.text_length
        return self._once(
            ("forward", grid, batch),
            lambda: memory.inference_activations(self.architecture, grid, batch, text, self.dtype),
        )

    def encode(self, size: ClipSize) -> Work:
        """A clip or an image to its latent."""
        return self._vae(size, decode=False)

    def decode(self, size: ClipSize) -> Work:
        """A latent to its clip."""
        return self._vae(size, decode=True)

    def vae_memory(self, size: ClipSize, decode: bool) -> float:
        """Bytes of a VAE call beside weights."""
        latent = self.architecture.latent(size)
        return self._once(
            ("vae memory", latent, decode),
            lambda: memory.vae_activations(self.architecture, latent, self.model.tile, self.vae_dtype, decode),
        )

    def text(self) -> Work:
        """One prompt."""
        length = self.model.text_length
        return self._work(self._once(("text",), lambda: flops.text_flops(self.architecture, length)), self.dtype)

    def text_memory(self) -> float:
        """Peak bytes of encoding prompts: the encoder is alone on the device."""
        length = self.model.text_length
        working = self._once(("text memory",), lambda: memory.text_activations(self.architecture, length, self.dtype))
        return memory.CONTEXT_BYTES + self.weights("text_encoder") + working

    def adapter_parameters(self, lora: LoraParams) -> int:
        """Trained numbers of an adapter."""
        return sum(lora.rank * (d_in + d_out) for d_in, d_out in self._layers(lora).values())

    def _layers(self, lora: LoraParams) -> dict[str, tuple[int, int]]:
        return self._once(("layers", lora.targets), lambda: flops.adapter_layers(self.architecture, lora))

    def _forward_flops(self, size: ClipSize, attention: AttentionParams, lora: LoraParams | None) -> flops.Flops:
        model, grid = self.architecture, self.architecture.grid(size)
        found = flops.forward_flops(
            model.transformer, grid, self.model.text_length, self.keys(size, attention), model.expand_timesteps
        )
        if lora is None:
            return found
        own = flops.adapter_flops(self._layers(lora), lora.rank, math.prod(grid), self.model.text_length)
        return replace(found, adapter=own)

    def _vae(self, size: ClipSize, decode: bool) -> Work:
        latent = self.architecture.latent(size)
        calls = self._once(("vae calls",), lambda: flops.VaeFlops(self.architecture, self.model.tile))
        call = calls.decode if decode else calls.encode
        return self._work(self._once(("vae", latent, decode), lambda: call(latent)), self.vae_dtype, True)

    def _work(self, operations: float, dtype: torch.dtype, convolutions: bool = False) -> Work:
        teraflops = operations / 1e12
        return Work(teraflops, teraflops / (self.device.teraflops(dtype, convolutions) * self.share))

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]
