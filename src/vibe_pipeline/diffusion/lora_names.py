"""Layouts of adapter files; names of a Wan transformer's linear layers in diffusers, and in Wan's own code.

Most tools follow the latter.

Source: diffusers scripts/convert_wan_to_diffusers.py.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

Layout = Literal["diffusers", "comfyui", "kohya", "diffsynth"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""Those that are written."""

_IN_BLOCKS = MappingProxyType(
    {f"{a}.{n}": f"{d}.{m}" for a, d in (("self_attn", "attn1"), ("cross_attn", "attn2"))
     for n, m in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))}
    | {"cross_attn.k_img": "attn2.add_k_proj", "cross_attn.v_img": "attn2.add_v_proj"}
    | {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
)  # fmt: skip
_OUTSIDE = MappingProxyType(
    {
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "head.head": "proj_out",
    }
)

# Not linear layers, but they may carry a difference: norms, modulations, the patch embedding. Wan's norm3 is the one
# with weights; in diffusers, which counts in the order of use, it is norm2.
_OTHERS_IN_BLOCKS = MappingProxyType(
    {"self_attn.norm_q": "attn1.norm_q", "self_attn.norm_k": "attn1.norm_k", "cross_attn.norm_q": "attn2.norm_q",
     "cross_attn.norm_k": "attn2.norm_k", "cross_attn.norm_k_img": "attn2.norm_added_k", "norm3": "norm2"}
)  # fmt: skip
_OTHERS_OUTSIDE = MappingProxyType(
    {
        "patch_embedding": "patch_embedding",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    }
)


def other_name(native: str) -> str:
    """As :func:`diffusers_name`, of a module that is not a linear layer; diffusers' own names are known too.

    Raises:
        ValueError: No such module.
    """
    inside, outside = (
        _any_spelling(names) | {n: n for n in names.values()} for names in (_OTHERS_IN_BLOCKS, _OTHERS_OUTSIDE)
    )
    return _translate(native, inside, outside)


def native_name(module: str) -> str:
    """A module's name in Wan's own code, from diffusers' name.

    Raises:
        ValueError: It has no counterpart there.
    """
    return _translate(module, {v: k for k, v in _IN_BLOCKS.items()}, {v: k for k, v in _OUTSIDE.items()})


def diffusers_name(native: str) -> str:
    """A module's name in diffusers, from the name in Wan's own code; dots may be underscores, as kohya has them.

    diffusers' own names with underscores are known too: trainers on diffusers write them.

    Raises:
        ValueError: No such module.
    """
    return _translate(native, _any_spelling(_IN_BLOCKS), _any_spelling(_OUTSIDE))


def _any_spelling(names: Mapping[str, str]) -> dict[str, str]:
    """As written, and both sides with underscores."""
    flat = {name.replace(".", "_"): module for pair in names.items() for name in pair for module in pair[1:]}
    return {**flat, **names}


def _translate(module: str, in_blocks: Mapping[str, str], outside: Mapping[str, str]) -> str:
    if module in outside:
        return outside[module]
    block = re.fullmatch(r"blocks[._](\d+)[._](.+)", module)
    if block is None or block[2] not in in_blocks:
        raise ValueError(f"{module} is not a linear layer of a Wan transformer")
    return f"blocks.{block[1]}.{in_blocks[block[2]]}"
