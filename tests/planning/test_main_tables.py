"""The paper's main table as environments: peers as arms, claims that can be decided, the paper's rows beside ours."""

from pathlib import Path
from typing import Any

import pytest

from tests.conf_files import loader_of_conf
from tests.one_claim import evaluate_claim
from tests.planning.kept_plans import plan_of
from tests.planning.test_environments import OVERALL, PRINTED, PUBLISHED, can_be_decided_either_way
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.evaluation.pooling import pools_of
from vibe_pipeline.evaluation.readings import FAILS, HOLDS
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.generation.optional_arms import without_missing
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.io.score_table import Place, score_row, score_table
from vibe_pipeline.planning.plan import Assumed
from vibe_pipeline.reporting.published import published_gain
from vibe_pipeline.vbench.prompts import clips_per_dimension

ROOT = Path(__file__).parents[2]
BELOW = {"main_table_5b": "wan22_ti2v_5b", "main_table_1_3b": "wan21_t2v_1_3b"}
COMMON = {
    "full", "full_pixel", "full_pixel_transfer", "direct", "sr", "cinescale_ar", "t3", "freeswim", "upsample",
    "upsample_sharp", "through_vae",
}  # fmt: skip
OWN = {"main_table_5b": set(), "main_table_1_3b": {"cinescale_lora", "ultrawan"}}
# Peers whose weights a user may not have; without them the row is listed and not run.
FETCHED = {"sr", "t3", "cinescale_lora", "ultrawan"}
SIZES = {"main_table_5b": (2176, 3840), "main_table_1_3b": (1088, 1920)}


@pytest.fixture(params=BELOW)
def table(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, settled_parameters(loader_of_conf(ROOT / "conf", request.param))


def test_every_method_is_a_row_and_the_claims_arms_have_three_trainings(table) -> None:
    name, params = table
    tables = checked_tables(params)
    arms = pools_of(tables).arms
    assert set(arms) == COMMON | OWN[name]
    assert {arm for arm, row in arms.items() if row.optional} == FETCHED & set(arms)
    for adapter in ("full", "full_pixel"):
        seeds = [row.seed for name, row in tables.adapters.items() if name.partition("_seed_")[0] == adapter]
        assert sorted(seeds) == [0, 1, 2], adapter
    assert len([a for a in tables.arms.values() if a.replicate]) == 6
    for row in (*tables.stage1.values(), *tables.adapters.values()):
        assert row.model_dump(include=set(PUBLISHED)) == PUBLISHED
    assert params["evaluation"]["reference_arm"] == "full"


def test_it_is_laid_on_the_models_own_environment(table) -> None:
    name, params = table
    below = loader_of_conf(ROOT / "conf", BELOW[name])["parameters"]
    model = ModelParams(**params["model"])
    assert (model.target.height, model.target.width, model.target.frames) == (*SIZES[name], 81)
    assert model.native.frames == 81 and model.path == below["model"]["path"]
    assert params["data"] == below["data"] and params["generation"] == below["generation"]
    own = loader_of_conf(ROOT / "conf", name)["parameters"]["arms"]
    assert own["direct"] == below["arms"]["direct"] and "extends" not in params


def test_every_claim_can_be_decided_and_the_published_gain_stands_beside(table) -> None:
    _, params = table
    arms = set(pools_of(checked_tables(params)).arms)
    asked, claims = params["evaluation"]["vbench_dimensions"], Claims(params["claims"]).root
    assert {*OVERALL, "temporal_flickering"} == set(asked)
    by_name = {claim.name: claim for claim in claims}
    assert len(by_name) == len(claims)
    for claim in claims:
        assert {claim.arm, claim.other} <= arms, claim.name
        assert claim.primary.metric == "overall6" and {asked.metric for asked in claim.measures} <= PRINTED
        can_be_decided_either_way(claim, asked)
    against = {claim.other for claim in claims if claim.arm == "full"}
    assert against == arms - {"full", "full_pixel", "full_pixel_transfer"}, "ViBe against every other method"
    peers = arms & {"cinescale_ar", "cinescale_lora", "t3", "sr", "freeswim", "ultrawan"}
    assert {claim.arm for claim in claims if claim.other == "direct"} == peers | {"full"}, "and each peer to the base"
    for form in peers & {"cinescale_ar", "cinescale_lora"}:
        plain, least = (by_name[f"better_than_{form}{end}"] for end in ("", "_by_what_is_published"))
        assert plain.at_least is None and least.at_least == 0.008
        assert published_gain(params["published"], "full", form, "overall6") == pytest.approx(0.8)
    assert published_gain(params["published"], "t3", "direct", "overall6") == pytest.approx(7.3)


def test_the_papers_rows_have_our_arms_and_say_how_far_they_are_the_same(table) -> None:
    name, params = table
    rows = {row["method"]: row for row in params["published"]["tables"][0]["rows"]}
    assert all(row["arms"] for row in rows.values())
    said = " ".join([row["fit"] for row in rows.values()] + params["published"]["caveats"])
    assert "most likely crosses base models" in said
    if name == "main_table_1_3b":
        assert rows["CineScale"]["arms"] == ["cinescale_lora", "cinescale_ar"]
        assert all("other base" in row["fit"] for row in rows.values())


def test_every_asked_dimension_is_defined_on_64_clips_of_the_same_prompts(table) -> None:
    pytest.importorskip("vbench")
    _, params = table
    asked = params["evaluation"]["vbench_dimensions"]
    prompts = load_prompts(GenerationParams(**params["generation"]))
    assert clips_per_dimension(prompts, asked) == dict.fromkeys(asked, len(prompts)) and len(prompts) >= 64


def test_it_can_be_planned_without_any_weights_and_fits_an_80_gb_card(table) -> None:
    _, params = table
    plan = plan_of(params, Assumed(images=2300))
    assert 10 < plan.peak_memory_gb < 80
    hours = {row.name: row.count * row.seconds / 3600 for row in plan.rows if row.group == "arm"}
    assert set(hours) == set(checked_tables(params).arms)
    assert hours["t3"] < hours["full_seed_0"] < hours["direct"] < 72, "by their attention, and within days"


def test_a_peer_without_weights_is_left_out_with_its_reason(table, tmp_path: Path) -> None:
    _, params = table
    left = without_missing(params, checked_tables(params), tmp_path)
    peers = FETCHED & set(params["arms"])
    assert set(left["not_run"]) == peers and set(left["arms"]) == set(params["arms"]) - peers
    for name, row in left["not_run"].items():
        assert row["reason"].startswith("not run, because") and "kedro vibe fetch-weights " in row["fix"], name


def test_training_free_ways_of_others_run_alone_on_the_miniature_with_claims_that_can_be_decided() -> None:
    alone = settled_parameters(loader_of_conf(ROOT / "conf", "miniature_peers"))
    theirs = {"ntk", "cinescale_ar", "gclf_ar", "grouped"}
    for row in theirs:
        assert checked_tables(alone).arms[row].adapter is None
    kinds = {row: (alone["arms"][row].get("rope", {}), alone["arms"][row].get("attention", {})) for row in theirs}
    assert (kinds["ntk"][0]["kind"], kinds["cinescale_ar"][0]["kind"], kinds["grouped"][1]["kind"]) == (
        "ntk",
        "ar",
        "t3",
    )
    assert (kinds["gclf_ar"][0]["kind"], kinds["gclf_ar"][1]["kind"]) == ("ar", "gclf")
    claims = [claim for claim in Claims(alone["claims"]).root if theirs & {claim.arm, claim.other}]
    assert {arm for claim in claims for arm in (claim.arm, claim.other)} >= theirs
    for claim in claims:
        for ahead, behind, verdict in ((claim.arm, claim.other, HOLDS), (claim.other, claim.arm, FAILS)):
            rows = [
                score_row(Place(arm, i, 0), METRICS[asked.metric], 0.5 + (i % 3) / 100 + (arm == high) * 0.3)
                for asked in claim.measures
                for high in [behind if asked.better == "lower" else ahead]
                for arm in (ahead, behind)
                for i in range(32)
            ]
            assert evaluate_claim(claim, score_table(rows)).verdict == verdict, claim.name
