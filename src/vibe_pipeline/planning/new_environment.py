"""An environment for one's own images: laid on a real model's, with sizes that the images can fill."""

import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.images.find import find_images
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.named import require_folder
from vibe_pipeline.planning.architecture import load_architecture

LOOKED_AT = 512
"""Of how many images the size is read; of more, evenly spread ones."""
FILLING = 0.8
"""This share of the images is to be large enough for stage 2."""
KEPT = {"adapters": ("full",), "arms": ("full", "no_adapter", "upsample")}
"""What a first run trains and compares; the model's own environment has the whole ablation."""
SIDEWAYS = frozenset({5, 6, 7, 8})
ORIENTATION = 0x0112


@dataclass(frozen=True)
class FoundSizes:
    """Images of a folder.

    Attributes:
        count: How many.
        captioned: How many have a caption.
        sides: (height, width) of those that were looked at, upright.
    """

    count: int
    captioned: int
    sides: tuple[tuple[int, int], ...]

    @property
    def median(self) -> str:
        """`1080x1920`, height before width."""
        height, width = (int(statistics.median(side)) for side in zip(*self.sides, strict=True))
        return f"{height}x{width}"


def look_at(folder: Path) -> FoundSizes:
    """Sizes of a folder's images, from their headers; nothing is decoded.

    Raises:
        FileNotFoundError: No such folder, or no image in it.
        ValueError: None of them can be read.
    """
    found = find_images(require_folder(folder, "IMAGES"))
    usable = found[found["reason"] == ""]
    paths = list(usable["path"])[:: max(1, len(usable) // LOOKED_AT)]
    sides = tuple(size for size in map(_upright_size, paths) if size)
    if not sides:
        raise ValueError(f"{folder}: none of its {len(found)} images can be read")
    return FoundSizes(len(usable), int((usable["caption"] != "").sum()), sides)


def _upright_size(path: str) -> tuple[int, int] | None:
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, ValueError, SyntaxError):  # the check before training says which and why
        return None


def fitting_high(high: ClipSize, low: ClipSize, found: FoundSizes, multiple: int) -> ClipSize:
    """The stage-2 size: that of the model's environment, or as large as most of these images can fill.

    Args:
        high: Of the model's environment.
        low: Stage-1 size, below which nothing is left to learn.
        found: The images.
        multiple: Of pixels, that sides have to be.

    Raises:
        ValueError: Most of the images are no larger than stage 1's.
    """
    areas = sorted((height * width for height, width in found.sides), reverse=True)
    area = areas[min(len(areas) - 1, int(FILLING * len(areas)))]
    if area >= high.height * high.width:
        return high
    scale = (area / (high.height * high.width)) ** 0.5
    height, width = (int(side * scale) // multiple * multiple for side in (high.height, high.width))
    if height < low.height or width < low.width or (height, width) == (low.height, low.width):
        raise ValueError(
            f"most of the {found.count} images are too small: their median is {found.median} (height x width), and "
            f"stage 2 has to be larger than stage 1's {low.height}x{low.width}; give larger images"
        )
    return high.model_copy(update={"height": height, "width": width})


def write_environment(
    conf: Path, name: str, extends: str, images: Path, params: Mapping[str, Any], claims: Mapping[str, Any]
) -> FoundSizes:
    """Write `conf/NAME`: parameters, the rows of a first run, and the claims that these can be asked.

    Args:
        conf: The folder of environments.
        name: Of the new one.
        extends: The environment that it is laid on.
        images: The folder of images, as it is to stand there.
        params: Of the environment that it is laid on.
        claims: What the claims.yml of the same says.

    Raises:
        FileExistsError: There is one of that name.
        ValueError: The images are too small; nothing is written.
    """
    folder = conf / name
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; choose another --name, or delete it")
    data, found = DataParams(**params["data"]), look_at(images)
    vae = load_architecture(params["model"]["path"])
    factor = int(vae.vae.get("scale_factor_spatial", 8)) * int(vae.transformer["patch_size"][1])
    high = fitting_high(data.high, data.low, found, factor * data.bucket_tokens)
    texts = {
        "parameters.yml": _parameters(name, extends, images, found, high if high != data.high else None),
        "experiment.yml": _rows(extends),
        "claims.yml": yaml.safe_dump(_kept_claims(claims), sort_keys=False, width=110),
    }
    for file, text in texts.items():
        write_atomic(folder / file, partial(Path.write_text, data=text, encoding="utf-8"))
    return found


def _kept_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Those that compare arms of the first run, with their kinds."""
    kept = [claim for claim in claims.get("claims", ()) if {claim["arm"], claim["other"]} <= set(KEPT["arms"])]
    used = {claim["kind"] for claim in kept}
    kinds = {name: kind for name, kind in claims.get("kinds", {}).items() if name in used}
    return {"kinds": kinds, "claims": kept}


def _parameters(name: str, extends: str, images: Path, found: FoundSizes, high: ClipSize | None) -> str:
    sizes = f"{found.count} images, {found.captioned} with captions, median {found.median} (height x width)"
    path = yaml.safe_dump(str(images), width=1000).splitlines()[0]
    smaller = (
        f"  # {FILLING:.0%} of the images fill this; those that do not are put aside and listed\n"
        f"  high: {{height: {high.height}, width: {high.width}}}\n"
        if high
        else ""
    )
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
  path: {path}    # {sizes}
{smaller}
# generation:
#   prompts: my_prompts.txt     # one a line; as shipped VBench's own
#   count: 16                   # fewer: quicker, and wider intervals

report:
  title: ViBe on my images
"""


def _rows(extends: str) -> str:
    fields = {"adapters": " {seed: 0}    # one training; seed: [0, 1, 2] trains three, as claims want"}
    rows = {
        table: "\n".join([f"{table}:", *(f"  {row}:{fields.get(table, '')}" for row in names)])
        for table, names in {"stage1": ("modality",), **KEPT}.items()
    }
    return f"""\
# yaml-language-server: $schema=../parameters.schema.json
# What a first run trains and compares. A row without fields is that of conf/{extends}; give it fields to change them,
# as in `full: {{steps: 1500}}`, and name more of its rows to run more of the ablation.
{rows["stage1"]}

{rows["adapters"]}

{rows["arms"]}
"""
