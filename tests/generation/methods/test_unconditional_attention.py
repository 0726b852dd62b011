"""Guidance whose pass without the prompt attends by the window alone: as two transformers, each with its attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.dense_gclf import install_dense_gclf
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.flow import add_noise, seeded_noise, sigma_schedule
from vibe_pipeline.diffusion.mag_cache import Mag
from vibe_pipeline.diffusion.models import (
    decode_video,
    encode_video,
    find_model,
    load_transformer,
    load_vae,
    velocity_predictor,
)
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.rope import Ar, install_rope
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.diffusion.step_cache import FirstBlock, Pyramid, Taylor, in_context, install_step_cache
from vibe_pipeline.diffusion.step_cache_base import StepCache
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.generation.methods import checked_tables, method_of
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.generation.text_cache import text_cache
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

CPU, PROMPT, SEED, STEPS = torch.device("cpu"), "a striped red circle moving left over woven navy", 3, 6
GRID, HALF = (2, 4, 6), (1, 1)
TEXTS = torch.randn(2, 1, 12, 64, generator=torch.Generator().manual_seed(1))
START = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(2))
GENERATION = GenerationParams(prompts="miniature")
FULL, GCLF, WINDOW = (AttentionParams(kind=kind) for kind in ("full", "gclf", "window"))
DEEP = AttentionParams(kind="gclf", deep_from=1, deep_pool=0)
NONE = StepCache()


def a_pass(transformer: WanTransformer3DModel, name: str) -> Predict:
    text = TEXTS[int(name == "unconditional")]
    return in_context(transformer, name, velocity_predictor(transformer, text, False, torch.float32))


def clip(conditional: WanTransformer3DModel, unconditional: WanTransformer3DModel, interval: Any = None) -> Tensor:
    both = a_pass(conditional, "conditional"), a_pass(unconditional, "unconditional")
    return denoise(guided(*both, 3.0, interval), START.clone(), sigma_schedule(STEPS, 3.0, 0.9))


@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("attention", [GCLF, FULL, DEEP])
@pytest.mark.parametrize("cache", [NONE, Taylor(2, 1, 1), FirstBlock(0.3), Pyramid(2, 2, (0.0, 1.0)), Mag()])
def test_it_is_what_two_transformers_give(wan21, cache: StepCache, attention: AttentionParams, order: Any) -> None:
    """Each pass keeps its own steps, and comes back in its own order."""
    if isinstance(cache, Mag):
        calls = {"conditional": STEPS, "unconditional": STEPS}
        cache = Mag(tolerance=0.5, retain=0.2).with_ratios({name: [0.9] * STEPS for name in calls}, calls)
    one, conditional, other = (wan21.transformer().eval().requires_grad_(False) for _ in range(3))
    install_gclf(one, attention, (2, 3), "gather", order, always=True).narrow("unconditional")
    install_gclf(conditional, attention, (2, 3), "dense")
    install_gclf(other, WINDOW, (2, 3), "dense")
    if cache is not NONE:
        for each in (one, conditional, other):
            install_step_cache(each, cache)
    expected = clip(conditional, other)
    torch.testing.assert_close(clip(one, one), expected, rtol=1e-3, atol=1e-4)
    assert (expected - clip(conditional, conditional)).abs().max() > 1e-2 or cache is not NONE


def test_positions_by_tiles_are_kept_in_both_passes(wan21) -> None:
    kind = Ar(tile=(2, 2), reach=(2, 2), near=(1, 1))
    made = []
    for attention in (FULL, FULL, WINDOW):
        made.append(wan21.transformer().eval().requires_grad_(False))
        install_rope(made[-1], kind, (2, 3))
        install_gclf(made[-1], attention, (2, 3), rope=kind)
    made[0].blocks[0].attn1.processor.installation.narrow("unconditional")
    torch.testing.assert_close(clip(made[0], made[0]), clip(made[1], made[2]), rtol=1e-4, atol=1e-5)


@pytest.fixture
def native(tmp_path: Path) -> pd.DataFrame:
    frames = np.random.default_rng(0).random((5, 32, 48, 3), np.float32)
    path = write_lossless(tmp_path / "native.mp4", frames, 8)
    row = {"prompt_index": 0, "prompt": PROMPT, "seed": SEED, "key": "n", "path": str(path)}
    return pd.DataFrame([row | {"preview_path": "", "seconds": 1.0}])


@pytest.mark.parametrize("interval", [None, (0.6, 0.9)])
def test_an_arm_of_two_experts_by_hand(a14b, native: pd.DataFrame, tmp_path: Path, interval: Any) -> None:
    """Dense masks on four transformers, guided by 3 above sigma 0.875 and by 2 below, where it is guided at all."""
    row: dict[str, Any] = {"label": "a", "steps": 4, "strength": 0.7, "guidance_scale": 3.0, "guidance_scale_2": 2.0}
    row |= {"attention": GCLF, "guidance_interval": interval, "unconditional_attention": "window"}
    model = a14b.model()
    made = arm_clips("a", ArmParams(**row), native, None, None, model, GENERATION, tmp_path)
    checkpoint, texts = find_model(model.path), text_cache(model, tmp_path)
    vae, experts = load_vae(checkpoint, CPU), {}
    for part in checkpoint.experts:
        for name, pool in (("conditional", 2), ("unconditional", 0)):
            experts[part, name] = load_transformer(checkpoint, CPU, torch.float32, None, part)
            install_dense_gclf(experts[part, name], GRID, HALF, pool)
    frames = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
    x, sigmas = encode_video(vae, enlarge(frames, 64, 96)), sigma_schedule(4, 5.0, 0.7)
    x = add_noise(x, seeded_noise(tuple(x.shape[1:]), PROMPT, SEED)[None], sigmas[:1])
    for sigma, after in zip(sigmas.tolist(), sigmas[1:].tolist(), strict=False):
        part, scale = ("transformer", 3.0) if sigma >= 0.875 else ("transformer_2", 2.0)
        with torch.no_grad():
            bound, free = (
                experts[part, name](x, torch.tensor([1000 * sigma]), texts.load([prompt]), return_dict=False)[0]
                for name, prompt in (("conditional", PROMPT), ("unconditional", GENERATION.negative_prompt))
            )
        velocity = free + scale * (bound - free)
        x = x + (after - sigma) * (velocity if interval is None or 0.6 <= sigma <= 0.9 else bound)
    expected = decode_video(vae, x)[0].permute(1, 2, 3, 0).numpy()
    found = read_clip(Path(made["path"][0]))
    assert np.abs(found - expected).max() <= 1.01 / 255
    plain = arm_clips(
        "b", ArmParams(**row | {"unconditional_attention": None}), native, None, None, model, GENERATION, tmp_path
    )
    assert np.abs(found - read_clip(Path(plain["path"][0]))).max() > 1 / 255


def rows(arm: dict[str, Any]) -> dict[str, Any]:
    tables = {"stage1": {}, "adapters": {}, "arms": {"a": {"label": "a"} | arm}}
    return tables | {"evaluation": {"reference_arm": "a"}, "generation": {}}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"guidance_scale": 1.0}, "which guidance_scale 1 leaves out: raise guidance_scale"),
        ({"attention": {"kind": "window"}}, "beside the attention kinds full, gclf, proxy, not beside window"),
        ({"attention": {"kind": "t3"}}, "beside the attention kinds full, gclf, proxy, not beside t3"),
        ({"attention": {"kind": "adaspa"}}, "not beside adaspa"),
        ({"attention": {"kind": "freelong"}}, "not beside freelong"),
        ({"method": "freeswim", "attention": {"kind": "window"}}, "not beside window"),
        ({"method": "upsample"}, "method 'upsample' runs no transformer: unconditional_attention would do nothing"),
        ({"region_adaptive": {}}, "region_adaptive does not tell attention which guidance pass runs"),
        ({"unconditional_attention": "gclf"}, r"arms\.a\.unconditional_attention: .*'window'"),
    ],
)
def test_what_cannot_be_is_refused(arm: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as refused:
        checked_tables(rows({"unconditional_attention": "window"} | arm))
    assert "\n" not in str(refused.value)


def test_a_row_says_it_and_one_expert_that_is_guided_is_enough() -> None:
    arm = {"unconditional_attention": "window", "guidance_scale": 1.0, "guidance_scale_2": 3.0}
    row = checked_tables(rows(arm)).arms["a"]
    assert "guidance 1, 3 of the low-noise expert, without the prompt by the window alone" in method_of(row).describe(
        row
    )


def test_the_plan_counts_keys_and_operations_of_each_pass(wan21) -> None:
    model = wan21.model()
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("h100"))
    tables = checked_tables(rows({}))

    def plan(**arm: Any):
        row = ArmParams(**{"label": "a", "steps": 10, "attention": GCLF, "strength": 1.0} | arm)
        return arm_row(costs=costs, name="a", arm=row, tables=tables, generation=GENERATION, clips=1)

    gclf, window = 2 * 3 * 3 + 12, 2 * 3 * 3
    both, narrow = plan(), plan(unconditional_attention="window")
    assert (both.keys_per_query, narrow.keys_per_query) == (gclf, (gclf + window) / 2)
    config = costs.architecture.transformer
    width = config["num_attention_heads"] * config["attention_head_dim"]
    one = 4 * 48 * width * config["num_layers"] * (gclf - window) / 1e12  # what a forward saves
    assert both.teraflops - narrow.teraflops == pytest.approx(10 * one, rel=1e-6)
    shares = {"guidance_interval": (0.9, 1.0), "flow_shift": 1.0}  # of levels 1, 0.9, ..., 0.1 two are guided
    few, fewer = plan(**shares), plan(**shares, unconditional_attention="window")
    assert fewer.keys_per_query == pytest.approx((10 * gclf + 2 * window) / 12)
    assert few.teraflops - fewer.teraflops == pytest.approx(2 * one, rel=1e-6)
    # Where a cache stands in for half of the attention, half is saved.
    cached = {"step_cache": {"kind": "pyramid", "between": (0.0, 1.0)}}
    kept, less = plan(**cached), plan(**cached, unconditional_attention="window")
    assert kept.teraflops - less.teraflops == pytest.approx(5 * one, rel=1e-6)
    assert less.memory_gb == kept.memory_gb
