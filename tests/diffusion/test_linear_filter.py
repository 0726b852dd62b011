"""The linear filter: what a linear camera hid is found again, at the size it was fitted for and at others."""

from pathlib import Path

import numpy as np
import pytest

from vibe_pipeline.diffusion.linear_filter import LinearFilter, fit_linear_filter
from vibe_pipeline.miniature.scene import sample_scenes
from vibe_pipeline.miniature.world import render


def test_the_filter_finds_a_linear_camera_again() -> None:
    """Where the target is a linear function of the native frame, nothing is left: the filter is not short of gains."""
    rng = np.random.default_rng(0)
    small = rng.random((40, 12, 12, 3)).astype(np.float32)
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    large = []
    for frame in small:
        padded = np.pad(np.kron(frame, np.ones((3, 3, 1))), ((1, 1), (1, 1), (0, 0)), mode="symmetric")
        large.append(sum(kernel[i, j] * padded[i : i + 36, j : j + 36] for i in range(3) for j in range(3)))
    fitted = fit_linear_filter(zip(small[:30], large[:30], strict=True))
    np.testing.assert_allclose(fitted(small[30:]), np.stack(large[30:]), atol=1e-5)
    with pytest.raises(ValueError, match=r"frames of \(12, 12\)"):
        fitted(large[0])
    with pytest.raises(ValueError, match="there are none"):
        fit_linear_filter([])


def frames(count: int, height: int, width: int) -> np.ndarray:
    """The middle of a clip of as many scenes, [n, height, width, 3]."""
    scenes = sample_scenes(np.random.default_rng(3), count, held_out=False)
    return np.stack([render(scene, height, width, 1)[0] for scene in scenes])


def patches(pictures: np.ndarray, side: int) -> np.ndarray:
    n, height, width, _ = pictures.shape
    cut = pictures.reshape(n, height // side, side, width // side, side, 3)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, 3)


def test_a_filter_of_small_patches_serves_whole_frames() -> None:
    """Fitted on the frames' quarters, it comes as near to the truth as fitted on the frames."""
    small, large = frames(80, 48, 48), frames(80, 144, 144)
    own = fit_linear_filter([(small[:60], large[:60])])
    pairs = [(patches(small[:60], 24), patches(large[:60], 72))]
    patch = fit_linear_filter(pairs).at((48, 48), (144, 144))
    errors = [np.square(fitted(small[60:]) - large[60:]).mean() for fitted in (own, patch)]
    plain = np.square(np.kron(small[60:], np.ones((1, 3, 3, 1))) - large[60:]).mean()
    assert errors[1] < 1.05 * errors[0] < 0.6 * plain


def test_no_interpolated_gain_is_taken_from_where_there_is_none() -> None:
    """At the native Nyquist frequency a mirrored frame has nothing; gains of one stay one at every other size."""
    rng = np.random.default_rng(0)
    small = rng.random((30, 11, 8, 3))
    fitted = fit_linear_filter([(small, rng.random((30, 34, 24, 3)))])
    assert np.abs(fitted.gains[11]).max() == np.abs(fitted.gains[:, 8]).max() == 0
    ones = LinearFilter(np.where(fitted.gains == 0, 0.0, 1.0), (11, 8)).at((22, 32), (68, 96))
    np.testing.assert_allclose(ones.gains, 1.0)


def test_another_enlargement_is_refused() -> None:
    fitted = LinearFilter(np.ones((34, 48)), (11, 16))
    assert fitted.at((11, 16), (34, 48)) is fitted
    assert fitted.at((704, 1280), (2176, 3840)).gains.shape == (2176, 3840)
    with pytest.raises(ValueError, match=r"fitted from \(11, 16\) to \(34, 48\), .* cannot enlarge \(704, 1280\) to"):
        fitted.at((704, 1280), (1408, 2560))


def test_a_file_gives_the_filter_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    fitted = LinearFilter(np.random.default_rng(0).random((12, 9)).astype(np.float32), (4, 3))
    fitted.save(tmp_path / "a.safetensors")
    back = LinearFilter.read(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(back.gains, fitted.gains)
    assert back.native == (4, 3)
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"a\.safetensors does not hold a linear filter .*delete it and run again"):
        LinearFilter.read(tmp_path / "a.safetensors")
