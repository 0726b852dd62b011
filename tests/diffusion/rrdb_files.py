"""Stand-ins for Real-ESRGAN's files: random weights under the names and in the layout of the real ones."""

from pathlib import Path

import torch
from torch import Tensor


def real_esrgan_state(features: int = 8, blocks: int = 1, unshuffle: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of basicsr's RRDBNet, by its names, growing by 32 channels as published; x2plus has `unshuffle` 2."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, d_in: int, d_out: int) -> None:
        state[f"{name}.weight"] = torch.randn(d_out, d_in, 3, 3, generator=generator) * 0.6 / (9 * d_in) ** 0.5
        state[f"{name}.bias"] = torch.randn(d_out, generator=generator) * 0.1

    conv("conv_first", 3 * unshuffle**2, features)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for i in range(1, 6):
                conv(f"body.{block}.rdb{dense}.conv{i}", features + 32 * (i - 1), 32 if i < 5 else features)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, features, features)
    conv("conv_last", features, 3)
    state["conv_last.bias"] += 0.5  # within [0, 1], where nothing is cut off
    return state


def real_esrgan_file(folder: Path, **sizes: int) -> Path:
    """A .pth as the release's: a pickle of tensors under `params_ema`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "RealESRGAN_x4plus.pth"
    torch.save({"params_ema": real_esrgan_state(**sizes)}, path)
    return path
