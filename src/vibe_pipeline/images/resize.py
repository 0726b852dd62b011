"""Making a picture smaller as a native camera would, and larger as inference does.

One pair of functions serves stage 1's low-resolution images, our pixel degradation and the second pass of
inference, so that training sees exactly what inference feeds the model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _frames(pixels: Tensor) -> Tensor:
    return pixels.transpose(1, 2).flatten(0, 1)


def _clips(frames: Tensor, like: Tensor) -> Tensor:
    b, c, t = like.shape[:3]
    return frames.view(b, t, c, *frames.shape[-2:]).transpose(1, 2)


def enlarge(pixels: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize of [B, 3, T, H, W] in [0, 1], frame by frame, clamped in place: a 4K clip is 12 GB."""
    frames = F.interpolate(_frames(pixels), size=(height, width), mode="bicubic", align_corners=False)
    return _clips(frames.clamp_(0, 1), pixels)


def there_and_back(pixels: Tensor, factor: float) -> Tensor:
    """[B, 3, T, H, W] shrunk by a factor and enlarged back, antialiased bilinear both ways, as FlashVideo degrades."""
    height, width = pixels.shape[-2:]
    small = max(1, round(height / factor)), max(1, round(width / factor))
    frames = F.interpolate(_frames(pixels), size=small, mode="bilinear", align_corners=False, antialias=True)
    frames = F.interpolate(frames, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return _clips(frames, pixels)


def sharpen(pixels: Tensor, sigma: float, amount: float) -> Tensor:
    """Unsharp mask of [B, 3, T, H, W] in [0, 1], IN PLACE and frame by frame: a 4K clip does not fit twice.

    Args:
        pixels: Changed, and returned.
        sigma: Of the Gaussian, in pixels.
        amount: How much of what the Gaussian takes away is added once more.
    """
    for frame in pixels.unbind(2):
        frame.add_(frame - _gaussian(frame, sigma), alpha=amount).clamp_(0, 1)
    return pixels


def shrink(pixels: Tensor, height: int, width: int, blur: float = 0.0) -> Tensor:
    """Low-pass and shrink [B, 3, T, H, W] in [0, 1], frame by frame.

    Args:
        pixels: The large picture.
        height: Of the small one.
        width: Of the small one.
        blur: Sigma of a Gaussian, in pixels of the SMALL picture, before the antialiased bicubic: how much
            softer the base's own clips are than a shrunk photograph.
    """
    frames = _frames(pixels)
    if blur > 0:
        frames = _gaussian(frames, blur * pixels.shape[-2] / height)
    small = F.interpolate(frames, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    return _clips(small.clamp(0, 1), pixels)


def _gaussian(frames: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=frames.dtype)
    kernel = torch.exp(-0.5 * (x / sigma).square())
    kernel = (kernel / kernel.sum()).expand(frames.shape[1], 1, -1)
    padded = F.pad(frames, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[..., None, :], groups=frames.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=frames.shape[1])
