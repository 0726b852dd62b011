"""What FlashAttention-4 is told of the windows, against their definition; and that its two ops are wired as one.

There is no GPU here, so its kernels are stood in for by what they compute: blocks that are not listed are skipped,
whole ones are taken as they are, and the others are masked by the codes. `benchmarks/gpu.py` runs the kernels.
"""

import math

import pytest
import torch

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable
from vibe_pipeline.diffusion.attention import Windows, backends, choice, flash, inward_window_mask, make_plan
from vibe_pipeline.diffusion.attention.flex import BLOCK, build_block_mask, padded_tokens
from vibe_pipeline.diffusion.attention.geometry import reorder_tokens

GEOMETRIES = [
    Windows((3, 10, 12), (2, 3), 2, "hwt"),
    Windows((1, 20, 14), (3, 2), 2),
    Windows((2, 8, 12), (2, 3)),
    Windows((5, 9, 16), (2, 9), 0, "hwt"),
    Windows((2, 12, 4), (3, 9), 2),
    Windows((2, 16, 32), (3, 5), 4, "hwt"),
]
MANY = Windows((1, 48, 64), (3, 4), 2)


def visible(tables):
    """By the codes alone, as the kernel masks a block that is neither empty nor whole."""
    first, last, low, high = tables[:4]
    return ((high[None] - first[:, None]) & (last[:, None] - low[None]) & flash.GUARD) == flash.GUARD


def listed(count, index, rows, columns):
    """bool [rows, columns] of blocks from counts and indices."""
    table = torch.zeros(rows, columns, dtype=torch.bool)
    for row in range(rows):
        table[row, index[0, 0, row, : count[0, 0, row]].long()] = True
    return table


def computed(tables, backward):
    """bool [L, keys], both to whole blocks: what the kernel takes in, by the lists of its direction."""
    seen = visible(tables)
    shape = tuple(n // BLOCK for n in seen.shape)
    lists = tables[8:] if backward else tables[4:8]
    by = shape[::-1] if backward else shape
    partial, whole = listed(*lists[:2], *by), listed(*lists[2:], *by)
    assert not (partial & whole).any()
    if backward:
        partial, whole = partial.T, whole.T
    wide = [x.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1) for x in (partial, whole)]
    return (wide[0] & seen) | wide[1]


@pytest.mark.parametrize("windows", GEOMETRIES, ids=str)
def test_codes_and_lists_are_the_window(windows):
    tables = flash.flash_tables(windows, build_block_mask(windows), "cpu")
    assert all(x.dtype == torch.int32 and x.is_contiguous() for x in tables) and len(tables) == 12
    mask = inward_window_mask(windows.grid, windows.half_window)
    if windows.order == "hwt":
        for axis in (0, 1):
            mask = reorder_tokens(mask, windows.grid, axis, "hwt")
    start = padded_tokens(windows)
    for backward in (False, True):
        seen = computed(tables, backward)[: windows.tokens]
        assert torch.equal(seen[:, : windows.tokens], mask)
        assert not seen[:, windows.tokens : start].any() and not seen[:, start + windows.pooled :].any()
        assert seen[:, start : start + windows.pooled].all()


def scores_of(q, k, tables, scale, backward=False):
    """In full, [B, heads, L, keys], of q and k as [B, tokens, heads, D]."""
    seen = computed(tables, backward)[: q.shape[1], : k.shape[1]]
    return (scale * torch.einsum("bqhd,bkhd->bhqk", q, k)).masked_fill(~seen, -torch.inf)


def reference(q, k, v, tables, scale):
    """What the forward kernel gives."""
    scores = scores_of(q, k, tables, scale)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).contiguous(), scores.logsumexp(-1)


def reference_gradients(q, k, v, out, grad, lse, tables, scale):
    """What the backward kernel gives, from what the forward one kept."""
    weights = (scores_of(q, k, tables, scale, backward=True) - lse[..., None]).exp()
    along = torch.einsum("bqhd,bkhd->bhqk", grad, v) - (grad * out).sum(-1).transpose(1, 2)[..., None]
    moved = scale * weights * along
    dq, dk = torch.einsum("bhqk,bkhd->bqhd", moved, k), torch.einsum("bhqk,bqhd->bkhd", moved, q)
    dv = torch.einsum("bhqk,bqhd->bkhd", weights, grad)
    return tuple(torch.empty_like(x).copy_(g) for x, g in zip((q, k, v), (dq, dk, dv), strict=True))


@pytest.fixture(scope="module", autouse=True)
def stand_in():
    flash.flash_windows.register_kernel("cpu")(reference)
    flash.flash_windows_backward.register_kernel("cpu")(reference_gradients)


@pytest.fixture
def plan_of(monkeypatch):
    """A plan of flash for the CPU, where its kernels have a stand-in."""
    monkeypatch.setattr(backends, "flash_runs_on", lambda device: True)
    monkeypatch.setattr(backends, "flash_takes", lambda q: True)
    return lambda windows: make_plan(windows, "flash")


def drawn(windows, heads=2, dim=8):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, windows.tokens, dim, generator=generator).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize(
    ("windows", "compiled"), [(GEOMETRIES[0], True), *((windows, False) for windows in GEOMETRIES)], ids=str
)
def test_values_and_gradients_are_those_of_dense_attention(plan_of, windows, compiled):
    """Compiled whole, without a break: the two ops stand in one graph with what is around them."""
    qkv, dense = drawn(windows), make_plan(windows, "dense")
    plan = plan_of(windows)
    call = torch.compile(plan, backend="aot_eager", fullgraph=True) if compiled else plan
    along = torch.randn(qkv[0].shape, generator=torch.Generator().manual_seed(1))
    expected = dense(*qkv)
    torch.testing.assert_close(call(*qkv), expected)
    found = torch.autograd.grad(call(*qkv), qkv, along)
    torch.testing.assert_close(found, torch.autograd.grad(expected, qkv, along))


def test_what_compiling_is_told_of_shapes_and_strides_is_true():
    windows = GEOMETRIES[0]
    tables = flash.flash_tables(windows, build_block_mask(windows), "cpu")
    keys = padded_tokens(windows) + windows.pooled
    q = torch.randn(1, 2, windows.tokens, 8).transpose(1, 2)
    k, v = (torch.randn(1, 2, keys, 8).transpose(1, 2) for _ in range(2))
    torch.library.opcheck(flash.flash_windows, (q, k, v, tables, 0.3), test_utils=["test_schema", "test_faketensor"])
    out, lse = reference(q, k, v, tables, 0.3)
    grads = (q, k, v, out, torch.randn_like(out), lse, tables, 0.3)
    torch.library.opcheck(flash.flash_windows_backward, grads, test_utils=["test_schema", "test_faketensor"])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_what_its_kernels_do_not_take_goes_to_flex(plan_of, monkeypatch):
    monkeypatch.setattr(backends, "flash_takes", flash.flash_takes)
    windows = GEOMETRIES[0]
    q, k, v = (x.detach() for x in drawn(windows))
    monkeypatch.setattr(backends, "flash_attend", lambda *_: pytest.fail("32 bit went to flash"))
    torch.testing.assert_close(plan_of(windows)(q, k, v), make_plan(windows, "dense")(q, k, v))


def test_takes_16_bit_of_its_head_sizes_unless_results_must_be_deterministic():
    half = torch.zeros(1, 1, 1, 128, dtype=torch.bfloat16)
    assert flash.flash_takes(half)
    assert not flash.flash_takes(half.float()) and not flash.flash_takes(half[..., :48])
    torch.use_deterministic_algorithms(True)
    try:
        assert not flash.flash_takes(half)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("installed", "few", "many"), [(True, "dense", "flash"), (False, "dense", "dense")])
def test_it_is_chosen_where_it_is_installed(monkeypatch, installed, few, many):
    monkeypatch.setattr(choice, "flash_installed", lambda: installed)
    assert choice.choose_backend(Windows((1, 32, 56), (11, 20), 2), "auto", "cuda") == few
    assert choice.choose_backend(MANY, "auto", "cuda") == many
    assert choice.choose_backend(MANY, "auto", "cuda", flash=False) == "dense"  # installed for another card
    assert choice.choose_backend(MANY, "auto", "cpu") == "gather"
    video = Windows((31, 44, 80), (11, 20), 2)
    assert choice.choose_backend(video, "auto", "cuda") == ("flash" if installed else "flex")
    assert choice.choose_order(video, "flash", None) == "hwt"
    name, keys = choice.kernel_of(video, "cuda")
    assert name == ("flash" if installed else "flex") and 1 < keys / video.keys_per_query < 1.15


def test_a_card_that_it_does_not_run_on_gets_what_suits_it_without(monkeypatch):
    """Installed, and chosen by the number of tokens: dense here, as on any card without it, not flex."""
    monkeypatch.setattr(choice, "flash_installed", lambda: True)
    monkeypatch.setattr(backends, "flash_runs_on", lambda device: False)

    def on_a_card(windows, backend, device, **asked):
        return choice.choose_backend(windows, backend, "cuda", **asked)

    monkeypatch.setattr(backends, "choose_backend", on_a_card)
    assert choice.choose_backend(MANY, "auto", "cuda") == "flash"
    assert make_plan(MANY).backend == "dense"
    assert make_plan(Windows((31, 44, 80), (11, 20), 2)).backend == "flex"


@pytest.mark.parametrize(("capability", "runs"), [((8, 9), False), ((9, 0), True), ((10, 0), False), ((12, 0), False)])
def test_it_runs_on_hopper_alone(monkeypatch, capability, runs):
    """Blackwell's kernels refuse blocks of 128 queries: there `auto`, too, ends at flex."""
    monkeypatch.setattr(flash, "flash_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert flash.flash_runs_on("cuda") is runs


def test_asked_for_where_it_cannot_run():
    with pytest.raises(ValueError, match=r"backend 'flash' needs a Hopper GPU and flash-attn-4, not cpu"):
        make_plan(MANY, "flash")
    with pytest.raises(ValueError, match="flash computes windows, not blocks that are found"):
        choice.block_backend(math.prod(MANY.grid), 64, "flash", "cuda")
