"""Where a clip stands still, on clips of which it is known."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from scipy import ndimage

from vibe_pipeline.evaluation.metrics.static import LEAST_SHARE, StaticMask, find_static
from vibe_pipeline.io.video import read_frames, write_lossless

HEIGHT, WIDTH = 144, 256


def texture(seed: int = 0, width: int = WIDTH, grain: float = 4.0) -> np.ndarray:
    """A smooth random picture [H, width, 3], of contrast like a photograph's."""
    picture = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((HEIGHT, width)), grain)
    picture = 0.5 + 0.15 * picture / picture.std()
    return np.repeat(picture.clip(0.05, 0.95)[..., None], 3, -1)


def still(frames: int = 25) -> np.ndarray:
    return np.repeat(texture()[None], frames, 0)


def part_still(frames: int = 25, share: float = 0.11) -> np.ndarray:
    """Water, say: everything below the first `share` of the rows changes all the time."""
    clip = still(frames)
    wide = texture(3, WIDTH + 4 * frames)
    top = round(share * HEIGHT)
    for t in range(frames):
        clip[t, top:] = wide[top:, 4 * t : 4 * t + WIDTH]
    return clip


def pan(frames: int = 25, speed: int = 3) -> np.ndarray:
    wide = texture(1, WIDTH + speed * frames)
    return np.stack([wide[:, speed * t : speed * t + WIDTH] for t in range(frames)])


def passing(frames: int = 25) -> np.ndarray:
    """An object of a fifth of the height over a still ground."""
    clip = still(frames)
    for t in range(frames):
        left = round(200 * t / (frames - 1))
        clip[t, 60:90, left : left + 30] = 0.9 * texture(9)[:30, :30]
    return clip


def cut(frames: int = 25) -> np.ndarray:
    clip = still(frames)
    clip[frames // 2 :] = texture(5)
    return clip


def with_noise(clip: np.ndarray, sigma: float, size: float = 0.0) -> np.ndarray:
    """Film grain: `size` is the sigma of its blur in pixels."""
    grain = np.random.default_rng(2).standard_normal(clip.shape[:3])
    if size:
        grain = ndimage.gaussian_filter(grain, (0, size, size))
        grain /= grain.std()
    return np.rint((clip + sigma * grain[..., None]).clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("frames", [5, 25, 121])
@pytest.mark.parametrize(("sigma", "size"), [(0.0, 0.0), (0.01, 0.0), (0.04, 0.0), (0.012, 1.0)])
def test_all_still_whatever_its_grain(frames: int, sigma: float, size: float) -> None:
    found = find_static(with_noise(still(frames), sigma, size))
    assert found.share > 0.9 and not found.problem


@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_a_still_ninth_is_found_and_nothing_else(sigma: float) -> None:
    found = find_static(with_noise(part_still(), sigma))
    assert found.mask[:9].mean() > 0.95
    assert found.mask[16:].mean() < 0.01
    assert 0.06 < found.share < 0.12 and not found.problem


@pytest.mark.parametrize("speed", [1, 3, 9])
@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_a_pan_has_nothing_static(speed: int, sigma: float) -> None:
    found = find_static(with_noise(pan(speed=speed), sigma))
    assert found.share < LEAST_SHARE
    assert found.problem.startswith("nothing is static")


@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_an_objects_path_is_left_out(sigma: float) -> None:
    found = find_static(with_noise(passing(), sigma))
    assert found.mask[60:90, :220].mean() < 0.02
    assert found.mask[:55].mean() > 0.95 and found.mask[95:].mean() > 0.95


def test_an_object_seen_in_one_frame_of_many_is_left_out() -> None:
    clip = still(121)
    clip[60, 40:80, 100:140] += 0.1
    found = find_static(with_noise(clip, 0.01))
    assert found.mask[42:78, 102:138].mean() < 0.02 and found.share > 0.85


def test_a_cut_and_a_switched_light_leave_nothing() -> None:
    assert find_static(with_noise(cut(), 0.01)).problem
    light = still()
    light[12:] *= 0.8
    assert find_static(with_noise(light, 0.01)).problem


def test_a_small_drift_of_brightness_stays_static() -> None:
    drift = still() + np.linspace(0, 0.01, 25)[:, None, None, None]
    drift[0] += 0.004  # a video VAE's own first frame
    assert find_static(with_noise(drift, 0.005)).share > 0.9


@pytest.mark.parametrize("crf", [18, 30])
def test_compression_is_not_motion(tmp_path, crf: int) -> None:
    source = write_lossless(tmp_path / "a.mp4", with_noise(passing(49), 0.01).astype(np.float32) / 255, 24)
    small = tmp_path / "b.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", source, "-c:v", "libx264", "-crf", str(crf)]
    subprocess.run([*command, "-pix_fmt", "yuv420p", small], check=True)
    found = find_static(read_frames(small))
    assert found.mask[:50].mean() > 0.9 and found.mask[60:90, :220].mean() < 0.02


def test_one_frame_tells_nothing() -> None:
    found = find_static(still(1))
    assert found.problem == "the native clip has one frame, so what stands still is unknown"
    with pytest.raises(ValueError, match="without frames"):
        find_static(iter(()))


def test_the_mask_is_the_same_picture_at_every_size() -> None:
    mask = np.zeros((4, 6), bool)
    mask[:2, 3:] = True
    found = StaticMask(mask)
    assert found.sized(4, 6).tolist() == mask.tolist()
    large = found.sized(10, 18)
    assert large.dtype == np.float32
    assert large[:5, 9:].all() and not large[5:].any() and not large[:, :9].any()
    assert found.sized(2, 2).tolist() == [[0, 1], [0, 0]]


def test_a_kept_mask_comes_back(tmp_path) -> None:
    found = StaticMask(np.random.default_rng(0).random((7, 5)) < 0.5, "because")
    found.save(tmp_path / "new" / "a.npz")
    again = StaticMask.load(tmp_path / "new" / "a.npz")
    assert np.array_equal(again.mask, found.mask) and again.problem == "because"
    (tmp_path / "new" / "a.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"a\.npz is not a kept mask"):
        StaticMask.load(tmp_path / "new" / "a.npz")
