"""FreeSwim against its definition, written out block by block."""

import pytest
import torch
from torch import Tensor

from vibe_pipeline.diffusion.attention import GclfSettings, freeswim_scale, install_gclf, remove_gclf
from vibe_pipeline.diffusion.freeswim import freeswim_predictor, install_freeswim
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.experiment.attention import AttentionParams

WINDOW = GclfSettings(kind="window", half_window=(1, 1))
SIGMA = torch.tensor([0.7])


def latent(transformer, seed: int = 0) -> Tensor:
    return torch.randn(1, transformer.config.in_channels, 2, 8, 12, generator=torch.Generator().manual_seed(seed))


def predictor(transformer, tiny, seed: int = 1, per_token: bool | None = None):
    text = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(seed))
    style = tiny.path.parent.name.startswith("wan22") if per_token is None else per_token
    return velocity_predictor(transformer, text, style, torch.float32)


def two_path_reference(transformer, run, x: Tensor) -> Tensor:
    """The definition in two plain forwards: full attention with its cross-attention outputs kept, then the window."""
    outputs: list[Tensor] = []
    handles = [b.attn2.register_forward_hook(lambda m, a, out: outputs.append(out)) for b in transformer.blocks]
    run(x, SIGMA)
    for handle in handles:
        handle.remove()
    kept = iter(outputs)
    handles = [b.attn2.register_forward_hook(lambda m, a, out: next(kept)) for b in transformer.blocks]
    install_gclf(transformer, WINDOW)
    out = run(x, SIGMA)
    remove_gclf(transformer)
    for handle in handles:
        handle.remove()
    return out


@torch.no_grad()
def test_dual_path_equals_two_plain_forwards_and_comes_off_without_a_trace(tiny) -> None:
    transformer = tiny.transformer()
    run, x = predictor(transformer, tiny), latent(transformer)
    full, expected = run(x, SIGMA), two_path_reference(transformer, run, x)
    install_gclf(transformer, WINDOW)
    window = run(x, SIGMA)
    remove_gclf(transformer)

    swim = install_freeswim(transformer, WINDOW)
    torch.testing.assert_close(run(x, SIGMA), window)
    with swim.using("dual"):
        dual = run(x, SIGMA)
    torch.testing.assert_close(dual, expected, rtol=1e-5, atol=1e-5)
    assert (dual - window).abs().max() > 1e-4 and (dual - full).abs().max() > 1e-4
    swim.detach()
    assert torch.equal(run(x, SIGMA), full)


@torch.no_grad()
def test_the_cached_form_uses_the_last_full_pass_again(tiny) -> None:
    transformer = tiny.transformer()
    run, x, later = predictor(transformer, tiny), latent(transformer), latent(transformer, 5)
    swim = install_freeswim(transformer, WINDOW, store_device=torch.device("cpu"))
    with swim.using("record"):
        recorded = run(x, SIGMA)
    with swim.using("dual"):
        dual = run(x, SIGMA)
    assert torch.equal(recorded, dual)
    with swim.using("reuse"):
        torch.testing.assert_close(run(x, SIGMA), recorded, rtol=1e-5, atol=1e-6)
        stale = run(later, SIGMA)
    with swim.using("dual"):
        assert (run(later, SIGMA) - stale).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("refresh_every", "scale", "modes"),
    [
        (None, 5.0, ["dual", "dual"] * 4),
        (2, 5.0, ["record", "window", "reuse", "window"] * 2),
        (3, 1.0, ["record", "reuse", "reuse", "record"]),
    ],
)
def test_which_pass_runs_in_which_mode(wan21, refresh_every, scale: float, modes: list[str]) -> None:
    swim = install_freeswim(wan21.transformer(), WINDOW)
    swim.stored[0] = torch.zeros(1)
    ran = []

    def run(value: float):
        def predict(x: Tensor, sigma: Tensor) -> Tensor:
            ran.append(swim.mode)
            return torch.full_like(x, value)

        return predict

    predict = freeswim_predictor(swim, run(3.0), run(1.0), scale, refresh_every)
    velocities = [predict(torch.zeros(1), SIGMA) for _ in range(4)]
    assert ran == modes
    assert {float(v) for v in velocities} == {3.0 if scale == 1 else 11.0}


def test_freeswims_scale_follows_from_the_native_grid(wan21) -> None:
    transformer = wan21.transformer()
    settings = AttentionParams(kind="window", half_window=(1, 1), scale="freeswim")
    installed = install_gclf(transformer, settings, native_grid=(30, 52))
    assert installed.scale_at((1, 60, 104)) == pytest.approx(freeswim_scale(1560, 16))
    with pytest.raises(ValueError, match="give native_grid"):
        install_gclf(transformer, settings)


def test_misuse_is_refused(wan21) -> None:
    transformer = wan21.transformer()
    with pytest.raises(ValueError, match="window attention, not 'gclf'"):
        install_freeswim(transformer, GclfSettings())
    swim = install_freeswim(transformer, WINDOW)
    with pytest.raises(RuntimeError, match="record"), swim.using("reuse"):
        pass
