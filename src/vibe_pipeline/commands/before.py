"""Before a run: what it will take, what is missing, every row tried for a step."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from vibe_pipeline.commands.options import Chosen, blocks_option, parameter_options, parameters_of, said_plainly


@click.command()
@parameter_options
@blocks_option
@click.option("--device", help="this (measured), a100, h100, h200, l40s, 4090 or 5090; else this for a CPU, or h100.")
@click.option("--share", type=float, help="Of the device's peak, assumed of every kernel.  [default: rates by kernel]")
@click.option("--images", type=click.IntRange(1), help="How many, where they are not here yet.")
@click.option("--cores", type=click.IntRange(1), help="Processors beside the device.  [default: this machine's]")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def plan(chosen: Chosen, as_json: bool, **assumed: Any) -> None:
    """Tokens, FLOPs, time, memory and disk of every stage, adapter and arm; no weights are needed."""
    from vibe_pipeline.planning.figures import Figures
    from vibe_pipeline.planning.machine import usual_device
    from vibe_pipeline.planning.plan import Assumed, make_plan
    from vibe_pipeline.planning.table import format_plan

    with said_plainly():
        params = parameters_of(chosen)
        assumed["device"] = assumed["device"] or usual_device(params)
        made = make_plan(params, Assumed(**assumed), Figures(Path(params["folders"]["planning"])))
    click.echo(json.dumps(made.to_dict(), indent=1) if as_json else format_plan(made))


@click.command()
@parameter_options
@click.option("--images", type=click.IntRange(1), help="How many there will be, where they are not here yet.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def doctor(chosen: Chosen, images: int | None, as_json: bool) -> None:
    """What is missing before a run, each with the command that fixes it; exit code 1 if anything needed is."""
    from vibe_pipeline.experiment.sequential import at_look
    from vibe_pipeline.planning.doctor import examine
    from vibe_pipeline.planning.figures import Figures
    from vibe_pipeline.planning.findings import format_findings

    with said_plainly():
        params = at_look(parameters_of(chosen), -1)
        findings = examine(params, images, Figures(Path(params["folders"]["planning"])))
    click.echo(json.dumps([vars(f) for f in findings], indent=1) if as_json else format_findings(findings))
    missing = any(f.state == "missing" for f in findings)
    if not (as_json or missing):
        click.echo("next, every training and arm tried for a step: kedro vibe rehearse" + chosen.shown)
    sys.exit(missing)


@click.command()
@parameter_options
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def rehearse(chosen: Chosen, as_json: bool) -> None:
    """Try every training and arm for a step or two at its real size, one arm's scores and page; keep nothing.

    One line a node: seconds and peak memory, or the error. Exit code 1 if any failed.
    """
    from vibe_pipeline.experiment.loader import loader_of
    from vibe_pipeline.experiment.sequential import at_look
    from vibe_pipeline.generation.methods import checked_tables
    from vibe_pipeline.generation.optional_arms import without_missing
    from vibe_pipeline.planning.preflight import check_parameters
    from vibe_pipeline.rehearsal import format_line, rehearse
    from vibe_pipeline.runtime.project_lock import lock_project, unlock

    with said_plainly():
        asked = at_look(parameters_of(chosen), -1)
        params = without_missing(asked, checked_tables(asked), Path.cwd())
        tables = checked_tables(params)
        check_parameters(params, tables, {"relay_stage2", "generation", "vbench_eval", "ablation_report"})
        catalog = loader_of(chosen.env, chosen.params, chosen.conf_source)["catalog"]
        locks = lock_project(Path(params["folders"]["data"]))
        try:
            lines = rehearse(
                params, tables, catalog, (lambda _: None) if as_json else lambda x: click.echo(format_line(x))
            )
        finally:
            unlock(locks)
    if as_json:
        click.echo(json.dumps([vars(line) for line in lines], indent=1))
    sys.exit(any(line.error for line in lines))
