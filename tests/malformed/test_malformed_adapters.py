"""Adapter files: never unpickled, never loaded in part, never taken for another base's."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.lora_formats import import_adapter

KEY = "lora_adapter_metadata"
MODULE = "transformer.blocks.0.attn1.to_q"
SCALE = {"transformer.r": 4, "transformer.lora_alpha": 6.0}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def base(wan21) -> WanTransformer3DModel:
    """Never changed: all of these are refused before it is touched."""
    return wan21.transformer()


@pytest.fixture(scope="module")
def good(wan21, tmp_path_factory: pytest.TempPathFactory) -> State:
    """The tensors of an adapter that fits."""
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "full", 4, 6.0, ("to_q", "to_v"), 0)
    return load_file(lora.save_adapter(transformer, "full", tmp_path_factory.mktemp("good")))


def with_value(state: State, value: Any, end: str = "lora_B.weight") -> State:
    return state | {f"{MODULE}.{end}": value}


def renamed(state: State, old: str, new: str) -> State:
    return {k.replace(old, new): v for k, v in state.items()}


NAN = torch.full((32, 4), float("nan"))
# How the tensors are changed, and what the message names beside the file.
CHANGES: dict[str, tuple[Callable[[State], State], str]] = {
    "empty": (lambda s: {}, "empty"),
    "NaN": (lambda s: with_value(s, NAN), "NaN"),
    "infinity in 16 bit": (lambda s: with_value(s, torch.full((32, 4), float("inf")).half()), "infinity"),
    "whole numbers": (lambda s: with_value(s, torch.ones(32, 4, dtype=torch.int64)), "whole numbers"),
    "truth values": (lambda s: with_value(s, torch.ones(32, 4, dtype=torch.bool)), "whole numbers"),
    "no matrix": (lambda s: with_value(s, torch.ones(32)), "(32,)"),
    "a number": (lambda s: with_value(s, torch.tensor(1.0)), "()"),
    "convolution": (lambda s: with_value(s, torch.ones(32, 4, 1, 1)), "(32, 4, 1, 1)"),
    "no rank": (lambda s: with_value(s, torch.ones(32, 0)), "(32, 0)"),
    "ranks that differ": (lambda s: with_value(s, torch.ones(32, 5)), "(32, 5)"),
    "another rank than stated": (
        lambda s: {k: torch.cat([v, v], int("lora_B" in k)) for k, v in s.items()},
        "rank",
    ),
    "another base": (lambda s: with_value(s, torch.ones(4, 99), "lora_A.weight"), "99"),
    "other layers": (lambda s: renamed(s, "blocks.1.", "blocks.40."), "blocks.40"),
    "half a pair": (lambda s: {k: v for k, v in s.items() if k != f"{MODULE}.lora_B.weight"}, "to_q"),
    "another model": (lambda s: renamed(s, "transformer.", "unet."), "unet"),
    "text encoder's beside": (lambda s: s | {"text_encoder.q.lora_A.weight": torch.ones(2, 2)}, "text_encoder"),
    "a module that is not a layer": (lambda s: renamed(s, "attn1.to_q", "attn1"), "attn1"),
    "whole weights beside": (lambda s: s | {"transformer.proj_out.weight": torch.ones(2, 2)}, "proj_out"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_tensors(base: WanTransformer3DModel, good: State, tmp_path: Path, refused: Callable, case: str) -> None:
    change, named = CHANGES[case]
    path = tmp_path / "d2.safetensors"
    save_file(change(good), path, {KEY: json.dumps(SCALE)})
    refused(lambda: lora.load_adapter(base, path, "d2"), str(path), named)
    assert not getattr(base, "peft_config", None)


# What the metadata says under its key (None: it has none), and what the message names.
SCALES: dict[str, tuple[str | None, str]] = {
    "none": (None, KEY),
    "empty": ("", KEY),
    "not JSON": ("r=4", "r=4"),
    "a list": ("[4, 6]", "[4, 6]"),
    "no rank": ('{"transformer.lora_alpha": 6}', "'r'"),
    "no alpha": ('{"transformer.r": 4}', "lora_alpha"),
    "rank 0": ('{"transformer.r": 0, "transformer.lora_alpha": 6}', "rank 0"),
    "rank in words": ('{"transformer.r": "four", "transformer.lora_alpha": 6}', "four"),
    "half a rank": ('{"transformer.r": 4.5, "transformer.lora_alpha": 6}', "4.5"),
    "alpha NaN": ('{"transformer.r": 4, "transformer.lora_alpha": NaN}', "nan"),
    "nested": ("[" * 50_000, KEY),
    "unknown setting": (json.dumps(SCALE | {"transformer.run": "os.system"}), "run"),
    "ranks of modules in words": (json.dumps(SCALE | {"transformer.rank_pattern": "all"}), "d2.safetensors"),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_scale(base: WanTransformer3DModel, good: State, tmp_path: Path, refused: Callable, case: str) -> None:
    stated, named = SCALES[case]
    path = tmp_path / "d2.safetensors"
    save_file(good, path, {"format": "pt"} if stated is None else {KEY: stated})
    refused(lambda: lora.load_adapter(base, path, "d2"), str(path), named)
    assert not getattr(base, "peft_config", None)


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


# Bytes of a file that is not safetensors.
FILES: dict[str, bytes] = {
    "0 bytes": b"",
    "text": b"see https://host/adapter.safetensors",
    "length without end": b"\xff" * 8,
    "header cut": struct.pack("<Q", 1000) + b"{",
    "header no JSON": header(b"not json"),
    "tensor beyond the end": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
    "shape of 2^63": header(b'{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}') + bytes(4),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file(tmp_path: Path, refused: Callable, case: str) -> None:
    path = tmp_path / "d2.safetensors"
    path.write_bytes(FILES[case])
    refused(lambda: lora.read_adapter(path), str(path), "safetensors")


def test_a_file_cut_short(good: State, tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "d2.safetensors"
    save_file(good, path, {KEY: json.dumps(SCALE)})
    path.write_bytes(path.read_bytes()[:-100])
    refused(lambda: lora.read_adapter(path), str(path))
    refused(lambda: import_adapter(path, tmp_path / "new"), str(path))


@pytest.mark.parametrize("name", ["d2.safetensors", "d2.bin", "d2.pt", "d2.ckpt"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_never_opened(tmp_path: Path, refused: Callable, bomb: object, name: str, how: str) -> None:
    path = tmp_path / name
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(bomb))
    refused(lambda: lora.read_adapter(path), str(path))
    refused(lambda: import_adapter(path, tmp_path / "new"), str(path))


COMFY = "diffusion_model.blocks.0.self_attn.q"
# Keys of another program's file, and what the message names.
FOREIGN: dict[str, tuple[State, str]] = {
    "alpha NaN": ({f"{COMFY}.alpha": torch.tensor(float("nan"))}, "alpha"),
    "alpha infinite": ({f"{COMFY}.alpha": torch.tensor(float("inf"))}, "alpha"),
    "two alphas": ({f"{COMFY}.alpha": torch.ones(2)}, "make no low-rank update"),
    "LoHa": ({f"{COMFY}.hada_w1_a": torch.ones(4, 4)}, "hada_w1_a"),
    "a bias": ({f"{COMFY}.diff_b": torch.ones(4)}, "diff_b"),
    "layouts mixed": ({"lora_unet_blocks_0_self_attn_q.lora_up.weight": torch.ones(32, 4)}, "2 ways"),
    "a layer that Wan has not": ({"diffusion_model.double_blocks.0.q.lora_up.weight": torch.ones(4, 4)}, "double"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_an_import(tmp_path: Path, refused: Callable, case: str) -> None:
    more, named = FOREIGN[case]
    path = tmp_path / "theirs.safetensors"
    pair = {f"{COMFY}.lora_down.weight": torch.ones(4, 32), f"{COMFY}.lora_up.weight": torch.ones(32, 4)}
    save_file(pair | more, path)
    refused(lambda: import_adapter(path, tmp_path / "new"), str(path), named)
    assert not (tmp_path / "new").exists()
