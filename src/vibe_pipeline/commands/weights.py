"""What others' benchmarks and arms need: weights, and VBench's second environment."""

import sys
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, parameter_options, parameters_of, said_plainly


@click.command()
@parameter_options
@click.option("--dimensions", multiple=True, help="Names with commas; without it, those of the parameters.")
@click.option("--arms", is_flag=True, help="Instead, files of other people's methods that rows of `arms` name.")
def fetch_weights(chosen: Chosen, dimensions: tuple[str, ...], arms: bool) -> None:
    """Bring VBench's weights, verified, into folders.vbench_weights; run again, it goes on where it stopped.

    With --arms, bring what the environment's arms name (Real-ESRGAN, CineScale, T3-Video, UltraWan) to where they look
    for it.
    """
    from vibe_pipeline.vbench.weights import fetch_weights as fetch
    from vibe_pipeline.vbench.weights import listed

    if arms and dimensions:
        raise click.UsageError("--arms and --dimensions ask for different files: give one of them")
    if arms:
        sys.exit(not _fetch_peers(chosen))
    with said_plainly():
        params = parameters_of(chosen)
        names = listed(dimensions or params["evaluation"]["vbench_dimensions"])
        errors = fetch(names, Path(params["folders"]["vbench_weights"]), click.echo)
    sys.exit(bool(errors))


def _fetch_peers(chosen: Chosen) -> bool:
    """Bring the files that arms name; whether all are there."""
    from vibe_pipeline.generation.methods import checked_tables
    from vibe_pipeline.generation.peer_weights import fetch_peers, listed

    with said_plainly():
        params = parameters_of(chosen)
        paths = [path for arm in checked_tables(params).arms.values() for path in arm.weight_files.values()]
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
