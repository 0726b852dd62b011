"""What the miniature's transformer is trained on, and where its training goes on from."""

from dataclasses import replace
from pathlib import Path

import torch

from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.miniature.base import BaseObjective, ClipsJob, _encode_shard, encode_clips, load_clips
from vibe_pipeline.miniature.networks import build_vae, save_pipeline
from vibe_pipeline.training.base_model import transformer_job, workers_of

CPU = torch.device("cpu")


def test_one_process_encodes_what_others_render_as_each_does_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_vae().save_pretrained(tmp_path / "vae")
    job = ClipsJob(vae=tmp_path / "vae", folder=tmp_path / "together", clips=2, size=8, frames=1, seed=1)
    encode_clips(job, 1, CPU, workers=1)
    (tmp_path / "alone").mkdir()
    _encode_shard(0, replace(job, folder=tmp_path / "alone"))
    (latents, captions), (others, same) = load_clips(tmp_path / "together"), load_clips(tmp_path / "alone")
    assert latents.shape == (250, 32, 1, 2, 2) and latents.std() > 0.1 and captions == same
    torch.testing.assert_close(latents, others, atol=0.02, rtol=0.02)  # other batches, 16 bit
    written = (job.folder / "0000.json").stat().st_mtime_ns
    encode_clips(job, 1, CPU, workers=1)
    assert (job.folder / "0000.json").stat().st_mtime_ns == written


def test_training_goes_on_from_a_trained_base(tmp_path: Path) -> None:
    first = BaseObjective()
    torch.nn.init.normal_(first.transformer.proj_out.weight)
    weights = {name: value.clone().to(torch.float16).float() for name, value in first.state_dict().items()}
    save_pipeline(build_vae(), first.transformer, first.text_encoder, tmp_path)
    params = MiniatureParams(start=tmp_path, base_batch=3)
    module = transformer_job(params, tmp_path, tmp_path).build()
    found = module.state_dict()
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    assert module.training and {value.dtype for value in found.values()} == {torch.float32}
    ids = torch.ones(3, 16, dtype=torch.long)
    assert torch.isfinite(module((torch.randn(3, 32, 1, 4, 4), ids, ids))["loss"])


def test_a_gpu_gets_workers_a_cpu_none() -> None:
    gpu = torch.device("cuda")
    assert workers_of(MiniatureParams(), CPU) == 0 < workers_of(MiniatureParams(), gpu)
    assert workers_of(MiniatureParams(workers=3), CPU) == workers_of(MiniatureParams(workers=3), gpu) == 3
