"""What is refused before the first node runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vibe_pipeline.config import (
    AdapterParams,
    ArmParams,
    DataParams,
    EvaluationParams,
    GenerationParams,
    ReportParams,
    Tables,
)
from vibe_pipeline.preflight import (
    check_band,
    check_generation,
    check_parameters,
    check_report,
    check_scoring,
    check_space,
    check_training,
)

GENERATION = GenerationParams(prompts="miniature")


def tables(**arm: object) -> Tables:
    return Tables(stage1={}, adapters={}, arms={"a": ArmParams(label="a", **arm)}, reference_arm="a")


def test_what_fits_passes(tiny) -> None:
    check_generation(tiny.model(), GENERATION, tables(attention={"kind": "gclf", "pool": 2}))


@pytest.mark.parametrize("which", ["native", "target"])
def test_a_size_that_does_not_fit_is_named_with_the_nearest(wan21, which: str) -> None:
    model = wan21.model(**{which: {"height": 72, "width": 96, "frames": 5}})
    with pytest.raises(ValueError, match=f"model.{which} 72x96 .* nearest that are: 64x96 or 80x96"):
        check_generation(model, GENERATION, tables())


def test_a_pooling_that_does_not_divide_names_its_arm(wan21) -> None:
    row = {"attention": {"kind": "gclf", "pool": 4}}
    with pytest.raises(ValueError, match=r"arms\.a with attention\.pool 4: model\.target 64x96 .* 64x64 or 64x128"):
        check_generation(wan21.model(), GENERATION, tables(**row))
    check_generation(wan21.model(), GENERATION, tables(**row, method="upsample"))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"extra_adapters": [{"path": "no.safetensors"}]}, r"arms\.a\.extra_adapters: no\.safetensors is no file"),
        ({"method": "external", "path": "no"}, r"arms\.a\.path: no is no folder"),
    ],
)
def test_files_that_are_not_there_are_named(wan21, arm: dict, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        check_generation(wan21.model(), GENERATION, tables(**arm))


def test_prompts_that_are_not_there_are_named(wan21, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt is no file"):
        check_generation(wan21.model(), GenerationParams(prompts=tmp_path / "none.txt"), tables())


def test_buckets_that_pooling_does_not_divide_are_refused(tmp_path: Path) -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    data = DataParams(path=tmp_path, buckets="aspect", bucket_tokens=2, **sizes)
    row = {"a": AdapterParams(label="a", start="base", attention={"kind": "gclf", "pool": 4})}
    rows = Tables(stage1={}, adapters=row, arms=tables().arms, reference_arm="a")
    with pytest.raises(ValueError, match=r"adapters\.a\.attention\.pool 4 does not divide data\.bucket_tokens 2"):
        check_training(data, rows)
    check_training(data.model_copy(update={"bucket_tokens": 4}), rows)
    check_training(data.model_copy(update={"buckets": "single"}), rows)


def test_only_what_a_run_needs_is_checked() -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    nowhere = {"model": {"path": "somewhere/else"}, "data": {"path": "x"} | sizes}
    check_parameters(nowhere, tables(), {"base_model"})
    with pytest.raises(FileNotFoundError, match=r"somewhere/else.*hf download"):
        check_parameters(nowhere, tables(), {"relay_stage1"})


def evaluation(*dimensions: str) -> EvaluationParams:
    return EvaluationParams(vbench_dimensions=dimensions, vbench_cache="none", fine_band=(1.0, 2.0), reference_arm="a")


def test_a_dimension_that_no_clip_has_is_refused_and_one_that_few_have_is_said(caplog) -> None:
    pytest.importorskip("vbench")
    custom = GenerationParams(prompts="vbench_custom", count=64)
    check_scoring(custom, evaluation("subject_consistency", "overall_consistency", "temporal_flickering"))
    assert not caplog.records
    with pytest.raises(ValueError, match=r"vbench_dimensions: scene, color is defined on none of the 64 prompts"):
        check_scoring(custom, evaluation("scene", "imaging_quality", "color"))
    with pytest.raises(
        ValueError, match=r"scene is defined on none of the 64 prompts of generation\.prompts miniature"
    ):
        check_scoring(GenerationParams(prompts="miniature"), evaluation("scene"))
    check_scoring(GenerationParams(prompts="vbench_subset", count=16), evaluation("subject_consistency", "scene"))
    assert "fewer than 6 prompts cannot tell two arms apart: subject_consistency on 2, scene on 2" in caplog.text


def test_scoring_is_checked_where_a_run_makes_and_scores_clips(wan21) -> None:
    params = {"model": {"path": str(wan21.path)}, "generation": {"prompts": "miniature"}}
    params |= {"evaluation": evaluation("scene").model_dump()}
    with pytest.raises(ValueError, match="scene is defined on none"):
        check_parameters(params, tables(), {"generation", "vbench_eval"})
    check_parameters(params, tables(), {"vbench_eval"})


def test_claims_and_published_figures_are_read_before_the_run(tmp_path: Path, caplog) -> None:
    claims, published = tmp_path / "claims.yml", tmp_path / "published.yml"
    report = ReportParams(claims=claims, published=published)
    asked = evaluation("imaging_quality")
    with pytest.raises(FileNotFoundError, match=r"report\.claims: .*claims\.yml is not a file"):
        check_report(report, asked)
    claim = "claims: [{name: n, statement: s, arm: a, other: b, metrics: {imaging_quality: higher, flicker: lower}}]"
    claims.write_text(claim)
    published.write_text("tables: [{rows: [{method: X}]}]")
    with pytest.raises(ValueError, match=r"published\.yml: the row 'X' needs both"):
        check_report(report, asked)
    published.write_text("tables: []")
    check_report(report, asked)
    assert not caplog.records
    claims.write_text(claim.replace("flicker: lower", "scene: higher"))
    check_report(report, asked)
    assert "claims on scene, which evaluation.vbench_dimensions does not ask for" in caplog.text


def test_a_band_that_the_target_cannot_hold_is_refused(wan21) -> None:
    """64 rows have frequencies up to 32 along an axis and half as many again along the diagonal."""
    fits = evaluation("imaging_quality").model_copy(update={"fine_band": (13.0, 20.0)})
    check_band(wan21.model(), fits)
    with pytest.raises(ValueError, match=r"\[352\.0, 640\.0\] at model\.target: a 64x96 frame has no frequency"):
        check_band(wan21.model(), fits.model_copy(update={"fine_band": (352.0, 640.0)}))


def test_too_little_space_for_all_clips_is_said_before_the_first(wan21, tmp_path: Path, caplog, monkeypatch) -> None:
    """Five frames of 32x48 natively and of 64x96 in each arm, three bytes a pixel."""
    native, target = 32 * 48 * 5 * 3, 64 * 96 * 5 * 3
    for free, warned in ((10 * (native + 4 * target), False), (10 * (native + 4 * target) - 1, True)):
        monkeypatch.setattr(
            "vibe_pipeline.preflight.shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free)
        )
        check_space(wan21.model(), 10, 4, tmp_path)
        assert ("the clips take up to 0.0 GB" in caplog.text) == warned
