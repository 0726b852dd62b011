"""What kernels reach on a card, TFLOP/s of the operations that they compute: as measured, or assumed from that.

The one table that the plan's times come from. The H100's figures are those of docs/benchmarks.md (section "One H100"),
divided into the operations that `diffusion.flops` counts for the same input; `benchmarks/gpu.py` measures them again.
Cards without figures of their own are assumed to reach the same share of their peak.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

from vibe_pipeline.planning.devices import Device, find_device

MEASURED_CARD = "h100"
ASSUMED_SHARE = 0.5
"""Of the peak, for what nobody measured on any card: 32-bit products."""


@dataclass(frozen=True)
class Rates:
    """TFLOP/s by kernel.

    Attributes:
        forward: All of a transformer but self-attention, 16 bit, run eagerly.
        forward_compiled: The same by torch.compile.
        step: The same in a training step, forward and backward.
        step_compiled: That by torch.compile.
        sdpa: Attention without a mask, forward, on long sequences.
        flex: flex_attention, by the blocks that it computes; with TMA, where the card has it.
        flash: FlashAttention-4, likewise.
        sdpa_step: Attention forward and backward, on the tokens of a training image.
        masked: SDPA with a mask, forward and backward, over all keys; also taken for a forward alone.
        flex_step: flex_attention likewise, by blocks.
        flash_step: FlashAttention-4 likewise.
        decode: The VAE's decoder in 32 bit, whose convolutions run as TF32.
        encode: Its encoder.
        decode_half: The decoder in 16 bit.
        encode_half: The encoder in 16 bit.
    """

    forward: float
    forward_compiled: float
    step: float
    step_compiled: float
    sdpa: float
    flex: float
    flash: float
    sdpa_step: float
    masked: float
    flex_step: float
    flash_step: float
    decode: float
    encode: float
    decode_half: float
    encode_half: float

    @classmethod
    def same(cls, rate: float) -> Self:
        """One rate for every kernel."""
        return cls(**dict.fromkeys((field.name for field in fields(cls)), rate))

    def of_a_step(self) -> Self:
        """Those of a training step, by the names that a forward's have."""
        return replace(
            self,
            forward=self.step,
            forward_compiled=self.step_compiled,
            sdpa=self.sdpa_step,
            flex=self.flex_step,
            flash=self.flash_step,
        )


H100 = Rates(
    forward=319,  # a block of 348 ms less attention of 249 ms: 31.6 TFLOP
    forward_compiled=400,  # assumed: in a step, compiling takes half of the time beside attention
    step=246,  # 428 ms less 30 layers of 3.9 ms
    step_compiled=497,  # 271 ms less the same
    sdpa=588,  # 146 TFLOP in 249 ms, the middle of 243 to 255
    flex=342,  # with TMA: 158 TFLOP in 462 ms (2176x3840, pool 4); 83 in 218 at 1408x2560
    flash=542,  # on an H200, whose sdpa is the H100's: 83 TFLOP in 153 ms
    sdpa_step=489,  # 0.73 TFLOP in 1.5 ms
    masked=223,  # 0.92 TFLOP in 4.1 ms
    flex_step=143,  # 0.56 TFLOP in 3.9 ms
    flash_step=246,  # 0.56 TFLOP in 2.28 ms on an H200, 1.79 of which are kernels
    decode=246,  # 3,647 TFLOP of 33 frames in 14.8 s; without TF32 34, in 105.8 s
    encode=139,  # 181 TFLOP of 9 frames in 1.3 s; without TF32 38, in 4.8 s
    decode_half=372,  # in 9.8 s
    encode_half=226,  # in 0.8 s
)
ASSUMED = frozenset({"forward_compiled"})
"""Those of the H100 that are not measured."""

COMPILE_SECONDS = 15.0
"""torch.compile of one shape in one grad mode: 9 to 15 s on the H100."""
READ_BYTES = 1.5e9
"""Bytes of weights a second from disk to the device; assumed."""
MOVE_BYTES = 6.0e9
"""Between main memory, as it is allocated, and the device, either way; assumed."""


def rates_of(device: Device) -> tuple[Rates, frozenset[str]]:
    """The rates of a device, and which of them are assumed."""
    measured = find_device(MEASURED_CARD)
    if device == measured:
        return H100, ASSUMED
    every = frozenset(field.name for field in fields(Rates))
    factor = device.teraflops("bfloat16") / measured.teraflops("bfloat16")
    return replace(H100, **{name: factor * getattr(H100, name) for name in every}), every


def said_of(device: Device, share: float | None) -> str:
    """What the times rest on, for people."""
    if share is not None:
        return f"every kernel at {share:.0%} of dense peak, assumed"
    assumed = rates_of(device)[1]
    if assumed != ASSUMED:
        return f"each kernel at the share of peak that it reaches on one {MEASURED_CARD}: assumed, not measured here"
    return f"each kernel at its measured rate (docs/benchmarks.md; assumed: {', '.join(sorted(assumed))})"
