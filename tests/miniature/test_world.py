"""The procedural world: captions, rendering at any size, held-out captions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.miniature.object_mask import object_mask
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images.resize import shrink
from vibe_pipeline.miniature import scene as scene_module
from vibe_pipeline.miniature import world
from vibe_pipeline.miniature.images import render_images
from vibe_pipeline.miniature.scene import (
    SHAPES,
    all_captions,
    is_held_out,
    parse_caption,
    sample_scene,
    sample_scenes,
    scene_of_prompt,
    vocabulary,
)
from vibe_pipeline.miniature.world import centre_path, render


def scenes(count: int, seed: int = 0) -> list[scene_module.Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, shape=SHAPES[i % len(SHAPES)]) for i in range(count)]


def test_captions_and_their_attributes_say_the_same() -> None:
    for scene in scenes(20):
        found = parse_caption(scene.caption)
        assert found == {k: getattr(scene, k) for k in found}
        assert sample_scene(np.random.default_rng(1), **found).caption == scene.caption
        assert set(scene.caption.split()) <= set(vocabulary())
    captions = all_captions()
    assert len(captions) == len(set(captions)) == 4032
    assert all(c == scene_module.TEMPLATE.format(**parse_caption(c)) for c in captions[::97])


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a cat", "2 words"),
        ("a striped red circle moving left over woven plaid", "'plaid' is not a background"),
        ("a striped red circle flying left over woven navy", "expected 'moving' where 'flying'"),
        ("a red striped circle moving left over woven navy", "'red' is not a pattern"),
    ],
)
def test_a_caption_of_another_world_is_refused(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_caption(caption)


def test_a_prompts_scene_repeats_with_its_seed() -> None:
    caption = scenes(1)[0].caption
    assert scene_of_prompt(caption, 1) == scene_of_prompt(caption, 1) != scene_of_prompt(caption, 2)
    assert scene_of_prompt(caption, 2).caption == caption


@pytest.mark.parametrize("index", range(4))
def test_two_sizes_are_the_same_picture(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The large render seen by the small render's camera, shrunk, is the small render."""
    scene = scenes(4)[index]
    small = render(scene, 64, 64, 3)
    monkeypatch.setattr(world, "CAMERA_SIGMA", 2 * world.CAMERA_SIGMA)
    large = torch.from_numpy(render(scene, 128, 128, 3)).permute(3, 0, 1, 2)[None]
    shrunk = shrink(large, 64, 64)[0].permute(1, 2, 3, 0).numpy()
    assert np.abs(shrunk - small)[:, 4:-4, 4:-4].max() < 0.04
    assert np.abs(shrunk - small).mean() < 0.004
    assert small.std() > 0.05


@pytest.mark.parametrize("index", range(4))
def test_nothing_aliases(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendered four times finer with the native camera, there is hardly any power beyond the native Nyquist."""
    scene = scenes(4, seed=1)[index]
    monkeypatch.setattr(world, "CAMERA_SIGMA", 4 * world.CAMERA_SIGMA)
    frame = render(scene, 256, 256, 1)[0].mean(-1)
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.abs(np.fft.fft2((frame - frame.mean()) * window)) ** 2
    cycles = np.abs(np.fft.fftfreq(256, 1 / 256))
    beyond = np.maximum(cycles[:, None], cycles[None]) > 32
    seen = power[beyond].sum() / power.sum()
    assert seen < 6e-4
    monkeypatch.setattr(world, "CAMERA_SIGMA", 0.3)
    sharp = render(scene, 256, 256, 1)[0].mean(-1)
    power = np.abs(np.fft.fft2((sharp - sharp.mean()) * window)) ** 2
    assert power[beyond].sum() / power.sum() > 50 * seen  # what a worse camera would let through


def test_a_wider_frame_shows_more_of_the_same() -> None:
    scene = scenes(1)[0]
    wide, square = render(scene, 64, 96, 3), render(scene, 64, 64, 3)
    np.testing.assert_allclose(wide[:, :, 16:-16], square, atol=1e-5)


def test_a_clip_spans_the_whole_motion_and_a_still_its_middle() -> None:
    for scene in scenes(8):
        for frames in (2, 5, 9):
            path = centre_path(scene, frames)
            np.testing.assert_allclose(
                path[-1] - path[0], scene.travel * np.array(scene_module.DIRECTIONS[scene.direction]), atol=1e-6
            )
        np.testing.assert_allclose(centre_path(scene, 1)[0], scene.centre, atol=1e-6)
        assert 0.06 < object_mask(scene, 64, 64, 1).mean() < 0.16


def test_stills_have_a_style_of_their_own() -> None:
    scene = scenes(1)[0]
    still, plain = render(scene, 64, 64, 1, world.STILL_STYLE), render(scene, 64, 64, 1)
    assert np.abs(still - plain).mean() > 0.02
    assert 0 <= still.min() <= still.max() <= 1
    assert still.dtype == plain.dtype == np.float32


def test_the_gap_of_style_is_as_wide_as_asked_for_and_its_images_are_others(tmp_path: Path) -> None:
    """None is the videos' look; twice is further from it than once; each has a folder of its own."""
    scene = scenes(1)[0]
    looks = [render(scene, 48, 48, 1, world.STILL_STYLE.times(strength)) for strength in (0.0, 1.0, 2.0)]
    np.testing.assert_array_equal(looks[0], render(scene, 48, 48, 1))
    np.testing.assert_array_equal(looks[1], render(scene, 48, 48, 1, world.STILL_STYLE))
    assert 1.5 * np.abs(looks[1] - looks[0]).mean() < np.abs(looks[2] - looks[0]).mean()
    size = {"height": 48, "width": 48}
    folders = []
    for strength in (0.0, 1.0, 2.0):
        folders.append(render_images(DataParams(path=tmp_path, count=2, low=size, high=size, still_style=strength)))
        picture = np.asarray(Image.open(folders[-1] / "00000.png")) / 255
        drawn = sample_scenes(np.random.default_rng([0, 77]), 2, held_out=False)[0]
        np.testing.assert_allclose(
            picture, render(drawn, 48, 48, 1, world.STILL_STYLE.times(strength))[0], atol=0.51 / 255
        )
    assert len(set(folders)) == 3


def test_held_out_captions_are_never_trained_on(tmp_path) -> None:
    training = sample_scenes(np.random.default_rng(0), 400, held_out=False)
    held_out = sample_scenes(np.random.default_rng(0), 100, held_out=True)
    assert not any(is_held_out(s.caption) for s in training)
    assert all(is_held_out(s.caption) for s in held_out)
    assert len({s.caption for s in held_out}) == 100
    share = np.mean([is_held_out(c) for c in all_captions()])
    assert share == pytest.approx(1 / 16, abs=0.02)
    data = DataParams(path=tmp_path, count=12, low={"height": 16, "width": 16}, high={"height": 16, "width": 16})
    captions = (render_images(data) / "metadata.csv").read_text().splitlines()[1:]
    assert len(captions) == 12
    assert not any(is_held_out(line.split(",", 1)[1]) for line in captions)


def test_all_held_out_captions_can_be_had_and_no_more() -> None:
    most = sum(is_held_out(c) for c in all_captions())
    assert len(sample_scenes(np.random.default_rng(0), most, held_out=True)) == most
    with pytest.raises(ValueError, match=f"this world has {most}"):
        sample_scenes(np.random.default_rng(0), most + 1, held_out=True)
