"""Running nodes on a Ray cluster: `kedro run --runner=vibe_pipeline.runtime.ray_runner.RayRunner`.

A node becomes a Ray task with the CPUs and GPUs that its tags name (`gpu_1`, `cpu_4`; without tags one CPU). Datasets
are loaded and saved where the node runs, so every one must be a file that all machines see; the project folder must
be at the same path everywhere. Ray is an extra: `pip install -r requirements/cluster.txt`.
"""

import contextlib
import os
import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from kedro.framework import project
from kedro.io import CatalogProtocol, DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import AbstractRunner
from kedro.runner.task import Task

ENVIRONMENT = ("VIBE_", "MLFLOW_", "KEDRO_", "HF_", "TORCH_HOME", "VBENCH_", "OMP_", "MKL_", "AWS_", "FSSPEC_")
"""Prefixes of variables that workers get. They travel as arguments: Ray writes a runtime environment to its logs."""

TAG = re.compile(r"(?P<kind>cpu|gpu)_(?P<count>\d+)")
STORE_BYTES = 100 << 20  # a local cluster's object store: nodes exchange files, not objects
CANCEL_SECONDS = 20


class NodesFailed(RuntimeError):
    """Some nodes of a run failed; what did not depend on them finished."""


@dataclass(frozen=True)
class Resources:
    """What a node asks for, or a machine has."""

    cpus: int = 1
    gpus: int = 0

    def __str__(self) -> str:
        return f"{self.gpus} GPU and {self.cpus} CPU" if self.gpus else f"{self.cpus} CPU"


def resources_of(node: Node, catalog: CatalogProtocol) -> Resources:
    """What a node's tags name; no GPU if its `params:model` says that it stays on the CPU."""
    named = {m["kind"]: int(m["count"]) for tag in node.tags if (m := TAG.fullmatch(tag))}
    model = catalog.load("params:model") if named.get("gpu") and "params:model" in node.inputs else None
    device = model.get("device") if isinstance(model, dict) else getattr(model, "device", None)
    return Resources(named.get("cpu", 1), 0 if device == "cpu" else named.get("gpu", 0))


def fit(wanted: Resources, machines: Collection[Resources]) -> Resources:
    """The wish itself if a machine can meet it, otherwise as much of it, GPUs first, as one machine has."""
    if any(m.cpus >= wanted.cpus and m.gpus >= wanted.gpus for m in machines):
        return wanted
    able = [Resources(min(m.cpus, wanted.cpus), min(m.gpus, wanted.gpus)) for m in machines]
    return max(able, key=lambda r: (r.gpus, r.cpus))


def require_files(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Refuse results that would stay in one worker's memory.

    Raises:
        ValueError: Names the datasets.
    """
    names = {name for node in pipeline.nodes for name in node.outputs}
    if memory := sorted(name for name in names if getattr(catalog.get(name), "_EPHEMERAL", False)):
        raise ValueError(
            f"RayRunner: {', '.join(memory)} would be kept in the memory of one process, where other machines cannot "
            "read it; give each an entry with a file in catalog.yml"
        )


def pack(pipeline: Pipeline, catalog: CatalogProtocol, run_id: str | None, is_async: bool) -> dict[Node, bytes]:
    """What workers are sent: each node with the datasets that it reads and writes, and no others.

    Raises:
        ValueError: Names the nodes that cannot be pickled.
    """
    from ray import cloudpickle

    packed, refused = {}, {}
    for node in pipeline.nodes:
        names = {*node.inputs, *node.outputs, *node.confirms}
        own = DataCatalog({name: found for name in sorted(names) if (found := catalog.get(name)) is not None})
        task = Task(node, own, is_async, run_id=run_id, parallel=True)
        try:
            packed[node] = cloudpickle.dumps((project.PACKAGE_NAME, dict(project.LOGGING), task))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            refused[node.name] = str(error)
    if refused:
        raise ValueError(f"RayRunner: these nodes or their datasets cannot be sent to other processes: {refused}")
    return packed


def execute(payload: bytes) -> None:
    """Run a packed node in this process, which becomes a worker of its project."""
    from kedro.framework.project import configure_logging, configure_project

    package, logging_config, task = pickle.loads(payload)
    if package is not None:
        configure_project(package)
        configure_logging(logging_config)
    task.execute()


def _remote(ray: ModuleType, given: Resources) -> Any:
    """The Ray function; nested, so that it is sent by value and sets the environment before it imports the package."""

    def run_node(payload: bytes, environment: dict[str, str], folder: str) -> None:
        """Run a packed node as if in `folder` of the machine that asked for it, with these environment variables."""
        import os
        import socket

        os.environ.update(environment)
        if not os.path.isdir(folder):  # noqa: PTH112  nothing of this module may be imported yet
            raise FileNotFoundError(
                f"{folder} is not there on {socket.gethostname()}: every machine must see the project folder"
            )
        os.chdir(folder)
        from vibe_pipeline.runtime.ray_runner import execute

        execute(payload)

    # A process that has used one GPU must not be given another: CUDA reads which it may use only once.
    options = {"max_calls": 1} if given.gpus else {}
    return ray.remote(num_cpus=given.cpus, num_gpus=given.gpus, max_retries=0, **options)(run_node)


class RayRunner(AbstractRunner):
    """Runs nodes side by side on a Ray cluster, or on a local one that it starts.

    Args:
        is_async: Load and save a node's datasets with threads.
        address: Of a running cluster (`auto` or host:port); default: `RAY_ADDRESS`; without it a local one is started.
        cpus: Of a local cluster; default: all.
        gpus: Of a local cluster; default: all.
        retries: How often a node is started again after its process or machine was lost.
        lower: Lower what a node asks for to what the largest machine has (no GPU: the node runs on the CPU); off
            for a cluster that grows on demand.
    """

    def __init__(
        self,
        is_async: bool = False,
        address: str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        retries: int = 1,
        lower: bool = True,
    ) -> None:
        super().__init__(is_async=is_async)
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._local = {"num_cpus": cpus, "num_gpus": gpus} if self._address == "local" else {}
        self._retries, self._lower = retries, lower

    def _get_executor(self, max_workers: int) -> None:
        """Kedro's own loop is not used: it gives up at the first failure."""

    def _run(
        self, pipeline: Pipeline, catalog: CatalogProtocol, hook_manager: Any = None, run_id: str | None = None
    ) -> None:
        ray = _import_ray()
        require_files(pipeline, catalog)
        packed = pack(pipeline, catalog, run_id, self._is_async)
        environment = {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)}
        with self._cluster(ray):
            given = self._resources(ray, pipeline, catalog)

            def submit(node: Node) -> Any:
                call = _remote(ray, given[node]).options(name=node.name)
                return call.remote(packed[node], environment, str(Path.cwd()))

            done, failed = self._work_off(ray, pipeline, submit)
        if failed:
            raise NodesFailed(_summary(pipeline, done, failed))

    @contextlib.contextmanager
    def _cluster(self, ray: ModuleType) -> Iterator[None]:
        """Connected inside; a connection that was there before stays."""
        if ray.is_initialized():
            yield
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        own = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if self._local else {}
        ray.init(self._address, log_to_driver=True, **self._local, **own)
        try:
            yield
        finally:
            ray.shutdown()

    def _resources(self, ray: ModuleType, pipeline: Pipeline, catalog: CatalogProtocol) -> dict[Node, Resources]:
        """What each node gets; says where that is less than it asked for."""
        found = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        machines = [Resources(int(m.get("CPU", 0)), int(m.get("GPU", 0))) for m in found]
        self._logger.info("Ray: %d machines (%s)", len(machines), "; ".join(map(str, machines)))
        wanted = {node: resources_of(node, catalog) for node in pipeline.nodes}
        if not self._lower:
            return wanted
        given = {node: fit(wish, machines) for node, wish in wanted.items()}
        less = defaultdict(list)
        for node, wish in wanted.items():
            if given[node] != wish:
                less[wish, given[node]].append(node.name)
        for (wish, got), names in less.items():
            self._logger.warning("No machine has %s; these nodes get %s: %s", wish, got, ", ".join(names))
        return given

    def _work_off(
        self, ray: ModuleType, pipeline: Pipeline, submit: Callable[[Node], Any]
    ) -> tuple[set[Node], dict[Node, Exception]]:
        """Run every node whose inputs can be made; returns those that finished, and the errors of those that failed."""
        parents, todo = pipeline.node_dependencies, list(pipeline.nodes)
        done: set[Node] = set()
        failed: dict[Node, Exception] = {}
        running: dict[Any, Node] = {}
        losses: Counter[Node] = Counter()
        try:
            while todo or running:
                ready = [node for node in todo if parents[node] <= done]
                todo = [node for node in todo if node not in ready]
                running |= {submit(node): node for node in ready}
                if not running:
                    break
                for ref in ray.wait(list(running))[0]:
                    node = running.pop(ref)
                    error = _error_of(ray, ref)
                    if _is_loss(ray, error) and losses[node] < self._retries:
                        losses[node] += 1
                        self._logger.warning("Node %s was lost and is started again: %s", node.name, error)
                        todo.insert(0, node)
                    elif error is not None:
                        failed[node] = error
                        self._logger.error("Node %s failed: %s", node.name, error)
                    else:
                        done.add(node)
                        self._logger.debug("Completed %d of %d: %s", len(done), len(parents), node.name)
        finally:
            _cancel(ray, list(running))
        return done, failed


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ImportError("RayRunner needs Ray: pip install -r requirements/cluster.txt") from error
    return ray


def _error_of(ray: ModuleType, ref: Any) -> Exception | None:
    try:
        ray.get(ref)
    except Exception as error:
        return error
    return None


def _is_loss(ray: ModuleType, error: Exception | None) -> bool:
    """Whether the process or the machine went away, as opposed to the node's own error."""
    lost = ray.exceptions
    return isinstance(error, (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError, lost.ObjectLostError))


def _cancel(ray: ModuleType, refs: list[Any]) -> None:
    """After Ctrl-C: interrupt the nodes, so that they close their files and runs; end those that do not stop."""
    for ref in refs:
        ray.cancel(ref)
    left = ray.wait(refs, num_returns=len(refs), timeout=CANCEL_SECONDS)[1] if refs else []
    for ref in left:
        ray.cancel(ref, force=True)


def _summary(pipeline: Pipeline, done: Collection[Node], failed: dict[Node, Exception]) -> str:
    """One line a failure, then what could not run and what need not run again."""
    errors = {node.name: getattr(error, "cause", error) for node, error in failed.items()}
    lines = [f"  {name}: {type(e).__name__}: {(str(e).splitlines() or [''])[0]}" for name, e in errors.items()]
    waiting = [node.name for node in pipeline.nodes if node not in done and node not in failed]
    not_run = f"not run, as they need them: {', '.join(waiting)}; " if waiting else ""
    return "\n".join([f"{len(failed)} node(s) failed; {not_run}{len(done)} finished and stay finished.", *lines])
