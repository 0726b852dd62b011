"""The first steps: an environment for one's own images, and the schema that editors check it by."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vibe_pipeline.commands.options import Chosen, OwnPath, parameters_of, said_plainly

if TYPE_CHECKING:
    from vibe_pipeline.planning.new_environment import BaseEnvironment

CONF = Path("conf")
SCHEMA = "parameters.schema.json"


class ModelEnvironment(click.ParamType):
    """The name of a real model's environment; without one those that there are."""

    name = "ENVIRONMENT"

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """What can be given."""
        from vibe_pipeline.planning.new_environment import real_models

        return f"One of {', '.join(real_models(CONF))}"


@click.command()
@click.argument("images", type=OwnPath())
@click.option(
    "--model",
    type=ModelEnvironment(),
    required=True,
    help="The environment of a model: wan22_ti2v_5b, wan22_ti2v_5b_fast (the same with clips in fewer steps), "
    "wan21_t2v_1_3b, or any other in conf that is not the miniature's.",
)
@click.option("--name", default="mine", show_default=True, help="Of the new environment.")
@click.pass_context
def init(ctx: click.Context, images: Path, model: str, name: str) -> None:
    """Write conf/mine for IMAGES, a folder with captions: sizes that they fill, the rows of a first run, commented.

    It is read back and checked; doctor says what is missing before it can run, and the plan how long it will take.
    """
    from vibe_pipeline.commands.before import doctor
    from vibe_pipeline.generation.methods import checked_tables
    from vibe_pipeline.planning.new_environment import real_models, require_real_model, write_environment

    with said_plainly():
        require_real_model(CONF, model)
        _require_name(name)
        base = _base_environment(model)
        own = images.relative_to(Path.cwd()) if images.is_relative_to(Path.cwd()) else images
        with _removed_on_failure(CONF / name):
            written = write_environment(CONF / name, base, own)
            params = parameters_of(Chosen(name))
            checked_tables(params)
    click.echo(f"conf/{name}, laid on {model}: {written.images.counts}")
    if written.note:
        click.echo(f"warning: {written.note}")
    click.echo()
    # What is missing, weights most often, is the next step here and no failure of this command.
    missing: Any = False
    try:
        ctx.invoke(doctor, env=name, params={}, config=None, conf_source=None, images=None, as_json=False)
    except SystemExit as ended:
        missing = ended.code
    click.echo(f"\n{_next_steps(name, params, bool(missing))}")
    if (quicker := f"{model}_fast") in real_models(CONF):
        click.echo(f"quicker, with clips in fewer steps: an environment on --model={quicker}")


def _require_name(name: str) -> None:
    """Refuse a name that the new environment cannot have.

    Raises:
        ValueError: It cannot be a folder of conf.
        FileExistsError: There is one of that name.
    """
    if not name.replace("_", "a").isalnum() or name in ("base", "local"):
        raise ValueError(f"--name {name!r}: letters, digits and underscores, and neither base nor local")
    if (CONF / name).exists():
        raise FileExistsError(f"{CONF / name} is there already; choose another --name, or delete it")


def _base_environment(model: str) -> "BaseEnvironment":
    from vibe_pipeline.experiment.load import TABLES, read_parameters
    from vibe_pipeline.experiment.loader import loader_of
    from vibe_pipeline.io.yaml_files import read_mapping
    from vibe_pipeline.planning.new_environment import BaseEnvironment

    loader = loader_of(model)
    written, claims = read_parameters(loader), loader.file_of("claims")
    return BaseEnvironment(
        name=model,
        params=parameters_of(Chosen(model)),
        tables={table: written[table] for table in TABLES},
        claims=read_mapping(claims) if claims else {},
    )


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Leave no half of a folder that is written within, nor one that cannot be used."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _next_steps(name: str, params: Mapping[str, Any], missing: bool) -> str:
    """The short road to clips of one's own, and the whole run, with what each takes by the plan."""
    from vibe_pipeline.io.errors import one_line
    from vibe_pipeline.planning.figures import Figures
    from vibe_pipeline.planning.machine import usual_device
    from vibe_pipeline.planning.plan import Assumed, make_plan
    from vibe_pipeline.planning.table import duration

    training = clip = whole = ""
    try:
        plan = make_plan(params, Assumed(usual_device(params)), Figures(Path(params["folders"]["planning"])))
    except (ValueError, OSError) as error:
        whole = f" (not planned yet: {one_line(error, 160)})"
    else:
        on = "by the plan" if plan.measured else f"by the plan, on one {plan.device.upper()}"
        seconds = plan.clip_seconds(params["evaluation"]["reference_arm"])
        training = f"    # {duration(3600 * plan.training_hours)} {on}"
        clip = f"    # {duration(seconds)} a clip"
        whole = f": {duration(3600 * plan.hours)} {on}"
    first = f"once nothing is missing (kedro vibe doctor --env={name} looks again), " if missing else ""
    return f"""\
{first}train, and see clips of your own prompts
  kedro vibe rehearse --env={name}    # every training and arm for a step or two
  kedro run --env={name} --pipelines=data_processing,relay_stage1,relay_stage2{training}
  kedro vibe generate "a harbour at dawn" --env={name}{clip}
or the whole run, which makes, scores and compares the clips of every arm{whole}
  kedro vibe plan --env={name}        # what takes so long; --device=4090: on another card
  kedro run --env={name}"""


@click.command()
@click.option("--output", type=OwnPath(), help=f"Instead of conf/{SCHEMA}.")
def schema(output: Path | None) -> None:
    """Write the parameters' JSON schema: editors then complete, explain and check what is typed."""
    from vibe_pipeline.experiment.schema import parameters_schema
    from vibe_pipeline.generation.methods import METHODS
    from vibe_pipeline.io.files import write_atomic

    content = json.dumps(parameters_schema(list(METHODS)), indent=1, ensure_ascii=False) + "\n"
    with said_plainly():
        place = write_atomic(output or CONF / SCHEMA, lambda path: path.write_text(content, encoding="utf-8"))
    click.echo(f"{place}; a file whose first line is `# yaml-language-server: $schema=../{SCHEMA}` is checked by it")
