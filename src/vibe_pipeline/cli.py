"""`kedro vibe …`: what to know before a run, and what to do beside one. Commands only parse; the rooms do the work."""

import copy
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import KedroCliError
from kedro.utils import find_kedro_project
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vibe_pipeline.io.files import read_json


@click.group(name="vibe_pipeline")
def cli() -> None:
    """Commands of this project."""


@cli.group()
def vibe() -> None:
    """Plan, check and exchange: everything beside `kedro run`."""
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


@dataclass(frozen=True)
class Chosen:
    """Which parameters: what `kedro run` is given by options of the same names."""

    env: str | None = None
    params: dict[str, Any] | None = None
    conf_source: str | None = None

    @property
    def shown(self) -> str:
        """The environment as an option, to be put behind a command; empty where none was chosen."""
        return f" --env={self.env}" if self.env else ""


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `kedro run` that decide parameters, Kedro's own objects; `command` gets them as `chosen`."""
    options = {option.name: option for option in kedro_run.params if isinstance(option, click.Option)}

    def read_file(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
        # Kedro reads the section that is named like the command; one file serves them all.
        said, ctx.info_name = ctx.info_name, "run"
        try:
            return options["config"].callback(ctx, option, value)
        except KedroCliError as error:
            raise click.UsageError(f"--config: {value}: {error.message}") from error
        except (KeyError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
            from vibe_pipeline.io.errors import one_line

            raise click.UsageError(f"--config: {value} has no readable section `run:`: {one_line(error)}") from error
        finally:
            ctx.info_name = said

    @functools.wraps(command)
    def with_chosen(*, env: str, params: dict[str, Any], config: str, conf_source: str, **others: Any) -> Any:
        return command(chosen=Chosen(env, params, conf_source), **others)

    config = copy.copy(options["config"])
    config.callback = read_file
    taken: Callable[..., Any] = with_chosen
    for option in (options["conf_source"], config, options["params"], options["env"]):
        taken = click.option(cls=functools.partial(_same, option))(taken)
    return taken


def _same(option: click.Option, declarations: Any) -> click.Option:
    return option


def parameters_of(chosen: Chosen) -> dict[str, Any]:
    """The parameters that `kedro run` reads with the same options, sweeps unfolded.

    Raises:
        ValueError: There is no such environment, or its parameters cannot be used; one line that names file or field.
    """
    from vibe_pipeline.experiment.load import settled_parameters
    from vibe_pipeline.experiment.loader import loader_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Kedro's own, about a function that OmegaConf renamed
        return settled_parameters(loader_of(chosen.env, chosen.params, chosen.conf_source))


@contextmanager
def said_plainly() -> Iterator[None]:
    """Show an expected error as its message, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise click.ClickException(str(error)) from error


@vibe.command()
@parameter_options
@click.option("--device", default="h100", show_default=True, help="a100, h100, h200, l40s, 4090 or 5090.")
@click.option("--share", default=0.5, show_default=True, help="Assumed share of the device's peak.")
@click.option("--images", type=click.IntRange(1), help="How many, where they are not here yet.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def plan(chosen: Chosen, device: str, share: float, images: int | None, as_json: bool) -> None:
    """Tokens, FLOPs, time, memory and disk of every stage, adapter and arm; no weights are needed."""
    from vibe_pipeline.planning.figures import FOLDER, Figures
    from vibe_pipeline.planning.plan import make_plan
    from vibe_pipeline.planning.table import format_plan

    with said_plainly():
        made = make_plan(parameters_of(chosen), device, share, images, Figures(FOLDER))
    click.echo(json.dumps(made.to_dict(), indent=1) if as_json else format_plan(made))


@vibe.command()
@parameter_options
@click.option("--images", type=click.IntRange(1), help="How many there will be, where they are not here yet.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def doctor(chosen: Chosen, images: int | None, as_json: bool) -> None:
    """What is missing before a run, each with the command that fixes it; exit code 1 if anything needed is."""
    from vibe_pipeline.planning.doctor import examine, format_findings
    from vibe_pipeline.planning.figures import FOLDER, Figures

    with said_plainly():
        findings = examine(parameters_of(chosen), images, Figures(FOLDER))
    click.echo(json.dumps([vars(f) for f in findings], indent=1) if as_json else format_findings(findings))
    missing = any(f.state == "missing" for f in findings)
    if not (as_json or missing):
        click.echo("next, every training and arm tried for a step: kedro vibe rehearse" + chosen.shown)
    sys.exit(missing)


@vibe.command()
@parameter_options
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def rehearse(chosen: Chosen, as_json: bool) -> None:
    """Try every training and arm for a step or two at its real size, one arm's scores and page; keep nothing.

    One line a node: seconds and peak memory, or the error. Exit code 1 if any failed.
    """
    from vibe_pipeline.experiment.loader import loader_of
    from vibe_pipeline.generation.methods import checked_tables
    from vibe_pipeline.generation.optional_arms import without_missing
    from vibe_pipeline.planning.preflight import check_parameters
    from vibe_pipeline.rehearsal import format_line, rehearse
    from vibe_pipeline.runtime.project_lock import lock_project, unlock

    with said_plainly():
        asked = parameters_of(chosen)
        params = without_missing(asked, checked_tables(asked), Path.cwd())
        tables = checked_tables(params)
        check_parameters(params, tables, {"relay_stage2", "generation", "vbench_eval", "ablation_report"})
        catalog = loader_of(chosen.env, chosen.params, chosen.conf_source)["catalog"]
        locks = lock_project(Path("data"))
        try:
            lines = rehearse(
                params, tables, catalog, (lambda _: None) if as_json else lambda x: click.echo(format_line(x))
            )
        finally:
            unlock(locks)
    if as_json:
        click.echo(json.dumps([vars(line) for line in lines], indent=1))
    sys.exit(any(line.error for line in lines))


@vibe.command()
@click.argument("adapter")
@click.option("--to", "layout", required=True, type=click.Choice(["diffusers", "comfyui", "kohya", "diffsynth"]))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The new .safetensors file.")
@click.option("--fold", is_flag=True, help="Multiply alpha / rank into the weights, for readers that know no alpha.")
def export_adapter(adapter: str, layout: Any, output: Path, fold: bool) -> None:
    """Write ADAPTER, a file or a trained row's name, in another program's key layout."""
    from vibe_pipeline.diffusion import lora_formats as layouts

    with said_plainly():
        source = _adapter_file(adapter)
        written = layouts.export_adapter(source, layout, output, fold)
    click.echo(f"{written} ({layout}), from {source}")
    if layout == "diffsynth" and not fold:
        click.echo(
            "where alpha differs from the rank it stands in .alpha keys, which early DiffSynth-Studio ignores: --fold"
        )


def _adapter_file(adapter: str) -> Path:
    """A file, or the file of a trained adapter by the name of its row."""
    if Path(adapter).suffix:
        return Path(adapter)
    manifest = Path("data/06_models/adapters") / f"{adapter}.json"
    if not manifest.is_file():
        known = ", ".join(sorted(p.stem for p in manifest.parent.glob("*.json"))) or "none yet"
        raise FileNotFoundError(f"{adapter!r} is neither a file nor a trained adapter; trained: {known}")
    content = read_json(manifest)
    if not isinstance(content, dict) or not isinstance(content.get("path"), str):
        raise ValueError(f"{manifest} names no adapter file; run the row again")
    return Path(content["path"])


@vibe.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for the adapter in our format.")
@click.option("--alpha", type=click.FloatRange(0, min_open=True), help="For a file that does not state its own.")
@click.option("--base", help="Model that it must fit: a folder, a hub id, or wan22_ti2v_5b, wan21_t2v_1_3b.")
@click.option("--differences", is_flag=True, help="Keep changes of norms, biases and other whole tensors too.")
def import_adapter(file: Path, output: Path, alpha: float | None, base: str | None, differences: bool) -> None:
    """Read FILE, an adapter in diffusers, ComfyUI, kohya, LyCORIS, PEFT, DiffSynth or Wan's layout, into our format.

    A pickle (.ckpt, .pt, .pth, .bin) is read as tensors alone; nothing in it is run.
    """
    from vibe_pipeline.diffusion import lora_formats as layouts
    from vibe_pipeline.planning.architecture import load_architecture

    with said_plainly():
        model = load_architecture(base).build_transformer() if base else None
        found = layouts.import_adapter(file, output, alpha, model, differences)
    click.echo(f"{found.path}: {found.modules} layers, rank {found.ranks}, alpha {found.alphas}, from {found.layout}")
    click.echo(f"the scale is from {found.scale_from}")
    if found.zeros_dropped:
        click.echo(f"{found.zeros_dropped} differences of whole tensors were zero and are left out")
    if found.differences:
        beside = output / "differences.safetensors"
        click.echo(f"{beside}: {found.differences} parameters; rows fuse them with `differences: true`")
    click.echo(f"it fits {base}" if base else "not checked against a base: give --base")


@vibe.command()
@parameter_options
@click.option("--dimensions", multiple=True, help="Names with commas; without it, those of the parameters.")
@click.option("--arms", is_flag=True, help="Instead, files of other people's methods that rows of `arms` name.")
def fetch_weights(chosen: Chosen, dimensions: tuple[str, ...], arms: bool) -> None:
    """Bring VBench's weights, verified, into evaluation.vbench_cache; run again, it goes on where it stopped.

    With --arms, bring what the environment's arms name (Real-ESRGAN, CineScale, T3-Video, UltraWan) to where they look
    for it.
    """
    from vibe_pipeline.vbench.weights import fetch_weights as fetch
    from vibe_pipeline.vbench.weights import listed

    if arms and dimensions:
        raise click.UsageError("--arms and --dimensions ask for different files: give one of them")
    if arms:
        _fetch_peers(chosen)
    with said_plainly():
        evaluation = parameters_of(chosen)["evaluation"]
        names = listed(dimensions or evaluation["vbench_dimensions"])
        errors = fetch(names, Path(evaluation["vbench_cache"]), click.echo)
    sys.exit(bool(errors))


def _fetch_peers(chosen: Chosen) -> None:
    """Bring the files that arms name, and leave with 1 where one is still not there."""
    from vibe_pipeline.generation.methods import checked_tables
    from vibe_pipeline.generation.peer_weights import fetch_peers, listed

    with said_plainly():
        arms = checked_tables(parameters_of(chosen)).arms.values()
        paths = [path for arm in arms for field, path in arm.files.items() if field != "path"]
        if not paths:
            click.echo(f"no arm of this environment names such a file. There are:\n{listed()}")
        sys.exit(not fetch_peers(paths, click.echo))


@vibe.command()
@parameter_options
def vbench_env(chosen: Chosen) -> None:
    """Make the second environment, with VBench's own versions, for dimensions that cannot run in this one."""
    from vibe_pipeline.experiment.evaluation import EvaluationParams
    from vibe_pipeline.vbench.second_env import make_second_env

    with said_plainly():
        folder = EvaluationParams(**parameters_of(chosen)["evaluation"]).vbench_env
        make_second_env(folder, Path("requirements"), click.echo)


@vibe.command()
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


@vibe.command()
@parameter_options
def moved(chosen: Chosen) -> None:
    """After a copy or a move of the project: let MLflow find its artefacts here. A run does this by itself."""
    from vibe_pipeline.experiment.run import TrackingParams
    from vibe_pipeline.tracking.store import opened

    with said_plainly(), opened(TrackingParams(**parameters_of(chosen).get("tracking", {})), Path.cwd()):
        click.echo("artefacts of runs in a local store are looked for in this project")
