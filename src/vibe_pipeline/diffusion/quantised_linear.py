"""Frozen linear layers that keep their bytes, and not the numbers they stand for, from forward to backward.

A product saves the weight in the type it computes in for the backward pass. Over a whole transformer that is as much
memory as quantising had saved; here the backward pass makes each layer's numbers again. Each is made of an `nn.Linear`
by changing its class.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8_MOST = torch.finfo(torch.float8_e4m3fn).max
NF4_BLOCK = 64
"""Numbers that share a scale, bitsandbytes' default."""


class _ThroughBytes(torch.autograd.Function):
    """y = x W^T + b with the gradient of x alone, dx = dy W, as W is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "QuantisedLinear") -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.operand(), layer.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad @ ctx.layer.numbers().to(grad.dtype)).to(ctx.dtype), None


class QuantisedLinear(nn.Linear):
    """A linear layer whose weight is one of torchao's tensors, which their products take as it is."""

    def operand(self) -> Tensor:
        """The weight as a forward multiplies with it."""
        return self.weight

    def numbers(self) -> Tensor:
        """[out, in], what the bytes stand for."""
        found: Tensor = self.weight.data.dequantize()
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if torch.is_grad_enabled() and x.requires_grad:
            found: Tensor = _ThroughBytes.apply(x, self)
            return found
        return F.linear(x, self.operand(), self.bias)


class PackedLinear(QuantisedLinear):
    """One whose weight is plain bytes, from which every forward makes its numbers.

    Attributes:
        compute_dtype: Of the numbers, the type that the weight had; peft gives adapters beside it the same.
    """

    compute_dtype: torch.dtype

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """A layer, packed in place.

        Raises:
            ValueError: Its numbers cannot be packed so.
        """
        made: Any = layer
        made.__class__ = cls
        made.compute_dtype = layer.weight.dtype
        made._pack(layer.weight.data)
        return made

    def operand(self) -> Tensor:
        """The weight as a forward multiplies with it."""
        return self.numbers()

    def _pack(self, weight: Tensor) -> None:
        raise NotImplementedError


class Fp8CastLinear(PackedLinear):
    """Numbers cast to float8_e4m3fn, without a scale: what diffusers' layerwise casting holds."""

    def numbers(self) -> Tensor:
        """[out, in], cast back."""
        return self.weight.data.view(torch.float8_e4m3fn).to(self.compute_dtype)

    def _pack(self, weight: Tensor) -> None:
        if float(most := weight.abs().max()) > FP8_MOST:
            raise ValueError(
                f"model.quantisation fp8_cast holds numbers up to {FP8_MOST:g}, and a weight is {most:g}: use fp8, "
                "which has a scale for each output row"
            )
        self.weight = nn.Parameter(weight.to(torch.float8_e4m3fn).view(torch.uint8), requires_grad=False)


class Nf4Linear(PackedLinear):
    """Four bits a number, the 16 levels of a normal distribution (QLoRA, arXiv 2305.14314), by bitsandbytes.

    A scale of 32 bit for every 64 numbers of a row after the other. bitsandbytes is handed rows of one scale each: its
    kernel for CPUs (0.50) takes scales of the wrong numbers where rows are no multiple of 64.
    """

    scales: nn.Parameter

    def numbers(self) -> Tensor:
        """[out, in], levels by scales."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        scales = self.scales.view(torch.float32)
        shape = torch.Size((len(scales), NF4_BLOCK))
        state = QuantState(scales, shape, blocksize=NF4_BLOCK, quant_type="nf4", dtype=self.compute_dtype)
        found: Tensor = dequantize_4bit(self.weight.data, state)
        return found.view(self.out_features, self.in_features)

    def _pack(self, weight: Tensor) -> None:
        from bitsandbytes.functional import quantize_4bit

        if weight.numel() % NF4_BLOCK:
            raise ValueError(
                f"model.quantisation nf4 has a scale for {NF4_BLOCK} numbers, and a layer of {tuple(weight.shape)} "
                "does not divide into such: use int8"
            )
        packed, state = quantize_4bit(weight.reshape(-1, NF4_BLOCK), blocksize=NF4_BLOCK, quant_type="nf4")
        self.weight = nn.Parameter(packed, requires_grad=False)
        # Bytes, as no cast of the module is to round them; a parameter, as diffusers takes those alone off a device.
        self.scales = nn.Parameter(state.absmax.view(torch.uint8), requires_grad=False)
