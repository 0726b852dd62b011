"""Convolutions of a video VAE on the CPU: the same figures, in a third of the time."""

from types import MethodType

import torch
from torch import Tensor, nn


def use_onednn(module: nn.Module) -> None:
    """Run every 3D convolution of a module on the CPU by oneDNN, which it must stay on.

    With one thread and a small batch torch takes its own unblocked kernel for 32 bit, which needs about five times as
    long; with 16 bit, or more threads on some machines, it takes oneDNN by itself. Does nothing where torch has none.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if isinstance(part, nn.Conv3d) and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            part._conv_forward = MethodType(_convolve, part)


def _convolve(self: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return nn.Conv3d._conv_forward(self, x, weight, bias)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, self.padding, self.stride, self.dilation, self.groups)
