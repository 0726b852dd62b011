"""Which files are clips, by their names alone: no decoder is imported, as planning lists clips too."""

from pathlib import Path

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Of the containers that `io.decoding` reads."""


def clip_files(folder: Path) -> list[Path]:
    """Clips that lie in a folder itself, by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
