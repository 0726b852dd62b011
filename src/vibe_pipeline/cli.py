"""The commands that Kedro finds in a project: its own `run`, settled first, and `kedro vibe …`."""

import copy
import os
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.utils import find_kedro_project

from vibe_pipeline.commands import before, begin, exchange, grow, results, use, weights
from vibe_pipeline.commands.options import config_read_plainly
from vibe_pipeline.commands.refusals import plainly, require_runner

COMMANDS = (
    begin.init,
    use.refine,
    use.generate,
    before.plan,
    before.doctor,
    before.rehearse,
    grow.grow,
    exchange.export_adapter,
    exchange.import_adapter,
    weights.fetch_weights,
    weights.vbench_env,
    results.report,
    results.runs,
    results.compare,
    results.moved,
    begin.schema,
)


class Commands(click.Group):
    """Commands, of which the one is suggested that was not typed to its end; click suggests what is spelt alike."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's own, with the commands that begin as what was typed."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            begun = [repr(name) for name in self.list_commands(ctx) if name.startswith(args[0])]
            if getattr(error, "possibilities", None) or not begun:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(begun)}?", ctx) from None


@click.group(name="vibe_pipeline")
def cli() -> None:
    """Commands of this project."""


@cli.group(cls=Commands)
@click.pass_context
def vibe(ctx: click.Context) -> None:
    """Plan, check, use and exchange: everything beside `kedro run`."""
    from vibe_pipeline.runtime.terminal import whole_lines

    whole_lines()
    ctx.obj = Path.cwd()
    # Kedro finds a project from below it, but paths in parameters are relative to its folder.
    os.chdir(find_kedro_project(Path.cwd()) or Path.cwd())


def _run(verbose: bool, **options: Any) -> Any:
    """Kedro's own `run`, after what must be settled before its runner starts processes; an error is one line."""
    from vibe_pipeline.runtime.scratch import settle_scratch
    from vibe_pipeline.runtime.terminal import whole_lines

    whole_lines()
    try:
        settle_scratch()
        require_runner(options["runner"])
        run = kedro_run.callback
        assert run is not None  # of Kedro's own command
        return run(**options)
    except click.exceptions.ClickException:
        raise
    except Exception as error:
        if verbose:
            raise
        raise click.ClickException(plainly(error, options)) from error


run = copy.copy(kedro_run)
run.params = [
    *(config_read_plainly(o) if isinstance(o, click.Option) and o.name == "config" else o for o in kedro_run.params),
    click.Option(["--verbose"], is_flag=True, help="Show an error's whole traceback, not its one line."),
]
run.callback = _run
cli.add_command(run)
for command in COMMANDS:
    vibe.add_command(command)
