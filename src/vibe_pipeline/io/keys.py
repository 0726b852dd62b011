"""Keys of content: what determines an expensive result is hashed into its name, so nothing is done twice."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

EDGE = 1 << 20


def content_key(*parts: Any) -> str:
    """A 16-digit hash of parameters, strings, numbers, lists and mappings; equal content gives equal keys."""

    def plain(value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def set_key(keys: Iterable[str]) -> str:
    """A hash of several keys, whatever their order."""
    return content_key(sorted(keys))


def folder_fingerprint(folder: Path) -> str:
    """A hash of a model folder: names, sizes, and the first and last MiB of every file.

    Whole 10 GB files are not read: a changed weight file practically always differs in its header or tail.
    """
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".json")):
        digest.update(f"{file.relative_to(folder)}\n".encode())
        _edges(file, digest)
    return digest.hexdigest()[:16]


def weights_fingerprint(path: Path) -> str:
    """A hash of a file of weights by its size and its first and last MiB, or of a folder of them; not of its name."""
    if path.is_dir():
        return folder_fingerprint(path)
    digest = hashlib.sha256()
    _edges(path, digest)
    return digest.hexdigest()[:16]


def _edges(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    digest.update(f"{size}\n".encode())
    with file.open("rb") as stream:
        digest.update(stream.read(EDGE))
        if size > 2 * EDGE:
            stream.seek(-EDGE, os.SEEK_END)
            digest.update(stream.read(EDGE))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's whole content, in hexadecimal.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def installed_version(package: str) -> str:
    """A package's version, or that it is not installed: what is only stated stops nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
