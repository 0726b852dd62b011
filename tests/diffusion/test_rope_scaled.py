"""Positions that stretch with the grid and the noise level, each against its formula in plain numbers."""

import math

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from tests.generation.methods.test_cascade import made, native  # noqa: F401  a fixture
from vibe_pipeline.diffusion.attention.scales import SCALES, proportional_scale
from vibe_pipeline.diffusion.rope import ROPES, Ntk, install_rope, remove_rope, rope_tables
from vibe_pipeline.diffusion.rope_base import RopeKind, RopePlace
from vibe_pipeline.diffusion.rope_scaled import Dype, TimeAware, VisionYarn, Yarn
from vibe_pipeline.generation.methods import checked_tables

NATIVE, DIM = (22, 40), 42
LARGE = RopePlace((31, 68, 120), NATIVE, 0.5)  # the 5B at 2176x3840x121: 3.09 and 3 times as large
SCALED = [Yarn(), VisionYarn(), TimeAware(), Dype()]


def plain(j: int) -> float:
    return 10_000 ** (-2 * j / DIM)


def yarn(j: int, scale: float, length: int) -> float:
    """FiT's `get_1d_rope_freqs` in plain numbers."""
    turns = [DIM * math.log(length / (r * 2 * math.pi)) / (2 * math.log(10_000)) for r in (32, 1)]
    low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), DIM - 1)
    mask = 1 - min(max((j - low) / (high - low), 0), 1)
    return plain(j) / scale * (1 - mask) + plain(j) * mask


def frequencies(kind: RopeKind, axis: int, at: RopePlace = LARGE) -> list[float]:
    """Angles of position 1; those of others are its multiples."""
    angles = kind.angles_at(axis, torch.arange(4), DIM, at)
    assert angles.dtype == torch.float64 and angles.shape == (4, DIM // 2)
    torch.testing.assert_close(angles[3], 3 * angles[1])
    return angles[1].tolist()


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    height, width = 68 / 22, 120 / 40
    for kind, scales in ((Yarn(), (height, height)), (VisionYarn(), (height, width))):
        for axis, scale, length in zip((1, 2), scales, NATIVE, strict=True):
            found = frequencies(kind, axis)
            assert found == pytest.approx([yarn(j, scale, length) for j in range(21)], rel=1e-12)
            assert found[0] == 1 and found[-1] == pytest.approx(plain(20) / scale)
        assert kind.amplitude(LARGE) == pytest.approx(0.1 * math.log(height) + 1)
        assert frequencies(kind, 0) == pytest.approx([plain(j) for j in range(21)])
    with pytest.raises(ValueError, match="the first, of fast pairs, is the larger"):
        Yarn((1.0, 32.0)).check(LARGE.grid, NATIVE)


def test_time_aware_interpolates_while_it_is_noisy_and_then_grows_the_base() -> None:
    scale = math.sqrt(68 / 22 * 120 / 40)
    for sigma, interpolates in ((1.0, True), (0.71, True), (0.69, False), (0.0, False)):
        found = frequencies(TimeAware(), 2, RopePlace(LARGE.grid, NATIVE, sigma))
        grown = [(10_000 * scale) ** (-2 * j / DIM) for j in range(21)]
        assert found == pytest.approx([plain(j) / scale for j in range(21)] if interpolates else grown)


def test_dype_is_ntk_at_noise_and_plain_at_the_end() -> None:
    for sigma in (1.0, 0.6, 0.0):
        exponent = 2 * sigma**2 * DIM / (DIM - 2)
        for axis, scale in ((1, 68 / 22), (2, 120 / 40)):
            expected = [(10_000 * scale**exponent) ** (-2 * j / DIM) for j in range(21)]
            assert frequencies(Dype(), axis, RopePlace(LARGE.grid, NATIVE, sigma)) == pytest.approx(expected)
    assert frequencies(Dype(), 1, RopePlace(LARGE.grid, NATIVE, 0.0)) == pytest.approx([plain(j) for j in range(21)])


@pytest.mark.parametrize("kind", SCALED, ids=lambda k: k.name)
@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_from_native_to_four_times_the_size(kind: RopeKind, times: int) -> None:
    """At native each is the stock table; larger, no slow pair turns further than it did over the native length."""
    rope = WanRotaryPosEmbed(128, (1, 2, 2), 256)
    grid = (5, times * NATIVE[0], times * NATIVE[1])
    for sigma in (1.0, 0.3):
        at = RopePlace(grid, NATIVE, sigma)
        cos, sin = rope_tables(rope, kind, at)
        assert torch.isfinite(cos).all() and cos.dtype == rope.freqs_cos.dtype
        if times == 1:
            torch.testing.assert_close((cos, sin), (rope.freqs_cos, rope.freqs_sin), rtol=0, atol=1e-12)
        turned = kind.angles_at(1, torch.tensor([grid[1]]), DIM, at)[0, -1]
        assert float(turned) <= NATIVE[0] * plain(20) * (1 + 1e-9) or (isinstance(kind, Dype | TimeAware) and sigma < 1)


def test_an_upright_grid_turns_the_native_one() -> None:
    assert RopePlace((1, 80, 44), NATIVE).ratios == (1, 2, 2)
    assert RopePlace((1, 11, 80), NATIVE).ratios == (1, 1, 2)


def test_tables_follow_grid_and_noise_level_of_each_forward(tiny) -> None:
    transformer = tiny.transformer()
    stock = transformer.rope.freqs_cos, transformer.rope.freqs_sin
    channels, text = transformer.config.in_channels, torch.zeros(1, 12, 64)

    def after(kind: RopeKind, sigma: float, size: tuple[int, int]) -> torch.Tensor:
        install_rope(transformer, kind, (2, 3))
        with torch.no_grad():
            timestep = torch.tensor([1000 * sigma])
            transformer(torch.zeros(1, channels, 1, *size), timestep, encoder_hidden_states=text)
        return transformer.rope.freqs_cos

    for kind in SCALED:
        for sigma, size in ((0.9, (8, 12)), (0.2, (8, 12)), (0.9, (4, 6))):
            found, place = after(kind, sigma, size), RopePlace((1, size[0] // 2, size[1] // 2), (2, 3), sigma)
            torch.testing.assert_close(found, rope_tables(transformer.rope, kind, place)[0])
    assert not torch.equal(after(Dype(), 0.9, (8, 12)), after(Dype(), 0.2, (8, 12)))
    held = torch.full((1, 24), 900.0)
    held[:, :6] = 0  # per token, a first frame held at 0
    install_rope(transformer, Dype(), (2, 3))
    transformer._forward_pre_hooks[next(reversed(transformer._forward_pre_hooks))](
        transformer, (torch.zeros(1, channels, 1, 8, 12), held), {}
    )
    expected = rope_tables(transformer.rope, Dype(), RopePlace((1, 4, 6), (2, 3), 0.9))[0]
    torch.testing.assert_close(transformer.rope.freqs_cos, expected)
    remove_rope(transformer)
    assert transformer.rope.freqs_cos is stock[0] and transformer.rope.freqs_sin is stock[1]
    assert not transformer._forward_pre_hooks
    with pytest.raises(ValueError, match="rope dype follows from how much larger than native"):
        install_rope(transformer, Dype())


def test_scores_are_proportional_to_the_tokens_that_compete() -> None:
    """sqrt(log_L0(L) / d): L0 of the native clip, all frames."""
    expected = math.sqrt(math.log(31 * 68 * 120) / math.log(31 * 22 * 40) / 128)
    assert proportional_scale(31 * 68 * 120, 31 * 22 * 40, 128) == pytest.approx(expected)
    assert SCALES["proportional"]((31, 68, 120), NATIVE, 128) == pytest.approx(expected)
    assert SCALES["proportional"]((31, 22, 40), NATIVE, 128) == pytest.approx(1 / math.sqrt(128))
    with pytest.raises(ValueError, match="give native_grid"):
        SCALES["proportional"]((31, 68, 120), None, 128)
    with pytest.raises(ValueError, match="2 tokens or more"):
        proportional_scale(1, 2, 3)


@pytest.mark.parametrize(
    "arm",
    [
        {"method": "direct"},
        {"attention": {"kind": "gclf", "scale": "proportional"}},
        {"method": "freeswim", "attention": {"kind": "window"}},
        {"method": "cascade", "stages": [{"height": 48, "width": 48, "steps": 1}]},
    ],
    ids=lambda arm: arm.get("method", "refine"),
)
def test_any_arm_takes_any_kind(wan21, native, tmp_path, arm: dict) -> None:  # noqa: F811
    clips = [made(arm | {"steps": 1, "rope": {"kind": kind}}, native, wan21.model(), tmp_path) for kind in NAMES]
    assert all(abs(clips[0] - clip).max() > 0 for clip in clips[1:])


NAMES = ("none", "yarn", "vision_yarn", "time_aware", "dype")


def test_rows_take_their_fields_and_say_what_they_run() -> None:
    assert {kind.name for kind in SCALED} < set(ROPES)
    rows = {"stage1": {}, "adapters": {}, "evaluation": {"reference_arm": "a"}, "generation": {}}
    for rope, words in (({"kind": "dype", "power": 1.0}, "dype RoPE"), ({"kind": "time_aware"}, "time_aware RoPE")):
        arms = checked_tables(rows | {"arms": {"a": {"label": "a", "rope": rope}}}).arms
        assert ROPES[arms["a"].rope.kind]().words() == (words,)
    for rope, message in (
        ({"kind": "ntk", "power": 1.0}, "power belongs to dype, not to kind of RoPE 'ntk'"),
        ({"kind": "time_aware", "watershed": 1.5}, "less than or equal to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_tables(rows | {"arms": {"a": {"label": "a", "rope": rope}}})


@pytest.mark.parametrize("kind", [Yarn(), Ntk()])
def test_tables_are_where_the_transformer_is(wan21, kind: RopeKind) -> None:
    """Put on in main memory, where models wait that take turns on a device; renewed and taken off on it."""
    transformer = wan21.transformer()
    install_rope(transformer, kind, (2, 3))
    transformer.to("meta")
    for begin in transformer._forward_pre_hooks.values():
        begin(transformer, (torch.empty(1, 16, 2, 8, 12), torch.tensor([500.0])), {})
    assert transformer.rope.freqs_cos.is_meta and transformer.rope.freqs_sin.is_meta
    remove_rope(transformer)
    assert transformer.rope.freqs_cos.is_meta and transformer.rope.freqs_sin.is_meta
