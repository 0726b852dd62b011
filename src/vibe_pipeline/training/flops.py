"""Floating-point operations of a training step, counted from the modules as they are, adapters included.

A linear layer of n rows costs 2 n d_in d_out forwards, and as much again for each gradient that is needed: that of its
input, and that of its weight unless frozen. Attention of n queries over m keys costs 4 n m d forwards and 2.5 times
that backwards (the scores are computed again). Recomputation by gradient checkpointing is not counted: the share of
peak says how much of the device does useful work.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from diffusers import WanTransformer3DModel
from torch import nn

from vibe_pipeline.diffusion.attention import GclfAttnProcessor

BACKWARD_ATTENTION = 2.5
STAGES = {"attn1.to_out": 1, "attn2.to_q": 2, "attn2.to_k": 2, "attn2.to_v": 2, "attn2.to_out": 3, "ffn.net.0": 4}
STAGES |= {"attn1.to_q": 0, "attn1.to_k": 0, "attn1.to_v": 0, "ffn.net.2": 5}
Position = tuple[int, int]
"""(block, stage within it): how far along the data's way a module stands."""


@dataclass(frozen=True)
class Flops:
    """One image, one forward and one backward."""

    linear_forward: float
    linear_backward: float
    attention_forward: float
    attention_backward: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.linear_forward + self.linear_backward + self.attention_forward + self.attention_backward


def count_flops(transformer: WanTransformer3DModel, grid: tuple[int, int, int], text_tokens: int) -> Flops:
    """The operations of one image or clip with the attention and the trainable weights that are in place.

    Args:
        transformer: With adapters and GCLF attention as in training.
        grid: (T, H, W) in tokens.
        text_tokens: Length of the text embedding.
    """
    tokens, trained = math.prod(grid), _first_trained(transformer)
    forward, backward = float(_patch_embedding(transformer, tokens)), 0.0
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            home = re.split(r"\.base_layer|\.lora_", name)[0]
            cost = 2.0 * _rows(home, tokens, text_tokens) * module.in_features * module.out_features
            forward += cost
            backward += cost * (module.weight.requires_grad + _input_has_gradient(transformer, name, home, trained))
    attention = list(_attention(transformer, grid, text_tokens))
    dim = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    scores = [4.0 * tokens * keys * dim for _, keys in attention]
    learning = sum(s for s, (position, _) in zip(scores, attention, strict=True) if trained < position)
    return Flops(forward, backward, sum(scores), BACKWARD_ATTENTION * learning)


def _patch_embedding(transformer: WanTransformer3DModel, tokens: int) -> int:
    return 2 * tokens * transformer.patch_embedding.weight.numel()


def _rows(home: str, tokens: int, text_tokens: int) -> int:
    """How many rows a linear layer sees for one image, which has one timestep."""
    if "text_embedder" in home or re.search(r"attn2\.to_[kv]$", home):
        return text_tokens
    if "time_" in home:
        return 1
    return tokens


def _position(home: str) -> Position:
    """Where a linear layer stands; those outside the blocks come before or after all of them."""
    found = re.match(r"blocks\.(\d+)\.(.*)", home)
    if found is None:
        return (10**9, 0) if home == "proj_out" else (-1, 0)
    stage = next((s for prefix, s in STAGES.items() if found[2].startswith(prefix)), 0)
    return int(found[1]), stage


def _first_trained(transformer: WanTransformer3DModel) -> Position:
    """The first place where a gradient is wanted: it flows back from the output to there."""
    trained = [n for n, p in transformer.named_parameters() if p.requires_grad]
    return min(
        (_position(re.split(r"\.base_layer|\.lora_|\.weight|\.bias", n)[0]) for n in trained), default=(10**9, 1)
    )


def _input_has_gradient(transformer: WanTransformer3DModel, name: str, home: str, trained: Position) -> bool:
    if ".lora_B." in name and transformer.get_submodule(name.replace(".lora_B.", ".lora_A.")).weight.requires_grad:
        return True
    return trained < _position(home) and not re.search(r"attn2\.to_[kv]$", home)


def _attention(
    transformer: WanTransformer3DModel, grid: tuple[int, int, int], text_tokens: int
) -> Iterator[tuple[Position, float]]:
    """Each attention's position and the keys that one query is compared with."""
    for i, block in enumerate(transformer.blocks):
        yield (i, 1), _self_keys(block, grid)
        yield (i, 3), text_tokens


def _self_keys(block: nn.Module, grid: tuple[int, int, int]) -> float:
    processor = block.attn1.processor
    if not isinstance(processor, GclfAttnProcessor):
        return math.prod(grid)
    return processor.installation.keys(grid, processor.layer)
