"""The two environments of the real models: whole, valid, and refused at once where the weights are not there."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from kedro.config import OmegaConfigLoader

from vibe_pipeline.config import DataParams, EvaluationParams, GenerationParams, ModelParams, ReportParams
from vibe_pipeline.evaluation.protocol import clips_per_dimension
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.pipeline_registry import register_pipelines, tables_of, use_tables
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.flops import keys_per_query
from vibe_pipeline.preflight import check_parameters

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("wan22_ti2v_5b", "wan21_t2v_1_3b")
# The paper's tables: what each arm lacks.
ARMS = {
    "full", "full_pool4", "full_pixel", "no_relay", "no_gclf", "window_only", "no_hfato", "no_x0_loss", "keep_stage1",
    "no_adapter", "direct", "upsample",
}  # fmt: skip

# The six whose plain mean the paper's "overall" fits.
OVERALL = (
    "subject_consistency", "background_consistency", "motion_smoothness", "aesthetic_quality", "imaging_quality",
    "overall_consistency",
)  # fmt: skip


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    loader = OmegaConfigLoader(str(ROOT / "conf"), env=request.param, base_env="base", default_run_env="local")
    return request.param, loader["parameters"]


def test_every_group_is_valid_and_nothing_of_the_miniature_is_left(environment) -> None:
    name, params = environment
    model = ModelParams(**params["model"])
    for group, cls in (("data", DataParams), ("generation", GenerationParams), ("evaluation", EvaluationParams)):
        cls(**params[group])
    ReportParams(**params["report"])
    tables = tables_of(params)
    assert model.path.startswith("Wan-AI/Wan") and model.dtype == "bfloat16" and model.flow_shift == 5
    assert set(tables.arms) == ARMS | ({"freeswim"} if name == "wan21_t2v_1_3b" else set())
    assert {a.adapter for a in tables.arms.values()} - {None} == set(tables.adapters)
    for row in (*tables.stage1.values(), *tables.adapters.values()):
        assert (row.lora.rank, row.lora.alpha, row.steps, row.batch_size, row.sigma_shift) == (32, 32, 3000, 1, 5)
        assert (row.optimiser.learning_rate, row.optimiser.weight_decay, row.optimiser.schedule) == (
            1e-4,
            0.01,
            "constant",
        )
    losses = {n: {k for k, v in a.objective.model_dump().items() if v} for n, a in tables.adapters.items()}
    assert losses.pop("no_hfato") == {"velocity"} and losses.pop("no_x0_loss") == {"degraded_velocity"}
    assert all(loss == {"hfato"} for loss in losses.values())


def test_sizes_fit_vae_patches_and_pooling(environment) -> None:
    _, params = environment
    model, data, tables = ModelParams(**params["model"]), DataParams(**params["data"]), tables_of(params)
    architecture = load_architecture(model.path)
    token = architecture.vae["scale_factor_spatial"] * architecture.transformer["patch_size"][1]
    for size in (model.native, model.target, data.low, data.high):
        assert size.height % token == 0 and size.width % token == 0
    native = architecture.grid(model.native)
    for arm in tables.arms.values():
        assert keys_per_query(architecture.grid(model.target), arm.attention, native) > 0
    for row in tables.adapters.values():
        assert keys_per_query(architecture.grid(data.high), row.attention, native) > 0


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


def test_the_graph_has_a_branch_for_every_row(environment) -> None:
    _, params = environment
    tables = tables_of(params)
    use_tables(tables)
    outputs = register_pipelines()["__default__"].all_outputs()
    assert {f"adapter-{n}" for n in tables.adapters} <= outputs
    assert {f"clips-{n}" for n in tables.arms} <= outputs


@pytest.mark.parametrize("part", ["data_processing", "relay_stage1", "relay_stage2", "generation"])
def test_without_weights_every_part_stops_before_it_starts(environment, monkeypatch, part: str) -> None:
    """What `kedro run` checks before the first node: the message says how to get them."""

    def nothing_downloaded(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr("vibe_pipeline.diffusion.models.snapshot_download", nothing_downloaded)
    _, params = environment
    with pytest.raises(FileNotFoundError, match="hf download Wan-AI/Wan2"):
        check_parameters(params, tables_of(params), {part})
