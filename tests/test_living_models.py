"""A run holds one transformer at a time, without the garbage collector's help: on the 5B each is 10 GB."""

import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from transformers import UMT5EncoderModel

from tests.conf_files import read_conf, write_conf
from tests.wan_names import randomise, write_wan_file
from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation import denoiser
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.io.manifests import AdapterManifest

ROOT = Path(__file__).parents[1]
PARTS = (WanTransformer3DModel, AutoencoderKLWan, UMT5EncoderModel)
TRAINING = {"lora": {"rank": 2, "alpha": 4}, "steps": 2, "batch_size": 2, "log_every": 1, "checkpoint_every": 1}
WINDOW, GCLF = ({"kind": kind, "half_window": [1, 1]} for kind in ("window", "gclf"))
SWIM = {"method": "freeswim", "attention": WINDOW | {"scale": "freeswim"}, "guidance_scale": 2.0}
ARMS: dict[str, dict[str, Any]] = {
    "full": {"adapter": "full", "attention": GCLF},
    "kept": {"adapter": "full", "attention": GCLF, "keep_stage1": True},
    "naive": {"adapter": "naive", "detail_transfer": 1.0},
    "window": {"attention": WINDOW, "scheduler": "unipc"},
    "direct": {"method": "direct"},
    "t3": {"method": "direct", "attention": {"kind": "t3", "groups": [[2, 1, 1], [1, 2, 3]]}},  # weights of its own
    "freeswim": SWIM,
    "freeswim_cached": SWIM | {"refresh_every": 2},
    "truth": {"method": "truth"},
    "upsample": {"method": "upsample"},
}


class Census:
    """The models of the three classes that are alive, and how many there were at each load, the new one included."""

    def __init__(self) -> None:
        self.alive: dict[type, list[weakref.ref]] = {cls: [] for cls in PARTS}
        self.loads: list[tuple[str, dict[str, int]]] = []

    def count(self, cls: type) -> int:
        return sum(ref() is not None for ref in self.alive[cls])

    def bytes(self) -> int:
        """Of all weights that are alive, wherever their module is held."""
        models = [model for refs in self.alive.values() for ref in refs if (model := ref()) is not None]
        return sum(p.nbytes for m in models for p in m.parameters() if p.device.type != "meta")

    def loading(self, cls: type, load: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            model = load(*args, **options)
            self.alive[cls].append(weakref.ref(model))
            self.loads.append((cls.__name__, {c.__name__: self.count(c) for c in PARTS}))
            return model

        return counted


@pytest.fixture
def census(monkeypatch: pytest.MonkeyPatch) -> Iterator[Census]:
    """Counts every load, with the garbage collector off: what only it would free stays and is seen."""
    found = Census()
    for cls in PARTS:
        monkeypatch.setattr(cls, "from_pretrained", found.loading(cls, cls.from_pretrained))
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


def project(folder: Path, model: dict[str, Any], own: Path) -> Path:
    """A copy of the project with a tiny model in 16 bit, two adapters, and arms of every kind."""
    arms = ARMS | {"t3": ARMS["t3"] | {"transformer": {"path": str(own)}}}
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    (folder / "conf/local").mkdir(exist_ok=True)
    base = folder / "conf/base"
    params = read_conf(base)
    stage2 = TRAINING | {"attention": GCLF, "validate_every": 1}
    params |= {
        "model": model,
        "stage1": {"modality": TRAINING},
        "adapters": {
            "full": stage2 | {"label": "full", "gradient_checkpointing": True},
            "naive": stage2 | {"label": "naive", "start": "base"},
        },
        "arms": {name: {"label": name, "steps": 2, "guidance_scale": 1.0} | arm for name, arm in arms.items()},
    }
    high, low = ({k: model[which][k] for k in ("height", "width")} for which in ("target", "native"))
    params["data"] |= {"count": 6, "held_out": 2, "low": low, "high": high}
    params["generation"] |= {"count": 1, "native_steps": 1, "native_source": "base"}
    params["evaluation"] |= {"reference_arm": "full"}
    write_conf(base, params)
    return folder


def test_a_run_never_holds_two_transformers(wan22, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, census) -> None:
    model = wan22.model(dtype="bfloat16", text_length=16).model_dump(mode="json")
    with released(wan22.transformer()) as other:
        own = write_wan_file(randomise(other, 1), tmp_path / "t3.safetensors")
    del other
    folder = project(tmp_path / "project", model, own)
    census.loads.clear()
    dimensions, forward = set(), WanTransformer3DModel.forward

    def watched(self: WanTransformer3DModel, x: torch.Tensor, timestep: torch.Tensor, *rest: Any, **more: Any) -> Any:
        dimensions.add(timestep.ndim)
        return forward(self, x, timestep, *rest, **more)

    monkeypatch.setattr(WanTransformer3DModel, "forward", watched)
    monkeypatch.chdir(folder)
    bootstrap_project(folder)
    configure_project("vibe_pipeline")
    with KedroSession.create(folder) as session:
        session.run(pipeline_names=["data_processing", "relay_stage1", "relay_stage2", "generation"])
    assert dimensions == {1}  # one timestep a clip, in training and in every kind of arm: no first frame is held
    transformers = [living for name, living in census.loads if name == "WanTransformer3DModel"]
    # Native clips, three trainings and every arm that denoises.
    assert len(transformers) == 1 + 3 + sum(a.get("method", "") not in ("truth", "upsample") for a in ARMS.values())
    assert {living["WanTransformer3DModel"] for living in transformers} == {1}
    for name, living in census.loads:
        # The text encoder is alone. The VAE comes beside a transformer where clips are made, and only there.
        assert name != "UMT5EncoderModel" or sum(living.values()) == 1, (name, living)
        assert living["AutoencoderKLWan"] + living["UMT5EncoderModel"] <= 1, (name, living)
    assert {cls.__name__: census.count(cls) for cls in PARTS} == dict.fromkeys((c.__name__ for c in PARTS), 0)


def test_an_arm_that_fails_leaves_no_weights_in_its_traceback(
    wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, census
) -> None:
    """A notebook keeps the last error, and with it every frame's variables."""
    prompts = pd.DataFrame(
        {"prompt_index": [0], "prompt": ["a plain blue cross moving up over ribbed gray"], "seed": 0}
    )
    generation = GenerationParams(prompts="miniature", native_steps=1, native_guidance_scale=1.0)
    native = native_clips(prompts, wan21.model(), generation, tmp_path)
    arm = ArmParams(label="a", steps=1, guidance_scale=1.0, attention=GCLF)

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(denoiser, "decode_bytes", fail)
    with pytest.raises(RuntimeError, match="disk is full") as error:
        arm_clips("a", arm, native, None, None, wan21.model(), generation, tmp_path)
    assert error.traceback and census.bytes() == 0
    absent = AdapterManifest(name="d2", key="k", path=tmp_path / "absent.safetensors")
    other = arm.model_copy(update={"adapter": "d2"})
    with pytest.raises(ValueError, match="absent") as error:
        arm_clips("b", other, native, absent, None, wan21.model(), generation, tmp_path)
    assert error.traceback and census.bytes() == 0
    (tmp_path / "t3.safetensors").write_bytes(b"<html")
    other = ArmParams(label="c", method="direct", steps=1, transformer={"path": tmp_path / "t3.safetensors"})
    with pytest.raises(ValueError, match="a web page") as error:
        arm_clips("c", other, native, None, None, wan21.model(), generation, tmp_path)
    assert error.traceback and census.bytes() == 0
