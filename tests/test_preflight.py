"""What is refused before the first node runs."""

from pathlib import Path

import pytest

from vibe_pipeline.config import AdapterParams, ArmParams, DataParams, GenerationParams, Tables
from vibe_pipeline.preflight import check_generation, check_parameters, check_training

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


def test_a_single_training_size_that_pooling_does_not_divide_is_named_with_the_nearest(wan21) -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    params = {"model": wan21.model().model_dump(), "data": {"path": "x", "buckets": "single"} | sizes}
    for pool, fits in ((2, True), (4, False)):
        row = {"a": AdapterParams(label="a", start="base", attention={"kind": "gclf", "pool": pool})}
        rows = Tables(stage1={}, adapters=row, arms=tables().arms, reference_arm="a")
        if fits:
            check_parameters(params, rows, {"relay_stage2"})
            continue
        with pytest.raises(ValueError, match=r"adapters\.a with attention\.pool 4: data\.high 64x96 .*64x64 or 64x128"):
            check_parameters(params, rows, {"relay_stage2"})


def test_only_what_a_run_needs_is_checked() -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    native = {"native": sizes["low"], "target": sizes["high"]}
    nowhere = {"model": {"path": "somewhere/else"} | native, "data": {"path": "x"} | sizes}
    check_parameters(nowhere, tables(), {"base_model"})
    with pytest.raises(FileNotFoundError, match=r"somewhere/else.*hf download"):
        check_parameters(nowhere, tables(), {"relay_stage1"})


@pytest.mark.parametrize("part", ["data_processing", "relay_stage2", "generation"])
def test_a_tile_that_the_vae_cannot_be_cut_into_is_refused_with_the_nearest(wan22, part: str) -> None:
    sizes = {"low": {"height": 32, "width": 64}, "high": {"height": 64, "width": 128}}
    params = {"data": {"path": "x"} | sizes, "generation": GENERATION.model_dump()}
    for tile, fits in ((300, False), (304, True), (None, True)):
        params["model"] = wan22.model(tile=tile).model_dump()
        if fits:
            check_parameters(params, tables(), {part})
            continue
        with pytest.raises(ValueError, match=r"model\.tile 300 must be a multiple of 16 .*fit: 288 or 304"):
            check_parameters(params, tables(), {part})
