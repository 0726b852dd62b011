"""What stops a `kedro run`, in one line and in the words of whoever typed it."""

from collections.abc import Mapping
from typing import Any

import click

EXPECTED = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
"""Errors whose message says all; of others the kind is told too."""
OURS = ("SequentialRunner", "ParallelRunner", "ThreadRunner", "vibe_pipeline.runtime.ray_runner.RayRunner")


def require_runner(name: str | None) -> None:
    """Refuse a runner that is not there.

    Raises:
        ClickException: Names those that are.
    """
    from kedro.utils import load_obj

    from vibe_pipeline.io.errors import did_you_mean

    try:
        load_obj(name or OURS[0], "kedro.runner")
    except (AttributeError, ImportError, ValueError) as error:
        known = f"there are {', '.join(OURS)}{did_you_mean(name, OURS)}"
        raise click.ClickException(f"--runner: {name!r} cannot be found; {known}") from error


def plainly(error: Exception, options: Mapping[str, Any]) -> str:
    """An error of a run on one line; behind it, where a node had begun, which one and where the traceback is."""
    from vibe_pipeline.io.errors import one_line
    from vibe_pipeline.io.redact import redact

    said = _unknown_names(options) or one_line(redact(str(error)), 2000)
    if not isinstance(error, EXPECTED) or not said:
        said = f"{type(error).__name__}: {said}".rstrip(": ")
    notes = getattr(error, "__notes__", [])
    behind = notes[-1] if notes else "" if isinstance(error, EXPECTED) else "--verbose shows where"
    return f"{said} ({behind})" if behind else said


def _unknown_names(options: Mapping[str, Any]) -> str:
    """Pipelines, nodes and tags that were asked for and are not there; Kedro speaks of functions of the source."""
    from kedro.framework.project import pipelines

    from vibe_pipeline.io.errors import did_you_mean

    asked = [name for name in (options.get("pipeline"), *(options.get("pipelines") or ())) if name]
    if not any(options.get(kind) for kind in ("pipeline", "pipelines", "node_names", "tags", "from_nodes", "to_nodes")):
        return ""
    try:
        known = dict(pipelines)
    except Exception:  # what builds them failed, which the error itself says
        return ""
    for name in asked:
        if name not in known:
            return f"there is no pipeline {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}"
    nodes = [node for name in asked or ["__default__"] for node in known[name].nodes]
    names, tags = {node.name for node in nodes}, {tag for node in nodes for tag in node.tags}
    looked = {"node_names": ("node", names), "from_nodes": ("node", names), "to_nodes": ("node", names)}
    for option, (kind, there) in (looked | {"tags": ("tag", tags)}).items():
        for name in options.get(option) or ():
            if name not in there:
                return f"there is no {kind} {name!r} in this pipeline{did_you_mean(name, there)}"
    return ""
