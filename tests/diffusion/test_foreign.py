"""Paths that are not a model in diffusers layout: called by what they are, with the command that brings one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vibe_pipeline.diffusion.models import find_model

LONGEST = 600


def said(path: Path | str, *named: str) -> str:
    """The one line that refuses a path."""
    with pytest.raises(FileNotFoundError) as caught:
        find_model(str(path))
    message = str(caught.value)
    assert "\n" not in message and len(message) < LONGEST, message
    assert all(name in message for name in named), f"{named} not all in: {message}"
    return message


def single(path: Path, *keys: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: torch.ones(1) for key in keys}, path)
    return path


def original(folder: Path, kind: str, width: int, vae: str = "Wan2.1_VAE.pth") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "dim": width, "num_layers": 30}))
    (folder / vae).write_bytes(b"x")
    (folder / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"x")
    single(folder / "diffusion_pytorch_model.safetensors", "blocks.0.self_attn.q.weight")
    return folder


def experts(folder: Path, kind: str = "t2v") -> Path:
    for name in ("high_noise_model", "low_noise_model"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"model_type": kind, "dim": 5120}))
    return folder


def cache(folder: Path, wan21: Any) -> Path:
    shutil.copytree(wan21.path, folder / "snapshots" / "abc123")
    return folder


SMALL, LARGE, TI2V, A14B = (
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
)
# What is made of a folder or file, and what the message names.
OTHERS: dict[str, tuple[Callable[[Path, Any], Path], tuple[str, ...]]] = {
    "original 1.3B": (
        lambda p, w: original(p / "m", "t2v", 1536), ("original layout", "t2v", "Wan2.1_VAE.pth", f"download {SMALL}`")
    ),
    "original 14B": (lambda p, w: original(p / "m", "t2v", 5120), (f"`hf download {LARGE}`",)),
    "original 5B": (lambda p, w: original(p / "m", "ti2v", 3072, "Wan2.2_VAE.pth"), (f"`hf download {TI2V}`",)),
    "original I2V": (lambda p, w: original(p / "m", "i2v", 5120), ("model_type i2v", "not run here")),
    "original A14B": (lambda p, w: experts(p / "m"), ("high_noise_model", f"`hf download {A14B}`")),
    "original A14B I2V": (lambda p, w: experts(p / "m", "i2v"), ("high_noise_model", "not run here")),
    "ComfyUI file": (
        lambda p, w: single(p / "wan.safetensors", "model.diffusion_model.blocks.0.self_attn.q.weight"),
        ("a transformer in one file", "ComfyUI"),
    ),
    "ComfyUI folder": (
        lambda p, w: single(p / "m/wan.safetensors", "patch_embedding.weight").parent, ("one file", "wan.safetensors")
    ),
    "a LoRA": (lambda p, w: single(p / "l.safetensors", "x.lora_down.weight"), ("a LoRA", "extra_adapters")),
    "GGUF": (lambda p, w: _write(p / "wan-Q4.gguf", b"GGUF"), ("a GGUF file",)),
    "GGUF folder": (lambda p, w: _write(p / "m/wan-Q4.gguf", b"GGUF").parent, ("GGUF", "wan-Q4.gguf")),
    "pickle": (lambda p, w: _write(p / "wan.pth", b"x"), ("pickle",)),
    "hub cache of a model": (
        lambda p, w: cache(p / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers", w),
        (f"set model.path to the id {SMALL}", "snapshots/abc123"),
    ),
    "hub cache": (
        lambda p, w: cache(p / "hub/models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers", w).parent, ("hub's cache", SMALL)
    ),
    "a part": (lambda p, w: shutil.copytree(w.path, p / "m") / "transformer", ("one part", "set model.path to")),
    "the folder above": (lambda p, w: shutil.copytree(w.path, p / "m/inner").parent, ("inner is one",)),
    "an adapter": (lambda p, w: _write(p / "m/adapter_config.json", b"{}").parent, ("an adapter", "extra_adapters")),
    "no index": (
        lambda p, w: _without(shutil.copytree(w.path, p / "m"), "model_index.json"), ("download is incomplete",)
    ),
    "something else": (lambda p, w: _write(p / "m/readme.txt", b"x").parent, ("not a model in diffusers layout",)),
}  # fmt: skip


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def _without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_a_diffusers_folder_is_called_by_its_name(wan21, tmp_path: Path, case: str) -> None:
    make, named = OTHERS[case]
    path = make(tmp_path, wan21)
    message = said(path, path.name, *named)
    assert "set model.path" in message


@pytest.mark.parametrize(
    "path", ["x" * 300, "a/" + "y" * 300, "/no/such/folder", "models/wan.safetensors", "../m/x", "./m", "a\0b"]
)
def test_a_path_that_does_not_exist_names_a_command_that_works(path: str) -> None:
    """Never `hf download` of something that the hub has no such id for."""
    message = said(path)
    assert message.count("hf download") == 1
    command = message.split("`")[1]
    assert command == f"hf download {SMALL}"
