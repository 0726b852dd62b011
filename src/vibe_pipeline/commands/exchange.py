"""Adapters to and from other programs."""

from pathlib import Path
from typing import Any

import click

from vibe_pipeline.commands.options import (
    AdapterChoice,
    Chosen,
    OwnPath,
    parameter_options,
    parameters_of,
    said_plainly,
)
from vibe_pipeline.diffusion.lora_names import LAYOUTS
from vibe_pipeline.diffusion.support import LOW_NOISE


@click.command()
@click.argument("adapter", type=AdapterChoice())
@parameter_options
@click.option("--to", "layout", required=True, type=click.Choice(LAYOUTS))
@click.option("--output", required=True, type=OwnPath(), help="The new .safetensors file.")
@click.option("--fold", is_flag=True, help="Multiply alpha / rank into the weights, for readers that know no alpha.")
def export_adapter(adapter: str, chosen: Chosen, layout: Any, output: Path, fold: bool) -> None:
    """Write ADAPTER, a file or a trained row's name, in another program's key layout."""
    from vibe_pipeline.diffusion import lora_formats as layouts
    from vibe_pipeline.generation.single import given_adapter

    with said_plainly():
        adapters = Path(parameters_of(chosen)["folders"]["adapters"])
        given = given_adapter(adapter, adapters)
        written = layouts.export_adapter(given.path, layout, output, fold)
    click.echo(f"{written} ({layout}), from {given.path}")
    if given.part == LOW_NOISE:
        click.echo(
            "it belongs to the low-noise expert alone: in diffusers load_lora_weights(…, load_into_transformer_2=True)"
        )
    if layout == "diffsynth" and not fold:
        click.echo(
            "where alpha differs from the rank it stands in .alpha keys, which early DiffSynth-Studio ignores: --fold"
        )


@click.command()
@click.argument("file", type=OwnPath())
@click.option("--output", required=True, type=OwnPath(), help="Folder for the adapter in our format.")
@click.option("--alpha", type=click.FloatRange(0, min_open=True), help="For a file that does not state its own.")
@click.option(
    "--base", help="Model that it must fit: a folder, a hub id, or wan22_t2v_a14b, wan22_ti2v_5b, wan21_t2v_1_3b."
)
@click.option("--differences", is_flag=True, help="Keep changes of norms, biases and other whole tensors too.")
def import_adapter(file: Path, output: Path, alpha: float | None, base: str | None, differences: bool) -> None:
    """Read FILE, an adapter in diffusers, ComfyUI, kohya, LyCORIS, PEFT, DiffSynth or Wan's layout, into our format.

    A pickle (.ckpt, .pt, .pth, .bin) is read as tensors alone; nothing in it is run.
    """
    from vibe_pipeline.diffusion import lora_formats as layouts
    from vibe_pipeline.planning.architecture import load_architecture

    with said_plainly():
        model = load_architecture(base, "--base").build_transformer() if base else None
        found = layouts.import_adapter(file, output, alpha, model, differences)
    ranks, alphas = (" and ".join(f"{value:g}" for value in values) for values in (found.ranks, found.alphas))
    click.echo(f"{found.path}: {found.modules} layers, rank {ranks}, alpha {alphas}, from {found.layout}")
    click.echo(f"the scale is from {found.scale_from}")
    if found.zeros_dropped:
        click.echo(f"{found.zeros_dropped} differences of whole tensors were zero and are left out")
    if found.differences:
        beside = output / "differences.safetensors"
        click.echo(f"{beside}: {found.differences} parameters; rows fuse them with `differences: true`")
    click.echo(f"it fits {base}" if base else "not checked against a base: give --base")
