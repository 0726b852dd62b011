"""An environment for one's own images: laid on a real model's, with sizes that the images can fill."""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill, indent
from typing import Any

import yaml

from vibe_pipeline.diffusion.checkpoint import size_step
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.images.buckets import Size
from vibe_pipeline.images.find import find_images
from vibe_pipeline.images.precheck import Headers, Precheck, precheck, read_headers, share_filling
from vibe_pipeline.io.errors import did_you_mean
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.named import require_folder
from vibe_pipeline.io.yaml_files import read_mapping
from vibe_pipeline.planning.architecture import Architecture, load_architecture
from vibe_pipeline.planning.training_images import training_sizes

FILLING = 0.8
"""This share of the images is to be large enough for stage 2."""
KEPT = {"stage1": ("modality",), "adapters": ("full",), "arms": ("full", "no_adapter", "upsample")}
"""What a first run trains and compares, as far as the model's environment has it; that has the whole ablation."""


@dataclass(frozen=True)
class BaseEnvironment:
    """The environment of a model, which one's own is laid on.

    Attributes:
        name: Its folder in conf.
        params: Its parameters, checked.
        tables: Its tables as they are written, sweeps in one row.
        claims: What its claims.yml says; empty where there is none.
    """

    name: str
    params: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]
    claims: Mapping[str, Any]

    @property
    def kept(self) -> dict[str, tuple[str, ...]]:
        """The rows of a first run that it has, by table; no table of which it has none."""
        kept = {table: tuple(row for row in rows if row in self.tables[table]) for table, rows in KEPT.items()}
        return {table: rows for table, rows in kept.items() if rows}


@dataclass(frozen=True)
class Written:
    """What an environment was written for.

    Attributes:
        images: How many of them are usable at its sizes.
        note: What of its sizes is not the model's; empty where all is.
    """

    images: Precheck
    note: str


def real_models(conf: Path) -> list[str]:
    """The environments that one's own can be laid on, those that extend no other first."""
    found = []
    for file in sorted(conf.glob("*/parameters.yml")):
        with suppress(ValueError):  # what is wrong with that file is said to whoever chooses it
            if _is_real(conf, file.parent.name):
                found.append(file.parent.name)
    return sorted(found, key=lambda env: len(_chain(conf, env)))


def require_real_model(conf: Path, model: str) -> None:
    """Refuse what one's own environment cannot be laid on.

    Raises:
        ValueError: There is no such environment, or it is the miniature's, whose sizes are no photograph's.
    """
    models = real_models(conf)
    known = ", ".join(models)
    if model in ("base", "local", "miniature") or ((conf / model).is_dir() and not _is_real(conf, model)):
        raise ValueError(
            f"--model {model}: give a real model's environment: {known}; the miniature trains on your images with "
            "`kedro run --params=data.source=folder,data.path=IMAGES`"
        )
    if not (conf / model).is_dir():
        nearest = did_you_mean(model, models)
        raise ValueError(f"--model {model}: no such environment; those of real models: {known}{nearest}")


def _is_real(conf: Path, env: str) -> bool:
    """Whether it, or one that it extends, has images of its own; what says nothing of images takes the miniature's."""
    groups = [content.get("data") for content in _chain(conf, env)]
    stated = [group for group in groups if isinstance(group, Mapping)]
    return bool(stated) and next((g["source"] for g in stated if "source" in g), "folder") != "miniature"


def _chain(conf: Path, env: str) -> list[dict[str, Any]]:
    """The parameters.yml of an environment and of those that it extends, in turn; base and local are none."""
    chain: list[dict[str, Any]] = []
    seen = {"base", "local"}
    while isinstance(env, str) and env not in seen and (file := conf / env / "parameters.yml").is_file():
        seen.add(env)
        chain.append(read_mapping(file))
        env = chain[-1].get("extends", "base")
    return chain


def look_at(folder: Path) -> Headers:
    """A folder's images, by their headers; nothing is decoded.

    Raises:
        FileNotFoundError: No such folder, or no image in it.
        ValueError: None of them can be read.
    """
    headers = read_headers(find_images(require_folder(folder, "IMAGES")))
    if not headers.sides:
        raise ValueError(f"{folder}: none of its {len(headers.found)} images can be read; give a folder of others")
    return headers


def fitting_high(data: DataParams, model: ModelParams, architecture: Architecture, sides: Sequence[Size]) -> ClipSize:
    """The stage-2 size: that of the model's environment, or the largest below that most of these images can fill.

    Args:
        data: Of the model's environment: `high`; `low`, below which nothing is left to learn; and its buckets.
        model: Its native size.
        architecture: Its token gives the steps in which sizes shrink.
        sides: (height, width) of the images, pixels.

    Raises:
        ValueError: Most of the images are no larger than stage 1's.
    """
    for high in _sizes_below(data.high, data.low, size_step(architecture, data.bucket_tokens)):
        with suppress(ValueError):  # of proportions that rounding has taken beyond data.max_aspect
            sizes = training_sizes(architecture, model, data.model_copy(update={"high": high}))
            if share_filling(sides, sizes) >= FILLING:
                return high
    raise ValueError(
        f"most of the {len(sides)} images are too small: their median is {_median(sides)} (height x width), and stage "
        f"2 has to be larger than stage 1's {data.low.height}x{data.low.width}; give larger images"
    )


def _sizes_below(high: ClipSize, low: ClipSize, step: tuple[int, int]) -> Iterator[ClipSize]:
    """A size, and all of about its proportions that lie between it and `low`, the largest first."""
    yield high
    sides = high.height, high.width
    scales = {n * by / side for side, by in zip(sides, step, strict=True) for n in range(1, -(-side // by))}
    for scale in sorted(scales, reverse=True):
        # A side times its own scale is whole but for rounding.
        height, width = (int(side * scale + 1e-6) // by * by for side, by in zip(sides, step, strict=True))
        if height < low.height or width < low.width or (height, width) == (low.height, low.width):
            return
        yield high.model_copy(update={"height": height, "width": width})


def _median(sides: Sequence[Size]) -> str:
    """`1080x1920`, height before width."""
    height, width = (int(statistics.median(side)) for side in zip(*sides, strict=True))
    return f"{height}x{width}"


def write_environment(folder: Path, base: BaseEnvironment, images: Path) -> Written:
    """Write an environment: parameters, the rows of a first run, and the claims that these can be asked.

    Args:
        folder: Of the new environment, in conf; it is not there yet.
        base: What it is laid on.
        images: The folder of images, as it is to stand there.

    Raises:
        FileNotFoundError: No such folder of images, or no image in it.
        ValueError: The images are too small; nothing is written.
    """
    model, asked, headers = ModelParams(**base.params["model"]), DataParams(**base.params["data"]), look_at(images)
    architecture = load_architecture(model.path)
    high = fitting_high(asked, model, architecture, headers.sides)
    data = asked.model_copy(update={"path": images, "high": high})
    sizes = training_sizes(architecture, model, data)
    seen = precheck(headers, sizes, data)
    note = _note(high, model.target, share_filling(headers.sides, sizes)) if high != asked.high else ""
    texts = {
        "parameters.yml": _parameters(folder.name, base.name, headers, seen, note),
        "experiment.yml": _rows(base),
        "claims.yml": yaml.safe_dump(_kept_claims(base.claims, base.kept.get("arms", ())), sort_keys=False, width=110),
    }
    for file, text in texts.items():
        write_atomic(folder / file, partial(Path.write_text, data=text, encoding="utf-8"))
    return Written(seen, note)


def _note(high: ClipSize, target: ClipSize, share: float) -> str:
    """What is said of a stage-2 size that is not the model's own."""
    said = f"{high.height}x{high.width} is the largest stage-2 size that most of the images fill ({share:.0%} do)"
    if high.height >= target.height and high.width >= target.width:
        return said
    return (
        f"{said}, and lies below the target, {target.height}x{target.width}, at which clips are made: give larger "
        "images to train at it"
    )


def _kept_claims(claims: Mapping[str, Any], arms: Collection[str]) -> dict[str, Any]:
    """Those that compare arms of the first run, with their kinds."""
    kept = [claim for claim in claims.get("claims", ()) if {claim["arm"], claim["other"]} <= set(arms)]
    used = {claim["kind"] for claim in kept}
    kinds = {name: kind for name, kind in claims.get("kinds", {}).items() if name in used}
    return {"kinds": kinds, "claims": kept}


def _parameters(name: str, extends: str, headers: Headers, seen: Precheck, note: str) -> str:
    path = yaml.safe_dump(str(seen.data.path), width=1000).splitlines()[0]
    high = seen.data.high
    smaller = ""
    if note:
        said = f"{note}. Images that do not fill it are put aside and listed."
        smaller = f"{indent(fill(said, 114), '  # ')}\n  high: {{height: {high.height}, width: {high.width}}}\n"
    return f"""\
# yaml-language-server: $schema=../parameters.schema.json
# Your images, on the model of conf/{extends}: this is laid on it field by field (conf/README.md), so here stands only
# what differs. Every field, with unit, range and default: conf/parameters.schema.json, which editors read.
#   kedro vibe doctor --env={name}      what is missing, each with the command that fixes it
#   kedro vibe plan --env={name}        hours, memory and disk, before anything runs
#   kedro vibe rehearse --env={name}    every row for a step or two
#   kedro run --env={name}
extends: {extends}

data:
  source: folder
  path: {path}    # {seen.counts}, median {_median(headers.sides)} (height x width)
{smaller}
# generation:
#   prompts: my_prompts.txt     # one a line; as shipped VBench's own
#   count: 16                   # fewer: quicker, and wider intervals

report:
  title: ViBe on my images
"""


def _rows(base: BaseEnvironment) -> str:
    fields = {"adapters": " {seed: 0}    # one training; seed: [0, 1, 2] trains three, as claims want"}
    rows = "\n\n".join(
        "\n".join([f"{table}:", *(f"  {row}:{fields.get(table, '')}" for row in names)])
        for table, names in base.kept.items()
    )
    return f"""\
# yaml-language-server: $schema=../parameters.schema.json
# What a first run trains and compares. A row without fields is that of conf/{base.name}; give it fields to change them,
# as in `full: {{steps: 1500}}`, and name more of its rows to run more of the ablation.
{rows}
"""
