"""The images of a folder before any is decoded: what formats, captions and headers say of how many are usable.

The run's own check decodes every image, which takes minutes. This takes a second and judges by the same functions;
damage behind a header and duplicates it does not see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images.account import reasons
from vibe_pipeline.images.buckets import Size
from vibe_pipeline.images.check import EMPTY_CAPTION, NO_CAPTION, TOO_SMALL, caption_fault, size_fault
from vibe_pipeline.images.reading import Examined, read_header
from vibe_pipeline.io.errors import one_line

LOOKED_AT = 512
"""Headers that are read of a folder with twice as many images or more, evenly spread."""


@dataclass(frozen=True)
class Headers:
    """A folder's images, and what their headers say.

    Attributes:
        found: From `find_images`.
        read: What the header says, by path: of all images of a format that is read, or of evenly spread ones.
        whole: Whether it is of all.
    """

    found: pd.DataFrame
    read: Mapping[str, Examined]
    whole: bool

    @property
    def sides(self) -> list[Size]:
        """(height, width) in pixels, upright, of the images whose header can be read."""
        return [(header.height, header.width) for header in self.read.values() if not header.reason]


@dataclass(frozen=True)
class Precheck:
    """How many images are usable, as far as can be told before any is decoded.

    Attributes:
        data: What they were held against.
        total: All that was found, refused ones too: what `data.min_usable_share` is a share of.
        usable: Those with a caption, and of a format and a size that serve; in proportion where `sampled`.
        quarantine: file_name, reason and value of the others; of sizes, only of images whose header was read.
        sampled: How many headers were read, where that was not all; else None.
    """

    data: DataParams
    total: int
    usable: int
    quarantine: pd.DataFrame
    sampled: int | None = None

    def __str__(self) -> str:
        return f"{self.counts}{reasons(self.quarantine)}"

    @property
    def counts(self) -> str:
        """The same without what is wrong with the others."""
        known = f"{self.usable} usable"
        if self.sampled is not None:
            known = f"about {self.usable} usable, going by {self.sampled} headers"
        return f"{self.total} images in {one_line(self.data.path)}, {known}"

    @property
    def refused(self) -> bool:
        """Whether the run's own check would stop: too few, or none to hold out beside one to train on."""
        return self.usable < max(2, self.data.min_usable_share * self.total)

    @property
    def refusal(self) -> str:
        """What stops the run, and the ways out."""
        asked = f"data.min_usable_share asks for {self.data.min_usable_share:.0%}"
        if self.usable >= self.data.min_usable_share * self.total:
            asked = "two are needed at least, one to train on and one held out"
        return f"{self}; {asked}: {', or '.join(self._ways_out())}"

    def require(self) -> str:
        """What there is, in words.

        Raises:
            ValueError: Too few are usable; says what the others lack, and the ways out.
        """
        if self.refused:
            raise ValueError(self.refusal)
        return str(self)

    def _ways_out(self) -> list[str]:
        seen, ways = set(self.quarantine["reason"]), []
        if seen & {NO_CAPTION, EMPTY_CAPTION}:
            ways.append("write what each shows into a .txt beside it")
        if TOO_SMALL in seen:
            high = f"{self.data.high.height}x{self.data.high.width}"
            ways.append(f"lower data.high, {high}, to what they fill (`kedro vibe init` writes such an environment)")
        if self.usable >= 2:
            ways.append("lower the share")
        return ways or ["put in more"]


def read_headers(found: pd.DataFrame, most: int | None = LOOKED_AT) -> Headers:
    """Read the headers of a folder's images.

    Args:
        found: From `find_images`.
        most: Of a folder with twice as many or more, about so many are read; None: always all.
    """
    paths = list(found["path"][found["reason"] == ""])
    step = max(1, len(paths) // most) if most else 1
    return Headers(found, {path: read_header(Path(path)) for path in paths[::step]}, step == 1)


def precheck(headers: Headers, sizes: Sequence[Size], data: DataParams) -> Precheck:
    """Judge a folder's images by what is known before any is decoded.

    Args:
        headers: From `read_headers`.
        sizes: (height, width) in pixels that images are cut to; none where they are not known: nothing is too small.
        data: `path`, `high`, `max_caption_words`, `min_usable_share`.
    """
    fitting, unread, wrong = 0, 0, []
    judged = [(row, caption_fault(row, data.max_caption_words)) for row in headers.found.itertuples(index=False)]
    for row, fault in judged:
        header = headers.read.get(row.path)
        fault = fault or (header and _header_fault(header, sizes))
        if fault:
            wrong.append((row.file_name, fault.reason, fault.value))
        elif header is None:
            unread += 1
        else:
            fitting += 1
    captioned = sum(fault is None for _, fault in judged)
    read = captioned - unread
    usable = fitting + round(unread * fitting / read) if read else captioned
    quarantine = pd.DataFrame(wrong, columns=["file_name", "reason", "value"], dtype="str")
    return Precheck(data, len(headers.found), usable, quarantine, None if headers.whole else len(headers.read))


def precheck_images(found: pd.DataFrame, sizes: Sequence[Size], data: DataParams, most: int = LOOKED_AT) -> Precheck:
    """The same of a folder whose headers were not read yet; a refusal rests on all of them, not on a sample.

    Args:
        found: From `find_images`.
        sizes, data: As for :func:`precheck`.
        most: As for :func:`read_headers`.
    """
    seen = precheck(read_headers(found, most), sizes, data)
    if seen.refused and seen.sampled is not None:
        return precheck(read_headers(found, most=None), sizes, data)
    return seen


def share_filling(sides: Sequence[Size], sizes: Sequence[Size]) -> float:
    """Which share of images, by their (height, width) in pixels, can be cut to one of the sizes; 0 to 1."""
    return sum(not size_fault(*side, sizes) for side in sides) / len(sides)


def _header_fault(header: Examined, sizes: Sequence[Size]) -> Examined | None:
    if header.reason:
        return header
    short = size_fault(header.height, header.width, sizes) if sizes else ""
    return Examined(reason=TOO_SMALL, value=short) if short else None
