"""AdaSpa at work (arXiv 2502.21079): the search for key blocks, and attention over those that were found.

No code of the authors is public; written from the paper's equations 12 to 14 and its algorithms 1 and 2. Two things it
leaves open: a head that is both among the n that lose least and the n that lose most keeps the average number of blocks
(there is one where n is more than half of the heads), and where less than half of the blocks can be added or taken, as
many are taken as are added, so that the average stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from vibe_pipeline.diffusion.attention.backends import one_dtype
from vibe_pipeline.diffusion.attention.choice import block_backend
from vibe_pipeline.diffusion.attention.flex import MaskMod, compiled_flex, kernel_options
from vibe_pipeline.diffusion.attention.geometry import Backend, Grid, Order, Windows, check_tokens
from vibe_pipeline.diffusion.attention.kinds.adaspa import AdaSpa, head_step, kept_blocks
from vibe_pipeline.diffusion.attention.kinds.base import Place
from vibe_pipeline.diffusion.attention.steps import Steps

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.attention.kinds.base import AttentionPlan

AT_ONCE = 2**26  # numbers of one piece of work: scores of a search, keys of gathered blocks


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        lse: Log-sum-exp of every query's scores, float32 [B, heads, L].
        order: Key blocks of each block of queries, those that weigh most first: [B, heads, N, most], int16 where it is
            enough.
        kept: How many of them count: int64 [B, heads].
    """

    lse: Tensor
    order: Tensor
    kept: Tensor


def search_blocks(q: Tensor, k: Tensor, kind: AdaSpa, scale: float, lse: Tensor | None = None) -> Found:
    """Add up softmax weights by block, and choose for each block of queries the key blocks that weigh most.

    Args:
        q: Queries [B, heads, L, D].
        k: Keys, likewise.
        kind: Block, sparsity, recall.
        scale: Of the scores.
        lse: Of an earlier search of the same clip and pass, in place of that of these scores; None: of these.

    Returns:
        The blocks; a clip's do not depend on the others of the batch.
    """
    tokens, block = q.shape[2], kind.block
    blocks = -(-tokens // block)
    base = kept_blocks(blocks, kind.sparsity)
    most = base + head_step(blocks, base)
    heads = q.shape[:2]
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    known = None if lse is None else lse.flatten(0, 1)
    used = q.new_empty(q.shape[:2], dtype=torch.float32)
    order = torch.empty(*q.shape[:1], blocks, most, dtype=_index_type(blocks), device=q.device)
    held, whole = (q.new_zeros(len(q), dtype=torch.float64) for _ in range(2))
    rows = max(1, AT_ONCE // (block * tokens)) * block
    weigh = block_weights(q.device)
    for pair in range(len(q)):
        for start in range(0, tokens, rows):
            part = slice(start, min(start + rows, tokens))
            weights, used[pair, part] = weigh(
                q[pair, part], k[pair], None if known is None else known[pair, part], scale, block
            )
            weights, index = weights.sort(dim=1, descending=True, stable=True)
            first = start // block
            order[pair, first : first + len(index)] = index[:, :most].to(order.dtype)
            held[pair] += weights[:, :base].sum()
            whole[pair] += weights.sum()
    recall = (held / whole).unflatten(0, heads)
    return Found(
        lse=used.unflatten(0, heads) if lse is None else lse,
        order=order.unflatten(0, heads),
        kept=blocks_by_head(recall, blocks, base, kind.recall),
    )


def blocks_by_head(recall: Tensor, blocks: int, base: int, enough: float) -> Tensor:
    """How many key blocks each head keeps, by the share of its weights that `base` blocks hold.

    Of n heads above `enough`, the n with the highest recall keep half as many, the n with the lowest as many more.

    Args:
        recall: Share of a head's softmax weights that `base` blocks hold, [B, heads], 0 to 1.
        blocks: How many key blocks there are.
        base: How many a head keeps on the average.
        enough: Recall above which a head has blocks to spare, 0 to 1.

    Returns:
        int64 [B, heads], of mean `base` in every clip.
    """
    step, heads = head_step(blocks, base), recall.shape[1]
    spare = (recall > enough).sum(1, keepdim=True)
    rank = recall.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return base - step * (rank < spare).long() + step * (rank >= heads - spare).long()


def _weights(q: Tensor, k: Tensor, lse: Tensor | None, scale: float, block: int) -> tuple[Tensor, Tensor]:
    """exp(q k - lse) summed by block: [queries, D], [L, D] to [query blocks, key blocks]; and lse [queries]."""
    scores = (q @ k.transpose(0, 1)).float() * scale
    lse = scores.logsumexp(1) if lse is None else lse
    weights = (scores - lse[:, None]).exp()
    by_key = pad(weights, (0, -weights.shape[1] % block)).unflatten(1, (-1, block)).sum(2)
    return pad(by_key, (0, 0, 0, -len(by_key) % block)).unflatten(0, (-1, block)).sum(1), lse


@cache
def _compiled_weights() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_weights, dynamic=False)


def block_weights(device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    """Compiled on CUDA, where scores would otherwise be read and written many times."""
    return _compiled_weights() if device.type == "cuda" else _weights


def _index_type(blocks: int) -> torch.dtype:
    return torch.int16 if blocks <= torch.iinfo(torch.int16).max else torch.int32


def _chosen(found: Found) -> Tensor:
    """Which blocks each block of queries sees: bool [B, heads, N, N]."""
    blocks, most = found.order.shape[-2:]
    counts = torch.arange(most, device=found.order.device) < found.kept[..., None, None]
    table = counts.new_zeros(*found.order.shape[:-1], blocks)
    return table.scatter(3, found.order.long(), counts.expand(found.order.shape))


def dense_block_mask(found: Found, block: int, tokens: int) -> Tensor:
    """The blocks as a mask of single tokens: bool [B, heads, L, L]."""
    table = _chosen(found)
    for dim in (2, 3):
        table = table.repeat_interleave(block, dim).narrow(dim, 0, tokens)
    return table


def gathered_attention(q: Tensor, k: Tensor, v: Tensor, found: Found, block: int, scale: float) -> Tensor:
    """SDPA on the blocks' keys, brought together for each block of queries; heads of one number of blocks at a time."""
    shape, tokens = q.shape, q.shape[2]
    short = -tokens % block
    q, k, v = (pad(x.flatten(0, 1), (0, 0, 0, short)).unflatten(1, (-1, block)) for x in (q, k, v))
    order, kept, out = found.order.flatten(0, 1), found.kept.flatten(), torch.empty_like(q)
    for count in kept.unique().tolist():
        for pair in (kept == count).nonzero().flatten().tolist():
            rows = max(1, AT_ONCE // (count * block * (block + q.shape[-1])))
            for start in range(0, q.shape[1], rows):
                part = slice(start, start + rows)
                index = order[pair, part, :count].long()
                mask = None
                if short:
                    mask = (index[..., None] * block + torch.arange(block, device=q.device) < tokens).flatten(1)[
                        :, None
                    ]
                keys, values = (x[pair, index].flatten(1, 2) for x in (k, v))
                out[pair, part] = scaled_dot_product_attention(q[pair, part], keys, values, attn_mask=mask, scale=scale)
    return out.flatten(1, 2)[:, :tokens].reshape(shape)


def flex_block_mask(found: Found, block: int, tokens: int) -> BlockMask:
    """The blocks for flex_attention; where the last sticks out of the sequence, none counts as whole."""
    counts = found.kept.to(torch.int32)[..., None].expand(found.order.shape[:-1]).contiguous()
    lists = (counts, found.order.to(torch.int32))
    none = (
        torch.zeros_like(counts),
        torch.zeros_like(lists[1]),
    )  # of one shape, as older kernels read both by the strides of one
    partial, whole = (lists, none) if tokens % block else (none, lists)
    # Eager flex, on the CPU, goes by the mask alone; the kernel by the lists, and asks it only of partial blocks.
    mask_mod = _inside(tokens) if found.order.is_cuda else _listed(_chosen(found), block)
    return BlockMask.from_kv_blocks(
        *partial, *whole, BLOCK_SIZE=block, mask_mod=mask_mod, seq_lengths=(tokens, tokens), compute_q_blocks=False
    )


@cache
def _inside(tokens: int) -> MaskMod:
    """One function for a length, so that nothing is compiled again."""
    return lambda b, h, query, key: key < tokens


def _listed(table: Tensor, block: int) -> MaskMod:
    return lambda b, h, query, key: table[b, h, query // block, key // block]


@dataclass(frozen=True)
class BlockPlan:
    """AdaSpa in one layer on one grid.

    Attributes:
        windows: The grid, all of it visible, with the order that q, k, v come in.
        kind: The settings.
        backend: dense, gather or flex, of the sparse steps.
        layer: Index of the transformer's block.
        steps: Which forward is running; keeps what was found.
        flex: flex_attention, compiled on CUDA.
    """

    windows: Windows
    kind: AdaSpa
    backend: Backend
    layer: int
    steps: Steps
    flex: Callable[..., Tensor]

    @property
    def grid(self) -> Grid:
        """(T, H, W) in tokens."""
        return self.windows.grid

    @property
    def order(self) -> Order:
        """How q, k and v come."""
        return self.windows.order

    @torch.compiler.disable
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Attend as the step asks: q, k, v [B, heads, L, D]; returns the shape of q.

        Raises:
            ValueError: Shapes that do not fit the grid, or other clips than those that were searched.
            RuntimeError: For gradients: a training step is no step of a clip.
        """
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            raise RuntimeError("attention kind 'adaspa' goes by the steps of a clip and cannot be trained with")
        check_tokens(self.windows, q, k, v)
        q, k, v = one_dtype(q, k, v)
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        place, step, searches = (self.steps.guidance, self.layer), self.steps.step, self.kind.search_steps
        if step <= searches[0]:
            if step == searches[0]:
                self.steps.kept[place] = search_blocks(q, k, self.kind, scale)
            return scaled_dot_product_attention(q, k, v, scale=scale)
        found: Found = self.steps.kept[place]
        if found.lse.shape != q.shape[:3]:
            raise ValueError(
                f"q is {tuple(q.shape)}, but blocks were searched for {tuple(found.lse.shape)} clips, heads and tokens"
                ": call forget_steps(transformer) before another clip"
            )
        if step in searches:
            found = self.steps.kept[place] = search_blocks(q, k, self.kind, scale, found.lse)
        return self._sparse(q, k, v, found, scale)

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, found: Found, scale: float) -> Tensor:
        block, tokens = self.kind.block, self.windows.tokens
        if self.backend == "gather":
            return gathered_attention(q, k, v, found, block, scale)
        if self.backend == "dense":
            return scaled_dot_product_attention(q, k, v, attn_mask=dense_block_mask(found, block, tokens), scale=scale)
        mask = flex_block_mask(found, block, tokens)
        return self.flex(q, k, v, block_mask=mask, scale=scale, kernel_options=flex_options(q.device, block))


def flex_options(device: torch.device, block: int) -> dict[str, bool | int] | None:
    """What flex's kernel is told: tiles must divide the blocks, and its own are of 128."""
    if device.type != "cuda":
        return None
    tiles = {} if block % 128 == 0 else {"BLOCK_M": 64, "BLOCK_N": 64}
    return {**(kernel_options(device) or {}), **tiles}


def plan_blocks(kind: AdaSpa, place: Place) -> AttentionPlan:
    """The plan of a layer; tokens lie (t, h, w) unless another order is asked for."""
    whole = Windows(place.grid, (place.grid[1], place.grid[2]))
    device = torch.device(place.device)
    backend = block_backend(whole.tokens, kind.block, cast("Backend", place.backend), device.type)
    return BlockPlan(
        windows=replace(whole, order=place.order or "thw"),
        kind=kind,
        backend=backend,
        layer=place.layer,
        steps=place.steps,
        flex=_flex_of(place.grid, kind.block) if backend == "flex" and device.type == "cuda" else flex_attention,
    )


@cache
def _flex_of(grid: Grid, block: int) -> Callable[..., Tensor]:
    """Compiled once for all layers."""
    return compiled_flex()
