"""`kedro vibe grow`: `kedro run` look after look, until every claim is told or a budget is spent."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vibe_pipeline.commands.options import Chosen, blocks_option, parameter_options, parameters_of, said_plainly

if TYPE_CHECKING:
    from vibe_pipeline.evaluation.sequential import Look
    from vibe_pipeline.reporting.growth import Growth, Told

NOTED = 60.0
"""Seconds after which the hours of a run that goes on are kept again: a kill loses no more of the account."""
ENDING = 120.0
"""Seconds that a run is given to end by itself after it was interrupted."""


@click.command()
@parameter_options
@blocks_option
@click.option("--budget-hours", type=click.FloatRange(0, min_open=True), help="Of all its runs, earlier calls' too.")
@click.option("--budget-prompts", type=click.IntRange(1), help="Make no look at more prompts than these.")
@click.option("--runner", help="Of `kedro run`.")
def grow(chosen: Chosen, budget_hours: float | None, budget_prompts: int | None, runner: str | None) -> None:
    """Look at more and more prompts until every claim is told or the budget is spent.

    Each look is a `kedro run` with that many prompts; what an earlier one made is kept. Verdicts are corrected for all
    looks of generation.sequential. After a kill the same command goes on at the look that it was at.
    """
    from vibe_pipeline.evaluation.sequential import Look

    with said_plainly():
        params = parameters_of(chosen)
        growth = _begun(params)
        for told in growth.looks:
            click.echo(told.line(growth.blocks))
        while not (why := growth.ending(budget_hours, budget_prompts)):
            look = Look(len(growth.looks) + 1, growth.blocks)
            left = None if budget_hours is None else budget_hours - growth.hours
            folder = Path(params["folders"]["reporting"])
            config = _written(folder / "look.yml", _of_look(chosen, params, look, left), runner)
            click.echo(f"{look.said}: kedro run --config={config}")
            code, growth = _made(config, growth)
            if not code:
                growth = growth.looked(_told(folder, look, growth.unfinished))
                click.echo(growth.looks[-1].line(growth.blocks))
            elif not growth.ending(budget_hours, budget_prompts):
                click.echo(f"{look.said} did not end; the same command goes on there", err=True)
                sys.exit(code)
    click.echo(why)


def _begun(params: dict[str, Any]) -> "Growth":
    """What was looked at of this experiment so far.

    Raises:
        ValueError: There are no looks to make, or they cannot be made.
    """
    from vibe_pipeline.experiment.sequential import at_look, blocks_of
    from vibe_pipeline.planning.looks import check_look
    from vibe_pipeline.reporting.growth import Growth

    if not (blocks := blocks_of(params)):
        raise ValueError(
            "generation.sequential is not set: give --blocks=16,32,64,128, or write the same into the environment's "
            "parameters.yml, as generation: {sequential: {blocks: [16, 32, 64, 128]}}"
        )
    check_look(at_look(params, 1))
    return Growth.kept(params, blocks, Path(params["folders"]["reporting"]) / "growth.json")


def _of_look(chosen: Chosen, params: dict[str, Any], look: "Look", left: float | None) -> Chosen:
    """The parameters of one look: its prompts, and no more hours than are left."""
    given: dict[str, Any] = {"generation": {"count": look.blocks[look.number - 1]}}
    if left is not None:
        given["run"] = {"hours": min(left, params["run"].get("hours") or left)}
    return chosen.changed(given)


def _written(path: Path, chosen: Chosen, runner: str | None) -> Path:
    """What `kedro run` is given, as the file that its `--config` takes."""
    from omegaconf import OmegaConf

    from vibe_pipeline.io.files import write_atomic

    options = {"env": chosen.env, "params": chosen.params, "conf_source": chosen.conf_source, "runner": runner}
    run = {name: value for name, value in options.items() if value}
    return write_atomic(path, lambda unfinished: OmegaConf.save({"run": run}, unfinished))


def _made(config: Path, growth: "Growth") -> tuple[int, "Growth"]:
    """The exit code of a look's run, and the account of its hours."""
    begun, before = time.monotonic(), growth.unfinished

    def note() -> "Growth":
        return growth.ran(before + (time.monotonic() - begun) / 3600)

    try:
        code = _run([sys.executable, "-m", "kedro", "run", f"--config={config}"], note)
    finally:
        noted = note()
    return code, noted


def _run(command: list[str], note: Callable[[], object]) -> int:
    """Run a command to its end; interrupted or terminated, it is interrupted too and waited for."""

    def stop(*_: object) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    earlier = signal.signal(signal.SIGTERM, stop)
    # A shell that starts a command in the background lets it ignore interrupts, and what it starts would inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, preexec_fn=heard)
    try:
        while True:
            try:
                return process.wait(NOTED)
            except subprocess.TimeoutExpired:
                note()
    except BaseException as stopped:
        if not isinstance(stopped, KeyboardInterrupt):  # a terminal has interrupted both
            process.send_signal(signal.SIGINT)
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _told(folder: Path, look: "Look", hours: float) -> "Told":
    """What the verdicts of a look's run say."""
    from vibe_pipeline.datasets import CsvTable
    from vibe_pipeline.evaluation.claims_table import TEXT
    from vibe_pipeline.reporting.growth import Told

    table = CsvTable(filepath=str(folder / "claims_table.csv"), text=list(TEXT)).load()
    return Told.of(table, look, hours)
