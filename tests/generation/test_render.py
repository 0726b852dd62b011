"""Coarse to fine: against WanPipeline, the same seed again, nothing made twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import WanPipeline

from vibe_pipeline.config import ArmParams, AttentionParams, GenerationParams
from vibe_pipeline.diffusion import adapters as lora
from vibe_pipeline.diffusion.flow import seeded_noise, sigma_schedule
from vibe_pipeline.generation import render
from vibe_pipeline.generation.clips import read_clip, write_lossless
from vibe_pipeline.generation.render import Denoiser, Scale, arm_clips, native_clips, reference_clips
from vibe_pipeline.images.camera import enlarge
from vibe_pipeline.miniature.scene import parse_caption, scene_of_prompt
from vibe_pipeline.miniature.world import render as render_scene

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
def adapter(wan21, tmp_path: Path) -> Callable[[str, int], dict[str, Any]]:
    """The manifest of a random adapter."""

    def make(name: str, seed: int) -> dict[str, Any]:
        transformer = wan21.transformer()
        lora.add_adapter(transformer, name, 4, 8.0, ("to_q", "to_v", "ffn.net.2"), seed)
        generator = torch.Generator().manual_seed(seed)
        state = lora.adapter_state(transformer, name)
        filled = {k: torch.randn(v.shape, generator=generator) for k, v in state.items()}
        lora.set_adapter_state(transformer, name, filled)
        return {"name": name, "key": name, "path": str(lora.save_adapter(transformer, name, tmp_path / name))}

    return make


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompt indices of every batch made since."""
    seen: list[list[int]] = []
    keep = render._keep

    def spy(rows: render.Rows, *rest: Any) -> None:
        seen.append([r["prompt_index"] for r in rows])
        keep(rows, *rest)

    monkeypatch.setattr(render, "_keep", spy)
    return seen


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_one_step_from_noise_is_wan_pipelines(tiny, guidance: float) -> None:
    """Text, guidance, timesteps a token, decoding: all as in diffusers."""
    size = Scale(2 * tiny.token, 3 * tiny.token, 5, 8.0)
    denoiser = Denoiser(tiny.model(), GENERATION, PROMPTS, sigma_schedule(1, 5.0))
    row = {"prompt": CAPTIONS[0], "seed": 7}
    ours = denoiser.from_noise([row], size, guidance)
    pipe = WanPipeline.from_pretrained(tiny.path)
    pipe.set_progress_bar_config(disable=True)
    channels = pipe.vae.config.z_dim
    theirs = pipe(
        CAPTIONS[0], "", size.height, size.width, 5, 1, guidance, max_sequence_length=12, output_type="pt",
        latents=seeded_noise((channels, 2, 4, 6), CAPTIONS[0], 7)[None],
    ).frames  # fmt: skip
    torch.testing.assert_close(ours, theirs.transpose(1, 2).float(), rtol=1e-3, atol=1e-3)
    assert float(ours.std()) > 1e-3


def test_the_same_seed_gives_the_same_clip_and_another_another(wan21, tmp_path: Path) -> None:
    pixels = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        table = native_clips(PROMPTS[:1].assign(seed=seed), wan21.model(), GENERATION, tmp_path / folder)
        pixels.append(read_clip(Path(table["path"][0])))
    assert pixels[0].shape == (5, 32, 48, 3)
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


@pytest.mark.parametrize("method", ["upsample", "refine", "direct"])
def test_an_arm_says_what_it_made(wan21, native, tmp_path: Path, method: str) -> None:
    arm = REFINE.model_copy(update={"method": method})
    made = arm_clips("a", arm, native, None, None, wan21.model(), GENERATION, tmp_path / "clips")
    assert made["arm"].tolist() == ["a", "a"]
    pd.testing.assert_frame_equal(made[list(PROMPTS.columns)], PROMPTS)
    assert made.loc[0, ["height", "width", "frames"]].tolist() == [64, 96, 5]
    assert made["sigma_start"].tolist() == pytest.approx([5 / 6 if method == "refine" else 1.0] * 2)
    clip = read_clip(Path(made["path"][0]))
    assert clip.shape == (5, 64, 96, 3)
    if method == "upsample":
        source = torch.from_numpy(read_clip(Path(native["path"][0]))).permute(3, 0, 1, 2)[None]
        expected = enlarge(source, 64, 96)[0].permute(1, 2, 3, 0).numpy()
        np.testing.assert_allclose(clip, expected, atol=1 / 255)


def test_share_starts_where_its_first_step_is(wan21, native, tmp_path: Path) -> None:
    arm = REFINE.model_copy(update={"steps": 3, "steps_are": "share", "strength": 0.5})
    made = arm_clips("a", arm, native[:1], None, None, wan21.model(), GENERATION, tmp_path / "clips")
    assert made["sigma_start"][0] == pytest.approx(float(sigma_schedule(3, 5.0, 0.5, "share")[0]))


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
        resize = render.enlarge
        patch.setattr(render, "enlarge", lambda *a: resize(*a) if not calls.append(1) and len(calls) < 2 else 1 / 0)
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


def test_a_size_that_does_not_fit_is_refused_before_sampling(wan21, native, tmp_path: Path) -> None:
    model = wan21.model(target={"height": 72, "width": 96, "frames": 5})
    with pytest.raises(ValueError, match="clip 72x96 must be a multiple of 16x16"):
        arm_clips("a", REFINE, native, None, None, model, GENERATION, tmp_path / "clips")
