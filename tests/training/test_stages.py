"""The two stages: what each trains on, what its result is keyed by."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.attention import GclfAttnProcessor
from vibe_pipeline.diffusion.bridge import bridge_start, start_sigmas
from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.diffusion.objectives import blur, degrade
from vibe_pipeline.experiment.adapters import AdapterParams, DegradationParams
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.training import stages
from vibe_pipeline.training.distributed import Group, no_log
from vibe_pipeline.training.job import StageLoss, TrainingJob, draw_batch
from vibe_pipeline.training.stages import alone, stage1_job, stage2_job, train

SHAPE = {"lora": {"rank": 2, "alpha": 4}, "steps": 2, "batch_size": 2, "optimiser": {"learning_rate": 1e-2}}
STAGE1 = Stage1Params(**SHAPE)
STAGE2 = AdapterParams(label="full", **SHAPE)


@pytest.fixture
def stage1(wan21, make_cache, tmp_path: Path) -> AdapterManifest:
    return train(stage1_job("stage1", make_cache(), wan21.model(), STAGE1, tmp_path / "adapters"), no_log)


@dataclass(frozen=True)
class Seen:
    """What a training would have begun with."""

    job: TrainingJob
    frozen: dict[str, torch.Tensor]
    adapters: list[str]
    gclf: bool


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Keep every job with a copy of its frozen weights and attention, as training finds them; train nothing."""
    seen: list[Seen] = []

    def spy(job: TrainingJob, transformer: torch.nn.Module, *_: Any) -> pd.DataFrame:
        frozen = {
            k.replace(".base_layer", ""): v.clone() for k, v in transformer.state_dict().items() if "lora_" not in k
        }
        gclf = isinstance(transformer.blocks[0].attn1.processor, GclfAttnProcessor)
        seen.append(Seen(job, frozen, transformer.active_adapters(), gclf))
        return pd.DataFrame([{"step": 2, "loss": 1.0, "seconds": 1.0}])

    monkeypatch.setattr(stages, "train_adapter", spy)
    return seen


def test_naive_tuning_starts_from_the_base_and_relay_from_the_fused(
    wan21, make_cache, tmp_path, stage1, trainings, monkeypatch
) -> None:
    cache, root = make_cache(), tmp_path / "adapters"
    train(stage2_job("naive", cache, None, wan21.model(), STAGE2.model_copy(update={"start": "base"}), root), no_log)
    train(stage2_job("full", cache, stage1, wan21.model(), STAGE2, root), no_log)
    base, fused = wan21.transformer().state_dict(), wan21.transformer()
    lora.fuse_adapter(fused, stage1.path)
    naive, full = (j.frozen for j in trainings)
    assert all(torch.equal(naive[k], base[k]) for k in base)
    assert all(torch.equal(full[k], v) for k, v in fused.state_dict().items())
    assert sum(not torch.equal(full[k], base[k]) for k in base) == 20
    assert [j.job.loss.part for j in trainings] == ["high", "high"]
    assert all(j.gclf for j in trainings)


def test_in_16_bit_stage_1_stands_beside_the_bases_own_weights(wan21, make_cache, tmp_path, stage1, trainings) -> None:
    model = wan21.model(dtype="bfloat16")
    train(stage2_job("full", make_cache(), stage1, model, STAGE2, tmp_path), no_log)
    base = load_transformer(find_model(model.path), torch.device("cpu"), torch.bfloat16).state_dict()
    assert all(torch.equal(trainings[0].frozen[k], v) for k, v in base.items())
    assert trainings[0].adapters == [lora.FUSED, "full"]


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

    straight = train(stage2_job("full", cache, stage1, model, row, tmp_path / "straight"), no_log)
    with pytest.raises(Killed):
        train(stage2_job("full", cache, stage1, model, row, tmp_path / "killed"), kill)
    assert list((tmp_path / "killed").rglob("checkpoint.pt"))
    resumed = train(stage2_job("full", cache, stage1, model, row, tmp_path / "killed"), no_log)
    assert resumed.path.read_bytes() == straight.path.read_bytes()
    state, config = lora.read_adapter(straight.path)
    assert config["r"] == 2 and len(state) == 40
    naive = train(stage2_job("full", cache, None, model, row, tmp_path / "naive"), no_log)
    assert naive.path.read_bytes() != straight.path.read_bytes()


@pytest.mark.parametrize("kind", ["full", "window", "gclf"])
def test_attention_is_the_rows_while_training_and_while_measuring(
    wan21, make_cache, tmp_path, trainings, monkeypatch, kind
) -> None:
    measured = []

    def measure(job: TrainingJob, transformer: torch.nn.Module, group: Group) -> float:
        measured.append(isinstance(transformer.blocks[0].attn1.processor, GclfAttnProcessor))
        return 0.0

    monkeypatch.setattr(stages, "held_out_loss", measure)
    row = STAGE2.model_copy(update={"attention": STAGE2.attention.model_copy(update={"kind": kind})})
    train(stage2_job("a", make_cache(), None, wan21.model(), row, tmp_path), no_log)
    assert [trainings[0].gclf] == measured == [kind != "full"]


def test_stage_1_uses_low_images_with_full_attention(wan21, make_cache, tmp_path, trainings) -> None:
    train(stage1_job("stage1", make_cache(), wan21.model(), STAGE1, tmp_path), no_log)
    assert (trainings[0].gclf, trainings[0].job.loss) == (False, stages.STAGE1_LOSS)


@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_both_stages_train_on_either_kind_of_model(request, make_cache, tmp_path, style) -> None:
    tiny = request.getfixturevalue(style)
    cache = make_cache(16 if style == "wan21" else 48)
    logged: list[dict] = []
    first = train(stage1_job("stage1", cache, tiny.model(), STAGE1, tmp_path), logged.extend)
    row = STAGE2.model_copy(update={"degradation": STAGE2.degradation.model_copy(update={"kind": "pixel"})})
    second = train(stage2_job("full", cache, first, tiny.model(), row, tmp_path), logged.extend)
    assert len(logged) == 2
    for manifest in (first, second):
        folder = manifest.path.parent
        assert not manifest.reused
        assert not (folder / "checkpoint.pt").exists()
        assert pd.read_csv(manifest.losses)["loss"].iloc[-1] == pytest.approx(manifest.final_loss)
        assert 0 < manifest.held_out_loss < 100
        assert any(v.abs().max() > 0 for k, v in load_file(manifest.path).items() if "lora_B" in k)
        assert manifest.seconds > 0


@pytest.mark.parametrize("kind", ["latent", "pixel", "noise", "blur"])
def test_the_degraded_latent_is_made_as_the_row_says(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    high, pixel, noise, added = (torch.randn(2, 4, 1, 8, 8, generator=generator) for _ in range(4))
    settings = {
        "latent": {"factor": 0.25, "mode": "nearest"},
        "noise": {"std": 0.1},
        "blur": {"kernel": 3, "sigma": 0.7},
    }
    degradation = DegradationParams(kind=kind, **settings.get(kind, {}))
    loss = StageLoss("high", {"hfato": 1.0}, degradation)
    seen: list[torch.Tensor] = []

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    batch = {"high": high, "pixel": pixel, "degradation_noise": added}
    value = loss(predict, batch, noise, torch.full((2,), 0.5), torch.ones(2))["loss"]
    others = {"pixel": pixel, "latent": degrade(high, 0.25, "nearest"), "noise": high + 0.1 * added}
    expected = blur(high, 3, 0.7) if kind == "blur" else others[kind]
    torch.testing.assert_close(seen[0], 0.5 * expected + 0.5 * noise)
    torch.testing.assert_close(value, (seen[0] - high).square().mean())
    assert loss.parts == (("high", "pixel") if kind == "pixel" else ("high",))


def drawn_cache(cache: dict[str, Any]) -> dict[str, Any]:
    """The same images with two more degraded latents each."""
    shard, generator = Path(cache["images"][0]["shard"]), torch.Generator().manual_seed(5)
    tensors = load_file(shard)
    for name in [n for n in tensors if n.endswith(".pixel")]:
        for draw in range(2):
            tensors[name.replace("pixel", f"drawn{draw}")] = torch.randn(
                tensors[name].shape, generator=generator
            ).half()
    save_file(tensors, shard)
    return cache | {"key": "drawn", "settings": {"latents": {"pixel_draws": {"count": 2}}}}


BRIDGES: dict[str, dict[str, Any]] = {
    "latent": {"bridge": {"degradation": "latent"}},
    "pixel": {"bridge": {"degradation": "pixel"}, "degradation": {"kind": "pixel"}},
    "both": {"bridge": {}, "degradation": {"kind": "pixel_drawn"}},
    "shrunk latent": {"bridge": {"sigma_start": 0.6}},
}


@pytest.mark.parametrize("which", BRIDGES)
def test_a_bridge_starts_from_what_the_row_degrades_with_the_noise_it_draws(wan21, make_cache, tmp_path, which) -> None:
    cache = drawn_cache(make_cache())
    row = AdapterParams(label="a", objective={"bridge_literal": 1.0}, **SHAPE | {"batch_size": 6}, **BRIDGES[which])
    job = stage2_job("a", cache, None, wan21.model(), row, tmp_path)
    batch = draw_batch(job, Group(), 0, list(range(6)))
    start, levels = batch.parts["sigma_start"], torch.tensor(start_sigmas(650, 750))
    fixed = {"pixel": 0.0, "shrunk latent": 0.6}.get(which)
    if fixed is None:
        assert torch.isin(start, levels).all() and len(start.unique()) > 1
    else:
        assert (start == torch.tensor(fixed)).all()
    again = draw_batch(job, Group(), 0, list(range(6)))
    assert all(torch.equal(batch.parts[n], again.parts[n]) for n in batch.parts)
    high, seen = batch.parts["high"], []

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    ones = torch.ones(6)
    value = job.loss(predict, batch.parts, batch.noise, ones, ones)["loss"]  # level 1: the start itself
    if which == "both":
        cached = torch.stack([job.images.batch("drawn", range(6), torch.full((6,), d)) for d in range(2)])
        degraded = batch.parts["drawn"]
        assert {int((cached[:, i] == degraded[i]).flatten(1).all(1).int().argmax()) for i in range(6)} == {0, 1}
    else:
        degraded = {"latent": high, "pixel": batch.parts.get("pixel"), "shrunk latent": degrade(high)}[which]
    expected = bridge_start(degraded, batch.noise, start, "literal")
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(value, (expected - high).square().mean())
    assert row.degrades == (which != "latent")


def test_a_bridge_trains_and_is_measured_in_either_form(wan21, make_cache, tmp_path) -> None:
    cache = drawn_cache(make_cache())
    for objective in ("bridge", "bridge_literal"):
        row = AdapterParams(
            label="a", objective={objective: 1.0}, bridge={}, degradation={"kind": "pixel_drawn"}, **SHAPE
        )
        made = train(stage2_job("a", cache, None, wan21.model(), row, tmp_path / objective), no_log)
        assert 0 < made.final_loss < 100 and 0 < made.held_out_loss < 100


def test_a_share_of_images_is_degraded_and_the_others_are_learned_as_they_are(wan21, make_cache, tmp_path) -> None:
    row = AdapterParams(label="a", degradation={"probability": 0.3}, **SHAPE | {"batch_size": 6})
    job = stage2_job("a", make_cache(), None, wan21.model(), row, tmp_path)
    many = job.loss.draws(5000, torch.Generator().manual_seed(0), 0)["degraded"]
    assert float(many.float().mean()) == pytest.approx(0.3, abs=0.03)
    step = next(s for s in range(20) if 0 < draw_batch(job, Group(), s, list(range(6))).parts["degraded"].sum() < 6)
    batch, seen = draw_batch(job, Group(), step, list(range(6))), []

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    job.loss(predict, batch.parts, batch.noise, torch.full((6,), 0.5), torch.ones(6))
    high, chosen = batch.parts["high"], batch.parts["degraded"].view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(seen[0], 0.5 * torch.where(chosen, degrade(high), high) + 0.5 * batch.noise)
    every = AdapterParams(label="a", **SHAPE)
    assert "probability" not in every.model_dump()["degradation"], "older adapters keep their keys"
    assert not StageLoss("high", {"hfato": 1.0}).draws(3, torch.Generator(), 0)


def test_noise_is_drawn_for_every_image_and_step_and_changes_no_other_draw(wan21, make_cache, tmp_path) -> None:
    """Of every objective that degrades, beside crops and a share of images; none where nothing is degraded."""
    noise = {"kind": "noise", "std": 0.1, "probability": 0.5}
    shape = SHAPE | {"batch_size": 6, "attention": {"kind": "full"}}
    crop = {"height": 2 * wan21.token, "width": 3 * wan21.token}

    def draw(step: int, degradation: dict[str, Any], **changes: Any) -> Any:
        row = AdapterParams(label="a", degradation=degradation, **shape | changes)
        job = stage2_job("a", make_cache(), None, wan21.model(), row, tmp_path)
        return draw_batch(job, Group(), step, list(range(6)))

    one, again, later = (draw(step, noise, crop=crop) for step in (0, 0, 1))
    added, shaped = one.parts["degradation_noise"], one.parts["high"]
    assert added.shape == shaped.shape and float(added.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(added, again.parts["degradation_noise"])
    drawn = [*added, *later.parts["degradation_noise"], *one.noise]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    shrunk = draw(0, {"probability": 0.5}, crop=crop)
    assert torch.equal(one.noise, shrunk.noise) and torch.equal(one.sigma, shrunk.sigma)
    assert one.parts.keys() - shrunk.parts.keys() == {"degradation_noise"}
    assert all(torch.equal(value, one.parts[name]) for name, value in shrunk.parts.items())
    for objective in ("hfato", "degraded_velocity", "bridge", "bridge_literal"):
        bridge = {"bridge": {}} if "bridge" in objective else {}
        assert "degradation_noise" in draw(0, noise, objective={objective: 1.0}, **bridge).parts
    for off in ({"objective": {"velocity": 1.0}}, {"objective": {"bridge": 1.0}, "bridge": {"degradation": "latent"}}):
        assert "degradation_noise" not in draw(0, noise, **off).parts


@pytest.mark.parametrize(
    ("kind", "extra"), [*(("noise", e) for e in ("micro_batch", "crop", "packing", "bridge")), ("blur", "crop")]
)
def test_a_latent_with_noise_or_blurred_trains_and_resumes_to_the_bit(
    wan21, make_cache, tmp_path, kind: str, extra: str
) -> None:
    crop = {"height": 2 * wan21.token, "width": 3 * wan21.token}
    settings: dict[str, Any] = {
        "micro_batch": {"micro_batch": 1, "objective": {"hfato": 1.0, "degraded_velocity": 0.5}},
        "crop": {"crop": crop},
        "packing": {"packing": {"tokens": 60}},
        "bridge": {"objective": {"bridge": 1.0}, "bridge": {}},
    }[extra]
    row = AdapterParams(
        label="a",
        degradation={"kind": kind, "probability": 0.5},
        attention={"kind": "full"},
        **SHAPE | {"steps": 4, "batch_size": 2, "checkpoint_every": 1, "log_every": 2} | settings,
    )
    cache = make_cache(count=11, buckets=2) if extra == "packing" else make_cache()

    def job(folder: str) -> TrainingJob:
        return stage2_job("d2", cache, None, wan21.model(threads=1), row, tmp_path / folder)

    def kill(records: list[dict[str, float]]) -> None:
        raise InterruptedError

    straight = train(job("straight"), no_log)
    with pytest.raises(InterruptedError):
        train(job("killed"), kill)
    assert (job("killed").folder / "checkpoint.pt").exists()
    resumed = train(job("killed"), no_log)
    assert resumed.path.read_bytes() == straight.path.read_bytes()
    assert resumed.held_out_loss == straight.held_out_loss


@pytest.mark.parametrize("style", ["wan21", "wan22"])
def test_crops_train_and_are_measured_and_their_work_is_counted(request, make_cache, tmp_path, style) -> None:
    """Of 4 x 6 tokens a crop of 2 x 3 and a context of 2 x 3: half of them."""
    tiny = request.getfixturevalue(style)
    cache, logged = make_cache(16 if style == "wan21" else 48), {}
    crop = {"height": 2 * tiny.token, "width": 3 * tiny.token}
    rows = {"whole": {}, "crop": {"crop": crop}, "alone": {"crop": crop | {"pool": None}}}
    for name, extra in rows.items():
        row = AdapterParams(label=name, attention={"kind": "full"}, **SHAPE | {"log_every": 2}, **extra)
        job = stage2_job(name, cache, None, tiny.model(), row, tmp_path)
        lines: list[dict] = []
        made = train(job, lines.extend)
        logged[name] = lines[0]["tokens_per_second"] * lines[0]["seconds"]
        assert 0 < made.held_out_loss < 100
    assert [round(v / logged["whole"], 2) for v in logged.values()] == [1, 0.5, 0.25]
    with pytest.raises(ValidationError, match="crop has tokens of two grids"):
        AdapterParams(label="a", crop=crop)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"objective": {"bridge": 1.0}}, "need `bridge`: where the way starts"),
        ({"bridge": {}}, "bridge belongs to the objectives bridge and bridge_literal"),
        ({"objective": {"bridge": 1.0}, "bridge": {"degradation": "pixel"}}, "only bridge_literal can learn"),
        (
            {"objective": {"bridge": 1.0}, "bridge": {"sigma_start": 0.5, "ddpm_steps": (600, 700)}},
            "give one of the two",
        ),
        ({"objective": {"bridge": 1.0}, "bridge": {"ddpm_steps": (700, 600)}}, "the first lies above the second"),
        ({"objective": {"bridge": 1.0}, "bridge": {"ddpm_steps": (700, 1000)}}, "less than or equal to 999"),
        ({"objective": {"bridge": 1.0}, "bridge": {"sigma_start": 1.0}}, "less than 1"),
    ],
)
def test_rows_of_a_bridge_that_contradict_themselves_are_refused(row: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdapterParams(label="a", **row)


def test_what_changes_the_weights_changes_the_key_and_nothing_else_does(
    wan21, wan22, make_cache, tmp_path, stage1, trainings
) -> None:
    cache, model = make_cache(), wan21.model()
    rows: dict[str, tuple[dict, AdapterManifest | None, AdapterParams]] = {
        "same": (cache, stage1, STAGE2),
        "label": (cache, stage1, STAGE2.model_copy(update={"label": "other"})),
        "log": (cache, stage1, STAGE2.model_copy(update={"log_every": 1, "checkpoint_every": 1})),
        "seed": (cache, stage1, STAGE2.model_copy(update={"seed": 1})),
        "steps": (cache, stage1, STAGE2.model_copy(update={"steps": 3})),
        "images": (cache | {"key": "other"}, stage1, STAGE2),
        "stage1": (cache, stage1.model_copy(update={"key": "other"}), STAGE2),
        "naive": (cache, None, STAGE2),
    }
    keys = {n: train(stage2_job("full", c, s, model, r, tmp_path / n), no_log).key for n, (c, s, r) in rows.items()}
    assert keys["same"] == keys["label"] == keys["log"]
    assert len(set(keys.values())) == len(rows) - 2


def test_a_finished_adapter_is_not_trained_again_unless_its_file_is_gone(
    wan21, make_cache, tmp_path, stage1, monkeypatch
) -> None:
    calls: list[str] = []
    train_adapter = stages.train_adapter
    monkeypatch.setattr(stages, "train_adapter", lambda job, *rest: calls.append(job.name) or train_adapter(job, *rest))
    job = stage1_job("stage1", make_cache(), wan21.model(), STAGE1, tmp_path / "adapters")
    assert train(job, no_log) == stage1.model_copy(update={"reused": True})
    assert not calls
    stage1.path.unlink()
    assert not train(job, no_log).reused
    assert calls == ["stage1"]


def test_a_renamed_row_trains_nothing_again(wan21, make_cache, tmp_path: Path) -> None:
    """And its manifest carries the new name, which the graph and MLflow go by."""
    cache, model = make_cache(), wan21.model()
    first = train(stage1_job("one", cache, model, STAGE1, tmp_path), no_log)
    second = train(stage1_job("two", cache, model, STAGE1, tmp_path), no_log)
    assert (first.name, first.reused) == ("one", False)
    assert (second.name, second.reused) == ("two", True)
    assert (first.key, first.path, first.losses) == (second.key, second.path, second.losses)


def test_rows_of_equal_content_train_once_though_they_start_together(wan21, make_cache, tmp_path: Path) -> None:
    cache, model = make_cache(), wan21.model()

    def in_turn(name: str) -> AdapterManifest:
        job = stage1_job(name, cache, model, STAGE1, tmp_path)
        with alone(job):
            return train(job, no_log)

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(in_turn, ("one", "two")))
    assert sorted(manifest.reused for manifest in made) == [False, True]
    folder = made[0].path.parent.resolve()
    assert [(tmp_path / "by_name" / name).resolve() for name in ("one", "two")] == [folder] * 2


def test_an_adapters_file_says_nothing_of_its_row(wan21, make_cache, tmp_path: Path) -> None:
    """So that rows of equal content give equal files, whichever was first."""
    cache, model = make_cache(), wan21.model()
    files = [train(stage1_job(n, cache, model, STAGE1, tmp_path / n), no_log).path for n in ("one", "two")]
    assert Path(files[0]).read_bytes() == Path(files[1]).read_bytes()
