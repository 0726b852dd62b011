"""Checkpoints and what training keeps: nothing is unpickled, and only an adapter's own is gone on from."""

import copy
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.training.checkpoint import NAME, load_checkpoint
from vibe_pipeline.training.job import TrainingJob
from vibe_pipeline.training.loop import train_adapter
from vibe_pipeline.training.optim import make_ema, make_optimiser
from vibe_pipeline.training.stages import STAGE1_LOSS, stage1_job, train

ROW = Stage1Params(lora={"rank": 2, "alpha": 3, "targets": ["to_q"]}, steps=4, batch_size=1, ema_decay=0.9)
State = dict[str, Any]


def torch_like(content: bytes, path: Path) -> None:
    """A zip archive as torch writes them, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")


def test_a_pickle_that_runs_code(tmp_path: Path, refused: Callable, bomb: object) -> None:
    torch_like(pickle.dumps({"step": bomb}), tmp_path / NAME)
    refused(lambda: load_checkpoint(tmp_path), str(tmp_path / NAME), "damaged", "delete it")


def test_a_pickle_of_old_torch(tmp_path: Path, refused: Callable, bomb: object) -> None:
    (tmp_path / NAME).write_bytes(pickle.dumps(bomb))
    refused(lambda: load_checkpoint(tmp_path), str(tmp_path / NAME), "damaged")


# Bytes that are not a checkpoint, beside an older one that is not either.
FILES: dict[str, bytes] = {
    "0 bytes": b"",
    "text": b"step 4\n",
    "zip without end": b"PK\x03\x04" + bytes(100),
    "zip of nothing": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file(tmp_path: Path, refused: Callable, case: str) -> None:
    for name in (NAME, "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(FILES[case])
    refused(lambda: load_checkpoint(tmp_path), str(tmp_path / NAME), "checkpoint.previous.pt", "delete it")


# What is saved instead of a checkpoint's content.
CONTENTS: dict[str, Any] = {
    "a tensor": torch.ones(3),
    "a list": [1, 2],
    "no step": {"adapter": {}},
    "step in words": {"step": "four"},
    "step half": {"step": 1.5},
    "step a truth value": {"step": True},
    "step before the start": {"step": -1},
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_content(tmp_path: Path, refused: Callable, case: str) -> None:
    torch.save(CONTENTS[case], tmp_path / NAME)
    refused(lambda: load_checkpoint(tmp_path), str(tmp_path / NAME), "step")


def test_a_bit_that_turned(tmp_path: Path, refused: Callable) -> None:
    torch.save({"step": 4, "adapter": {"a": torch.full((500,), 4.0)}}, tmp_path / NAME)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[content.index(torch.full((9,), 4.0).numpy().tobytes()) + 2] ^= 1
    (tmp_path / NAME).write_bytes(content)
    refused(lambda: load_checkpoint(tmp_path), str(tmp_path / NAME), "checksum")


@pytest.fixture(scope="module")
def job(wan21) -> TrainingJob:
    """A training without images, so that going on would fail."""
    return TrainingJob(
        name="d1",
        key="k",
        folder=Path("nowhere"),
        model=wan21.model(),
        expand_timesteps=False,
        row=ROW,
        images=None,
        held_out=None,
        loss=STAGE1_LOSS,
    )


@pytest.fixture(scope="module")
def transformer(wan21) -> torch.nn.Module:
    """With the adapter that is about to be trained."""
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "d1", 2, 3, ("to_q",), 0)
    return transformer


@pytest.fixture
def state(transformer) -> State:
    """What a checkpoint of its own holds."""
    parameters = list(lora.adapter_parameters(transformer, "d1").values())
    return {
        "step": 2,
        "adapter": lora.adapter_state(transformer, "d1"),
        "ema": make_ema(parameters, 0.9).state_dict(),
        "optimiser": make_optimiser(parameters, ROW.optimiser).state_dict(),
        "progress": json.dumps({"records": [], "window": {}}),
    }


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def with_(**values: Any) -> Callable[[State], State]:
    return lambda state: state | values


def wider(state: State) -> State:
    return state | {"adapter": {k: torch.cat([v, v], int("lora_B" in k)) for k, v in state["adapter"].items()}}


def elsewhere(state: State) -> State:
    return state | {"adapter": {k.replace("to_q", "to_v"): v for k, v in state["adapter"].items()}}


# How an adapter's own checkpoint is changed, and what the message names.
CHANGES: dict[str, tuple[Callable[[State], State], str]] = {
    "no adapter": (without("adapter"), "adapter"),
    "no optimiser": (without("optimiser"), "optimiser"),
    "no log": (without("progress"), "progress"),
    "of a wider adapter": (wider, "another adapter"),
    "of other layers": (elsewhere, "another adapter"),
    "adapter a list": (with_(adapter=[1]), "adapter"),
    "adapter of words": (with_(adapter={"a": "b"}), "adapter"),
    "optimiser empty": (with_(optimiser={}), "optimiser"),
    "optimiser of another": (with_(optimiser={"state": {}, "param_groups": []}), "optimiser"),
    "average missing": (with_(ema=None), "ema"),
    "average of another": (with_(ema={"decay": 7.0}), "ema"),
    "log not JSON": (with_(progress="{"), "progress"),
    "log a list": (with_(progress="[1]"), "progress"),
    "log of another version": (with_(progress='{"records": [], "window": {"glass": 1}}'), "progress"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_adapters_own(
    job: TrainingJob, transformer, state: State, tmp_path: Path, refused: Callable, case: str
) -> None:
    change, named = CHANGES[case]
    torch.save(change(copy.deepcopy(state)), tmp_path / NAME)
    there = replace(job, folder=tmp_path)
    refused(lambda: train_adapter(there, transformer), str(tmp_path / NAME), named, "delete it")


def test_a_whole_one_is_gone_on_from(job: TrainingJob, transformer, state: State, tmp_path: Path) -> None:
    """The same fixture without a change: it is not for another reason that the others are refused."""
    torch.save(state, tmp_path / NAME)
    with pytest.raises(AttributeError, match="buckets"):  # of the images that this job has not
        train_adapter(replace(job, folder=tmp_path), transformer)


# A manifest of the latent cache, and what the message names.
RECORD = {"sha256": "0", "caption": "a", "shard": "a", "text_shard": "b", "held_out": False, "bucket": 0}
CACHES: dict[str, tuple[Any, str]] = {
    "a list": ([], "data_processing"),
    "nothing": ({"key": "k"}, "images"),
    "images in words": ({"key": "k", "images": "all"}, "data_processing"),
    "record without shard": ({"key": "k", "images": [{"sha256": "0"}]}, "shard"),
    "record of a later version": ({"key": "k", "images": [RECORD | {"depth": 1}]}, "depth"),
    "shard a number": ({"key": "k", "images": [RECORD | {"shard": 7}]}, "data_processing"),
    "no image": ({"key": "k", "images": []}, "k holds no training images"),
}


@pytest.mark.parametrize("case", CACHES)
def test_a_manifest_of_the_cache(refused: Callable, case: str) -> None:
    content, named = CACHES[case]
    refused(lambda: LatentCache(content), named)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"not json"], ids=["0 bytes", "cut", "bytes", "text"])
def test_an_adapters_manifest(wan21, tmp_path: Path, refused: Callable, content: bytes) -> None:
    """It names the way out rather than train for hours unasked."""
    images = [RECORD, RECORD | {"held_out": True}]
    job = stage1_job("d1", {"key": "k", "images": images}, wan21.model(), ROW, tmp_path)
    job.folder.mkdir()
    (job.folder / "manifest.json").write_bytes(content)
    refused(lambda: train(job, print), str(job.folder / "manifest.json"), "delete it")
