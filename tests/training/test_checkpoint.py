"""Checkpoints under damage and under a kill at any moment."""

import json
import logging
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.training.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from vibe_pipeline.training.distributed import no_log
from vibe_pipeline.training.stages import stage1_job, train

ROW = Stage1Params(
    lora={"rank": 2, "alpha": 3},
    optimiser={"learning_rate": 1e-2, "warmup_steps": 3, "schedule": "cosine"},
    steps=40,
    batch_size=3,
    micro_batch=2,
    ema_decay=0.9,
    validate_every=7,
    sigma_sampling="logit_normal",
    checkpoint_every=1,
    log_every=1,
    autocast=False,
)
CHILD = """
import json, signal, sys
from pathlib import Path
import vibe_pipeline
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.training.stages import stage1_job, train

def note(records):
    print(records[-1]["step"], flush=True)
    if records[-1]["step"] >= int(sys.argv[5]):  # it cannot end before the kill, however late that comes
        signal.pause()

cache, model, row = (json.loads(Path(p).read_text()) for p in sys.argv[1:4])
train(stage1_job("d1", cache, ModelParams(**model), Stage1Params(**row), Path(sys.argv[4])), note)
"""


def state(step: int) -> dict:
    return {"step": step, "adapter": {"a": torch.full((500,), float(step))}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 2 (previous) and 4."""
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 4):
        save_checkpoint(state(step), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    return tmp_path


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    else:
        content[
            content.index(torch.full((500,), float(4 if "previous" not in path.name else 2)).numpy().tobytes())
        ] ^= 4
    path.write_bytes(content)


def test_the_newest_is_loaded_and_all_can_be_removed(folder: Path) -> None:
    assert load_checkpoint(folder)["step"] == 4
    assert torch.equal(load_checkpoint(folder)["adapter"]["a"], torch.full((500,), 4.0))
    remove_checkpoints(folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("how", ["cut", "empty", "one bit"])
def test_a_damaged_one_falls_back_to_the_previous_and_says_so(folder: Path, caplog, how: str) -> None:
    damage(folder / "checkpoint.pt", how)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(folder)["step"] == 2
    assert "checkpoint.pt is damaged" in caplog.text
    damage(folder / "checkpoint.previous.pt", how)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged.*checkpoint\.previous\.pt is damaged.*delete"):
        load_checkpoint(folder)


def test_a_kill_while_saving_leaves_a_whole_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two renames there is only the previous one, which was the newest until then."""
    rename = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).name == "checkpoint.pt":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(state(5), folder)
    assert load_checkpoint(folder)["step"] == 4
    save_checkpoint(state(6), folder)
    assert load_checkpoint(folder)["step"] == 6


def test_a_run_killed_at_a_random_step_ends_as_a_straight_one_bit_for_bit(wan21, make_cache, tmp_path: Path) -> None:
    """SIGKILL of a process of its own; average, accumulation, schedule, validation and two buckets included."""
    cache, model, step = make_cache(count=11, buckets=2), wan21.model(threads=1), random.randrange(3, 30)
    files = [tmp_path / f"{n}.json" for n in ("cache", "model", "row")]
    for file, content in zip(files, (cache, model.model_dump(mode="json"), ROW.model_dump(mode="json")), strict=True):
        file.write_text(json.dumps(content))
    command = [sys.executable, "-c", CHILD, *map(str, files), str(tmp_path / "killed"), str(step + 6)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        while int(child.stdout.readline() or 10**6) < step:
            pass
        time.sleep(random.random() * 0.05)
        child.kill()
    assert child.returncode == -9
    (home,) = (tmp_path / "killed").iterdir()
    assert not (home / "manifest.json").exists()
    first: list[list[float]] = []
    killed, straight = (stage1_job("d1", cache, model, ROW, tmp_path / how) for how in ("killed", "straight"))
    resumed = train(killed, lambda r: first.append([x["step"] for x in r]))
    assert first[0][-1] >= step - 1, "it started over"
    straight = train(straight, no_log)
    logs = [pd.read_csv(m.losses)[["step", "loss", "validation_loss"]] for m in (resumed, straight)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    ours, theirs = (load_file(m.path) for m in (resumed, straight))
    assert all(torch.equal(ours[k], v) for k, v in theirs.items()), f"killed after step {step}"
    assert resumed.held_out_loss == straight.held_out_loss
