"""Every field that changes clips or weights changes their key, or a stale result would be taken for a new one.

Each field is listed: with another value, or among those that change nothing. A field that comes later fails here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.diffusion.rrdb_files import real_esrgan_file
from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.quantisation import QUANTISATIONS
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams, ExtraAdapter
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.origin import Unfolded
from vibe_pipeline.experiment.super_resolution import SuperResolutionParams
from vibe_pipeline.experiment.training import LoraParams, OptimiserParams, TrainParams
from vibe_pipeline.generation import calibration, denoiser, render
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.training.stages import stage2_job

PROMPT = "a striped red circle moving left over woven navy"
ORIGIN = set(Unfolded.model_fields)
GENERATION = {"prompts": "miniature"}
ARM: dict[str, Any] = {"label": "a", "adapter": "d2", "steps": 2, "attention": {"kind": "window"}}
ARM_CHANGES: dict[str, Any] = {
    "method": "direct",
    "adapter": None,
    "keep_stage1": True,
    "attention": {"kind": "window", "half_window": (1, 2)},
    "scheduler": "unipc",
    "flow_shift": 3.0,
    "strength": 0.6,
    "steps": 3,
    "strength_mode": "truncated",
    "guidance_scale": 4.0,
    "detail_transfer": 0.5,
    "enlarge": "latent",
    "bridge": {},
    "guidance_scale_2": 3.0,
    "guidance_interval": (0.2, 0.9),
    "step_cache": {"kind": "taylor"},
    "region_adaptive": {},
    "long": {},
    "rope": {"kind": "ntk"},
    "unconditional_attention": "window",
    "sharpen": {"amount": 0.5},
}
ATTENTION_CHANGES: dict[str, Any] = {"kind": "gclf", "half_window": (2, 2), "scale": "freeswim"}
# Only with another method, and shown by its tests: refresh_every, path, stages. Files have tests of their own.
ARM_ELSEWHERE = {"label", "refresh_every", "path", "stages", "extra_adapters", "transformer", "sr"}
ARM_HARMLESS = {"optional"}
SR_CHANGES: dict[str, Any] = {"tile": 64, "overlap": 33, "dtype": "bfloat16"}
MODEL_CHANGES: dict[str, Any] = {
    "dtype": "bfloat16",
    "text_length": 14,
    "flow_shift": 3.0,
    "tile": 64,
    "vae_dtype": "bfloat16",
    "quantisation": "int8",
}
MODEL_HARMLESS = {"device", "threads", "offload", "compile", "deterministic"}
NATIVE_CHANGES: dict[str, Any] = {
    "negative_prompt": "noise",
    "native_steps": 3,
    "native_guidance_scale": 2.0,
    "native_guidance_scale_2": 3.0,
    "native_scheduler": "unipc",
    "native_source": "truth",
}
CHOICE = {
    "prompts",
    "prompts_4k_vbench",
    "skip",
    "count",
    "sequential",
    "prompt_dimensions",
    "subset_seed",
    "seeds",
    "shard",
}  # a prompt has its own key
GENERATION_HARMLESS = {"batch_size", "stop_after_preview"}
CROP = {"height": 32, "width": 48}
TRAIN_CHANGES: dict[str, Any] = {
    "steps": 5,
    "batch_size": 2,
    "sigma_shift": 3.0,
    "sigma_sampling": "logit_normal",
    "logit_mean": 0.5,
    "logit_std": 2.0,
    "loss_weighting": "uniform",
    "ema_decay": 0.9,
    "seed": 1,
    "autocast": False,
    "objective": {"velocity": 1.0},
    "degradation": {"factor": 0.25},
    "bridge": {},
    "crop": CROP,
    "packing": {"tokens": 600},
    "attention": {"kind": "window"},
}
BRIDGE = {"bridge": 1.0}
BRIDGES: tuple[dict[str, Any], ...] = ({"degradation": "latent"}, {"ddpm_steps": (600, 900)}, {"sigma_start": 0.6})
# What a field needs beside it.
WITH: dict[str, dict[str, Any]] = {"bridge": {"objective": BRIDGE}, "crop": {"attention": {"kind": "full"}}}
TRAIN_HARMLESS: dict[str, Any] = {
    "label": "b",
    "micro_batch": 1,
    "processes": 1,
    "checkpoint_every": 7,
    "log_every": 7,
    "validate_every": 7,
    "gradient_checkpointing": True,
    "compile": True,
}
PARTS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 7.0, "targets": ("to_q",)},
    "optimiser": {
        "kind": "adamw_8bit",
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "warmup_steps": 3,
        "schedule": "cosine",
        "clip_norm": 0.5,
    },
}


class Blank:
    """Stands for the denoiser: grey clips at once, as only keys are looked at."""

    def __init__(self, *settings: Any, **named: Any) -> None:
        pass

    def __enter__(self) -> "Blank":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def refine(self, rows: list[dict[str, Any]], size: Any) -> torch.Tensor:
        return torch.full((len(rows), 3, size.frames, size.height, size.width), 0.5)

    from_noise = refine

    def cascade(self, rows: list[dict[str, Any]], size: Any, stages: Any) -> torch.Tensor:
        return self.refine(rows, size)


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "Denoiser", Blank)  # of native clips; an arm's method imports it when it makes clips
    monkeypatch.setattr(denoiser, "Denoiser", Blank)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: None)


@pytest.fixture
def arm_key(wan21, tmp_path: Path, blank: None) -> Any:
    """The key of one clip of an arm, for changes of whatever it depends on."""
    clip = np.random.default_rng(0).random((5, 32, 48, 3), np.float32)
    path = str(write_lossless(tmp_path / "native.mp4", clip, 8))

    def key(arm: dict | None = None, model: dict | None = None, generation: dict | None = None, **row: Any) -> str:
        stage1, second = (AdapterManifest(key=row.pop(n, n), name=n, path="none") for n in ("d1", "d2"))
        place = {"prompt_index": 0, "prompt": PROMPT, "seed": 0, "key": "n", "path": path, "seconds": 1.0} | row
        chosen, native = ArmParams(**ARM | (arm or {})), pd.DataFrame([place])
        kept = (second if chosen.adapter else None, stage1)
        params = GenerationParams(**GENERATION | (generation or {}))
        made = arm_clips("a", chosen, native, *kept, wan21.model(**(model or {})), params, tmp_path / "clips")
        return made["key"][0]

    return key


def test_of_an_arms_own_transformer_its_content_counts(arm_key, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.safetensors" for name in ("one", "copy", "other")}
    for name, content in (("one", b"weights"), ("copy", b"weights"), ("other", b"WEIGHTS")):
        files[name].write_bytes(content)
    keys = {name: arm_key(arm={"transformer": {"path": str(file)}}) for name, file in files.items()}
    assert keys["one"] == keys["copy"] and len({arm_key(), *keys.values()}) == 3


def test_of_an_arms_clips(arm_key, wan21) -> None:
    assert ARM_CHANGES.keys() | ARM_ELSEWHERE | ARM_HARMLESS == set(ArmParams.model_fields) - ORIGIN
    assert MODEL_CHANGES.keys() | MODEL_HARMLESS | {"path", "native", "target"} == set(ModelParams.model_fields)
    keys = {"as it is": arm_key()}
    keys |= {f"arm {name}": arm_key(arm={name: value}) for name, value in ARM_CHANGES.items()}
    keys |= {
        f"attention {n}": arm_key(arm={"attention": ARM["attention"] | {n: v}}) for n, v in ATTENTION_CHANGES.items()
    }
    keys |= {"pool": arm_key(arm={"attention": {"kind": "gclf", "pool": 4}})}
    deeper = ({"deep_from": 1, "deep_pool": 4}, {"deep_from": 1, "deep_pool": 0}, {"deep_from": 2, "deep_pool": 4})
    keys |= {f"deeper {d}": arm_key(arm={"attention": {"kind": "gclf"} | d}) for d in deeper}
    caches = [{"kind": "taylor", "interval": 3}, {"before": 2}, {"order": 0}, {"kind": "first_block"}]
    keys |= {f"cache {c}": arm_key(arm={"step_cache": c}) for c in (*caches, caches[-1] | {"threshold": 0.2})}
    mags = ({}, {"tolerance": 0.1}, {"most_skips": 2}, {"retain": 0.5})
    keys |= {f"mag {m}": arm_key(arm={"step_cache": {"kind": "mag", **m}}) for m in mags}
    ropes = [{"kind": "ntk", "alpha": (1, 25, 25)}, {"kind": "ar"}, {"kind": "ar", "reach": "native"}]
    ropes += [{"kind": "yarn"}, {"kind": "yarn", "rotations": (16.0, 1.0)}, {"kind": "vision_yarn"}]
    ropes += [{"kind": "time_aware"}, {"kind": "time_aware", "watershed": 0.5}]
    ropes += [{"kind": "dype"}, {"kind": "dype", "power": 1.0}, {"kind": "dype", "strength": 1.0}]
    ropes += [{"kind": "ar", "near": (1, 1)}, {"kind": "ar", "tile": (2, 2)}]
    keys |= {f"rope {rope}": arm_key(arm={"rope": rope}) for rope in ropes}
    size = {"height": 32, "width": 48}
    stages = [size, {"height": 64, "width": 48}, size | {"steps": 3}, size | {"flow_shift": 7.0}]
    stages += [size | {"attention": {"kind": "window"}}, size | {"rope": {"kind": "ntk"}}]
    starts = ({"form": "literal"}, {"ddpm_step": 700}, {"sigma_start": 0.6}, {"form": "literal", "noise": False})
    keys |= {"proxy": arm_key(arm={"attention": {"kind": "proxy"}})}
    own = [{"kind": "freelong"} | more for more in ({}, {"window_axes": "time"}, {"stop_time": 0.5})]
    own += [{"kind": "freelong"} | more for more in ({"global_pass": "gclf"}, {"low_pass": "butterworth"})]
    own += [{"kind": "adaspa"} | more for more in ({}, {"sparsity": 0.5}, {"block": 32}, {"search_steps": (1,)})]
    keys |= {f"attention {a}": arm_key(arm={"attention": a}) for a in own}
    keys |= {"midpoint": arm_key(arm={"scheduler": "midpoint"})}
    regions = [{"share": 0.4}, {"start": 3}, {"every": 5}, {"starvation": 0.2}, {"active": "high"}]
    keys |= {f"regions {r}": arm_key(arm={"region_adaptive": r}) for r in regions}
    keys |= {f"long {c}": arm_key(arm={"long": c}) for c in ({"chunk": 9}, {"overlap": 4}, {"blend": "linear"})}
    keys |= {f"bridge {start}": arm_key(arm={"bridge": start}) for start in starts}
    keys |= {f"stage {s}": arm_key(arm={"method": "cascade", "stages": [s]}) for s in stages}
    again = [[size, size | more] for more in ({}, {"strength": 0.5}, {"strength_mode": "all_steps"})]
    keys |= {f"stages {s}": arm_key(arm={"method": "cascade", "stages": s}) for s in again}
    keys |= {f"model {name}": arm_key(model={name: value}) for name, value in MODEL_CHANGES.items()}
    keys |= {"target": arm_key(model={"target": {"height": 96, "width": 144, "frames": 5}})}
    keys |= {"fps": arm_key(model={"target": wan21.model().target.model_dump() | {"fps": 16.0}})}
    keys |= {"adapter": arm_key(d2="other"), "stage 1": arm_key(arm={"keep_stage1": True}, d1="other")}
    rows = {"prompt": PROMPT + " again", "seed": 1, "key": "other native clip", "first_frame_sha256": "other"}
    keys |= {f"row {name}": arm_key(**{name: value}) for name, value in rows.items()}
    keys |= {"negative prompt": arm_key(generation={"negative_prompt": "noise"})}
    assert len(set(keys.values())) == len(keys), sorted(keys.items(), key=lambda item: item[1])
    same = {"label": arm_key(arm={"label": "b"}), "unused stage 1": arm_key(d1="other")}
    same |= {"optional": arm_key(arm={"optional": True})}
    same |= {
        "compile": arm_key(model={"compile": True}),
        "deterministic": arm_key(model={"deterministic": True}),
        "offload": arm_key(model={"offload": True}),
        "offload blocks": arm_key(model={"offload": "blocks"}),
        "threads": arm_key(model={"threads": 1}),
    }
    same |= {"batch": arm_key(generation={"batch_size": 3})}
    same |= {"a renamed adapter": arm_key(arm={"adapter": "renamed"})}  # its content has a key of its own
    assert set(same.values()) == {keys["as it is"]}, same


def test_of_extra_adapters(arm_key, wan21, tmp_path: Path) -> None:
    """By content, not by name; and by weight."""
    paths = []
    for i, seed in enumerate((1, 1, 2)):
        transformer = wan21.transformer()
        lora.add_adapter(transformer, "x", 2, 2.0, ("to_q",), seed)
        paths.append(lora.save_adapter(transformer, "x", tmp_path / str(i)))

    def key(path: Path, weight: float = 1.0, differences: bool = False) -> str:
        return arm_key(arm={"extra_adapters": [{"path": path, "weight": weight, "differences": differences}]})

    assert len({arm_key(), key(paths[0]), key(paths[0], 0.5), key(paths[2])}) == 4
    assert key(paths[0]) == key(paths[1]), "the same adapter elsewhere"
    beside, fused = ExtraAdapter(path=paths[2]).differences_path, []
    for value in (0.0, 1.0):
        save_file({"proj_out.bias": torch.full((64,), value)}, beside)
        assert key(paths[2]) not in fused, "not asked for"
        fused.append(key(paths[2], differences=True))
    assert len({*fused, key(paths[2])}) == 3
    before = key(paths[0])
    paths[0].write_bytes(paths[2].read_bytes())
    assert key(paths[0]) != before, "another file under the same name"


def test_of_super_resolution(arm_key, wan21, tmp_path: Path) -> None:
    """By the network's content, wherever its file lies, and by how it is run."""
    assert SR_CHANGES.keys() | {"weights"} == set(SuperResolutionParams.model_fields)
    path, moved, other = (real_esrgan_file(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))

    def key(weights: Path = path, model: dict | None = None, **changes: Any) -> str:
        sr = {"weights": weights, "tile": 66} | changes
        return arm_key(arm={"method": "sr", "adapter": None, "sr": sr}, model=model)

    keys = {
        "as it is": key(),
        "network": key(other),
        "no network": arm_key(arm={"method": "upsample", "adapter": None}),
    }
    keys |= {name: key(**{name: value}) for name, value in SR_CHANGES.items()}
    keys |= {"model": key(model={"dtype": "bfloat16"})}
    assert len(set(keys.values())) == len(keys), keys
    assert key(moved) == keys["as it is"]


def test_of_native_clips(wan21, tmp_path: Path, blank: None) -> None:
    known = NATIVE_CHANGES.keys() | CHOICE | GENERATION_HARMLESS
    assert known == set(GenerationParams.model_fields)
    prompts = pd.DataFrame([{"prompt_index": 0, "prompt": PROMPT, "seed": 0}])

    def key(model: dict | None = None, **changes: Any) -> str:
        params = GenerationParams(**GENERATION | changes)
        return native_clips(prompts, wan21.model(**(model or {})), params, tmp_path)["key"][0]

    keys = {"as it is": key()} | {name: key(**{name: value}) for name, value in NATIVE_CHANGES.items()}
    keys |= {f"model {name}": key({name: value}) for name, value in MODEL_CHANGES.items()}
    keys |= {"native": key({"native": {"height": 48, "width": 48, "frames": 5}})}
    assert len(set(keys.values())) == len(keys), keys
    target = {"target": {"height": 96, "width": 144, "frames": 5}}
    assert key(target) == key(batch_size=2) == keys["as it is"]


def test_of_an_adapter(wan21, wan22, tmp_path: Path) -> None:
    named = TRAIN_CHANGES.keys() | TRAIN_HARMLESS | PARTS.keys() | {"start", "validation_clips"}
    assert named == set(AdapterParams.model_fields) - ORIGIN >= set(TrainParams.model_fields)
    assert PARTS["lora"].keys() == set(LoraParams.model_fields)
    assert PARTS["optimiser"].keys() == set(OptimiserParams.model_fields)

    def key(cache: str = "c", stage1: str | None = "s", model: ModelParams | None = None, **changes: Any) -> str:
        row = AdapterParams(**{"label": "a"} | changes)
        before = AdapterManifest(name="s", key=stage1, path=tmp_path) if stage1 else None
        image = {"sha256": "0", "caption": "a", "shard": "a", "text_shard": "b", "bucket": 0}
        images = [image | {"held_out": held_out} for held_out in (False, True)]
        latents = {"key": cache, "images": images}
        return stage2_job("d2", latents, before, model or wan21.model(), row, tmp_path).folder.name

    keys = {"as it is": key(), "images": key(cache="d"), "stage 1": key(stage1="t"), "naive": key(stage1=None)}
    keys |= {"base": key(model=wan22.model())}
    keys |= {kind: key(model=wan21.model(quantisation=kind)) for kind in QUANTISATIONS}
    keys |= {name: key(**WITH.get(name, {}) | {name: value}) for name, value in TRAIN_CHANGES.items()}
    keys |= {f"bridge {b}": key(objective=BRIDGE, bridge=b) for b in BRIDGES}
    crops = ({"height": 64}, {"width": 64}, {"pool": 4}, {"pool": None})
    keys |= {f"crop {c}": key(attention={"kind": "full"}, crop=CROP | c) for c in crops}
    keys |= {"literal": key(objective={"bridge_literal": 1.0}, bridge={})}
    keys |= {f"{part} {n}": key(**{part: {n: v}}) for part, fields in PARTS.items() for n, v in fields.items()}
    keys |= {
        "pool": key(attention={"kind": "gclf", "pool": 4}),
        "window": key(attention={"kind": "gclf", "half_window": (1, 1)}),
        "deeper": key(attention={"kind": "gclf", "deep_from": 1, "deep_pool": 4}),
        "deepest": key(attention={"kind": "gclf", "deep_from": 2, "deep_pool": 4}),
        "deeper alone": key(attention={"kind": "gclf", "deep_from": 1, "deep_pool": 0}),
    }
    keys |= {"form": key(degradation={"kind": "pixel"}), "mode": key(degradation={"mode": "nearest"})}
    keys |= {"share": key(degradation={"probability": 0.5})}
    noise, blur = {"kind": "noise"}, {"kind": "blur"}
    others: tuple[dict[str, Any], ...] = (
        noise,
        noise | {"std": 0.1},
        blur,
        blur | {"kernel": 7},
        blur | {"sigma": 2.0},
    )
    keys |= {f"degraded by {d}": key(degradation=d) for d in others}
    assert AdapterParams(label="a").model_dump()["degradation"].keys() == {"kind", "factor", "mode"}, "as they were"
    assert len(set(keys.values())) == len(keys), keys
    same = {name: key(**{name: value}) for name, value in TRAIN_HARMLESS.items()}
    same |= {"a renamed stage 1": key(start="renamed")}  # its content has a key of its own
    assert set(same.values()) == {keys["as it is"]}, same
