"""What others' benchmarks and arms need: weights, and VBench's second environment."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, OwnPath, parameter_options, parameters_of, said_plainly


@click.command()
@click.argument("files", nargs=-1, type=OwnPath())
@parameter_options
@click.option("--dimensions", multiple=True, help="Only of these dimensions of VBench, names with commas.")
@click.option("--measures", multiple=True, help="Only of these measures, names with commas (docs/evaluation.md).")
@click.option("--arms", is_flag=True, help="Instead, files of other people's methods that rows of `arms` name.")
def fetch_weights(
    files: tuple[Path, ...], chosen: Chosen, dimensions: tuple[str, ...], measures: tuple[str, ...], arms: bool
) -> None:
    """Bring weights for scoring, verified; run again, it goes on where it stopped.

    Those of evaluation.vbench_dimensions into folders.vbench_weights, those of evaluation.extra_measures into
    folders.measure_weights. With --arms, bring what the environment's arms name (Real-ESRGAN, CineScale, T3-Video,
    UltraWan) to where they look for it; or give FILES of other people's methods by their paths.
    """
    from vibe_pipeline.evaluation.weights import fetch_measures
    from vibe_pipeline.experiment.evaluation import EvaluationParams
    from vibe_pipeline.vbench.weights import fetch_weights as fetch
    from vibe_pipeline.vbench.weights import listed

    if (dimensions or measures) and (arms or files):
        raise click.UsageError("--dimensions and --measures score clips, --arms and FILES make them: give one of both")
    if arms or files:
        sys.exit(not _fetch_peers(files, chosen, arms))
    with said_plainly():
        params = parameters_of(chosen)
        evaluation, folders = EvaluationParams(**params["evaluation"]), params["folders"]
        wanted = () if measures and not dimensions else dimensions or evaluation.vbench_dimensions
        extra = () if dimensions and not measures else _named(measures) or evaluation.extra_measures
        errors = fetch(listed(wanted), Path(folders["vbench_weights"]), click.echo) if wanted else []
        errors += fetch_measures(extra, folders, click.echo)
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


def _named(texts: tuple[str, ...]) -> list[str]:
    """Names out of texts with commas."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


@click.command()
@parameter_options
def vbench_env(chosen: Chosen) -> None:
    """Make the second environment, with VBench's own versions, for dimensions that cannot run in this one."""
    from vibe_pipeline.vbench.second_env import make_second_env

    with said_plainly():
        make_second_env(Path(parameters_of(chosen)["folders"]["vbench_env"]), Path("requirements"), click.echo)
