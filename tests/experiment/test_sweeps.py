"""Lists in the tables unfold into rows that say where they came from; a row without one is left alone."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient

from tests.conf_files import read_conf, write_conf
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.load import experiment_of
from vibe_pipeline.experiment.sweep_names import name_with, token
from vibe_pipeline.experiment.sweeps import unfold
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.keys import content_key

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params() -> dict[str, Any]:
    """One stage-1 row, two adapters, four arms."""
    return {
        "_anchors": {"seed": [7, 8, 9]},
        "stage1": {"modality": {"steps": 5, "seed": 0}},
        "adapters": {
            "full": {"label": "Relay", "objective": {"hfato": 1.0}, "seed": 0},
            "naive": {"label": "Naive", "start": "base"},
        },
        "arms": {
            "full": {"label": "Full", "adapter": "full"},
            "kept": {"label": "Kept", "adapter": "full", "keep_stage1": True},
            "naive": {"label": "Without Relay", "adapter": "naive"},
            "plain": {"label": "Upsampled", "method": "upsample"},
        },
        "evaluation": {"reference_arm": "full"},
        "generation": {"seeds": [0, 1]},
    }


def names(params: dict[str, Any], table: str = "arms") -> list[str]:
    return list(unfold(params)[table])


def test_rows_without_lists_are_the_very_same(params: dict[str, Any]) -> None:
    params["arms"]["full"]["attention"] = {"kind": "window", "half_window": [2, 3]}
    params["adapters"]["full"]["lora"] = {"targets": ["to_q", "to_k"]}
    before = copy.deepcopy(params)
    unfolded = unfold(params)
    assert unfolded == params == before
    assert all(unfolded[t][n] is row for t in ("stage1", "adapters", "arms") for n, row in params[t].items())
    shipped = read_conf(ROOT / "conf/base")
    assert unfold(shipped) == shipped


def test_a_swept_adapter_takes_its_arms_along(params: dict[str, Any]) -> None:
    params["adapters"]["full"]["objective"]["hfato"] = [0.25, 1]
    unfolded = unfold(params)
    assert list(unfolded["adapters"]) == ["full_hfato_0p25", "full_hfato_1", "naive"]
    assert list(unfolded["arms"])[:4] == ["full_hfato_0p25", "full_hfato_1", "kept_hfato_0p25", "kept_hfato_1"]
    quarter, arm = unfolded["adapters"]["full_hfato_0p25"], unfolded["arms"]["kept_hfato_0p25"]
    assert quarter["objective"] == {"hfato": 0.25} and quarter["label"] == "Relay (hfato 0.25)"
    assert (quarter["family"], quarter["swept"]) == ("full", {"objective.hfato": 0.25})
    assert arm["adapter"] == "full_hfato_0p25" and arm["keep_stage1"] and arm["label"] == "Kept (hfato 0.25)"
    assert (arm["family"], arm["swept"]) == ("kept", {"adapter.objective.hfato": 0.25})
    assert unfolded["arms"]["naive"] is params["arms"]["naive"]
    assert unfolded["_anchors"] == {"seed": [7, 8, 9]} and unfolded["generation"] == {"seeds": [0, 1]}


def test_several_fields_give_the_product(params: dict[str, Any]) -> None:
    params["arms"]["full"] |= {"strength": [0.5, 0.7], "attention": {"kind": "gclf", "pool": [2, 4]}}
    assert names(params)[:4] == [
        "full_strength_0p5_pool_2",
        "full_strength_0p5_pool_4",
        "full_strength_0p7_pool_2",
        "full_strength_0p7_pool_4",
    ]


def test_seeds_of_both_stages_are_matched_not_crossed(params: dict[str, Any]) -> None:
    params["stage1"]["modality"]["seed"] = [0, 1, 2]
    params["adapters"]["full"]["seed"] = [1, 2]
    unfolded = unfold(params)
    assert {n: r["start"] for n, r in unfolded["adapters"].items()} == {
        "full_seed_1": "modality_seed_1",
        "full_seed_2": "modality_seed_2",
        "naive": "base",
    }
    arm = unfolded["arms"]["full_seed_2"]
    assert arm["adapter"] == "full_seed_2" and arm["swept"] == {"adapter.seed": 2}
    assert arm["replicate"] == {"of": "full", "label": "Full", "seed": "2"}


def test_a_sweep_of_stage_one_reaches_the_arms(params: dict[str, Any]) -> None:
    params["stage1"]["modality"]["steps"] = [5, 10]
    unfolded = unfold(params)
    assert unfolded["adapters"]["full_steps_10"]["start"] == "modality_steps_10", "modality is the default start"
    assert unfolded["arms"]["full_steps_10"]["swept"] == {"adapter.start.steps": 10}
    assert "replicate" not in unfolded["arms"]["full_steps_10"]


def test_steps_of_an_arm_are_not_those_of_its_training(params: dict[str, Any]) -> None:
    params["adapters"]["full"]["steps"] = [10, 20]
    params["arms"]["full"]["steps"] = [10, 50]
    assert names(params)[:4] == [
        "full_steps_10_adapter_steps_10",
        "full_steps_10_adapter_steps_20",
        "full_steps_50_adapter_steps_10",
        "full_steps_50_adapter_steps_20",
    ]


def test_replicates_of_a_sweep_keep_its_other_values(params: dict[str, Any]) -> None:
    params["adapters"]["full"] |= {"seed": [0, 1], "objective": {"hfato": [0.5, 1]}}
    arm = unfold(params)["arms"]["full_hfato_0p5_seed_1"]
    assert arm["label"] == "Full (hfato 0.5, seed 1)"
    assert arm["replicate"] == {"of": "full_hfato_0p5", "label": "Full (hfato 0.5)", "seed": "1"}


def test_identical_rows_become_one_and_references_follow(params: dict[str, Any]) -> None:
    params["adapters"]["weights"] = {"label": "Weights", "objective": {"hfato": [0.5, 1]}, "seed": 0}
    params["arms"]["weights"] = {"label": "Weights", "adapter": "weights"}
    unfolded = unfold(params)
    assert list(unfolded["adapters"]) == ["full", "naive", "weights_hfato_0p5"]
    assert list(unfolded["arms"]) == ["full", "kept", "naive", "plain", "weights_hfato_0p5"]
    full = unfolded["arms"]["full"]
    assert full["adapter"] == "full" and "family" not in full
    assert full["stands_for"] == [{"family": "weights", "swept": {"adapter.objective.hfato": 1}}]
    assert unfold(params | {"arms": params["arms"] | {"twin": params["arms"]["full"]}})["arms"]["twin"], (
        "rows alike as written stay, as ever"
    )


def test_a_value_given_twice_counts_once(params: dict[str, Any]) -> None:
    params["adapters"]["full"]["seed"] = [0, 0]
    assert names(params, "adapters") == ["full_seed_0", "naive"] and "full_seed_0" in names(params)


def test_lists_of_lists_sweep_fields_that_take_a_list(params: dict[str, Any]) -> None:
    params["arms"]["full"]["attention"] = {"kind": "window", "half_window": [[2, 2], [3, 4]]}
    params["adapters"]["naive"]["lora"] = {"targets": [["to_q"], ["to_q", "to_k"]]}
    params["arms"]["kept"]["adapter"] = ["full", "full"]
    unfolded = unfold(params)
    assert unfolded["arms"]["full_half_window_3x4"]["attention"]["half_window"] == [3, 4]
    assert list(unfolded["adapters"])[1:] == ["naive_targets_to_q", "naive_targets_to_q_to_k"]
    assert "kept_adapter_full" in unfolded["arms"]


def test_a_kind_goes_by_the_name_of_the_thing(params: dict[str, Any]) -> None:
    params["adapters"]["full"]["degradation"] = {"kind": ["latent", "pixel"]}
    assert names(params, "adapters")[:2] == ["full_degradation_latent", "full_degradation_pixel"]
    assert name_with("a", {"x.factor": 1, "y.factor": 2, "seed": 3}) == "a_x_factor_1_y_factor_2_seed_3"
    assert [token(v) for v in (0.25, 1.0, -2, 1e-5, None, True, "a b/C", [2, 3])] == [
        "0p25", "1", "m2", "1em05", "none", "true", "a_b_c", "2x3",
    ]  # fmt: skip


def test_unfolding_twice_changes_nothing(params: dict[str, Any]) -> None:
    params["adapters"]["full"]["seed"] = [0, 1]
    params["arms"]["full"]["attention"] = {"kind": "window", "half_window": [[2, 2], [3, 4]]}
    once = unfold(params)
    assert unfold(once) == once
    assert experiment_of(once) == experiment_of(params)


def test_where_a_row_came_from_changes_no_key(params: dict[str, Any]) -> None:
    params["adapters"]["full"]["seed"] = [0, 1]
    tables = experiment_of(params)
    plain = AdapterParams(label="Relay (seed 1)", start="modality", seed=1, objective={"hfato": 1.0})
    assert tables.adapters["full_seed_1"].family == "full"
    assert content_key(tables.adapters["full_seed_1"]) == content_key(plain)
    arm = ArmParams(label="Full (seed 1)", adapter="full_seed_1")
    assert tables.arms["full_seed_1"].model_dump(mode="json") == arm.model_dump(mode="json")


def test_tables_keep_where_rows_came_from_through_a_file(params: dict[str, Any]) -> None:
    params["adapters"]["weights"] = {"label": "Weights", "objective": {"hfato": [0.5, 1]}, "seed": [0, 1]}
    params["arms"]["weights"] = {"label": "Weights", "adapter": "weights"}
    tables = experiment_of(params)
    assert tables.arms["full"].stands_for and tables.arms["weights_hfato_1_seed_1"].replicate
    assert Experiment.model_validate_json(tables.model_dump_json()) == tables
    assert "family" not in tables.model_dump()["arms"]["plain"]


@pytest.mark.parametrize(
    ("table", "row", "change", "words"),
    [
        ("arms", "full", {"strength": []}, r"arms\.full: strength is an empty list"),
        ("arms", "full", {"strength": [0.5, 1.5]}, r"arms\.full: strength = 1\.5 in the sweep .*equal to 1"),
        ("adapters", "full", {"objective": {"hfato": [0, 1]}}, r"adapters\.full with objective\.hfato = 0: .*are 0"),
        ("adapters", "full", {"seed": [0.5]}, r"adapters\.full: seed = 0\.5"),
        ("adapters", "full", {"attention": [{"kind": "gclf", "pool": [2, 4]}]}, r"adapters\.full: attention = "),
        ("arms", "full_strength_0p5", {"label": "x"}, r"arms: full and full_strength_0p5 unfold to the same name"),
    ],
)  # fmt: skip
def test_errors_name_row_field_and_value(
    params: dict[str, Any], table: str, row: str, change: dict[str, Any], words: str
) -> None:
    if row == "full_strength_0p5":
        params["arms"]["full"]["strength"] = [0.5, 0.7]
    params[table][row] = params[table].get(row, {}) | change
    with pytest.raises(ValueError, match=words):
        unfold(params)


def test_seeds_without_a_partner_are_refused(params: dict[str, Any]) -> None:
    params["stage1"]["modality"]["seed"] = [0, 1]
    params["adapters"]["full"]["seed"] = [0, 5]
    with pytest.raises(ValueError, match=r"adapters\.full: seed = 5, but stage1\.modality sweeps seed over 0, 1"):
        unfold(params)


def test_a_pool_needs_a_name_of_its_own(params: dict[str, Any]) -> None:
    params["adapters"]["full"] |= {"seed": [0, 1], "objective": {"hfato": [0.5, 1]}}
    params["arms"]["full_hfato_1"] = {"label": "Another", "method": "truth"}
    with pytest.raises(ValueError, match="pooled into 'full_hfato_1', the name of another arm"):
        unfold(params)


def test_references_may_name_what_was_written_or_pooled(params: dict[str, Any]) -> None:
    params["adapters"]["full"] |= {"seed": [0, 1], "objective": {"hfato": [0.5, 1]}}
    for reference in ("full", "full_hfato_1", "full_hfato_1_seed_0", "plain"):
        params["evaluation"]["reference_arm"] = reference
        assert experiment_of(params).reference_arm == reference
    params["evaluation"]["reference_arm"] = "full_hfato_2"
    with pytest.raises(ValueError, match="reference_arm: 'full_hfato_2' is not a row of arms"):
        experiment_of(params)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, wan21) -> Path:
    """A copy of the project whose one sweep makes 20 arms: 9 strengths x 2 training seeds, and two bounds."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf/local").mkdir()
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    base = folder / "conf/base"
    params = read_conf(base)
    side, double = ({"height": s, "width": s} for s in (16, 32))
    params["model"] |= {"path": str(wan21.path), "text_length": 16}
    params["model"] |= {"native": side | {"frames": 5, "fps": 8}, "target": double | {"frames": 5, "fps": 8}}
    params["data"] |= {"count": 8, "low": side, "high": double, "held_out": 2}
    params["generation"] |= {"count": 1, "native_steps": 1}
    params["evaluation"] |= {
        "fine_band": [8.0, 15.0],
        "bootstrap_samples": 50,
        "vbench_dimensions": ["temporal_flickering"],
    }
    train = {"steps": 1, "batch_size": 1, "log_every": 1, "lora": {"rank": 2, "alpha": 2}}
    params["stage1"] = {"modality": train}
    params["adapters"] = {"full": train | {"label": "Relay", "seed": [0, 1], "attention": {"kind": "full"}}}
    strengths = [round(0.1 * i, 1) for i in range(1, 10)]
    arm = {"label": "Full", "adapter": "full", "strength": strengths, "steps": 1, "guidance_scale": 1.0}
    bounds = {name: params["arms"][name] for name in ("upsample", "truth")}
    params["arms"] = {"full": arm} | bounds
    write_conf(base, params)
    return folder


def test_a_sweep_of_twenty_arms_is_in_table_mlflow_and_report(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    bootstrap_project(project)
    configure_project("vibe_pipeline")
    with KedroSession.create(project) as session:
        session.run()
    strengths = [f"full_strength_0p{i}" for i in range(1, 10)]
    table = pd.read_csv(project / "data/08_reporting/ablation_table.csv")
    assert list(dict.fromkeys(table["arm"])) == [*strengths, "upsample", "truth"]
    flicker = table[table["metric"] == "temporal_flickering"].set_index("arm")
    assert (flicker.loc[strengths, "training_seeds"] == 2).all() and flicker.loc["truth", "training_seeds"] == 1
    scores = pd.read_parquet(project / "data/08_reporting/scores.parquet")
    two = scores[
        (scores["metric"] == "temporal_flickering") & scores["arm"].isin([f"{strengths[2]}_seed_{s}" for s in (0, 1)])
    ]
    assert len(two) == 2 and flicker.loc[strengths[2], "mean"] == pytest.approx(two["value"].mean())

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("vibe_pipeline").experiment_id])
    arms = [r for r in runs if r.data.tags["kind"] == "arm"]
    assert len(arms) == 20 and sum(r.data.tags["kind"] == "adapter" for r in runs) == 3
    one = next(r for r in arms if r.info.run_name == "full_strength_0p3_seed_1")
    assert one.data.params["swept.strength"] == "0.3" and one.data.params["swept.adapter.seed"] == "1"
    assert one.data.tags["replicate_of"] == "full_strength_0p3"
    assert one.data.metrics["vbench/temporal_flickering"] == pytest.approx(two["value"].iloc[1])
    parent = next(r for r in runs if r.data.tags["kind"] == "run")
    assert "scores.parquet" in {a.path for a in client.list_artifacts(parent.info.run_id)}
    page = (project / "data/08_reporting/report/index.html").read_text()
    assert 'id="sweeps"' in page and "2 training seeds" in page and "Full (strength 0.9)" in page
