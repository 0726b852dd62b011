"""One's own clips through a row: cut, refined in pieces, put together; sizes of other programs' clips."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.diffusion.rrdb_files import real_esrgan_file
from vibe_pipeline.diffusion.super_resolution import load_network, upscale
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.methods import ArmJob
from vibe_pipeline.generation.pieces import Piece, cut, joined
from vibe_pipeline.generation.single import clips_in, refine_clip
from vibe_pipeline.images.resize import enlarge, shrink
from vibe_pipeline.io.video import read_clip, write_lossless, write_playable

GENERATION = GenerationParams(prompts="miniature")
REFINE = ArmParams(label="r", steps=1, guidance_scale=1.0, strength=0.4)
UPSAMPLE = ArmParams(label="u", method="upsample")


def a_clip(path: Path, frames: int, height: int = 32, width: int = 48, fps: float = 8) -> Path:
    """A clip whose frames all differ."""
    rng = np.random.default_rng(frames)
    return write_lossless(path, rng.integers(0, 256, (frames, height, width, 3), np.uint8), fps)


def job_of(tiny, root: Path, arm: ArmParams = REFINE) -> ArmJob:
    return ArmJob(name="r", arm=arm, native=pd.DataFrame(), model=tiny.model(), generation=GENERATION, root=root)


@pytest.mark.parametrize("frames", [5, 6, 9, 17, 18, 23, 40, 121, 122, 300])
@pytest.mark.parametrize("longest", [1, 5, 9, 17, 121])
def test_pieces_cover_the_clip_and_only_neighbours_overlap(frames: int, longest: int) -> None:
    pieces = cut(frames, longest)
    assert pieces[0].start == 0 and pieces[-1].stop == frames
    fade = min(8, longest // 4)
    for before, after in pairwise(pieces):
        assert after.stop - after.start == after.frames == longest and before.start < after.start
        assert before.stop - after.start >= fade
        assert after.start + fade <= before.stop
    for before, after in zip(pieces, pieces[2:], strict=False):
        assert before.start + 2 * fade <= after.start  # a fade is over before the next begins


def test_a_short_clip_is_one_piece_of_whole_latent_frames() -> None:
    assert [Piece(0, n).frames for n in (1, 2, 5, 6, 8, 9)] == [1, 5, 5, 9, 9, 9]


def test_pieces_that_agree_give_the_clip_back_and_others_fade(tmp_path: Path) -> None:
    clip = read_clip(a_clip(tmp_path / "all.mp4", 23))
    pieces = cut(23, 9)
    paths = [write_lossless(tmp_path / f"{piece.start}.mp4", clip[piece.start : piece.stop], 8) for piece in pieces]
    again = np.stack(list(joined(pieces, paths)))
    assert np.array_equal(again, np.rint(clip * 255).astype(np.uint8))
    dark, light = np.zeros((9, 8, 8, 3), np.uint8), np.full((9, 8, 8, 3), 240, np.uint8)
    paths = [write_lossless(tmp_path / "dark.mp4", dark, 8), write_lossless(tmp_path / "light.mp4", light, 8)]
    values = [frame[0, 0, 0] for frame in joined([Piece(0, 9), Piece(7, 16)], paths)]
    assert values == [0] * 7 + [80, 160] + [240] * 7


def test_refining_equals_the_arms_own_second_pass_and_is_not_done_twice(tiny, tmp_path: Path, monkeypatch) -> None:
    model = tiny.model()
    source = a_clip(tmp_path / "own.mp4", 5, model.native.height, model.native.width)
    frames = np.stack(list(refine_clip(source, "a cat", job_of(tiny, tmp_path / "work"), 3).frames()))
    assert frames.shape == (5, model.target.height, model.target.width, 3)
    plain = np.stack(list(refine_clip(source, "a cat", job_of(tiny, tmp_path / "work", UPSAMPLE), 3).frames()))
    native = torch.from_numpy(read_clip(source)).permute(3, 0, 1, 2)[None]
    expected = enlarge(native, model.target.height, model.target.width)[0].permute(1, 2, 3, 0).numpy()
    assert np.abs(plain - np.rint(expected * 255)).max() <= 1
    assert np.abs(frames.astype(int) - plain).mean() > 5
    monkeypatch.setattr("vibe_pipeline.generation.experts.load_transformer", lambda *_: pytest.fail("made twice"))
    again = np.stack(list(refine_clip(source, "a cat", job_of(tiny, tmp_path / "work"), 3).frames()))
    assert np.array_equal(frames, again)


def test_a_network_enlarges_ones_own_clip_frame_by_frame(wan21, tmp_path: Path) -> None:
    """So that where it was cut into pieces cannot be seen; each frame is the network's, resized."""
    weights = real_esrgan_file(tmp_path)
    arm = ArmParams(label="sr", method="sr", sr={"weights": weights})
    source = a_clip(tmp_path / "own.mp4", 13)
    made = refine_clip(source, "", job_of(wan21, tmp_path / "work", arm))
    frames = np.stack(list(made.frames()))
    assert frames.shape == (13, *made.size, 3) and len(made.pieces) > 1
    native = torch.from_numpy(read_clip(source)).permute(0, 3, 1, 2)
    large = torch.cat([upscale(load_network(weights), 4, frame[None]) for frame in native])
    expected = shrink(large[:, :, None], *made.size)[:, :, 0].permute(0, 2, 3, 1).numpy()
    assert np.abs(frames - np.rint(expected * 255)).max() <= 1


def test_a_long_clip_of_odd_size_and_length_keeps_both(wan21, tmp_path: Path) -> None:
    source = write_playable(tmp_path / "odd.mp4", list(np.full((13, 38, 70, 3), 90, np.uint8)), 12.5)
    frames = list(refine_clip(source, "", job_of(wan21, tmp_path / "work", UPSAMPLE), 0).frames())
    assert len(frames) == 13 and {f.shape for f in frames} == {(64, 128, 3)}  # twice, down to multiples of 16
    assert all(np.abs(f.astype(int) - 90).max() <= 2 for f in frames)


def test_a_clip_is_cut_to_the_proportions_of_the_new_size(wan21, tmp_path: Path) -> None:
    clip = np.zeros((1, 32, 48, 3), np.uint8)
    clip[:, :, 8:40] = 200  # the middle square
    source = write_lossless(tmp_path / "wide.mp4", clip, 8)
    (frame,) = refine_clip(source, "", job_of(wan21, tmp_path / "work", UPSAMPLE), to=(64, 64)).frames()
    assert frame.shape == (64, 64, 3) and (frame >= 199).all()


def test_sizes_that_cannot_be_made_are_refused(wan21, tmp_path: Path) -> None:
    source, job = a_clip(tmp_path / "own.mp4", 5), job_of(wan21, tmp_path / "work")
    with pytest.raises(
        ValueError, match=r"the new size 60x96 must be a multiple of 16x16; nearest that are: 48x96 or 64"
    ):
        refine_clip(source, "", job, to=(60, 96))
    with pytest.raises(ValueError, match=r"the new size 16x32 .* is smaller than the clip's 32x48"):
        refine_clip(source, "", job, to=(16, 32))


def test_folders_are_listed_by_name_and_only_their_clips(tmp_path: Path) -> None:
    for name in ("b.MOV", "a.webm", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.json").write_text("[1")  # another program's
    assert [p.name for p in clips_in(tmp_path)] == ["a.webm", "b.MOV"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no clip; known suffixes"):
        clips_in(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist; give a clip or a folder"):
        clips_in(tmp_path / "none.mp4")
