"""The two environments of the real models: whole, valid, and refused at once where the weights are not there."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.conf_files import loader_of_conf, read_conf
from tests.one_claim import evaluate_claim
from tests.planning.kept_plans import plan_of
from vibe_pipeline.diffusion.flops import keys_by_layer
from vibe_pipeline.evaluation.composites import composite_scores
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.evaluation.pooling import pools_of
from vibe_pipeline.evaluation.readings import FAILS, HOLDS
from vibe_pipeline.experiment.claims import Claim, Claims
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import experiment_of, settled_parameters
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.run import ReportParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.io.score_table import Place, score_row, score_table
from vibe_pipeline.pipeline_registry import register_pipelines, use_tables
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.plan import Assumed
from vibe_pipeline.planning.preflight import check_parameters
from vibe_pipeline.reporting.published import published_difference
from vibe_pipeline.vbench.prompts import clips_per_dimension

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("wan22_ti2v_5b", "wan21_t2v_1_3b")
# The paper's tables: what each arm lacks.
ARMS = {
    "full", "full_pool4", "full_pixel", "no_relay", "no_gclf", "window_only", "no_hfato", "no_x0_loss", "keep_stage1",
    "no_adapter", "direct", "upsample",
}  # fmt: skip

# What is published of a training; what no source names is off: no clipping, no warm-up, no average.
PUBLISHED = {
    "lora": {
        "rank": 32,
        "alpha": 32.0,
        "targets": ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"),
    },
    "optimiser": {
        "kind": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "warmup_steps": 0,
        "schedule": "constant",
        "clip_norm": None,
    },
    "steps": 3000,
    "batch_size": 1,
    "sigma_sampling": "uniform_shifted",
    "sigma_shift": 5.0,
    "loss_weighting": "bell",
    "ema_decay": None,
    "autocast": True,
}

# The six whose plain mean the paper's "overall" fits.
OVERALL = (
    "subject_consistency", "background_consistency", "motion_smoothness", "aesthetic_quality", "imaging_quality",
    "overall_consistency",
)  # fmt: skip
# What its main table prints.
PRINTED = {*OVERALL[3:], "overall6"}


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    loader = loader_of_conf(ROOT / "conf", request.param)
    return request.param, loader["parameters"]


def test_every_group_is_valid_and_nothing_of_the_miniature_is_left(environment) -> None:
    name, params = environment
    model = ModelParams(**params["model"])
    for group, cls in (("data", DataParams), ("generation", GenerationParams), ("evaluation", EvaluationParams)):
        cls(**params[group])
    ReportParams(**params["report"])
    tables = experiment_of(params)
    assert model.path.startswith("Wan-AI/Wan") and model.dtype == "bfloat16" and model.flow_shift == 5
    assert set(pools_of(tables).arms) == ARMS | ({"freeswim"} if name == "wan21_t2v_1_3b" else set())
    assert {a.adapter for a in tables.arms.values()} - {None} == set(tables.adapters)
    for row in (*tables.stage1.values(), *tables.adapters.values()):
        assert row.model_dump(include=set(PUBLISHED)) == PUBLISHED
    losses = {n.partition("_seed_")[0]: set(a.objective) for n, a in tables.adapters.items()}
    assert losses.pop("no_hfato") == {"velocity"} and losses.pop("no_x0_loss") == {"degraded_velocity"}
    assert all(loss == {"hfato"} for loss in losses.values())


def test_what_claims_speak_of_is_trained_with_three_seeds_and_planned_so(environment) -> None:
    """Three trainings and three sets of clips each; what no claim speaks of is made once."""
    name, params = environment
    tables, claims = (
        experiment_of(params),
        Claims(settled_parameters(loader_of_conf(ROOT / "conf", name))["claims"]).root,
    )
    claimed = {arm for claim in claims for arm in (claim.arm, claim.other)}
    pools = pools_of(tables)
    seeds = {arm: sorted(seed for _, pool, seed in pools.members if pool == arm) for arm in pools.arms}
    trained = {arm for arm in claimed if params["arms"][arm].get("adapter")}
    assert trained == {"full", "no_relay", "no_gclf", "no_hfato", "no_x0_loss"}
    assert {arm for arm, found in seeds.items() if len(found) > 1} == trained
    for arm in trained:
        rows = [tables.adapters[tables.arms[member].adapter].seed for member, pool, _ in pools.members if pool == arm]
        assert sorted(rows) == [0, 1, 2]
    planned = [row for row in plan_of(params, Assumed(images=2300)).rows if row.group in ("arm", "stage2")]
    for arm in claimed:
        of_arm = [row for row in planned if row.name.partition("_seed_")[0] == arm]
        assert len([row for row in of_arm if row.group == "arm"]) == (3 if arm in trained else 1)
        assert len([row for row in of_arm if row.group == "stage2"]) == (3 if arm in trained else 0)
        assert len({row.seconds for row in of_arm if row.group == "arm"}) == 1


def test_sizes_fit_vae_patches_and_pooling(environment) -> None:
    _, params = environment
    model, data, tables = ModelParams(**params["model"]), DataParams(**params["data"]), experiment_of(params)
    architecture = load_architecture(model.path)
    token = architecture.vae["scale_factor_spatial"] * architecture.transformer["patch_size"][1]
    for size in (model.native, model.target, data.low, data.high):
        assert size.height % token == 0 and size.width % token == 0
    native = architecture.grid(model.native)
    for arm in tables.arms.values():
        assert min(keys_by_layer(arm.attention, architecture.grid(model.target), native[1:], 2)) > 0
    for row in tables.adapters.values():
        assert min(keys_by_layer(row.attention, architecture.grid(data.high), native[1:], 2)) > 0


def test_every_dimension_asked_for_is_defined_on_every_clip(environment) -> None:
    pytest.importorskip("vbench")
    _, params = environment
    evaluation = EvaluationParams(**params["evaluation"])
    prompts = load_prompts(GenerationParams(**params["generation"]))
    assert len(prompts) >= 64 and "dimensions" not in prompts
    assert set(evaluation.vbench_dimensions) == {*OVERALL, "temporal_flickering"}
    assert clips_per_dimension(prompts, evaluation.vbench_dimensions) == dict.fromkeys(
        evaluation.vbench_dimensions, len(prompts)
    )


def made_up(ahead: str, behind: str, dimensions: Sequence[str], gain: float) -> pd.DataFrame:
    """Scores of 64 prompts, with all that is made of them: one arm lies `gain` above the other on every dimension."""
    rng, rows = np.random.default_rng(0), []
    for arm, prompt, name in itertools.product((ahead, behind), range(64), dimensions):
        value = 0.5 + (gain if arm == ahead else 0.0) + rng.normal(0, abs(gain) / 10)
        rows.append(score_row(Place(arm, prompt, 0), METRICS[name], value))
    scores = score_table(rows)
    return pd.concat([scores, composite_scores(scores, OVERALL)], ignore_index=True)


def can_be_decided_either_way(claim: Claim, asked: Sequence[str]) -> None:
    """What a claim is put to is what the environment measures; no measure of the miniature has a part in it."""
    for gain, verdict in ((0.2, HOLDS), (-0.2, FAILS)):
        judgement = evaluate_claim(claim, made_up(claim.arm, claim.other, asked, gain))
        assert judgement.verdict == verdict, (claim.name, judgement)
        assert {e.verdict for e in judgement.evidence} == {verdict}


def test_the_environments_own_claims_are_the_papers_and_can_be_decided_either_way(environment) -> None:
    name, params = environment
    loader = loader_of_conf(ROOT / "conf", name)
    files = loader.file_of("claims"), loader.file_of("published")
    assert files == (ROOT / f"conf/{name}/claims.yml", ROOT / "conf/base/published.yml")
    settled = settled_parameters(loader)
    claims, asked = Claims(settled["claims"]).root, params["evaluation"]["vbench_dimensions"]
    tables = experiment_of(params)
    others = {claim.other for claim in claims}
    assert (
        others == {"no_relay", "no_gclf", "no_hfato", "no_x0_loss", "direct", "upsample"} <= set(pools_of(tables).arms)
    )
    assert {claim.arm for claim in claims} == {"full"}
    for claim in claims:
        assert {asked.metric for asked in claim.measures} == (
            {"overall6"} if claim.other.startswith("no_") else PRINTED
        )
        can_be_decided_either_way(claim, asked)
    said = {c.other: published_difference(settled["published"], c.arm, c.other) for c in claims}
    assert {other: round(gains["Overall"], 1) for other, gains in said.items()} == {
        "no_relay": 8.4, "no_gclf": 5.3, "no_hfato": 3.6, "no_x0_loss": 2.1, "direct": 8.9, "upsample": 2.4,
    }  # fmt: skip
    assert {k: round(v, 1) for k, v in said["direct"].items()} == {
        "Aesthetic quality": 2.3, "Imaging quality": 32.2, "Overall consistency": 13.5, "Overall": 8.9,
    }  # fmt: skip


def test_nothing_of_the_miniature_leaks_in(environment) -> None:
    """A group or table is the environment's own as a whole; what it leaves out is a field's default, not base's."""
    name, params = environment
    own, base = read_conf(ROOT / "conf" / name), read_conf(ROOT / "conf/base")
    assert {group for group in base if not group.startswith("_")} <= own.keys()
    assert {group: params[group] for group in own if not group.startswith("_")} == {
        group: value for group, value in own.items() if not group.startswith("_")
    }
    data, model = DataParams(**params["data"]), ModelParams(**params["model"])
    assert (data.count, data.camera_blur, model.threads) == (None, 0.0, None)
    assert not {(s["height"], s["width"]) for s in (base["model"]["native"], base["model"]["target"])} & {
        (s.height, s.width) for s in (model.native, model.target, data.low, data.high)
    }


def test_the_graph_has_a_branch_for_every_row(environment) -> None:
    _, params = environment
    tables = experiment_of(params)
    use_tables(tables)
    outputs = register_pipelines()["__default__"].all_outputs()
    assert {f"adapter-{n}" for n in tables.adapters} <= outputs
    assert {f"clips-{n}" for n in tables.arms} <= outputs


@pytest.mark.parametrize("part", ["data_processing", "relay_stage1", "relay_stage2", "generation"])
def test_without_weights_every_part_stops_before_it_starts(environment, monkeypatch, part: str) -> None:
    """What `kedro run` checks before the first node: the message says how to get them."""

    def nothing_downloaded(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing_downloaded)
    _, params = environment
    with pytest.raises(FileNotFoundError, match="hf download Wan-AI/Wan2"):
        check_parameters(params, experiment_of(params), {part})
