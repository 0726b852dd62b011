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
LORA_RANK = 4
# How CineScale's loader takes keys: with or without the prefix, with or without `.default`; and both in one file.
LORA_SPELLINGS = {
    "plain": lambda module, x: f"{module}.lora_{x}.weight",
    "default": lambda module, x: f"{module}.lora_{x}.default.weight",
    "prefix": lambda module, x: f"diffusion_model.{module}.lora_{x}.weight",
    "prefix and default": lambda module, x: f"diffusion_model.{module}.lora_{x}.default.weight",
    "mixed": lambda module, x: f"{'diffusion_model.' if 'self' in module else ''}{module}.lora_{x}.weight",
}
LORA_MODULES = {  # Wan's own names, and diffusers'
    **{f"{a}.{n}": f"{d}.{m}" for a, d in (("self_attn", "attn1"), ("cross_attn", "attn2"))
       for n, m in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))},
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}  # fmt: skip


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


def merged(base: nn.Module, spelling: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """A random file in CineScale's layout; `base` gets W + scale B A, written out."""
    generator, state = torch.Generator().manual_seed(5), {}
    for block, layers in enumerate(base.blocks):
        for native, ours in LORA_MODULES.items():
            layer = layers.get_submodule(ours)
            a = 0.2 * torch.randn(LORA_RANK, layer.in_features, generator=generator)
            b = 0.2 * torch.randn(layer.out_features, LORA_RANK, generator=generator)
            for x, factor in (("A", a), ("B", b)):
                state[LORA_SPELLINGS[spelling](f"blocks.{block}.{native}", x)] = factor
            layer.weight.data += scale * b @ a
    return state
