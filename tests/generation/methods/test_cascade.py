"""CineScale's ways of getting large: NTK in one pass, the latent cascade, the enlarged latent of a native clip."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.flow import add_noise, seeded_noise, sigma_schedule
from vibe_pipeline.diffusion.models import (
    decode_video,
    encode_video,
    find_model,
    load_transformer,
    load_vae,
    velocity_predictor,
)
from vibe_pipeline.diffusion.rope import Ar, Ntk, install_rope, rope_of
from vibe_pipeline.diffusion.sampling import denoise, resize_latents
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.methods import checked_tables, method_of
from vibe_pipeline.generation.peer_weights import peer_of
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.generation.text_cache import text_cache
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

CPU = torch.device("cpu")
PROMPT = "a plain blue cross moving up over ribbed gray"
GENERATION = GenerationParams(prompts="miniature")
NTK = {"kind": "ntk", "alpha": (1, 20, 20)}
WIDER = {"kind": "ntk", "alpha": (1, 25, 25)}


def test_the_noise_levels_of_the_published_second_stage() -> None:
    """Step 15 of 50: sigma .9545 with shift 9 (3K), .9625 with 11 (4K); 35 steps. AR-RoPE: 30 of 50, shift 5: .882."""
    for shift, strength, first, count in ((9.0, 0.7, 0.9545, 35), (11.0, 0.7, 0.9625, 35), (5.0, 0.6, 0.882, 30)):
        sigmas = sigma_schedule(50, shift, strength, "truncated")
        assert float(sigmas[0]) == pytest.approx(first, abs=5e-5 if shift > 5 else 5e-4) and len(sigmas) == count + 1
        u = (torch.linspace(1, 0, 51, dtype=torch.float64)[:-1])[50 - count :]
        expected = (shift * u / (1 + (shift - 1) * u)).float()
        torch.testing.assert_close(sigmas[:-1], expected)


@pytest.fixture
def native(wan21, tmp_path: Path) -> pd.DataFrame:
    clip = np.random.default_rng(0).random((5, 32, 48, 3), np.float32)
    path = write_lossless(tmp_path / "native.mp4", clip, 8)
    row = {
        "prompt_index": 0,
        "prompt": PROMPT,
        "seed": 3,
        "key": "n",
        "path": str(path),
        "preview_path": "",
        "seconds": 1,
    }
    return pd.DataFrame([row])


def made(arm: dict[str, Any], native: pd.DataFrame, model, root: Path) -> np.ndarray:
    row = ArmParams(label="a", guidance_scale=1.0, **arm)
    clips = arm_clips("a", row, native, None, None, model, GENERATION, root)
    return read_clip(Path(clips["path"][0]))


class ByHand:
    """The same model, driven in plain lines."""

    def __init__(self, model, root: Path) -> None:
        self.checkpoint = find_model(model.path)
        self.transformer = load_transformer(self.checkpoint, CPU, torch.float32)
        self.vae = load_vae(self.checkpoint, CPU)
        texts = text_cache(model, root)
        texts.ensure([PROMPT])
        self.text = texts.load([PROMPT])

    def run(self, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        predict = velocity_predictor(
            self.transformer, self.text, self.checkpoint.expand_timesteps, torch.float32, False
        )
        return denoise(predict, x, sigmas)

    def shown(self, latent: torch.Tensor) -> np.ndarray:
        return decode_video(self.vae, latent)[0].permute(1, 2, 3, 0).numpy()


def test_a_cascade_is_its_passes_by_hand(wan21, native: pd.DataFrame, tmp_path: Path) -> None:
    """From noise with alpha 20, the latent trilinearly larger, fresh noise at the shifted level, on with alpha 25."""
    model = wan21.model()
    stage = {"height": 32, "width": 48, "steps": 2, "flow_shift": 7.0, "rope": NTK}
    arm = {"method": "cascade", "stages": [stage], "rope": WIDER, "steps": 4, "strength": 0.5, "flow_shift": 9.0}
    found = made(arm | {"strength_mode": "truncated"}, native, model, tmp_path)
    hand = ByHand(model, tmp_path)
    install_rope(hand.transformer, Ntk((1.0, 20.0, 20.0)))
    noise = seeded_noise((16, 2, 4, 6), PROMPT, 3)[None]
    latent = hand.run(noise, sigma_schedule(2, 7.0))
    larger = torch.nn.functional.interpolate(latent, (2, 8, 12), mode="trilinear")
    assert torch.equal(resize_latents(latent, 8, 12), larger)
    per_frame = torch.nn.functional.interpolate(latent[0].transpose(0, 1), (8, 12), mode="bilinear").transpose(0, 1)
    torch.testing.assert_close(larger[0], per_frame)
    sigmas = sigma_schedule(4, 9.0, 0.5, "truncated")
    install_rope(hand.transformer, Ntk((1.0, 25.0, 25.0)))
    x = add_noise(larger, seeded_noise((16, 2, 8, 12), PROMPT, 3)[None], sigmas[:1])
    expected = hand.shown(hand.run(x, sigmas))
    assert np.abs(found - expected).max() <= 1.01 / 255


def test_an_enlarged_latent_under_ar_rope_is_the_same_by_hand(wan21, native: pd.DataFrame, tmp_path: Path) -> None:
    model = wan21.model()
    rope = {"kind": "ar", "tile": (2, 3), "reach": "native", "near": (1, 1)}
    arm = {
        "method": "refine",
        "enlarge": "latent",
        "rope": rope,
        "steps": 5,
        "strength": 0.6,
        "strength_mode": "truncated",
    }
    found = made(arm, native, model, tmp_path)
    hand = ByHand(model, tmp_path)
    clip = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
    latent = resize_latents(encode_video(hand.vae, clip), 8, 12)
    kind = Ar(tile=(2, 3), reach=(1, 2), near=(1, 1))
    settings = type("Full", (), {"kind": "full", "scale": None})()
    install_gclf(hand.transformer, settings, (2, 3), rope=kind)
    sigmas = sigma_schedule(5, model.flow_shift, 0.6, "truncated")
    x = add_noise(latent, seeded_noise((16, 2, 8, 12), PROMPT, 3)[None], sigmas[:1])
    assert np.abs(found - hand.shown(hand.run(x, sigmas))).max() <= 1.01 / 255
    plain = made(arm | {"rope": {"kind": "none"}}, native, model, tmp_path)
    assert np.abs(found - plain).max() > 0.02


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"method": "cascade"}, "method cascade needs `stages`"),
        ({"stages": [{"height": 32, "width": 48}]}, "stages belongs to cascade, not to method 'refine'"),
        (
            {"method": "cascade", "stages": [{"height": 32, "width": 48, "strength": 0.5}]},
            r"stages\.0\.strength is 0\.5, but the first stage starts from noise: 1",
        ),
        (
            {"method": "cascade", "stages": [{"height": 64, "width": 48}, {"height": 32, "width": 96}]},
            r"stages\.1 is 32x96, smaller than the 64x48 before it",
        ),
        ({"method": "direct", "enlarge": "latent"}, "enlarge belongs to refine and freeswim, not to method 'direct'"),
        ({"enlarge": "latent", "detail_transfer": 0.5}, "detail_transfer adds to the enlarged clip"),
        ({"rope": {"kind": "yearn"}}, r"rope\.kind.*unknown kind of RoPE 'yearn'; known: none, ntk, yarn"),
        ({"rope": {"kind": "ntk", "tile": (2, 2)}}, "tile belongs to ar, not to kind of RoPE 'ntk'"),
        (
            {"rope": {"kind": "ar"}, "attention": {"kind": "t3"}},
            "rope ar goes with the attention kinds full, window, gclf, proxy, not with t3",
        ),
        (
            {"method": "freeswim", "attention": {"kind": "window"}, "rope": {"kind": "ar"}},
            "freeswim's two paths have the same positions",
        ),
    ],
)
def test_rows_that_contradict_themselves_are_refused(arm: dict, message: str) -> None:
    params = {"stage1": {}, "adapters": {}, "arms": {"a": {"label": "a"} | arm}, "evaluation": {"reference_arm": "a"}}
    with pytest.raises(ParameterError, match=message):
        checked_tables(params | {"generation": {}})


def test_rows_say_what_they_run() -> None:
    stage = {"height": 1088, "width": 1920, "flow_shift": 7.0, "rope": NTK}
    pro = ArmParams(label="p", method="cascade", stages=[stage], rope=WIDER, attention={"scale": "cinescale"})
    said = method_of(pro).describe(pro)
    assert said == (
        "no adapter · from noise at 1088x1920, latent enlarged · full (scale cinescale) attention · NTK RoPE 1 25 25 · "
        "strength 0.7 · 50 steps · guidance 5"
    )
    ar = ArmParams(label="a", enlarge="latent", rope={"kind": "ar", "tile": (12, 21)})
    assert "latent enlarged" in method_of(ar).describe(ar)
    assert "AR-RoPE (reach 44x79, tile 12x21)" in method_of(ar).describe(ar)


def test_the_plan_counts_a_cascade_by_its_sizes() -> None:
    """1.3B, 1088x1920x81: 8.3 s a forward at 700 TFLOP/s (BASELINES 1.1); 50 + 35 steps with guidance."""
    architecture = load_architecture("wan21_t2v_1_3b")
    native, target = ({"height": h, "width": w, "frames": 81, "fps": 16.0} for h, w in ((480, 832), (1632, 2880)))
    model = ModelParams(path="wan21_t2v_1_3b", native=native, target=target, dtype="bfloat16")
    costs = Costs(architecture=architecture, model=model, device=find_device("h100"), share=0.5)
    first = costs.forward(
        model.target.model_copy(update={"height": 1088, "width": 1920}), ArmParams(label="x").attention
    )
    assert first.teraflops / 700 == pytest.approx(8.3, rel=0.03)
    stage = {"height": 1088, "width": 1920, "flow_shift": 7.0, "rope": NTK}
    arm = ArmParams(label="p", method="cascade", stages=[stage], strength_mode="truncated", flow_shift=9.0)
    tables = checked_tables(
        {
            "stage1": {},
            "adapters": {},
            "arms": {"p": arm.model_dump()},
            "evaluation": {"reference_arm": "p"},
            "generation": {},
        }
    )
    row = arm_row(costs=costs, name="p", arm=arm, tables=tables, generation=GENERATION, clips=1)
    second = costs.forward(model.target, arm.attention)
    by_hand = 100 * first.teraflops + 70 * second.teraflops + costs.decode(model.target).teraflops
    assert row.teraflops == pytest.approx(by_hand)
    assert second.teraflops / 700 == pytest.approx(40.5, rel=0.03)


def test_the_rows_of_the_page_are_rows() -> None:
    """Those of docs/baselines.md, read as an environment's; their weights are where fetched ones are imported to."""
    page = (Path(__file__).parents[3] / "docs/baselines.md").read_text().partition("## CineScale")[2]
    rows = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["arms"]
    params = {"stage1": {}, "adapters": {}, "arms": rows, "evaluation": {"reference_arm": "cinescale_ar"}}
    arms = checked_tables(params | {"generation": {}}).arms
    assert set(arms) == {"cinescale_lora", "cinescale_pro", "cinescale_ar"}
    for name in ("cinescale_lora", "cinescale_pro"):
        (extra,) = arms[name].extra_adapters
        entry = peer_of(extra.path)
        assert entry.name == "cinescale_1_3b" and entry.place(Path("peers")).parts[1:] == extra.path.parts[-2:]
        assert arms[name].optional
    pro = arms["cinescale_pro"]
    for arm, shift, first, steps in ((pro, 9.0, 0.9545, 35), (arms["cinescale_ar"], 5.0, 0.882, 30)):
        sigmas = sigma_schedule(arm.steps, arm.flow_shift or shift, method_of(arm).strength(arm), arm.strength_mode)
        assert float(sigmas[0]) == pytest.approx(first, abs=5e-4) and len(sigmas) == steps + 1
    assert rope_of(pro.stages[0].rope) == Ntk((1.0, 20.0, 20.0)) and rope_of(pro.rope) == Ntk((1.0, 25.0, 25.0))
