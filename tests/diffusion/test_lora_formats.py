"""Adapters in other programs' layouts: bit-exact there and back, read by plain diffusers, never a silent no-op."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.plain_diffusers import in_plain_diffusers, output, transformer_inputs
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.lora_formats import export_adapter, import_adapter
from vibe_pipeline.diffusion.lora_names import LAYOUTS, diffusers_name, native_name
from vibe_pipeline.experiment.training import LoraParams

RANK, ALPHA = 4, 6.0  # not equal, so that a lost scale shows; their ratio is not a power of two
METADATA_KEY = "lora_adapter_metadata"


@pytest.fixture
def save(tiny, tmp_path: Path) -> Callable[..., Path]:
    """Write a random adapter of either checkpoint in our format."""

    def write(rank: int = RANK, alpha: float = ALPHA) -> Path:
        transformer = tiny.transformer()
        lora.add_adapter(transformer, "d2", rank, alpha, LoraParams().targets, 1)
        generator = torch.Generator().manual_seed(1)
        state = lora.adapter_state(transformer, "d2")
        filled = {k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
        lora.set_adapter_state(transformer, "d2", filled)
        return lora.save_adapter(transformer, "d2", tmp_path / "ours")

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_exact(tiny, save, velocity, tmp_path: Path, layout: str) -> None:
    ours = save()
    there = export_adapter(ours, layout, tmp_path / "there.safetensors")
    back = import_adapter(there, tmp_path / "back", base=tiny.transformer())
    assert (back.layout, back.modules, back.ranks, back.alphas) == (layout, 20, (RANK,), (ALPHA,))
    before, after = load_file(ours), load_file(back.path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    outputs = []
    for path in (ours, back.path):
        transformer = tiny.transformer()
        lora.load_adapter(transformer, path, "d2")
        outputs.append(velocity(transformer))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("layout", "convert"),
    [("comfyui", _convert_non_diffusers_wan_lora_to_diffusers), ("kohya", _convert_musubi_wan_lora_to_diffusers)],
)
def test_keys_and_scale_are_what_diffusers_own_converters_read(save, tmp_path: Path, layout: str, convert) -> None:
    """Their converters multiply alpha / rank into A; names and products must be ours."""
    ours = load_file(save())
    theirs = convert(
        load_file(export_adapter(tmp_path / "ours" / lora.WEIGHTS_NAME, layout, tmp_path / "x.safetensors"))
    )
    assert theirs.keys() == ours.keys()
    for key in ours:
        assert torch.equal(theirs[key], ours[key] * (ALPHA / RANK if "lora_A" in key else 1.0)), key


def test_every_linear_layer_has_a_name_on_both_sides(tiny) -> None:
    modules = [n for n, m in tiny.transformer().named_modules() if isinstance(m, torch.nn.Linear)]
    native = [native_name(m) for m in modules]
    assert len(set(native)) == len(modules) == 2 * 10 + 6
    assert [diffusers_name(n) for n in native] == modules
    assert [diffusers_name(n.replace(".", "_")) for n in native] == modules
    assert native_name("blocks.7.attn2.to_out.0") == "blocks.7.cross_attn.o"
    with pytest.raises(ValueError, match="attn3"):
        native_name("blocks.7.attn3.to_q")


def test_the_published_layout_is_read_with_its_convention(tiny, save, velocity, tmp_path: Path) -> None:
    """DiffSynth-Studio adds B A as it is, so a file without alpha has alpha = rank."""
    generator = torch.Generator().manual_seed(5)
    width, native = 32, "blocks.0.self_attn.q"
    a, b = torch.randn(8, width, generator=generator), 0.1 * torch.randn(width, 8, generator=generator)
    save_file(
        {f"{native}.lora_A.default.weight": a, f"{native}.lora_B.default.weight": b}, tmp_path / "theirs.safetensors"
    )
    back = import_adapter(tmp_path / "theirs.safetensors", tmp_path / "in", base=tiny.transformer())
    assert (back.layout, back.alphas) == ("diffsynth", (8.0,)) and "alpha = rank" in back.scale_from
    loaded, by_hand = tiny.transformer(), tiny.transformer()
    before = velocity(loaded)
    lora.load_adapter(loaded, back.path, "theirs")
    by_hand.blocks[0].attn1.to_q.weight.data += b @ a
    torch.testing.assert_close(velocity(loaded), velocity(by_hand), rtol=1e-4, atol=1e-5)
    assert float((velocity(loaded) - before).abs().max()) > 1e-3
    given = import_adapter(tmp_path / "theirs.safetensors", tmp_path / "given", alpha=4.0)
    assert given.alphas == (4.0,) and given.scale_from == "--alpha"


def test_published_files_of_ours_have_no_alpha_where_it_says_nothing(save, tmp_path: Path) -> None:
    plain = load_file(export_adapter(save(4, 4.0), "diffsynth", tmp_path / "plain.safetensors"))
    assert len(plain) == 40
    assert {k.split(".", 4)[-1] for k in plain if "self_attn.q" in k} == {
        "lora_A.default.weight",
        "lora_B.default.weight",
    }
    scaled = load_file(export_adapter(save(4, 6.0), "diffsynth", tmp_path / "scaled.safetensors"))
    assert {k for k in scaled if k.endswith(".alpha")} and all(
        float(v) == 6.0 for k, v in scaled.items() if "alpha" in k
    )


def test_a_folded_scale_needs_no_alpha(tiny, save, velocity, tmp_path: Path) -> None:
    ours = save()
    folded = export_adapter(ours, "diffsynth", tmp_path / "folded.safetensors", fold=True)
    assert not [k for k in load_file(folded) if "alpha" in k]
    back = import_adapter(folded, tmp_path / "back")
    outputs = []
    for path in (ours, back.path):
        transformer = tiny.transformer()
        lora.load_adapter(transformer, path, "d2")
        outputs.append(velocity(transformer))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_ranks_and_alphas_that_differ_by_layer_survive(tiny, velocity, tmp_path: Path) -> None:
    state, generator = {}, torch.Generator().manual_seed(2)
    for module, rank, alpha in (("blocks.0.self_attn.q", 4, 6.0), ("blocks.1.self_attn.q", 2, 1.0)):
        down, up = torch.randn(rank, 32, generator=generator), torch.randn(32, rank, generator=generator)
        name = f"diffusion_model.{module}"
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}
    save_file(state, tmp_path / "mixed.safetensors")
    first = import_adapter(tmp_path / "mixed.safetensors", tmp_path / "in")
    assert (first.ranks, first.alphas) == ((2, 4), (1.0, 6.0))
    again = load_file(export_adapter(first.path, "comfyui", tmp_path / "again.safetensors"))
    assert again.keys() == state.keys() and all(torch.equal(again[k], state[k]) for k in state)
    loaded, by_hand = tiny.transformer(), tiny.transformer()
    lora.load_adapter(loaded, first.path, "mixed")
    for i, scale in ((0, 6 / 4), (1, 1 / 2)):
        name = f"diffusion_model.blocks.{i}.self_attn.q"
        by_hand.blocks[i].attn1.to_q.weight.data += (
            scale * state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
        )
    torch.testing.assert_close(velocity(loaded), velocity(by_hand), rtol=1e-4, atol=1e-4)


def rename(state: dict, old: str, new: str) -> dict:
    return {k.replace(old, new): v for k, v in state.items()}


WRONG = {
    "other model": (
        lambda s: rename(s, "diffusion_model.blocks", "diffusion_model.double_blocks"),
        "60 of its 60 keys.*double",
    ),
    "other method": (lambda s: rename(s, "lora_down.weight", "hada_w1_a"), "20 of its 60 keys"),
    "extra keys": (
        lambda s: s | {"diffusion_model.blocks.0.norm3.diff": torch.ones(1)},
        r"1 of its 61 keys.*norm3\.diff",
    ),
    "no known prefix": (lambda s: rename(s, "diffusion_model.", "unet."), "60 of its 60 keys.*unet"),
    "mixed": (lambda s: s | {"lora_unet_x.alpha": torch.ones(1)}, "2 ways"),
    "empty": (lambda s: {}, "empty"),
    "half a pair": (lambda s: {k: v for k, v in s.items() if "0.ffn.2.lora_up" not in k}, r"blocks\.0\.ffn\.net\.2"),
    "more layers": (lambda s: rename(s, "blocks.1.", "blocks.9."), r"does not fit.*10 of its 20.*blocks\.9"),
    "other width": (
        lambda s: {k: torch.cat([v, v], 1) if "lora_down" in k else v for k, v in s.items()},
        r"another base: blocks\.0.*, 32\) here, .*, 64\) there",
    ),
    "two adapters": (
        lambda s: s | {"diffusion_model.blocks.0.self_attn.q.lora_A.other.weight": torch.ones(4, 32)},
        "more than one adapter",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_is_refused_naming_its_keys(tiny, save, tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    path = tmp_path / "wrong.safetensors"
    save_file(change(load_file(export_adapter(save(), "comfyui", tmp_path / "x.safetensors"))), path)
    with pytest.raises(ValueError, match=message) as error:
        import_adapter(path, tmp_path / "in", base=tiny.transformer())
    assert "wrong.safetensors" in str(error.value)
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.safetensors"])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="cannot be read" if name.endswith("tensors") else "pickle"):
        import_adapter(tmp_path / name, tmp_path / "in")
    assert not (tmp_path / "exploded").exists()


def test_a_scale_is_never_guessed_for_diffusers_files_nor_contradicted(save, tmp_path: Path) -> None:
    ours = save()
    save_file(load_file(ours), tmp_path / "bare.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="--alpha"):
        import_adapter(tmp_path / "bare.safetensors", tmp_path / "in")
    assert import_adapter(tmp_path / "bare.safetensors", tmp_path / "in", alpha=ALPHA).alphas == (ALPHA,)
    with pytest.raises(ValueError, match=r"states alpha \[6\.0\], not 3\.0"):
        import_adapter(ours, tmp_path / "in", alpha=3.0)


def test_an_export_needs_a_safetensors_name_and_known_modules(save, tmp_path: Path) -> None:
    ours = save()
    with pytest.raises(ValueError, match=r"x\.bin"):
        export_adapter(ours, "comfyui", tmp_path / "x.bin")
    with safe_open(ours, "pt") as file:
        metadata = {METADATA_KEY: file.metadata()[METADATA_KEY]}
    save_file(rename(load_file(ours), "attn1.to_q", "attn1.to_z"), tmp_path / "odd.safetensors", metadata)
    with pytest.raises(ValueError, match="to_z"):
        export_adapter(tmp_path / "odd.safetensors", "comfyui", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


PLAIN = """
results = {"before": run()}
for adapter in files:
    pipe.load_lora_weights(adapter)
    results[Path(adapter).stem] = run()
    pipe.unload_lora_weights()
save_file(results, out)
"""


def test_every_export_that_diffusers_reads_works_in_plain_diffusers(tiny, save, tmp_path: Path) -> None:
    """In a process that never imports this package: the output changes, and equals ours."""
    ours, transformer = save(), tiny.transformer()
    exports = [export_adapter(ours, name, tmp_path / f"{name}.safetensors") for name in LAYOUTS if name != "diffsynth"]
    inputs = transformer_inputs(transformer.config.in_channels)
    theirs = in_plain_diffusers(PLAIN, tiny.path, inputs, exports, tmp_path)
    lora.load_adapter(transformer, ours, "d2")
    expected = output(transformer, inputs)
    for export in exports:
        torch.testing.assert_close(theirs[export.stem], expected, rtol=1e-5, atol=1e-6, msg=export.stem)
        assert float((theirs[export.stem] - theirs["before"]).abs().max()) > 0.01
