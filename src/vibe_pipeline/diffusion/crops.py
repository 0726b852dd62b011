"""Training on a crop of an image at its true place, with the whole image beside it as a few tokens (HPDM).

A crop's tokens stand where they stand in the image: RoPE is evaluated at (oy + i, ox + j). The whole noised image,
averaged over pool x pool cells, gives further tokens at the centres of its cells, which run through the same blocks:
what Hierarchical Patch Diffusion Models (arXiv 2406.07792) call deep context fusion, with shared weights. The loss is
the crop's alone, so memory is that of the crop, however large the image.

Averaging takes noise away, and a network that is told sigma must see as much: fresh noise is put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.rope_base import ntk_angles

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vibe_pipeline.diffusion.objectives import Sample

Size = tuple[int, int]
MOST_POSITIONS = 1024
"""Of an axis, that diffusers' rotary tables hold."""


@dataclass(frozen=True)
class TokenCrop:
    """What is learned of an image.

    Attributes:
        size: (h, w) in tokens.
        pool: Side of the cells that context averages over; None: there is no context.
        patch: (h, w) of a token, in cells of the latent.
    """

    size: Size
    pool: int | None
    patch: Size

    def within(self, grid: Size) -> Size:
        """(h, w) in tokens in an image of `grid` tokens: turned where that lies otherwise, no larger than it."""
        turned = (grid[0] - grid[1]) * (self.size[0] - self.size[1]) < 0
        size = self.size[::-1] if turned else self.size
        return min(size[0], grid[0]), min(size[1], grid[1])

    def tokens(self, grid: Size) -> int:
        """How many run through the transformer: the crop's and the context's.

        Raises:
            ValueError: The image does not divide by the cells.
        """
        if self.pool is None:
            return math.prod(self.within(grid))
        if grid[0] % self.pool or grid[1] % self.pool:
            raise ValueError(f"{grid[0]}x{grid[1]} tokens do not divide by crop.pool {self.pool}")
        return math.prod(self.within(grid)) + math.prod(grid) // self.pool**2

    def grid_of(self, shape: tuple[int, ...]) -> Size:
        """(H, W) in tokens of a latent [..., H, W]."""
        return shape[-2] // self.patch[0], shape[-1] // self.patch[1]

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """Where the crops of `count` images lie, `offset` [count, 2] in tokens, and the context's `context_noise`."""
        import torch

        grid = self.grid_of(shape)
        room = [n - own for n, own in zip(grid, self.within(grid), strict=True)]
        offset = torch.stack([torch.randint(n + 1, (count,), generator=generator) for n in room], 1)
        if self.pool is None:
            return {"offset": offset}
        self.tokens(grid)
        pooled = (count, *shape[:-2], shape[-2] // self.pool, shape[-1] // self.pool)
        return {"offset": offset, "context_noise": torch.randn(pooled, generator=generator)}

    def cut(self, x: Tensor, offset: Tensor) -> Tensor:
        """The crops [B, C, T, h, w] of latents [B, C, T, H, W], at `offset` [B, 2] in tokens."""
        import torch

        rows, columns = (n * p for n, p in zip(self.within(self.grid_of(x.shape)), self.patch, strict=True))
        starts = (offset.cpu() * torch.tensor(self.patch)).tolist()
        return torch.stack([one[..., y : y + rows, z : z + columns] for one, (y, z) in zip(x, starts, strict=True)])

    def context(self, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """A noised latent averaged over its cells, with as much noise as it had: [B, C, T, H / pool, W / pool].

        The mean of pool^2 independent draws of deviation sigma has sigma / pool; sigma sqrt(1 - 1 / pool^2) makes it
        up.

        Raises:
            ValueError: A crop without context.
        """
        from torch.nn.functional import avg_pool3d

        if self.pool is None:
            raise ValueError("this crop is learned alone: give it `pool` for a context")
        missing = sigma.view(-1, 1, 1, 1, 1) * math.sqrt(1 - 1 / self.pool**2)
        return avg_pool3d(x, (1, self.pool, self.pool)) + missing * noise


@dataclass(frozen=True)
class Placed:
    """Where the tokens of a forward stand.

    Attributes:
        offset: [B, 2], of each crop in its image, in tokens.
        context: The whole images, averaged; [B, C, T, H, W].
        pool: Side of its cells.
    """

    offset: Tensor
    context: Tensor | None = None
    pool: int = 1


def cropped_loss(
    weights: Mapping[str, float],
    predict: Callable[..., Tensor],
    sample: Sample,
    crop: TokenCrop,
    drawn: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """`mixed_loss` of the crops alone; `predict` takes a `Placed` beside latents and levels.

    Args:
        weights: Of the objectives.
        predict: The velocity of a crop in its place.
        sample: Of the whole images.
        crop: What is learned of them.
        drawn: As `TokenCrop.draws` gives it.
    """
    import torch

    from vibe_pipeline.diffusion.objectives import mixed_loss

    whole: list[Tensor] = []

    def record(x: Tensor, sigma: Tensor) -> Tensor:
        whole.append(x)
        return torch.zeros_like(x)

    if crop.pool is not None:  # each objective noises in its own way: they are asked, and no network is run
        with torch.no_grad():
            mixed_loss(weights, record, sample)
    waiting = iter(whole)

    def predict_crop(x: Tensor, sigma: Tensor) -> Tensor:
        """Of the cut latents, at their place and beside the whole."""
        if crop.pool is None:
            return predict(x, sigma, Placed(drawn["offset"]))
        context = crop.context(next(waiting), sigma, drawn["context_noise"])
        return predict(x, sigma, Placed(drawn["offset"], context, crop.pool))

    latents = {"x0": sample.x0, "noise": sample.noise, "degraded": sample.degraded}
    parts = {name: crop.cut(x, drawn["offset"]) for name, x in latents.items() if x is not None}
    return mixed_loss(weights, predict_crop, replace(sample, **parts))


@contextmanager
def placed_in(transformer: nn.Module, placed: Placed | None) -> Iterator[None]:
    """Let a Wan transformer's forwards inside see their crop where it stands, with its context behind it.

    Hooks on three modules outside of the blocks, so that gradient checkpointing and compiled blocks know nothing of it.
    """
    if placed is None:
        yield
        return
    crop_tokens: list[int] = []

    def place(rope: nn.Module, args: tuple[Tensor, ...], tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return _tables(rope, placed, args[0], tables[0])

    def append(embedding: nn.Module, args: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        import torch

        flat = tokens.flatten(2)
        crop_tokens[:] = [flat.shape[2]]
        if placed.context is not None:
            behind = embedding.forward(placed.context.to(args[0])).flatten(2)
            flat = torch.cat([flat, behind.to(flat)], 2)
        return flat[:, :, None, None]

    def drop(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out[:, : crop_tokens[0]]

    with ExitStack() as hooks:
        for name, hook in (("rope", place), ("patch_embedding", append), ("proj_out", drop)):
            hooks.callback(getattr(transformer, name).register_forward_hook(hook).remove)
        yield


def _tables(rope: Any, placed: Placed, latent: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [B, L, 1, D] of the crop's tokens, then of the context's at the centres of their cells."""
    import torch

    _, p_h, p_w = rope.patch_size
    size = latent.shape[-2] // p_h, latent.shape[-1] // p_w
    cells = () if placed.context is None else (placed.context.shape[-2] // p_h, placed.context.shape[-1] // p_w)
    centre = [torch.arange(n, dtype=torch.float64) * placed.pool + (placed.pool - 1) / 2 for n in cells]
    rows = []
    for offset in placed.offset.cpu():
        own = [torch.arange(n, dtype=torch.float64) + int(o) for n, o in zip(size, offset, strict=True)]
        rows.append(torch.cat([_angles(rope, *axes) for axes in (own, centre) if axes]))
    angles = torch.stack(rows)[:, :, None].repeat_interleave(2, dim=-1)
    return angles.cos().to(like), angles.sin().to(like)


def _angles(rope: Any, down: Tensor, across: Tensor) -> Tensor:
    """Angles [H W, D / 2] of one frame's tokens at any positions."""
    import torch

    time = ntk_angles(torch.zeros(1), rope.t_dim)
    rows, columns = ntk_angles(down, rope.h_dim), ntk_angles(across, rope.w_dim)
    shape = (len(down), len(across), -1)
    parts = (time[None].expand(shape), rows[:, None].expand(shape), columns[None].expand(shape))
    return torch.cat(parts, -1).flatten(0, 1)


def working_grid(tokens: int) -> tuple[int, int, int]:
    """(1, H, W) of at least `tokens` tokens that a stock transformer can run: the memory of so many, in any order."""
    height = -(-tokens // MOST_POSITIONS)
    return 1, height, -(-tokens // height)
