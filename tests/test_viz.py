"""What Kedro-Viz is told: namespaces that collapse, layers, previews of tables, curves and sheets."""

import base64
import json
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.project import configure_project
from kedro_viz.api.rest.responses.nodes import get_node_metadata_response
from kedro_viz.api.rest.responses.pipelines import get_pipeline_response
from kedro_viz.server import load_and_populate_data
from PIL import Image

from tests.conf_files import read_conf
from vibe_pipeline.datasets import AblationTable, AdapterDataset, PictureManifest
from vibe_pipeline.io.manifests import AdapterManifest

ROOT = Path(__file__).parents[1]
LAYERS = {
    "training_images": "raw",
    "usable_images": "primary",
    "latent_cache": "model_input",
    "adapter-full": "models",
    "clips-full": "model_output",
    "ablation_table": "reporting",
}
Graph = dict[str, Any]


@pytest.fixture(scope="module")
def graph() -> Iterator[Graph]:
    """The default graph, as Kedro-Viz sends it to the browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        load_and_populate_data(ROOT, include_hooks=True)
        yield get_pipeline_response("__default__").model_dump()
    configure_project("vibe_pipeline")


@pytest.fixture(scope="module")
def parameters() -> dict[str, Any]:
    return read_conf(ROOT / "conf/base")


def nodes_of(graph: Graph, kind: str) -> dict[str, dict[str, Any]]:
    return {n.get("full_name") or n["name"]: n for n in graph["nodes"] if n["type"] == kind}


def test_every_adapter_and_arm_is_a_box_that_collapses(graph: Graph, parameters: dict[str, Any]) -> None:
    boxes = {
        table: {c["id"] for c in graph["modular_pipelines"][table]["children"] if c["type"] == "modularPipeline"}
        for table in ("stage1", "adapters", "arms")
    }
    assert boxes == {table: {f"{table}.{row}" for row in parameters[table]} for table in boxes}
    tasks = nodes_of(graph, "task")
    assert "arms.full" in tasks["arms.full.generate"]["modular_pipelines"]
    assert "arms.full" in tasks["arms.full.measure"]["modular_pipelines"]
    assert "adapters.full" in tasks["adapters.full.train"]["modular_pipelines"]


def test_only_joint_tables_leave_the_arms(graph: Graph) -> None:
    """What else an arm makes is inside its box, so that the collapsed graph stays small however many arms there are."""
    names = {n["id"]: n.get("full_name") or n["name"] for n in graph["nodes"]}
    assert {names[i] for i in graph["modular_pipelines"]["arms"]["outputs"]} == {"clips", "own_scores", "spectra"}
    left = {names[i] for i in graph["modular_pipelines"]["adapters"]["outputs"]}
    assert {name for name in left if not name.startswith("adapter-")} == {"trainings"}


def test_a_rows_node_shows_the_code_of_its_function(graph: Graph) -> None:
    """A plain function, found through the row that is bound to it."""
    tasks = nodes_of(graph, "task")
    code = {
        "arms.full.generate": "render_arm",
        "arms.full.measure": "measure",
        "adapters.full.train": "train_resolution",
    }
    for node, function in (code | {"stage1.modality.train": "train_modality"}).items():
        shown = get_node_metadata_response(tasks[node]["id"])
        assert shown.code.startswith(f"def {function}(") and shown.filepath.endswith("nodes.py")


def test_collapsed_boxes_make_no_cycle(graph: Graph) -> None:
    """A box is drawn as one node: a way out of it and back in could not be."""
    box = {n["id"]: name.split(".")[0] for name, n in nodes_of(graph, "task").items()}
    edges = [(e["source"], e["target"]) for e in graph["edges"]]
    before: dict[str, set[str]] = {}
    for source, dataset in edges:
        for target in (t for s, t in edges if s == dataset and source in box):
            if box.get(target, box[source]) != box[source]:
                before.setdefault(box[target], set()).add(box[source])
    order = list(TopologicalSorter(before).static_order())
    assert order.index("stage1") < order.index("adapters") < order.index("arms") < order.index("write_page")


def test_layers_are_in_order_and_every_dataset_has_one(graph: Graph) -> None:
    data = nodes_of(graph, "data")
    assert graph["layers"] == ["raw", "primary", "model_input", "models", "model_output", "reporting"]
    assert {name: data[name]["layer"] for name in LAYERS} == LAYERS
    assert [name for name, node in data.items() if node["layer"] is None] == []


def test_an_arms_parameters_can_be_read_at_its_node(graph: Graph, parameters: dict[str, Any]) -> None:
    shown = nodes_of(graph, "task")["arms.full.generate"]["parameters"]["arms.full"]
    assert {k: shown[k] for k in parameters["arms"]["full"]} == parameters["arms"]["full"]


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ("ablation_table", "TablePreview"),
        ("clips-full", "TablePreview"),
        ("clips", "TablePreview"),
        ("adapter-full", "PlotlyPreview"),
        ("stage1-modality", "PlotlyPreview"),
        ("preview", "ImagePreview"),
    ],
)
def test_the_browser_is_told_how_to_show_a_dataset(graph: Graph, dataset: str, kind: str) -> None:
    assert get_node_metadata_response(nodes_of(graph, "data")[dataset]["id"]).preview_type == kind


def test_an_adapter_is_previewed_as_its_curve(tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text("step,loss,validation_loss\n1,2.0,\n2,1.5,3.0\n3,,\n")
    dataset = AdapterDataset(filepath=str(tmp_path / "full.json"))
    manifest = AdapterManifest(name="full", key="k", path=tmp_path / "a.safetensors", losses=tmp_path / "losses.csv")
    dataset.save(manifest)
    assert dataset.load() == manifest
    figure = dataset.preview(x="step", y="loss")
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([1, 2], [2.0, 1.5])
    assert figure["layout"]["title"]["text"] == "full"
    json.dumps(figure)


def test_the_ablation_table_is_previewed_as_arms_by_measures(tmp_path: Path) -> None:
    rows = [("full", "psnr", 30.12345, "scored"), ("up", "psnr", 25.0, "scored"), ("full", "flicker", 0.001, "scored")]
    rows += [("full", "aesthetic_quality", float("nan"), "skipped"), ("gone", "psnr", float("nan"), "not run")]
    dataset = AblationTable(filepath=str(tmp_path / "t.csv"), text=["arm", "metric", "status"])
    dataset.save(pd.DataFrame(rows, columns=["arm", "metric", "mean", "status"]))
    shown = dataset.preview()
    assert shown["columns"] == ["arm", "psnr", "flicker"]
    assert shown["data"] == [["full", "30.12", "0.001"], ["up", "25", ""]]
    json.dumps(shown)


def test_a_preview_is_shown_as_its_first_sheet(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "sheet_1.png")
    (tmp_path / "preview.json").write_text(json.dumps({"sheets": [str(tmp_path / "sheet_1.png"), "not there"]}))
    shown = PictureManifest(filepath=str(tmp_path / "preview.json")).preview(pictures="sheets")
    assert base64.b64decode(shown) == (tmp_path / "sheet_1.png").read_bytes()
