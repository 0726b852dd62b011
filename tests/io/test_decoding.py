"""Files of other programs: each stored frame once, as players turn it, and what is not seen is said."""

import itertools
import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from vibe_pipeline.io.decoding import ClipInfo, decoded, probe

SOURCE = "testsrc2=size=96x64:rate=8:duration=1.125"
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
H265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params")
UNEVEN = "setpts='if(lt(N,4),N,2*N-4)/8/TB'"
INFO = ClipInfo(64, 96, 9, 8.0)


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def made(path: Path, *output: str, source: str = SOURCE) -> Path:
    ffmpeg("-f", "lavfi", "-i", source, *output, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("plain") / "plain.mp4", *H264, "-bf", "2")


@pytest.fixture(scope="module")
def frames(plain: Path) -> np.ndarray:
    return np.stack(list(decoded(plain)))


def test_a_plain_clip(plain: Path, frames: np.ndarray) -> None:
    assert probe(plain) == INFO
    assert frames.shape == (9, 64, 96, 3) and frames.dtype == np.uint8
    assert all(np.abs(a.astype(int) - b).max() > 20 for a, b in itertools.pairwise(frames))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_clip_of_uneven_times_is_read_frame_for_frame(tmp_path: Path, plain: Path, frames, suffix: str) -> None:
    path = tmp_path / f"uneven.{suffix}"
    ffmpeg("-i", plain, "-vf", UNEVEN, "-fps_mode", "vfr", "-c:v", "libx264rgb", "-qp", 0, path)
    read = np.stack(list(decoded(path)))
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).max() <= 3
    info = probe(path)
    assert (info.frames, info.fps) == (9, pytest.approx(8 / 1.625, rel=0.11))
    assert info.notes == ("times are uneven: frames are 125 to 250 ms apart; measured frame for frame",)


@pytest.mark.parametrize(("suffix", "rate"), [("mkv", "24"), ("mkv", "60"), ("mp4", "30000/1001"), ("avi", "25")])
def test_a_coarse_clock_is_not_uneven(tmp_path: Path, suffix: str, rate: str) -> None:
    path = made(tmp_path / f"a.{suffix}", *H264, source=f"testsrc2=size=96x64:rate={rate}:duration=1")
    info = probe(path)
    assert info.notes == ()
    assert info.fps == pytest.approx(float(Fraction(rate)), rel=1e-3)


@pytest.mark.parametrize(("angle", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_clip_is_measured_as_it_is_shown(tmp_path: Path, plain: Path, frames, angle: int, turns: int) -> None:
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", angle, "-i", plain, "-c", "copy", path)
    read, info = np.stack(list(decoded(path))), probe(path)
    assert (info.frames, info.height, info.width) == read.shape[:3]
    assert np.abs(read.astype(int) - np.rot90(frames, turns, (1, 2))).mean() < 1
    assert len(info.notes) == 1 and "turned by" in info.notes[0]


@pytest.mark.parametrize(
    ("suffix", "options", "said"),
    [
        ("mov", (*H264,), ""),
        ("webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p"), ""),
        ("mkv", (*H264,), ""),
        ("avi", ("-c:v", "mpeg4"), ""),
        ("mp4", (*H264, "-vf", "setsar=4/3"), "pixels are not square (4:3)"),
        ("mp4", (*H265, "log-level=error"), "more than 8 bits"),
        (
            "mp4",
            (*H265, "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"),
            "HDR, read without tone mapping",
        ),
        ("mov", ("-c:v", "qtrle", "-pix_fmt", "argb"), "transparency is left out"),
        ("mp4", (*H264, "-flags", "+ilme+ildct", "-x264opts", "tff=1"), "interlaced"),
    ],
)
def test_other_kinds_of_file(tmp_path: Path, suffix: str, options: tuple[str, ...], said: str) -> None:
    path = made(tmp_path / f"clip.{suffix}", *options)
    info = probe(path)
    assert (info.height, info.width, info.frames, info.fps) == (64, 96, 9, 8.0)
    assert len(list(decoded(path))) == 9
    assert said in "; ".join(info.notes) and bool(said) == bool(info.notes)


def test_odd_sizes_sound_and_odd_names(tmp_path: Path) -> None:
    odd = made(tmp_path / "a%d [x]:y.mp4", "-c:v", "libx264rgb", source="testsrc=size=97x63:rate=8:duration=0.125")
    assert probe(odd) == ClipInfo(63, 97, 1, 8.0)
    sound = tmp_path / "sound.mp4"
    ffmpeg("-f", "lavfi", "-i", SOURCE, "-f", "lavfi", "-i", "sine=d=3", *H264, sound)
    assert probe(sound) == INFO


def test_an_edit_list_hides_what_players_skip(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "cut.mp4"
    ffmpeg("-ss", 0.5, "-i", plain, "-c", "copy", path)
    assert probe(path).frames == len(list(decoded(path))) == 5
    assert probe(path).notes == ()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cut_file_is_an_error_and_not_a_shorter_clip(tmp_path: Path, suffix: str) -> None:
    whole = made(tmp_path / f"whole.{suffix}", *H264, "-g", "2", *(["-movflags", "+faststart"] * (suffix == "mp4")))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    for read in (lambda: list(decoded(path)), lambda: probe(path)):
        with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read as a video: .*cut short.* [1-8] frames"):
            read()


def test_damage_within_is_an_error(tmp_path: Path) -> None:
    content = bytearray(made(tmp_path / "whole.mp4", *H264, "-g", "3").read_bytes())
    middle = content.find(b"mdat") + (len(content) - content.find(b"mdat")) // 3
    content[middle : middle + 800] = bytes(b ^ 0xA5 for b in content[middle : middle + 800])
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.mp4 cannot be read as a video: .*damaged"):
        list(decoded(path))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("a.gif", ("-an",), "what can be read: mp4, mov, mkv, webm and avi"), ("a.m4a", ("-vn",), "no video stream")],
)
def test_what_is_not_a_video_is_said(tmp_path: Path, name: str, options: tuple[str, ...], words: str) -> None:
    path = tmp_path / name
    ffmpeg("-f", "lavfi", "-i", SOURCE, "-f", "lavfi", "-i", "sine=d=1", *options, path)
    if name.endswith("m4a"):
        path = path.rename(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=words):
        probe(path)
    with pytest.raises(ValueError, match="there is no such file"):
        probe(tmp_path / "gone.mp4")


def test_leaving_early_ends_the_decoder(plain: Path, frames: np.ndarray) -> None:
    reading = decoded(plain)
    assert np.array_equal(next(reading), frames[0])
    reading.close()
    assert not list(reading)
