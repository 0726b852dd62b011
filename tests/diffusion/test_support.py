"""Model folders that look like the right one: each family is refused before anything is loaded, by its name."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vibe_pipeline.diffusion.models import find_model, require_whole
from vibe_pipeline.diffusion.quantisation import require_package

LONGEST = 600
INDEX, TRANSFORMER, VAE, TEXT = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
)
SCHEDULER = "scheduler/scheduler_config.json"
Change = dict[str, dict[str, Any]]


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint with some fields of its configurations changed."""

    def make(tiny: Any, changes: Change) -> Path:
        folder = shutil.copytree(tiny.path, tmp_path / "model")
        for name, fields in changes.items():
            content = json.loads((folder / name).read_text()) | fields
            (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))
        return folder

    return make


def said(folder: Path | str, *named: str) -> str:
    """The one line that refuses a model."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        require_whole(find_model(str(folder)))
    message = str(caught.value)
    assert "\n" not in message and len(message) < LONGEST, message
    assert all(name in message for name in named), f"{named} not all in: {message}"
    return message


def test_both_styles_are_supported_and_whole(tiny) -> None:
    require_whole(find_model(str(tiny.path)))


def test_the_shipped_base_is_supported_and_whole() -> None:
    require_whole(find_model(str(Path(__file__).parents[2] / "data/06_models/base")))


def diffusers(name: str) -> list[str]:
    return ["diffusers", name]


# Fields of a Wan2.1 folder that make it one of another family, and what the message names.
FAMILIES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "A14B without its boundary": (
        {INDEX: {"transformer_2": diffusers("WanTransformer3DModel")}},
        (INDEX, "no boundary_ratio", "0.875"),
    ),
    "a boundary alone": ({INDEX: {"boundary_ratio": 0.9}}, (INDEX, "boundary_ratio 0.9", "names no transformer_2")),
    "a boundary that is no level": (
        {INDEX: {"transformer_2": diffusers("WanTransformer3DModel"), "boundary_ratio": 875}},
        ("boundary_ratio 875", "not a noise level between 0 and 1"),
    ),
    "VACE of two experts": (
        {INDEX: {"transformer_2": diffusers("WanVACETransformer3DModel"), "boundary_ratio": 0.875}},
        ("its transformer_2 is a WanVACETransformer3DModel", "control blocks"),
    ),
    "the second expert not downloaded": (
        {INDEX: {"transformer_2": diffusers("WanTransformer3DModel"), "boundary_ratio": 0.875}},
        ("transformer_2/config.json", "the download is incomplete"),
    ),
    "Wan2.1-I2V": (
        {
            INDEX: {
                "_class_name": "WanImageToVideoPipeline",
                "image_encoder": ["transformers", "CLIPVisionModel"],
            },
            TRANSFORMER: {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
        },
        (TRANSFORMER, "image-to-video", "image_encoder", "image_dim 1280", "in_channels 36"),
    ),
    "Wan2.1-FLF2V": ({TRANSFORMER: {"pos_embed_seq_len": 514}}, ("image-to-video", "pos_embed_seq_len 514")),
    "Wan2.2-I2V without CLIP": ({TRANSFORMER: {"in_channels": 36}}, (TRANSFORMER, "in_channels 36", "z_dim is 16")),
    "Fun-Control": ({TRANSFORMER: {"in_channels": 48}}, ("in_channels 48", "control clip")),
    "VACE": (
        {
            INDEX: {"_class_name": "WanVACEPipeline", "transformer": diffusers("WanVACETransformer3DModel")},
            TRANSFORMER: {"_class_name": "WanVACETransformer3DModel", "vace_layers": [0, 1]},
        },
        ("WanVACEPipeline", "control blocks would be left out"),
    ),
    "VACE in a Wan pipeline": (
        {TRANSFORMER: {"_class_name": "WanVACETransformer3DModel", "vace_layers": [0, 1]}},
        (TRANSFORMER, "WanVACETransformer3DModel", "control blocks"),
    ),
    "Wan-Animate": ({INDEX: {"_class_name": "WanAnimatePipeline"}}, ("WanAnimatePipeline", "pose")),
    "SkyReels": (
        {INDEX: {"_class_name": "SkyReelsV2Pipeline", "transformer": diffusers("SkyReelsV2Transformer3DModel")}},
        ("SkyReelsV2Pipeline", "SkyReels"),
    ),
    "ChronoEdit": ({INDEX: {"transformer": diffusers("ChronoEditTransformer3DModel")}}, ("ChronoEdit", "edit")),
    "FastWan": ({INDEX: {"_class_name": "WanDMDPipeline"}}, ("WanDMDPipeline", "step-distilled")),
    "CogVideoX": ({INDEX: {"_class_name": "CogVideoXPipeline"}}, ("CogVideoXPipeline",)),
    "no pipeline": ({INDEX: {"_class_name": "gone"}}, ("None", "is not the name of a pipeline")),
    "another VAE": ({INDEX: {"vae": diffusers("AutoencoderKLHunyuanVideo")}}, ("AutoencoderKLHunyuanVideo", "vae")),
    "another encoder": ({INDEX: {"text_encoder": ["transformers", "T5EncoderModel"]}}, ("T5EncoderModel",)),
    "no VAE": ({INDEX: {"vae": [None, None]}}, ("names no vae",)),
    "quantised": ({TRANSFORMER: {"quantization_config": {"quant_method": "bitsandbytes"}}}, ("quantised",)),
    "other channels out": ({TRANSFORMER: {"out_channels": 32}}, ("out_channels 32", "z_dim is 16")),
    "VAE of Wan2.2": ({VAE: {"z_dim": 48}}, ("in_channels 16", "z_dim is 48")),
    "other text encoder": ({TEXT: {"d_model": 4096}}, ("text_dim 64", "d_model is 4096")),
    "patches in time": ({TRANSFORMER: {"patch_size": [2, 2, 2]}}, ("[2, 2, 2]",)),
    "patches flat": ({TRANSFORMER: {"patch_size": [2, 2]}}, ("[2, 2]",)),
    "VAE scale": ({VAE: {"scale_factor_spatial": 16}}, (VAE, "scale_factor_spatial 16", "make 8")),
    "VAE scale in time": ({VAE: {"scale_factor_temporal": 8}}, (VAE, "scale_factor_temporal 8", "make 4")),
    "VAE statistics": ({VAE: {"latents_mean": [0.0] * 15}}, (VAE, "latents_mean", "z_dim 16")),
    "VAE deviation": ({VAE: {"latents_std": [0.0] * 16}}, (VAE, "latents_std", "not positive")),
    "VAE deviation in words": ({VAE: {"latents_std": ["a"] * 16}}, (VAE, "latents_std")),
    "VAE layers in words": ({VAE: {"dim_mult": 3}}, ("cannot be used", "download")),
    "TI2V by its index alone": (
        {INDEX: {"expand_timesteps": True}},
        (INDEX, "expand_timesteps is true", "false there"),
    ),
    "noise prediction": (
        {SCHEDULER: {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}},
        (SCHEDULER, "DDIMScheduler", "epsilon"),
    ),
    "solver of another kind": ({SCHEDULER: {"_class_name": "DDPMScheduler"}}, ("DDPMScheduler",)),
    "continuous time": ({SCHEDULER: {"num_train_timesteps": 1}}, ("num_train_timesteps is 1",)),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_a_family_that_would_be_run_in_part_is_named(wan21, copy: Callable, case: str) -> None:
    changes, named = FAMILIES[case]
    message = said(copy(wan21, changes), *named)
    assert "Wan-AI/Wan2" in message or "download" in message  # the way out


def test_a_ti2v_model_must_say_that_it_is_one(wan22, copy: Callable) -> None:
    said(copy(wan22, {INDEX: {"expand_timesteps": "gone"}}), "expand_timesteps is false", '"expand_timesteps": true')


def test_an_expert_that_the_index_does_not_name(wan21, copy: Callable) -> None:
    folder = copy(wan21, {})
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    said(folder, "transformer_2", "half of a model of two experts")


@pytest.mark.parametrize(
    "changes",
    [
        {SCHEDULER: {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}},
        {VAE: {"clip_output": False}},  # as the published 5B's has
        {INDEX: {"_class_name": "WanImageToVideoPipeline", "image_encoder": [None, None]}},
        {VAE: {"scale_factor_spatial": "gone", "scale_factor_temporal": "gone"}},
    ],
)
def test_what_published_models_say_beside_is_no_fault(wan21, copy: Callable, changes: Change) -> None:
    require_whole(find_model(str(copy(wan21, changes))))


def test_two_experts_are_supported_whole_and_alike(a14b, wan21, copy: Callable) -> None:
    found = find_model(str(a14b.path))
    require_whole(found)
    assert (found.boundary, found.experts) == (0.875, ("transformer", "transformer_2"))
    assert (find_model(str(wan21.path)).boundary, find_model(str(wan21.path)).experts) == (None, ("transformer",))
    folder = copy(a14b, {"transformer_2/config.json": {"num_layers": 3}})
    said(folder, "transformer_2/config.json", "num_layers 3 where the transformer's is 2", "alike")


def test_either_expert_is_judged_by_its_weights(a14b, copy: Callable) -> None:
    folder = copy(a14b, {})
    change_tensors(lambda s: dict(sorted(s.items())[1:]))(weights(folder, "transformer_2"))
    said(folder, "transformer_2", "lacks 1 of the", "download")
    weights(folder, "transformer_2").unlink()
    said(folder, "transformer_2/diffusion_pytorch_model.safetensors is not there")


def weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change_tensors(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        state = change(load_file(path))
        path.unlink()
        save_file(state, path)

    return apply


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda p: p.unlink(), "is not there"),
    "empty": (lambda p: p.write_bytes(b""), "empty (0 bytes)"),
    "pointer": (lambda p: p.write_bytes(POINTER), "git lfs pull"),
    "page": (lambda p: p.write_bytes(b"<!DOCTYPE html>"), "web page"),
    "pickle": (lambda p: p.write_bytes(b"PK\x03\x04 archive/data.pkl"), "pickle"),
    "variant": (lambda p: p.rename(p.with_suffix(".fp16.safetensors")), "variants, pickles and GGUF are not read"),
    "cut": (cut, "cannot be read as safetensors"),
    "dead link": (lambda p: (p.unlink(), p.symlink_to("gone")), "a link to a file that is gone"),
    "fewer": (change_tensors(lambda s: dict(sorted(s.items())[1:])), "lacks 1 of the"),
}


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("case", DAMAGES)
def test_weights_that_are_not_whole(wan21, copy: Callable, part: str, case: str) -> None:
    folder = copy(wan21, {})
    damage, named = DAMAGES[case]
    damage(weights(folder, part))
    said(folder, part, named, "download")


def test_blocks_that_the_configuration_does_not_mention_are_seen_in_the_weights(wan21, copy: Callable) -> None:
    """A VACE transformer under a plain one's configuration: diffusers would drop them in silence."""
    folder = copy(wan21, {})
    change_tensors(lambda s: s | {"vace_blocks.0.proj_in.weight": torch.ones(2, 2)})(weights(folder, "transformer"))
    said(folder, "1 tensors that its class does not know", "vace_blocks.0.proj_in.weight")


def test_weights_of_another_size_than_the_configuration(wan21, copy: Callable) -> None:
    folder = copy(wan21, {TRANSFORMER: {"ffn_dim": 96}})
    said(folder, "transformer has", "tensors of other shapes", "blocks.0.ffn.net.0.proj")


def test_shards_are_all_there_and_hold_everything(wan21, copy: Callable) -> None:
    folder = copy(wan21, {})
    path = weights(folder, "transformer")
    state = load_file(path)
    names = sorted(state)
    path.unlink()
    first, second = (path.with_name(f"diffusion_pytorch_model-0000{i}-of-00002.safetensors") for i in (1, 2))
    save_file({n: state[n] for n in names[:9]}, first)
    save_file({n: state[n] for n in names[9:]}, second)
    index = path.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {n: (first if i < 9 else second).name for i, n in enumerate(names)}}))
    require_whole(find_model(str(folder)))
    second.rename(folder / "aside")
    said(folder, "transformer/diffusion_pytorch_model-00002-of-00002.safetensors is not there")
    save_file({n: state[n] for n in names[10:]}, second)
    said(folder, "lacks 1 of the", names[9])
    index.write_text('{"weight_map": {}}')
    said(folder, index.name, "weight_map")


@pytest.mark.parametrize(("content", "named"), [(None, "tokenizer.json or spiece.model"), (POINTER, "git lfs pull")])
def test_a_tokenizer_that_is_not_whole(wan21, copy: Callable, content: bytes | None, named: str) -> None:
    file = copy(wan21, {}) / "tokenizer/tokenizer.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    said(file.parent.parent, "tokenizer", named)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_part_that_was_not_downloaded(wan21, copy: Callable, part: str) -> None:
    folder = copy(wan21, {})
    shutil.rmtree(folder / part)
    said(folder, str(folder / part / "config.json"), "incomplete")


def test_a_header_that_claims_more_than_the_file_has(wan21, copy: Callable) -> None:
    folder = copy(wan21, {})
    path = weights(folder, "vae")
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    said(folder, "vae", "cannot be read as safetensors")


def test_without_the_package_none_alone_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: looked.append(name))
    require_package(None)
    assert looked == []
    with pytest.raises(ModuleNotFoundError, match=r"model\.quantisation int8 needs torchao: pip install"):
        require_package("int8")
    with pytest.raises(ModuleNotFoundError, match=r"quantisation nf4 needs bitsandbytes: pip install 'bitsandbytes>="):
        require_package("nf4")
    require_package("fp8_cast")  # torch alone
    assert looked == ["torchao", "bitsandbytes"]
