"""What torch.compile needs to be told before a transformer's blocks are compiled, and when it is not worth its time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

LIMIT = 8
"""Graphs of a block of one shape of tokens, at most: each grad mode, trained and measured, whole and cut batches."""


def begin_compiling(shapes: int = 1) -> None:
    """Forget what was compiled for other transformers in this process, and give the next one its own limit.

    torch counts the graphs of `WanTransformerBlock.forward` over all transformers that there ever were. The third
    adapter that one process trains would pass the limit, and it and every arm after it would run eagerly, with no more
    said than a warning: 428 in place of 271 ms a step of the 5B on an H100. Sizes that it has seen before would
    moreover make it compile for any number of tokens.

    Args:
        shapes: Shapes of tokens that the transformer will see.
    """
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT * shapes)


def compile_for_training(transformer: WanTransformer3DModel, shapes: int) -> None:
    """Compile the blocks of a transformer whose adapter is trained: one graph for each shape of tokens.

    The first block's input would need no gradient and every later one's does, which makes two graphs of the same
    block; a gradient that nobody reads costs one block's part of a step.

    Args:
        transformer: On its device, with adapter and attention.
        shapes: As `begin_compiling`.
    """

    def asks_for_a_gradient(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.requires_grad_() if torch.is_grad_enabled() else output

    begin_compiling(shapes)
    transformer.patch_embedding.register_forward_hook(asks_for_a_gradient)
    transformer.compile_repeated_blocks()


@contextmanager
def eagerly(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Within, blocks run as they were before they were compiled; afterwards with the graphs that they had.

    For a few forwards of many shapes, each of which would be waited for 10 to 15 s on an H100. What a block's attention
    compiles of its own stays compiled.
    """
    compiled = {block: block._compiled_call_impl for block in transformer.blocks}
    for block in compiled:
        block._compiled_call_impl = None
    try:
        yield
    finally:
        for block, call in compiled.items():
            block._compiled_call_impl = call
