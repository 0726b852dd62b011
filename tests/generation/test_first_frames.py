"""First frames: what can be used, what the second pass makes of a small one, what is refused before the run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vibe_pipeline.diffusion.models import encode_video, find_model, load_vae
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation import denoiser
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.generation.first_frames import first_frame_pixels, require_first_frames
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.images.crop import resize_and_crop
from vibe_pipeline.images.reading import load_rgb
from vibe_pipeline.images.resize import enlarge

NATIVE, TARGET = Scale(64, 96, 5, 8.0), Scale(128, 192, 5, 8.0)
GENERATION = GenerationParams(prompts="miniature", native_steps=1, native_guidance_scale=1.0)


def picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def enlarged(pixels: np.ndarray, size: Scale) -> np.ndarray:
    clip = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None, :, None]
    return enlarge(clip, size.height, size.width)[0, :, 0].permute(1, 2, 0).numpy()


def test_a_native_one_is_enlarged_as_the_clip_is(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 64, 96)
    native = first_frame_pixels(image, NATIVE, NATIVE)
    assert np.array_equal(native, load_rgb(image))
    assert np.array_equal(first_frame_pixels(image, TARGET, NATIVE), enlarged(native, TARGET))


def test_one_between_the_sizes_keeps_its_own_detail(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 100, 192)
    made = first_frame_pixels(image, TARGET, NATIVE)
    assert made.shape == (128, 192, 3)
    assert np.array_equal(made, enlarged(load_rgb(image)[:, 21:171], TARGET))  # the middle, of the clip's proportions
    assert np.abs(made - enlarged(first_frame_pixels(image, NATIVE, NATIVE), TARGET)).mean() > 0.05


def test_one_that_covers_the_size_is_only_reduced(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 200, 300)
    assert np.array_equal(first_frame_pixels(image, TARGET, NATIVE), resize_and_crop(load_rgb(image), 128, 192))


def test_one_smaller_than_the_native_clip_is_named(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 63, 96)
    with pytest.raises(ValueError, match=r"a\.png: 63x96 is smaller than the native clip, 64x96"):
        first_frame_pixels(image, TARGET, NATIVE)


def test_the_second_pass_holds_the_enlarged_frame(wan22, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latent that is held is that of the enlarged image, bit for bit, and the clip begins with it."""
    image = picture(tmp_path / "frame.png", 64, 96)
    model = wan22.model()
    assert Scale.of(model.native) == NATIVE and Scale.of(model.target) == TARGET
    (tmp_path / "p.csv").write_text("prompt,first_frame\na plain blue cross moving up over ribbed gray,frame.png\n")
    prompts = load_prompts(GENERATION.model_copy(update={"prompts": tmp_path / "p.csv"}))
    assert prompts[["first_frame_height", "first_frame_width"]].values.tolist() == [[64, 96]]
    held: list[torch.Tensor] = []
    denoise = denoiser.denoise

    def spy(**arguments: object) -> torch.Tensor:
        held.append(arguments["first_frame"])
        return denoise(**arguments)

    monkeypatch.setattr(denoiser, "denoise", spy)
    native = native_clips(prompts, model, GENERATION, tmp_path)
    arm = ArmParams(label="r", steps=1, guidance_scale=1.0, strength=0.5)
    made = arm_clips("a", arm, native, None, None, model, GENERATION, tmp_path)
    assert len(made) == 1 and len(held) == 2
    vae = load_vae(find_model(model.path), torch.device("cpu"))
    for latent, size in zip(held, (NATIVE, TARGET), strict=True):
        pixels = torch.from_numpy(enlarged(load_rgb(image), size)).permute(2, 0, 1)[None, :, None]
        assert torch.equal(latent, encode_video(vae, pixels))


def table(**first_frame: object) -> pd.DataFrame:
    return pd.DataFrame([{"prompt": "a", "seed": 0} | first_frame, {"prompt": "a", "seed": 1} | first_frame])


def test_what_a_run_refuses_before_it_begins(wan22) -> None:
    native = wan22.model().native
    good = table(first_frame="x.png", first_frame_height=64, first_frame_width=200)
    require_first_frames(good, native, "m", takes_one=True)
    require_first_frames(table(), native, "m", takes_one=False)
    with pytest.raises(ValueError, match=r"1 prompts have a first_frame, and m takes no first frame.*TI2V"):
        require_first_frames(good, native, "m", takes_one=False)
    small = good.assign(first_frame_width=95)
    with pytest.raises(ValueError, match=r"1 of 1 first frames are smaller than model\.native 64x96.*x\.png is 64x95"):
        require_first_frames(small, native, "m", takes_one=True)
