"""What others' benchmarks and arms need: weights, and VBench's second environment."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, OwnPath, parameter_options, parameters_of, said_plainly


@click.command()
@click.argument("files", nargs=-1, type=OwnPath())
@parameter_options
@click.option("--dimensions", multiple=True, help="Names with commas; without it, those of the parameters.")
@click.option("--arms", is_flag=True, help="Instead, files of other people's methods that rows of `arms` name.")
def fetch_weights(files: tuple[Path, ...], chosen: Chosen, dimensions: tuple[str, ...], arms: bool) -> None:
    """Bring VBench's weights, verified, into folders.vbench_weights; run again, it goes on where it stopped.

    With --arms, bring what the environment's arms name (Real-ESRGAN, CineScale, T3-Video, UltraWan) to where they look
    for it; or give FILES of other people's methods by their paths.
    """
    from vibe_pipeline.vbench.weights import fetch_weights as fetch
    from vibe_pipeline.vbench.weights import listed

    if dimensions and (arms or files):
        raise click.UsageError("--dimensions are VBench's, --arms and FILES other methods': give one of them")
    if arms or files:
        sys.exit(not _fetch_peers(files, chosen, arms))
    with said_plainly():
        params = parameters_of(chosen)
        names = listed(dimensions or params["evaluation"]["vbench_dimensions"])
        errors = fetch(names, Path(params["folders"]["vbench_weights"]), click.echo)
    sys.exit(bool(errors))


def _fetch_peers(files: Sequence[Path], chosen: Chosen, arms: bool) -> bool:
    """Bring these files, and with `arms` those that the environment's arms name; whether all are there."""
    from vibe_pipeline.generation.methods import checked_tables
    from vibe_pipeline.generation.peer_weights import fetch_peers, listed

    with said_plainly():
        params = parameters_of(chosen)
        rows = checked_tables(params).arms.values() if arms else ()
        paths = [*files, *(path for arm in rows for path in arm.weight_files.values())]
        if not paths:
            there = listed(Path(params["folders"]["peers"]))
            click.echo(
                f"no arm of this environment names such a file{chosen.shown and f' ({chosen.env})'}. Known:\n{there}"
            )
        return fetch_peers(paths, click.echo)


@click.command()
@parameter_options
def vbench_env(chosen: Chosen) -> None:
    """Make the second environment, with VBench's own versions, for dimensions that cannot run in this one."""
    from vibe_pipeline.vbench.second_env import make_second_env

    with said_plainly():
        make_second_env(Path(parameters_of(chosen)["folders"]["vbench_env"]), Path("requirements"), click.echo)
