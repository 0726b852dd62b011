"""RRDBNet, the network of ESRGAN and Real-ESRGAN: its sizes and what a picture costs. No torch, since a plan asks.

Source: xinntao/BasicSR basicsr/archs/rrdbnet_arch.py.
"""

from dataclasses import dataclass

GROWTH = 32  # channels that each convolution of a dense block adds, in every published file
DENSE = 3  # dense blocks in a residual-in-residual block


@dataclass(frozen=True)
class RrdbShape:
    """Sizes of an RRDBNet.

    Attributes:
        features: Channels of its trunk.
        blocks: Residual-in-residual dense blocks.
        scale: By how much it enlarges what its trunk sees, a power of 2.
        unshuffle: By how much pixels are first folded into channels (2 in x2plus): the whole enlarges by
            scale / unshuffle.
    """

    features: int = 64
    blocks: int = 23
    scale: int = 4
    unshuffle: int = 1

    @property
    def factor(self) -> int:
        """By how much a picture is enlarged."""
        return self.scale // self.unshuffle

    def flops(self, height: int, width: int) -> float:
        """Operations for a picture of that size: nine multiplications and additions a pair of channels and pixel."""
        n, g = self.features, GROWTH
        dense = g * (4 * n + 6 * g) + n * (n + 4 * g)
        stages = self.scale.bit_length() - 1
        low = 3 * self.unshuffle**2 * n + DENSE * self.blocks * dense + n * n
        high = n * n * sum(4**stage for stage in range(1, stages + 1)) + (n * n + 3 * n) * self.scale**2
        pixels = -(-height // self.unshuffle) * -(-width // self.unshuffle)
        return 18.0 * pixels * (low + high)
