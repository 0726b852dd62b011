"""Windowed attention from its formulas as one dense mask, for a diffusers Wan transformer: what tests compare with.

Nothing here comes from the package. METHOD.md, section 3: a query at q on an axis of length L sees the key k iff
q - d - du <= k <= q + d + db, with du = max(d + q - L + 1, 0) and db = max(d - q, 0), and every pooled key.
"""

import itertools

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn


def sees(q: int, k: int, length: int, d: int) -> bool:
    return q - d - max(d + q - length + 1, 0) <= k <= q + d + max(d - q, 0)


class DenseGclf(WanAttnProcessor):
    """Local keys under a mask and keys averaged over f x f tiles of each frame (f = 0: none), one softmax over both."""

    def __init__(self, grid: tuple[int, int, int], half: tuple[int, int], f: int, scale: float | None) -> None:
        super().__init__()
        self.grid, self.f, self.scale = grid, f, scale
        tokens = list(itertools.product(*map(range, grid)))
        local = [[all(sees(q[i], k[i], grid[i], half[i - 1]) for i in (1, 2)) for k in tokens] for q in tokens]
        pooled = grid[0] * (grid[1] // f) * (grid[2] // f) if f else 0
        self.mask = torch.cat([torch.tensor(local), torch.ones(len(tokens), pooled, dtype=torch.bool)], 1)

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        turn = torch.complex(rotary_emb[0][..., 0::2], rotary_emb[1][..., 0::2])
        q, k = (torch.view_as_real(torch.view_as_complex(x.unflatten(3, (-1, 2))) * turn).flatten(3) for x in (q, k))
        if self.f:
            k, v = torch.cat([k, self.pool(k)], 1), torch.cat([v, self.pool(v)], 1)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (self.scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~self.mask, -torch.inf).softmax(-1)
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))

    def pool(self, x: Tensor) -> Tensor:
        t, h, w = self.grid
        tiles = x.reshape(len(x), t, h // self.f, self.f, w // self.f, self.f, *x.shape[2:])
        return tiles.mean((3, 5)).flatten(1, 3)


def install_dense_gclf(
    transformer: WanTransformer3DModel,
    grid: tuple[int, int, int],
    half: tuple[int, int],
    f: int,
    scale: float | None = None,
) -> None:
    """Give every self-attention the dense reference: grid (T, H, W), half window (d_h, d_w), tile side, scale."""
    for block in transformer.blocks:
        block.attn1.set_processor(DenseGclf(grid, half, f, scale))
