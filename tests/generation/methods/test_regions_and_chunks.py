"""Region-adaptive sampling and chunks of time as fields of a row: by hand, refused, planned, on clips of one's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.generation.methods.test_bridge import rows
from tests.generation.methods.test_cascade import PROMPT, ByHand, made
from vibe_pipeline.diffusion.attention import install_gclf
from vibe_pipeline.diffusion.chunks import chunked, cut_chunks
from vibe_pipeline.diffusion.flow import add_noise, seeded_generator, seeded_noise, sigma_schedule
from vibe_pipeline.diffusion.models import encode_video, velocity_predictor
from vibe_pipeline.diffusion.regions import install_regions
from vibe_pipeline.diffusion.sampling import denoise
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.generation.methods import ArmJob, checked_tables, method_of
from vibe_pipeline.generation.single import refine_clip
from vibe_pipeline.images.resize import enlarge
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

FRAMES = 13
GENERATION = GenerationParams(prompts="miniature")
GCLF = {"kind": "gclf", "half_window": (1, 1)}
REGIONS = {"share": 0.5, "start": 1, "every": 3}
LONG = {"chunk": 9, "overlap": 8}


def a_model(wan21, frames: int = FRAMES):
    plain = wan21.model()
    sizes = {n: getattr(plain, n).model_dump() | {"frames": frames} for n in ("native", "target")}
    return wan21.model(**sizes)


@pytest.fixture
def native(tmp_path: Path) -> pd.DataFrame:
    clip = np.random.default_rng(0).random((FRAMES, 32, 48, 3), np.float32)
    path = write_lossless(tmp_path / "native.mp4", clip, 8)
    row = {"prompt_index": 0, "prompt": PROMPT, "seed": 3, "key": "n", "path": str(path)}
    return pd.DataFrame([row | {"preview_path": "", "seconds": 1}])


def by_hand(model, native: pd.DataFrame, root: Path) -> tuple[ByHand, torch.Tensor, torch.Tensor]:
    """The models, the noised latent and its levels, of strength 0.5 in four steps."""
    hand, sigmas = ByHand(model, root), sigma_schedule(4, model.flow_shift, 0.5)
    clip = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
    latent = encode_video(hand.vae, enlarge(clip, 64, 96))
    return hand, add_noise(latent, seeded_noise(tuple(latent.shape[1:]), PROMPT, 3)[None], sigmas[:1]), sigmas


def test_a_row_with_regions_is_its_sampling_by_hand(wan21, native: pd.DataFrame, tmp_path: Path) -> None:
    model, row = a_model(wan21), {"strength": 0.5, "steps": 4, "attention": GCLF}
    hand, start, sigmas = by_hand(model, native, tmp_path)
    arm = ArmParams(label="a", region_adaptive=REGIONS, **row)
    install_gclf(hand.transformer, arm.attention, (2, 3))
    regions = install_regions(hand.transformer, arm.region_adaptive.schedule, arm.attention, (2, 3))
    regions.begin(4)
    predict = regions.within("one", velocity_predictor(hand.transformer, hand.text, False, torch.float32))
    expected = hand.shown(denoise(regions.stepping(predict), start, sigmas))
    found = made(row | {"region_adaptive": REGIONS}, native, model, tmp_path)
    plain = made(row, native, model, tmp_path)
    assert np.abs(found - expected).max() <= 1.01 / 255 < np.abs(found - plain).max()
    every = made(row | {"region_adaptive": {"share": 1.0}}, native, model, tmp_path)
    assert np.abs(every - plain).max() <= 1.01 / 255


@pytest.mark.parametrize("blend", ["random", "linear"])
def test_a_row_with_chunks_is_its_sampling_by_hand(wan21, native: pd.DataFrame, tmp_path: Path, blend: str) -> None:
    model, row = a_model(wan21), {"strength": 0.5, "steps": 4}
    hand, start, sigmas = by_hand(model, native, tmp_path)
    predict = velocity_predictor(hand.transformer, hand.text, False, torch.float32)
    draws = [seeded_generator(f"cuts\n{PROMPT}", 3)]
    whole = chunked(predict, predict, cut_chunks(4, 3, 2), blend, draws)
    found = made(row | {"long": LONG | {"blend": blend}}, native, model, tmp_path)
    assert len(found) == FRAMES
    assert np.abs(found - hand.shown(denoise(whole, start, sigmas))).max() <= 1.01 / 255
    plain = made(row, native, model, tmp_path)
    assert np.abs(found - plain).max() > 2 / 255
    assert np.array_equal(made(row | {"long": {}}, native, model, tmp_path), plain)  # one chunk


def test_ones_own_long_clip_is_taken_whole(wan21, tmp_path: Path) -> None:
    """Eleven frames where five are native: chunks of two latent frames; as many frames come out."""
    frames = np.random.default_rng(1).integers(0, 256, (11, 32, 48, 3), np.uint8)
    source = write_lossless(tmp_path / "own.mp4", frames, 8)
    arm = ArmParams(label="a", steps=1, guidance_scale=1.0, strength=0.3, long={"blend": "linear"})
    job = ArmJob("a", arm, pd.DataFrame(), wan21.model(), GENERATION, tmp_path / "work")
    result = refine_clip(source, "", job)
    assert [(p.start, p.stop) for p in result.pieces] == [(0, 11)]
    assert np.stack(list(result.frames())).shape == (11, 64, 96, 3)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"region_adaptive": {}, "step_cache": {}}, r"arms\.a: region_adaptive and step_cache both take over"),
        ({"region_adaptive": {}, "scheduler": "midpoint"}, "midpoint evaluates between the steps that region_adaptive"),
        ({"region_adaptive": {}, "long": {}}, "region_adaptive keeps keys of whole clips, and long has chunks"),
        ({"region_adaptive": {}, "rope": {"kind": "ar"}}, "rope.kind 'ar' turns them by tiles: use another"),
        ({"region_adaptive": {}, "attention": {"kind": "t3"}}, "kinds full, window, gclf, proxy.*, not with t3"),
        ({"region_adaptive": {"share": 0}}, r"arms\.a\.region_adaptive\.share"),
        ({"region_adaptive": {"every": 1}}, r"arms\.a\.region_adaptive\.every"),
        ({"long": {}, "step_cache": {}}, "long predicts each chunk of a step, and step_cache would mix them"),
        ({"long": {"chunk": 8}}, r"arms\.a\.long.*chunk 8: Wan's VAE takes 4k \+ 1 frames"),
        ({"method": "upsample", "long": {}}, "long belongs to refine and direct, not to method 'upsample'"),
        (
            {"method": "freeswim", "attention": {"kind": "window"}, "region_adaptive": {}},
            "region_adaptive belongs to refine and direct, not to method 'freeswim'",
        ),
    ],
)
def test_what_cannot_be_is_refused(arm: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        checked_tables(rows(arm))


def test_rows_are_described() -> None:
    for arm, said in (
        ({"region_adaptive": {}}, "50% of the tokens after 4 steps, all in 1 of 9"),
        ({"long": {}}, "native chunks, cut at random at every step"),
        ({"long": {"chunk": 81, "blend": "linear"}}, "81-frame chunks, faded at every step"),
    ):
        row = ArmParams(label="a", **arm)
        assert said in method_of(row).describe(row)


def test_the_plan_counts_tokens_keys_and_chunks(wan21) -> None:
    model = a_model(wan21, 17)  # 5 latent frames of 24 tokens
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("a100"))
    tables = checked_tables(rows({}))

    def plan(**arm: Any):
        row = ArmParams(label="a", steps=10, **arm)
        return arm_row(costs=costs, name="a", arm=row, tables=tables, generation=GENERATION, clips=1)

    plain, none = plan(), plan(guidance_scale=1.0)
    one = (plain.teraflops - none.teraflops) / 10  # a forward
    config, tokens = costs.architecture.transformer, 120
    width = config["num_attention_heads"] * config["attention_head_dim"]
    regions = plan(region_adaptive={"share": 0.25, "start": 2, "every": 4})  # 2, 3, 4, 6, 7 and 8 of ten, twice
    embedded = 2 * tokens * 4 * config["in_channels"] * width / 1e12
    fixed = 2 * (config["num_layers"] * 2 * width * width * 12 + 12 * (64 * width + width * width)) / 1e12
    fixed += 2 * (32 * width + width * width + 6 * width * width) / 1e12 + embedded
    assert plain.teraflops - regions.teraflops == pytest.approx(12 * 0.75 * (one - fixed), rel=1e-6)
    kept = 2 * tokens * (2 * config["num_layers"] * width + 64) * 4
    assert costs.kept_memory(model.target, 1, 2) == kept and regions.memory_gb >= plain.memory_gb
    assert plan(region_adaptive={"share": 1.0}).teraflops == plain.teraflops
    assert plan(region_adaptive={"share": 1.0}).memory_gb == plain.memory_gb
    chunks = plan(long={"chunk": 9, "overlap": 8})  # 0 to 3, 1 to 4, 2 to 5
    short = Costs(architecture=load_architecture(model.path), model=a_model(wan21, 9), device=find_device("a100"))
    forward = short.forward(short.model.target, ArmParams(label="a").attention).teraflops
    assert chunks.teraflops == pytest.approx(plain.teraflops - 20 * one + 60 * forward)
    assert chunks.tokens == 72 and plain.tokens == tokens and chunks.memory_gb <= plain.memory_gb
    with pytest.raises(ValueError, match="chunks of 2 latent frames cannot overlap by 2"):
        plan(long={"chunk": 5, "overlap": 8})


def test_memory_of_kept_keys_at_the_papers_size() -> None:
    """Two guidance passes of the 5B at 1408x2560x121: 2 x 30 layers x 3072 numbers a token, 2 bytes each."""
    from tests.conf_files import read_conf
    from vibe_pipeline.experiment.model import ModelParams

    content = read_conf(Path(__file__).parents[3] / "conf/wan22_ti2v_5b")
    model = ModelParams(**content["model"])
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("h100"))
    tokens = 31 * 44 * 80
    assert costs.kept_memory(model.target, 1, 2) == 2 * tokens * (2 * 30 * 3072 + 192) * 2
