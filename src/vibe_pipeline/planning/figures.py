"""Figures that only the real modules can give (operations, bytes, shapes), kept on disk by all that determines them.

Building a transformer on the meta device needs diffusers and transformers, whose import alone takes longer than all the
rest of a plan; and the memory of a step is counted operation by operation. Neither has an exact formula. So each figure
is made once, by the modules, and read afterwards: its file is named after its arguments, the packages' versions and the
code that counts. Whoever changes one of them gets new figures, never old ones.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from vibe_pipeline.io.files import read_json, write_json
from vibe_pipeline.io.keys import content_key, file_sha256, installed_version

T = TypeVar("T")
PACKAGES = ("torch", "diffusers", "transformers", "peft", "spandrel")
ROOMS = ("diffusion", "planning")


@dataclass(frozen=True)
class Figures:
    """Where figures are kept.

    Attributes:
        folder: One JSON file a figure; None keeps nothing, and every figure is made.
    """

    folder: Path | None = None

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """The figure of that key: read if it was made before, else made and kept.

        Args:
            key: Its kind and every argument that it depends on.
            make: Gives numbers, lists and names, which JSON takes as they are; tuples come back as lists.
        """
        if self.folder is None:
            return make()
        file = self.folder / f"{content_key(key, counted_by())}.json"
        with suppress(OSError, ValueError):  # not there, or damaged: it is made again
            return read_json(file)["figure"]
        figure = make()
        with suppress(OSError):  # a plan that cannot be kept, in a project that may only be read, is slow and no error
            write_json(file, {"key": str(key[0]), "figure": figure})
        return figure


NOTHING_KEPT = Figures()


@cache
def counted_by() -> dict[str, str]:
    """What makes the figures: versions of the packages, and a hash of our own source."""
    root = Path(str(files("vibe_pipeline")))
    sources = sorted(file for room in ROOMS for file in (root / room).rglob("*.py"))
    own = content_key([(str(file.relative_to(root)), file_sha256(file)) for file in sources])
    return {name: installed_version(name) for name in PACKAGES} | {"vibe_pipeline": own}
