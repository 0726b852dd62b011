"""The two stages: what each trains on, what its result is keyed by."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import GclfAttnProcessor
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.diffusion.objectives import degrade
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.training import stages as relay
from vibe_pipeline.training.job import Job

SHAPE = {"lora": {"rank": 2, "alpha": 4}, "steps": 2, "batch_size": 2, "optimiser": {"learning_rate": 1e-2}}
STAGE1 = Stage1Params(**SHAPE)
STAGE2 = AdapterParams(label="full", **SHAPE)


def quiet(records: list[dict[str, float]]) -> None:
    """No tracking."""


@pytest.fixture
def stage1(wan21, make_cache, tmp_path: Path) -> dict[str, Any]:
    return relay.train_stage1("stage1", make_cache(), wan21.model(), STAGE1, tmp_path / "adapters", quiet)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Keep every job with a copy of its frozen weights and attention, as training finds them; train nothing."""
    seen: list[Job] = []

    def spy(job: Job) -> pd.DataFrame:
        frozen = {
            k.replace(".base_layer", ""): v.clone() for k, v in job.transformer.state_dict().items() if "lora_" not in k
        }
        job.transformer.seen = frozen
        job.transformer.adapters = job.transformer.active_adapters()
        job.transformer.gclf = isinstance(job.transformer.blocks[0].attn1.processor, GclfAttnProcessor)
        seen.append(job)
        return pd.DataFrame([{"step": 2, "loss": 1.0, "seconds": 1.0}])

    monkeypatch.setattr(relay, "train_adapter", spy)
    return seen


def test_naive_tuning_starts_from_the_base_and_relay_from_the_fused(
    wan21, make_cache, tmp_path, stage1, jobs, monkeypatch
) -> None:
    cache, root = make_cache(), tmp_path / "adapters"
    relay.train_stage2("naive", cache, None, wan21.model(), STAGE2.model_copy(update={"start": "base"}), root, quiet)
    relay.train_stage2("full", cache, stage1, wan21.model(), STAGE2, root, quiet)
    base, fused = wan21.transformer().state_dict(), wan21.transformer()
    lora.fuse_adapter(fused, Path(stage1["path"]))
    naive, full = (j.transformer.seen for j in jobs)
    assert all(torch.equal(naive[k], base[k]) for k in base)
    assert all(torch.equal(full[k], v) for k, v in fused.state_dict().items())
    assert sum(not torch.equal(full[k], base[k]) for k in base) == 20
    assert [j.part for j in jobs] == ["high", "high"]
    assert all(j.transformer.gclf for j in jobs)


def test_in_16_bit_stage_1_stands_beside_the_bases_own_weights(wan21, make_cache, tmp_path, stage1, jobs) -> None:
    model = wan21.model(dtype="bfloat16")
    relay.train_stage2("full", make_cache(), stage1, model, STAGE2, tmp_path, quiet)
    base = load_transformer(find_model(model.path), torch.device("cpu"), torch.bfloat16).state_dict()
    assert all(torch.equal(jobs[0].transformer.seen[k], v) for k, v in base.items())
    assert jobs[0].transformer.adapters == [lora.FUSED, "full"]


class Killed(Exception):
    """What a log line's receiver raises."""


def test_a_stage_2_in_16_bit_that_was_killed_ends_as_a_straight_one(wan21, make_cache, tmp_path, stage1) -> None:
    model, row = (
        wan21.model(dtype="bfloat16"),
        STAGE2.model_copy(update={"steps": 4, "log_every": 2, "checkpoint_every": 1}),
    )
    cache = make_cache()

    def kill(records: list[dict[str, float]]) -> None:
        raise Killed

    straight = relay.train_stage2("full", cache, stage1, model, row, tmp_path / "straight", quiet)
    with pytest.raises(Killed):
        relay.train_stage2("full", cache, stage1, model, row, tmp_path / "killed", kill)
    assert list((tmp_path / "killed").rglob("checkpoint.pt"))
    resumed = relay.train_stage2("full", cache, stage1, model, row, tmp_path / "killed", quiet)
    assert Path(resumed["path"]).read_bytes() == Path(straight["path"]).read_bytes()
    state, config = lora.read_adapter(Path(straight["path"]))
    assert config["r"] == 2 and len(state) == 40
    alone = relay.train_stage2("full", cache, None, model, row, tmp_path / "naive", quiet)
    assert Path(alone["path"]).read_bytes() != Path(straight["path"]).read_bytes()


@pytest.mark.parametrize("kind", ["full", "window", "gclf"])
def test_attention_is_the_rows_while_training_and_while_measuring(
    wan21, make_cache, tmp_path, jobs, monkeypatch, kind
) -> None:
    measured = []

    def measure(job: Job) -> float:
        measured.append(isinstance(job.transformer.blocks[0].attn1.processor, GclfAttnProcessor))
        return 0.0

    monkeypatch.setattr(relay, "held_out_loss", measure)
    row = STAGE2.model_copy(update={"attention": STAGE2.attention.model_copy(update={"kind": kind})})
    relay.train_stage2("a", make_cache(), None, wan21.model(), row, tmp_path, quiet)
    assert [jobs[0].transformer.gclf] == measured == [kind != "full"]


def test_stage_1_uses_low_images_with_full_attention(wan21, make_cache, tmp_path, jobs) -> None:
    relay.train_stage1("stage1", make_cache(), wan21.model(), STAGE1, tmp_path, quiet)
    assert (jobs[0].part, jobs[0].transformer.gclf, jobs[0].loss) == ("low", False, relay.STAGE1_LOSS)


@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_both_stages_train_on_either_kind_of_model(request, make_cache, tmp_path, style) -> None:
    tiny = request.getfixturevalue(style)
    cache = make_cache(16 if style == "wan21" else 48)
    logged: list[dict] = []
    first = relay.train_stage1("stage1", cache, tiny.model(), STAGE1, tmp_path, logged.extend)
    row = STAGE2.model_copy(update={"degradation": STAGE2.degradation.model_copy(update={"kind": "pixel"})})
    second = relay.train_stage2("full", cache, first, tiny.model(), row, tmp_path, logged.extend)
    assert len(logged) == 2
    for manifest in (first, second):
        folder = Path(manifest["path"]).parent
        assert not manifest["reused"]
        assert not (folder / "checkpoint.pt").exists()
        assert pd.read_csv(manifest["losses"])["loss"].iloc[-1] == pytest.approx(manifest["final_loss"])
        assert 0 < manifest["held_out_loss"] < 100
        assert any(v.abs().max() > 0 for k, v in load_file(manifest["path"]).items() if "lora_B" in k)
        assert manifest["seconds"] > 0


@pytest.mark.parametrize("kind", ["latent", "pixel"])
def test_the_degraded_latent_is_made_as_the_row_says(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    high, pixel, noise = (torch.randn(2, 4, 1, 8, 8, generator=generator) for _ in range(3))
    degradation = DegradationParams(kind=kind, factor=0.25, mode="nearest")
    loss = relay.StageLoss("high", {"hfato": 1.0}, degradation)
    seen: list[torch.Tensor] = []

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    value = loss(predict, {"high": high, "pixel": pixel}, noise, torch.full((2,), 0.5), torch.ones(2))["loss"]
    expected = pixel if kind == "pixel" else degrade(high, 0.25, "nearest")
    torch.testing.assert_close(seen[0], 0.5 * expected + 0.5 * noise)
    torch.testing.assert_close(value, (seen[0] - high).square().mean())
    assert loss.extra_parts == (("pixel",) if kind == "pixel" else ())


def test_what_changes_the_weights_changes_the_key_and_nothing_else_does(
    wan21, wan22, make_cache, tmp_path, stage1, jobs
) -> None:
    cache, model = make_cache(), wan21.model()
    rows: dict[str, tuple[dict, dict | None, AdapterParams]] = {
        "same": (cache, stage1, STAGE2),
        "label": (cache, stage1, STAGE2.model_copy(update={"label": "other"})),
        "log": (cache, stage1, STAGE2.model_copy(update={"log_every": 1, "checkpoint_every": 1})),
        "seed": (cache, stage1, STAGE2.model_copy(update={"seed": 1})),
        "steps": (cache, stage1, STAGE2.model_copy(update={"steps": 3})),
        "images": (cache | {"key": "other"}, stage1, STAGE2),
        "stage1": (cache, stage1 | {"key": "other"}, STAGE2),
        "naive": (cache, None, STAGE2),
    }
    keys = {n: relay.train_stage2("full", c, s, model, r, tmp_path / n, quiet)["key"] for n, (c, s, r) in rows.items()}
    assert keys["same"] == keys["label"] == keys["log"]
    assert len(set(keys.values())) == len(rows) - 2


def test_a_finished_adapter_is_not_trained_again_unless_its_file_is_gone(
    wan21, make_cache, tmp_path, stage1, monkeypatch
) -> None:
    calls: list[str] = []
    train = relay.train_adapter
    monkeypatch.setattr(relay, "train_adapter", lambda job: calls.append(job.name) or train(job))
    arguments = ("stage1", make_cache(), wan21.model(), STAGE1, tmp_path / "adapters", quiet)
    again = relay.train_stage1(*arguments)
    assert again == stage1 | {"reused": True}
    assert not calls
    Path(stage1["path"]).unlink()
    assert not relay.train_stage1(*arguments)["reused"]
    assert calls == ["stage1"]


def test_a_renamed_row_trains_nothing_again(wan21, make_cache, tmp_path: Path) -> None:
    """And its manifest carries the new name, which the graph and MLflow go by."""
    cache, model = make_cache(), wan21.model()
    first = relay.train_stage1("one", cache, model, STAGE1, tmp_path, quiet)
    second = relay.train_stage1("two", cache, model, STAGE1, tmp_path, quiet)
    assert (first["name"], first["reused"]) == ("one", False)
    assert (second["name"], second["reused"]) == ("two", True)
    assert {k: first[k] for k in ("key", "path", "losses")} == {k: second[k] for k in ("key", "path", "losses")}


def test_rows_of_equal_content_train_once_though_they_start_together(wan21, make_cache, tmp_path: Path) -> None:
    cache, model = make_cache(), wan21.model()
    folder = relay.stage1_folder(cache, model, STAGE1, tmp_path)

    def train(name: str) -> bool:
        with relay.alone(name, folder):
            return relay.train_stage1(name, cache, model, STAGE1, tmp_path, quiet)["reused"]

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(train, ("one", "two"))) == [False, True]
    assert [(tmp_path / "by_name" / name).resolve() for name in ("one", "two")] == [folder.resolve()] * 2


def test_an_adapters_file_says_nothing_of_its_row(wan21, make_cache, tmp_path: Path) -> None:
    """So that rows of equal content give equal files, whichever was first."""
    cache, model = make_cache(), wan21.model()
    files = [relay.train_stage1(n, cache, model, STAGE1, tmp_path / n, quiet)["path"] for n in ("one", "two")]
    assert Path(files[0]).read_bytes() == Path(files[1]).read_bytes()
