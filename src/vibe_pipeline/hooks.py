"""Kedro hooks: the tables reach the graph, a `kedro run` reaches MLflow."""

import atexit
import os
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline

from vibe_pipeline import pipeline_registry
from vibe_pipeline.budget import set_deadline
from vibe_pipeline.config import RunParams, TrackingParams
from vibe_pipeline.identity import content_key
from vibe_pipeline.preflight import check_parameters
from vibe_pipeline.runlock import Locks, lock_project, unlock


class GraphHooks:
    """Builds the graph from the parameters of the chosen environment."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the tables against each other and hand them to the registry."""
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._params: dict[str, Any] = context.config_loader["parameters"]
        self._tables = pipeline_registry.tables_of(self._params)
        pipeline_registry.use_tables(self._tables)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        """Refuse what cannot work, before a run is opened or anything is written."""
        # Kedro finds a project from below it, but paths in parameters are relative to its folder.
        os.chdir(run_params["project_path"])
        check_parameters(self._params, self._tables, {tag for node in pipeline.nodes for tag in node.tags})


class RunHooks:
    """One run at a time in a project, and no longer than its hours."""

    def __init__(self) -> None:
        self._locks: Locks = []

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the parameters for the run."""
        self._params: dict[str, Any] = context.config_loader["parameters"]

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Take the project; start the clock."""
        run = RunParams(**self._params.get("run", {}))
        folder = Path(run_params["project_path"]) / "data"
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

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep what the parent run records."""
        self._project, self._env = context.project_path, context.env or "base"
        self._params: dict[str, Any] = context.config_loader["parameters"]

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Open the run before anything expensive starts; an unreachable server fails here."""
        from vibe_pipeline.tracking import end_parent, git_commit, start_parent

        names = ", ".join(run_params.get("pipeline_names") or ["__default__"])
        tags = {
            "git_commit": git_commit(self._project),
            "config_hash": content_key(self._params),
            "env": self._env,
            "pipelines": names,
        }
        shown = {k: v for k, v in self._params.items() if k not in ("adapters", "arms", "stage1", "tracking")}
        tracking = TrackingParams(**self._params.get("tracking", {}))
        start_parent(tracking, self._project, f"{self._env}: {names}", tags, shown)
        # Kedro reports an error but not an interruption (Ctrl-C), which would leave the run open for ever.
        atexit.register(end_parent, "KILLED")

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Close the run."""
        from vibe_pipeline.tracking import end_parent

        end_parent("FINISHED")

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Mark the run as failed."""
        from vibe_pipeline.tracking import end_parent

        end_parent("FAILED")
