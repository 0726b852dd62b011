"""Replicates are one arm; each arm has the reference that agrees with it; swept values are drawn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.evaluation.pooling import pools_of
from vibe_pipeline.experiment.load import experiment_of
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.reporting.cost import Cost
from vibe_pipeline.reporting.figures import to_svg
from vibe_pipeline.reporting.sweep_figures import panel_figure, panels, sweeps_of


def tables(adapter: dict[str, Any], reference: str = "full", **more: dict[str, Any]) -> Experiment:
    """Experiment with one swept adapter, used by two arms, and plain upsampling."""
    arms = {
        "full": {"label": "Full", "adapter": "full"},
        "kept": {"label": "Kept", "adapter": "full", "keep_stage1": True},
        "plain": {"label": "Upsampled", "method": "upsample"},
    }
    return experiment_of(
        {
            "stage1": {"modality": {}},
            "adapters": {"full": {"label": "Relay"} | adapter, **more.get("adapters", {})},
            "arms": arms | more.get("arms", {}),
            "evaluation": {"reference_arm": reference},
            "generation": {},
        }
    )


def scores(arms: list[str], prompts: int = 8) -> pd.DataFrame:
    rows = [(a, p, 0, "flicker", float(i + p)) for i, a in enumerate(arms) for p in range(prompts)]
    table = pd.DataFrame(rows, columns=["arm", "prompt_index", "seed", "metric", "value"])
    return table.assign(direction="lower", family="detail", status="scored", reason="")


def test_without_replicates_nothing_changes() -> None:
    made = tables({})
    pools = pools_of(made)
    table = scores(list(made.arms))
    assert pools.pool(table) is table and dict(pools.arms) == made.arms
    assert set(pools.references.values()) == {"full"}


def test_replicates_go_under_one_name() -> None:
    made = tables({"seed": [0, 1]})
    pools = pools_of(made)
    assert {n: a.label for n, a in pools.arms.items()} == {"full": "Full", "kept": "Kept", "plain": "Upsampled"}
    pooled = pools.pool(scores(list(made.arms)))
    full = pooled[pooled["arm"] == "full"]
    assert sorted(set(full["training_seed"])) == ["0", "1"] and len(full) == 16
    assert set(pooled.loc[pooled["arm"] == "plain", "training_seed"]) == {""}
    export = pools.export(scores(list(made.arms)))
    assert set(export["arm"]) == {*made.arms, "full", "kept"} and len(export) == 8 * (5 + 4)
    spectra = pd.DataFrame({"arm": ["full_seed_0", "full_seed_1", "plain"], "cycles": 1.0, "power": [1.0, 3.0, 5.0]})
    assert pools.mean_spectra(spectra).set_index("arm")["power"].to_dict() == {"full": 2.0, "plain": 5.0}


def test_the_reference_agrees_in_what_both_sweep() -> None:
    pools = pools_of(tables({"objective": {"hfato": [0.5, 1]}, "seed": [0, 1]}))
    assert pools.references == {
        "full_hfato_0p5": "full_hfato_0p5",
        "full_hfato_1": "full_hfato_1",
        "kept_hfato_0p5": "full_hfato_0p5",
        "kept_hfato_1": "full_hfato_1",
        "plain": "full_hfato_0p5",
    }
    one = pools_of(tables({"objective": {"hfato": [0.5, 1]}, "seed": [0, 1]}, reference="full_hfato_1_seed_0"))
    assert set(one.references.values()) == {"full_hfato_1"}


def test_a_row_that_stands_for_a_replicate_is_in_both_arms() -> None:
    more = {
        "adapters": {"again": {"label": "Again", "seed": [0, 1]}},
        "arms": {"again": {"label": "Again", "adapter": "again"}},
    }
    made = tables({"seed": 0}, **more)
    assert "again_seed_0" not in made.arms
    pools = pools_of(made)
    assert {(arm, pool, seed) for arm, pool, seed in pools.members if pool in ("full", "again")} == {
        ("full", "full", ""),
        ("full", "again", "0"),
        ("again_seed_1", "again", "1"),
    }
    pooled = pools.pool(scores(list(made.arms)))
    assert (pooled["arm"] == "full").sum() == 8 and (pooled["arm"] == "again").sum() == 16
    assert pools.arms["again"].label == "Again" and not list(sweeps_of(pools.arms))


def ablation(arms: list[str]) -> pd.DataFrame:
    rows = [(a, "flicker", 0.1 * i, 0.1 * i - 0.02, 0.1 * i + 0.03) for i, a in enumerate(arms)]
    table = pd.DataFrame(rows, columns=["arm", "metric", "mean", "ci_low", "ci_high"])
    return table.assign(direction="lower", status="scored")


def test_swept_values_are_drawn_with_their_intervals() -> None:
    arms = pools_of(tables({"objective": {"hfato": [1, 0.25, 0.5]}, "seed": [0, 1]})).arms
    full, _ = sweeps_of(arms)
    assert (full.title, full.field, full.values) == ("Full: hfato", "hfato", (0.25, 0.5, 1))
    clips = pd.DataFrame({"arm": list(arms) * 2, "cost": np.arange(2 * len(arms), dtype=float)})
    spent = Cost(clips, "seconds a clip", "Of a processor.")
    flicker, cost = panels(full, ablation(list(arms)), spent, ["flicker", "not_scored"])
    assert (flicker.title, cost.title) == ("Flicker ↓", "Seconds a clip")
    points = flicker.lines[0][1]
    assert [(p.at, p.middle) for p in points] == [(0, 0.1), (1, 0.2), (2, 0.0)], "hfato 1 was declared first"
    axes = panel_figure(flicker).axes[0]
    assert list(axes.containers[0].lines[0].get_xdata()) == [0.25, 0.5, 1.0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.25", "0.5", "1"]
    assert "0.25: 0.100 [0.080, 0.130]" in flicker.alt and flicker.alt.startswith("Full: hfato: Flicker")
    assert 'role="img"' in to_svg(panel_figure(cost), "cost", cost.alt)


def test_kinds_stand_apart_and_other_fields_are_lines() -> None:
    arms = pools_of(tables({"degradation": {"kind": ["latent", "pixel"]}, "steps": [10, 1000]})).arms
    kinds, steps = (s for s in sweeps_of(arms) if s.title.startswith("Full"))
    assert kinds.values == ("latent", "pixel") and [name for name, _ in kinds.lines] == ["steps 10", "steps 1000"]
    by_kind, by_steps = (next(panels(s, ablation(list(arms)), pd.DataFrame(), ["flicker"])) for s in (kinds, steps))
    assert panel_figure(by_steps).axes[0].get_xscale() == "log"
    drawn = panel_figure(by_kind)
    assert drawn.axes[0].get_xscale() == "linear" and len(drawn.legends) == 1
    assert drawn.axes[0].containers[0].lines[0].get_linestyle() == "None", "kinds have no values in between"


def test_a_reference_must_be_there() -> None:
    made = tables({}).model_copy(update={"reference_arm": "nobody"})
    with pytest.raises(ValueError, match="'nobody' is not a row of arms"):
        pools_of(made)
