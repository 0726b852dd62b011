"""What others' benchmarks and arms need: weights, and VBench's second environment."""

import sys
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, parameter_options, parameters_of, said_plainly


@click.command()
@parameter_options
@click.option("--dimensions", multiple=True, help="Only of these dimensions of VBench, names with commas.")
@click.option("--measures", multiple=True, help="Only of these measures, names with commas (docs/evaluation.md).")
def fetch_weights(chosen: Chosen, dimensions: tuple[str, ...], measures: tuple[str, ...]) -> None:
    """Bring weights for scoring, verified; run again, it goes on where it stopped.

    Those of evaluation.vbench_dimensions into folders.vbench_weights, those of evaluation.extra_measures into
    folders.measure_weights.
    """
    from vibe_pipeline.evaluation.weights import fetch_measures
    from vibe_pipeline.experiment.evaluation import EvaluationParams
    from vibe_pipeline.vbench.weights import fetch_weights as fetch
    from vibe_pipeline.vbench.weights import listed

    with said_plainly():
        params = parameters_of(chosen)
        evaluation, folders = EvaluationParams(**params["evaluation"]), params["folders"]
        wanted = () if measures and not dimensions else dimensions or evaluation.vbench_dimensions
        extra = () if dimensions and not measures else _named(measures) or evaluation.extra_measures
        errors = fetch(listed(wanted), Path(folders["vbench_weights"]), click.echo) if wanted else []
        errors += fetch_measures(extra, folders, click.echo)
    sys.exit(bool(errors))


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
