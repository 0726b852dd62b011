"""Kedro nodes on a local Ray cluster of two machines."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset
from mlflow import MlflowClient

from vibe_pipeline.datasets import TablesDataset
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.pipelines import data_processing, generation, relay_stage1, relay_stage2, vbench_eval
from vibe_pipeline.pipelines.rows import for_row, resources
from vibe_pipeline.runtime.ray_runner import NodesFailed, RayRunner, Resources, fit, resources_of
from vibe_pipeline.tracking import PARENT, URI

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -r requirements/cluster.txt")
PATIENCE = 60


@pytest.fixture(scope="module", autouse=True)
def by_value() -> Iterator[None]:
    """Workers cannot import a test module by name."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Connected to two machines of one CPU and one (pretended) GPU each."""
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a token into the home folder
        patch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: for ever on a busy machine
        made = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
        made.add_node(**machine)
        ray.init(made.address, log_to_driver=False)
        yield
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataCatalog]:
    """A catalog of JSON files, one a name, in a folder that becomes the current one; other datasets as given."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str, **others: object) -> DataCatalog:
        return DataCatalog({n: JSONDataset(filepath=str(tmp_path / f"{n}.json")) for n in names} | others)

    return make


def place() -> dict[str, object]:
    """Where a node runs and what it was given."""
    context = ray.get_runtime_context()
    return {"machine": context.get_node_id(), "folder": str(Path.cwd())} | context.get_assigned_resources()


def meet(name: str, *_: object) -> dict[str, object]:
    """Wait until another node is running too."""
    Path(f"{name}.here").touch()
    end = time.monotonic() + PATIENCE
    while len(list(Path().glob("*.here"))) < 2:
        if time.monotonic() > end:
            raise TimeoutError("no other node came")
        time.sleep(0.05)
    return place() | {"parent": os.environ[PARENT], "uri": os.environ[URI]}


def draw(seed: int) -> pd.DataFrame:
    """Numbers that depend on the seed."""
    return pd.DataFrame({"x": np.random.default_rng(seed).normal(size=50)})


def add(*tables: pd.DataFrame) -> pd.DataFrame:
    """Their sum."""
    return sum(tables[1:], tables[0])


def fail(*_: object) -> None:
    """Raise."""
    raise ValueError("the ninth frame is missing\nsecond line")


def one(*_: object) -> int:
    """1."""
    return 1


def die(name: str, *_: object) -> int:
    """Kill the own process: the first time, or every time."""
    marker = Path(f"{name}.died")
    died = marker.exists()
    marker.touch()
    if name == "always" or not died:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def sleep(*_: object) -> None:
    """Work until interrupted."""
    Path("asleep").touch()
    try:
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        Path("interrupted").touch()
        raise


def test_tags_name_the_resources() -> None:
    """One CPU without tags; no GPU where the model stays on the CPU."""
    size = {"height": 32, "width": 32}
    models = {d: ModelParams(path="x", native=size, target=size, device=d) for d in ("cpu", "auto", "cuda")}
    asked = {}
    for device, model in models.items():
        catalog = DataCatalog({"params:model": MemoryDataset(model)})
        node = Node(one, "params:model", "y", tags=["generation", *resources(gpus=2, cpus=3)])
        asked[device] = resources_of(node, catalog)
    assert asked == {"cpu": Resources(3, 0), "auto": Resources(3, 2), "cuda": Resources(3, 2)}
    assert resources_of(Node(one, None, "y", tags="gpu_report"), DataCatalog()) == Resources(1, 0)


def test_the_graph_asks_for_gpus_where_a_model_runs() -> None:
    """As many as a row has training processes; none where no model runs."""
    arms = {name: {"label": name, "method": name} for name in ("refine", "upsample")}
    rows = {"pair": {"label": "Two", "start": "images", "processes": 2, "batch_size": 2}}
    tables = Experiment(stage1={"images": {}}, adapters=rows, arms=arms, reference_arm="refine")
    graph = sum(
        (p.create_pipeline(tables) for p in (relay_stage1, relay_stage2, generation, vbench_eval)), Pipeline([])
    )
    graph += data_processing.create_pipeline()
    catalog = DataCatalog({"params:model": MemoryDataset({"device": "auto"})})
    asked = {node.outputs[0]: resources_of(node, catalog) for node in graph.nodes}
    with_gpu = {name: wish.gpus for name, wish in asked.items() if wish.gpus}
    one_each = ("latent_cache", "stage1-images", "native_clips", "clips-refine", "vbench_scores")
    assert with_gpu == dict.fromkeys(one_each, 1) | {"adapter-pair": 2}
    assert asked["adapter-pair"].cpus == 2 and asked["clips-upsample"] == Resources(1, 0)


@pytest.mark.parametrize(
    ("wanted", "machines", "given"),
    [
        (Resources(4, 1), [Resources(8, 0), Resources(4, 2)], Resources(4, 1)),
        (Resources(4, 1), [Resources(2, 0), Resources(8, 0)], Resources(4, 0)),
        (Resources(4, 1), [Resources(2, 0)], Resources(2, 0)),
        (Resources(4, 4), [Resources(64, 0), Resources(8, 2), Resources(2, 3)], Resources(2, 3)),
        (Resources(1, 0), [Resources(0, 0), Resources(1, 0)], Resources(1, 0)),
    ],
)
def test_wishes_are_lowered_to_what_one_machine_has(
    wanted: Resources, machines: list[Resources], given: Resources
) -> None:
    """GPUs count before CPUs; two machines' resources are never added up."""
    assert fit(wanted, machines) == given


def test_datasets_in_memory_are_refused_before_anything_runs(catalog: Callable[..., DataCatalog]) -> None:
    """Named ones and those without an entry; Ray is not even started."""
    nodes = [Node(one, None, "first"), Node(one, "first", "second"), Node(one, "second", "third")]
    with pytest.raises(ValueError, match="RayRunner: second, third would be kept") as error:
        RayRunner().run(Pipeline(nodes), catalog("first", third=MemoryDataset()))
    assert "first" not in str(error.value)
    assert not Path("first.json").exists() and not ray.is_initialized()


def test_nodes_that_cannot_travel_are_refused(catalog: Callable[..., DataCatalog]) -> None:
    """By name."""
    lock = threading.Lock()
    with pytest.raises(ValueError, match="locked"):
        RayRunner().run(Pipeline([Node(lambda: lock, None, "first", name="locked")]), catalog("first"))
    assert not ray.is_initialized()


def test_without_an_address_a_local_cluster_is_started_and_ended(
    catalog: Callable[..., DataCatalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nodes ask for is lowered to what it has, and that is said."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    made = catalog("out")
    node = Node(place, None, "out", name="big", tags=resources(gpus=2, cpus=4))
    RayRunner(cpus=2, gpus=0).run(Pipeline([node]), made)
    found = made.load("out")
    assert found["CPU"] == 2 and "GPU" not in found and not ray.is_initialized()


def test_independent_nodes_run_at_the_same_time_on_two_machines(
    cluster: None, catalog: Callable[..., DataCatalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with what its tags name, in the project folder, under the run's MLflow parent."""
    uri = f"sqlite:///{tmp_path / 'x.db'}"
    parent = MlflowClient(uri).create_run("0").info.run_id
    monkeypatch.setenv(PARENT, parent)
    monkeypatch.setenv(URI, uri)
    nodes = [Node(for_row(meet, n), None, n, name=n, tags=resources(gpus=1)) for n in ("left", "right")]
    made = catalog("left", "right")
    RayRunner().run(Pipeline(nodes), made)
    left, right = made.load("left"), made.load("right")
    assert left["machine"] != right["machine"]
    for found in (left, right):
        assert (found["GPU"], found["CPU"], found["folder"]) == (1, 1, str(tmp_path))
        assert (found["parent"], found["uri"]) == (parent, uri)


def test_results_equal_the_sequential_run(cluster: None, tmp_path: Path) -> None:
    """The same tables, byte for byte, with parameters and inputs from memory."""
    names = [f"drawn_{i}" for i in range(4)]
    nodes = [Node(draw, f"params:{i}", name, name=name) for i, name in enumerate(names)]
    pipeline = Pipeline([*nodes, Node(add, [*names, "start"], "sum", name="sum")])
    for folder, runner in (("a", SequentialRunner()), ("b", RayRunner())):
        files = {n: CSVDataset(filepath=str(tmp_path / folder / f"{n}.csv")) for n in [*names, "sum"]}
        seeds = {f"params:{i}": MemoryDataset(i) for i in range(4)}
        output = runner.run(pipeline, DataCatalog(files | seeds | {"start": MemoryDataset(draw(9))}))
        assert len(output["sum"].load()) == 50
    for name in [*names, "sum"]:
        assert (tmp_path / f"a/{name}.csv").read_bytes() == (tmp_path / f"b/{name}.csv").read_bytes()


def test_a_failed_node_leaves_the_others_work(cluster: None, catalog: Callable[..., DataCatalog]) -> None:
    """What does not need it finishes; the error names it, its cause and what was not run."""
    nodes = [
        Node(fail, None, "a", name="bad"),
        Node(one, "a", "b", name="after_bad"),
        Node(one, ["b", "d"], "c", name="after_both"),
        Node(one, None, "d", name="good"),
        Node(one, "d", "e", name="after_good"),
    ]
    made = catalog(*"abcde")
    with pytest.raises(NodesFailed) as error:
        RayRunner().run(Pipeline(nodes), made)
    assert str(error.value).splitlines() == [
        "1 node(s) failed; not run, as they need them: after_bad, after_both; 2 finished and stay finished.",
        "  bad: ValueError: the ninth frame is missing",
    ]
    assert {n: made.exists(n) for n in "abcde"} == {"a": False, "b": False, "c": False, "d": True, "e": True}


def test_a_lost_process_is_replaced_once(cluster: None, catalog: Callable[..., DataCatalog]) -> None:
    """A node whose process was killed runs again; one that is always killed fails, and only that one."""
    made = catalog("once", "always")
    nodes = [Node(for_row(die, n), None, n, name=n) for n in ("once", "always")]
    with pytest.raises(NodesFailed, match="always: WorkerCrashedError"):
        RayRunner().run(Pipeline(nodes), made)
    assert made.load("once") == 1 and not made.exists("always")


def test_ctrl_c_interrupts_the_nodes(cluster: None, catalog: Callable[..., DataCatalog]) -> None:
    """They can close what they have open."""

    def press() -> None:
        while not Path("asleep").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        RayRunner().run(Pipeline([Node(sleep, None, "out", name="sleeper")]), catalog("out"))
    assert Path("interrupted").exists() and not Path("out.json").exists()


def test_tables_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    """They cross to another machine as JSON."""
    tables = Experiment(
        stage1={"images": {"steps": 3}},
        adapters={"full": {"label": "Full", "start": "images"}},
        arms={"full": {"label": "Full", "adapter": "full"}},
        reference_arm="full",
    )
    dataset = TablesDataset(filepath=str(tmp_path / "tables.json"))
    dataset.save(tables)
    assert dataset.load() == tables
