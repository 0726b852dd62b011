"""A transformer whose blocks come to the device one at a time and leave it again, by diffusers' group offloading.

Its weights then take of the device what is not in blocks, and one block; on CUDA two, since the next one comes by a
stream of its own while one computes, out of main memory that is page-locked for all blocks. Nothing is computed
otherwise. Five things of diffusers (0.42) settle where, when and how it is put on:

- Hooks point to tensors, so adapters, fused updates and quantisation come before.
- A step cache lies under it: diffusers takes the hooks that note the blocks' order off after the first forward, and
  would take a cache that was put on later off with them. So a block that a cache leaves out comes all the same.
- `Module.to` does nothing while it is on, but for a warning: it is taken off before weights go anywhere.
- Tensors that are moved in inference mode, which its pipelines do without, cannot be read in the next forward: weights
  are moved outside of it.
- What torch hooks on submodules do (attention kinds, positions, FreeSwim, regions) runs around it and is not touched.
"""

from collections.abc import Iterator

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import HookRegistry, apply_group_offloading
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAYER_EXECUTION_TRACKER,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
    ModuleGroup,
)
from torch import nn

HOOKS = (_LAYER_EXECUTION_TRACKER, _LAZY_PREFETCH_GROUP_OFFLOADING, _GROUP_OFFLOADING)
"""Names of what group offloading puts on modules, the outermost first."""


@torch.inference_mode(False)
def offload_blocks(transformer: WanTransformer3DModel, device: torch.device) -> None:
    """Let each block come to the device for its forward alone, and what is not in blocks for the transformer's.

    Args:
        transformer: In main memory, with all that changes its weights; only :func:`gather_blocks` before they change.
        device: Where it computes; the blocks' order on CUDA is learned in the first forward, which prefetches nothing.
    """
    streamed = device.type == "cuda"
    if streamed:
        pin_weights(transformer.blocks)
    apply_group_offloading(
        transformer,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=streamed,
    )
    for registry in _registries(transformer):
        for hook in filter(None, map(registry.get_hook, HOOKS)):
            hook.fn_ref = None  # it holds the hook, which holds modules, and only hooks of another sort read it
            if hasattr(hook, "group"):
                hook.group.__class__ = _Group


@torch.inference_mode(False)
def gather_blocks(transformer: WanTransformer3DModel) -> None:
    """Take it off again; all weights are in main memory, and what lay under it is as it was."""
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    for name in HOOKS:
        registry.remove_hook(name, recurse=True)
    transformer.to("cpu")  # what a forward that failed has left on the device


def compile_forwards(transformer: WanTransformer3DModel) -> None:
    """torch.compile of the blocks' forwards, under hooks that come later.

    diffusers' `compile_repeated_blocks` compiles a block with its hooks, each of which moves weights of its own: every
    block would be compiled for itself, up to torch's limit.
    """
    for block in transformer.blocks:
        block.forward = torch.compile(block.forward)


def pin_weights(blocks: nn.Module) -> None:
    """Page-lock weights where they lie, one after another: diffusers pins them all before it lets the others go.

    A tensor of torchao is left to diffusers, as its numbers cannot be put in another's place.
    """
    for parameter in blocks.parameters():
        if type(parameter.data) is torch.Tensor:
            parameter.data = parameter.data.pin_memory()


class _Group(ModuleGroup):
    """What comes and leaves together, moved outside of inference mode."""

    @torch.compiler.disable
    def onload_(self) -> None:
        """To the device."""
        with torch.inference_mode(False), torch.no_grad():
            super().onload_()

    @torch.compiler.disable
    def offload_(self) -> None:
        """To main memory."""
        with torch.inference_mode(False), torch.no_grad():
            super().offload_()


def _registries(transformer: nn.Module) -> Iterator[HookRegistry]:
    return (module._diffusers_hook for module in transformer.modules() if hasattr(module, "_diffusers_hook"))
