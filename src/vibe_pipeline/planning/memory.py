"""Peak memory without a device: the real modules run on fake tensors, and the bytes alive at once are counted.

Two blocks of the transformer are run; each further one adds what the second added (up to a tenth too much).
Attention is counted as a flash kernel keeps it (queries, keys, values, output), and what its kind copies beside. Not
counted: what the allocator rounds up, workspaces of cuDNN and cuBLAS, and the copies that a reordering of tokens makes
for a moment.
"""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.diffusion.decode import pieces_of
from vibe_pipeline.diffusion.encode import latents_of
from vibe_pipeline.diffusion.lora import FUSED, add_adapter
from vibe_pipeline.diffusion.super_resolution import upscale
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.images.resize import shrink
from vibe_pipeline.planning.architecture import Architecture, Grid

STEADY_FRAMES = 4  # latent frames after which the VAE's caches of earlier frames no longer grow


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make and that are alive, without those given.

    Attributes:
        peak: The most so far.
    """

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self._alive: Any = WeakIdKeyDictionary()
        self.peak = 0
        for tensor in given:
            self._alive[tensor.untyped_storage()] = 0

    @property
    def now(self) -> int:
        """Bytes alive."""
        return sum(self._alive.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and count what it made; a view has the storage of its base and counts once."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._alive:
                    self._alive[storage] = storage.nbytes()
                    self.peak = max(self.peak, self.now)
        return out


@dataclass(frozen=True)
class Activations:
    """Bytes of a training step beside weights: kept from forward to backward, and at most."""

    kept: int
    peak: int


def training_activations(
    architecture: Architecture,
    grid: Grid,
    batch: int,
    text_length: int,
    lora: LoraParams,
    dtype: torch.dtype,
    autocast: bool,
    checkpointing: bool,
    beside: LoraParams | None = None,
    copies: float = 0,
    per_token: bool = False,
) -> int:
    """Peak bytes of a LoRA step beside weights, gradients and optimiser.

    `beside` is a frozen adapter that stands beside weights of 16 bit, as stage 1 does; `copies` as an attention kind
    declares it; `per_token`: one timestep a token, as packed images have it.
    """
    settings = (grid, batch, text_length, lora, dtype, autocast, checkpointing, beside, copies, per_token)
    one, two = (_training_trial(architecture, layers, *settings) for layers in (1, 2))
    return two.peak + (architecture.transformer["num_layers"] - 2) * (two.kept - one.kept)


def inference_activations(
    architecture: Architecture,
    grid: Grid,
    batch: int,
    text_length: int,
    dtype: torch.dtype,
    per_token: bool = False,
    copies: float = 0,
) -> int:
    """Peak bytes of one forward beside weights; the same for any number of blocks.

    `per_token`: one timestep a token, where a first frame is held, and so a modulation a token. `copies` as an
    attention kind declares it.
    """
    transformer = architecture.build_transformer(2)
    _copy_in_attention(transformer, copies)
    with _fake(transformer, dtype), torch.no_grad():
        inputs = _transformer_inputs(
            architecture=architecture, grid=grid, batch=batch, text_length=text_length, dtype=dtype, per_token=per_token
        )
        with LiveBytes([*_tensors(transformer), *inputs]) as live:
            transformer(*inputs, return_dict=False)
    return live.peak


def vae_activations(
    architecture: Architecture, latent: tuple[int, int, int, int], tile: int | None, dtype: torch.dtype, decode: bool
) -> int:
    """Peak bytes of a VAE call beside weights and the clip: one tile at work, and what is kept around it."""
    channels, frames, height, width = latent
    space, time = architecture.vae["scale_factor_spatial"], architecture.vae["scale_factor_temporal"]
    # diffusers cuts after patchifying when it encodes, so those tiles are larger.
    side = 0 if tile is None else tile // space * (1 if decode else architecture.vae.get("patch_size") or 1)
    worked = min(frames, STEADY_FRAMES)
    if tile is not None and max(height, width) > side:
        around = _strips(architecture, latent, tile, dtype, decode)
        height, width = min(height, side), min(width, side)
    else:  # the encoder's results, mean and variance, are joined for the last layer: parts, the whole, what is made
        around = 0 if decode else 3 * 2 * channels * (frames - worked) * height * width * dtype.itemsize
    vae = architecture.build_vae()
    with _fake(vae, dtype), torch.no_grad():
        pixels = (1, 3, (worked - 1) * time + 1, height * space, width * space)
        x = torch.empty((1, channels, worked, height, width) if decode else pixels, dtype=dtype)
        with LiveBytes([*_tensors(vae), x]) as live:
            # Each is freed when the next is made, as where clips are written and latents joined.
            deque(pieces_of(vae, x) if decode else latents_of(vae, x), maxlen=0)
    return live.peak + around


def _strips(
    architecture: Architecture, latent: tuple[int, int, int, int], tile: int, dtype: torch.dtype, decode: bool
) -> int:
    """Bytes that tiles share with those beside and below them, which stay until these are worked at."""
    channels, frames, height, width = latent
    space, stride = architecture.vae["scale_factor_spatial"], tile_stride(architecture.vae, tile)
    values = 3 * ((frames - 1) * architecture.vae["scale_factor_temporal"] + 1)
    if not decode:  # latents, and tiles larger by the patch
        patch = architecture.vae.get("patch_size") or 1
        tile, stride, space, values = tile * patch // space, stride * patch // space, 1, channels * frames
    row = sum(min(tile, width * space - start) for start in range(0, width * space, stride))
    below = row + tile if height * space > tile else 0  # of the row above, and of the tile at work
    return values * (tile - stride) * (below + 2 * min(tile, height * space)) * dtype.itemsize


def network_activations(
    network: nn.Module,
    scale: int,
    native: ClipSize,
    target: ClipSize,
    chosen: SuperResolutionParams,
    dtype: torch.dtype,
) -> int:
    """Peak bytes of one frame through a single-image network (on the meta device), tiles and resize to the target."""
    with _fake(network, dtype):
        frame = torch.empty(1, 3, native.height, native.width, dtype=dtype)
        with LiveBytes([*_tensors(network), frame]) as live:
            large = upscale(network, scale, frame, chosen.tile, chosen.overlap)
            shrink(large.float()[:, :, None], target.height, target.width)
    return live.peak


def text_activations(architecture: Architecture, text_length: int, dtype: torch.dtype) -> int:
    """Peak bytes of encoding one prompt beside weights."""
    encoder = architecture.build_text_encoder().encoder
    with _fake(encoder, dtype), torch.no_grad():
        tokens = torch.zeros(1, text_length, dtype=torch.long)
        with LiveBytes([*_tensors(encoder), tokens]) as live:
            encoder(tokens)
    return live.peak


def _training_trial(
    architecture: Architecture,
    layers: int,
    grid: Grid,
    batch: int,
    text_length: int,
    lora: LoraParams,
    dtype: torch.dtype,
    autocast: bool,
    checkpointing: bool,
    beside: LoraParams | None,
    copies: float,
    per_token: bool,
) -> Activations:
    transformer = architecture.build_transformer(layers).train()
    _copy_in_attention(transformer, copies)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    with torch.device("meta"):
        for name, shape in ((FUSED, beside), ("trained", lora)):  # the last that is added is the one that is trained
            if shape is not None:
                add_adapter(
                    transformer=transformer,
                    name=name,
                    rank=shape.rank,
                    alpha=shape.alpha,
                    targets=shape.targets,
                    seed=0,
                )
    with _fake(transformer, dtype):
        inputs = _transformer_inputs(architecture, grid, batch, text_length, dtype, per_token)
        with (
            LiveBytes([*_tensors(transformer), *inputs]) as live,
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        ):
            out = transformer(*inputs, return_dict=False)[0]
            kept = live.now
            out.float().square().mean().backward()
            gradients = sum(p.grad.nbytes for p in transformer.parameters() if p.grad is not None)
    return Activations(kept, live.peak - gradients)


class _Copied(torch.autograd.Function):
    """x itself, and a tensor of `copies` times its size that is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, copies: float) -> tuple[Tensor, Tensor]:
        held = x.new_empty(int(copies * x.numel()))
        ctx.save_for_backward(held)
        ctx.mark_non_differentiable(held)
        return x.view_as(x), held

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _copy_in_attention(transformer: nn.Module, copies: float) -> None:
    """Let every self-attention hold `copies` times its hidden states more, as long as it is at work."""
    if not copies:
        return
    alive: list[Tensor] = []

    def begin(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, held = _Copied.apply(args[0], copies)
        alive.append(held)
        return (hidden, *args[1:])

    def end(*_: Any) -> None:
        alive.clear()

    for block in transformer.blocks:
        block.attn1.register_forward_pre_hook(begin)
        block.attn1.register_forward_hook(end)


def _transformer_inputs(
    architecture: Architecture,
    grid: Grid,
    batch: int,
    text_length: int,
    dtype: torch.dtype,
    per_token: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    config = architecture.transformer
    latent = (batch, config["in_channels"], *(n * p for n, p in zip(grid, config["patch_size"], strict=True)))
    timestep = (batch, math.prod(grid)) if per_token else (batch,)
    text = torch.empty(batch, text_length, config["text_dim"], dtype=dtype)
    return torch.empty(latent, dtype=dtype), torch.empty(timestep), text


@contextmanager
def _fake(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Give a module on the meta device fake tensors: `dtype` for what is frozen, 32 bit for what is trained."""
    with FakeTensorMode():
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    kind = torch.float32 if value.requires_grad else dtype
                    fake = torch.empty(value.shape, dtype=kind, device="cpu")
                    part._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cpu")
        yield


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
