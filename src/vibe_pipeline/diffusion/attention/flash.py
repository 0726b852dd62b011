"""Windows by FlashAttention-4: empty blocks are skipped, whole ones need no mask, and one kernel serves every grid.

What a query sees is read from tables and not compiled in, so that forward and backward are each compiled once for a
head size, however many grids there are. The package is optional: without it, on cards other than Hopper and for 32-bit
tensors, flex_attention does the work. `pip install -c requirements/constraints.txt -e '.[flash]'` installs it.
Source: github.com/Dao-AILab/flash-attention, flash_attn/cute.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from vibe_pipeline.diffusion.attention.choice import flash_installed
from vibe_pipeline.diffusion.attention.flex import BLOCK, padded_tokens
from vibe_pipeline.diffusion.attention.geometry import Windows, reorder_tokens, window_starts

CAPABILITIES = (9,)
"""Major compute capabilities whose block-sparse kernels take blocks of `flex.BLOCK` queries: Hopper.

On Blackwell, 10, they work at two tiles of 128 queries and refuse blocks that are no multiple of 256 (4.0.0b36,
`infer_block_sparse_expected_shapes` of `cute/block_sparsity.py`, with the `q_stage` of `cute/interface.py`).
"""
HEAD_DIMS = range(64, 129, 8)
GUARD = -0x7FFF8000
"""0x80008000: a bit above each of the two 15-bit numbers, row and column, that a 32-bit code holds."""
NEVER = 0x7FFF7FFF
CODES = 4


def flash_runs_on(device: torch.device | str) -> bool:
    """Whether the package is there and has kernels for the device."""
    device = torch.device(device)
    return device.type == "cuda" and flash_installed() and torch.cuda.get_device_capability(device)[0] in CAPABILITIES


def flash_takes(q: Tensor) -> bool:
    """Whether its kernels take such tensors, and as exactly as asked: its backward adds in an order of chance."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    return half and q.shape[-1] in HEAD_DIMS and not torch.are_deterministic_algorithms_enabled()


def _codes(rows: Tensor, columns: Tensor) -> Tensor:
    return (rows << 16) | columns


def flash_tables(windows: Windows, blocks: BlockMask, device: torch.device | str) -> list[Tensor]:
    """All that the kernel reads of a geometry, int32.

    Args:
        windows: Which keys every query sees.
        blocks: Of the same windows, in blocks of `flex.BLOCK` tokens.
        device: Where attention runs.

    Returns:
        Codes of the first and last key that a query sees [L, to whole blocks]; codes of the keys, plain and guarded
        [padded_tokens + P, to whole blocks]; then counts and indices of partial and of whole blocks, first those of
        keys by query block, then those of queries by key block.
    """
    (frames, height, width), (d_h, d_w), (n_h, n_w) = windows.grid, windows.half_window, windows.sizes
    space = torch.arange(height * width).repeat(frames)[None, :, None]  # [1, L, 1], (t, h, w)
    if windows.order == "hwt":
        space = reorder_tokens(space, windows.grid, 1, "hwt")
    rows, columns = space.flatten() // width, space.flatten() % width
    top, left = window_starts(height, d_h)[rows], window_starts(width, d_w)[columns]
    first, last = _codes(top, left), _codes(top + n_h - 1, left + n_w - 1) | GUARD
    low = torch.full((_to_blocks(padded_tokens(windows) + windows.pooled),), NEVER)
    low[: windows.tokens] = _codes(rows, columns)
    high = low | GUARD
    pooled = slice(padded_tokens(windows), padded_tokens(windows) + windows.pooled)
    low[pooled], high[pooled] = 0, -1  # every lane of -1 is at least any code, guard and all
    beyond = _to_blocks(windows.tokens) - windows.tokens
    queries = [torch.cat([x, x[-1:].expand(beyond)]) for x in (first, last)]
    lists: tuple[Any, ...] = (  # whole blocks are listed too, by `build_block_mask`
        *(blocks.kv_num_blocks, blocks.kv_indices, blocks.full_kv_num_blocks, blocks.full_kv_indices),
        *(blocks.q_num_blocks, blocks.q_indices, blocks.full_q_num_blocks, blocks.full_q_indices),
    )
    return [x.to(device, torch.int32).contiguous() for x in (*queries, low, high, *lists)]


def _to_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK


@cache
def _mask_mod() -> Callable[..., Any]:
    """What one query sees of one key, compiled into the kernel for blocks that are neither empty nor whole."""
    import cutlass
    from cutlass import cute
    from flash_attn.cute import utils

    guard = GUARD

    @cute.jit
    def window_mask(batch, head, q, k, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        first, last, low, high = aux_tensors
        # Two comparisons in one subtraction: a guard bit stays where its number did not fall below zero.
        seen = (high[k[0]] - first[q[0]]) & (last[q[0]] - low[k[0]]) & cutlass.Int32(guard)
        return utils.scalar_to_ssa(seen == cutlass.Int32(guard), cutlass.Boolean)

    return window_mask


def _sparse(tables: Sequence[Tensor]) -> Any:
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

    return BlockSparseTensorsTorch(*tables, block_size=(BLOCK, BLOCK))


@torch.library.custom_op("vibe_pipeline::flash_windows", mutates_args=(), device_types="cuda")
def flash_windows(q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Output [B, L, heads, D] and log-sum-exp [B, heads, L]; q, k and v are [B, tokens, heads, D]."""
    from flash_attn.cute.interface import _flash_attn_fwd

    out, lse, *_ = _flash_attn_fwd(
        *(q, k, v),
        softmax_scale=scale,
        mask_mod=_mask_mod(),
        aux_tensors=list(tables[:CODES]),
        block_sparse_tensors=_sparse(tables[CODES : CODES + 4]),
        return_lse=True,
    )
    return out, lse


@flash_windows.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, tokens), dtype=torch.float32)


@torch.library.custom_op("vibe_pipeline::flash_windows_backward", mutates_args=(), device_types="cuda")
def flash_windows_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor, tables: Sequence[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, with the strides that these have.

    Eight arguments, since an operator's schema knows tensors and numbers but no dataclass: call it by keyword.
    """
    from flash_attn.cute.interface import _flash_attn_bwd

    dq, dk, dv, *_ = _flash_attn_bwd(
        *(q, k, v, out, grad.contiguous(), lse),
        softmax_scale=scale,
        mask_mod=_mask_mod(),
        aux_tensors=list(tables[:CODES]),
        block_sparse_tensors=_sparse(tables[CODES + 4 :]),
    )
    return dq, dk, dv


@flash_windows_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor, tables: Sequence[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)  # with their strides, as the kernel gives them


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tables, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, *tables)


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    q, k, v, out, lse, *tables = ctx.saved_tensors
    gradients = flash_windows_backward(q=q, k=k, v=v, out=out, grad=grad, lse=lse, tables=tables, scale=ctx.scale)
    return *gradients, [None] * len(tables), None


flash_windows.register_autograd(_gradients, setup_context=_keep)


def flash_attend(q: Tensor, k: Tensor, v: Tensor, tables: list[Tensor], scale: float) -> Tensor:
    """Attend to windows and pooled keys.

    Args:
        q: Queries [B, heads, L, D], 16 bit, in the tables' order.
        k: Keys [B, heads, padded_tokens + P, D]: local ones, a gap to a whole block, pooled ones.
        v: Values, likewise.
        tables: From `flash_tables`.
        scale: Of the scores.

    Returns:
        [B, heads, L, D], with gradients for q, k and v.
    """
    out, _ = flash_windows(*(x.transpose(1, 2) for x in (q, k, v)), tables, scale)
    return out.transpose(1, 2)
