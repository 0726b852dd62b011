"""Every spelling that LoRA files of Wan have: the same update, whoever wrote it; other kinds by their names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from vibe_pipeline.commands.exchange import import_adapter as command
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.lora_formats import import_adapter

MODULES = {  # Wan's own name, and diffusers'
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
    "blocks.1.ffn.0": "blocks.1.ffn.net.0.proj",
    "blocks.0.ffn.2": "blocks.0.ffn.net.2",
}
RANK = 4
# How a key is written: {wan} or {diffusers} name the module, {_wan} and {_diffusers} with underscores, {x} the factor.
SPELLINGS: dict[str, tuple[str, str, str]] = {  # the key, the two factors' names, and what the layout is called
    "CineScale": ("diffusion_model.{wan}.lora_{x}.weight", "A B", "comfyui"),
    "CineScale, .default": ("diffusion_model.{wan}.lora_{x}.default.weight", "A B", "comfyui"),
    "CineScale, no prefix": ("{wan}.lora_{x}.weight", "A B", "wan"),
    "CineScale, no prefix, .default": ("{wan}.lora_{x}.default.weight", "A B", "diffsynth"),
    "ComfyUI": ("diffusion_model.{wan}.lora_{x}.weight", "down up", "comfyui"),
    "ComfyUI, whole model": ("model.diffusion_model.{wan}.lora_{x}.weight", "down up", "comfyui"),
    "ComfyUI, diffusers' modules": ("diffusion_model.{diffusers}.lora_{x}.weight", "A B", "comfyui"),
    "kohya": ("lora_unet_{_wan}.lora_{x}.weight", "down up", "kohya"),
    "kohya, two lines": ("lora_unet__{_wan}.lora_{x}.weight", "down up", "kohya"),
    "kohya, diffusers' modules": ("lora_unet_{_diffusers}.lora_{x}.weight", "down up", "kohya"),
    "OneTrainer": ("lora_transformer_{_diffusers}.lora_{x}.weight", "down up", "kohya"),
    "LyCORIS": ("lycoris_{_wan}.lora_{x}.weight", "down up", "lycoris"),
    "LyCORIS, diffusers' modules": ("lycoris_{_diffusers}.lora_{x}.weight", "down up", "lycoris"),
    "DiffSynth": ("pipe.dit.{wan}.lora_{x}.default.weight", "A B", "diffsynth"),
    "diffusers": ("transformer.{diffusers}.lora_{x}.weight", "A B", "diffusers"),
    "diffusers, Wan's modules": ("transformer.{wan}.lora_{x}.weight", "A B", "diffusers"),
    "diffusers, no prefix": ("{diffusers}.lora_{x}.weight", "A B", "diffusers"),
    "diffusers, old": ("transformer.{diffusers}.lora.{x}.weight", "down up", "diffusers"),
    "PEFT": ("base_model.model.{wan}.lora_{x}.weight", "A B", "peft"),
    "PEFT, diffusers' modules": ("base_model.model.{diffusers}.lora_{x}.weight", "A B", "peft"),
    "PEFT of a wrapped model": ("base_model.model.transformer.{diffusers}.lora_{x}.default.weight", "A B", "peft"),
    "PEFT without .weight": ("base_model.model.{diffusers}.lora_{x}.default", "A B", "peft"),
    "compiled": ("_orig_mod.{wan}.lora_{x}.weight", "A B", "wan"),
}
STATES_NO_ALPHA = ("diffusers", "peft")


def factors(base: torch.nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    made = {}
    for wan, name in MODULES.items():
        out, into = base.get_submodule(name).weight.shape
        a, b = torch.randn(RANK, into, generator=generator), 0.1 * torch.randn(out, RANK, generator=generator)
        made[wan] = (a, b)
    return made


def spelled(spelling: str, base: torch.nn.Module) -> dict[str, Tensor]:
    template, names, _ = SPELLINGS[spelling]
    state = {}
    for wan, pair in factors(base).items():
        other = MODULES[wan]
        for tensor, x in zip(pair, names.split(), strict=True):
            flat = {"_wan": wan.replace(".", "_"), "_diffusers": other.replace(".", "_")}
            state[template.format(wan=wan, diffusers=other, x=x, **flat)] = tensor
    return state


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_update_as_merged_weights(wan21, velocity, tmp_path: Path, spelling: str) -> None:
    loaded, merged = wan21.transformer(), wan21.transformer()
    before = velocity(loaded)
    path = tmp_path / "theirs.safetensors"
    save_file(spelled(spelling, merged), path)
    layout = SPELLINGS[spelling][2]
    found = import_adapter(path, tmp_path / "in", RANK if layout in STATES_NO_ALPHA else None, base=loaded)
    assert (found.layout, found.modules, found.ranks, found.zeros_dropped) == (layout, len(MODULES), (RANK,), 0)
    lora.load_adapter(loaded, found.path, "theirs")
    for wan, (a, b) in factors(merged).items():
        merged.get_submodule(MODULES[wan]).weight.data += b @ a
    torch.testing.assert_close(velocity(loaded), velocity(merged), rtol=1e-4, atol=1e-5)
    assert float((velocity(merged) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("spelling", ["PEFT", "diffusers, no prefix"])
def test_where_alpha_may_be_lost_it_is_asked_for(wan21, tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file(spelled(spelling, wan21.transformer()), path)
    with pytest.raises(ValueError, match="give --alpha"):
        import_adapter(path, tmp_path / "in")


def test_peft_keeps_its_scale_in_a_file_beside(wan21, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file(spelled("PEFT", wan21.transformer()), path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 10, "alpha_pattern": {}}))
    found = import_adapter(path, tmp_path / "in")
    assert (found.alphas, found.scale_from) == ((10.0,), "adapter_config.json")
    config.write_text("{}")
    with pytest.raises(ValueError, match="states no lora_alpha"):
        import_adapter(path, tmp_path / "no")


COMFY = "diffusion_model."
# Differences that few-step LoRAs carry, most of them for layers and norms that hardly changed.
ZEROS = {
    f"{COMFY}blocks.0.self_attn.q.diff_b": torch.zeros(32),
    f"{COMFY}blocks.0.self_attn.norm_q.diff": torch.zeros(32),
    f"{COMFY}blocks.0.norm3.diff": torch.zeros(32),
    f"{COMFY}blocks.0.cross_attn.norm_k_img.diff": torch.zeros(32),
    f"{COMFY}blocks.0.diff_m": torch.zeros(1, 6, 32),
    f"{COMFY}head.diff_m": torch.zeros(1, 2, 32, dtype=torch.bfloat16),
    f"{COMFY}patch_embedding.diff": torch.zeros(32, 16, 1, 2, 2),
    f"{COMFY}blocks.1.ffn.0.lora_B.bias": torch.zeros(48),
    f"{COMFY}blocks.1.norm3.w_norm": torch.zeros(32),
}


def test_differences_that_are_zero_are_left_out_and_counted(wan21, velocity, tmp_path: Path) -> None:
    plain, few_step = wan21.transformer(), wan21.transformer()
    for name, state in (("plain", {}), ("few", ZEROS)):
        save_file(spelled("ComfyUI", plain) | state, tmp_path / f"{name}.safetensors")
    for transformer, name, count in ((plain, "plain", 0), (few_step, "few", len(ZEROS))):
        found = import_adapter(tmp_path / f"{name}.safetensors", tmp_path / name, base=transformer)
        assert found.zeros_dropped == count
        lora.load_adapter(transformer, found.path, "x")
    assert torch.equal(velocity(plain), velocity(few_step))
    shown = CliRunner().invoke(command, [str(tmp_path / "few.safetensors"), "--output", str(tmp_path / "again")])
    assert shown.exit_code == 0 and f"{len(ZEROS)} differences of whole tensors were zero" in shown.output


@pytest.mark.parametrize("key", ZEROS)
@pytest.mark.parametrize("value", [0.01, float("nan")])
def test_one_that_is_not_zero_is_refused_with_its_name_and_size(wan21, tmp_path: Path, key: str, value: float) -> None:
    changed = ZEROS[key].clone()
    changed.view(-1)[-1] = value
    path = tmp_path / "few.safetensors"
    save_file(spelled("ComfyUI", wan21.transformer()) | ZEROS | {key: changed}, path)
    with pytest.raises(ValueError, match="1 of its 17 keys are differences") as error:
        import_adapter(path, tmp_path / "in")
    message = str(error.value)
    assert key in message and f"up to {value:.3g}" in message and str(list(changed.shape)) in message
    assert "\n" not in message and not (tmp_path / "in").exists()


def test_zeros_alone_are_no_adapter(tmp_path: Path) -> None:
    save_file(ZEROS, tmp_path / "zeros.safetensors")
    with pytest.raises(ValueError, match="9 zeros alone"):
        import_adapter(tmp_path / "zeros.safetensors", tmp_path / "in")


# Keys of other kinds of adapters and other models, and the real name that the message gives.
OTHERS: dict[str, tuple[str, str]] = {
    "LoHa": ("lycoris_blocks_0_self_attn_q.hada_w1_a", "LoHa, not LoRA"),
    "LoKr": ("lycoris_blocks_0_self_attn_q.lokr_w1", "LoKr, not LoRA"),
    "LoKr in ComfyUI": ("diffusion_model.blocks.0.self_attn.q.lokr_w2_a", "LoKr, not LoRA"),
    "DoRA": ("diffusion_model.blocks.0.self_attn.q.dora_scale", "DoRA, not LoRA"),
    "DoRA of PEFT": ("base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector.weight", "DoRA, not LoRA"),
    "OFT": ("lora_unet_blocks_0_self_attn_q.oft_blocks", "OFT, not LoRA"),
    "whole weights": ("diffusion_model.blocks.0.modulation", "whole weights, not LoRA"),
    "text encoder": ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a text encoder's"),
    "second expert": ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "second expert"),
    "FLUX": ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "HunyuanVideo or FLUX"),
    "LTX": ("transformer.transformer_blocks.0.attn1.to_q.lora_A.weight", "FLUX, LTX or CogVideoX"),
    "Stable Diffusion": ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "U-Net"),
    "VACE": ("diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight", "VACE"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_kind_is_refused_by_its_real_name(tmp_path: Path, case: str) -> None:
    key, named = OTHERS[case]
    path = tmp_path / "theirs.safetensors"
    save_file({key: torch.ones(4, 4)}, path)
    with pytest.raises(ValueError, match="nothing was imported") as error:
        import_adapter(path, tmp_path / "in")
    assert named in str(error.value) and key in str(error.value) and "diffsynth" not in str(error.value)


def test_a_dora_is_not_loaded_as_the_lora_that_it_holds(wan21, tmp_path: Path) -> None:
    state: dict[str, Any] = spelled("ComfyUI", wan21.transformer())
    save_file(state | {f"{COMFY}blocks.0.self_attn.q.dora_scale": torch.ones(32, 1)}, tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"1 of its 9 keys .*DoRA, not LoRA"):
        import_adapter(tmp_path / "d.safetensors", tmp_path / "in")


def test_an_image_to_video_lora_says_so(wan21, tmp_path: Path) -> None:
    more = {f"{COMFY}blocks.0.cross_attn.k_img.lora_{x}.weight": torch.ones(4, 4) for x in ("down", "up")}
    save_file(spelled("ComfyUI", wan21.transformer()) | more, tmp_path / "i2v.safetensors")
    with pytest.raises(ValueError, match=r"1 of its 5 modules.*an image-to-video base has them"):
        import_adapter(tmp_path / "i2v.safetensors", tmp_path / "in", base=wan21.transformer())


@pytest.mark.parametrize("spelling", [s for s in SPELLINGS if s != "diffusers"])
def test_a_run_names_the_command_that_converts_it(wan21, tmp_path: Path, spelling: str) -> None:
    """From the header: no tensor is read, and the layers are the base's."""
    path = tmp_path / "their style.safetensors"
    save_file(spelled(spelling, wan21.transformer()), path)
    with pytest.raises(
        ValueError, match=r"kedro vibe import-adapter '.*their style\.safetensors' --output DIR"
    ) as error:
        lora.check_adapter(path, {})
    assert f"{SPELLINGS[spelling][2]} layout" in str(error.value) or SPELLINGS[spelling][2] == "diffusers"
