"""Muon for convolutions: torch's own takes matrices only."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class ConvMuon(torch.optim.Muon):
    """torch's Muon over kernels [out, in, ...], each as a matrix [out, in * ...] that shares the kernel's memory.

    Kernels must keep their memory: move a module to its device before, and load weights in place.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], **settings: Any) -> None:
        self.kernels = list(kernels)
        super().__init__([nn.Parameter(k.data.view(len(k), -1)) for k in self.kernels], **settings)

    def step(self, closure: Callable[[], float] | None = None) -> Tensor | float | None:
        """One step from the kernels' gradients."""
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(len(kernel), -1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the kernels' gradients too."""
        super().zero_grad(set_to_none)
        for kernel in self.kernels:
            if set_to_none:
                kernel.grad = None
            elif kernel.grad is not None:
                kernel.grad.zero_()
