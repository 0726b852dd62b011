"""CineScale's and UltraWan's files in every spelling, and changes of whole tensors: as merged by hand, then undone."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from tests.wan_names import LORA_RANK, LORA_SPELLINGS, merged
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.lora_differences import (
    check_differences,
    fused_differences,
    parameter_of,
    parameter_shapes,
)
from vibe_pipeline.diffusion.lora_formats import import_adapter


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize("spelling", LORA_SPELLINGS)
def test_cinescales_layout_equals_merged_weights(tiny, velocity, tmp_path: Path, spelling: str, ending: str) -> None:
    """No alpha means scale 1. The pickle is what is published."""
    by_hand = tiny.transformer()
    plain = velocity(by_hand)
    state, path = merged(by_hand, spelling), tmp_path / f"t2v_1.3b_ntk20.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    found = import_adapter(path, tmp_path / "ours", base=tiny.transformer())
    assert (found.modules, found.ranks, found.alphas) == (20, (LORA_RANK,), (float(LORA_RANK),))
    loaded = tiny.transformer()
    lora.load_adapter(loaded, found.path, "cinescale")
    torch.testing.assert_close(velocity(loaded), velocity(by_hand), rtol=1e-4, atol=1e-4)
    assert (velocity(loaded) - plain).abs().max() > 0.01


def test_imported_again_it_is_the_same_file(tiny, tmp_path: Path) -> None:
    """Clips are known by the adapter's bytes, and would all be made again."""
    torch.save(merged(tiny.transformer(), "default"), tmp_path / "ultrawan-1k.ckpt")
    made = {import_adapter(tmp_path / "ultrawan-1k.ckpt", tmp_path / str(i)).path.read_bytes() for i in range(6)}
    assert len(made) == 1


def test_ultrawans_weight_is_its_lora_alpha(tiny, velocity, tmp_path: Path) -> None:
    """Its authors run the 1K form with `--lora_alpha 0.25`, a factor of the update."""
    by_hand = tiny.transformer()
    torch.save({"state_dict": merged(by_hand, "default", 0.25), "epoch": 1}, tmp_path / "ultrawan-1k.ckpt")
    found = import_adapter(tmp_path / "ultrawan-1k.ckpt", tmp_path / "ours")
    loaded = tiny.transformer()
    lora.load_adapter(loaded, found.path, "ultrawan", 0.25)
    torch.testing.assert_close(velocity(loaded), velocity(by_hand), rtol=1e-4, atol=1e-4)


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return self.place.touch, ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda place: {"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2), "x": Bomb(place)}, "more than tensors"),
        (lambda place: pickle.dumps(Bomb(place)), "pickle"),
        (lambda place: {"blocks.0.self_attn.q.lora_A.weight": "text"}, "are not tensors"),
        (lambda place: [torch.ones(2)], "holds list, not tensors by name"),
        (lambda place: b"<html>", "web page"),
        (lambda place: b"PK\x03\x04 cut", "cannot be read as weights"),
    ],
)
def test_nothing_in_a_pickle_is_run(tmp_path: Path, content: Any, said: str) -> None:
    path, made = tmp_path / "x.ckpt", content(tmp_path / "exploded")
    path.write_bytes(made) if isinstance(made, bytes) else torch.save(made, path)
    with pytest.raises(ValueError, match=said) as error:
        import_adapter(path, tmp_path / "in")
    assert "x.ckpt" in str(error.value) and not (tmp_path / "exploded").exists() and not (tmp_path / "in").exists()


# As lightx2v, CausVid, ComfyUI and peft name them, and diffusers' name of the parameter.
NAMES = {
    "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
    "diffusion_model.blocks.1.cross_attn.norm_k.diff": "blocks.1.attn2.norm_k.weight",
    "diffusion_model.blocks.1.norm3.diff": "blocks.1.norm2.weight",
    "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
    "blocks.0.norm3.w_norm": "blocks.0.norm2.weight",
    "blocks.0.norm3.b_norm": "blocks.0.norm2.bias",
    "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "diffusion_model.blocks.0.ffn.2.diff_b": "blocks.0.ffn.net.2.bias",
    "lora_unet_blocks_1_cross_attn_o.diff_b": "blocks.1.attn2.to_out.0.bias",
    "lora_unet_blocks_1_self_attn_norm_q.diff": "blocks.1.attn1.norm_q.weight",
    "diffusion_model.blocks.0.diff_m": "blocks.0.scale_shift_table",
    "diffusion_model.blocks.1.modulation.diff": "blocks.1.scale_shift_table",
    "diffusion_model.head.diff_m": "scale_shift_table",
    "diffusion_model.head.modulation.diff": "scale_shift_table",
    "diffusion_model.head.head.diff": "proj_out.weight",
    "diffusion_model.head.head.diff_b": "proj_out.bias",
    "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    "diffusion_model.patch_embedding.diff_b": "patch_embedding.bias",
    "diffusion_model.time_projection.1.diff": "condition_embedder.time_proj.weight",
    "diffusion_model.text_embedding.0.diff_b": "condition_embedder.text_embedder.linear_1.bias",
    "transformer.blocks.0.attn1.to_q.lora_B.bias": "blocks.0.attn1.to_q.bias",
    "transformer.blocks.0.attn1.norm_q.diff": "blocks.0.attn1.norm_q.weight",
}


def test_every_published_spelling_means_a_parameter_of_the_base(wan21) -> None:
    assert {key: parameter_of(key) for key in NAMES} == NAMES
    assert set(NAMES.values()) <= parameter_shapes(wan21.transformer()).keys()
    for key in ("blocks.0.nothing.diff", "blocks.0.self_attn.diff_m", "double_blocks.0.norm.diff"):
        with pytest.raises(ValueError, match="of a Wan transformer"):
            parameter_of(key)


DISTINCT = [k for k in NAMES if not k.startswith("transformer.") and "modulation" not in k and "unet" not in k]


def few_step_file(base: WanTransformer3DModel, path: Path, weight: float = 1.0) -> WanTransformer3DModel:
    """A file as few-step LoRAs are published; `base` gets all of it by hand."""
    state, parameters = merged(base, "prefix", weight), dict(base.named_parameters())
    generator = torch.Generator().manual_seed(7)
    for key in DISTINCT:
        parameter = parameters[NAMES[key]]
        state[f"diffusion_model.{key.removeprefix('diffusion_model.')}"] = difference = 0.1 * torch.randn(
            parameter.shape, generator=generator
        )
        parameter.data += weight * difference
    state["diffusion_model.blocks.1.ffn.0.diff_b"] = torch.zeros(48)  # says nothing
    save_file(state, path)
    return base


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_on_request_differences_are_fused_and_undone(tiny, velocity, tmp_path: Path, weight: float) -> None:
    """In the weights of a transformer with adapters; its whole state comes back bit for bit."""
    path = tmp_path / "few.safetensors"
    by_hand = few_step_file(tiny.transformer(), path, weight)
    found = import_adapter(path, tmp_path / "ours", base=tiny.transformer(), differences=True)
    assert (found.differences, found.zeros_dropped, found.modules) == (len(DISTINCT), 1, 20)
    beside, loaded = tmp_path / "ours/differences.safetensors", tiny.transformer()
    lora.load_adapter(loaded, found.path, "few", weight)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    without = velocity(loaded)
    with fused_differences(loaded, beside, weight) as changed:
        assert changed == len(DISTINCT) == check_differences(beside, parameter_shapes(loaded))
        torch.testing.assert_close(velocity(loaded), velocity(by_hand), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(velocity(loaded), without) and (without - velocity(by_hand)).abs().max() > 0.01


def test_in_16_bit_the_sum_is_rounded_once_and_undone_exactly(tiny, tmp_path: Path) -> None:
    """As 32 bit would have it, to the nearest; also where an error ends the block."""
    few_step_file(tiny.transformer(), tmp_path / "few.safetensors")
    import_adapter(tmp_path / "few.safetensors", tmp_path / "ours", differences=True)
    beside, transformer = tmp_path / "ours/differences.safetensors", tiny.transformer().to(torch.bfloat16)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}

    def broken_off() -> None:
        with fused_differences(transformer, beside):
            for name, difference in load_file(beside).items():
                exact = (before[name].double() + difference.double()).to(torch.bfloat16)
                assert torch.equal(transformer.state_dict()[name], exact)
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        broken_off()
    assert all(torch.equal(value, before[name]) for name, value in transformer.state_dict().items())


def test_without_the_request_they_are_refused_with_the_way_out(tiny, tmp_path: Path) -> None:
    few_step_file(tiny.transformer(), tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match=rf"{len(DISTINCT)} of its .* differences .* With --differences they are kept"):
        import_adapter(tmp_path / "few.safetensors", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_import_without_them_leaves_none_of_an_earlier_one(tiny, tmp_path: Path) -> None:
    few_step_file(tiny.transformer(), tmp_path / "few.safetensors")
    import_adapter(tmp_path / "few.safetensors", tmp_path / "ours", differences=True)
    save_file(merged(tiny.transformer(), "plain"), tmp_path / "plain.safetensors")
    import_adapter(tmp_path / "plain.safetensors", tmp_path / "ours", differences=True)
    assert [p.name for p in (tmp_path / "ours").iterdir()] == ["pytorch_lora_weights.safetensors"]


def test_a_bias_that_peft_trained_is_scaled_as_the_update_is(tiny, tmp_path: Path) -> None:
    name = "transformer.blocks.0.attn1.to_q"
    state = {f"{name}.lora_A.weight": torch.ones(4, 32), f"{name}.lora_B.weight": torch.ones(32, 4)}
    save_file(state | {f"{name}.lora_B.bias": torch.ones(32)}, tmp_path / "biased.safetensors")
    import_adapter(tmp_path / "biased.safetensors", tmp_path / "ours", alpha=2.0, differences=True)
    written = load_file(tmp_path / "ours/differences.safetensors")
    assert list(written) == ["blocks.0.attn1.to_q.bias"] and (written["blocks.0.attn1.to_q.bias"] == 0.5).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"diffusion_model.blocks.0.nothing.diff": torch.ones(3)}, "nothing is not a layer"),
        (
            {"diffusion_model.head.diff_m": torch.full((1, 2, 32), float("nan"))},
            "holds NaN or infinity for scale_shift_",
        ),
        (
            {"head.diff_m": torch.ones(1, 2, 32), "diffusion_model.head.diff_m": torch.ones(1, 2, 32)},
            "is the second difference of scale_shift_table",
        ),
        (
            {"diffusion_model.head.diff_m": torch.ones(1, 2, 64)},
            r"scale_shift_table is \(1, 2, 32\) here, \(1, 2, 64\)",
        ),
        (
            {"diffusion_model.blocks.7.diff_m": torch.ones(1, 6, 32)},
            r"changes blocks\.7\.scale_shift_table, which the b",
        ),
    ],
)
def test_a_difference_that_means_no_parameter_is_refused(wan21, tmp_path: Path, more: dict, said: str) -> None:
    save_file(merged(wan21.transformer(), "prefix") | more, tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match=said) as error:
        import_adapter(tmp_path / "few.safetensors", tmp_path / "in", base=wan21.transformer(), differences=True)
    assert "few.safetensors" in str(error.value) and not (tmp_path / "in").exists()


def test_another_bases_differences_change_nothing(wan21, wan22, tmp_path: Path) -> None:
    few_step_file(wan21.transformer(), tmp_path / "few.safetensors")
    import_adapter(tmp_path / "few.safetensors", tmp_path / "ours", differences=True)
    other = wan22.transformer()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with (
        pytest.raises(ValueError, match=r"was made for another base: .* here, .* there"),
        fused_differences(other, tmp_path / "ours/differences.safetensors"),
    ):
        pass
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
