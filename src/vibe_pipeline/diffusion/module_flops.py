"""Operations of VAE and text encoder: torch's own counter over the real modules on the meta device."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.diffusion.weights import on_meta

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from torch import nn


def counted(module: "nn.Module", *inputs: Any, method: str = "forward") -> float:
    """Operations of a call on the meta device, by torch's counter."""
    import torch  # here and below, not at the top: counting a transformer needs no modules
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        getattr(module, method)(*inputs)
    return float(counter.get_total_flops())


def text_flops(config: Mapping[str, Any], text_length: int) -> float:
    """One prompt through the text encoder of a configuration."""
    import torch

    tokens = torch.zeros(1, text_length, dtype=torch.long, device="meta")
    return counted(on_meta("text_encoder", config).encoder, tokens)


@dataclass(frozen=True)
class VaeFlops:
    """Operations of VAE encodes and decodes; every distinct tile is counted once.

    A clip is worked frame by frame (latent frames), the first costs less than each of the others.

    Attributes:
        config: The VAE's configuration.
        tile: In pixels; None: whole frames.
    """

    config: Mapping[str, Any]
    tile: int | None

    def encode(self, latent: tuple[int, int, int, int]) -> float:
        """One clip to its latent (C, t, h, w)."""
        # diffusers cuts after patchifying, so its tiles are larger by the VAE's own patch.
        return self._sum("encode", latent, self.config.get("patch_size") or 1)

    def decode(self, latent: tuple[int, int, int, int]) -> float:
        """One latent (C, t, h, w) to its clip."""
        return self._sum("decode", latent, 1)

    def _sum(self, what: str, latent: tuple[int, int, int, int], factor: int) -> float:
        _, frames, height, width = latent
        space, tile = self.config["scale_factor_spatial"], self.tile
        if tile is None or max(height, width) <= tile // space:
            counts = Counter([(height, width)])
        else:
            side, stride = (factor * n // space for n in (tile, tile_stride(self.config, tile)))
            counts = Counter(product(tile_lengths(height, side, stride), tile_lengths(width, side, stride)))
        total = 0.0
        for size, times in counts.items():
            first, two = (self._call(what, n, *size) for n in (1, 2))
            total += times * (first + (frames - 1) * (two - first))
        return total

    @cached_property
    def _vae(self) -> "AutoencoderKLWan":
        return on_meta("vae", self.config)

    def _call(self, what: str, frames: int, height: int, width: int) -> float:
        import torch

        shape = (1, self.config["z_dim"], frames, height, width)
        if what == "encode":
            space, time = self.config["scale_factor_spatial"], self.config["scale_factor_temporal"]
            shape = (1, 3, (frames - 1) * time + 1, height * space, width * space)
        return counted(self._vae, torch.empty(shape, device="meta"), method=what)


def tile_lengths(length: int, side: int, stride: int) -> list[int]:
    """Lengths of the overlapping tiles along an axis, one every `stride`."""
    return [min(side, length - start) for start in range(0, length, stride)]
