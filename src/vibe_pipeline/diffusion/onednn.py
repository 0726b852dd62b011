"""Convolutions of a video VAE on the CPU: the same figures, in a third of the time."""

from functools import partial

import torch
from torch import Tensor, nn

Size3 = tuple[int, int, int]


def use_onednn(module: nn.Module) -> None:
    """Run every 3D convolution of a module on the CPU by oneDNN, which it must stay on.

    With one thread and a small batch torch takes its own unblocked kernel for 32 bit, which needs about five times as
    long; with 16 bit, or more threads on some machines, it takes oneDNN by itself. Does nothing where torch has none.
    Weights with their channels last make the activations so, and a quarter of the VAE's time was turning them round.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last_3d)
        if isinstance(part, nn.Conv3d) and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            # Of plain values: a method bound to the module would be a cycle, and keep it in memory after its use.
            settings = {"padding": part.padding, "stride": part.stride, "dilation": part.dilation}
            part._conv_forward = partial(_convolve, **settings, groups=part.groups)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Size3, stride: Size3, dilation: Size3, groups: int
) -> Tensor:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return nn.functional.conv3d(x, weight, bias, stride, padding, dilation, groups)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)
