"""The gates: the linear filter is the best one, the network learns, and each gate can fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vibe_pipeline.diffusion.super_resolution import load_network
from vibe_pipeline.evaluation import gates as gates_module
from vibe_pipeline.evaluation.gates import Gate, fitted_filter, holdable, inferable, invisible, read_vae
from vibe_pipeline.evaluation.metrics.detail import band_error
from vibe_pipeline.miniature import pairs as pairs_module
from vibe_pipeline.miniature.networks import build_vae
from vibe_pipeline.miniature.pairs import Pairs, Sizes, draw_pairs
from vibe_pipeline.miniature.pixel_network import CompactNetwork, PixelTraining, enlarge, train_pixel_network
from vibe_pipeline.miniature.scene import is_held_out, sample_scene

SMALL = Sizes(native=24, target=72, frames=5, training_scenes=24, held_out_scenes=6, band=(15.0, 22.0))


@pytest.fixture(scope="module")
def pairs() -> tuple[Pairs, Pairs]:
    sizes = Sizes(training_scenes=240, held_out_scenes=32)
    return draw_pairs(sizes, held_out=False), draw_pairs(sizes, held_out=True)


def test_pairs_repeat_and_training_never_sees_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = pairs_module.render
    monkeypatch.setattr(pairs_module, "render", lambda s, *a: (seen.append(s.caption), real(s, *a))[1])
    first, again = draw_pairs(SMALL, held_out=False), draw_pairs(SMALL, held_out=False)
    np.testing.assert_array_equal(first.target, again.target)
    assert not any(map(is_held_out, seen))
    seen.clear()
    assert draw_pairs(SMALL, held_out=True).native.shape == (6, 24, 24, 3)
    assert all(map(is_held_out, seen))


def test_no_gain_nearby_is_better_than_the_fitted_one() -> None:
    training = draw_pairs(SMALL, held_out=False)
    fitted = fitted_filter(training)
    small, large = training.native / np.float32(255), training.target / np.float32(255)

    def error(gains: np.ndarray) -> float:
        return float(np.square(type(fitted)(gains, fitted.native)(small) - large).mean())

    least = error(fitted.gains)
    assert least < min(error(0.9 * fitted.gains), error(1.1 * fitted.gains))
    assert least < 0.5 * np.square(np.kron(small, np.ones((1, 3, 3, 1))) - large).mean()


def test_the_world_hides_its_detail_from_every_linear_filter(pairs: tuple[Pairs, Pairs]) -> None:
    gate = invisible(*pairs)
    assert gate.passed and 0.9 < gate.value < 1.1
    low = invisible(*pairs, band=(5.0, 18.0))
    assert low.value < 0.1 and not low.passed, "what the native clip shows, the filter keeps"


def test_a_network_infers_what_the_filter_cannot(pairs: tuple[Pairs, Pairs]) -> None:
    training, held_out = pairs
    network = train_pixel_network(training.native, training.target, PixelTraining(steps=700, batch=6))
    gate = inferable(network, held_out)
    assert gate.passed and gate.value < 0.5


def test_a_world_of_noise_is_not_inferable(pairs: tuple[Pairs, Pairs]) -> None:
    rng = np.random.default_rng(0)
    noise = [Pairs(p.native, rng.integers(0, 256, p.target.shape, np.uint8)) for p in pairs]
    network = train_pixel_network(noise[0].native, noise[0].target, PixelTraining(steps=30))
    gate = inferable(network, noise[1])
    assert not gate.passed and gate.value > 0.9


def test_the_networks_weights_bear_the_compact_networks_names() -> None:
    network = CompactNetwork(factor=3, features=8, convolutions=2)
    assert list(network.state_dict()) == [
        "body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight", "body.2.bias", "body.3.weight",
        "body.4.weight", "body.4.bias", "body.5.weight", "body.6.weight", "body.6.bias",
    ]  # fmt: skip
    torch.nn.init.zeros_(network.body[-1].weight)
    torch.nn.init.zeros_(network.body[-1].bias)
    frames = np.random.default_rng(0).random((2, 5, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(enlarge(network, frames), np.kron(frames, np.ones((1, 3, 3, 1))), atol=1e-6)


def test_the_target_must_be_a_whole_multiple() -> None:
    with pytest.raises(ValueError, match="not a whole multiple"):
        train_pixel_network(np.zeros((1, 24, 24, 3), np.uint8), np.zeros((1, 70, 70, 3), np.uint8), PixelTraining())


def test_a_vae_is_held_to_its_worst_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that loses frame 2's detail alone fails by that frame; one that loses nothing passes every gate."""
    monkeypatch.setattr(gates_module, "encode_video", lambda vae, pixels: pixels)
    monkeypatch.setattr(gates_module, "decode_video", lambda vae, latent: latent)
    assert all(gate.passed for gate in holdable(None, SMALL))

    def smear(vae: object, latent: torch.Tensor) -> torch.Tensor:
        out = latent.clone()
        if out.shape[2] > 2:
            out[:, :, 2] = torch.nn.functional.avg_pool2d(out[:, :, 2], 5, 1, 2, count_include_pad=False)
        return out

    monkeypatch.setattr(gates_module, "decode_video", smear)
    gates = {g.name: g for g in holdable(None, SMALL)}
    assert not gates["holdable: the same in the worst frame (2)"].passed
    assert gates["holdable: band error of stills through the VAE"].passed


def test_a_folder_without_a_vae_is_refused_and_one_with_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no VAE: there is no config"):
        read_vae(tmp_path)
    build_vae().save_pretrained(tmp_path / "vae")
    assert not all(gate.passed for gate in holdable(read_vae(tmp_path / "vae"), replace(SMALL, held_out_scenes=1)))


def test_the_shipped_network_and_vae_pass_the_gates(pairs: tuple[Pairs, Pairs]) -> None:
    """By the loader that the arm `sr` uses; few scenes here, the table in docs/miniature.md is of 64."""
    models = Path(__file__).parents[2] / "data/06_models"
    gate = inferable(load_network(models / "pixel_network_x3.safetensors"), pairs[1])
    assert gate.passed and gate.value < 0.3
    sizes = Sizes(held_out_scenes=4)
    missed = [gate for gate in holdable(read_vae(models / "base/vae"), sizes) if not gate.passed]
    assert missed == []


def test_a_figure_that_is_not_a_number_does_not_pass() -> None:
    assert not Gate("x", float("nan"), 0.5).passed
    assert not Gate("x", float("nan"), 0.5, at_most=False).passed


def test_the_gates_measure_the_band_as_the_study_does() -> None:
    scene = sample_scene(np.random.default_rng(0))
    clip = pairs_module.render(scene, 144, 144, 2)
    assert band_error(np.full_like(clip, 0.5), clip, *pairs_module.FINE_BAND) == pytest.approx(1.0, abs=1e-6)
