"""Step caches: which forwards are computed, what stands in for the others, guidance's two passes apart."""

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.passes import TEXTS, passes, predictors, start
from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf
from vibe_pipeline.diffusion.attention_flops import WHICH, count_attention
from vibe_pipeline.diffusion.flops import adapters_on
from vibe_pipeline.diffusion.flow import noise_levels, sigma_schedule
from vibe_pipeline.diffusion.lora import add_adapter
from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.diffusion.step_cache import (
    FirstBlock,
    Pyramid,
    Taylor,
    forget_steps,
    in_context,
    install_step_cache,
    remove_step_cache,
)
from vibe_pipeline.diffusion.step_cache_base import StepCache
from vibe_pipeline.diffusion.weights import on_meta

STEPS = 8


def clip(predict: Predict) -> Tensor:
    return denoise(predict, start(), sigma_schedule(STEPS, 3.0, 0.7))


def counting(transformer: WanTransformer3DModel) -> list[int]:
    """How often the last block's feed-forward layer is at work."""
    calls: list[int] = []
    transformer.blocks[-1].ffn.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_without_a_cache_not_a_bit_changes_and_after_one_neither(transformer) -> None:
    plain = predictors(transformer)
    before = clip(guided(*plain, 3.0))
    assert torch.equal(clip(guided(*passes(transformer), 3.0)), before)
    install_step_cache(transformer, Taylor())
    assert not torch.equal(clip(guided(*passes(transformer), 3.0)), before)
    remove_step_cache(transformer)
    assert torch.equal(clip(guided(*passes(transformer), 3.0)), before)
    assert not any(hasattr(module, "_diffusers_hook") for module in transformer.modules())


@pytest.mark.parametrize("cache", [Taylor(), Taylor(3, 1, 2), Taylor(2, 4, 0)])
def test_as_many_forwards_are_computed_as_the_plan_counts(transformer, cache: Taylor) -> None:
    calls = counting(transformer)
    install_step_cache(transformer, cache)
    clip(passes(transformer)[0])
    assert len(calls) == cache.computed(STEPS) < StepCache().computed(STEPS)
    forget_steps(transformer)
    calls.clear()
    clip(guided(*passes(transformer), 3.0))
    assert len(calls) == 2 * cache.computed(STEPS)


@pytest.mark.parametrize("order", [0, 1])
def test_what_stands_in_is_the_expansion_of_the_last_outputs(transformer, order: int) -> None:
    """By hand: the last output, and its slope between the last two that were computed."""
    cache = Taylor(interval=2, before=3, order=order)
    plain, seen = predictors(transformer)[0], []

    def by_hand(x: Tensor, sigma: Tensor) -> Tensor:
        step = by_hand.step = getattr(by_hand, "step", -1) + 1
        if step < 3 or (step - 4) % 2 == 0:
            seen.append((step, plain(x, sigma)))
            return seen[-1][1]
        (one, before), (two, last) = seen[-2:]
        return last + (step - two) * (last - before) / (two - one) * (order == 1)

    expected = clip(by_hand)
    install_step_cache(transformer, cache)
    torch.testing.assert_close(clip(passes(transformer)[0]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cache", [Taylor(2, 1, 1), FirstBlock(0.3), Pyramid(2, 3, (0.0, 1.0))])
def test_the_passes_of_guidance_do_not_mix(wan21, transformer, cache: StepCache) -> None:
    """As two transformers of the same weights, each with a cache of its own."""
    other = wan21.transformer().eval().requires_grad_(False)
    for each in (transformer, other):
        install_step_cache(each, cache)
    together = clip(guided(*passes(transformer), 3.0))
    forget_steps(transformer)
    apart = clip(guided(passes(transformer)[0], passes(other)[1], 3.0))
    assert torch.equal(together, apart)
    remove_step_cache(other)


@pytest.mark.parametrize("cache", [FirstBlock(0.5), Pyramid(3, 1, (0.0, 1.0))])
def test_the_next_clip_takes_nothing_over(transformer, cache: StepCache) -> None:
    install_step_cache(transformer, cache)
    first = clip(passes(transformer)[0])
    forget_steps(transformer)
    assert torch.equal(clip(passes(transformer)[0]), first)


def test_first_block_leaves_out_blocks_by_its_threshold(transformer) -> None:
    calls = counting(transformer)
    plain = clip(passes(transformer)[0])
    install_step_cache(transformer, FirstBlock(1e-9))
    assert torch.equal(clip(passes(transformer)[0]), plain) and len(calls) == 2 * STEPS
    remove_step_cache(transformer)
    calls.clear()
    install_step_cache(transformer, FirstBlock(1e9))
    clip(passes(transformer)[0])
    assert len(calls) == 1


@pytest.mark.parametrize("cache", [Taylor(2, 1, 1), Pyramid(2, 2, (0.0, 1.0))])
def test_with_our_attention_the_tokens_come_back_in_their_order(transformer, cache: StepCache) -> None:
    """An output that stands in is in the transformer's order, which the last hook turns back."""
    settings, found = GclfSettings("window", (1, 2), 0), []
    for order in ("thw", "hwt"):
        install_gclf(transformer, settings, (2, 3), "gather", order)
        install_step_cache(transformer, cache)
        found.append(clip(passes(transformer)[0]))
        remove_step_cache(transformer)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_pyramid_gives_what_attention_gave_before_within_its_noise_levels(transformer) -> None:
    """By hand: an attention layer whose last output stands in at every second forward between the two sigmas."""
    sigmas, low, high = sigma_schedule(STEPS, 3.0, 0.7), 0.2, 0.6
    count = {"attn1": 0, "attn2": 0}

    def by_hand(predict: Predict) -> Predict:
        kept: dict[int, Tensor] = {}
        step = -1

        def hold(module, _, output):
            if step and low < sigma_now < high and step % 2:
                return kept[id(module)]
            kept[id(module)] = output
            return None

        for block in transformer.blocks:
            handles.append(block.attn1.register_forward_hook(hold))

        def within(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal step, sigma_now
            step, sigma_now = step + 1, float(sigma[0])
            return predict(x, sigma)

        return within

    handles, sigma_now = [], 1.0
    expected = denoise(by_hand(passes(transformer)[0]), start(), sigmas)
    for handle in handles:
        handle.remove()
    assert not torch.equal(expected, clip(passes(transformer)[0]))
    cache = Pyramid(2, 1, (low, high))
    install_step_cache(transformer, cache)
    for name in count:
        inner = getattr(transformer.blocks[0], name)
        inner.to_out[0].register_forward_hook(lambda *_, name=name: count.__setitem__(name, count[name] + 1))
    assert torch.equal(clip(passes(transformer)[0]), expected)
    left_out = sum(low < float(s) < high and i % 2 == 1 for i, s in enumerate(sigmas[:-1]))
    assert 0 < left_out < STEPS / 2 and count == {"attn1": STEPS - left_out, "attn2": STEPS}
    assert cache.reused(noise_levels(STEPS, 3.0, 0.7)) == (left_out, 0)
    assert (cache.held(30), Pyramid(cross_every=2).held(30)) == (30, 60)
    with pytest.raises(ValueError, match=r"step_cache\.between 0\.8 to 0\.1 holds no noise level"):
        Pyramid(between=(0.8, 0.1))


def operations(transformer: WanTransformer3DModel, sigmas: Sequence[float]) -> float:
    """Of a pass over a grid of 4 x 6 x 10 tokens, by torch's counter; nothing is computed."""

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        return transformer(x, torch.full((1,), 500.0, device="meta"), TEXTS[0].to("meta"), return_dict=False)[0]

    within = in_context(transformer, "conditional", predict)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for sigma in sigmas:
            within(torch.empty(1, 16, 4, 12, 20, device="meta"), torch.tensor([sigma]))
    return counter.get_total_flops()


@pytest.mark.parametrize("cache", [Pyramid(2, 1, (0.2, 0.6)), Pyramid(3, 2, (0.0, 0.9))])
def test_what_pyramid_saves_is_what_torch_counts(wan21, cache: Pyramid) -> None:
    """The attention that an earlier forward stands in for, with its projections and an adapter beside them."""
    config = find_model(str(wan21.path)).config_of("transformer")
    levels = noise_levels(STEPS, 3.0, 0.7)
    transformer = on_meta("transformer", config)
    add_adapter(transformer, "own", 4, 8.0, ("to_q", "to_out.0", "ffn.net.2"), 0)
    whole = operations(transformer, levels)
    install_step_cache(transformer, cache)
    found = operations(transformer, levels)
    keys, saved = [4.0 * 6 * 10] * config["num_layers"], 0.0
    for which, times in zip(WHICH, cache.reused(levels), strict=True):
        saved += times * sum(count_attention(config, (4, 6, 10), 12, keys, adapters_on(transformer), which))
    assert whole - found == saved > 0


def test_a_transformer_that_had_a_cache_goes_without_the_garbage_collector(wan21) -> None:
    gc.disable()
    try:
        transformer = wan21.transformer()
        for cache in (Taylor(), Pyramid()):
            install_step_cache(transformer, cache)
            remove_step_cache(transformer)
        reference = weakref.ref(transformer)
        del transformer
        assert reference() is None
    finally:
        gc.enable()
