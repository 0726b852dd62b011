"""Fetching VBench's weights before a run: from where VBench itself takes them, resumable, checked, all in one folder.

A hash is compared where a package states one (CLIP). The other files have none that could be cited: of those the
size the server announces is compared, and that the file is what its name says and not a page about an error.
"""

import contextlib
import importlib.util
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from vibe_pipeline.diffusion.headers import impostor
from vibe_pipeline.io.files import require_space, write_atomic, write_json
from vibe_pipeline.io.keys import file_sha256
from vibe_pipeline.vbench.dimensions import HUB_FOLDER, dimension_of
from vibe_pipeline.vbench.weight_files import Archive, Weight

logger = logging.getLogger(__name__)

TIMEOUT = (5, 60)  # s: to connect, and between two pieces
PIECE = 1 << 16
HUB_FILES = ("*.json", "vocab.txt", "model.safetensors", "pytorch_model.bin")
# Zip (torch.save since 1.6, TorchScript, archives), gzip, and the bare pickles of older torch.save.
SIGNATURES = {
    ".zip": (b"PK\x03\x04",),
    ".gz": (b"\x1f\x8b",),
    ".pt": (b"PK\x03\x04",),
    ".pth": (b"PK\x03\x04", b"\x80"),
    ".ckpt": (b"PK\x03\x04", b"\x80"),
    ".mat": (b"MATLAB",),
}


class FetchError(RuntimeError):
    """A file could not be fetched, or is not what it should be; the message names its address and place."""


class NoConnectionError(FetchError):
    """The server did not answer: others will hardly do."""


def fetch_weights(
    dimensions: Sequence[str], cache_dir: Path, tell: Callable[[str], None] = logger.info
) -> list[FetchError]:
    """Bring the weights of dimensions into the cache folder; what is there is left alone.

    Args:
        dimensions: Names out of VBench's 16.
        cache_dir: VBench's folder of weights, made if needed.
        tell: Gets a line per file.

    Returns:
        What could not be fetched, an error per file; files already begun stay, and the next call goes on with them.

    Raises:
        ValueError: A dimension's name is wrong.
    """
    entries = [dimension_of(name) for name in dimensions]
    errors = fetch_files((weight for entry in entries for weight in entry.weights), cache_dir, tell)
    for model in dict.fromkeys(entry.hub_model for entry in entries if entry.hub_model):
        try:
            tell(_fetch_model(model, cache_dir))
        except FetchError as error:
            tell(str(error))
            errors.append(error)
    return errors


def fetch_files(weights: Iterable[Weight], folder: Path, tell: Callable[[str], None] = logger.info) -> list[FetchError]:
    """Bring files into a folder, each once; what is there is left alone. Returns what could not be fetched."""
    errors = []
    for weight in dict.fromkeys(weights):
        try:
            tell(_fetch(weight, folder))
        except FetchError as error:
            tell(str(error))
            errors.append(error)
    return errors


def _fetch(weight: Weight, cache_dir: Path) -> str:
    place = cache_dir / weight.path
    if place.is_file() and place.stat().st_size:
        return f"{place} is there"
    if weight.shipped and (copy := _shipped(weight.shipped)):
        write_atomic(place, lambda p: shutil.copyfile(copy, p))
        return f"{place}: copied from {copy}"
    if weight.archive:
        _unpack(weight.archive, cache_dir)
        if not place.is_file():
            raise FetchError(f"{weight.archive.url} holds no {place.name}; put it at {place} by hand")
        return f"{place}: unpacked from {weight.archive.url}"
    download(weight.source, place, weight.sha256)
    return f"{place}: fetched from {weight.source}, {'hash' if weight.sha256 else 'size and format'} verified"


def download(url: str, place: Path, sha256: str = "") -> Path:
    """Fetch a file, going on with what an earlier call began.

    Bytes go to `<place>.part`; once the file is complete and checked it gets its name. What is there is used only if
    the server still has the same file (its ETag or date).

    Args:
        url: The address that it is fetched from.
        place: Where it goes.
        sha256: Its hash, if known.

    Raises:
        FetchError: No answer, a refusal, a broken transfer, or a wrong file.
    """
    part, note = place.with_name(f"{place.name}.part"), place.with_name(f"{place.name}.part.json")
    place.parent.mkdir(parents=True, exist_ok=True)
    with _explained(url, place):
        _transfer(url, part, note)
    if reason := _wrong(part, place, sha256):
        part.unlink()
        raise FetchError(f"{url}: {reason}; it was not put at {place}. Try again, or put the file there by hand")
    part.replace(place)
    note.unlink(missing_ok=True)
    return place


@contextlib.contextmanager
def _explained(url: str, place: Path) -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, OSError) as error:
        offline = isinstance(error, requests.ConnectionError | requests.Timeout)
        raise (NoConnectionError if offline else FetchError)(
            f"{url} could not be fetched ({_cause(error)}). With a connection, run the same command again, it goes on "
            f"where it stopped; without one, put the file at {place}"
        ) from error


def _cause(error: requests.RequestException | OSError) -> str:
    """Why nothing came, in a few words: the libraries' own texts nest pools, addresses and objects."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer in time: {TIMEOUT[0]} s to connect, {TIMEOUT[1]} s between two pieces"
    if isinstance(error, requests.ConnectionError):
        inner = getattr(error.args[0], "reason", None) if error.args else None
        return f"no connection: {type(inner or error).__name__}"
    return f"{type(error).__name__}: {error}"


def _noted(note: Path) -> dict[str, Any]:
    """What an earlier call noted of a file begun; nothing if that is lost or damaged."""
    try:
        content = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _transfer(url: str, part: Path, note: Path) -> None:
    """All bytes of the address into `part`."""
    known = _noted(note) if part.is_file() else {}
    have = part.stat().st_size if known.get("url") == url and known.get("version") else 0
    if have and have == known.get("size"):
        return
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        have = have if answer.status_code == requests.codes.partial_content else 0
        length = answer.headers.get("Content-Length")
        size = have + int(length) if length else None
        require_space(part.parent, size - have if size else 0)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        write_json(note, {"url": url, "version": version, "size": size})
        with part.open("ab" if have else "wb") as out:
            for piece in answer.iter_content(PIECE):
                out.write(piece)
    if size is not None and part.stat().st_size != size:
        raise OSError(f"{part.stat().st_size} of {size} bytes came")


def _wrong(file: Path, place: Path, sha256: str) -> str:
    """Why a fetched file is not the wanted one; empty if it is."""
    if sha256:
        found = file_sha256(file)
        return "" if found.startswith(sha256) else f"its SHA-256 is {found}, not {sha256}"
    with file.open("rb") as stream:
        start = stream.read(8)
    if place.suffix == ".safetensors" and (said := impostor(file)):
        return f"it is {said}"
    expected = SIGNATURES.get(place.suffix, ())
    if not expected or start.startswith(expected):
        return ""
    return f"it begins with {start!r} and is not a {place.suffix} file"


def _unpack(archive: Archive, cache_dir: Path) -> None:
    """Fetch a zip file, unless it was put there by hand, and put its content under the cache folder."""
    folder, packed = cache_dir / archive.folder, cache_dir / f"{archive.folder}.zip"
    if not packed.is_file():
        download(archive.url, packed)
    with tempfile.TemporaryDirectory(dir=packed.parent) as scratch:
        try:
            with zipfile.ZipFile(packed) as content:
                content.extractall(scratch)
        except zipfile.BadZipFile as error:
            packed.unlink()
            raise FetchError(f"{archive.url} is damaged ({error}); run the same command again") from error
        top = _only_folder(Path(scratch)) if archive.drop_top else Path(scratch)
        for file in sorted(path for path in top.rglob("*") if path.is_file()):
            target = folder / file.relative_to(top)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    packed.unlink()


def _only_folder(folder: Path) -> Path:
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _shipped(place: str) -> Path | None:
    """A file of an installed package, given as "package:file"."""
    package, file = place.split(":")
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).with_name(file) if spec and spec.origin else None
    return path if path and path.is_file() else None


def _fetch_model(name: str, cache_dir: Path) -> str:
    """A model of the Hugging Face hub, by its own client, which resumes and verifies."""
    from huggingface_hub import snapshot_download

    place = cache_dir / HUB_FOLDER
    try:
        snapshot_download(name, cache_dir=place, allow_patterns=list(HUB_FILES), etag_timeout=TIMEOUT[0])
    except Exception as error:  # the client raises its own, its transport's and the system's
        raise FetchError(
            f"https://huggingface.co/{name} could not be fetched ({type(error).__name__}); with a connection, run the "
            f"same command again; without one, put a Hugging Face cache that holds {name} at {place}"
        ) from error
    return f"{place}: {name} is there"


def listed(names: Iterable[str]) -> list[str]:
    """Dimension names out of texts with commas, checked.

    Raises:
        ValueError: One is not among the 16.
    """
    return [dimension_of(name).name for text in names for name in text.split(",") if name.strip()]
