"""Parts of a Wan model: finding, text, pixels, velocity; on both kinds of checkpoint."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor

from vibe_pipeline.diffusion import models
from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf
from vibe_pipeline.diffusion.freeswim import install_freeswim
from vibe_pipeline.diffusion.models import (
    decode_video,
    encode_texts,
    encode_video,
    find_model,
    latent_shape,
    load_transformer,
    load_vae,
    require_fitting_size,
    token_grid,
    velocity_predictor,
)
from vibe_pipeline.images.resize import enlarge

CPU = torch.device("cpu")
TEXTS = ["a striped red circle moving left over woven navy", "", "  a   plain blue cross &amp; unknown words "]


def test_a_folder_is_found_with_its_kind_of_timestep(wan21, wan22) -> None:
    assert find_model(str(wan21.path)) == models.WanCheckpoint(wan21.path, False)
    assert find_model(str(wan22.path)) == models.WanCheckpoint(wan22.path, True)


def test_a_model_that_is_not_there_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("nobody/nothing-at-all", str(tmp_path / "no" / "such" / "folder")):
        with pytest.raises(FileNotFoundError, match="hf download"):
            find_model(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model_index"):
        find_model(str(tmp_path / "empty"))


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.pick_device("auto") == models.pick_device("cpu") == CPU
    with pytest.raises(RuntimeError, match=r"model\.device"):
        models.pick_device("cuda")


def test_a_deterministic_model_makes_torch_so_and_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        models.settle_torch(None, True)
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        models.settle_torch(None, False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_texts_are_encoded_as_wan_pipeline_does(tiny) -> None:
    ours = encode_texts(find_model(str(tiny.path)), TEXTS, 14, CPU, torch.float32)
    pipe = WanPipeline.from_pretrained(tiny.path, vae=None, transformer=None)
    with torch.no_grad():
        theirs, _ = pipe.encode_prompt(TEXTS, do_classifier_free_guidance=False, max_sequence_length=14)
    assert ours.shape == (3, 14, 64)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert float(ours[0].abs().mean()) > 0.01
    assert float(ours[1, 1:].abs().max()) == 0  # padding
    assert not torch.allclose(ours[0], ours[2])


def test_a_text_that_would_be_cut_is_refused(wan21) -> None:
    with pytest.raises(ValueError, match=r"10 tokens, text_length is 9.*striped red"):
        encode_texts(find_model(str(wan21.path)), TEXTS, 9, CPU, torch.float32)


def test_pixels_and_latents_have_the_sizes_that_are_announced(tiny) -> None:
    vae = load_vae(find_model(str(tiny.path)), CPU)
    size = (2 * tiny.token, 3 * tiny.token, 5)
    pixels = torch.rand(1, 3, size[2], *size[:2], generator=torch.Generator().manual_seed(0))
    latent = encode_video(vae, pixels)
    assert latent.shape[1:] == latent_shape(dict(vae.config), *size)
    decoded = decode_video(vae, latent)
    assert decoded.shape == pixels.shape
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


def test_a_latent_is_normalised_on_the_way_in_and_back_on_the_way_out(wan22) -> None:
    vae = load_vae(find_model(str(wan22.path)), CPU)
    mean, std = (torch.tensor(vae.config[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    pixels = torch.rand(1, 3, 5, 2 * wan22.token, 2 * wan22.token, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        raw = vae.encode(2 * pixels - 1).latent_dist.mode()
    latent = encode_video(vae, pixels)
    torch.testing.assert_close(latent, (raw - mean) / std)
    with torch.inference_mode():
        decoded = vae.decode(raw).sample
    torch.testing.assert_close(decode_video(vae, latent), ((decoded + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize(
    ("height", "width", "pool", "nearest"),
    [(64, 96, 1, None), (64, 96, 2, "64x64 or 64x128"), (80, 96, 1, "64x96 or 96x96"), (96, 40, 1, "96x32 or 96x64")],
)
def test_a_size_that_does_not_fit_names_those_that_do(wan22, height: int, width: int, pool: int, nearest) -> None:
    model = find_model(str(wan22.path))  # a token is 32 x 32 pixels
    if nearest is None:
        require_fitting_size(model, height, width, "clip", pool)
        return
    unit = 32 * pool
    with pytest.raises(ValueError, match=f"clip {height}x{width} must be a multiple of {unit}x{unit}") as error:
        require_fitting_size(model, height, width, "clip", pool)
    assert str(error.value).endswith(f"nearest that are: {nearest}")


class Spy:
    """A transformer that keeps what it was called with."""

    config = SimpleNamespace(patch_size=(1, 2, 2))

    def __call__(self, x: Tensor, timestep: Tensor, text: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.x, self.timestep, self.text = x, timestep, text
        return (x * 2,)


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_where_nothing_is_held_a_clip_has_one_timestep_that_of_its_noise(frames: int, expand: bool) -> None:
    """Zero for a still, that of a first-frame condition, would be the published code's mistake."""
    spy, sigma = Spy(), torch.tensor([0.25, 0.9])
    predict = velocity_predictor(spy, torch.zeros(2, 5, 8), expand, torch.bfloat16)
    out = predict(torch.ones(2, 4, frames, 4, 6), sigma)
    assert spy.timestep.shape == (2,)
    torch.testing.assert_close(spy.timestep, 1000 * sigma)
    assert (spy.x.dtype, spy.text.dtype, out.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_beside_a_first_frame_its_tokens_have_timestep_0_and_the_others_that_of_their_noise() -> None:
    spy, sigma = Spy(), torch.tensor([0.25, 0.9])
    velocity_predictor(spy, torch.zeros(2, 5, 8), True, torch.float32, True)(torch.ones(2, 4, 3, 4, 6), sigma)
    assert spy.timestep.shape == (2, 3 * 2 * 3)
    assert bool((spy.timestep[:, :6] == 0).all())
    torch.testing.assert_close(spy.timestep[:, 6:], 1000 * sigma[:, None].expand(-1, 12))
    with pytest.raises(ValueError, match="takes no first frame"):
        velocity_predictor(spy, torch.zeros(2, 5, 8), False, torch.float32, True)


def ways(transformer: WanTransformer3DModel, dtype: torch.dtype, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity by one timestep a clip, as it is predicted, and by the same one for every token."""
    text = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
    tokens = x[0, 0].numel() // 4
    ours = velocity_predictor(transformer, text, True, dtype)(x, sigma)
    expanded = 1000 * sigma[:, None].repeat(1, tokens)
    return ours, transformer(x.to(dtype), expanded, text.to(dtype), return_dict=False)[0].float()


@pytest.mark.parametrize("order", [None, "thw", "hwt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_one_timestep_a_clip_is_one_a_token_where_all_are_equal(wan22, order: str | None, dtype: torch.dtype) -> None:
    """Up to the order of sums in 32 bit; also with GCLF, and with its tokens reordered."""
    transformer = load_transformer(find_model(str(wan22.path)), CPU, dtype)
    if order is not None:
        install_gclf(transformer, GclfSettings(half_window=(1, 1)), order=order)
    x = torch.randn(2, 48, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    ours, expanded = ways(transformer, dtype, x, torch.tensor([0.6, 0.9]))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.01}
    torch.testing.assert_close(ours, expanded, **tolerance)
    assert float(ours.abs().mean()) > 0.01


@torch.no_grad()
def test_a_held_first_frame_comes_through_the_reordering(wan22) -> None:
    """Timesteps per token are permuted with their tokens: the first frame's are not the first of (h, w, t)."""
    x = torch.randn(1, 48, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    text, sigma = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(2)), torch.tensor([0.7])
    for settings in (GclfSettings(half_window=(1, 1)), GclfSettings(kind="window", half_window=(1, 1))):
        velocities = {}
        for order, held in (("thw", True), ("hwt", True), ("hwt", False)):
            transformer = wan22.transformer()
            install_gclf(transformer, settings, order=order)
            predict = velocity_predictor(transformer, text, True, torch.float32, held)
            velocities[order, held] = predict(x, sigma)
        torch.testing.assert_close(velocities["hwt", True], velocities["thw", True], rtol=1e-4, atol=1e-5)
        assert float((velocities["hwt", True] - velocities["hwt", False]).abs().max()) > 1e-3


@torch.no_grad()
def test_freeswims_two_paths_each_hold_the_first_frame(wan22) -> None:
    """Its batch is doubled with the timesteps: a window over everything makes both paths the plain model."""
    x = torch.randn(1, 48, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    text, sigma = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(2)), torch.tensor([0.7])
    transformer = wan22.transformer()
    predict = velocity_predictor(transformer, text, True, torch.float32, True)
    plain = predict(x, sigma)
    swim = install_freeswim(transformer, GclfSettings(kind="window", half_window=(4, 6)))
    with swim.using("dual"):
        torch.testing.assert_close(predict(x, sigma), plain, rtol=1e-4, atol=1e-5)


def test_tiled_decoding_keeps_the_size(wan21) -> None:
    vae = load_vae(find_model(str(wan21.path)), CPU, tile=64)
    assert vae.use_tiling
    pixels = enlarge(torch.rand(1, 3, 1, 8, 8), 96, 128)
    assert decode_video(vae, encode_video(vae, pixels)).shape == pixels.shape


def test_the_token_grid_counts_tokens_not_latent_pixels(tiny) -> None:
    """Height / 32 for the 5B, height / 16 for the 1.3B: the published code has them mixed up."""
    native = tiny.model().native
    assert token_grid(find_model(str(tiny.path)), native.height, native.width) == (2, 3)
