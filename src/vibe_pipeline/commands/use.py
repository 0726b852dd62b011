"""Use what was trained: one's own clips refined, one's own prompts rendered and refined."""

import functools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from vibe_pipeline.commands.options import (
    AdapterChoice,
    Chosen,
    OwnPath,
    parameter_options,
    parameters_of,
    said_plainly,
)
from vibe_pipeline.diffusion.chunks import Blend
from vibe_pipeline.io.clip_files import SUFFIXES

if TYPE_CHECKING:
    from vibe_pipeline.generation.methods import ArmJob


WRITABLE = (".mp4", ".mov", ".mkv")
"""Containers of H.264."""
WORDS, LETTERS = 8, 48  # of a prompt in the name of its clip; file systems take 255 bytes, a letter may be 4


class SizeType(click.ParamType):
    """HEIGHTxWIDTH in pixels."""

    name = "HEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Two whole numbers above 0."""
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).lower().partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            self.fail(f"{value!r} is not a size such as 1088x1920, height before width", param, ctx)
        return int(height), int(width)


@dataclass(frozen=True)
class Asked:
    """What of a row is asked for instead of its own settings; None: the row's."""

    arm: str | None
    adapter: str | None
    no_adapter: bool
    strength: float | None
    steps: int | None
    guidance: float | None
    seed: int
    output: Path | None
    lossless: bool
    long: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the output is one clip; a folder's name may hold a dot too."""
        return self.output is not None and self.output.suffix.lower() in SUFFIXES and not self.output.is_dir()

    def require_place(self, clips: int, sources: Sequence[Path] = ()) -> None:
        """Refuse an output that cannot take so many clips, or that is one of those they are made of.

        Raises:
            ValueError: Says what to give.
        """
        if self.output is None:
            return
        if not self.is_file:
            if self.output.is_file():
                raise ValueError(f"--output {self.output} is a file and not a clip: give a folder or a new .mp4")
            return
        if clips > 1:
            raise ValueError(f"--output {self.output} is one file, and there are {clips} clips: give a folder")
        if self.output.suffix.lower() not in WRITABLE:
            raise ValueError(f"--output {self.output}: clips are written as {', '.join(WRITABLE)}")
        if self.output.resolve() in [source.resolve() for source in sources]:
            raise ValueError(f"{self.output} is the clip itself; choose another --output")

    def place(self, name: str, size: tuple[int, int], beside: str = "") -> Path:
        """Where a clip goes: the file that was asked for, one `beside` it, or a name of its own in the folder."""
        if self.output is not None and self.is_file:
            return self.output.with_stem(f"{self.output.stem}-{beside}") if beside else self.output
        begun = click.get_current_context().find_object(Path) or Path.cwd()
        return (self.output or begun) / f"{name}-{size[0]}x{size[1]}.mp4"

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the row that differ."""
        given = {"strength": self.strength, "steps": self.steps, "guidance_scale": self.guidance}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        changes |= {} if self.guidance is None else {"guidance_scale_2": None}  # of two experts it is both's
        return changes | ({} if self.long is None else {"long": {"blend": self.long}})


def row_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose and change a row; the command gets them as `asked`."""

    @functools.wraps(command)
    def with_asked(**options: Any) -> Any:
        own = {name: options.pop(name) for name in Asked.__dataclass_fields__ if name != "long"}
        return command(asked=Asked(**own), **options)

    taken: Callable[..., Any] = with_asked
    for option in reversed(
        (
            click.option(
                "--arm", help="A row of arms; without it evaluation.reference_arm, or the first with an adapter."
            ),
            click.option("--adapter", type=AdapterChoice(), help="Instead of the row's own."),
            click.option("--no-adapter", is_flag=True, help="The base as it is."),
            click.option("--strength", type=click.FloatRange(0, 1, min_open=True), help="Share of the noise schedule."),
            click.option("--steps", type=click.IntRange(1), help="Denoising steps."),
            click.option(
                "--guidance",
                type=click.FloatRange(1),
                help="Classifier-free guidance scale, of both experts; 1 is none.",
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Of the noise."),
            click.option("--output", type=OwnPath(), help="A folder, or a new .mp4; without it the folder you are in."),
            click.option("--lossless", is_flag=True, help="RGB without loss, which few players show; else H.264."),
        )
    ):
        taken = option(taken)
    return taken


@click.command()
@click.argument("clip", type=OwnPath())
@row_options
@click.option("--to", type=SizeType(), help="The new size; without it as many times larger as the model's target.")
@click.option(
    "--long",
    type=click.Choice(get_args(Blend)),
    help="A clip longer than native whole, in chunks joined at every step at a random frame or by a fade; without it "
    "as the row says, or in pieces that fade into one another once they are made.",
)
@click.option("--prompt", help="What the clip shows; without it the text of CLIP.txt, if there is one.")
@parameter_options
def refine(
    clip: Path, asked: Asked, to: tuple[int, int] | None, long: str | None, prompt: str | None, chosen: Chosen
) -> None:
    """Take CLIP, a video or a folder of videos, to a higher resolution by a row of arms.

    Each new clip has a JSON beside it that says what it was made with. What was finished is not made again.
    """
    from vibe_pipeline.generation.single import clips_in, refine_clip

    failed = False
    with said_plainly():
        clips = clips_in(clip)
        asked.require_place(len(clips), clips)
        names, job = clip_names(clips), _job(chosen, replace(asked, long=long))
        for source in clips:
            try:
                made = refine_clip(source, _caption(source) if prompt is None else prompt, job, asked.seed, to)
                click.echo(made.save(asked.place(f"{names[source]}-{job.name}", made.size), asked.lossless))
            except (ValueError, OSError) as error:
                if len(clips) == 1:
                    raise
                failed = True
                click.echo(f"{source}: {error}", err=True)
    sys.exit(failed)


@click.command()
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@row_options
@click.option("--first-frame", type=OwnPath(), help="The picture that the clip begins with, for Wan2.2-TI2V.")
@parameter_options
def generate(prompts: tuple[str, ...], asked: Asked, first_frame: Path | None, chosen: Chosen) -> None:
    """Render each PROMPT at the base's native size, then take the clip to the target size by a row of arms.

    Both clips are kept, each with a JSON beside it that says what it was made with; with --output CLIP.mp4 the native
    one as CLIP-native.mp4.
    """
    from vibe_pipeline.generation.single import generate_clips

    with said_plainly():
        asked.require_place(len(prompts))
        job = _job(chosen, asked)
        made = generate_clips(prompts, job, asked.seed, first_frame)
        names = prompt_names([clip.origin["prompt"] for clip in made])
        for clip in made:
            arm = clip.origin["arm"]
            name = f"{names[clip.origin['prompt']]}-{asked.seed}-{arm}"
            place = asked.place(name, clip.size, beside="" if arm == job.name else arm)
            click.echo(clip.save(place, asked.lossless))


def clip_names(clips: Sequence[Path]) -> dict[Path, str]:
    """What new clips are named by: the old one's name, with its suffix where two differ in nothing else."""
    stems = Counter(clip.stem for clip in clips)
    return {clip: clip.stem if stems[clip.stem] == 1 else clip.name.replace(".", "_") for clip in clips}


def prompt_names(prompts: Iterable[str]) -> dict[str, str]:
    """What clips are named by: the prompt's first words, with a hash where other prompts may begin alike."""
    from vibe_pipeline.io.keys import content_key

    whole = {prompt: "-".join(re.findall(r"[^\W_]+", prompt.lower())) for prompt in prompts}
    alike, names = Counter(whole.values()), {}
    for prompt, words in whole.items():
        begun = "-".join(words.split("-")[:WORDS])[:LETTERS]
        certain = begun and words == begun and alike[words] == 1
        names[prompt] = begun if certain else "-".join(filter(None, [begun, content_key(prompt)[:8]]))
    return names


def _job(chosen: Chosen, asked: Asked) -> "ArmJob":
    """The row that was asked for, with its adapter."""
    import pandas as pd

    from vibe_pipeline.experiment.folders import Folders
    from vibe_pipeline.experiment.generation import GenerationParams
    from vibe_pipeline.experiment.model import ModelParams
    from vibe_pipeline.generation.methods import ArmJob, checked_tables
    from vibe_pipeline.generation.single import chosen_arm, given_adapter
    from vibe_pipeline.planning.arm_checks import check_arms
    from vibe_pipeline.planning.preflight import check_model
    from vibe_pipeline.planning.weight_files import expert_checks, require_fitting_adapter, weight_checks

    params = parameters_of(chosen)
    folders = Folders(**params["folders"])
    experiment = checked_tables(params)
    name, arm = chosen_arm(experiment, asked.arm, asked.changes)
    model = ModelParams(**params["model"])
    # Of one's own prompt there is no true render.
    generation = GenerationParams(**params["generation"] | {"native_source": "base"})
    for check in (*expert_checks(model, generation, {name: arm}), *weight_checks(model, {name: arm})):
        check.look()
    wanted = None if asked.no_adapter else asked.adapter or arm.adapter
    check_model(model)
    check_arms(model, {name: arm.model_copy(update={"adapter": wanted})})
    start = experiment.adapters[arm.adapter].start if arm.keep_stage1 and arm.adapter else None
    adapter, stage1 = (given_adapter(named, folders.adapters) if named else None for named in (wanted, start))
    for given in filter(None, (adapter, stage1)):  # after the native pass it would be too late
        require_fitting_adapter(given.path, "--adapter" if asked.adapter else f"adapter {given.name!r}", model)
    return ArmJob(
        name=name,
        arm=arm,
        native=pd.DataFrame(),
        model=model,
        generation=generation,
        root=folders.clips / "own",  # beside the run's clips: links by name there show the last run's
        adapter=adapter,
        stage1=stage1,
    )


def _caption(clip: Path) -> str:
    """The text beside a clip."""
    text = clip.with_suffix(".txt")
    if text.is_file():
        return " ".join(text.read_text(encoding="utf-8").split())
    click.echo(f"{clip}: no --prompt and no {text.name}: refined with an empty prompt", err=True)
    return ""
