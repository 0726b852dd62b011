"""Coarse to fine: against WanPipeline, the same seed again, nothing made twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from PIL import Image

from tests.wan_names import randomise, write_wan_file
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.flow import seeded_noise, sigma_schedule
from vibe_pipeline.diffusion.models import find_model
from vibe_pipeline.experiment.arms import ArmParams, ExtraAdapter, SharpenParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation import clip_cache as store
from vibe_pipeline.generation import render
from vibe_pipeline.generation.clip_cache import Scale
from vibe_pipeline.generation.denoiser import Denoiser, Sampling
from vibe_pipeline.generation.render import arm_clips, native_clips, reference_clips
from vibe_pipeline.generation.text_cache import TextCache
from vibe_pipeline.images import resize as resizing
from vibe_pipeline.images.resize import enlarge, sharpen
from vibe_pipeline.io.files import read_json
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.miniature.scene import parse_caption, scene_of_prompt
from vibe_pipeline.miniature.world import render as render_scene
from vibe_pipeline.runtime.deadline import DEADLINE, OutOfTimeError

CAPTIONS = ["a striped red circle moving left over woven navy", "a plain blue cross moving up over ribbed gray"]
PROMPTS = pd.DataFrame({"prompt_index": [0, 1], "prompt": CAPTIONS, "seed": [0, 0]})
GENERATION = GenerationParams(prompts="miniature", native_steps=2, native_guidance_scale=2.0, batch_size=2)
REFINE = ArmParams(label="r", steps=2, guidance_scale=1.0, strength=0.5)


@pytest.fixture
def native(wan21, tmp_path: Path) -> pd.DataFrame:
    """Two native clips of random pixels, as `native_clips` lists them."""
    rows = []
    for row in PROMPTS.to_dict("records"):
        rng = np.random.default_rng(row["prompt_index"])
        clip = rng.random((5, 32, 48, 3), np.float32)
        path = write_lossless(tmp_path / "native" / f"{row['prompt_index']}.mp4", clip, 8)
        made = {"key": f"native{row['prompt_index']}", "path": str(path), "preview_path": "", "seconds": 1.0}
        rows.append(row | made)
    return pd.DataFrame(rows)


@pytest.fixture
def adapter(wan21, tmp_path: Path) -> Callable[[str, int], AdapterManifest]:
    """The manifest of a random adapter."""

    def make(name: str, seed: int) -> AdapterManifest:
        transformer = wan21.transformer()
        lora.add_adapter(transformer, name, 4, 8.0, ("to_q", "to_v", "ffn.net.2"), seed)
        generator = torch.Generator().manual_seed(seed)
        state = lora.adapter_state(transformer, name)
        filled = {k: torch.randn(v.shape, generator=generator) for k, v in state.items()}
        lora.set_adapter_state(transformer, name, filled)
        return AdapterManifest(name=name, key=name, path=lora.save_adapter(transformer, name, tmp_path / name))

    return make


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompt indices of every batch made since."""
    seen: list[list[int]] = []
    keep = store._keep

    def spy(rows: store.Rows, *rest: Any) -> None:
        seen.append([r["prompt_index"] for r in rows])
        keep(rows, *rest)

    monkeypatch.setattr(store, "_keep", spy)
    return seen


def texts(model: ModelParams, folder: Path) -> TextCache:
    return TextCache(folder, find_model(model.path), model)


class ExactUniPC(UniPCMultistepScheduler):
    """With timesteps that are 1000 sigma: diffusers cuts them to whole numbers for the model, we do not."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.timesteps = 1000 * self.sigmas[:-1]


def assert_written(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Bytes [B, 3, T, H, W] are a pipeline's frames [B, T, 3, H, W], up to float order before they were rounded."""
    expected = 255 * theirs.transpose(1, 2).float()
    assert ours.dtype == torch.uint8
    torch.testing.assert_close(ours.float(), expected, rtol=0, atol=0.5 + 0.1)


@pytest.mark.parametrize(("guidance", "scheduler"), [(1.0, "euler"), (3.0, "euler"), (1.0, "unipc")])
def test_two_steps_from_noise_are_wan_pipelines(tiny, tmp_path: Path, guidance: float, scheduler: str) -> None:
    """Text, guidance, timesteps a token, solver, decoding: all as in diffusers."""
    size, model = Scale(2 * tiny.token, 3 * tiny.token, 5, 8.0), tiny.model()
    pipe = WanPipeline.from_pretrained(tiny.path)
    pipe.scheduler = {
        "euler": FlowMatchEulerDiscreteScheduler(),
        "unipc": ExactUniPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0),
    }[scheduler]
    pipe.scheduler.set_timesteps(2)
    denoiser = Denoiser(
        model,
        GENERATION,
        texts(model, tmp_path),
        {CAPTIONS[0]},
        Sampling(pipe.scheduler.sigmas.clone(), scheduler, guidance),
    )
    ours = denoiser.from_noise([{"prompt": CAPTIONS[0], "seed": 7}], size)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        CAPTIONS[0], "", size.height, size.width, 5, 2, guidance, max_sequence_length=12, output_type="pt",
        latents=seeded_noise((pipe.vae.config.z_dim, 2, 4, 6), CAPTIONS[0], 7)[None],
    ).frames  # fmt: skip
    assert_written(ours, theirs)
    assert float(ours.float().std()) > 0.3


def test_a_first_frame_is_wan_image_to_video_pipelines(wan22, tmp_path: Path) -> None:
    """TI2V: the first latent frame held, its tokens at t = 0, the first decoded frame near the image."""
    size, model = Scale(64, 96, 5, 8.0), wan22.model()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    image.save(tmp_path / "frame.png")
    sampling = Sampling(torch.tensor([1.0, 0.001, 0.0]), "euler", 2.0)
    denoiser = Denoiser(model, GENERATION, texts(model, tmp_path), {CAPTIONS[0]}, sampling)
    row = {"prompt": CAPTIONS[0], "seed": 7, "first_frame": str(tmp_path / "frame.png")}
    ours = denoiser.from_noise([row], size)
    parts = WanPipeline.from_pretrained(wan22.path).components
    parts |= {"scheduler": FlowMatchEulerDiscreteScheduler(), "image_encoder": None, "image_processor": None}
    pipe = WanImageToVideoPipeline(**{k: v for k, v in parts.items() if k != "transformer_2"}, expand_timesteps=True)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        image, CAPTIONS[0], "", 64, 96, 5, 2, 2.0, max_sequence_length=12, output_type="pt",
        latents=seeded_noise((48, 2, 4, 6), CAPTIONS[0], 7)[None],
    ).frames  # fmt: skip
    assert_written(ours, theirs)
    assert not torch.equal(ours, denoiser.from_noise([row | {"first_frame": ""}], size))


def test_a_base_without_per_token_timesteps_takes_no_first_frame(wan21, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64)).save(tmp_path / "frame.png")
    prompts = PROMPTS[:1].assign(first_frame=str(tmp_path / "frame.png"), first_frame_sha256="0")
    with pytest.raises(ValueError, match="takes no first frame"):
        native_clips(prompts, wan21.model(), GENERATION, tmp_path)


def test_the_same_seed_gives_the_same_clip_and_another_another(wan21, tmp_path: Path) -> None:
    pixels = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        table = native_clips(PROMPTS[:1].assign(seed=seed), wan21.model(), GENERATION, tmp_path / folder)
        pixels.append(read_clip(Path(table["path"][0])))
    assert pixels[0].shape == (5, 32, 48, 3)
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


@pytest.mark.parametrize("method", ["upsample", "refine", "direct", "freeswim"])
def test_an_arm_says_what_it_made(wan21, native, tmp_path: Path, method: str) -> None:
    window = {"attention": AttentionParams(kind="window", half_window=(1, 1))} if method == "freeswim" else {}
    arm = REFINE.model_copy(update={"method": method} | window)
    made = arm_clips("a", arm, native, None, None, wan21.model(), GENERATION, tmp_path / "clips")
    assert made["arm"].tolist() == ["a", "a"]
    pd.testing.assert_frame_equal(made[list(PROMPTS.columns)], PROMPTS)
    assert made.loc[0, ["height", "width", "frames"]].tolist() == [64, 96, 5]
    second_pass = method in ("refine", "freeswim")
    assert made["sigma_start"].tolist() == pytest.approx([5 / 6 if second_pass else 1.0] * 2)
    clip = read_clip(Path(made["path"][0]))
    assert clip.shape == (5, 64, 96, 3)
    if method == "upsample":
        source = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
        expected = enlarge(source, 64, 96)[0].permute(1, 2, 3, 0).numpy()
        np.testing.assert_allclose(clip, expected, atol=1 / 255)


def test_share_starts_where_its_first_step_is(wan21, native, tmp_path: Path) -> None:
    arm = REFINE.model_copy(update={"steps": 3, "strength_mode": "truncated", "strength": 0.5})
    made = arm_clips("a", arm, native[:1], None, None, wan21.model(), GENERATION, tmp_path / "clips")
    assert made["sigma_start"][0] == pytest.approx(float(sigma_schedule(3, 5.0, 0.5, "truncated")[0]))


def test_adapters_stage_1_and_attention_each_change_the_clip(wan21, native, adapter, tmp_path: Path) -> None:
    d1, d2 = adapter("d1", 1), adapter("d2", 2)
    arms = {
        "none": (REFINE, None, None),
        "d2": (REFINE.model_copy(update={"adapter": "d2"}), d2, None),
        "not kept": (REFINE.model_copy(update={"adapter": "d2"}), d2, d1),
        "kept": (REFINE.model_copy(update={"adapter": "d2", "keep_stage1": True}), d2, d1),
        "gclf": (REFINE.model_copy(update={"attention": AttentionParams(kind="gclf", half_window=(1, 1))}), None, None),
    }
    clips = {}
    for name, (arm, second, first) in arms.items():
        made = arm_clips(name, arm, native[:1], second, first, wan21.model(), GENERATION, tmp_path / "clips")
        clips[name] = read_clip(Path(made["path"][0]))
    assert np.array_equal(clips["d2"], clips["not kept"])
    different = [clips[n] for n in ("none", "d2", "kept", "gclf")]
    for i, one in enumerate(different):
        assert not any(np.array_equal(one, other) for other in different[i + 1 :])


def test_an_arms_own_transformer_is_that_of_a_base_which_has_it(wan21, tmp_path: Path) -> None:
    """Text encoder and VAE are the base's, native clips too; with groups of the layers, as T3-Video's arm has it."""
    other = randomise(wan21.transformer(), 1)
    shutil.copytree(wan21.path, tmp_path / "whole")
    other.save_pretrained(tmp_path / "whole/transformer")
    own = {"transformer": {"path": write_wan_file(other, tmp_path / "t3.safetensors")}}
    t3 = {"method": "direct", "attention": {"kind": "t3", "groups": [(2, 1, 1), (1, 2, 3)]}}
    direct = ArmParams(label="a", steps=2, guidance_scale=2.0, **t3)
    prompts = pd.DataFrame({"prompt_index": [0], "prompt": [CAPTIONS[0]], "seed": 0})
    clips = {}
    for name, path, fields in (("own", wan21.path, own), ("base", tmp_path / "whole", {}), ("none", wan21.path, {})):
        model, folder = wan21.model(path=str(path)), tmp_path / name
        natives = native_clips(prompts, model, GENERATION, folder)
        arm = ArmParams(**direct.model_dump(exclude_defaults=True) | fields)
        made = arm_clips("a", arm, natives, None, None, model, GENERATION, folder / "clips")
        clips[name] = [read_clip(Path(table["path"][0])) for table in (made, natives)]
    assert np.array_equal(clips["own"][0], clips["base"][0]) and not np.array_equal(clips["own"][0], clips["none"][0])
    assert np.array_equal(clips["own"][1], clips["none"][1]) and not np.array_equal(clips["own"][1], clips["base"][1])


def test_detail_transfer_adds_the_second_passs_change_to_the_enlarged_clip(
    wan21, native, adapter, tmp_path: Path
) -> None:
    model, trained = wan21.model(), adapter("d2", 2)

    def made(name: str, **fields: Any) -> np.ndarray:
        arm = REFINE.model_copy(update={"adapter": "d2"} | fields)
        second = trained if arm.adapter else None
        table = arm_clips(name, arm, native, second, None, model, GENERATION, tmp_path / "clips")
        return np.stack([read_clip(Path(path)) for path in table["path"]])

    refined, half = made("refined"), made("half", detail_transfer=0.5)
    enlarged = made("enlarged", method="upsample", adapter=None)
    sharp = made("sharp", method="upsample", adapter=None, sharpen=SharpenParams(amount=0.8, sigma=1.0))
    large = torch.from_numpy(
        np.moveaxis(enlarged, -1, 1).copy()
    )  # rounded to bytes already, so the two differ by a step
    factor = large.shape[-2] / 32
    np.testing.assert_allclose(sharp, np.moveaxis(sharpen(large, factor, 0.8).numpy(), 1, -1), atol=3 / 255)
    assert np.abs(sharp - enlarged).max() > 0.02
    crisp = made("crisp", sharpen=SharpenParams(amount=0.8, sigma=1.0))  # the second pass's, likewise
    decoded = torch.from_numpy(np.moveaxis(refined, -1, 1).copy())
    np.testing.assert_allclose(crisp, np.moveaxis(sharpen(decoded, factor, 0.8).numpy(), 1, -1), atol=1 / 255)
    assert np.abs(crisp - refined).max() > 0.02
    # One step from hardly any noise changes nothing: the VAE alone.
    nothing = {"strength": 1e-6, "steps": 1}
    through_vae = made("vae", **nothing)
    np.testing.assert_allclose(half, np.clip(enlarged + 0.5 * (refined - through_vae), 0, 1), atol=2.5 / 255)
    assert np.abs(half - enlarged).max() > 0.05
    assert np.abs(through_vae - enlarged).max() > 0.05  # this VAE keeps nothing,
    np.testing.assert_allclose(made("kept", detail_transfer=1.0, **nothing), enlarged, atol=1.5 / 255)  # and yet


def test_clips_of_before_detail_transfer_came_still_count(wan21, native, tmp_path: Path) -> None:
    made = arm_clips("a", REFINE, native[:1], None, None, wan21.model(), GENERATION, tmp_path / "clips")
    manifest = read_json(Path(made["path"][0]).with_suffix(".json"))
    assert "detail_transfer" not in json.dumps(manifest["settings"])
    other = REFINE.model_copy(update={"detail_transfer": 1.0})
    assert other.detail_transfer == 1.0
    again = arm_clips("a", other, native[:1], None, None, wan21.model(), GENERATION, tmp_path / "clips")
    assert again["key"][0] != made["key"][0]


def test_finished_clips_are_not_made_again_and_broken_ones_are(wan21, native, tmp_path: Path, batches) -> None:
    arm = REFINE.model_copy(update={"method": "upsample"})

    def make(table: pd.DataFrame = native, arm: ArmParams = arm) -> pd.DataFrame:
        batches.clear()
        return arm_clips("a", arm, table, None, None, wan21.model(), GENERATION, tmp_path / "clips")

    first = make()
    assert batches == [[0, 1]]
    again = make()
    assert batches == []
    pd.testing.assert_frame_equal(again, first)
    path, content = Path(first["path"][1]), Path(first["path"][1]).read_bytes()
    for damage in (lambda: path.write_bytes(content[:-100]), path.unlink, path.with_suffix(".json").unlink,
                   Path(first["preview_path"][1]).unlink):  # fmt: skip
        damage()
        make()
        assert batches == [[1]]
        assert path.read_bytes() == content
    make(native.assign(key=["native0", "other"]))
    assert batches == [[1]]
    make(native.assign(key=["native0", "other"]), arm.model_copy(update={"label": "a new name"}))
    assert batches == []
    make(native, arm.model_copy(update={"steps": 3}))
    assert batches == [[0, 1]]


def test_models_are_not_loaded_when_nothing_is_missing(wan21, native, tmp_path: Path, monkeypatch) -> None:
    arguments = ("a", REFINE, native[:1], None, None, wan21.model(), GENERATION, tmp_path / "clips")
    arm_clips(*arguments)
    monkeypatch.setattr(render, "Denoiser", lambda *a: pytest.fail("loaded"))
    assert len(arm_clips(*arguments)) == 1


def test_a_killed_run_loses_only_the_batch_in_work(wan21, native, tmp_path: Path, batches, monkeypatch) -> None:
    arm, one = REFINE.model_copy(update={"method": "upsample"}), GENERATION.model_copy(update={"batch_size": 1})
    arguments = ("a", arm, native, None, None, wan21.model(), one, tmp_path / "clips")
    with monkeypatch.context() as patch:
        calls: list[int] = []
        resize = resizing.enlarge
        patch.setattr(resizing, "enlarge", lambda *a: resize(*a) if not calls.append(1) and len(calls) < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            arm_clips(*arguments)
    arm_clips(*arguments)
    assert batches == [[0], [1]]


def test_true_renders_are_the_world_at_target_size(wan21, tmp_path: Path) -> None:
    model = wan21.model()
    table = reference_clips(PROMPTS[:1], model, GENERATION, tmp_path / "reference")
    truth = render_scene(scene_of_prompt(CAPTIONS[0], 0), 64, 96, 5)
    np.testing.assert_allclose(read_clip(Path(table["path"][0])), truth, atol=0.51 / 255)
    paired = native_clips(PROMPTS[:1], model, GENERATION.model_copy(update={"native_source": "truth"}), tmp_path / "n")
    small = render_scene(scene_of_prompt(CAPTIONS[0], 0), 32, 48, 5)
    np.testing.assert_allclose(read_clip(Path(paired["path"][0])), small, atol=0.51 / 255)
    assert parse_caption(CAPTIONS[0])["colour"] == "red"
    other = GENERATION.model_copy(update={"prompts": tmp_path / "prompts.txt"})
    assert reference_clips(PROMPTS, model, other, tmp_path).empty


def test_extra_adapters_come_with_their_weights(wan21, native, adapter, tmp_path: Path) -> None:
    own, style = adapter("own", 1), adapter("style", 2)

    def make(name: str, extra: list[float], steps: int = 2) -> np.ndarray:
        extras = tuple(ExtraAdapter(path=style.path, weight=w) for w in extra)
        arm = REFINE.model_copy(update={"adapter": "own", "extra_adapters": extras, "steps": steps})
        made = arm_clips(name, arm, native[:1], own, None, wan21.model(), GENERATION, tmp_path / "clips")
        return read_clip(Path(made["path"][0]))

    none, zero, half, whole = make("a", []), make("b", [0.0]), make("c", [0.5]), make("d", [1.0])
    assert np.abs(none - zero).max() <= 1 / 255
    assert np.abs(half - none).max() > 1 / 255 and np.abs(whole - half).max() > 1 / 255


def test_offload_changes_where_parts_live_and_nothing_else(wan21, native, tmp_path: Path) -> None:
    for name, offload in (("a", False), ("b", True)):
        arm_clips(name, REFINE, native, None, None, wan21.model(offload=offload), GENERATION, tmp_path)
    one, two = (sorted((tmp_path / "arms" / n).glob("*.mp4")) for n in "ab")
    assert [p.name for p in one] == [p.name for p in two]  # the same keys: the pixels do not depend on it
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_the_manifest_says_everything_needed_to_remake_the_clip(wan21, native, adapter, tmp_path: Path) -> None:
    arm = REFINE.model_copy(update={"adapter": "own", "scheduler": "unipc"})
    made = arm_clips("full", arm, native[:1], adapter("own", 1), None, wan21.model(), GENERATION, tmp_path)
    manifest = read_json(Path(made["path"][0]).with_suffix(".json"))
    assert (manifest["arm"], manifest["prompt"], manifest["seed"]) == ("full", CAPTIONS[0], 0)
    assert manifest["native_key"] == "native0" and manifest["settings"]["adapter"] == "own"
    assert manifest["size"] == {"height": 64, "width": 96, "frames": 5, "fps": 8.0}
    assert manifest["sigmas"] == pytest.approx([5 / 6, 0.625, 0.0], abs=1e-5) and manifest["steps"] == 2
    assert manifest["sigma_start"] == pytest.approx(5 / 6)
    assert manifest["settings"]["arm"]["scheduler"] == "unipc" and manifest["device"] == "cpu"
    assert manifest["seconds"] > 0 and manifest["versions"]["torch"] == torch.__version__


def test_spent_hours_stop_between_two_clips_and_the_next_run_makes_the_rest(
    wan21, native, tmp_path: Path, batches, monkeypatch
) -> None:
    arm, one = REFINE.model_copy(update={"method": "upsample"}), GENERATION.model_copy(update={"batch_size": 1})
    arguments = ("a", arm, native, None, None, wan21.model(), one, tmp_path / "clips")
    resize = resizing.enlarge
    with monkeypatch.context() as patch:
        patch.setattr(resizing, "enlarge", lambda *a: patch.setenv(DEADLINE, "0") or resize(*a))
        with pytest.raises(OutOfTimeError, match="kept: 1 of 2 clips of a"):
            arm_clips(*arguments)
    arm_clips(*arguments)
    assert batches == [[0], [1]]
