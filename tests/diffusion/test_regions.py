"""Region-adaptive sampling: against full forwards with the same selection and stale keys, and what it costs."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor

from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf, inward_window_mask, make_plan, remove_gclf
from vibe_pipeline.diffusion.attention.geometry import Windows, reorder_tokens
from vibe_pipeline.diffusion.attention.processor import _project
from vibe_pipeline.diffusion.attention.rotary import rotate
from vibe_pipeline.diffusion.attention.some import Some, attend_some
from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.diffusion.models import velocity_predictor
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.regions import Regions, RegionSchedule, install_regions, token_scores
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.experiment.region_adaptive import RegionAdaptiveParams

STEPS = 8
GRID = (2, 4, 6)
TOKENS = math.prod(GRID)
TEXTS = torch.randn(2, 2, 12, 64, generator=torch.Generator().manual_seed(1))
START = torch.randn(2, 16, 2, 8, 12, generator=torch.Generator().manual_seed(2))
FULL, WINDOW, GCLF = GclfSettings("full"), GclfSettings("window", (1, 2), 0), GclfSettings("gclf", (1, 2), 2)
PROXY = GclfSettings("proxy", (1, 2), 2)


def schedule(**changes: Any) -> RegionSchedule:
    return RegionAdaptiveParams(**({"share": 0.4, "start": 2, "every": 3, "starvation": 0.3} | changes)).schedule


@pytest.fixture
def transformer(wan21) -> Iterator[WanTransformer3DModel]:
    made = wan21.transformer().eval().requires_grad_(False)
    yield made
    remove_gclf(made)


def clip(
    transformer: WanTransformer3DModel,
    regions: Regions | None,
    interval: tuple[float, float] | None = None,
    first_frame: bool = False,
    scheduler: str = "euler",
    items: slice = slice(None),
) -> Tensor:
    passes: list[Predict] = []
    for name, text in zip(("conditional", "unconditional"), TEXTS[:, items], strict=True):
        predict = velocity_predictor(transformer, text, first_frame, torch.float32, first_frame)
        passes.append(predict if regions is None else regions.within(name, predict))
    predict = guided(*passes, 3.0, interval)
    if regions is not None:
        regions.begin(STEPS)
        predict = regions.stepping(predict)
    frame = START[items, :, :1] if first_frame else None
    return denoise(predict, START[items].clone(), sigma_schedule(STEPS, 3.0, 0.7), scheduler, first_frame=frame)


class Slow:
    """The algorithm in plain lines: every forward runs all tokens, and what is left out is put back block by block.

    A block's self-attention sees, for a token left out, the key and value of its last forward; the velocity of a token
    left out is that of its last forward. What else the forward makes of such a token is thrown away.
    """

    def __init__(self, transformer: WanTransformer3DModel, settings: GclfSettings, plan: RegionSchedule) -> None:
        self.transformer, self.settings, self.plan = transformer, settings, plan
        self.kept: dict[str, dict[Any, Tensor]] = {}
        self.ran: dict[str, int] = {}
        self.step, self.active, self.dropped = 0, None, None
        self.name, self.partial = "", False
        for layer, block in enumerate(transformer.blocks):
            block.attn1.set_processor(self.processor(layer))

    def mask(self) -> Tensor:
        if self.settings.kind == "full":
            return torch.ones(TOKENS, TOKENS, dtype=torch.bool)
        return inward_window_mask(GRID, self.settings.half_window)

    def processor(self, layer: int) -> Any:
        def attend(attn, x, text=None, attention_mask=None, rotary=None):
            q, k, v = (y.unflatten(2, (attn.heads, -1)) for y in _project(attn, x))
            q, k = rotate(q, *rotary), rotate(k, *rotary)
            memory = self.kept[self.name]
            if self.partial:
                stale = ~self.active[:, :, None, None]
                k, v = torch.where(stale, memory["k", layer], k), torch.where(stale, memory["v", layer], v)
            memory["k", layer], memory["v", layer] = k, v
            keys, values, mask = k, v, self.mask()
            if self.settings.kind == "gclf":
                boxes = [y.unflatten(1, (2, 2, 2, 3, 2)).mean(dim=(3, 5)).flatten(1, 3) for y in (k, v)]
                keys, values = torch.cat([k, boxes[0]], 1), torch.cat([v, boxes[1]], 1)
                mask = torch.cat([mask, torch.ones(TOKENS, boxes[0].shape[1], dtype=torch.bool)], 1)
            scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) / math.sqrt(q.shape[-1])
            weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
            return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, values).flatten(2))

        return attend

    def within(self, name: str, predict: Predict) -> Predict:
        def run(x: Tensor, sigma: Tensor) -> Tensor:
            memory = self.kept.setdefault(name, {})
            self.name, self.partial = name, self.active is not None and self.ran.get(name) == self.step - 1
            self.ran[name] = self.step
            out = predict(x, sigma)
            if self.partial:
                cells = self.active.view(-1, *GRID).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
                out = torch.where(cells, out, memory["out"])
            memory["out"] = out
            return out

        return run

    def begin(self, steps: int) -> None:
        self.steps = steps

    def stepping(self, predict: Predict) -> Predict:
        def run(x: Tensor, sigma: Tensor) -> Tensor:
            out = predict(x, sigma)
            following, self.active = self.step + 1, None
            if following >= self.plan.start and (following - self.plan.start + 1) % self.plan.every:
                std = out.std(1).unflatten(2, (4, 2)).unflatten(4, (6, 2)).mean(dim=(3, 5)).flatten(1).double()
                self.dropped = torch.zeros_like(std) if self.dropped is None else self.dropped
                sign = {"low": -1, "high": 1}[self.plan.active]
                score = std * torch.exp(sign * self.plan.starvation * self.dropped)
                wanted = TOKENS - int((1 - self.plan.share) * TOKENS + 1e-9)
                ranked = score.sort(dim=1, descending=sign == 1).values
                edge = ranked[:, wanted - 1 : wanted]
                self.active = score >= edge if sign == 1 else score <= edge
                assert (self.active.sum(1) == wanted).all()
                self.dropped = self.dropped + ~self.active
            self.step += 1
            return out

        return run


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("backend", ["dense", "gather", "flex"])
@pytest.mark.parametrize("settings", [WINDOW, GCLF, PROXY], ids=lambda s: s.kind)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_some_queries_are_those_of_the_plan(settings: GclfSettings, backend: str, order: str) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 2, 2, 96, 16, generator=generator)
    plan = make_plan(Windows((2, 6, 8), (1, 2), settings.pool, order, settings.kind == "proxy"), backend)
    index = torch.stack([torch.randperm(96, generator=generator)[:29].sort().values for _ in range(2)])
    some = Some(index)
    expected = some.of(plan(q, k, v), 2)
    for _ in range(2):
        torch.testing.assert_close(attend_some(plan, some.of(q, 2), k, v, some), expected)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [(FULL, {}), (FULL, {"active": "high"}), (WINDOW, {"starvation": 0.0, "share": 0.7}), (GCLF, {})],
    ids=str,
)
def test_it_is_the_slow_reference(wan21, transformer, settings: GclfSettings, changes: dict) -> None:
    """Both guidance passes, each with an interval in which the second is begun anew with all tokens."""
    other = wan21.transformer().eval().requires_grad_(False)
    expected = clip(other, Slow(other, settings, schedule(**changes)), (0.2, 0.8))
    for order in ("thw", "hwt") if settings is not FULL else (None,):
        install_gclf(transformer, settings, (2, 3), order=order)
        regions = install_regions(transformer, schedule(**changes), settings, (2, 3))
        torch.testing.assert_close(clip(transformer, regions, (0.2, 0.8)), expected, rtol=1e-4, atol=1e-4)
        regions.detach()


def test_a_timestep_a_token_and_an_adapter_and_two_orders_of_solvers(wan21, transformer) -> None:
    other = wan21.transformer().eval().requires_grad_(False)
    for one in (other, transformer):
        torch.manual_seed(4)
        one.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "ffn.net.2"], init_lora_weights=False))
    for scheduler in ("euler", "unipc"):
        expected = clip(other, Slow(other, GCLF, schedule()), first_frame=True, scheduler=scheduler)
        for order in ("thw", "hwt"):
            install_gclf(transformer, GCLF, (2, 3), order=order)
            regions = install_regions(transformer, schedule(), GCLF, (2, 3))
            found = clip(transformer, regions, first_frame=True, scheduler=scheduler)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            regions.detach()


@pytest.mark.parametrize("settings", [FULL, GCLF], ids=lambda s: s.kind)
def test_all_tokens_are_plain_sampling_and_nothing_stays(transformer, settings: GclfSettings) -> None:
    install_gclf(transformer, settings, (2, 3))
    plain = clip(transformer, None)
    regions = install_regions(transformer, schedule(share=1.0), settings, (2, 3))
    torch.testing.assert_close(clip(transformer, regions), plain, rtol=1e-5, atol=1e-5)
    regions.detach()
    install_gclf(transformer, settings, (2, 3))
    assert torch.equal(clip(transformer, None), plain)
    names = ("rope", "patch_embedding", "condition_embedder", "proj_out")
    remove_gclf(transformer)
    assert not any(getattr(transformer, n)._forward_hooks for n in names)


def test_as_many_tokens_as_the_plan_counts(transformer) -> None:
    """Steps 0 and 1 are the start, 4 and 7 full; a second pass that begins later begins in full."""
    plan, sigmas = schedule(), sigma_schedule(STEPS, 3.0, 0.7)
    regions, seen = install_regions(transformer, plan, FULL, (2, 3)), []
    transformer.blocks[-1].ffn.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    some = TOKENS - int(0.6 * TOKENS)
    assert some == plan.tokens(TOKENS) == 20
    clip(transformer, regions)
    steps = [TOKENS, TOKENS, some, some, TOKENS, some, some, TOKENS]
    assert seen == [n for n in steps for _ in range(2)]
    assert seen.count(some) == 2 * plan.partial_forwards([True] * STEPS) == 8
    asked = [0.3 <= float(s) <= 0.8 for s in sigmas[:-1]]
    begun = asked.index(True)
    assert asked.count(True) < STEPS and plan.partial(begun)  # and yet in full
    seen.clear()
    clip(transformer, regions, (0.3, 0.8))
    second = [TOKENS if i == begun else steps[i] for i in range(STEPS)]
    assert seen == [n for i in range(STEPS) for n in ([second[i], steps[i]] if asked[i] else [steps[i]])]
    assert seen.count(some) == plan.partial_forwards([True] * STEPS) + plan.partial_forwards(asked)
    assert plan.partial_forwards([False, False, True, True, False, False, True, False]) == 1


def test_a_clip_does_not_depend_on_those_beside_or_before_it(transformer) -> None:
    install_gclf(transformer, GCLF, (2, 3), "gather")
    regions = install_regions(transformer, schedule(), GCLF, (2, 3))
    both = clip(transformer, regions)
    assert torch.equal(clip(transformer, regions), both)
    for i in range(2):
        alone = clip(transformer, regions, items=slice(i, i + 1))
        torch.testing.assert_close(alone, both[i : i + 1], rtol=1e-4, atol=1e-5)


def test_no_token_is_left_out_for_ever() -> None:
    """Scores that never change: without starvation the same half is active, with it every token in turn."""
    score = torch.linspace(1, 2, 10)[None]
    for active in ("low", "high"):
        for starvation in (0.0, 0.5):
            plan, times, left_out = schedule(share=0.5, starvation=starvation, active=active), [], torch.zeros(1, 10)
            for _ in range(8):
                chosen = plan.chosen(score, left_out)
                times.append(chosen)
                left_out = left_out + ~chosen
            often = torch.cat(times).sum(0)
            assert (often > 0).all() == (starvation > 0) and often.sum() == 40
            best = score.argsort(descending=active == "high")[0, 0]
            assert often[best] == often.max()


def test_scores_are_deviations_over_channels_averaged_over_patches() -> None:
    velocity = torch.randn(2, 5, 2, 4, 6, generator=torch.Generator().manual_seed(5))
    found = token_scores(velocity, (1, 2, 2)).view(2, 2, 2, 3)
    patch = velocity[1, :, 1, 2:4, 2:4]
    expected = torch.stack([patch[:, i, j].std() for i in range(2) for j in range(2)]).mean()
    torch.testing.assert_close(found[1, 1, 1, 1], expected)
    assert torch.equal(reorder_tokens(found.flatten(1), (2, 2, 3), 1, "hwt")[0, :2], found[0, :, 0, 0])


def test_defaults_are_those_of_the_source() -> None:
    plan = RegionAdaptiveParams().schedule
    assert [i for i in range(30) if not plan.partial(i)] == [0, 1, 2, 3, 12, 21]
    assert (plan.share, plan.starvation, plan.tokens(4096)) == (0.5, 0.1, 2048)
    assert [schedule(share=s).tokens(10) for s in (0.1, 0.3, 0.9, 0.95, 1.0)] == [1, 3, 9, 10, 10]
