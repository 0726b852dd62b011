"""What others' benchmarks and arms need: weights, and VBench's second environment."""

import sys
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, parameter_options, parameters_of, said_plainly


@click.command()
@parameter_options
@click.option("--dimensions", multiple=True, help="Names with commas; without it, those of the parameters.")
def fetch_weights(chosen: Chosen, dimensions: tuple[str, ...]) -> None:
    """Bring VBench's weights, verified, into folders.vbench_weights; run again, it goes on where it stopped."""
    from vibe_pipeline.vbench.weights import fetch_weights as fetch
    from vibe_pipeline.vbench.weights import listed

    with said_plainly():
        params = parameters_of(chosen)
        names = listed(dimensions or params["evaluation"]["vbench_dimensions"])
        errors = fetch(names, Path(params["folders"]["vbench_weights"]), click.echo)
    sys.exit(bool(errors))


@click.command()
@parameter_options
def vbench_env(chosen: Chosen) -> None:
    """Make the second environment, with VBench's own versions, for dimensions that cannot run in this one."""
    from vibe_pipeline.vbench.second_env import make_second_env

    with said_plainly():
        make_second_env(Path(parameters_of(chosen)["folders"]["vbench_env"]), Path("requirements"), click.echo)
