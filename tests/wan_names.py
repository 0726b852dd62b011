"""A transformer's weights as Wan's own repository names them: what tests take for files that others published."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

# From Wan-Video/Wan2.1 wan/modules/model.py, beside diffusers' names.
RENAMED = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),  # before cross-attention; the only norm of a block with weights
    (r"^(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (r"^(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
    (r"^(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
    (r"^(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
    (r"attn\.to_([qkv])\.", r"attn.\1."),
    (r"attn\.to_out\.0\.", "attn.o."),
)


def wan_name(name: str) -> str:
    """Wan's name of one of diffusers' tensors."""
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name


def randomise(transformer: nn.Module, seed: int) -> nn.Module:
    """Other weights of about the same size in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in transformer.state_dict().values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    return transformer


def write_wan_file(transformer: nn.Module, path: Path, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    """All weights in one file, as T3-Video publishes them."""
    state = {prefix + wan_name(name): value.to(dtype).contiguous() for name, value in transformer.state_dict().items()}
    save_file(state, path)
    return path
