"""MagCache's ratios: measured once for a row and its size, of each expert and guidance pass by itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.diffusion.mag_cache import Mag, read_ratios
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.denoiser import Denoiser
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device
from vibe_pipeline.planning.weight_files import weight_checks

GENERATION = GenerationParams(prompts="miniature", native_steps=1)
ROW: dict[str, Any] = {"label": "a", "method": "direct", "steps": 6, "guidance_scale": 3.0}
PROMPTS = ("a striped red circle moving left over woven navy", "a plain green square over dotted grey")


@pytest.fixture
def natives(tmp_path: Path) -> pd.DataFrame:
    draws, rows = np.random.default_rng(0), []
    for i, prompt in enumerate(PROMPTS):
        path = write_lossless(tmp_path / f"native-{i}.mp4", draws.random((5, 32, 48, 3), np.float32), 8)
        rows.append({"prompt_index": i, "prompt": prompt, "seed": 3, "key": f"n{i}", "path": str(path)})
    return pd.DataFrame(rows)


@pytest.fixture
def denoised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips every pass of denoising was of."""
    calls, inner = [], Denoiser._denoised
    monkeypatch.setattr(Denoiser, "_denoised", lambda self, rows, *a: calls.append(len(rows)) or inner(self, rows, *a))
    return calls


def made(row: dict[str, Any], natives: pd.DataFrame, model: Any, root: Path) -> list[np.ndarray]:
    clips = arm_clips("a", ArmParams(**row), natives, None, None, model, GENERATION, root)
    return [read_clip(Path(path)) for path in clips["path"]]


def test_a_clip_calibrates_all_rows_that_differ_in_the_cache_alone(wan21, natives, denoised, tmp_path: Path) -> None:
    model = wan21.model()
    plain = made(ROW, natives, model, tmp_path)
    denoised.clear()
    exact = made(ROW | {"step_cache": {"kind": "mag", "tolerance": 0.0}}, natives, model, tmp_path)
    assert denoised == [1, 1, 1]  # the first clip whole, and then both
    assert all(np.array_equal(one, other) for one, other in zip(plain, exact, strict=True))
    denoised.clear()
    loose = made(ROW | {"step_cache": {"kind": "mag", "tolerance": 9.0}}, natives, model, tmp_path)
    assert denoised == [1, 1]
    assert not any(np.array_equal(one, other) for one, other in zip(plain, loose, strict=True))
    (file,) = (tmp_path / "mag_ratios").iterdir()
    assert {name: len(own) for name, own in read_ratios(file)["transformer"].items()} == {
        "conditional": 6,
        "unconditional": 6,
    }
    # The same ratios by name: the same clips to the bit, with no calibration.
    named = tmp_path / "mine.json"
    file.rename(named)
    denoised.clear()
    again = made(ROW | {"step_cache": {"kind": "mag", "tolerance": 9.0, "ratios": named}}, natives, model, tmp_path)
    assert denoised == [1, 1]
    assert all(np.array_equal(one, other) for one, other in zip(loose, again, strict=True))
    # Other ratios are other clips, wherever they lie.
    content = json.loads(named.read_text())
    content["ratios"]["transformer"]["conditional"] = [1.0] + [30.0] * 5
    named.write_text(json.dumps(content))
    third = made(ROW | {"step_cache": {"kind": "mag", "tolerance": 9.0, "ratios": named}}, natives, model, tmp_path)
    assert not np.array_equal(third[0], again[0])


def test_a_second_pass_calibrates_each_expert_that_it_asks_for(a14b, natives, denoised, tmp_path: Path) -> None:
    """From strength 0.7 one of four levels is the high-noise expert's; only it is guided."""
    row = ROW | {"method": "refine", "strength": 0.7, "steps": 4, "guidance_scale_2": 1.0}
    plain = made(row, natives[:1], a14b.model(), tmp_path)
    denoised.clear()
    exact = made(row | {"step_cache": {"kind": "mag", "tolerance": 0.0}}, natives[:1], a14b.model(), tmp_path)
    assert denoised == [1, 1] and np.array_equal(exact[0], plain[0])
    (file,) = (tmp_path / "mag_ratios").iterdir()
    found = read_ratios(file)
    assert {part: {n: len(r) for n, r in own.items()} for part, own in found.items()} == {
        "transformer": {"conditional": 1, "unconditional": 1},
        "transformer_2": {"conditional": 3},
    }


def checks(model: Any, row: dict[str, Any]) -> list[str]:
    return [check.look() for check in weight_checks(model, {"a": ArmParams(**row)})]


def test_a_file_is_judged_before_a_run(wan21, a14b, tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    row = ROW | {"step_cache": {"kind": "mag", "ratios": path, "tolerance": 9.0, "most_skips": 1, "retain": 0.0}}
    with pytest.raises(FileNotFoundError, match=r"arms\.a\.step_cache\.ratios"):
        checks(wan21.model(), row)
    own = {"conditional": [1.0] * 6, "unconditional": [1.0] * 6}
    path.write_text(json.dumps({"ratios": {"transformer": own}}))
    assert checks(wan21.model(), row) == [f"{path}: 3 of 6 steps computed"]
    with pytest.raises(ValueError, match=r"ratios: .*has no ratios of transformer_2, conditional and unconditional"):
        checks(a14b.model(), row)
    path.write_text(json.dumps({"ratios": {"transformer": {"conditional": [1.0]}}}))
    with pytest.raises(ValueError, match=r"has no ratios of transformer, unconditional: leave step_cache.ratios out"):
        checks(wan21.model(), row)
    assert checks(wan21.model(), row | {"guidance_scale": 1.0})


def test_what_cannot_be_is_refused() -> None:
    def tables(arm: dict[str, Any], **generation: Any) -> Experiment:
        params = {
            "stage1": {},
            "adapters": {},
            "arms": {"a": {"label": "a", **arm}},
            "evaluation": {"reference_arm": "a"},
        }
        return checked_tables(params | {"generation": generation})

    mag = {"step_cache": {"kind": "mag"}}
    with pytest.raises(ParameterError, match="calibrated on a run's first clip, which is another in each shard"):
        tables(mag, shard="1/2")
    assert tables({"step_cache": {"kind": "mag", "ratios": "r.json"}}, shard="1/2")
    stages = [{"height": 32, "width": 48, "steps": 2}]
    with pytest.raises(ParameterError, match="step_cache 'mag' is of one resolution, and a cascade has several"):
        tables(mag | {"method": "cascade", "stages": stages})
    with pytest.raises(ParameterError, match="midpoint evaluates between the steps that step_cache counts"):
        tables(mag | {"scheduler": "midpoint"})
    with pytest.raises(ParameterError, match="tolerance belongs to mag, not to step cache 'taylor'"):
        tables({"step_cache": {"kind": "taylor", "tolerance": 0.5}})


def test_the_plan_counts_the_clip_that_calibrates(wan21, tmp_path: Path) -> None:
    model = wan21.model()
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("h100"))
    tables = Experiment(stage1={}, adapters={}, arms={"a": ArmParams(**ROW)}, reference_arm="a")

    def row(**changes: Any) -> Any:
        return arm_row(costs, "a", ArmParams(**ROW | changes), tables, GENERATION, 2)

    plain, cached = row(), row(step_cache={"kind": "mag"})
    assert cached.parts == plain.parts  # what is left out is known afterwards alone
    assert cached.once["transformer"] == pytest.approx(plain.parts["transformer"])
    assert "transformer" not in plain.once and cached.memory_gb >= plain.memory_gb
    path = tmp_path / "ratios.json"
    own = {"conditional": [1.0] * 6, "unconditional": [1.0] * 6}
    path.write_text(json.dumps({"ratios": {"transformer": own}}))
    known = row(step_cache={"kind": "mag", "ratios": path, "retain": 0.5})
    assert "transformer" not in known.once
    left_out = len(Mag(retain=0.5).left_out((1.0,) * 6))
    assert left_out == 3 and known.parts["transformer"] == pytest.approx(plain.parts["transformer"] / 2)
