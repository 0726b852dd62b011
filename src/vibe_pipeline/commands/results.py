"""After a run: its report, all runs, two arms against each other, and a project that was moved."""

import json
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, parameter_options, parameters_of, said_plainly


@click.command()
@click.argument("run_a", metavar="RUN_A[:ARM]")
@click.argument("run_b", metavar="RUN_B[:ARM]")
@click.option("--metric", "metrics", multiple=True, help="Only this one; may be given several times.")
@parameter_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(run_a: str, run_b: str, metrics: tuple[str, ...], chosen: Chosen, as_json: bool) -> None:
    """Compare two arms of any two runs, clip by clip, by the report's statistics.

    RUN is the id of an MLflow run, or its unique start, or a report's scores.parquet. Differences are A − B over
    the prompts and seeds that both have.
    """
    from vibe_pipeline.evaluation.bootstrap import Bootstrap
    from vibe_pipeline.experiment.evaluation import EvaluationParams
    from vibe_pipeline.experiment.run import TrackingParams
    from vibe_pipeline.reporting import compare as room

    with said_plainly():
        params = parameters_of(chosen)
        tracking, settings_ = TrackingParams(**params.get("tracking", {})), EvaluationParams(**params["evaluation"])
        sides = room.find_side(run_a, run_b, tracking), room.find_side(run_b, run_a, tracking)
        bootstrap = Bootstrap(settings_.bootstrap_samples, settings_.confidence, settings_.seed)
        found = room.compare(*sides, metrics, bootstrap)
    click.echo(json.dumps(found.as_dict(), indent=1) if as_json else room.as_text(found))


@click.command()
@parameter_options
def moved(chosen: Chosen) -> None:
    """After a copy or a move of the project: let MLflow find its artefacts here. A run does this by itself."""
    from vibe_pipeline.experiment.run import TrackingParams
    from vibe_pipeline.tracking.store import opened

    with said_plainly(), opened(TrackingParams(**parameters_of(chosen).get("tracking", {})), Path.cwd()):
        click.echo("artefacts of runs in a local store are looked for in this project")


@click.command()
@parameter_options
@click.option("--open", "opens", is_flag=True, help="Show the page in the browser.")
def report(chosen: Chosen, opens: bool) -> None:
    """The newest result again: its table, its verdicts, and where the page lies."""
    from vibe_pipeline.io.files import read_json
    from vibe_pipeline.reporting.result import ending

    with said_plainly():
        folder = Path(parameters_of(chosen)["folders"]["reporting"])
        if not (folder / "report.json").is_file():
            raise ValueError(f"there is no report in {folder} yet: `kedro run{chosen.shown}` makes it")
        manifest = read_json(folder / "report.json")
        page = Path(manifest["path"])
        if not page.is_file():
            raise ValueError(f"{page} is not there: `kedro run{chosen.shown} --nodes=write_page` makes it again")
    click.echo("\n".join(ending(manifest if "result" in manifest else {**manifest, "result": {"arms": {}}}, "")))
    if opens:
        click.launch(page.absolute().as_uri())


@click.command()
@parameter_options
@click.option("--last", type=click.IntRange(1), default=20, show_default=True, help="How many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def runs(chosen: Chosen, last: int, as_json: bool) -> None:
    """Runs of this project, the newest first: id, begin, how long, how it ended, what it ran, of which commit.

    The start of an id is enough for `kedro vibe compare`.
    """
    from vibe_pipeline.experiment.run import TrackingParams
    from vibe_pipeline.io.text_table import aligned
    from vibe_pipeline.tracking.history import HEADS, past_runs

    with said_plainly():
        found = past_runs(TrackingParams(**parameters_of(chosen).get("tracking", {})), Path.cwd(), last)
    if as_json:
        click.echo(json.dumps([run.as_dict() for run in found], indent=1))
    elif not found:
        click.echo(f"no run yet: `kedro run{chosen.shown}` makes one")
    else:
        click.echo("\n".join(aligned([HEADS, *(run.cells for run in found)])))
