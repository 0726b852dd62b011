"""The second pass on the way that a bridge adapter learned: its start, its levels, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.generation.methods.test_cascade import PROMPT, ByHand, made, native  # noqa: F401  a fixture
from vibe_pipeline.diffusion.bridge import bridge_schedule, bridge_start, start_sigmas
from vibe_pipeline.diffusion.flow import seeded_noise
from vibe_pipeline.diffusion.models import encode_video
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.generation.clip_settings import arm_sampling
from vibe_pipeline.generation.methods import checked_tables, method_of
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.io.video import read_clip

LITERAL = {"objective": {"bridge_literal": 1.0}, "bridge": {}}
STARTS: list[dict[str, Any]] = [
    {},
    {"form": "literal"},
    {"form": "literal", "noise": False},
    {"sigma_start": 0.6},
    {"ddpm_step": 700},
]


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_a_pass_is_five_steps_from_the_start_of_the_way(wan21, native, tmp_path: Path, start: dict) -> None:  # noqa: F811
    model = wan21.model()
    found = made({"bridge": start, "steps": 5}, native, model, tmp_path)
    hand = ByHand(model, tmp_path)
    clip = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
    latent = encode_video(hand.vae, enlarge(clip, 64, 96))
    form, step = start.get("form", "wan"), start.get("ddpm_step", 675)
    sigma = 0.0 if start.get("noise") is False else start.get("sigma_start", start_sigmas(step, step)[0])
    x = bridge_start(latent, seeded_noise((16, 2, 8, 12), PROMPT, 3)[None], torch.tensor([sigma]), form)
    expected = hand.shown(hand.run(x, bridge_schedule(5, sigma, form)))
    assert np.abs(found - expected).max() <= 1.01 / 255


def rows(arm: dict[str, Any], adapter: dict[str, Any] | None = None) -> dict[str, Any]:
    adapters = {} if adapter is None else {"b": {"label": "b", "start": "base"} | adapter}
    own = {"label": "a"} | ({} if adapter is None else {"adapter": "b"}) | arm
    tables = {"stage1": {}, "adapters": adapters, "arms": {"a": own}, "evaluation": {"reference_arm": "a"}}
    return tables | {"generation": {}}


@pytest.mark.parametrize(
    ("arm", "adapter", "message"),
    [
        ({"bridge": {}, "strength": 0.5}, None, r"arms\.a: bridge says where the pass starts, strength too"),
        ({"bridge": {}, "strength_mode": "truncated"}, None, "strength_mode too"),
        ({"bridge": {"noise": False}}, None, "noise: false is a start of the literal form alone"),
        ({"method": "direct", "bridge": {}}, None, "bridge belongs to refine and freeswim, not to method 'direct'"),
        ({"bridge": {"form": "literal"}}, None, r"arms\.a\.bridge: the literal form needs an adapter"),
        ({}, LITERAL, "learned the literal bridge alone; give the arm `bridge: {form: literal}`"),
        (
            {"bridge": {"sigma_start": 0.9}},
            {"objective": {"bridge": 1.0}, "bridge": {}},
            r"starts at sigma 0\.900, and adapter 'b' was trained from 0\.765 to 0\.844: set ddpm_step or sigma_start",
        ),
    ],
)
def test_passes_that_no_adapter_learned_are_refused(arm: dict, adapter: dict | None, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        checked_tables(rows(arm, adapter))


def test_passes_that_fit_their_adapter_are_taken_and_described() -> None:
    wan = {"objective": {"bridge": 1.0}, "bridge": {}}
    for arm, adapter in (
        ({"bridge": {}}, wan),
        ({"strength": 0.4}, wan),  # any start of the plain schedule: the noise levels are Wan's own
        ({"bridge": {"form": "literal"}}, LITERAL),
        ({}, {"objective": {"bridge_literal": 1.0, "velocity": 1.0}, "bridge": {}}),
    ):
        assert checked_tables(rows(arm, adapter)).arms["a"].adapter == "b"
    arm = ArmParams(label="a", adapter="b", bridge={}, steps=5)
    assert method_of(arm).describe(arm) == (
        "adapter b · full attention · wan bridge from sigma 0.785 · 5 steps · guidance 5"
    )


def test_a_midpoint_step_is_two_evaluations() -> None:
    for method, extra, euler in (("refine", {}, [8]), ("freeswim", {"attention": {"kind": "window"}}, [8, 8])):
        arm = ArmParams(label="a", method=method, steps=4, **extra)
        twice = arm.model_copy(update={"scheduler": "midpoint"})
        assert [n for _, n in method_of(arm).workload(arm, 4).forwards] == euler
        assert [n for _, n in method_of(twice).workload(twice, 4).forwards] == [2 * n for n in euler]
        assert [n for _, n in method_of(twice).workload(twice, 4, guided=3).forwards] == [8 + 3] * len(euler)
        assert "midpoint" in method_of(twice).describe(twice)
    cached = {"method": "freeswim", "attention": {"kind": "window"}, "refresh_every": 2, "scheduler": "midpoint"}
    with pytest.raises(ParameterError, match="between the steps that refresh_every counts"):
        checked_tables(rows(cached))
    for kind in ("taylor", "first_block"):
        with pytest.raises(ParameterError, match=r"arms\.a: scheduler midpoint .* step_cache counts: leave one out"):
            checked_tables(rows({"scheduler": "midpoint", "step_cache": {"kind": kind}}))


@pytest.mark.parametrize("arm", [*({"bridge": start, "steps": 5} for start in STARTS), {"strength": 0.4}], ids=str)
@pytest.mark.parametrize("shift", [None, 4.0])
def test_the_plan_has_the_levels_of_the_pass(wan21, arm: dict[str, Any], shift: float | None) -> None:
    model, row = wan21.model(), ArmParams(label="a", flow_shift=shift, guidance_interval=(0.2, 0.9), **arm)
    method = method_of(row)
    sampling = arm_sampling(row, model, method.strength(row))
    assert (*method.levels(row, model.flow_shift), 0.0) == pytest.approx(sampling.sigmas.tolist(), abs=1e-6)
    assert sampling.guidance_interval == (0.2, 0.9)
