"""Whole transformers in files of others: their names, what of them is refused by its header, what is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.wan_names import randomise, wan_name, write_wan_file
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.diffusion.own_weights import diffusers_names, load_own_weights, require_own_weights
from vibe_pipeline.planning.architecture import load_architecture

CPU = torch.device("cpu")


def config(tiny) -> dict:
    return find_model(str(tiny.path)).config_of("transformer")


@pytest.fixture
def other(tiny):
    """A transformer of the tiny's architecture with other weights."""
    return randomise(tiny.transformer(), 1)


def test_names_of_the_real_models_are_found_again() -> None:
    """Every tensor of the 1.3B and the 5B, from Wan's name to diffusers' and by no other way."""
    for model, tensors in (("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 825), ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 825)):
        expected = set(load_architecture(model).build_transformer().state_dict())
        assert len(expected) == tensors and "blocks.29.norm2.weight" in expected
        stored = [wan_name(name) for name in expected]
        assert "blocks.29.self_attn.q.weight" in stored and "head.modulation" in stored
        names, said = diffusers_names(stored, expected)
        assert said == "Wan's names" and {new: wan_name(new) for new in names.values()} == {
            v: k for k, v in names.items()
        }
        assert set(names.values()) == expected


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "pipe.dit."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wan_names_behind_any_prefix_give_the_same_transformer(tiny, other, tmp_path, velocity, prefix, dtype) -> None:
    file = write_wan_file(other, tmp_path / "t3.safetensors", prefix, dtype)
    loaded = load_transformer(find_model(str(tiny.path)), CPU, torch.float32, file)
    for (name, ours), theirs in zip(loaded.state_dict().items(), other.state_dict().values(), strict=True):
        theirs.copy_(theirs.to(dtype))  # as the file rounds them
        assert torch.equal(ours, theirs), name
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(velocity(loaded), velocity(other))
    assert not torch.allclose(velocity(loaded), velocity(tiny.transformer()))


def test_precision_and_buffers_are_the_bases(tiny, other, tmp_path) -> None:
    """diffusers' own loader of single files casts the tables of RoPE, norms and modulations to 16 bit."""
    model, file = find_model(str(tiny.path)), write_wan_file(other, tmp_path / "t3.safetensors")
    base, own = (load_transformer(model, CPU, torch.bfloat16, weights) for weights in (None, file))
    types = [{n: v.dtype for n, v in (*m.named_parameters(), *m.named_buffers())} for m in (base, own)]
    assert types[0] == types[1] and set(types[0].values()) == {torch.bfloat16, torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(base.buffers(), own.buffers(), strict=True))


def test_a_folder_of_shards_with_diffusers_names(tiny, other, tmp_path, velocity) -> None:
    other.save_pretrained(tmp_path / "own", max_shard_size="40KB")
    assert len(list((tmp_path / "own").glob("*.safetensors"))) > 1
    said = require_own_weights(tmp_path / "own", config(tiny), "tiny")
    assert said.endswith(f"{len(other.state_dict())} tensors, diffusers' names")
    loaded = load_transformer(find_model(str(tiny.path)), CPU, torch.float32, tmp_path / "own")
    assert torch.equal(velocity(loaded), velocity(other))
    next((tmp_path / "own").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"own lacks .*-00002-of-"):
        require_own_weights(tmp_path / "own", config(tiny), "tiny")


def change(file: Path, edit: Callable[[dict], object]) -> Path:
    state = load_file(file)
    edit(state)
    save_file(state, file)
    return file


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda s: s.pop("head.modulation"),
            r"lacks 1 of the \d+ tensors of tiny's transformer, among them scale_shift_",
        ),
        (lambda s: s.update({"blocks.0.vace.weight": torch.ones(2)}), r"has 1 tensors that .*blocks\.0\.vace\.weight"),
        (
            lambda s: s.update({"motion_encoder.fc.bias": torch.ones(2)}),
            r"has 1 tensors .*among them motion_encoder\.fc",
        ),
        (
            lambda s: s.update({"patch_embedding.weight": torch.ones(32, 36, 1, 2, 2)}),
            r"other shapes, among them patch_embedding\.weight \(32, 36, 1, 2, 2\), not \(32, (16|48), 1, 2, 2\)",
        ),
        (
            lambda s: s.update({"head.head.weight": s["head.head.weight"].to(torch.float8_e4m3fn)}),
            "holds F8_E4M3 numbers, whose scales are not read",
        ),
        (lambda s: s.update({"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2)}), "is a LoRA, not a whole transf"),
    ],
)
def test_a_file_that_is_not_one_of_the_base_is_refused_by_its_header(tiny, other, tmp_path, edit, said) -> None:
    file = change(write_wan_file(other, tmp_path / "t3.safetensors"), edit)
    with pytest.raises(ValueError, match=rf"t3\.safetensors .*{said}") as error:
        require_own_weights(file, config(tiny), "tiny")
    assert "\n" not in str(error.value)
    transformer = tiny.transformer()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        load_own_weights(transformer, file, "tiny")
    assert all(torch.equal(before[name], value) for name, value in transformer.state_dict().items())


def test_other_classes_and_broken_files_are_named(wan21, wan22, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"tensors of other shapes, among them"):
        require_own_weights(write_wan_file(wan22.transformer(), tmp_path / "a.safetensors"), config(wan21), "tiny")
    shutil.copytree(wan21.path / "vae", tmp_path / "vae")
    with pytest.raises(ValueError, match="vae is a AutoencoderKLWan, not a WanTransformer3DModel"):
        require_own_weights(tmp_path / "vae", config(wan21), "tiny")
    (tmp_path / "b.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"b\.safetensors cannot be read as safetensors: it is a Git LFS pointer"):
        require_own_weights(tmp_path / "b.safetensors", config(wan21), "tiny")
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "d", 2, 2.0, ("to_q",), 0)
    adapter = lora.save_adapter(transformer, "d", tmp_path / "style")
    with pytest.raises(ValueError, match=r"is a LoRA, not a whole transformer: name it in the arm's extra_adapters"):
        require_own_weights(adapter, config(wan21), "tiny")
