"""The first steps: an environment for one's own images, and the schema that editors check it by."""

import json
import shutil
from pathlib import Path

import click

from vibe_pipeline.commands.options import Chosen, OwnPath, parameters_of, said_plainly

SCHEMA = "parameters.schema.json"


@click.command()
@click.argument("images", type=OwnPath())
@click.option("--model", required=True, help="The environment of a model, such as wan22_ti2v_5b or wan21_t2v_1_3b.")
@click.option("--name", default="mine", show_default=True, help="Of the new environment.")
@click.pass_context
def init(ctx: click.Context, images: Path, model: str, name: str) -> None:
    """Write conf/mine for IMAGES, a folder with captions: sizes that they fill, the rows of a first run, commented.

    It is read back and checked, and doctor says what is missing before it can run.
    """
    from vibe_pipeline.commands.before import doctor
    from vibe_pipeline.experiment.loader import loader_of
    from vibe_pipeline.io.yaml_files import read_mapping
    from vibe_pipeline.planning.new_environment import write_environment

    conf = Path("conf")
    with said_plainly():
        _require_name(name)
        _require_model(model)
        params = parameters_of(Chosen(model))
        own = images.relative_to(Path.cwd()) if images.is_relative_to(Path.cwd()) else images
        claims = loader_of(model).file_of("claims")
        found = write_environment(conf, name, model, own, params, read_mapping(claims) if claims else {})
        try:
            parameters_of(Chosen(name))
        except ValueError:
            shutil.rmtree(conf / name)  # what was just written, and cannot be used
            raise
    click.echo(f"conf/{name}: {found.count} images, {found.captioned} with captions, on {model}\n")
    # What is missing, weights most often, is the next step here and no failure of this command.
    try:
        ctx.invoke(doctor, env=name, params={}, config=None, conf_source=None, images=None, as_json=False)
        click.echo()
    except SystemExit:
        click.echo(f"\nonce nothing is missing (kedro vibe doctor --env={name} looks again):")
    click.echo(f"kedro vibe plan --env={name}    # hours, memory and disk\nkedro run --env={name}")


def _require_name(name: str) -> None:
    """Raises: ValueError: It cannot be a folder of conf."""
    if not name.replace("_", "a").isalnum() or name in ("base", "local"):
        raise ValueError(f"--name {name!r}: letters, digits and underscores, and neither base nor local")


def _require_model(model: str) -> None:
    """Raises: ValueError: It is the miniature, which has no environment to lay another on."""
    if model in ("base", "local", "miniature"):
        raise ValueError(
            f"--model {model}: give a real model's environment, such as wan22_ti2v_5b; the miniature trains on your "
            "images with `kedro run --params=data.source=folder,data.path=IMAGES`"
        )


@click.command()
@click.option("--output", type=OwnPath(), help=f"Instead of conf/{SCHEMA}.")
def schema(output: Path | None) -> None:
    """Write the parameters' JSON schema: editors then complete, explain and check what is typed."""
    from vibe_pipeline.experiment.schema import parameters_schema
    from vibe_pipeline.generation.methods import METHODS
    from vibe_pipeline.io.files import write_atomic

    content = json.dumps(parameters_schema(list(METHODS)), indent=1, ensure_ascii=False) + "\n"
    with said_plainly():
        place = write_atomic(output or Path("conf") / SCHEMA, lambda path: path.write_text(content, encoding="utf-8"))
    click.echo(f"{place}; a file whose first line is `# yaml-language-server: $schema=../{SCHEMA}` is checked by it")
