"""Two experts (Wan2.2-A14B): each at its own noise levels, adapters on the low-noise one, one on the device."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.flow import add_noise, seeded_noise, sigma_schedule
from vibe_pipeline.diffusion.models import decode_video, encode_video, find_model, load_transformer, load_vae
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation import experts as module
from vibe_pipeline.generation.clip_settings import arm_settings, base_settings
from vibe_pipeline.generation.experts import Equipment, Expert, Experts
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.generation.text_cache import text_cache
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import read_clip, write_lossless

CPU, PROMPT, SEED = torch.device("cpu"), "a striped red circle moving left over woven navy", 3
NATIVE = {"native_steps": 4, "native_guidance_scale": 3.0, "native_guidance_scale_2": 2.0}
GENERATION = GenerationParams(prompts="miniature", **NATIVE)
PROMPTS = pd.DataFrame([{"prompt_index": 0, "prompt": PROMPT, "seed": SEED}])
BYTE = 1.01 / 255


@pytest.fixture(scope="module")
def adapter(a14b, tmp_path_factory: pytest.TempPathFactory) -> AdapterManifest:
    """The manifest of a random adapter that changes what it lies on."""
    transformer, generator = a14b.transformer(), torch.Generator().manual_seed(1)
    lora.add_adapter(transformer, "own", 4, 8.0, ("to_q", "to_v", "ffn.net.2"), 1)
    state = lora.adapter_state(transformer, "own")
    lora.set_adapter_state(
        transformer, "own", {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    )
    path = lora.save_adapter(transformer, "own", tmp_path_factory.mktemp("adapter"))
    return AdapterManifest(name="own", key="own", path=path)


@pytest.fixture
def pipe(a14b) -> WanPipeline:
    """diffusers' pipeline, whose Euler steps have our shift of 5."""
    pipe = WanPipeline.from_pretrained(a14b.path)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    whole = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda steps, device: whole(
        sigmas=sigma_schedule(steps, 5.0)[:-1].tolist(), device=device
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def native(tmp_path: Path) -> pd.DataFrame:
    clip = np.random.default_rng(0).random((5, 32, 48, 3), np.float32)
    path = write_lossless(tmp_path / "native.mp4", clip, 8)
    return PROMPTS.assign(key="n", path=str(path), preview_path="", seconds=1.0)


def theirs(pipe: WanPipeline, height: int, width: int) -> np.ndarray:
    """Frames [T, H, W, 3] of diffusers' pipeline, whose experts change where it says so."""
    noise = seeded_noise((16, 2, height // 8, width // 8), PROMPT, SEED)[None]
    found = pipe(
        PROMPT, "", height, width, 5, 4, 3.0, 2.0, latents=noise, max_sequence_length=12, output_type="pt"
    ).frames  # fmt: skip
    return found[0].permute(0, 2, 3, 1).float().numpy()


def manifest_of(clips: pd.DataFrame) -> dict[str, Any]:
    return json.loads(Path(clips["path"][0]).with_suffix(".json").read_text())


def test_native_clips_are_wan_pipelines_with_its_boundary(a14b, pipe: WanPipeline, tmp_path: Path) -> None:
    """Levels 1, 0.94, 0.83, 0.63: two of each expert, guided by 3 and by 2."""
    made = native_clips(PROMPTS, a14b.model(), GENERATION, tmp_path)
    ours, expected = read_clip(Path(made["path"][0])), theirs(pipe, 32, 48)
    assert np.abs(ours - expected).max() <= BYTE
    assert manifest_of(made)["expert_steps"] == {"transformer": 2, "transformer_2": 2}
    pipe.register_to_config(boundary_ratio=0.5)
    assert np.abs(ours - theirs(pipe, 32, 48)).max() > 10 * BYTE


def test_an_adapter_lies_where_diffusers_loads_it_into_transformer_2(
    a14b, pipe: WanPipeline, native: pd.DataFrame, adapter: AdapterManifest, tmp_path: Path
) -> None:
    """From noise at the target size: the plain pipeline with our file on its second expert gives the same clip."""
    arm = ArmParams(label="a", method="direct", adapter="own", steps=4, guidance_scale=3.0, guidance_scale_2=2.0)
    made = arm_clips("a", arm, native, adapter, None, a14b.model(), GENERATION, tmp_path)
    ours, without = read_clip(Path(made["path"][0])), theirs(pipe, 64, 96)
    pipe.load_lora_weights(adapter.path.parent, load_into_transformer_2=True)
    assert not hasattr(pipe.transformer, "peft_config") and pipe.transformer_2.peft_config
    assert np.abs(ours - theirs(pipe, 64, 96)).max() <= BYTE
    assert np.abs(ours - without).max() > 10 * BYTE


def test_a_second_pass_changes_experts_at_the_boundary(
    a14b, native: pd.DataFrame, adapter: AdapterManifest, tmp_path: Path
) -> None:
    """0.921 is the high-noise expert's, without the adapter; 0.847, 0.729 and 0.515 are the other's."""
    model = a14b.model()
    arm = ArmParams(label="a", adapter="own", strength=0.7, steps=4, guidance_scale=1.0)
    made = arm_clips("a", arm, native, adapter, None, model, GENERATION, tmp_path)
    assert manifest_of(made)["expert_steps"] == {"transformer": 1, "transformer_2": 3}
    checkpoint, vae = find_model(model.path), load_vae(find_model(model.path), CPU)
    high, low = (load_transformer(checkpoint, CPU, torch.float32, None, part) for part in checkpoint.experts)
    lora.load_adapter(low, adapter.path, "own")
    texts = text_cache(model, tmp_path)
    clip = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
    x, sigmas = encode_video(vae, enlarge(clip, 64, 96)), sigma_schedule(4, 5.0, 0.7)
    x = add_noise(x, seeded_noise(tuple(x.shape[1:]), PROMPT, SEED)[None], sigmas[:1])
    for expert, sigma, after in zip((high, low, low, low), sigmas, sigmas[1:], strict=False):
        with torch.no_grad():
            velocity = expert(x, 1000 * sigma[None], texts.load([PROMPT]), return_dict=False)[0]
        x = x + (after - sigma) * velocity
    expected = decode_video(vae, x)[0].permute(1, 2, 3, 0).numpy()
    assert np.abs(read_clip(Path(made["path"][0])) - expected).max() <= BYTE


@pytest.mark.parametrize(("strength", "read"), [(0.58, ["transformer_2"]), (0.7, ["transformer", "transformer_2"])])
def test_an_expert_that_no_level_asks_for_is_not_read(
    a14b, native: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float, read: list[str]
) -> None:
    """Strength 0.58 starts at sigma 0.874, below the boundary."""
    seen: list[str] = []
    monkeypatch.setattr(module, "load_transformer", lambda *args: seen.append(args[4]) or load_transformer(*args))
    arm = ArmParams(label="a", strength=strength, steps=2, guidance_scale=1.0, attention={"kind": "gclf"})
    arm_clips("a", arm, native, None, None, a14b.model(), GENERATION, tmp_path)
    assert seen == read


class Moved:
    """A transformer that says where it is sent."""

    is_cache_enabled = False
    blocks = (SimpleNamespace(attn1=SimpleNamespace(processor=None)),)

    def __init__(self, part: str, moves: list[tuple[str, str]]) -> None:
        self.part, self.moves = part, moves

    def to(self, device: torch.device | str) -> None:
        self.moves.append((self.part, str(device)))


@pytest.mark.parametrize("offload", [False, True])
def test_one_expert_is_on_the_device_at_a_time(a14b, monkeypatch: pytest.MonkeyPatch, offload: bool) -> None:
    """The other leaves before it comes, whether models are offloaded or not; both wait in main memory."""
    moves: list[tuple[str, str]] = []
    homes: list[str] = []

    def load(self: Equipment, checkpoint: Any, part: str, home: torch.device) -> Expert:
        homes.append(str(home))
        return Expert(part=part, transformer=Moved(part, moves))

    monkeypatch.setattr(Equipment, "load", load)
    equipment = Equipment(
        model=a14b.model(offload=offload), arm=None, adapter=None, stage1=None, attach=lambda *_: None
    )
    sigmas, device = torch.tensor([1.0, 0.875, 0.874, 0.5, 0.0]), torch.device("meta")
    experts = Experts(find_model(str(a14b.path)), device, equipment, sigmas)
    asked: list[str] = []
    predict = experts.switching(lambda expert: lambda x, sigma: asked.append(expert.part) or x)
    for _ in range(2):
        with experts.at_work(sigmas):
            for sigma in sigmas[:-1]:
                predict(torch.zeros(1), sigma[None])
    assert asked == 2 * ["transformer", "transformer", "transformer_2", "transformer_2"]
    assert homes == ["cpu", "cpu"]
    there = ""
    for part, place in moves:
        assert place != "meta" or there in ("", part)
        there = part if place == "meta" else ("" if part == there else there)
    assert [part for part, place in moves if place == "meta"] == 2 * ["transformer", "transformer_2"]
    assert there == ("" if offload else "transformer_2")


def test_other_programs_adapters_say_which_expert_they_change(a14b, adapter: AdapterManifest) -> None:
    extras = [{"path": str(adapter.path), "expert": "high"}, {"path": str(adapter.path), "weight": 0.5}]
    arm = ArmParams(label="a", adapter="own", extra_adapters=extras)
    equipment = Equipment(model=a14b.model(), arm=arm, adapter=adapter, stage1=None, attach=lambda *_: None)
    checkpoint = find_model(str(a14b.path))
    found = {part: equipment.load(checkpoint, part, CPU).transformer for part in checkpoint.experts}
    names = {part: sorted(transformer.active_adapters()) for part, transformer in found.items()}
    assert names == {"transformer": ["extra_0"], "transformer_2": ["extra_1", "own"]}


def test_keys_know_the_experts_and_older_ones_stay(a14b, wan21, adapter: AdapterManifest) -> None:
    one, two = (base_settings(tiny.model(), GENERATION)["model"] for tiny in (wan21, a14b))
    assert one != two

    def key(**changes: Any) -> dict[str, Any]:
        extra = {"path": str(adapter.path)} | ({"expert": changes.pop("expert")} if "expert" in changes else {})
        arm = ArmParams(label="a", extra_adapters=[extra], **changes)
        return arm_settings(arm, a14b.model(), GENERATION, None, None)["arm"]

    assert key() == key(expert="low") != key(expert="high")
    assert "expert" not in key()["extra_adapters"][0] and "guidance_scale_2" not in key()
    assert key(guidance_scale_2=3.0)["guidance_scale_2"] == 3.0


def test_freeswim_and_a_cascade_run_on_both(a14b, native: pd.DataFrame, tmp_path: Path) -> None:
    """What methods put on a transformer they put on each; a cascade loads for its stages what its own pass lacks."""
    window = {"kind": "window", "half_window": (1, 1)}
    swim = {"method": "freeswim", "attention": window, "refresh_every": 2}
    stage = {"height": 32, "width": 48, "steps": 2, "flow_shift": 5.0}
    cascade = {"method": "cascade", "stages": [stage], "strength": 0.5}
    for name, row in {"swim": swim | {"strength": 0.7}, "cascade": cascade}.items():
        arm = ArmParams(label=name, steps=3, guidance_scale=2.0, **row)
        made = arm_clips(name, arm, native, None, None, a14b.model(), GENERATION, tmp_path)
        assert float(read_clip(Path(made["path"][0])).std()) > 1e-3
        steps = {"swim": {"transformer": 1, "transformer_2": 2}, "cascade": {"transformer": 0, "transformer_2": 3}}
        assert manifest_of(made)["expert_steps"] == steps[name]
