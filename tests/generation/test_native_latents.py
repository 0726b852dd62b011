"""Latents of native clips: made once for all arms, bit for bit, and by content."""

from pathlib import Path

import torch

from vibe_pipeline.generation.native_latents import NativeLatents

ROW = {"native_key": "clip"}


def test_a_latent_is_made_once_and_comes_back_to_the_bit(wan21, tmp_path: Path) -> None:
    natives, made = NativeLatents.of(wan21.model(), tmp_path), []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.randn(1, 16, 2, 4, 6).permute(0, 1, 2, 4, 3)

    first = natives.once(ROW, "pixels", make)
    assert torch.equal(natives.once(ROW, "pixels", make), first) and len(made) == 1
    natives.once(ROW, "latent", make), natives.once({"native_key": "other"}, "pixels", make)
    assert len(made) == 3
    natives.once({}, "pixels", make), natives.once({}, "pixels", make)  # no content to name it by
    assert len(made) == 5
    for file in natives.folder.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    again = natives.once(ROW, "pixels", make)
    assert len(made) == 6 and torch.equal(natives.once(ROW, "pixels", make), again)


def test_what_determines_it_tells_latents_apart(wan21, wan22, tmp_path: Path) -> None:
    changes = ({}, {"vae_dtype": "bfloat16"}, {"tile": 64}, {"target": {"height": 96, "width": 144, "frames": 5}})
    models = [*(wan21.model(**change) for change in changes), wan22.model()]
    for model in models:
        NativeLatents.of(model, tmp_path).once(ROW, "pixels", lambda: torch.zeros(1))
    assert len(list((tmp_path / "latents").iterdir())) == len(models)
    NativeLatents.of(wan21.model(dtype="bfloat16", offload=True), tmp_path).once(ROW, "pixels", lambda: 1 / 0)
