"""Buckets stay in their budget; the cut keeps aspect and centre, filters, and never enlarges."""

import numpy as np
import pytest

from vibe_pipeline.images import aspect_buckets, nearest_bucket, resize_and_crop

STAGES = [(1536, 2752, 32), (704, 1280, 32), (256, 256, 16), (64, 64, 16), (32, 64, 32), (2752, 1536, 32), (30, 31, 1)]


@pytest.mark.parametrize(("height", "width", "multiple"), STAGES)
def test_buckets(height: int, width: int, multiple: int) -> None:
    buckets = aspect_buckets(height, width, multiple)
    assert (height, width) in buckets and buckets == sorted(set(buckets))
    for h, w in buckets:
        assert h % multiple == w % multiple == 0
        assert h * w <= height * width < (h + multiple) * (w + multiple) or max(h, w) == 2 * min(h, w)
        assert 0.5 <= w / h <= 2


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((100, 128, 32), r"size 100x128 \(height x width\): both sides must be multiples of 32"),
        ((0, 128, 32), "size 0x128"),
        ((64, 160, 32), "size 64x160 .* beyond 2:1"),
    ],
)
def test_bad_stage_size(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aspect_buckets(*size)


@pytest.mark.parametrize(("height", "width", "multiple"), STAGES)
def test_an_image_that_covers_the_stage_covers_its_bucket(height: int, width: int, multiple: int) -> None:
    buckets = aspect_buckets(height, width, multiple)
    assert nearest_bucket(height, width, buckets) == (height, width)
    rng = np.random.default_rng(0)
    for stretch in 1 + rng.exponential(0.3, (500, 2)):
        image = int(height * stretch[0]), int(width * stretch[1])
        bucket = nearest_bucket(*image, buckets)
        assert bucket[0] <= image[0] and bucket[1] <= image[1]


def test_nearest_is_by_ratio() -> None:
    buckets = [(32, 64), (48, 48), (64, 32)]
    assert [nearest_bucket(*size, buckets) for size in [(100, 400), (100, 135), (300, 100)]] == buckets
    with pytest.raises(ValueError, match="5x5 among 0 buckets"):
        nearest_bucket(5, 5, [])


def test_same_size_is_untouched() -> None:
    image = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
    np.testing.assert_array_equal(resize_and_crop(image, 20, 30), image)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (20, 40), (39, 60), (40, 60), (1, 1), (17, 3)])
def test_cut_is_central_and_keeps_aspect(height: int, width: int) -> None:
    rows, columns = np.mgrid[0:80, 0:120].astype(np.float32)
    image = np.dstack([(rows + 0.5) / 80, (columns + 0.5) / 120, np.full((80, 120), 0.5)]).astype(np.float32)
    cut = resize_and_crop(image, height, width)
    assert cut.shape == (height, width, 3) and cut.dtype == np.float32 and cut.flags.c_contiguous
    scale = max(height / 80, width / 120)
    # The middle of the cut is the middle of the image, up to half a pixel of an odd remainder.
    assert abs(cut[..., 0].mean() - 0.5) * 80 * scale <= 0.51 and abs(cut[..., 1].mean() - 0.5) * 120 * scale <= 0.51
    if min(height, width) > 12:
        slope = np.diff(cut[6:-6, 6:-6, 1], axis=1).mean(), np.diff(cut[:, 1:-1, 0], axis=0)[5:-5].mean()
        np.testing.assert_allclose(slope, (1 / 120 / scale, 1 / 80 / scale), rtol=0.03)


def test_low_pass_leaves_no_alias() -> None:
    """Stripes finer than the small image can hold become flat grey, not coarse stripes."""
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * 0.4 * np.arange(256))  # 0.4 cycles a pixel; the limit after 4x is 0.125
    image = np.tile(stripes.astype(np.float32)[None, :, None], (64, 1, 3))
    cut = resize_and_crop(image, 16, 64)
    assert cut[:, 4:-4].std() < 0.01 < image[::4, ::4].std()


def test_overshoot_is_clipped() -> None:
    image = np.zeros((64, 64, 3), np.float32)
    image[:, 31:] = 1
    cut = resize_and_crop(image, 24, 24)
    assert cut.min() == 0 and cut.max() == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "message"),
    [
        ((20, 30, 3), np.float32, (21, 30), r"image of 20x30 \(height x width\) is too small for 21x30"),
        ((20, 30, 3), np.float32, (10, 31), "20x30 .* 10x31"),
        ((20, 30, 3), np.float32, (0, 10), "cannot cut to 0x10"),
        ((20, 30, 3), np.uint8, (10, 10), r"not uint8 \[20, 30, 3\]"),
        ((20, 30), np.float32, (10, 10), r"not float32 \[20, 30\]"),
    ],
)
def test_refusals_quote_the_sizes(shape: tuple, dtype: type, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize_and_crop(np.zeros(shape, dtype), *size)
