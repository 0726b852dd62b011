"""Which files are clips, by their names alone: no decoder is imported, as planning lists clips too."""

import re
from pathlib import Path

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Of the containers that `io.decoding` reads."""


def clip_files(folder: Path) -> list[Path]:
    """Clips that lie in a folder itself, by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


UCF_NAME = re.compile(r"v_(?P<class>\w+)_g(?P<group>\d\d)_c\d\d\.avi")
UCF_TRAINING = 8
"""First of the groups in the training part of UCF-101's split 1, 9,537 clips; those before it are its test part."""


def real_clip_files(folder: Path) -> list[Path]:
    """Clips that others are compared with: of a folder itself, or UCF-101 as it is unpacked, its training part.

    UCF-101 has a folder for each class, and in it Class/v_Class_g08_c01.avi.

    Raises:
        ValueError: Clips lie in folders below, but not as UCF-101's do; names the first.
    """
    if (own := clip_files(folder)) or not folder.is_dir():
        return own
    found = []
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in clip_files(below):
            name = UCF_NAME.fullmatch(file.name)
            if name is None or name["class"] != below.name:
                raise ValueError(
                    f"{file} does not lie as in UCF-101, {below.name}/v_{below.name}_g08_c01.avi: unpack UCF-101 as it "
                    f"is, or put all clips into {folder} itself"
                )
            if int(name["group"]) >= UCF_TRAINING:
                found.append(file)
    return found
