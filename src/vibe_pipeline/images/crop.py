"""Sizes for training images: aspect-ratio buckets within a pixel budget, and the cut to one of them.

The filter is torch's bicubic with antialias, whose kernel widens with the reduction and so passes nothing
that the smaller image cannot hold. Rather than Pillow's Lanczos: it works on floats, so that 16-bit images
keep their depth, and its negative lobes are smaller, so that edges ring less; a model that is to restore
detail should not learn ringing. As everywhere in the field, values are filtered as stored (gamma-encoded).
"""

import math

import numpy as np
from numpy.typing import NDArray


def aspect_buckets(height: int, width: int, multiple: int, max_aspect: float = 2.0) -> list[tuple[int, int]]:
    """Sizes of about equal cost: all within the pixel budget height x width, none longer than `max_aspect`.

    Only sizes that no other one contains are kept, so each fills the budget as far as `multiple` lets it.

    Args:
        height: Of the stage, in pixels.
        width: Of the stage, in pixels.
        multiple: What both sides are divisible by: the VAE's reduction times the patch.
        max_aspect: Longest long side over short side.

    Returns:
        (height, width) in pixels, lowest first; the stage's own size is among them.

    Raises:
        ValueError: A size that is not positive, not divisible, or beyond `max_aspect`.
    """
    if min(height, width, multiple) < 1 or height % multiple or width % multiple:
        raise ValueError(f"size {height}x{width} (height x width): both sides must be multiples of {multiple}")
    if max(height, width) > max_aspect * min(height, width):
        raise ValueError(f"size {height}x{width} (height x width): its aspect is beyond {max_aspect:g}:1")
    budget = height * width
    buckets: dict[int, int] = {}  # width -> height: of equal widths the highest stays
    for h in range(multiple, math.isqrt(int(max_aspect * budget)) + 1, multiple):
        w = min(budget // h, int(max_aspect * h)) // multiple * multiple
        if w and max_aspect * w >= h:
            buckets[w] = h
    # Where the aspect, not the budget, bounds the width, a size may lie inside of another.
    sizes = [(h, w) for w, h in buckets.items() if not any(v > w and g >= h for v, g in buckets.items())]
    return sorted(sizes)


def nearest_bucket(height: int, width: int, buckets: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect is nearest, as a ratio; of equals the first.

    An image that covers the size the buckets were made for covers its nearest bucket too, so that none which
    passed the check has to be enlarged.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        buckets: (height, width) in pixels, from `aspect_buckets`.

    Raises:
        ValueError: No buckets, or a side that is not positive.
    """
    if not buckets or min(height, width) < 1:
        raise ValueError(f"no nearest bucket for an image of {height}x{width} among {len(buckets)} buckets")
    return min(buckets, key=lambda bucket: abs(math.log(bucket[1] / bucket[0] * height / width)))


def resize_and_crop(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Reduce an image until it just covers height x width, aspect kept, and cut out the centre.

    Args:
        image: [H, W, 3] in [0, 1].
        height: Wanted, in pixels.
        width: Wanted, in pixels.

    Returns:
        [height, width, 3] in [0, 1]; bicubic overshoot is clipped.

    Raises:
        ValueError: Not such an array, a size that is not positive, or an image that would have to be enlarged.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.float32:
        raise ValueError(f"an image is float32 [H, W, 3], not {image.dtype} {list(image.shape)}")
    have_height, have_width = image.shape[:2]
    if min(height, width) < 1:
        raise ValueError(f"cannot cut to {height}x{width} (height x width): sides are at least 1")
    if have_height < height or have_width < width:
        raise ValueError(
            f"image of {have_height}x{have_width} (height x width) is too small for {height}x{width}: images are "
            "never enlarged; leave it out or lower the size"
        )
    scale = max(height / have_height, width / have_width)
    cover = max(height, round(have_height * scale)), max(width, round(have_width * scale))
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    if cover != (have_height, have_width):
        import torch  # here, since finding and counting images, as plan and doctor do, cuts none
        from torch.nn import functional

        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        pixels = functional.interpolate(pixels, size=cover, mode="bicubic", antialias=True, align_corners=False)
        image = pixels[0].permute(1, 2, 0).clamp(0, 1).numpy()
    return np.ascontiguousarray(image[top : top + height, left : left + width])
