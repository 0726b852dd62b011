"""Accelerators by name: memory, and peak speed by number format."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vibe_pipeline.training.throughput import peak_teraflops

THIS = "this"
"""The name of the machine that the plan is made on; what it computes a second is measured there."""


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        product: As its driver names it; its bfloat16 peak stands in `training.throughput`.
        memory_gb: Of the common version.
        float32: TFLOP/s without tensor cores, which torch uses for 32-bit matrix products by default.
        flash: FlashAttention-4 has kernels for windows on it; elsewhere flex_attention computes them.
    """

    product: str
    memory_gb: float
    float32: float
    flash: bool = False

    def teraflops(self, dtype: str, convolutions: bool = False) -> float:
        """Dense peak, TFLOP/s, of a number format such as `bfloat16`.

        32-bit convolutions run as TF32, at half the speed of bfloat16.
        """
        half = peak_teraflops(self.product)
        if half is None:
            raise ValueError(f"{self.product} has no peak in training.throughput")
        if dtype != "float32":
            return half
        return half / 2 if convolutions else self.float32


# Source: NVIDIA's data sheets of each product (SXM versions of data-centre GPUs).
DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "a100": Device("A100", 80, 19.5),
        "h100": Device("H100", 80, 66.9, flash=True),
        "h200": Device("H200", 141, 66.9, flash=True),
        "l40s": Device("L40S", 48, 91.6),
        "4090": Device("RTX 4090", 24, 82.6),
        "5090": Device("RTX 5090", 32, 104.8),
    }
)


def find_device(name: str) -> Device:
    """The device of that name.

    Raises:
        ValueError: Unknown; lists those known.
    """
    if name.lower() not in DEVICES:
        raise ValueError(f"device {name!r} is not known; known: {', '.join((THIS, *DEVICES))}")
    return DEVICES[name.lower()]
