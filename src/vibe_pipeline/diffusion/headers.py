"""The header of a safetensors file: names, shapes and metadata, without reading a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vibe_pipeline.io.errors import one_line

# What stands at the start of files that are taken for weights, and what they are.
IMPOSTORS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"GGUF", "a GGUF file under another name"),
    (b"<!", "a web page, not a file of weights: download it again"),
    (b"<html", "a web page, not a file of weights: download it again"),
    (b"PK\x03\x04", "a pickle (torch.save), which can run code, under another name"),
    (b"\x80", "a pickle, which can run code, under another name"),
)


@dataclass(frozen=True)
class Header:
    """Shape and type (F32, BF16, F8_E4M3, ...) of every tensor by its name, and the file's own metadata."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    types: Mapping[str, str]


def impostor(path: Path) -> str:
    """What a file is that only has the name of another: empty, a pointer, a page, a pickle; or an empty string."""
    with path.open("rb") as stream:
        start = stream.read(64)
    if not start:
        return "empty (0 bytes)"
    # A safetensors file begins with the length of its header, whose bytes may look like anything.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return ""
    return next((said for magic, said in IMPOSTORS if start.lstrip().startswith(magic)), "")


def read_header(path: Path) -> Header:
    """Names, shapes and metadata of a safetensors file.

    Raises:
        ValueError: It is not a whole safetensors file; names the file and what it is.
    """
    try:
        if said := impostor(path):
            raise ValueError(f"{path} cannot be read as safetensors: it is {said}")
        # Checks that the file is as long as its header says. As for numpy, since "pt" imports torch; shapes are alike.
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
            return Header(shapes, file.metadata() or {}, {name: part.get_dtype() for name, part in parts.items()})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {one_line(error, 120)}") from error
