"""Weights of other people's methods, by name: where each file comes from, under which licence, how it is brought.

A row of `arms` names the file that it needs by its path. If that file is one of this list, what misses it can say the
command that brings it to where the row looks for it; `kedro vibe fetch-weights --arms` brings all that rows name.
"""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vibe_pipeline.diffusion.rrdb import RrdbShape
from vibe_pipeline.vbench.weight_files import HUB

ADAPTER = "pytorch_lora_weights.safetensors"
"""What `import-adapter` writes: another program's LoRA becomes this file, and rows name that."""
CINESCALE, ULTRAWAN, T3 = "Eyeline-Labs/CineScale", "APRIL-AIGC/UltraWan", "APRIL-AIGC/T3-Video"


@dataclass(frozen=True)
class PeerFile:
    """One published file.

    Attributes:
        name: Its folder below `folders.peers`, where the shipped environments look for it; a row may name any place.
        file: Its own name, as published.
        source: The address.
        licence: Of the weights, as their page states it.
        serves: What it is for.
        sha256: Its hash, where one is cited; else size and format are compared.
        is_adapter: A LoRA in another program's layout, which `import-adapter` turns into ours.
        rrdb: Sizes of the network in it, for a plan without the file.
    """

    name: str
    file: str
    source: str
    licence: str
    serves: str
    sha256: str = ""
    is_adapter: bool = False
    rrdb: RrdbShape | None = None

    def place(self, peers: Path) -> Path:
        """What a row names, where its files lie in the folder of peers."""
        return peers / self.name / (ADAPTER if self.is_adapter else self.file)


def _hub(repository: str, file: str) -> str:
    return f"{HUB}/{repository}/resolve/main/{file}"


def _lora(name: str, repository: str, file: str, licence: str, serves: str) -> PeerFile:
    return PeerFile(name, file, _hub(repository, file), licence, serves, is_adapter=True)


def _transformer(name: str, file: str, serves: str) -> PeerFile:
    return PeerFile(name, file, _hub(T3, file), "Apache-2.0, and the terms of Wan's weights", serves)


# Sources of the names: the projects' READMEs. Of the hash: Dockerfiles and loaders of several projects that pin it.
PEER_FILES: tuple[PeerFile, ...] = (
    PeerFile(
        "real_esrgan_x4plus",
        "RealESRGAN_x4plus.pth",
        "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth",
        "BSD-3-Clause",
        "sr: the network of Real-ESRGAN's general form",
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        rrdb=RrdbShape(),
    ),
    _lora("cinescale_1_3b", CINESCALE, "t2v_1.3b_ntk20.ckpt", "Apache-2.0", "CineScale's LoRA for Wan2.1-T2V-1.3B"),
    _lora("cinescale_14b", CINESCALE, "t2v_14b_ntk20.ckpt", "Apache-2.0", "CineScale's LoRA for Wan2.1-T2V-14B"),
    _lora("ultrawan_1k", ULTRAWAN, "ultrawan-1k.ckpt", "CC-BY-4.0", "UltraWan-1K's LoRA for the 1.3B; weight 0.25"),
    _lora("ultrawan_4k", ULTRAWAN, "ultrawan-4k.ckpt", "CC-BY-4.0", "UltraWan-4K's LoRA for the 1.3B; weight 0.5"),
    _transformer("t3_1_3b", "T3-Video-Wan2.1-T2V-1.3B.safetensors", "T3-Video's transformer, Wan2.1-T2V-1.3B"),
    _transformer("t3_5b", "T3-Video-Wan2.2-T2V-5B.safetensors", "T3-Video's transformer, Wan2.2-TI2V-5B"),
)


def peer_of(path: Path) -> PeerFile | None:
    """The entry that a path means: by the file's published name, or the folder that its import goes to."""
    for entry in PEER_FILES:
        if path.name == entry.file or (entry.is_adapter and path.name == ADAPTER and path.parent.name == entry.name):
            return entry
    return None


def how_to_get(path: Path) -> str:
    """The commands that bring a file of the list to its place; empty for any other file."""
    entry = peer_of(path)
    if entry is None:
        return ""
    steps = [] if _published(entry, path).is_file() else [f"kedro vibe fetch-weights {shlex.quote(str(path))}"]
    if entry.is_adapter and path.name == ADAPTER:
        steps.append(_import(entry, path))
    return " && ".join(steps)


def _published(entry: PeerFile, path: Path) -> Path:
    """Where the published file lies: beside what a row names of it, or it is that."""
    return path.with_name(entry.file)


def _import(entry: PeerFile, path: Path) -> str:
    published = _published(entry, path)
    return f"kedro vibe import-adapter {shlex.quote(str(published))} --output {shlex.quote(str(path.parent))}"


def fetch_peers(paths: Iterable[Path], tell: Callable[[str], None]) -> bool:
    """Bring the files of the list that rows name to where they are looked for.

    Args:
        paths: Files that rows name; those that are not of the list are said, and left to the user.
        tell: Gets a line a file.

    Returns:
        Whether all are there now. Without a connection this is said once, and nothing more is tried.
    """
    from vibe_pipeline.vbench.weights import FetchError, NoConnectionError, download

    complete = True
    for path in dict.fromkeys(paths):
        entry = peer_of(path)
        if entry is None:
            if not path.exists():
                tell(f"{path} is not there, and no file of the list: put it there by hand")
                complete = False
            continue
        place = _published(entry, path)
        try:
            if not (place.is_file() or path.is_file()):
                download(entry.source, place, entry.sha256)
                verified = "hash" if entry.sha256 else "size and format"
                tell(f"{place}: fetched from {entry.source}, {verified} verified; licence {entry.licence}")
        except NoConnectionError as error:
            tell(str(error))
            return False
        except FetchError as error:
            tell(str(error))
            complete = False
            continue
        tell(f"{path} is there" if path.is_file() else f"next, as pickles are opened by this alone: {how_to_get(path)}")
    return complete


def listed(peers: Path) -> str:
    """The list for people: what each file is for, its licence and what a row names; `peers` is the folder of peers."""
    return "\n".join(f"{e.serves}: {e.place(peers)} ({e.licence}), from {e.source}" for e in PEER_FILES)
