"""`linear`: every frame of the native clip through the filter of the stills, to the exact target size."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.diffusion.linear_filter import LinearFilter
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import METHODS
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.files import read_json
from vibe_pipeline.io.manifests import FilterManifest
from vibe_pipeline.io.video import read_clip, write_lossless
from vibe_pipeline.pipelines import generation
from vibe_pipeline.planning.stills_filter import fitted_stills

GENERATION = GenerationParams(prompts="miniature", batch_size=2)
LINEAR = ArmParams(label="Linear", method="linear")
# 3.09 times as high and 3 times as wide, as 704x1280 to 2176x3840.
NATIVE, TARGET = {"height": 22, "width": 32, "frames": 5}, {"height": 68, "width": 96, "frames": 5}


@pytest.fixture
def native(tmp_path: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    path = write_lossless(tmp_path / "native.mp4", rng.random((5, 22, 32, 3), np.float32), 8)
    return pd.DataFrame([{"prompt_index": 0, "prompt": "p", "seed": 0, "path": str(path), "key": "n"}])


def kept(tmp_path: Path, seed: int = 0) -> FilterManifest:
    """A filter of patches of half the clip's size."""
    path = tmp_path / f"{seed}.safetensors"
    LinearFilter(0.5 + np.random.default_rng(seed).random((34, 48)), (11, 16)).save(path)
    return FilterManifest(key=f"filter {seed}", path=path, stills=3)


def test_a_clip_is_what_the_filter_gives(wan21, native: pd.DataFrame, tmp_path: Path) -> None:
    model, manifest = wan21.model(native=NATIVE, target=TARGET), kept(tmp_path)
    made = arm_clips("lin", LINEAR, native, None, None, model, GENERATION, tmp_path / "out", manifest)
    assert made[["height", "width", "frames", "method"]].values.tolist() == [[68, 96, 5, "linear"]]
    fitted = LinearFilter.read(manifest.path).at((22, 32), (68, 96))
    exact = fitted(read_clip(Path(native["path"][0]))).clip(0, 1)
    assert exact.std() > 0.05
    np.testing.assert_allclose(read_clip(Path(made["path"][0])), exact, atol=0.51 / 255)
    assert read_json(Path(made["path"][0]).with_suffix(".json"))["settings"]["linear_filter"] == "filter 0"


def test_another_filter_makes_other_clips(wan21, native: pd.DataFrame, tmp_path: Path) -> None:
    model = wan21.model(native=NATIVE, target=TARGET)
    first, other = (
        arm_clips("lin", LINEAR, native, None, None, model, GENERATION, tmp_path / "out", kept(tmp_path, seed))
        for seed in (0, 1)
    )
    assert first["key"][0] != other["key"][0] and first["path"][0] != other["path"][0]
    with pytest.raises(ValueError, match=r"arms\.lin: method linear needs the filter that the node fit_linear_filter"):
        arm_clips("lin", LINEAR, native, None, None, model, GENERATION, tmp_path / "out")


def test_the_graph_fits_the_filter_where_an_arm_asks_for_it_and_once() -> None:
    plain = ArmParams(label="Plain", method="upsample")
    for arms, wanted in (({"a": plain}, 0), ({"a": plain, "b": LINEAR, "c": LINEAR}, 1)):
        tables = Experiment(stage1={}, adapters={}, arms=arms, reference_arm="a")
        nodes = generation.create_pipeline(tables).nodes
        assert sum(node.name == "fit_linear_filter" for node in nodes) == wanted
        asking = {node.name for node in nodes if "linear_filter" in node.inputs}
        assert asking == {f"arms.{name}.generate" for name, arm in arms.items() if arm.method == "linear"}
        assert fitted_stills(tables, 2300) == (512 if wanted else 0)


def test_it_costs_a_processor_alone() -> None:
    load = METHODS["linear"].workload(LINEAR, 6)
    assert load.filtered and not load.forwards and not load.encodes and not METHODS["linear"].uses_device
