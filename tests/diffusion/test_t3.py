"""T3-Video's grouped attention: against a mask of its definition, its published groups, what they cost and fit."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from vibe_pipeline.diffusion.attention import KINDS, GclfSettings, Place, install_gclf, reorder_tokens, t3_attention
from vibe_pipeline.diffusion.attention.kinds.t3 import PUBLISHED, T3, _grouped
from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.diffusion.flops import count_flops, keys_by_layer, transformer_flops
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.generation.attention_sizes import require_fitting_attention, require_fitting_buckets
from vibe_pipeline.planning.architecture import load_architecture

GRID = (4, 6, 10)
GROUPS = [(2, 3, 5), (1, 2, 2), (4, 1, 1), (2, 1, 10), (4, 6, 1), (1, 3, 1), (4, 6, 10)]
LARGE = {"1.3B": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "5B": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}


def mask(grid, groups, remote):
    """The definition, token by token: who shares a box with whom."""

    def box(token):
        return [p % n if remote else p // (size // n) for p, size, n in zip(token, grid, groups, strict=True)]

    boxes = [box(token) for token in itertools.product(*map(range, grid))]
    return torch.tensor([[one == other for other in boxes] for one in boxes])


def random_qkv(grid, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, math.prod(grid), dim)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("scale", [None, 0.1])
def test_values_and_gradients_are_those_of_the_masks(groups, scale) -> None:
    q, k, v = random_qkv(GRID)
    close, remote = (sdpa(q, k, v, attn_mask=mask(GRID, groups, far), scale=scale) for far in (False, True))
    expected, out = (close + remote) / 2, t3_attention(q, k, v, GRID, groups, scale)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    ours, theirs = (torch.autograd.grad(x, (q, k, v), grad, retain_graph=True) for x in (out, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_one_group_is_full_attention() -> None:
    q, k, v = random_qkv(GRID)
    torch.testing.assert_close(t3_attention(q, k, v, GRID, (1, 1, 1)), sdpa(q, k, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("groups", "calls"), [((4, 1, 1), 1), ((1, 1, 1), 1), ((4, 6, 1), 1), ((2, 1, 1), 2)])
def test_boxes_that_are_the_same_are_computed_once(groups, calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer type 0: a frame each, so close = remote."""
    assert torch.equal(mask(GRID, groups, False), mask(GRID, groups, True)) == (calls == 1)
    made = []
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: made.append(1) or sdpa(*a, **k)
    )
    t3_attention(*random_qkv(GRID), GRID, groups)
    assert len(made) == calls


def test_groups_of_whole_frames_are_views() -> None:
    """As processors give them, [B, L, heads, D] seen as [B, heads, L, D]: nothing is copied for layer type 0."""
    x = torch.randn(2, math.prod(GRID), 3, 6).transpose(1, 2)
    assert _grouped(x, GRID, (4, 1, 1), dilated=False).data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("grid", "groups", "message"),
    [
        (
            (31, 68, 120),
            (21, 1, 1),
            r"groups \(21, 1, 1\) do not divide token grid \(31, 68, 120\); .* \(21, 68, 120\)",
        ),
        ((4, 6, 10), (2, 4, 5), r"they divide \(4, 8, 10\)"),
        ((4, 6, 10), (0, 1, 1), "three positive numbers"),
        ((4, 6), (2, 3), "three positive numbers"),
    ],
)
def test_groups_that_do_not_divide_the_grid_are_refused(grid, groups, message) -> None:
    with pytest.raises(ValueError, match=message):
        t3_attention(*(torch.zeros(1, 1, 1, 2) for _ in range(3)), grid, groups)
    with pytest.raises(ValueError, match=r"q has shape \(1, 1, 7, 2\), but grid \(4, 6, 10\) needs"):
        t3_attention(*(torch.zeros(1, 1, 7, 2) for _ in range(3)), GRID, (2, 3, 5))


def test_what_the_published_groups_cost() -> None:
    """Counted by hand: a query meets L / (n_t n_h n_w) keys in each of two boxes.

    1.3B: of 21, 510, 320, 408 and 336 groups, 2 (1/21 + 1/510 + 1/320 + 1/408 + 1/336) / 5 = 1 / 43.0, which is the
    paper's figure; with layer type 0 computed once, 1 / 72.8. 5B: of 21, 340, 102, 180 and 224: 1 / 35.5 and 1 / 53.7.
    """
    for size, grid, by_their_count, by_ours in (
        ("1.3B", (21, 136, 240), 43.0, 72.8),
        ("5B", (21, 68, 120), 35.5, 53.7),
    ):
        parts = [math.prod(groups) for groups in PUBLISHED[grid]]
        assert 5 / sum(2 / n for n in parts) == pytest.approx(by_their_count, abs=0.05)
        architecture = load_architecture(LARGE[size])
        assert architecture.grid(ClipSize(height=2176, width=3840, frames=81)) == grid
        config = architecture.transformer
        keys = keys_by_layer(AttentionParams(kind="t3"), grid, grid[1:], config["num_layers"])
        mean = sum(keys) / len(keys)
        assert mean == pytest.approx(math.prod(grid) * (1 / parts[0] + sum(2 / n for n in parts[1:])) / 5)
        assert math.prod(grid) / mean == pytest.approx(by_ours, abs=0.05)
        # Cross-attention's 512 keys are the text's: without a text, only self-attention is counted.
        full, grouped = (count_flops(config, grid, 0, k).attention_forward for k in (None, keys))
        assert full / grouped == pytest.approx(by_ours, abs=0.05)


def test_layers_take_turns_and_orders_do_not_matter(wan21) -> None:
    """In a transformer of two layers: of type 0 and 1, each against its masks through diffusers' own attention."""
    grid, types = (2, 4, 6), ((2, 1, 1), (1, 2, 3))
    transformer, settings = wan21.transformer(), AttentionParams(kind="t3", groups=types)
    generator = torch.Generator().manual_seed(0)
    latent, text = torch.randn(1, 16, 2, 8, 12, generator=generator), torch.randn(1, 5, 64, generator=generator)

    def run():
        with torch.no_grad():
            return transformer(latent, torch.tensor([500]), text).sample

    outputs = []
    for order in ("thw", "hwt"):
        installed = install_gclf(transformer, settings, order=order)
        outputs.append(run())
        assert [plan.order for plan in installed.plans] == [order, order]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    grouped = transformer_flops(transformer, grid, 0).attention_forward
    install_gclf(transformer, GclfSettings(kind="full"))
    assert grouped / transformer_flops(transformer, grid, 0).attention_forward == pytest.approx((1 / 2 + 2 / 6) / 2)

    class Masked:
        def __init__(self, groups):
            self.masks = [mask(grid, groups, remote) for remote in (False, True)]

        def __call__(self, q, k, v, scale=None):
            return sum(sdpa(q, k, v, attn_mask=m, scale=scale) for m in self.masks) / 2

    installed = install_gclf(transformer, settings)
    run()
    installed._plans[(installed.kind, grid, torch.device("cpu"))] = tuple(
        type("P", (Masked,), {"grid": grid, "order": "thw"})(groups) for groups in types
    )
    torch.testing.assert_close(run(), outputs[0], rtol=1e-4, atol=1e-5)


def test_reordered_tokens_are_the_same() -> None:
    q, k, v = random_qkv(GRID)
    plain = t3_attention(q, k, v, GRID, (2, 3, 5))
    plan = T3(groups=((2, 3, 5),)).plan(Place(GRID, order="hwt"))
    out = plan(*(reorder_tokens(x, GRID, 2, "hwt") for x in (q, k, v)))
    torch.testing.assert_close(reorder_tokens(out, GRID, 2, "thw"), plain)


def test_a_row_is_checked_against_sizes_and_frames(wan22) -> None:
    model, t3 = find_model(str(wan22.path)), AttentionParams(kind="t3")
    size = ClipSize(height=2176, width=3840, frames=81)
    require_fitting_attention(model, size, t3, "arms.t3: model.target")
    said = r"arms\.t3 with t3 attention: model\.target 2176x3840 of 121 frames: .*2176x3840 with 81 frames"
    with pytest.raises(ValueError, match=said):
        require_fitting_attention(model, size.model_copy(update={"frames": 121}), t3, "arms.t3: model.target")
    own = AttentionParams(kind="t3", groups=[(7, 1, 1), (1, 4, 6)])
    with pytest.raises(ValueError, match=r"groups 7x1x1 1x4x6\) attention: .* 121 frames is 31 .* 109 or 137 frames"):
        require_fitting_attention(model, size.model_copy(update={"frames": 121}), own, "arms.t3: model.target")
    with pytest.raises(ValueError, match=r"model\.target 704x1280 must be a multiple of 128x192; .*640x1152"):
        require_fitting_attention(model, ClipSize(height=704, width=1280, frames=81), own, "arms.t3: model.target")
    with pytest.raises(ValueError, match=r"adapters\.a with t3 .* cuts clips into 7 parts along time, and an image is"):
        require_fitting_buckets(12, own, "adapters.a")
    with pytest.raises(ValueError, match=r"adapters\.a with t3 attention: images have sizes of their own"):
        require_fitting_buckets(12, t3, "adapters.a")
    require_fitting_buckets(12, AttentionParams(kind="t3", groups=[(1, 4, 6)]), "adapters.a")


def test_the_entry() -> None:
    assert KINDS["t3"] is T3 and AttentionParams(kind="t3").groups is None
    with pytest.raises(ValueError, match="greater than 0"):
        AttentionParams(kind="t3", groups=[(1, 0, 2)])
    with pytest.raises(ValueError, match="at least 1 item"):
        AttentionParams(kind="t3", groups=[])
    with pytest.raises(ValueError, match="groups belongs to t3, not to attention kind 'gclf'"):
        AttentionParams(kind="gclf", groups=[(1, 2, 2)])
