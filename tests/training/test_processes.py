"""Several processes, micro-batches, buckets: the same training; a process that fails ends all."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.runtime.deadline import DEADLINE, OutOfTimeError
from vibe_pipeline.training import stages
from vibe_pipeline.training.checkpoint import load_checkpoint
from vibe_pipeline.training.distributed import Group, require_devices, run_processes

CPU = torch.device("cpu")
ROW = Stage1Params(
    lora={"rank": 2, "alpha": 3},
    optimiser={"learning_rate": 1e-2},
    steps=4,
    batch_size=5,
    log_every=2,
    ema_decay=0.9,
    validate_every=3,
    autocast=False,
)
WORK = """
import os, signal, time
import torch
import torch.distributed as dist
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.runtime.deadline import require_time

def work(group, on_log, how):
    on_log([{"step": 1, "rank": group.rank, "pid": os.getpid()}])
    group.wait()
    if how == "wait":
        time.sleep(600)
    if group.rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "out of time":
            os.environ["VIBE_DEADLINE"] = "0"
            require_time("step 1")
        raise ArithmeticError("this one is the cause")
    group.sum_([torch.ones(3)])  # waits for a process that is gone
"""

NODE = """
import json, sys
from pathlib import Path
import vibe_pipeline
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.training.stages import stage1_job, train

cache, model, row = (json.loads(Path(p).read_text()) for p in sys.argv[1:4])
log = lambda records: print(*[r["step"] for r in records], flush=True)
job = stage1_job("d1", cache, ModelParams(**model), Stage1Params(**row), Path(sys.argv[4]))
print(train(job, log).path)
"""


@pytest.fixture
def train(wan21, make_cache, tmp_path: Path) -> Callable[..., tuple[dict[str, torch.Tensor], AdapterManifest, list]]:
    """Train stage 1 on two buckets with changes of the row; the adapter, the manifest, the log."""

    def run(folder: str, **changes: object) -> tuple[dict[str, torch.Tensor], AdapterManifest, list]:
        logged: list[dict[str, float]] = []
        row = Stage1Params(**(ROW.model_dump() | changes))
        cache = make_cache(count=13, buckets=2)
        job = stages.stage1_job("d1", cache, wan21.model(threads=1), row, tmp_path / folder)
        manifest = stages.train(job, logged.extend)
        return load_file(manifest.path), manifest, logged

    return run


@pytest.mark.parametrize(
    "divided", [{"micro_batch": 2}, {"micro_batch": 1}, {"processes": 2, "micro_batch": 2}], ids=str
)
def test_dividing_a_batch_changes_nothing_but_the_order_of_sums(train, divided: dict[str, int]) -> None:
    """Five images over two processes or in chunks of two are unequal shares: a mean of means would differ."""
    (one, manifest, log), (other, divided_manifest, divided_log) = train("one"), train("other", **divided)
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-5, atol=1e-5)
    assert max(float(v.abs().max()) for k, v in one.items() if "lora_B" in k) > 1e-3
    assert manifest.key == divided_manifest.key
    assert divided_manifest.held_out_loss == pytest.approx(manifest.held_out_loss, rel=1e-5)
    assert [r["step"] for r in divided_log] == [r["step"] for r in log] == [2, 3, 4]
    assert ["validation_loss" in r for r in log] == [False, True, True]
    names = ("step", "loss", "validation_loss")
    for ours, theirs in zip(divided_log, log, strict=True):
        expected = pytest.approx({k: theirs[k] for k in names if k in theirs}, rel=1e-5)
        assert {k: ours[k] for k in names if k in ours} == expected


@pytest.fixture
def torchrun(wan21, make_cache, tmp_path: Path) -> Callable[..., list[tuple[int, list[str], str]]]:
    """Train stage 1 in two processes as torchrun starts them, each with more in its environment."""

    def run(*more: dict[str, str]) -> list[tuple[int, list[str], str]]:
        row, cache = ROW.model_copy(update={"micro_batch": 2}), make_cache(count=13, buckets=2)
        files = [tmp_path / f"{n}.json" for n in ("cache", "model", "row")]
        contents = (cache, wan21.model(threads=1).model_dump(mode="json"), row.model_dump(mode="json"))
        for file, content in zip(files, contents, strict=True):
            file.write_text(json.dumps(content))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        command = [sys.executable, "-c", NODE, *map(str, files), str(tmp_path / "joined")]
        nodes = [
            subprocess.Popen(
                command,
                env=os.environ | place | {"RANK": str(r), "LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": "2"} | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for r, own in enumerate(more)
        ]
        said = [node.communicate(timeout=120) for node in nodes]
        return [(node.returncode, out.split(), err) for node, (out, err) in zip(nodes, said, strict=True)]

    return run


def test_processes_that_torchrun_started_join_one_group(train, torchrun) -> None:
    """On one machine or several: each runs the node, the environment says who it is; only the first logs."""
    alone, _, _ = train("alone")
    ended = torchrun({}, {})
    said = [out for _, out, _ in ended]
    assert [code for code, _, _ in ended] == [0, 0]
    assert [s[:-1] for s in said] == [["2", "3", "4"], []]
    joined = load_file(said[1][-1])
    for key, value in alone.items():
        torch.testing.assert_close(joined[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("late", [0, 1])
def test_whichever_machine_is_out_of_time_all_end_with_the_same_step_kept(torchrun, tmp_path: Path, late: int) -> None:
    """Clocks differ: the others would wait in an exchange for one that is gone."""
    ended = torchrun(*({DEADLINE: "0"} if rank == late else {} for rank in range(2)))
    for code, _, err in ended:
        assert code == 1 and "OutOfTimeError: run.hours are spent; kept: d1 up to step 1 of 4" in err
    assert load_checkpoint(next((tmp_path / "joined").rglob("checkpoint.pt")).parent)["step"] == 1


@pytest.mark.parametrize(
    ("how", "message"), [("raises", "ArithmeticError: this one is the cause"), ("killed", "it was ended by SIGKILL")]
)
def test_a_process_that_fails_ends_all_and_is_named_in_one_line(tmp_path, monkeypatch, how: str, message: str) -> None:
    """Not the other one, which reports a broken connection."""
    (tmp_path / "workers_that_fail.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import workers_that_fail

    logged: list[dict[str, float]] = []
    with pytest.raises(RuntimeError, match=f"^training process 1 failed: {message}") as caught:
        run_processes(workers_that_fail.work, (how,), 2, CPU, logged.extend)
    assert "\n" not in str(caught.value)
    assert {r["rank"] for r in logged} <= {0, 1}
    assert not multiprocessing.active_children()


def test_an_error_of_the_log_ends_all(tmp_path, monkeypatch) -> None:
    """As MLflow's, or a full disk's; Ctrl-C comes the same way."""
    (tmp_path / "workers_that_wait.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import workers_that_wait

    def fail(records: list[dict[str, float]]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_processes(workers_that_wait.work, ("wait",), 2, CPU, fail)
    assert not multiprocessing.active_children()


PARENT = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
import workers_of_a_parent
from vibe_pipeline.training.distributed import run_processes

if __name__ == "__main__":
    say = lambda records: print(records[0]["pid"], flush=True)
    run_processes(workers_of_a_parent.work, ("wait",), 2, torch.device("cpu"), say)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes live")
def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "workers_of_a_parent.py").write_text(WORK)
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(lives, pids))
        parent.kill()
    end = time.monotonic() + 60
    while any(map(lives, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(lives, pids))


def test_a_process_out_of_time_stops_all_as_a_run_that_goes_on(tmp_path, monkeypatch) -> None:
    (tmp_path / "workers_out_of_time.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import workers_out_of_time

    with pytest.raises(OutOfTimeError, match=r"^run\.hours are spent; kept: step 1\. The same command goes on"):
        run_processes(workers_out_of_time.work, ("out of time",), 2, CPU, lambda records: None)


def test_shares_cover_a_batch_once_and_differ_by_one_at_most() -> None:
    for count in (1, 5, 8, 13):
        for size in (1, 2, 3, 5):
            bounds = [Group(r, size).bounds(count) for r in range(size)]
            assert [b[0] for b in bounds[1:]] == [b[1] for b in bounds[:-1]]
            assert (bounds[0][0], bounds[-1][1]) == (0, count)
            widths = [b - a for a, b in bounds]
            assert max(widths) - min(widths) <= 1


def test_more_processes_than_images_or_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="batch_size 2 leaves some of 3 processes"):
        AdapterParams(label="a", batch_size=2, processes=3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="processes is 4, but torch sees 2 GPUs"):
        require_devices(4, torch.device("cuda"))
