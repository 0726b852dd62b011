"""Images of mixed sizes in one row of tokens (NaViT's patch n' pack, arXiv 2307.06304), through any Wan transformer.

A row [1, C, 1, p_h, p_w L] holds the patches of all images one behind the other, so that the transformer's own
patch embedding and projection read and write it as they are. What images must not share is parted:

    RoPE             every image has the positions of its own grid
    self-attention   each attends to itself alone, by the plan of its own grid (attention/packed.py)
    cross-attention  each sees its own caption
    noise level      one timestep a token, which every Wan transformer can take

All else works a token at a time. So a row gives what its images give alone, up to the order of float sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vibe_pipeline.diffusion.attention import GclfAttnProcessor, GclfInstallation
from vibe_pipeline.diffusion.objectives import Predict

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

Size = tuple[int, int]
PackedPredict = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
"""Latents [1, C, 1, H, W] of several images and the noise level [1] of each, to their velocities."""
Losses = dict[str, Tensor]


class PackedRope(nn.Module):
    """In a transformer's place for RoPE: it begins a forward, so it knows which are of packed images.

    Attributes:
        grids: (h, w) in tokens of the images in the row of the last forward; empty: it was none. The backward pass of
            checkpointed blocks reads it again.
    """

    def __init__(self, own: nn.Module, attention: GclfInstallation) -> None:
        super().__init__()
        self.own, self.attention = own, attention
        self.grids: tuple[Size, ...] = ()
        self._laid: tuple[Size, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each image."""
        return [height * width for height, width in self.grids]

    def lay(self, grids: Sequence[Size]) -> None:
        """Say which images are in the row that goes through the transformer next."""
        self._laid = tuple(grids)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [1, L, 1, D] of a row's images, each on its own grid; of anything else the transformer's."""
        self.grids, self._laid = self._laid, ()
        if not self.grids:
            return self.own(latent)
        self.attention.pack([(1, *grid) for grid in self.grids], latent.device)
        _, p_h, p_w = self.own.patch_size
        # forward, not a call: the hooks of attention would take each image for all there is
        tables = [self.own.forward(latent.new_empty(1, 1, 1, h * p_h, w * p_w)) for h, w in self.grids]
        cos, sin = (torch.cat(parts, 1) for parts in zip(*tables, strict=True))
        return cos, sin


class PackedCrossAttention:
    """The processor of a block's cross-attention, asked for each image of a row with its own caption."""

    def __init__(self, own: Callable[..., Tensor], rope: PackedRope) -> None:
        self.own, self.rope = own, rope

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any) -> Tensor:
        """hidden_states [1, L, C] of a row and encoder_hidden_states [images, text, C]; else as the processor."""
        if not self.rope.grids:
            return self.own(attn, hidden_states, encoder_hidden_states, *rest)
        images = zip(hidden_states.split(self.rope.lengths, 1), encoder_hidden_states.split(1), strict=True)
        return torch.cat([self.own(attn, tokens, text, *rest) for tokens, text in images], 1)


def install_packing(transformer: WanTransformer3DModel) -> None:
    """Let a transformer take rows of packed images beside what it takes.

    Raises:
        ValueError: Its self-attention has not been installed: use `install_gclf` with `always`.
    """
    processor = transformer.blocks[0].attn1.processor
    if not isinstance(processor, GclfAttnProcessor):
        raise ValueError("packed images need attention of their own: install_gclf(..., always=True) first")
    transformer.rope = PackedRope(transformer.rope, processor.installation)
    for block in transformer.blocks:
        block.attn2.set_processor(PackedCrossAttention(block.attn2.processor, transformer.rope))


def packed_predictor(transformer: WanTransformer3DModel, text: Tensor, dtype: torch.dtype) -> PackedPredict:
    """The transformer, prepared by :func:`install_packing`, on rows of images.

    Args:
        transformer: Any diffusers Wan transformer.
        text: Embeddings [images, L, width].
        dtype: Of the transformer's activations; velocities come back in 32 bit.
    """
    patch = tuple(transformer.config.patch_size[1:])

    def predict(latents: Sequence[Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
        """Of images [1, C, 1, h, w] of any sizes, each at its own level [1]."""
        grids = [(x.shape[-2] // patch[0], x.shape[-1] // patch[1]) for x in latents]
        lengths = [height * width for height, width in grids]
        row = torch.cat([as_row(x, patch) for x in latents], -1)
        timestep = torch.cat([1000 * s.float().expand(n) for s, n in zip(levels, lengths, strict=True)])
        transformer.rope.lay(grids)
        out = transformer(row.to(dtype), timestep[None], text.to(row.device, dtype), return_dict=False)[0]
        parts = out.float().split([n * patch[1] for n in lengths], -1)
        return [from_row(part, grid, patch) for part, grid in zip(parts, grids, strict=True)]

    return predict


def as_row(x: Tensor, patch: Size) -> Tensor:
    """A still [1, C, 1, h p, w q] with its patches side by side, [1, C, 1, p, h w q]."""
    patches = x.unflatten(-1, (-1, patch[1])).unflatten(-3, (-1, patch[0]))  # 1 C 1 h p w q
    return patches.transpose(-4, -3).flatten(-3)


def from_row(row: Tensor, grid: Size, patch: Size) -> Tensor:
    """The still [1, C, 1, h p, w q] of the row that :func:`as_row` makes."""
    patches = row.unflatten(-1, (*grid, patch[1])).transpose(-4, -3)  # 1 C 1 h p w q
    return patches.flatten(-2).flatten(-3, -2)


def packed_losses(losses: Sequence[Callable[[Predict], Losses]], predict: PackedPredict) -> list[Losses]:
    """Losses of each image, for which the network runs on all of them at once.

    Each objective noises in its own way and may ask for several predictions, none of which depends on another: they
    are asked first, without a network, and then answered from rows.

    Args:
        losses: Of each image, given a way to predict its velocity.
        predict: Of all images together.
    """
    asked: list[list[tuple[Tensor, Tensor]]] = []
    for loss in losses:
        own: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            loss(_noting(own))
        asked.append(own)
    answers = [predict(*zip(*call, strict=True)) for call in zip(*asked, strict=True)]
    return [loss(_answering(own)) for loss, own in zip(losses, zip(*answers, strict=True), strict=True)]


def _noting(calls: list[tuple[Tensor, Tensor]]) -> Predict:
    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        """Nothing: it only notes what was asked."""
        calls.append((x, sigma))
        return torch.zeros_like(x)

    return predict


def _answering(velocities: Sequence[Tensor]) -> Predict:
    waiting = iter(velocities)
    return lambda x, sigma: next(waiting)
