"""What a log line says beside the losses: speed, distance from the device's limit, memory."""

from __future__ import annotations

import re
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a plan reads the peaks without torch
    import torch

PEAKS = (
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("H200", 989),
    ("H800", 989),
    ("GH200", 989),
    ("H20", 148),
    ("B200", 2250),
    ("GB200", 2500),
    ("A100", 312),
    ("A800", 312),
    ("A40", 150),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("A6000", 155),
    ("6000 Ada", 364),
    ("RTX 5090", 209),
    ("RTX 4090", 165),
    ("RTX 3090", 71),
)


def peak_teraflops(device_name: str) -> float | None:
    """Dense bfloat16 peak of a GPU, TFLOP/s with 32-bit accumulation; None if it is not in the table.

    Source: NVIDIA's data sheets and architecture white papers; where these give figures with sparsity, half of them.
    """
    return next((float(peak) for part, peak in PEAKS if re.search(rf"\b{part}\b", device_name)), None)


def device_peak(device: torch.device) -> float | None:
    """The peak of this device; None on the CPU and for unknown GPUs."""
    import torch

    return peak_teraflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_memory(device: torch.device) -> float:
    """The most memory this process held, GB: on the GPU, or resident."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e9 if sys.platform == "darwin" else used / 1e6


@dataclass
class Window:
    """The steps since the last log line.

    Attributes:
        losses: Of each step, by name.
        images: Over all processes, and so `tokens` and `flops`.
        seconds: Before `begun`; a resumed run goes on counting.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    images: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    def add(self, losses: dict[str, float], images: int, tokens: int, flops: float) -> None:
        """Count a step."""
        self.losses.append(losses)
        self.images += images
        self.tokens += tokens
        self.flops += flops

    def elapsed(self) -> float:
        """Seconds of work so far."""
        return self.seconds + time.monotonic() - self.begun

    def record(self, peak: float | None, memory: float) -> dict[str, float]:
        """Mean losses, and speeds.

        Args:
            peak: TFLOP/s of all devices together; None leaves the share out.
            memory: Peak device memory of a step, in GB.
        """
        seconds = self.elapsed()
        mean = {k: sum(w[k] for w in self.losses) / len(self.losses) for k in self.losses[0]}
        speed = {
            "images_per_second": self.images / seconds,
            "tokens_per_second": self.tokens / seconds,
            "teraflops_per_second": self.flops / seconds / 1e12,
        }
        if peak is not None:
            speed["share_of_peak"] = speed["teraflops_per_second"] / peak
        return mean | speed | {"peak_memory_gb": memory, "seconds": seconds}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        counts = {"images": self.images, "tokens": self.tokens, "flops": self.flops}
        return {"losses": self.losses, "seconds": self.elapsed()} | counts
