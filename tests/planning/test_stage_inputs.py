"""A stage that is run too early is told which stage makes what it takes, before any node runs."""

from pathlib import Path

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from vibe_pipeline.planning.stage_inputs import require_inputs


def node(inputs: list[str], *outputs: str) -> Pipeline:
    return Pipeline([Node(lambda *taken: taken, inputs or None, list(outputs), name=outputs[0])])


DATA = node(["params:data"], "images", "latents")
TRAIN = node(["latents", "images", "params:row"], "adapter-full")
CLIPS = node(["adapter-full"], "clips-a", "clips-b", "clips-c", "clips-d")
SCORES = node(["clips-a", "clips-b", "clips-c", "clips-d"], "scores")
STAGES = {"data": DATA, "train": TRAIN, "clips": CLIPS, "scores": SCORES}
STAGES |= {"__default__": sum(STAGES.values(), Pipeline([]))}


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    names = ("images", "latents", "adapter-full", "clips-a", "clips-b", "clips-c", "clips-d", "scores")
    return DataCatalog.from_config({n: {"type": "json.JSONDataset", "filepath": str(tmp_path / n)} for n in names})


def test_the_stage_that_makes_it_and_the_command_are_named(catalog: DataCatalog) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        require_inputs(TRAIN, catalog, STAGES, "mine")
    assert str(caught.value) == (
        "images, latents are not there yet, data makes them. Run first: kedro run --env=mine --pipelines=data"
    )


def test_what_the_missing_stage_lacks_itself_is_run_too_in_the_order_of_stages(catalog: DataCatalog) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        require_inputs(SCORES, catalog, STAGES)
    assert str(caught.value) == (
        "clips-a, clips-b, clips-c and 1 more are not there yet, clips makes them. "
        "Run first: kedro run --pipelines=data,train,clips"
    )
    catalog.save("adapter-full", {})
    with pytest.raises(FileNotFoundError, match=r"--pipelines=clips$"):
        require_inputs(SCORES, catalog, STAGES)


def test_what_is_there_or_made_in_the_same_run_is_no_fault(catalog: DataCatalog) -> None:
    require_inputs(STAGES["__default__"], catalog, STAGES)
    require_inputs(DATA + TRAIN, catalog, STAGES)
    catalog.save("images", {})
    with pytest.raises(FileNotFoundError, match=r"^latents is not there yet, data makes it\. "):
        require_inputs(TRAIN, catalog, STAGES)
    catalog.save("latents", {})
    require_inputs(TRAIN, catalog, STAGES)
