"""A frozen linear layer that keeps its bytes, and not the numbers they stand for, from forward to backward.

torchao's products save the weight in the type they compute in for the backward pass. Over a whole transformer that is
as much memory as quantising had saved; here the backward pass makes each layer's numbers again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _ThroughBytes(torch.autograd.Function):
    """y = x W^T + b with the gradient of x alone, dx = dy W, as W is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return (grad @ ctx.weight.data.dequantize().to(grad.dtype)).to(ctx.dtype), None, None


class QuantisedLinear(nn.Linear):
    """A linear layer whose weight is one of torchao's tensors; made of an `nn.Linear` by changing its class."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _ThroughBytes.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)
