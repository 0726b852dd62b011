"""Clips while an adapter trains: made with the weights so far on the original base, and nothing is disturbed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import GclfSettings, install_gclf
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation import experts
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.generation.validation_clips import ValidationClips
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import read_clip

GENERATION = GenerationParams(prompts="miniature", count=4, native_steps=1, native_guidance_scale=1.0)
ARM = ArmParams(label="a", steps=1, guidance_scale=1.0, strength=0.5)


def test_clips_are_the_arms_own_with_the_weights_so_far(
    wan21, velocity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgets(*args: object) -> None:
        raise AssertionError("the graphs of the transformer in training are forgotten")

    monkeypatch.setattr(experts, "begin_compiling", forgets)
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "full", 4, 8.0, ("to_q", "to_v"), 0)
    for parameter in lora.adapter_parameters(transformer, "full").values():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    install_gclf(transformer, GclfSettings(kind="window", half_window=(1, 1)))
    before = velocity(transformer)
    published: list[tuple[Path, str]] = []
    model = wan21.model(text_length=16)
    own = model.model_copy(update={"compile": True})
    validate = ValidationClips("full", ARM, own, GENERATION, 2, tmp_path, lambda *a: published.append(a))
    made = validate(transformer, 50)
    assert torch.equal(velocity(transformer), before)
    assert [folder for _, folder in published] == ["validation/step-000050"] * 2

    saved = lora.save_adapter(transformer, "full", tmp_path / "saved")
    native = native_clips(load_prompts(GENERATION).head(2), model, GENERATION, tmp_path)
    manifest = AdapterManifest(name="full", key="k", path=saved)
    expected = arm_clips("b", ARM, native, manifest, None, model, GENERATION, tmp_path)
    plain = arm_clips("c", ARM, native, None, None, model, GENERATION, tmp_path)
    for one, two, three in zip(made["path"], expected["path"], plain["path"], strict=True):
        clip = read_clip(Path(one))
        assert np.array_equal(clip, read_clip(Path(two)))
        assert not np.array_equal(clip, read_clip(Path(three)))


def test_fewer_prompts_than_validation_clips_are_said_before_the_training(
    wan21, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ValidationClips("full", ARM, wan21.model(), GENERATION, 4, tmp_path, print)
    assert not caplog.records
    ValidationClips("full", ARM, wan21.model(), GENERATION, 9, tmp_path, print)
    assert "adapters.full.validation_clips asks for 9 clips; generation has only 4" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"gone\.txt does not exist"):
        ValidationClips("full", ARM, wan21.model(), GenerationParams(prompts=tmp_path / "gone.txt"), 1, tmp_path, print)
