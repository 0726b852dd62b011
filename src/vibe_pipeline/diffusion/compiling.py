"""What torch.compile needs to be told before a transformer's blocks are compiled."""

import torch

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
