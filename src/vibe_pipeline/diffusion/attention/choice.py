"""Which backend computes windows, and how many keys it looks at for that: the one rule of the plan and of what runs.

No torch is needed to ask; only the blocks of a block-sparse kernel are counted with it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import Literal

from vibe_pipeline.diffusion.attention.geometry import BACKENDS, Backend, Order, Windows

DENSE_TOKENS = {"cpu": 1024, "cuda": 8192, "flash": 2048}
"""Up to here one SDPA call with a mask beats the sparse backends. On an H100 a training step of 4,128 tokens takes 4.1
ms a layer with a mask and 3.9 with flex, which compiles for 10 to 15 s a grid and grad mode (docs/benchmarks.md)."""

SPARSE_TOKENS = 512
"""Below it the calls of tiles cost more than they save, at one clip a batch."""

SPARSE: dict[str, Backend] = {"cuda": "flex", "flash": "flash"}
Kernel = Literal["sdpa", "masked", "flex", "flash", "gather"]
"""SDPA without a mask; SDPA with one; flex_attention; FlashAttention-4; SDPA on gathered tiles."""

BLOCK_SPARSE = ("flex", "flash")
"""Backends that skip blocks of tokens: they want those of a place together, (h, w, t)."""
FLASH_PACKAGE = "flash-attn-4"


@cache
def flash_installed() -> bool:
    """Whether FlashAttention-4 is there; nothing is imported."""
    try:
        metadata.version(FLASH_PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


def choose_backend(windows: Windows, backend: Backend, device: str, flash: bool = True) -> Backend:
    """Resolve "auto": dense for few tokens or plain full attention, else flash or flex on CUDA and gather elsewhere.

    Args:
        windows: The geometry.
        backend: What is asked for.
        device: Its type, `cuda` or `cpu`.
        flash: Whether FlashAttention-4 may be chosen where it is installed: not every card runs it.

    Raises:
        ValueError: An unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if windows.is_full:
        return "dense"  # and no mask: plain SDPA
    if backend != "auto":
        return backend
    name = "flash" if device == "cuda" and flash and flash_installed() else device
    if windows.tokens <= DENSE_TOKENS.get(name, DENSE_TOKENS["cpu"]):
        return "dense"
    return SPARSE.get(name, "gather")


def choose_sparse(windows: Windows, backend: Backend, device: str) -> Backend:
    """Likewise for windows that another pass stands beside: on a CPU tiles, where less than half of the tokens is seen.

    A mask there costs what full attention costs, and tiles a half to a third of that, on few tokens too. Windows alone
    keep to `choose_backend`: what they give would change in its last bits, and with it results that are there.
    """
    if backend == "auto" and device == "cpu" and SPARSE_TOKENS <= windows.tokens > 2 * windows.keys_per_query:
        return "gather"
    return choose_backend(windows, backend, device)


def choose_order(windows: Windows, backend: Backend, asked: Order | None) -> Order:
    """Tokens lie (h, w, t) for flex and flash, (t, h, w) otherwise, unless another order is asked for."""
    order = asked or ("hwt" if backend in BLOCK_SPARSE else "thw")
    return "thw" if windows.grid[0] == 1 else order  # the same order, by its cheaper name


def kernel_of(windows: Windows, device: str, backend: Backend = "auto") -> tuple[Kernel, float]:
    """The kernel that computes windows where nothing else is asked for, and the keys that it compares a query with.

    A mask hides keys but saves none of them; a block-sparse kernel computes whole blocks.
    """
    backend = choose_backend(windows, backend, device)
    if backend == "flex" or backend == "flash":
        from vibe_pipeline.diffusion.attention.flex import computed_share

        ordered = replace(windows, order=choose_order(windows, backend, None))
        return backend, computed_share(ordered) * windows.tokens + windows.pooled
    if backend == "gather":
        return "gather", float(windows.keys_per_query)
    return ("sdpa" if windows.is_full else "masked"), float(windows.tokens + windows.pooled)


def block_backend(tokens: int, block: int, backend: Backend, device: str) -> Backend:
    """Likewise for blocks that are found while a clip is made: flex's tiles on CUDA are of 64 tokens or more.

    Raises:
        ValueError: An unknown backend, flash, or flex on CUDA with blocks that its tiles do not divide.
    """
    if backend == "flash":
        raise ValueError("flash computes windows, not blocks that are found: use 'flex', 'gather' or 'auto'")
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}: use one of {', '.join(BACKENDS)}")
    fits = block % 64 == 0
    if backend == "flex" and device == "cuda" and not fits:
        raise ValueError(f"flex on CUDA needs attention.block to be a multiple of 64, not {block}: or use 'gather'")
    if backend != "auto":
        return backend
    if tokens <= DENSE_TOKENS.get(device, DENSE_TOKENS["cpu"]):
        return "dense"
    return "flex" if device == "cuda" and fits else "gather"
