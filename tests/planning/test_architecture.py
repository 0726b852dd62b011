"""Architectures that are known without their weights: sizes are the models' own."""

import pytest

from vibe_pipeline.planning.architecture import Architecture, load_architecture

SMALL, LARGE = "wan21_t2v_1_3b", "wan22_ti2v_5b"


@pytest.fixture(scope="module")
def models() -> dict[str, Architecture]:
    return {name: load_architecture(name) for name in (SMALL, LARGE)}


def test_parameters_are_the_models_own(models) -> None:
    assert models[LARGE].parameters["transformer"] == 4_999_787_712
    assert models[SMALL].parameters["transformer"] == 1_418_996_800
    assert models[SMALL].parameters["vae"] == pytest.approx(127e6, rel=0.01)
    assert models[LARGE].parameters["vae"] == pytest.approx(705e6, rel=0.01)


def test_an_unknown_model_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*Wan2\.1.*Wan2\.2"):
        load_architecture("nowhere")
