"""Clips longer than native in overlapping chunks of time, joined at every step (StreamingT2V, arXiv 2403.14773).

The whole clip is one latent with one noise, so that chunks share it where they overlap. Every evaluation predicts the
velocity chunk by chunk and joins it. `random`, the published way: in an overlap of O latent frames r is drawn evenly
from 0 to O - 1, again for every chunk and evaluation; left of r stands the earlier chunk's, from r on the later's. So
no frame is an average, and no cut stays where it is. `linear` fades instead: w = j / (O + 1) at the j-th frame.

Published, the steps' results are joined. For Euler that is the same: all chunks step from the same latent.
Source: Picsart-AI-Research/StreamingT2V (chunks of 38 frames, overlap 12); there a clip must divide into chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the plan counts chunks without torch
    import torch
    from torch import Tensor

    from vibe_pipeline.diffusion.objectives import Predict

Blend = Literal["random", "linear"]


@dataclass(frozen=True)
class Chunk:
    """Latent frames `start` to `stop` of a clip; the first `overlap` of them are in the chunk before too."""

    start: int
    stop: int
    overlap: int = 0


def cut_chunks(frames: int, length: int, overlap: int) -> list[Chunk]:
    """A clip in as few chunks as let each overlap the next by `overlap`, evenly spread.

    Args:
        frames: Of the clip, latent; as many as a chunk or fewer are one chunk.
        length: Of a chunk.
        overlap: Of neighbours, at least: where the clip does not divide into such chunks they share more.

    Raises:
        ValueError: The overlap is not shorter than a chunk, or there is none.
    """
    if not 1 <= overlap < length:
        raise ValueError(
            f"chunks of {length} latent frames cannot overlap by {overlap}: an overlap is at least 1 and shorter than "
            "a chunk; set long.chunk or long.overlap"
        )
    if frames <= length:
        return [Chunk(0, frames)]
    count = -(-(frames - overlap) // (length - overlap))
    starts = [i * (frames - length) // (count - 1) for i in range(count)]
    shared = [0, *(before + length - start for before, start in pairwise(starts))]
    return [Chunk(start, start + length, own) for start, own in zip(starts, shared, strict=True)]


def chunked(
    first: Predict, later: Predict, chunks: Sequence[Chunk], blend: Blend, draws: Sequence[torch.Generator]
) -> Predict:
    """The velocity of a whole clip, chunk by chunk.

    Args:
        first: Of a chunk at the clip's beginning, which may hold a first frame.
        later: Of any other.
        chunks: Of the clip, in order.
        blend: How two are joined.
        draws: One a clip of the batch, so that no clip depends on those beside it.
    """
    import torch

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        """Of the whole clip [B, C, T, H, W]."""
        whole = torch.empty_like(x, dtype=torch.float32)
        for chunk in chunks:
            own = (later if chunk.start else first)(x[:, :, chunk.start : chunk.stop], sigma)
            if chunk.overlap:
                both = slice(chunk.start, chunk.start + chunk.overlap)
                weight = _weights(chunk.overlap, blend, draws).to(own)
                own[:, :, : chunk.overlap] = torch.lerp(whole[:, :, both], own[:, :, : chunk.overlap], weight)
            whole[:, :, chunk.start : chunk.stop] = own
        return whole

    return predict


def _weights(overlap: int, blend: Blend, draws: Sequence[torch.Generator]) -> Tensor:
    """How much of the later chunk stands at each frame of an overlap, [B, 1, O, 1, 1]."""
    import torch

    frame = torch.arange(overlap)
    if blend == "linear":
        weight = ((frame + 1) / (overlap + 1)).expand(len(draws), -1)
    else:
        cuts = torch.cat([torch.randint(overlap, (1,), generator=draw) for draw in draws])
        weight = (frame >= cuts[:, None]).float()
    return weight[:, None, :, None, None]
