"""Tiles of a VAE, as `AutoencoderKLWan` cuts, blends and joins them, one after another instead of all at once.

diffusers keeps every tile until the last is done. Here a tile is worked in parts along time, each leaves when it is
done, and of its neighbours only the strips that tiles share are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diffusers import AutoencoderKLWan
from torch import Tensor

Strips = list[Tensor]
"""What a tile shares with the next one, a part each."""


@dataclass(frozen=True)
class Tiling:
    """Side and distance of tiles in latent pixels, as (height, width), and what they share in those of the result."""

    side: tuple[int, int]
    stride: tuple[int, int]
    shared: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Whether one tile holds all, and so nothing is shared."""
        return self.shared == (0, 0)

    @classmethod
    def decoding(cls, vae: AutoencoderKLWan, height: int, width: int) -> "Tiling":
        """As `AutoencoderKLWan.tiled_decode` reckons them; one tile where all fits into it."""
        space, patch = vae.spatial_compression_ratio, vae.config.patch_size or 1
        samples, strides = _of_samples(vae)
        rows, columns = (n // space for n in samples)
        if not vae.use_tiling or (height <= rows and width <= columns):
            return cls((height, width), (height, width), (0, 0))
        down, across = (n // space for n in strides)
        lower, right = (n // patch - stride // patch for n, stride in zip(samples, strides, strict=True))
        return cls((rows, columns), (down, across), (lower, right))

    @classmethod
    def encoding(cls, vae: AutoencoderKLWan, height: int, width: int) -> "Tiling":
        """As `AutoencoderKLWan.tiled_encode`: it cuts what is patchified, so its tiles are larger by the patch."""
        ratio = vae.spatial_compression_ratio // (vae.config.patch_size or 1)
        samples, strides = _of_samples(vae)
        rows, columns = (n // ratio for n in samples)
        if not vae.use_tiling or (height * ratio <= samples[0] and width * ratio <= samples[1]):
            return cls((height, width), (height, width), (0, 0))
        down, across = (n // ratio for n in strides)
        return cls((rows, columns), (down, across), (rows - down, columns - across))


def _of_samples(vae: AutoencoderKLWan) -> tuple[tuple[int, int], tuple[int, int]]:
    sides = vae.tile_sample_min_height, vae.tile_sample_min_width
    return sides, (vae.tile_sample_stride_height, vae.tile_sample_stride_width)


@dataclass(frozen=True)
class Part:
    """A part of a tile, blended with the tiles above and to the left.

    Attributes:
        values: [B, C, frames, rows, columns], all of the tile: what lies beyond the stride is the next tile's.
        index: Which part of the tile, along time.
        top: First row of the tile, in latent pixels.
        left: First column of the tile, in latent pixels.
    """

    values: Tensor
    index: int
    top: int
    left: int


def blended(
    vae: AutoencoderKLWan, tiling: Tiling, height: int, width: int, parts: Callable[[slice, slice], Iterator[Tensor]]
) -> Iterator[Part]:
    """Every part of every tile, row by row.

    Args:
        vae: Whose blending it is.
        tiling: Sides and distances.
        height: Of the latent.
        width: Of the latent.
        parts: From a tile's rows and columns in latent pixels to its parts; they are changed in place.
    """
    above: dict[int, Strips] = {}
    for top in range(0, height, tiling.stride[0]):
        before: Strips = []
        for left in range(0, width, tiling.stride[1]):
            lower, right = [], []
            rows, columns = slice(top, top + tiling.side[0]), slice(left, left + tiling.side[1])
            for index, part in enumerate(parts(rows, columns)):
                if top:
                    part = vae.blend_v(above[left][index], part, tiling.shared[0])
                if left:
                    part = vae.blend_h(before[index], part, tiling.shared[1])
                if top + tiling.stride[0] < height:
                    lower.append(part[..., -tiling.shared[0] :, :].clone())
                if left + tiling.stride[1] < width:
                    right.append(part[..., -tiling.shared[1] :].clone())
                yield Part(part, index, top, left)
            above[left], before = lower, right
