"""The commands that Kedro finds in a project: its own `run`, settled first, and `kedro vibe …`."""

import copy
import os
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.utils import find_kedro_project

from vibe_pipeline.commands import before, exchange, results, use, weights
from vibe_pipeline.commands.options import said_plainly

COMMANDS = (
    use.refine,
    use.generate,
    before.plan,
    before.doctor,
    before.rehearse,
    exchange.export_adapter,
    exchange.import_adapter,
    weights.fetch_weights,
    weights.vbench_env,
    results.compare,
    results.moved,
)


@click.group(name="vibe_pipeline")
def cli() -> None:
    """Commands of this project."""


@cli.group()
@click.pass_context
def vibe(ctx: click.Context) -> None:
    """Plan, check, use and exchange: everything beside `kedro run`."""
    ctx.obj = Path.cwd()
    # Kedro finds a project from below it, but paths in parameters are relative to its folder.
    os.chdir(find_kedro_project(Path.cwd()) or Path.cwd())


def _run(**options: Any) -> Any:
    """Kedro's own `run`, after what must be settled before its runner starts processes."""
    from vibe_pipeline.experiment.errors import ParameterError
    from vibe_pipeline.runtime.scratch import settle_scratch

    with said_plainly():
        settle_scratch()
    try:
        return kedro_run.callback(**options)
    except ParameterError as error:
        raise click.ClickException(str(error)) from error


run = copy.copy(kedro_run)
run.callback = _run
cli.add_command(run)
for command in COMMANDS:
    vibe.add_command(command)
