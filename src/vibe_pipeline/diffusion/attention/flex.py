"""The block-sparse mask for flex_attention, built from intervals: never L x L, not even block by block.

A block of consecutive tokens is a few runs along the width (segments). Rows and window columns are
intervals, so what two segments see of each other is four comparisons.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from vibe_pipeline.diffusion.attention.geometry import Windows, window_starts

BLOCK = 128
OLD_RECOMPILE_LIMIT = 256  # grids times grad modes of one process
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def compiled_flex() -> Callable[..., Tensor]:
    """flex_attention, compiled for one grid alone: past a limit of recompilations torch falls back to eager, which
    holds all scores, so that grids must not use up each other's."""
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        return torch.compile(flex_attention, dynamic=False, isolate_recompiles=True)
    # torch before 2.12 counts all grids together.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, OLD_RECOMPILE_LIMIT)
    return torch.compile(flex_attention, dynamic=False)


def kernel_options(device: torch.device) -> dict[str, bool] | None:
    """What flex's kernel is told: from Hopper on, to load by TMA, a tenth faster on an H100 (docs/benchmarks.md).

    torch itself goes back to plain loads for tensors that TMA cannot take.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return None
    return {"USE_TMA": True}


@dataclass(frozen=True)
class _Segments:
    """Runs of tokens in one block and one grid row: block, row, first and last column, each int64 [S]."""

    block: Tensor
    row: Tensor
    first: Tensor
    last: Tensor


def _segments(windows: Windows, block: int) -> _Segments:
    frames, height, width = windows.grid
    run = width * frames if windows.order == "hwt" else width  # tokens that share a row, one after another
    cuts = torch.cat([torch.arange(0, windows.tokens, block), torch.arange(0, windows.tokens, run)]).unique()
    ends = torch.cat([cuts[1:], cuts.new_tensor([windows.tokens])]) - 1
    per_column = run // width
    row, first, last = cuts // run, cuts % run // per_column, ends % run // per_column
    return _Segments(cuts // block, row % height, first, last)


def _count_by_block(pairs: Tensor, block: Tensor, blocks: int) -> Tensor:
    """Sum a bool [S, S] table of segment pairs to int32 [blocks, blocks]."""
    by_query = torch.zeros(blocks, pairs.shape[1], dtype=torch.int32).index_add_(0, block, pairs.int())
    return torch.zeros(blocks, blocks, dtype=torch.int32).index_add_(1, block, by_query)


def window_blocks(windows: Windows, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Which block pairs the window touches, and which it covers wholly.

    Args:
        windows: the geometry; pooled keys play no part.
        block: tokens per block.

    Returns:
        (touched, whole): bool [N, N], query blocks by key blocks, N = ceil(L / block).
    """
    seg = _segments(windows, block)
    (_, height, width), (d_h, d_w), (n_h, n_w) = windows.grid, windows.half_window, windows.sizes
    top, left = window_starts(height, d_h), window_starts(width, d_w)
    offset = seg.row[None, :] - top[seg.row][:, None]
    rows = (offset >= 0) & (offset < n_h)
    leftmost, rightmost = left[seg.first][:, None], left[seg.last][:, None]
    touched = rows & (seg.last[None, :] >= leftmost) & (seg.first[None, :] < rightmost + n_w)
    whole = rows & (seg.first[None, :] >= rightmost) & (seg.last[None, :] < leftmost + n_w)
    blocks = -(-windows.tokens // block)
    pieces = torch.bincount(seg.block, minlength=blocks)
    all_pairs = pieces[:, None] * pieces[None, :]
    return _count_by_block(touched, seg.block, blocks) > 0, _count_by_block(whole, seg.block, blocks) == all_pairs


def computed_share(windows: Windows, block: int = BLOCK) -> float:
    """Share of block pairs that a block-sparse kernel computes for the window part, 0 to 1."""
    return window_blocks(windows, block)[0].float().mean().item()


def padded_tokens(windows: Windows, block: int = BLOCK) -> int:
    """Local keys rounded up to whole blocks when pooled keys follow, so that these start on a block."""
    return -(-windows.tokens // block) * block if windows.pool else windows.tokens


def window_mask_mod(windows: Windows, block: int = BLOCK) -> MaskMod:
    """Visibility of one key for one query, for the blocks that are neither empty nor whole.

    Keys are laid out as [L local, padding to a whole block, P pooled]: padding is never seen, pooled always.
    """
    (frames, height, width), (d_h, d_w), (n_h, n_w) = windows.grid, windows.half_window, windows.sizes
    tokens, pooled_from, reordered = windows.tokens, padded_tokens(windows, block), windows.order == "hwt"

    def position(index: Tensor) -> tuple[Tensor, Tensor]:
        space = index // frames if reordered else index % (height * width)
        return space // width, space % width

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        q_row, q_column = position(q)
        row, column = position(kv)
        down = row - (q_row - d_h).clamp(0, height - n_h)
        right = column - (q_column - d_w).clamp(0, width - n_w)
        inside = (down >= 0) & (down < n_h) & (right >= 0) & (right < n_w) & (kv < tokens)
        return inside | (kv >= pooled_from)

    return mask_mod


def _with_pooled(touched: Tensor, whole: Tensor, windows: Windows, block: int) -> tuple[Tensor, Tensor]:
    """Append the pooled key blocks, always seen; blocks that stick out of the sequence are never whole."""
    count = -(-windows.pooled // block)
    seen = touched.new_ones(len(touched), count)
    touched, whole = torch.cat([touched, seen], 1), torch.cat([whole, seen], 1)
    if windows.tokens % block:
        whole[-1] = False
        whole[:, len(whole) - 1] = False
    if windows.pooled % block:
        whole[:, -1] = False
    return touched, whole


def _as_lists(table: Tensor) -> tuple[Tensor, Tensor]:
    """A bool [N, M] table as counts [1, 1, N] and indices [1, 1, N, M], true columns first."""
    indices = table.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return table.sum(1, dtype=torch.int32)[None, None], indices.to(torch.int32)[None, None]


def build_block_mask(windows: Windows, device: torch.device | str = "cpu", block: int = BLOCK) -> BlockMask:
    """The BlockMask of window and pooled keys, from `BlockMask.from_kv_blocks`.

    Args:
        windows: Which keys every query sees: the window's start and length on each axis.
        device: where attention runs.
        block: tokens per block.

    Returns:
        A mask for L queries and padded_tokens + P keys; about (L / block)^2 * 16 bytes, 64 MB at 250k tokens.
    """
    touched, whole = _with_pooled(*window_blocks(windows, block), windows, block)
    partial_count, partial = _as_lists(touched & ~whole)
    whole_count, whole_indices = _as_lists(whole)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial,
        whole_count,
        whole_indices,
        BLOCK_SIZE=block,
        mask_mod=window_mask_mod(windows, block),
        seq_lengths=(windows.tokens, padded_tokens(windows, block) + windows.pooled),
    ).to(device)
