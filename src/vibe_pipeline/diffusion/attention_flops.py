"""What self- or cross-attention alone takes of a forward: what a step cache saves that uses its output again."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from vibe_pipeline.diffusion.attention.geometry import Grid
from vibe_pipeline.diffusion.flops import AdapterLayers, linear_layers, sees

Which = Literal["attn1", "attn2"]
"""Self-attention and cross-attention, by their names in a block."""
WHICH: tuple[Which, ...] = get_args(Which)


def count_attention(
    config: Mapping[str, Any],
    grid: Grid,
    text_length: int,
    keys: Sequence[float],
    adapters: Sequence[AdapterLayers],
    which: Which,
) -> tuple[float, float]:
    """Operations of one forward's self- or cross-attention in all blocks, without a gradient.

    Args:
        config: The transformer's configuration.
        grid: (T, H, W) in tokens.
        text_length: Tokens of the text embedding.
        keys: That a query of self-attention is compared with, by block.
        adapters: Beside the weights.
        which: Of the two.

    Returns:
        Of the projections, with adapters beside them; of the scores and what they weigh.
    """
    tokens = math.prod(grid)
    rows = {"text": text_length, "tokens": tokens}
    linear = sum(2.0 * rows[sees(n)] * d_in * d_out for n, (d_in, d_out) in linear_layers(config).items() if which in n)
    for adapter in adapters:
        own = ((n, shape) for n, shape in adapter.layers.items() if which in n)
        linear += sum(2.0 * rows[sees(n)] * rank * (d_in + d_out) for n, (rank, d_in, d_out) in own)
    compared = sum(keys) if which == "attn1" else config["num_layers"] * text_length
    return linear, 4.0 * tokens * compared * config["num_attention_heads"] * config["attention_head_dim"]
