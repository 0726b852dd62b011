"""AdaSpa: the search against softmax weights added up by loops, attention against one softmax over a dense mask."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from tests.passes import PASSES, passes, start
from vibe_pipeline.diffusion.attention import KINDS, Place, attention_words, install_gclf, kind_of
from vibe_pipeline.diffusion.attention import blocks as at_work
from vibe_pipeline.diffusion.attention.blocks import (
    Found,
    blocks_by_head,
    dense_block_mask,
    flex_block_mask,
    flex_options,
    search_blocks,
)
from vibe_pipeline.diffusion.attention.choice import block_backend
from vibe_pipeline.diffusion.attention.steps import Steps
from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.diffusion.step_cache import forget_steps
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.generation.attention_sizes import require_fitting_attention
from vibe_pipeline.generation.methods import checked_tables, method_of
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

AdaSpa = KINDS["adaspa"]
GRID, RAGGED = (2, 4, 16), (3, 5, 9)  # 128 tokens are 16 blocks of 8; 135 are 17, the last of 7
SCALE = 8**-0.5


def random_qkv(tokens: int, seed: int = 1, clips: int = 2, heads: int = 4) -> tuple[Tensor, ...]:
    """Heads from blunt to sharp, so that they keep blocks in different numbers."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(clips, heads, tokens, 8, generator=generator) for _ in range(3))
    return q * torch.tensor([0.2, 1.0, 2.0, 6.0])[:heads, None, None], k, v


def weights_by_block(q: Tensor, k: Tensor, block: int, lse: Tensor | None = None) -> Tensor:
    """W_sum of equation 13 for one head: [N, N], by loops."""
    scores = q @ k.T * SCALE
    weights = scores.softmax(-1) if lse is None else (scores - lse[:, None]).exp()
    count = -(-len(q) // block)
    table = torch.zeros(count, count)
    for i in range(count):
        for j in range(count):
            table[i, j] = weights[i * block : (i + 1) * block, j * block : (j + 1) * block].sum()
    return table


@pytest.mark.parametrize("tokens", [128, 135])
def test_the_search_is_softmax_weights_added_up_and_the_largest_of_each_row(tokens: int, monkeypatch) -> None:
    """In pieces and in one; heads with recall above the mark give half of their blocks away, row by row alike."""
    q, k, _ = random_qkv(tokens)
    kind = AdaSpa(sparsity=0.75, block=8, recall=0.5)
    blocks, base = kind.blocks((1, 1, tokens)), 4
    found = search_blocks(q, k, kind, SCALE)
    torch.testing.assert_close(found.lse, (q @ k.transpose(-1, -2) * SCALE).logsumexp(-1))
    recalls = torch.zeros(2, 4)
    for clip in range(2):
        for head in range(4):
            table = weights_by_block(q[clip, head], k[clip, head], 8)
            best = table.argsort(dim=1, descending=True, stable=True)
            recalls[clip, head] = table.gather(1, best[:, :base]).sum() / tokens
            count = int(found.kept[clip, head])
            assert torch.equal(found.order[clip, head, :, :count].long().sort().values, best[:, :count].sort().values)
    assert torch.equal(found.kept, blocks_by_head(recalls, blocks, base, 0.5))
    assert set(found.kept.flatten().tolist()) == {2, 4, 6} or set(found.kept.flatten().tolist()) == {2, 6}
    monkeypatch.setattr(at_work, "AT_ONCE", 1)
    pieces = search_blocks(q, k, kind, SCALE)
    assert torch.equal(pieces.order, found.order) and torch.equal(pieces.kept, found.kept)


@pytest.mark.parametrize(
    ("recall", "kept"),
    [
        ([0.9, 0.5, 0.7, 0.6], [2, 6, 4, 4]),  # one head gives half of its blocks to the one that loses most
        ([0.9, 0.85, 0.7, 0.6], [2, 2, 6, 6]),
        ([0.9, 0.85, 0.95, 0.6], [4, 4, 2, 6]),  # three of four: two are among both, and keep theirs
        ([0.9, 0.85, 0.95, 0.99], [4, 4, 4, 4]),
        ([0.1, 0.2, 0.3, 0.4], [4, 4, 4, 4]),
    ],
)
def test_heads_give_and_take_and_the_average_stays(recall: list[float], kept: list[int]) -> None:
    found = blocks_by_head(torch.tensor([recall, recall[::-1]]), 16, 4, 0.8)
    assert found.tolist() == [kept, kept[::-1]] and found.float().mean() == 4
    assert blocks_by_head(torch.tensor([recall]), 16, 13, 0.8).float().mean() == 13  # only three more are there to take


def test_a_later_search_takes_over_the_log_sum_exp() -> None:
    """Algorithm 2: exp(q k - lse) with the lse of the first search, where the scores have moved on."""
    (q, k, _), (other, moved, _) = random_qkv(128), random_qkv(128, seed=5)
    kind = AdaSpa(sparsity=0.75, block=8, recall=1.0)
    first = search_blocks(q, k, kind, SCALE)
    later_q, later_k = q + 0.3 * other, k + 0.3 * moved
    second = search_blocks(later_q, later_k, kind, SCALE, first.lse)
    assert second.lse is first.lse
    table = weights_by_block(later_q[1, 2], later_k[1, 2], 8, first.lse[1, 2])
    best = table.argsort(dim=1, descending=True, stable=True)[:, :4]
    assert torch.equal(second.order[1, 2, :, :4].long(), best)
    assert not torch.equal(search_blocks(later_q, later_k, kind, SCALE).order, second.order)


def masked(q: Tensor, k: Tensor, v: Tensor, found: Found, block: int) -> Tensor:
    """One softmax over a mask that is written by loops."""
    tokens = q.shape[2]
    mask = torch.zeros(*q.shape[:2], tokens, tokens, dtype=torch.bool)
    for clip, head, row in torch.cartesian_prod(*map(torch.arange, found.order.shape[:3])).tolist():
        for column in found.order[clip, head, row, : found.kept[clip, head]].tolist():
            rows, columns = (slice(n * block, (n + 1) * block) for n in (row, column))
            mask[clip, head, rows, columns] = True
    assert torch.equal(dense_block_mask(found, block, tokens), mask)
    scores = (q @ k.transpose(-1, -2) * SCALE).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("grid", [GRID, RAGGED])
@pytest.mark.parametrize("backend", ["dense", "gather", "flex"])
def test_sparse_steps_are_one_softmax_over_the_blocks(backend: str, grid, monkeypatch) -> None:
    """A plan in either order: full, full and searching, sparse, searching again."""
    monkeypatch.setattr(at_work, "AT_ONCE", 2**10)
    tokens, kind = math.prod(grid), AdaSpa(sparsity=0.75, block=8, search_steps=(2, 4), recall=0.5)
    for order in ("thw",) if backend == "flex" else ("thw", "hwt"):
        steps = Steps()
        plan = kind.plan(Place(grid, backend=backend, order=order, steps=steps))
        lse = None
        for step in range(1, 6):
            steps.tick()
            q, k, v = random_qkv(tokens, seed=step)
            out = plan(q, k, v)
            if step <= 2:
                torch.testing.assert_close(out, sdpa(q, k, v), rtol=1e-4, atol=1e-5)
                lse = (q @ k.transpose(-1, -2) * SCALE).logsumexp(-1)
                continue
            if step in (3, 4):
                source = random_qkv(tokens, seed=2 * (step - 2))  # of step 2, then of step 4 with the lse of step 2
                found = search_blocks(*source[:2], kind, SCALE, lse)
            torch.testing.assert_close(out, masked(q, k, v, found, 8), rtol=1e-4, atol=1e-5)
        assert plan.order == order and plan.grid == grid


def test_the_kernels_lists_are_the_blocks() -> None:
    """What flex reads on a card; on the CPU it goes by the mask alone."""
    for tokens in (128, 135):
        q, k, _ = random_qkv(tokens)
        found = search_blocks(q, k, AdaSpa(sparsity=0.75, block=8, recall=0.5), SCALE)
        mask = flex_block_mask(found, 8, tokens)
        blocks = found.order.shape[2]
        seen = torch.zeros(2, 4, blocks, blocks, dtype=torch.bool)
        for counts, index in ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)):
            for clip, head, row in torch.cartesian_prod(*map(torch.arange, counts.shape)).tolist():
                listed = index[clip, head, row, : counts[clip, head, row]].long()
                assert not seen[clip, head, row, listed].any()
                seen[clip, head, row, listed] = True
        assert torch.equal(seen.sum(-1), found.kept[..., None].expand(seen.shape[:3]))
        of_tokens = seen.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :tokens, :tokens]
        assert torch.equal(of_tokens, dense_block_mask(found, 8, tokens))
        assert bool(mask.full_kv_num_blocks.any()) == (tokens == 128)


def test_nothing_left_out_is_full_attention() -> None:
    steps = Steps()
    plan = AdaSpa(sparsity=0, block=8, search_steps=(1,)).plan(Place(RAGGED, backend="gather", steps=steps))
    for seed in (1, 2, 3):
        steps.tick()
        q, k, v = random_qkv(135, seed)
        torch.testing.assert_close(plan(q, k, v, 0.3), sdpa(q, k, v, scale=0.3), rtol=1e-4, atol=1e-5)


TEXTS = torch.randn(2, 2, 12, 64, generator=torch.Generator().manual_seed(1))
START = start(clips=2)
ROW = AttentionParams(kind="adaspa", block=8, sparsity=0.5, search_steps=(2, 4), recall=0.6)


def clips(transformer, start: Tensor, clip: slice = slice(None), scale: float = 3.0) -> Tensor:
    forget_steps(transformer)
    predict = guided(*passes(transformer, TEXTS[:, clip]), scale)
    return denoise(predict, start[clip].clone(), sigma_schedule(6, 3.0, 0.7))


def test_clips_do_not_know_of_each_other_and_passes_neither(wan21) -> None:
    transformer = wan21.transformer().eval().requires_grad_(False)
    full = clips(transformer, START)
    installed = install_gclf(transformer, ROW)
    both = clips(transformer, START)
    assert not torch.allclose(both, full, atol=1e-4)
    assert set(installed.steps.kept) == {(p, n) for p in PASSES for n in (0, 1)}
    one, other = (installed.steps.kept[(name, 1)] for name in PASSES)
    assert not torch.equal(one.lse, other.lse)
    assert torch.equal(clips(transformer, START), both)  # another clip, and this one again: the same to the last bit
    for clip in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(clips(transformer, START, clip), both[clip], rtol=1e-4, atol=1e-5)
    install_gclf(transformer, ROW, order="hwt")
    assert not torch.allclose(clips(transformer, START), both, atol=1e-5)  # blocks of other tokens
    install_gclf(transformer, AttentionParams(kind="adaspa", block=8, sparsity=0, search_steps=(1,)))
    torch.testing.assert_close(clips(transformer, START), full, rtol=1e-4, atol=1e-4)


def test_a_pass_sees_its_own_steps(wan21) -> None:
    """The conditional pass beside an unconditional one is what it is alone, forward by forward."""
    transformer, found = wan21.transformer().eval().requires_grad_(False), []
    install_gclf(transformer, ROW)
    x = [torch.randn(2, 16, 2, 8, 12, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    for beside in (False, True):
        forget_steps(transformer)
        one, other = passes(transformer, TEXTS)
        found.append([])
        with torch.no_grad():
            for y in x:
                if beside:
                    other(y, torch.tensor([0.9, 0.9]))
                found[-1].append(one(y, torch.tensor([0.5, 0.5])))
    for alone, together in zip(*found, strict=True):
        assert torch.equal(alone, together)


def test_another_clip_without_a_word_and_training_are_refused(wan21) -> None:
    transformer = wan21.transformer().requires_grad_(True)
    install_gclf(transformer, ROW)
    with pytest.raises(RuntimeError, match="'adaspa' goes by the steps of a clip and cannot be trained with"):
        transformer(START, torch.tensor([500.0, 500.0]), TEXTS[0])
    transformer.requires_grad_(False)
    forget_steps(transformer)
    for _ in range(2):
        transformer(START, torch.tensor([500.0, 500.0]), TEXTS[0])
    with pytest.raises(ValueError, match=r"searched for \(2, 2, 48\) clips, heads and tokens: call forget_steps"):
        transformer(START[:1], torch.tensor([500.0]), TEXTS[0, :1])


def tables(arm: dict, adapter: dict | None = None):
    params = {"stage1": {}, "adapters": {}, "evaluation": {"reference_arm": "a"}, "generation": {}}
    if adapter:
        params["adapters"] = {"b": {"label": "b", "start": "base"} | adapter}
    return checked_tables(params | {"arms": {"a": {"label": "a", "attention": {"kind": "adaspa"}} | arm}})


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"steps": 30}, r"search_steps \[10, 30\] needs a step after the last, and the pass has 30: .* such as \[6\]"),
        ({"scheduler": "midpoint"}, "scheduler midpoint evaluates between the steps that adaspa counts"),
        ({"step_cache": {"kind": "taylor"}}, "step_cache leaves out steps that attention kind adaspa counts"),
        ({"rope": {"kind": "ar"}}, r"rope ar goes with the attention kinds .*, not with adaspa"),
        ({"method": "freeswim"}, "freeswim is window attention beside full"),
        ({"steps": 40, "strength_mode": "truncated", "strength": 0.5}, "the pass has 20"),
        ({"attention": {"kind": "adaspa", "search_steps": [5, 5]}}, r"search_steps must rise .*, not \[5, 5\]"),
        ({"attention": {"kind": "adaspa", "sparsity": 1.0}}, "less than 1"),
        ({"attention": {"kind": "adaspa", "block": 60}}, "multiple of 8"),
        (
            {
                "method": "cascade",
                "attention": {"kind": "full"},
                "stages": [{"height": 32, "width": 48, "steps": 8, "attention": {"kind": "adaspa"}}],
            },
            r"stages\.0: attention\.search_steps \[10, 30\] needs .* has 8",
        ),
    ],
)
def test_rows_that_cannot_be_are_refused(arm: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        tables(arm)


def test_an_adapter_is_not_trained_with_it() -> None:
    with pytest.raises(ParameterError, match=r"adapters\.b.*'adaspa' goes by the steps of a clip, and training"):
        tables({}, {"attention": {"kind": "adaspa"}})


def test_a_grid_of_too_few_blocks_is_refused(wan21) -> None:
    size = ClipSize(height=64, width=96, frames=5)
    with pytest.raises(ValueError, match=r"arms\.a with adaspa .* leaves nothing out of 48 tokens in 1 blocks of 64"):
        require_fitting_attention(find_model(str(wan21.path)), size, AttentionParams(kind="adaspa"), "arms.a: x")
    require_fitting_attention(find_model(str(wan21.path)), size, ROW, "arms.a: x")


def test_where_it_is_computed() -> None:
    places = {(500, "cpu"): "dense", (5000, "cpu"): "gather", (5000, "cuda"): "dense", (9000, "cuda"): "flex"}
    assert all(block_backend(n, 64, "auto", device) == backend for (n, device), backend in places.items())
    assert block_backend(9000, 72, "auto", "cuda") == "gather" and block_backend(9000, 72, "flex", "cpu") == "flex"
    with pytest.raises(ValueError, match=r"attention\.block to be a multiple of 64, not 72"):
        block_backend(9000, 72, "flex", "cuda")
    with pytest.raises(ValueError, match="unknown attention backend 'fast'"):
        block_backend(9000, 64, "fast", "cuda")
    assert flex_options(torch.device("cpu"), 64) is None


def test_a_plan_counts_full_steps_searches_and_blocks(wan21) -> None:
    """6 steps, searches at 2 and 4, half of 6 blocks: conditional and unconditional each for themselves."""
    row = tables({"attention": ROW.model_dump(), "steps": 6, "guidance_scale": 3.0}).arms["a"]
    load = method_of(row).workload(row, 6, guided=3)
    assert [times for _, times in load.forwards] == [6, 3]
    kind, keys = kind_of(ROW), [attention.keys((2, 4, 6), None, 0) for attention, _ in load.forwards]
    assert kind.keys((2, 4, 6), None, 0) == 24
    assert keys == [pytest.approx((2 * 48 + 2 * 24 + 4 * 24) / 6), pytest.approx((2 * 48 + 1 * 24 + 1 * 24) / 3)]
    kernels = load.forwards[0][0].kernels((2, 4, 6), None, 0, "cuda")
    assert kernels == {"sdpa": pytest.approx(16), "masked": pytest.approx(8 + 4 / 6 * 48)}
    assert kind.kept_bytes((2, 4, 6), 2) == 2 * (4 * 48 + 2 * 6 * (3 + 1))
    model = wan21.model()
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("h100"))
    mean, full = (costs.forward(model.target, a) for a in (load.forwards[0][0], AttentionParams()))
    assert mean.seconds > 0 and mean.teraflops < full.teraflops
    assert costs.kept_in_attention(model.target, ROW) == 2 * kind.kept_bytes((2, 4, 6), 2)
    assert costs.kept_in_attention(model.target, AttentionParams()) == 0
    found = tables({"attention": ROW.model_dump(), "steps": 6, "guidance_scale": 3.0})
    generation = GenerationParams(prompts="miniature")
    planned = arm_row(costs=costs, name="a", arm=row, tables=found, generation=generation, clips=1)
    assert planned.keys_per_query == pytest.approx((2 * 48 + 2 * 24 + 4 * 24) / 6)
    large = AdaSpa().during(50).kernels((21, 68, 120), None, 0, "cuda")
    assert large["flex"] == pytest.approx(0.8 * 0.2 * 21 * 68 * 120, rel=0.01) and large["sdpa"] == 0.2 * 21 * 68 * 120


def test_the_entry() -> None:
    assert attention_words(AttentionParams(kind="adaspa")) == (
        "adaspa (80% of blocks of 64 left out, searched at step 10, 30)"
    )
    assert AdaSpa(recall=1).words()[1] == "all heads alike"
    with pytest.raises(ValidationError, match="sparsity belongs to adaspa, not to attention kind 'gclf'"):
        AttentionParams(kind="gclf", sparsity=0.5)
