"""The plan and the checks of a base of two experts."""

from dataclasses import replace
from typing import Any

import pytest

from tests.conf_files import ROOT, loader_of_conf
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import experiment_of
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_checks import check_arms
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device
from vibe_pipeline.planning.doctor import _main_memory
from vibe_pipeline.planning.expert_loads import expert_loads, expert_notes, moving
from vibe_pipeline.planning.machine import Machine
from vibe_pipeline.planning.plan import _described
from vibe_pipeline.planning.plan_rows import native_row, training_row
from vibe_pipeline.planning.preflight import check_parameters
from vibe_pipeline.planning.rates import MOVE_BYTES
from vibe_pipeline.planning.training_checks import check_levels
from vibe_pipeline.planning.weight_files import expert_checks

ENV = "wan22_t2v_a14b"
GENERATION = GenerationParams(prompts="miniature", native_steps=4, native_guidance_scale=1.0)


@pytest.fixture(scope="module")
def a14b_params() -> dict[str, Any]:
    return loader_of_conf(ROOT / "conf", ENV)["parameters"]


@pytest.fixture(scope="module")
def costs(a14b) -> Costs:
    """On a card; what modules themselves give is kept for those that are made of it."""
    architecture = load_architecture(str(a14b.path))
    return Costs(architecture=architecture, model=a14b.model(), device=find_device("h100"), share=0.5)


def of_one(costs: Costs) -> Costs:
    """The same without the second expert."""
    return replace(costs, architecture=replace(costs.architecture, boundary=None))


def test_its_configuration_is_known_without_weights() -> None:
    found = load_architecture(ENV)
    assert (found.boundary, found.experts) == (0.875, ("transformer", "transformer_2"))
    assert found.parameters["transformer"] == 14_288_491_584
    assert found.vae["z_dim"] == 16 and not found.expand_timesteps
    assert load_architecture("Wan-AI/Wan2.2-T2V-A14B-Diffusers") == found
    assert load_architecture("wan21_t2v_1_3b").boundary is None


def test_its_environment_is_valid_and_each_second_pass_is_the_trained_experts(a14b_params: dict[str, Any]) -> None:
    tables, model = checked_tables(a14b_params), ModelParams(**a14b_params["model"])
    assert model.path == load_architecture(ENV).name
    generation = GenerationParams(**a14b_params["generation"])
    assert (generation.native_guidance_scale, generation.native_guidance_scale_2) == (4.0, 3.0)
    costs = Costs(architecture=load_architecture(ENV), model=model, device=find_device("h100"))
    works = {name: [e.works for e in expert_loads(costs, arm, tables)] for name, arm in tables.arms.items()}
    assert works.pop("upsample") == [False, False]
    assert {name for name, (high, low) in works.items() if high and low} == {"full_above", "direct"}
    assert all(low for _, low in works.values())
    assert {arm.adapter for arm in tables.arms.values()} - {None} == set(tables.adapters)


def test_a_clip_costs_what_one_transformer_of_that_size_would(costs: Costs) -> None:
    """The same work and memory; each expert is read once, and on a processor the other's weights count too."""
    two, one = costs, of_one(costs)
    tables = Experiment(stage1={}, adapters={}, arms={"a": ArmParams(label="a", steps=4)}, reference_arm="a")
    for guidance in (1.0, 3.0):
        making = GENERATION.model_copy(update={"native_guidance_scale": guidance})
        native, plain = native_row(two, making, 2), native_row(one, making, 2)
        assert (native.teraflops, native.memory_gb) == pytest.approx((plain.teraflops, plain.memory_gb))
        assert native.once["loading, compiling"] > plain.once["loading, compiling"]
    arm, plain_arm = (arm_row(c, "a", tables.arms["a"], tables, GENERATION, 2) for c in (two, one))
    assert (arm.teraflops, arm.memory_gb) == pytest.approx((plain_arm.teraflops, plain_arm.memory_gb))
    low = ArmParams(label="low", steps=4, strength=0.5)
    below, above = (
        arm_row(two, "a", row, tables, GENERATION, 2).once["loading, compiling"] for row in (low, tables.arms["a"])
    )
    assert below < above == arm.once["loading, compiling"]
    machine = Machine("this", 64.0, 1.0, rates=dict.fromkeys(("transformer", "autocast", "vae"), 1.0))
    here, alone = (native_row(replace(c, device=machine), GENERATION, 2).memory_gb for c in (two, one))
    assert here - alone == pytest.approx(two.weights("transformer") / 1e9)
    row = Stage1Params(lora={"rank": 2})
    trained, single = (
        training_row(costs=c, group="stage1", name="m", label="", row=row, size=c.model.native, attention=low.attention)
        for c in (two, one)
    )
    assert trained == single


def test_each_experts_forwards_have_its_own_guidance_and_cache(costs: Costs) -> None:
    arm = ArmParams(label="a", steps=4, guidance_scale=3.0, step_cache={"kind": "taylor", "before": 1})
    tables = Experiment(stage1={}, adapters={}, arms={"a": arm}, reference_arm="a")

    def forwards(**changes: Any) -> list[int]:
        row = arm.model_copy(update=changes)
        return [sum(n for _, n in e.load.forwards) for e in expert_loads(costs, row, tables)]

    assert forwards(step_cache=None) == [2, 6]
    assert forwards(step_cache=None, guidance_scale_2=1.0) == [2, 3]
    assert forwards(step_cache=None, guidance_scale=1.0, guidance_scale_2=2.0) == [1, 6]
    assert forwards(step_cache=None, guidance_interval=(0.9, 1.0)) == [2, 3]
    assert forwards() == [2, 4]  # each expert's cache begins anew: 1 of 1 step, 2 of 3, with both passes


def test_the_plan_says_what_it_rests_on(a14b_params: dict[str, Any]) -> None:
    costs = Costs(
        architecture=load_architecture(ENV), model=ModelParams(**a14b_params["model"]), device=find_device("h100")
    )
    notes = tuple(expert_notes(costs, experiment_of(a14b_params)))
    assert "from sigma 0.875 transformer is at work" in notes[0] and "28.6 GB, in main memory" in notes[0]
    assert notes[1].endswith("below sigma 0.875 alone, where 58% of all their draws would lie")
    plan = _described(costs, "h100", 0.0, notes, ())
    assert plan.parameters["transformer_2"] == plan.parameters["transformer"]
    assert plan.weights_gb == pytest.approx(2 * (2 * 14.288 + 5.68) + 4 * 0.127, rel=0.01)
    (finding,) = _main_memory(plan)
    assert finding.item == "main memory" and "57.2 GB" in finding.found
    assert not list(_main_memory(replace(plan, waiting_gb=0.0)))


def tables_of(**rows: Any) -> Experiment:
    given = {"stage1": {}, "adapters": {}} | rows
    return Experiment(**given, arms={"u": ArmParams(label="u", method="upsample")}, reference_arm="u")


REFUSED = {
    "shift": ({"sigma_shift": 200.0}, r"stage1\.m: 9.* of its noise levels .*sigma_shift 200.*0\.875"),
    "mean": (
        {"sigma_sampling": "logit_normal", "logit_mean": 3.0},
        r"adapters\.a: 9.*logit_normal.*lower sigma_shift or logit_mean",
    ),
    "literal": ({"objective": {"bridge_literal": 1.0}, "bridge": {}}, r"adapters\.a\.objective: bridge_literal names"),
    "mixed": ({"objective": {"bridge": 1.0, "velocity": 0.1}, "bridge": {}}, "beside a bridge velocity would be drawn"),
    "start": ({"objective": {"bridge": 1.0}, "bridge": {"sigma_start": 0.9}}, r"adapters\.a\.bridge: .*sigma 0\.9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_trainings_at_levels_that_the_expert_never_sees_are_refused(a14b, wan21, case: str) -> None:
    changes, message = REFUSED[case]
    if case == "shift":
        tables = tables_of(stage1={"m": Stage1Params(**changes)})
    else:
        tables = tables_of(adapters={"a": AdapterParams(label="a", start="base", **changes)})
    with pytest.raises(ValueError, match=message):
        check_levels(a14b.model(), tables)
    check_levels(wan21.model(), tables)


def test_the_papers_trainings_are_not_refused(a14b, a14b_params: dict[str, Any]) -> None:
    tables = experiment_of(a14b_params)
    check_levels(a14b.model(), tables)
    bridge = AdapterParams(label="a", start="base", objective={"bridge": 1.0}, bridge={})
    check_levels(a14b.model(), tables.model_copy(update={"adapters": {"a": bridge}}))
    high = {"model": a14b.model().model_dump()}
    bad = tables.model_copy(update={"stage1": {"m": Stage1Params(sigma_shift=200.0)}, "adapters": {}})
    with pytest.raises(ValueError, match=r"stage1\.m: "):
        check_parameters(high, bad, {"relay_stage1"})


FIELDS = {
    "generation.native_guidance_scale_2": ({"native_guidance_scale_2": 3.0}, {}),
    "arms.a.guidance_scale_2": ({}, {"guidance_scale_2": 3.0}),
    "arms.a.extra_adapters.0.expert": ({}, {"extra_adapters": [{"path": "x.safetensors", "expert": "high"}]}),
}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_of_a_second_expert_are_refused_where_there_is_one(a14b, wan21, field: str) -> None:
    generation, arm = FIELDS[field]
    given = GENERATION.model_copy(update=generation), {"a": ArmParams(label="a", **arm)}
    (check,) = expert_checks(a14b.model(), *given)
    assert check.item == field and "change at sigma 0.875" in check.look()
    (check,) = expert_checks(wan21.model(), *given)
    with pytest.raises(ValueError, match=f"{field} speaks of a base of two experts, and model has one: leave it out"):
        check.look()
    assert not list(expert_checks(wan21.model(), GENERATION, {"a": ArmParams(label="a")}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"adapter": "own", "steps": 1, "strength": 0.9}, "the low-noise expert's, and all 1 steps, at sigma 0.978 to"),
        (
            {"extra_adapters": [{"path": "a.safetensors", "expert": "high"}], "strength": 0.5, "steps": 4},
            "high-noise expert's, and all 4 steps, at sigma 0.833 to .* lie below the boundary 0.875, where the other",
        ),
    ],
)
def test_an_adapter_on_an_expert_that_never_works_is_refused(a14b, wan21, row: dict[str, Any], said: str) -> None:
    arm = ArmParams(label="a", **row)
    with pytest.raises(ValueError, match=rf"arms\.a: .*{said}"):
        check_arms(a14b.model(flow_shift=5.0), {"a": arm})
    check_arms(a14b.model(flow_shift=5.0), {"a": arm.model_copy(update={"strength": 0.95, "steps": 4})})
    check_arms(wan21.model(flow_shift=5.0), {"a": arm})


def test_weights_that_move_are_counted(costs: Costs) -> None:
    """Two experts come and leave once each; with offload all that works does; on a processor nothing moves."""
    one, vae = costs.weights("transformer"), costs.weights("vae")
    offload = replace(costs, model=costs.model.model_copy(update={"offload": True}))
    machine = Machine("this", 64.0, 1.0, rates=dict.fromkeys(("transformer", "autocast", "vae"), 1.0))
    both = ("transformer", "transformer_2")
    for given, parts, expected in (
        (costs, both, 4 * one),
        (costs, both[1:], 0.0),
        (offload, both, 4 * one + 2 * 2 * vae),
        (offload, both[1:], 2 * one + 2 * 2 * vae),
        (replace(offload, device=machine), both, 0.0),
    ):
        assert moving(given, parts, 2, 4).seconds == pytest.approx(expected / MOVE_BYTES / 4)
    tables = Experiment(stage1={}, adapters={}, arms={"a": ArmParams(label="a", steps=4)}, reference_arm="a")
    above, below = (
        arm_row(costs, "a", ArmParams(label="a", steps=4, strength=strength), tables, GENERATION, 2)
        for strength in (0.7, 0.5)
    )
    assert above.parts["moving weights"] == pytest.approx(4 * one / MOVE_BYTES / GENERATION.batch_size)
    assert "moving weights" not in below.parts
    assert native_row(costs, GENERATION, 2).parts["moving weights"] == above.parts["moving weights"]
