"""FreeLong's spectral blend: against two softmaxes over dense masks and FFTs as the paper writes them."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from vibe_pipeline.diffusion.attention import (
    KINDS,
    Place,
    attention_words,
    install_gclf,
    inward_window_mask,
    remove_gclf,
)
from vibe_pipeline.diffusion.attention.geometry import Windows, pool_tokens, reorder_tokens
from vibe_pipeline.diffusion.attention.spectral import frame_runs, low_pass_gains, spectral_blend
from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.diffusion.flops import keys_by_layer, transformer_flops
from vibe_pipeline.diffusion.rope import install_rope, rope_of
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.rope import RopeParams
from vibe_pipeline.generation.attention_sizes import require_fitting_attention, require_fitting_buckets
from vibe_pipeline.generation.methods import checked_tables

GRID, HALF = (4, 6, 10), (1, 2)
FULL = math.prod(GRID)
FreeLong = KINDS["freelong"]


def random_qkv() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 2, FULL, 8, generator=generator, requires_grad=True) for _ in range(3))


def gain(f_t: float, f_h: float, f_w: float, shape: str, stops: tuple[float | None, float | None]) -> float:
    """G at one frequency, in units of the highest."""
    d_t, d_s = (math.inf if stop is None else stop for stop in stops)
    squared = (f_t / d_t) ** 2 + (f_h / d_s) ** 2 + (f_w / d_s) ** 2
    return 1 / (1 + squared**4) if shape == "butterworth" else math.exp(-squared / 2)


def written_out(overall: Tensor, near: Tensor, shape: str, stops: tuple[float | None, float | None]) -> Tensor:
    """IFFT3[G FFT3(global) + (1 - G) FFT3(local)] with whole complex spectra, G one frequency at a time."""

    def signed(i: int, n: int) -> float:
        return 2 * (i if i < (n + 1) // 2 else i - n) / n

    gains = torch.tensor(
        [
            [[gain(signed(t, 4), signed(h, 6), signed(w, 10), shape, stops) for w in range(10)] for h in range(6)]
            for t in range(4)
        ]
    )[..., None]
    far, close = (torch.fft.fftn(x.unflatten(2, GRID), dim=(2, 3, 4)) for x in (overall, near))
    return torch.fft.ifftn(gains * far + (1 - gains) * close, dim=(2, 3, 4)).real.flatten(2, 4)


def over_time(half: int) -> Tensor:
    """bool [L, L]: 2 half + 1 frames around, pushed inward, by loops."""
    frames, places = GRID[0], GRID[1] * GRID[2]
    seen = torch.zeros(frames, frames, dtype=torch.bool)
    for frame in range(frames):
        first = min(max(frame - half, 0), max(frames - 2 * half - 1, 0))
        seen[frame, first : first + 2 * half + 1] = True
    return seen.repeat_interleave(places, 0).repeat_interleave(places, 1)


def expected(q: Tensor, k: Tensor, v: Tensor, **fields) -> Tensor:
    kind = FreeLong(**fields)
    mask = over_time(kind.half_frames) if kind.window_axes == "time" else inward_window_mask(GRID, HALF)
    near = sdpa(q, k, v, attn_mask=mask)
    overall = sdpa(q, k, v)
    if kind.global_pass == "gclf":
        more = [torch.cat([x, pool_tokens(x, Windows(GRID, HALF, 2))], 2) for x in (k, v)]
        overall = sdpa(q, *more, attn_mask=torch.cat([mask, mask.new_ones(FULL, FULL // 4)], 1))
    return written_out(overall, near, kind.low_pass, (kind.stop_time, kind.stop_space))


FORMS = [
    {"half_window": HALF},
    {"half_window": HALF, "global_pass": "gclf", "low_pass": "butterworth", "stop_space": 0.5},
    {"half_window": HALF, "stop_time": None},
    {"window_axes": "time", "half_frames": 1, "stop_time": 0.5},
]


EVERY = [(fields, backend) for fields in FORMS for backend in ("dense", "gather")] + [(FORMS[1], "flex")]


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize(("fields", "backend"), EVERY)
def test_it_is_the_formula(fields: dict, backend: str, order: str) -> None:
    q, k, v = (x.detach() if backend == "flex" else x for x in random_qkv())  # flex has no backward on the CPU
    plan = FreeLong(**fields).plan(Place(GRID, backend=backend, order=order))
    found = plan(*(reorder_tokens(x, GRID, 2, order) if order == "hwt" else x for x in (q, k, v)))
    found = reorder_tokens(found, GRID, 2, "thw") if order == "hwt" else found
    reference = expected(q, k, v, **fields)
    assert plan.order == order
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)
    if backend != "flex":
        ours, theirs = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, reference))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fields", FORMS[:2])
def test_on_a_cpu_few_tokens_too_are_attended_to_in_tiles(fields: dict) -> None:
    """A mask over a grid as the miniature's costs what full attention costs; the values are the same."""
    grid = (3, 18, 18)
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, 2, math.prod(grid), 8, generator=generator) for _ in range(3))
    tiled, masked = (FreeLong(**fields).plan(Place(grid, backend=backend)) for backend in ("auto", "dense"))
    assert (tiled.near.backend, masked.near.backend) == ("gather", "dense")
    assert tiled.overall.backend == ("gather" if fields.get("global_pass") else "dense")
    torch.testing.assert_close(tiled(q, k, v), masked(q, k, v), rtol=1e-4, atol=1e-5)
    assert FreeLong(**fields).plan(Place(GRID)).near.backend == "dense"  # calls would cost more than they save


def test_the_filter_is_the_released_one_on_even_axes_and_has_the_mean_at_1_on_odd_ones() -> None:
    """The release's grid of frequencies, -1 to 1 - 2/n after fftshift, written again by its formula."""
    axes = [torch.arange(n).float() * 2 / n - 1 for n in GRID]
    t, h, w = torch.meshgrid(*axes, indexing="ij")
    released = torch.exp(-0.5 * ((t / 0.25) ** 2 + (h / 0.25) ** 2 + (w / 0.25) ** 2))
    whole = torch.fft.ifftshift(released)
    torch.testing.assert_close(low_pass_gains(GRID, "gaussian", (0.25, 0.25)), whole[..., :6])
    assert low_pass_gains((3, 5, 7), "gaussian", (0.25, 0.25))[0, 0, 0] == 1
    assert (low_pass_gains((3, 5, 7), "butterworth", (0.25, None))[0] == 1).all()


def test_a_constant_is_the_global_passs_and_what_alternates_the_local_ones() -> None:
    """In bfloat16 too, by float32 in between."""
    grid = (2, 8, 8)
    gains = low_pass_gains(grid, "gaussian", (None, 0.25))
    flat = torch.ones(1, 1, 128, 1, dtype=torch.bfloat16)
    board = ((torch.arange(128) // 8 + torch.arange(128)) % 2 * 2 - 1).reshape(1, 1, 128, 1).bfloat16()
    blended = spectral_blend(flat, board, gains, grid)
    assert blended.dtype == torch.bfloat16
    torch.testing.assert_close(blended, flat + board, rtol=0, atol=0.01)


def test_frames_around_each() -> None:
    runs = frame_runs(7, 2)
    assert [(q.start, q.stop, k.start, k.stop) for q, k in runs] == [(0, 3, 0, 5), (3, 4, 1, 6), (4, 7, 2, 7)]
    assert frame_runs(4, 2) == [(slice(0, 4), slice(0, 4))]


def test_what_it_costs(wan21) -> None:
    """Both passes: keys by hand, on the card and where a forward is counted."""
    space, time = FreeLong(half_window=HALF), FreeLong(window_axes="time", half_frames=1)
    cheap = FreeLong(half_window=HALF, global_pass="gclf", pool=2)
    local = 4 * 3 * 5
    assert space.keys(GRID, None, 0) == FULL + local and time.keys(GRID, None, 0) == FULL + 3 * 60
    assert cheap.keys(GRID, None, 0) == 2 * local + FULL // 4
    assert space.kernels(GRID, None, 0, "cuda") == {"sdpa": FULL, "masked": FULL}
    assert cheap.kernels(GRID, None, 0, "cuda") == {"masked": FULL + FULL + FULL // 4}
    assert time.kernels(GRID, None, 0, "cuda") == {"sdpa": FULL + 180}
    large = FreeLong(half_window=(22, 40)).kernels((21, 68, 120), None, 0, "cuda")
    assert large["sdpa"] == 21 * 68 * 120 and large["flex"] < large["sdpa"]
    settings = AttentionParams(kind="freelong", half_window=HALF)
    assert keys_by_layer(settings, GRID, None, 2) == [FULL + local] * 2
    transformer = wan21.transformer()
    plain = transformer_flops(transformer, GRID, 0).attention_forward
    install_gclf(transformer, settings, (2, 3))
    assert transformer_flops(transformer, GRID, 0).attention_forward / plain == pytest.approx(1 + local / FULL)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"half_frames": 2}, "half_frames is of a window over time"),
        ({"window_axes": "time", "half_window": (1, 1)}, "half_window is of a window in space"),
        ({"window_axes": "time", "global_pass": "gclf"}, "global_pass gclf has a window in space"),
        ({"pool": 4}, "pool is of global_pass gclf"),
        ({"stop_time": None, "stop_space": None}, "stop_time and stop_space are both none"),
        ({"stop_time": 0.0}, "greater than 0"),
        ({"low_pass": "ideal"}, "'gaussian' or 'butterworth'"),
    ],
)
def test_fields_that_exclude_each_other_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AttentionParams(kind="freelong", **fields)


def test_a_row_is_checked_against_sizes_methods_and_frames(wan21) -> None:
    model, size = find_model(str(wan21.path)), ClipSize(height=64, width=96, frames=81)
    time = AttentionParams(kind="freelong", window_axes="time")
    with pytest.raises(ValueError, match=r"over time, 10 frames .*nothing to blend in 21 latent frames"):
        require_fitting_attention(model, size, time, "arms.a: model.target")
    require_fitting_attention(model, size.model_copy(update={"frames": 161}), time, "arms.a: model.target")
    with pytest.raises(ValueError, match="nothing to blend in 1 latent frames"):
        require_fitting_buckets(12, time, "adapters.a")
    coarse = AttentionParams(kind="freelong", global_pass="gclf", pool=4)
    with pytest.raises(ValueError, match=r"global pass GCLF 4×.* must be a multiple of 64x64"):
        require_fitting_attention(model, size.model_copy(update={"width": 80}), coarse, "arms.a: model.target")
    params = {"stage1": {}, "adapters": {}, "evaluation": {"reference_arm": "a"}, "generation": {}}
    arm = {"label": "a", "attention": {"kind": "freelong"}, "rope": {"kind": "ar"}}
    with pytest.raises(ParameterError, match=r"rope ar goes with the attention kinds .*, not with freelong"):
        checked_tables(params | {"arms": {"a": arm}})
    assert attention_words(AttentionParams(kind="freelong", stop_time=None)) == (
        "freelong (gaussian stops none and 0.25)"
    )


def test_in_a_transformer_with_positions_of_any_table(wan21) -> None:
    """A window that sees all is full attention blended with itself; a small one is not, in either order of tokens."""
    transformer, generator = wan21.transformer(), torch.Generator().manual_seed(0)
    latent, text = torch.randn(1, 16, 2, 8, 12, generator=generator), torch.randn(1, 5, 64, generator=generator)

    def run(order: str = "thw", **fields) -> Tensor:
        install_gclf(transformer, AttentionParams(kind="freelong", **fields), (2, 3), order=order)
        with torch.no_grad():
            return transformer(latent, torch.tensor([500]), text).sample

    for rope in ({"kind": "none"}, {"kind": "ntk", "alpha": (1.0, 3.5, 3.5)}, {"kind": "yarn"}):
        remove_gclf(transformer)
        install_rope(transformer, rope_of(RopeParams(**rope)), (2, 3))
        with torch.no_grad():
            plain = transformer(latent, torch.tensor([500]), text).sample
        torch.testing.assert_close(run(half_window=(4, 6)), plain, rtol=1e-4, atol=1e-5)
        small = run()
        assert not torch.allclose(small, plain, atol=1e-3)
        torch.testing.assert_close(run("hwt"), small, rtol=1e-4, atol=1e-5)
