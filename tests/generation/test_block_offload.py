"""`model.offload: blocks`: the clips of `false` bit for bit, one arm after another, and no transformer stays."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers.hooks import group_offloading as theirs
from safetensors.torch import save_file

from tests.block_device import BlockDevice
from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation import experts as module
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import write_lossless

GENERATION = GenerationParams(prompts="miniature", native_steps=2, native_guidance_scale=2.0)
CAPTION = "a striped red circle moving left over woven navy"
PROMPTS = pd.DataFrame([{"prompt_index": 0, "prompt": CAPTION, "seed": 3}])
GCLF = {"kind": "gclf", "half_window": (1, 1)}
ARMS: dict[str, dict[str, Any]] = {
    "own": {"adapter": "own", "attention": GCLF},
    "first_block": {"attention": GCLF, "step_cache": {"kind": "first_block", "threshold": 0.6}, "steps": 4},
    "kept": {"adapter": "own", "keep_stage1": True, "step_cache": {"kind": "pyramid", "between": (0.0, 1.0)}},
    "calibrated": {"step_cache": {"kind": "mag", "tolerance": 0.5, "retain": 0.0}, "steps": 4},
    "style": {"extra_adapters": ["style"], "rope": {"kind": "yarn"}},
    "cascade": {"method": "cascade", "stages": [{"steps": 2, "rope": {"kind": "yarn"}}], "strength": 0.5},
}


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def device(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> BlockDevice:
    """Where blocks come to; `streamed` as on CUDA."""
    found, put_on = BlockDevice(monkeypatch, request.param), module.offload_blocks

    def offload(transformer: Any, place: torch.device) -> None:
        found.watched = transformer
        put_on(transformer, torch.device("cuda") if request.param else place)

    monkeypatch.setattr(module, "offload_blocks", offload)
    return found


def native(base: Any, folder: Path) -> pd.DataFrame:
    native = base.model().native
    clip = np.random.default_rng(0).random((native.frames, native.height, native.width, 3), np.float32)
    return PROMPTS.assign(
        key="n", path=str(write_lossless(folder / "native.mp4", clip, 8)), preview_path="", seconds=1.0
    )


def trained(base: Any, folder: Path, name: str, seed: int) -> AdapterManifest:
    """A random adapter that changes what it lies on; beside it a difference of a whole tensor."""
    transformer, generator = base.transformer(), torch.Generator().manual_seed(seed)
    lora.add_adapter(transformer, name, 4, 8.0, ("to_q", "to_v", "ffn.net.2"), seed)
    state = lora.adapter_state(transformer, name)
    changed = {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    lora.set_adapter_state(transformer, name, changed)
    path = lora.save_adapter(transformer, name, folder / name)
    bias = transformer.blocks[1].attn2.to_out[0].bias
    save_file({"blocks.1.attn2.to_out.0.bias": torch.ones_like(bias)}, path.parent / "differences.safetensors")
    return AdapterManifest(name=name, key=name, path=path)


def arms_of(base: Any, style: AdapterManifest) -> Iterator[tuple[str, ArmParams]]:
    size = base.model().native
    for name, row in ARMS.items():
        if "extra_adapters" in row:
            row = row | {"extra_adapters": [{"path": style.path, "weight": 0.5, "differences": True}]}
        if "stages" in row:
            row = row | {"stages": [{"height": size.height, "width": size.width} | stage for stage in row["stages"]]}
        yield name, ArmParams(label=name, **({"steps": 2, "guidance_scale": 2.0} | row))


def clips(base: Any, offload: bool | str, folder: Path, given: dict[str, Any]) -> dict[str, list[bytes]]:
    """The files of the native clips and of every arm, made one after another."""
    model = base.model(offload=offload)
    made = {"native": native_clips(PROMPTS, model, GENERATION, folder)}
    for name, arm in arms_of(base, given["style"]):
        own, kept = (given[n] if wanted else None for n, wanted in (("own", arm.adapter), ("d1", arm.keep_stage1)))
        made[name] = arm_clips(name, arm, given["native"], own, kept, model, GENERATION, folder)
    return {name: [Path(path).read_bytes() for path in table["path"]] for name, table in made.items()}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref]]:
    """Every transformer that was loaded; none is given up by the garbage collector."""
    found, load = list[weakref.ref](), module.load_transformer
    monkeypatch.setattr(module, "load_transformer", lambda *a: found.append(weakref.ref(made := load(*a))) or made)
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


def test_clips_do_not_depend_on_it_and_no_arm_on_the_one_before(
    tiny, device: BlockDevice, loaded: list[weakref.ref], tmp_path: Path
) -> None:
    """Adapters, fused updates, attention, positions and caches change from arm to arm."""
    given: dict[str, Any] = {"native": native(tiny, tmp_path)}
    given |= {name: trained(tiny, tmp_path, name, seed) for seed, name in enumerate(("own", "style", "d1"))}
    expected = clips(tiny, False, tmp_path / "whole", given)
    assert len({tuple(files) for files in expected.values()}) == len(ARMS) + 1 == len(loaded)
    assert device.most == 0
    alive = [one() is not None for one in loaded]  # step caches have hooks in circles
    loaded.clear()
    assert clips(tiny, "blocks", tmp_path / "blocks", given) == expected
    assert device.most == (2 if device.streamed else 1)
    device.watched = None
    assert [one() is not None for one in loaded] == alive and not alive[0]


def test_of_two_experts_one_has_blocks_there(
    a14b, device: BlockDevice, loaded: list[weakref.ref], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other is in main memory, where diffusers' hooks are off it."""
    given = {"native": native(a14b, tmp_path), "own": trained(a14b, tmp_path, "own", 1)}
    arm = ArmParams(label="a", adapter="own", attention=GCLF, strength=0.7, steps=4, guidance_scale=2.0)

    def made(offload: bool | str) -> list[bytes]:
        model, folder = a14b.model(offload=offload), tmp_path / str(offload)
        tables = (
            native_clips(PROMPTS, model, GENERATION, folder),
            arm_clips("a", arm, given["native"], given["own"], None, model, GENERATION, folder),
        )
        return [Path(path).read_bytes() for table in tables for path in table["path"]]

    expected, seen = made(False), list[int]()
    bring = module.Experts._bring

    def watching(self: module.Experts, expert: module.Expert) -> None:
        bring(self, expert)
        seen.append(sum(theirs._is_group_offload_enabled(other.transformer) for other in self))

    monkeypatch.setattr(module.Experts, "_bring", watching)
    assert made("blocks") == expected
    assert set(seen) == {1} and device.most == (2 if device.streamed else 1)
    device.watched = None
    assert len(loaded) == 8 and not any(one() is not None for one in loaded)
