"""Kedro hooks: the tables reach the graph, a `kedro run` reaches MLflow.

Kedro imports this for every command, `kedro --version` and `--help` too. So what reads parameters, builds the graph or
checks a run is imported by the hook that does it: every node stands behind the graph, and torch, diffusers and MLflow
behind the nodes.
"""

import atexit
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines

from vibe_pipeline.runtime.deadline import OutOfTimeError, set_deadline
from vibe_pipeline.runtime.live import Graph, LiveRun, node_begins, node_ends, node_fails
from vibe_pipeline.runtime.project_lock import Locks, lock_project, unlock
from vibe_pipeline.runtime.terminal import close_log, keep_error, keep_log, whole_lines
from vibe_pipeline.runtime.torchrun import is_follower
from vibe_pipeline.runtime.workflow import begin_workflow, end_workflow, note_node

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Node, Pipeline

log = logging.getLogger(__name__)


class TerminalHooks:
    """What the terminal shows of a run: a line a node, one redrawn line for what is being done, the result."""

    def __init__(self) -> None:
        self._live: LiveRun | None = None

    @hook_impl
    def after_context_created(self, context: "KedroContext") -> None:
        """Whole lines from here on; keep where the run writes."""
        whole_lines()
        self._folders: dict[str, str] = context.config_loader["parameters"]["folders"]

    @hook_impl(trylast=True)  # what another hook refuses leaves neither a folder nor a log
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: "Pipeline") -> None:
        """Show the run from here to its end."""
        if is_follower():
            return
        keep_log(Path(self._folders["reporting"]) / "run.log")
        needed = pipeline.node_dependencies.items()
        parents = {node.name: frozenset(parent.name for parent in before) for node, before in needed}
        runner = str(run_params.get("runner"))  # "None" where a session was given none: Kedro's sequential one
        alone = runner == "None" or "SequentialRunner" in runner
        log.info("%d nodes, %s", len(parents), "one after another" if alone else "side by side")
        self._live = LiveRun(Path(self._folders["data"]), Graph(parents, 1 if alone else os.cpu_count() or 1))

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: "Node") -> None:
        """Its process may be a new one, whose log is as Kedro made it."""
        whole_lines()
        node_begins(node.name)

    @hook_impl(trylast=True)
    def after_node_run(self, node: "Node") -> None:
        """A line for it."""
        node_ends(node.name)

    @hook_impl
    def on_node_error(self, node: "Node") -> None:
        """Its name, for the error's line."""
        node_fails(node.name)

    @hook_impl(tryfirst=True)  # while the run in MLflow is open and can be named
    def after_pipeline_run(self, pipeline: "Pipeline", catalog: Any) -> None:
        """The result, the page, the run in MLflow."""
        if self._live is None:
            return
        self._live.close()
        from vibe_pipeline.reporting.result import ending
        from vibe_pipeline.tracking import run_address

        page, sheets = (catalog.load(n) if n in pipeline.outputs() else None for n in ("report", "preview"))
        log.info("\n%s\n", "\n".join(ending(page, run_address(), sheets)), extra={"bare": True})
        close_log()

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """The traceback into the run's log; the error itself is one line, of whoever started the run."""
        if self._live is None:
            return
        node = self._live.close()
        error.add_note(f"{f'node {node}, ' if node else ''}traceback in {keep_error(error)}")
        close_log()


class GraphHooks:
    """Builds the graph from the parameters of the chosen environment."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: "KedroContext") -> None:
        """Unfold the sweeps, check the tables against each other and hand them to the registry."""
        from vibe_pipeline import pipeline_registry
        from vibe_pipeline.experiment.load import settled_parameters
        from vibe_pipeline.generation.methods import checked_tables
        from vibe_pipeline.generation.optional_arms import without_missing

        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        loader: Any = context.config_loader  # the one that settings.py names
        settled = settled_parameters(loader)
        self._params: dict[str, Any] = without_missing(settled, checked_tables(settled), context.project_path)
        context.config_loader["parameters"] = self._params
        self._tables = checked_tables(self._params)
        pipeline_registry.use_tables(self._tables)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: "Pipeline", catalog: "CatalogProtocol") -> None:
        """Refuse what cannot work, before a run is opened or anything is written."""
        from vibe_pipeline.planning.preflight import check_parameters
        from vibe_pipeline.planning.stage_inputs import require_inputs

        # Kedro finds a project from below it, but paths in parameters are relative to its folder.
        os.chdir(run_params["project_path"])
        if not run_params.get("only_missing_outputs"):  # which leaves out what takes them
            require_inputs(pipeline, catalog, dict(pipelines), run_params["env"])
        check_parameters(self._params, self._tables, {tag for node in pipeline.nodes for tag in node.tags})


class RunHooks:
    """One run at a time in a project, and no longer than its hours."""

    def __init__(self) -> None:
        self._locks: Locks = []

    @hook_impl
    def after_context_created(self, context: "KedroContext") -> None:
        """Keep the parameters for the run."""
        self._params: dict[str, Any] = context.config_loader["parameters"]

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Take the project; start the clock."""
        from vibe_pipeline.experiment.run import RunParams

        run = RunParams(**self._params.get("run", {}))
        folder = Path(run_params["project_path"]) / self._params["folders"]["data"]
        if not is_follower():
            self._locks = lock_project(folder, self._params["generation"].get("shard"), run.wait)
        set_deadline(run.hours)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Give the project back."""
        unlock(self._locks)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Give the project back."""
        unlock(self._locks)


class TrackingHooks:
    """Opens and closes the parent run."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._stages: dict[str, str] = {}
        self._monitor: Any = None

    @hook_impl
    def after_context_created(self, context: "KedroContext") -> None:
        """Keep what the parent run records."""
        self._project, self._env = context.project_path, context.env or "base"
        self._params: dict[str, Any] = context.config_loader["parameters"]

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: "Pipeline") -> None:
        """Open the run before anything expensive starts; an unreachable server fails here."""
        if is_follower():
            return
        from vibe_pipeline.experiment.run import TrackingParams
        from vibe_pipeline.tracking import (
            changes,
            part_of,
            run_name,
            run_parameters,
            run_tags,
            start_monitor,
            start_parent,
        )

        names = ", ".join(run_params.get("pipeline_names") or ["__default__"])
        changed = changes(run_params.get("runtime_params") or {})
        tags = run_tags(self._params, self._project, changed) | {"env": self._env, "pipelines": names}
        tracking = TrackingParams(**self._params.get("tracking", {}))
        self._stages = {node.name: stage for node in pipeline.nodes for stage in node.tags & set(pipelines)}
        name, shown = run_name(self._env, names, part_of(run_params), changed), run_parameters(self._params)
        start_parent(tracking, self._project, name, tags, shown)
        # Kedro reports an error but not an interruption (Ctrl-C), which would leave the run open for ever.
        atexit.register(self._end, "KILLED")
        self._monitor = start_monitor() if tracking.system_metrics else None

    @hook_impl
    def before_node_run(self, node: "Node") -> None:
        """Start its clock."""
        self._begun[node.name] = time.monotonic()

    @hook_impl
    def after_node_run(self, node: "Node") -> None:
        """Its seconds, on the parent run; from the process that ran it."""
        from vibe_pipeline.tracking import log_node_seconds

        log_node_seconds(node.name, time.monotonic() - self._begun[node.name])

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Close the run."""
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Mark the run as failed, or as interrupted if its hours were spent."""
        self._end("KILLED" if isinstance(error, OutOfTimeError) else "FAILED")

    def _end(self, status: str) -> None:
        from vibe_pipeline.tracking import end_parent

        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        end_parent(status, self._stages)


class WorkflowHooks:
    """Statuses and times of nodes, for Kedro-Viz; listed first, so called last, when it has written its own."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: "Pipeline", catalog: "CatalogProtocol") -> None:
        """Start noting."""
        if not is_follower():
            self._nodes, self._catalog = pipeline.nodes, catalog
            begin_workflow(Path(run_params["project_path"]))

    @hook_impl
    def before_node_run(self, node: "Node") -> None:
        """Start its clock."""
        self._begun[node.name] = time.monotonic()

    @hook_impl
    def after_node_run(self, node: "Node") -> None:
        """Note it, from the process that ran it."""
        note_node(node.name, time.monotonic() - self._begun[node.name])

    @hook_impl
    def on_node_error(self, error: Exception, node: "Node") -> None:
        """Note that it failed."""
        note_node(node.name, time.monotonic() - self._begun.get(node.name, time.monotonic()), error)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Write the events of a run that ended well."""
        if not is_follower():
            end_workflow(self._nodes, self._catalog)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Write the events of one that did not."""
        if not is_follower():
            end_workflow(self._nodes, self._catalog, error)


class RehearsalHooks:
    """On request, every row in small before the run: what would fail after hours fails in minutes."""

    @hook_impl
    def after_context_created(self, context: "KedroContext") -> None:
        """Keep what the rehearsal needs."""
        self._params: dict[str, Any] = context.config_loader["parameters"]
        self._loader = context.config_loader

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: "Pipeline") -> None:
        """Rehearse, if asked to; an error here leaves no MLflow run, as it comes before one is opened."""
        from vibe_pipeline.experiment.run import RunParams
        from vibe_pipeline.generation.methods import checked_tables

        tags = {tag for node in pipeline.nodes for tag in node.tags}
        asked = RunParams(**self._params.get("run", {})).rehearse
        if not asked or not tags & {"relay_stage1", "relay_stage2", "generation"}:
            return
        from vibe_pipeline.rehearsal import format_line, rehearse, require_rehearsable, require_rehearsed

        require_rehearsable(self._params["model"].get("device", "auto"), str(run_params.get("runner")))
        tables = checked_tables(self._params)
        lines = rehearse(self._params, tables, self._loader["catalog"], lambda line: log.info("%s", format_line(line)))
        require_rehearsed(lines)
