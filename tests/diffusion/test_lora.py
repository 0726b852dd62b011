"""Relay LoRA: adding, fusing, dropping, saving, loading; and the file in plain diffusers."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.plain_diffusers import in_plain_diffusers, output, transformer_inputs
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.diffusion.weights import on_meta
from vibe_pipeline.experiment.training import LoraParams

TARGETS = LoraParams().targets
RANK, ALPHA = 4, 6.0  # not equal, so that a lost scale shows
METADATA_KEY = "lora_adapter_metadata"


def add_random(transformer: WanTransformer3DModel, name: str, seed: int, size: float = 0.1) -> None:
    """Add an adapter whose B is not zero."""
    lora.add_adapter(transformer, name, RANK, ALPHA, TARGETS, seed)
    generator = torch.Generator().manual_seed(seed)
    state = lora.adapter_state(transformer, name)
    filled = {k: size * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    lora.set_adapter_state(transformer, name, filled)


@pytest.fixture
def base(wan21) -> WanTransformer3DModel:
    return wan21.transformer()


@pytest.fixture
def saved(wan21, tmp_path: Path) -> Callable[..., Path]:
    """Write a random adapter's file."""

    def save(name: str = "d2", seed: int = 1, size: float = 0.1) -> Path:
        transformer = wan21.transformer()
        add_random(transformer, name, seed, size)
        return lora.save_adapter(transformer, name, tmp_path / f"{name}-{seed}")

    return save


def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable(base, velocity) -> None:
    before = velocity(base)
    lora.add_adapter(base, "d1", RANK, ALPHA, TARGETS, 0)
    assert torch.equal(velocity(base), before)
    parameters = lora.adapter_parameters(base, "d1")
    # Two layers; q, k, v and out of both attentions, and the two linears of the FFN; A and B of each.
    assert len(parameters) == 2 * 10 * 2
    assert {k for k, p in base.named_parameters() if p.requires_grad} == set(parameters)


def test_the_seed_determines_the_start_and_leaves_the_global_generator_alone(wan21) -> None:
    states = []
    for seed in (5, 5, 6):
        transformer = wan21.transformer()
        before = torch.get_rng_state()
        lora.add_adapter(transformer, "d1", RANK, ALPHA, TARGETS, seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(torch.cat([v.flatten() for v in lora.adapter_state(transformer, "d1").values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_fused_stage_1_gives_the_adapters_forward(wan21, velocity, saved) -> None:
    path = saved("d1")
    with_adapter, fused, plain = (wan21.transformer() for _ in range(3))
    lora.load_adapter(with_adapter, path, "d1")
    lora.fuse_adapter(fused, path)
    assert not any("lora_" in k for k, _ in fused.named_parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    torch.testing.assert_close(velocity(fused), velocity(with_adapter), rtol=1e-4, atol=1e-5)
    assert float((velocity(fused) - velocity(plain)).abs().max()) > 0.01


def test_inference_is_the_original_base_plus_d2(wan21, velocity, saved) -> None:
    d1, d2 = saved("d1", 1), saved("d2", 2)
    training = wan21.transformer()
    lora.fuse_adapter(training, d1)
    lora.load_adapter(training, d2, "d2")
    inference = wan21.transformer()
    original = {k: v.clone() for k, v in inference.state_dict().items()}
    lora.load_adapter(inference, d2, "d2")
    for key, value in inference.state_dict().items():
        if "lora_" not in key:
            assert torch.equal(value, original[key.replace(".base_layer", "")]), key
    assert float((velocity(inference) - velocity(training)).abs().max()) > 0.01
    # W0 + (alpha / rank) B A, by hand.
    state, by_hand = load_file(d2), wan21.transformer()
    for key in (k.removesuffix(".lora_A.weight") for k in state if k.endswith("lora_A.weight")):
        update = ALPHA / RANK * state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
        by_hand.get_submodule(key.removeprefix("transformer.")).weight.data += update
    torch.testing.assert_close(velocity(inference), velocity(by_hand), rtol=1e-4, atol=1e-5)


def updates(path: Path) -> dict[str, Tensor]:
    """The update of each module that a file of `RANK` and `ALPHA` states."""
    state = load_file(path)
    names = {k.split(".lora_")[0] for k in state}
    return {
        n.removeprefix("transformer."): ALPHA / RANK * state[f"{n}.lora_B.weight"] @ state[f"{n}.lora_A.weight"]
        for n in names
    }


def test_weights_of_16_bit_keep_what_is_fused_into_them(wan21, saved) -> None:
    """An update of about 1 % of the weights: less than 0.5 % of it is lost, where a merge would lose over 5 %."""
    model, path = find_model(str(wan21.path)), saved("d1", size=0.02)
    base, fused = (load_transformer(model, torch.device("cpu"), torch.bfloat16) for _ in range(2))
    lora.fuse_adapter(fused, path)
    lost = {"kept beside": 0.0, "merged": 0.0}
    whole, update, weight = updates(path), 0.0, 0.0
    for name, exact in whole.items():
        before, layer = base.get_submodule(name).weight.float(), fused.get_submodule(name)
        assert torch.equal(layer.get_base_layer().weight.float(), before)
        a, b = layer.lora_A[lora.FUSED].weight.float(), layer.lora_B[lora.FUSED].weight.float()
        lost["kept beside"] += float((layer.scaling[lora.FUSED] * b @ a - exact).square().sum())
        lost["merged"] += float(((before + exact).bfloat16().float() - before - exact).square().sum())
        update, weight = update + float(exact.square().sum()), weight + float(before.square().sum())
    assert len(whole) == 20 and 0.003 < (update / weight) ** 0.5 < 0.03
    assert (lost["kept beside"] / update) ** 0.5 < 0.005
    assert (lost["merged"] / update) ** 0.5 > 0.05


@pytest.mark.parametrize("name", ["full", "0", "net", "lora", "d1"])
def test_what_is_trained_on_a_stage_1_beside_16_bit_weights_never_holds_it(wan21, saved, tmp_path, name: str) -> None:
    first = saved("first")
    transformer = load_transformer(find_model(str(wan21.path)), torch.device("cpu"), torch.bfloat16)
    lora.fuse_adapter(transformer, first)
    frozen = {k: v.clone() for k, v in transformer.state_dict().items()}
    lora.add_adapter(transformer, name, 2, ALPHA, ("to_q", "ffn.net.2"), 0)
    own = lora.adapter_parameters(transformer, name)
    assert {k for k, p in transformer.named_parameters() if p.requires_grad} == set(own) and len(own) == 2 * 3 * 2
    assert all(p.dtype == torch.float32 for p in own.values())
    x = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        transformer(x.bfloat16(), torch.tensor([300.0]), torch.randn(1, 5, 64).bfloat16())[0].square().mean().backward()
    assert {k for k, p in transformer.named_parameters() if p.grad is not None} == set(own)
    torch.optim.SGD(own.values(), lr=10.0).step()
    kept = transformer.state_dict()
    assert all(torch.equal(kept[k], v) for k, v in frozen.items())
    state, config = lora.read_adapter(lora.save_adapter(transformer, name, tmp_path / name))
    assert config["r"] == 2 and len(state) == len(own)
    assert {k.split(".lora_")[0].split(".", 2)[2] for k in state} == {"attn1.to_q", "attn2.to_q", "ffn.net.2"}
    plain = wan21.transformer()
    lora.load_adapter(plain, tmp_path / name / lora.WEIGHTS_NAME, "d2")
    assert lora.adapter_parameters(plain, lora.FUSED) == {}


def test_both_updates_count_where_stage_1_is_kept_in_16_bit(wan21, velocity, saved) -> None:
    """W0 x + D1 x + D2 x, against the sums in 32 bit."""
    d1, d2, model = saved("d1", 1), saved("d2", 2), find_model(str(wan21.path))

    def run(dtype: torch.dtype, *paths: Path) -> Tensor:
        transformer = load_transformer(model, torch.device("cpu"), dtype)
        if paths:
            lora.fuse_adapter(transformer, paths[0])
        for path in paths[1:]:
            lora.load_adapter(transformer, path, "d2")
        return velocity(transformer.to(torch.float32))

    for paths in ((d1,), (d1, d2)):
        exact, ours = (run(dtype, *paths) for dtype in (torch.float32, torch.bfloat16))
        change = exact - run(torch.float32, *paths[:-1])
        assert float((ours - exact).norm() / change.norm()) < 0.05


@pytest.mark.parametrize("how", ["zero", "dropped", "weight 0"])
def test_without_d2_the_base_is_back_bit_for_bit(base, velocity, saved, how: str) -> None:
    before, weights = velocity(base), {k: v.clone() for k, v in base.state_dict().items()}
    path = saved("d2", size=0.0 if how == "zero" else 0.1)
    lora.load_adapter(base, path, "d2", weight=0.0 if how == "weight 0" else 1.0)
    if how == "dropped":
        assert not torch.equal(velocity(base), before)
        base.unload_lora()
        assert weights.keys() == base.state_dict().keys()
        assert all(torch.equal(v, weights[k]) for k, v in base.state_dict().items())
    assert torch.equal(velocity(base), before)


@pytest.mark.parametrize("name", ["full", "net", "to_q", "lora", "0", "default", "full_pixel"])
def test_scale_and_weights_survive_a_save_and_load_exactly(wan21, velocity, tmp_path: Path, name: str) -> None:
    """Names are rows of a table: one that occurs in the modules' own names must do no harm."""
    trained, loaded = wan21.transformer(), wan21.transformer()
    add_random(trained, name, 3)
    path = lora.save_adapter(trained, name, tmp_path)
    lora.load_adapter(loaded, path, name)
    assert torch.equal(velocity(loaded), velocity(trained))
    before, after = (lora.adapter_state(t, name) for t in (trained, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    state, config = lora.read_adapter(path)
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (RANK, ALPHA, sorted(TARGETS))
    assert state.keys() == before.keys()


def test_an_adapter_of_zeros_needs_no_weights_and_fits_the_base(wan21, velocity, tmp_path: Path) -> None:
    """What a rehearsal gives the arms of a training that failed, whatever the base's numbers are kept in."""
    empty = on_meta("transformer", find_model(str(wan21.path)).config_of("transformer"))
    lora.add_adapter(empty, "stand_in", RANK, ALPHA, TARGETS, 0)
    path = lora.save_adapter(empty, "stand_in", tmp_path)
    plain, adapted = wan21.transformer(), wan21.transformer()
    lora.load_adapter(adapted, path, "stand_in")
    state = lora.adapter_state(adapted, "stand_in")
    add_random(plain, "other", 1)
    trained = lora.adapter_state(plain, "other")
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in trained.items()}
    assert not any(bool(v.any()) for v in state.values())
    assert torch.equal(velocity(adapted), velocity(wan21.transformer()))


def test_equal_adapters_are_equal_files(saved) -> None:
    """safetensors orders metadata by a hash that every writer seeds again: ten writers agree by chance once in 512."""
    files = {saved().read_bytes() for _ in range(10)}
    assert len(files) == 1
    with safe_open(saved(), "pt") as file:
        assert list(file.metadata()) and METADATA_KEY in file.metadata()


def test_two_adapters_add_up_and_each_keeps_its_weight(wan21, velocity, saved) -> None:
    both = wan21.transformer()
    lora.load_adapter(both, saved("full", 1), "full", weight=0.5)
    alone = velocity(both)
    lora.load_adapter(both, saved("full_pixel", 2), "full_pixel", weight=0.0)
    assert torch.equal(velocity(both), alone)
    own = [set(lora.adapter_parameters(both, name)) for name in ("full", "full_pixel")]
    assert own[0].isdisjoint(own[1])
    assert len(own[0]) == len(own[1]) == 40


def rename(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {k.replace(old, new): v for k, v in state.items()}


def widen(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.cat([v, v], 1) if "lora_A" in k else v for k, v in state.items()}


def halve(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.endswith("blocks.0.attn1.to_q.lora_B.weight")}


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda s: rename(s, "transformer.", "unet."), True, "not an adapter of a Wan transformer.*unet"),
        (lambda s: rename(s, "lora_A", "hada_w1"), True, "not an adapter of a Wan transformer"),
        (lambda s: {}, True, "empty"),
        (lambda s: rename(s, "blocks.", "layers."), True, "20 of its 20 modules do not exist.*layers"),
        (lambda s: rename(s, "blocks.1.", "blocks.7."), True, "10 of its 20 modules do not exist"),
        (widen, True, "another base"),
        (halve, True, r"incomplete.*blocks\.0\.attn1\.to_q"),
        (dict, False, "rank and alpha in the metadata"),
    ],
    ids=["other model", "other method", "empty", "layout", "more layers", "other width", "half a pair", "no scale"],
)
def test_a_file_that_does_not_fit_is_refused_and_says_why(
    base, velocity, saved, tmp_path: Path, change: Callable, metadata: bool, message: str
) -> None:
    path = saved()
    with safe_open(path, "pt") as file:
        kept = {METADATA_KEY: file.metadata()[METADATA_KEY]}
    wrong = tmp_path / "wrong.safetensors"
    save_file(change(load_file(path)), wrong, kept if metadata else {"format": "pt"})
    before = velocity(base)
    with pytest.raises(ValueError, match=message) as error:
        lora.load_adapter(base, wrong, "d2")
    assert "wrong.safetensors" in str(error.value)
    assert torch.equal(velocity(base), before)


@pytest.mark.parametrize(("name", "message"), [("d2.pt", "pickle"), ("d2.safetensors", "cannot be read")])
def test_a_pickle_is_never_opened(base, tmp_path: Path, name: str, message: str) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=message):
        lora.load_adapter(base, tmp_path / name, "d2")
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_is_named(base, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.safetensors"):
        lora.load_adapter(base, tmp_path / "gone.safetensors", "d2")


def test_targets_that_match_nothing_are_refused(base) -> None:
    with pytest.raises(ValueError, match="to_nowhere"):
        lora.add_adapter(base, "d1", RANK, ALPHA, ("to_nowhere",), 0)


PLAIN = """
before = run()
pipe.load_lora_weights(files[0])
save_file({"before": before, "after": run()}, out)
"""


def test_an_exported_adapter_works_in_plain_diffusers(wan21, saved, tmp_path: Path) -> None:
    path, ours, inputs = saved(), wan21.transformer(), transformer_inputs(16)
    theirs = in_plain_diffusers(PLAIN, wan21.path, inputs, [path], tmp_path)
    torch.testing.assert_close(theirs["before"], output(ours, inputs), rtol=1e-5, atol=1e-6)
    lora.load_adapter(ours, path, "d2")
    torch.testing.assert_close(theirs["after"], output(ours, inputs), rtol=1e-5, atol=1e-6)
    assert float((theirs["after"] - theirs["before"]).abs().max()) > 0.01


def test_the_metadata_states_the_scale_as_diffusers_reads_it(saved) -> None:
    with safe_open(saved(), "pt") as file:
        stated = json.loads(file.metadata()[METADATA_KEY])
    assert (stated["transformer.r"], stated["transformer.lora_alpha"]) == (RANK, ALPHA)
