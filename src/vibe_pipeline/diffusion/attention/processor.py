"""The processor that computes self-attention of a Wan block by a kind's plan."""

from functools import partial
from typing import TYPE_CHECKING

from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from vibe_pipeline.diffusion.attention.rotary import Rotary, rotate

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.attention.installation import GclfInstallation


class GclfAttnProcessor(WanAttnProcessor):
    """WanAttnProcessor for self-attention, with the plans of the installation it belongs to.

    diffusers' own choice of attention backend has no effect here; context parallelism is not supported.

    Attributes:
        installation: What the transformer has.
        layer: The first block that this serves. Blocks whose plans are the same have one processor: torch.compile
            takes a number on it for a constant, and would compile each block for itself until its limit, then none.
    """

    def __init__(self, installation: "GclfInstallation", layer: int) -> None:
        super().__init__()
        self.installation, self.layer = installation, layer

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Self-attention of hidden_states [B, L, C] in the plan's token order; returns [B, L, C]."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError("this is self-attention: it takes neither encoder_hidden_states nor an attention_mask")
        installed, own = self.installation, {}
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in _project(attn, hidden_states))
        if installed.rotates:
            own = {"rotary": None if rotary_emb is None else Rotary(*rotary_emb)}
        elif rotary_emb is not None:
            q, k = rotate(q, *rotary_emb), rotate(k, *rotary_emb)
        plan = installed.plans[self.layer]
        attend = plan if installed.attends is None else partial(installed.attends, plan, attn)
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), installed.scale, **own)
        out = out.transpose(1, 2).flatten(2, 3).type_as(q)
        return attn.to_out[1](attn.to_out[0](out))


def _project(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (both normalised) and values of x [B, L, C]: three of [B, L, heads D]."""
    if attn.fused_projections:
        q, k, v = attn.to_qkv(x).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    return attn.norm_q(q), attn.norm_k(k), v
