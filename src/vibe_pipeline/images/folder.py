"""What lies in a folder of training images: every file is an image, a caption, metadata, refused, or passed over.

Nothing that looks like an image, and no caption, is left out without a word. Linked folders are not followed: one that
leads out would read what the user did not name, one that stays inside would find images twice, or never end. Hidden
files and those that operating systems leave behind are passed over by rule, and counted.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vibe_pipeline.images.formats import SUFFIXES, is_image_by_content, refusal_by_name
from vibe_pipeline.io.errors import one_line

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
CAPTION_SUFFIX = ".txt"
SYSTEM = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
SYSTEM_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"))


class MetadataError(ValueError):
    """A metadata file that cannot be trusted as a whole; the message names file, line and value."""


@dataclass
class Contents:
    """The files of a folder and of all below it; names are relative to it, with /.

    Attributes:
        images: What may be decoded.
        captions: Image, or refused file, to its text file.
        tables: Metadata files.
        refused: Files and folders that cannot be used, to (reason, value).
        system: Hidden files, hidden folders, and what operating systems leave behind: passed over by rule.
        others: Neither images nor captions, such as notes; passed over too.
    """

    images: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    tables: list[Path] = field(default_factory=list)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    system: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def passed_over(self) -> str:
        """What is neither image nor caption, counted, each with an example; empty if there is none."""
        kinds = (("hidden or system files", self.system), ("other files", self.others))
        return ", ".join(f"{len(names)} {kind} (such as {one_line(names[0], 60)})" for kind, names in kinds if names)


def list_contents(folder: Path) -> Contents:
    """Sort all files of a folder, and of the folders in it, by what they are.

    Raises:
        OSError: The folder itself cannot be read; one below it is refused alone.
        MetadataError: Two metadata files in one folder.
    """
    contents, root = Contents(), folder.resolve()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        name = Path(error.filename).relative_to(folder).as_posix()
        contents.refused[name] = "unreadable", f"the folder cannot be read: {error.strerror}"

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        here = PurePosixPath(Path(parent).relative_to(folder))
        seen = [name for name in sorted(folders) if not _is_system(name, SYSTEM_FOLDERS)]
        links = [name for name in seen if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114, PTH118
        contents.refused |= {str(here / name): _linked(Path(parent, name), root) for name in links}
        contents.system += [str(here / name) for name in sorted(files) if _is_system(name, SYSTEM)]
        contents.system += [f"{here / name}/" for name in folders if name not in seen]
        _add_files(contents, folder, here, [name for name in sorted(files) if not _is_system(name, SYSTEM)])
        folders[:] = [name for name in seen if name not in links]
    return contents


def _is_system(name: str, names: Iterable[str]) -> bool:
    return name.startswith(".") or name.lower() in names


def _linked(link: Path, root: Path) -> tuple[str, str]:
    """Why a linked folder is not followed."""
    target = link.resolve()
    if target.is_relative_to(root):
        return (
            "linked_folder",
            f"a link to {one_line(target, 80)}, whose images are found there already; remove the link",
        )
    return (
        "outside_folder",
        f"a link out of it to {one_line(target, 80)}: copy those images in, or set data.path to them",
    )


def _add_files(contents: Contents, folder: Path, here: PurePosixPath, files: Sequence[str]) -> None:
    """Sort the files of one folder."""
    metadata = [folder / here / name for name in METADATA_FILES if name in files]
    if len(metadata) > 1:
        raise MetadataError(f"{metadata[0]} and {metadata[1]}: two metadata files in one folder; keep one")
    contents.tables += metadata
    text_files = [name for name in files if name.lower().endswith(CAPTION_SUFFIX)]  # from Windows in capitals too
    captions, used = {PurePosixPath(name).stem: name for name in text_files}, set()
    for name in sorted(set(files).difference(text_files, METADATA_FILES)):
        relative, stem = str(here / name), PurePosixPath(name).stem
        if not _add_file(contents, folder / here / name, relative):
            contents.others.append(relative)
        elif stem in captions:
            used.add(captions[stem])
            contents.captions[relative] = str(here / captions[stem])
    alone = [str(here / name) for name in text_files if name not in used]
    reason = "caption_without_image", "no image of the same name lies beside it"
    contents.refused |= dict.fromkeys(alone, reason)


def _add_file(contents: Contents, path: Path, name: str) -> bool:
    """Sort one file, if it is an image or looks like one."""
    try:
        if refusal := refusal_by_name(name):
            contents.refused[name] = refusal
        elif path.suffix.lower() in SUFFIXES or is_image_by_content(path):
            contents.images.append(name)
        elif path.is_symlink() and not path.exists():
            contents.refused[name] = "missing_file", "a link that leads nowhere"
        else:
            return False
    except OSError as error:  # such as a path longer than the system takes
        contents.refused[name] = "unreadable", one_line(error.strerror)
    return True
