"""Floating-point operations from configurations alone: transformer by formula, VAE and text encoder by counting.

A linear layer of n rows costs 2 n d_in d_out; attention of n queries over m keys costs 4 n m d. The formulas are
checked against torch's FLOP counter on the real modules.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention import AttentionSettings, kind_of
from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.planning.architecture import Architecture, Grid

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from torch import nn


@dataclass(frozen=True)
class Flops:
    """Operations of one sample: linear layers, attention, and an adapter's own layers."""

    linear: float
    attention: float
    adapter: float = 0.0

    @property
    def total(self) -> float:
        """All of a forward."""
        return self.linear + self.attention + self.adapter


def forward_flops(
    config: Mapping[str, Any],
    grid: Grid,
    text_length: int,
    keys_per_query: float | None = None,
    per_token: bool = False,
) -> Flops:
    """One forward of a Wan transformer.

    Args:
        config: The transformer's configuration.
        grid: (T, H, W) in tokens.
        text_length: Tokens of the text embedding.
        keys_per_query: Of self-attention, the average over the layers; None: all tokens.
        per_token: One timestep a token, where a first frame is held (TI2V models), and so a modulation a token.
    """
    tokens, layers, ffn = math.prod(grid), config["num_layers"], config["ffn_dim"]
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    patch = math.prod(config["patch_size"])
    block = tokens * (6 * dim * dim + 2 * dim * ffn) + text_length * 2 * dim * dim
    ends = tokens * patch * dim * (config["in_channels"] + config["out_channels"])
    text = text_length * (config["text_dim"] * dim + dim * dim)
    time = (tokens if per_token else 1) * (config["freq_dim"] * dim + dim * dim + 6 * dim * dim)
    keys = tokens if keys_per_query is None else keys_per_query
    attention = 4.0 * layers * tokens * (keys + text_length) * dim
    return Flops(2.0 * (layers * block + ends + text + time), attention)


def keys_per_query(grid: Grid, attention: AttentionSettings, native_grid: Grid, layers: int = 1) -> float:
    """Keys that a query of self-attention is compared with, on the average over the layers; a kind may tell them apart.

    Raises:
        ValueError: The grid does not fit the kind.
    """
    kind = kind_of(attention)
    keys = [kind.keys(grid, native_grid[-2:], layer) for layer in range(layers)]
    return keys[0] if len(set(keys)) == 1 else sum(keys) / layers


def adapter_layers(architecture: Architecture, lora: LoraParams) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of every linear layer that an adapter changes.

    Raises:
        ValueError: No layer's name ends in one of the targets.
    """
    from torch import nn

    endings = tuple(f".{t}" for t in lora.targets)
    modules = architecture.build_transformer().named_modules()
    chosen = {n: m for n, m in modules if isinstance(m, nn.Linear) and f".{n}".endswith(endings)}
    if not chosen:
        raise ValueError(f"lora.targets {list(lora.targets)} match no layer of {architecture.name}")
    return {n: (m.in_features, m.out_features) for n, m in chosen.items()}


def adapter_flops(layers: Mapping[str, tuple[int, int]], rank: int, tokens: int, text_length: int) -> float:
    """One forward of an adapter's own layers; keys and values of cross-attention see the text."""
    rows = {n: text_length if n.endswith(("attn2.to_k", "attn2.to_v")) else tokens for n in layers}
    return sum(2.0 * rank * (d_in + d_out) * rows[n] for n, (d_in, d_out) in layers.items())


def training_flops(forward: Flops, checkpointing: bool = False) -> float:
    """One LoRA step: frozen layers need no weight gradient (2 x), attention backwards is 2.5 x, adapters 3 x.

    Checkpointing runs the forward once more.
    """
    step = 2 * forward.linear + 3.5 * forward.attention + 3 * forward.adapter
    return step + (forward.total if checkpointing else 0)


def count(module: "nn.Module", *inputs: Any, method: str = "forward") -> float:
    """Operations of a call on the meta device, by torch's counter."""
    import torch  # here and below, not at the top: the formulas and what is kept need no modules
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        getattr(module, method)(*inputs)
    return float(counter.get_total_flops())


def text_flops(architecture: Architecture, text_length: int) -> float:
    """One prompt through the text encoder."""
    import torch

    tokens = torch.zeros(1, text_length, dtype=torch.long, device="meta")
    return count(architecture.build_text_encoder().encoder, tokens)


@dataclass(frozen=True)
class VaeFlops:
    """Operations of VAE encodes and decodes; every distinct tile is counted once.

    A clip is worked frame by frame (latent frames), the first costs less than each of the others.
    """

    architecture: Architecture
    tile: int | None

    def encode(self, latent: tuple[int, int, int, int]) -> float:
        """One clip to its latent (C, t, h, w)."""
        # diffusers cuts after patchifying, so its tiles are larger by the VAE's own patch.
        return self._sum("encode", latent, self.architecture.vae.get("patch_size") or 1)

    def decode(self, latent: tuple[int, int, int, int]) -> float:
        """One latent (C, t, h, w) to its clip."""
        return self._sum("decode", latent, 1)

    def _sum(self, what: str, latent: tuple[int, int, int, int], factor: int) -> float:
        _, frames, height, width = latent
        space, tile = self.architecture.vae["scale_factor_spatial"], self.tile
        if tile is None or max(height, width) <= tile // space:
            counts = Counter([(height, width)])
        else:
            side, stride = (factor * n // space for n in (tile, tile_stride(self.architecture.vae, tile)))
            counts = Counter(product(tile_lengths(height, side, stride), tile_lengths(width, side, stride)))
        total = 0.0
        for size, times in counts.items():
            first, two = (self._call(what, n, *size) for n in (1, 2))
            total += times * (first + (frames - 1) * (two - first))
        return total

    @cached_property
    def _vae(self) -> "AutoencoderKLWan":
        return self.architecture.build_vae()

    def _call(self, what: str, frames: int, height: int, width: int) -> float:
        import torch

        config = self.architecture.vae
        shape = (1, config["z_dim"], frames, height, width)
        if what == "encode":
            space, time = config["scale_factor_spatial"], config["scale_factor_temporal"]
            shape = (1, 3, (frames - 1) * time + 1, height * space, width * space)
        return count(self._vae, torch.empty(shape, device="meta"), method=what)


def tile_lengths(length: int, side: int, stride: int) -> list[int]:
    """Lengths of the overlapping tiles along an axis, one every `stride`."""
    return [min(side, length - start) for start in range(0, length, stride)]
