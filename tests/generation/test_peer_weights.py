"""The list of peers' weights: one place a file, fetched to where a row looks for it, or one line that says why not."""

import functools
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vibe_pipeline.generation import peer_weights
from vibe_pipeline.generation.peer_weights import PEER_FILES, fetch_peers, how_to_get, listed, peer_of

PEERS = Path("data/06_models/peers")
BY_NAME = {entry.name: entry for entry in PEER_FILES}
X4, CINESCALE, T3 = (BY_NAME[name] for name in ("real_esrgan_x4plus", "cinescale_1_3b", "t3_5b"))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files a local server gives under the names of the list."""
    folder = tmp_path / "server"
    folder.mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=functools.partial(running.serve_forever, 0.01))
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}"
        local = tuple(replace(e, source=f"{address}/{e.file}", sha256="") for e in PEER_FILES)
        monkeypatch.setattr(peer_weights, "PEER_FILES", local)
        yield folder
        running.shutdown()
        thread.join()


def test_each_entry_has_a_place_a_licence_and_an_address_of_its_own() -> None:
    assert len({e.place(PEERS) for e in PEER_FILES}) == len({e.source for e in PEER_FILES}) == len(PEER_FILES)
    for entry in PEER_FILES:
        assert entry.source.startswith("https://") and entry.source.endswith(f"/{entry.file}") and entry.licence
        assert peer_of(entry.place(PEERS)) is entry and peer_of(Path("elsewhere") / entry.file) is entry
        assert entry.place(PEERS).suffix in (".pth", ".safetensors")  # rows never name a pickle of a LoRA
        assert str(entry.place(PEERS)) in listed(PEERS) and entry.licence in listed(PEERS)
    assert {"cinescale_1_3b", "ultrawan_1k", "t3_1_3b", "t3_5b", "real_esrgan_x4plus"} <= set(BY_NAME)
    assert peer_of(Path("elsewhere/pytorch_lora_weights.safetensors")) is None
    assert len(X4.sha256) == 64 and X4.rrdb is not None


def test_what_is_missing_is_told_with_its_commands(tmp_path: Path) -> None:
    place = tmp_path / "cinescale_1_3b/pytorch_lora_weights.safetensors"
    convert = f"kedro vibe import-adapter {place.with_name(CINESCALE.file)} --output {place.parent}"
    assert how_to_get(place) == f"kedro vibe fetch-weights {place} && {convert}"
    place.parent.mkdir()
    place.with_name(CINESCALE.file).touch()
    assert how_to_get(place) == convert
    assert how_to_get(tmp_path / X4.file) == f"kedro vibe fetch-weights {tmp_path / X4.file}"
    assert how_to_get(tmp_path / "mine.pth") == ""


def test_files_come_to_where_rows_look_for_them(served: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, served / X4.file)
    torch.save({"a": torch.ones(1)}, served / CINESCALE.file)
    mine, adapter = tmp_path / "mine" / X4.file, tmp_path / "cinescale_1_3b/pytorch_lora_weights.safetensors"
    lines: list[str] = []
    assert fetch_peers([mine, adapter, mine], lines.append)
    assert mine.read_bytes() == (served / X4.file).read_bytes()
    assert (adapter.parent / CINESCALE.file).is_file() and not adapter.exists()
    assert "licence BSD-3-Clause" in lines[0] and lines[1] == f"{mine} is there"
    assert lines[3].startswith("next, as pickles are opened by this alone: kedro vibe import-adapter")
    lines.clear()
    (served / X4.file).unlink()  # not asked for again
    assert fetch_peers([mine], lines.append) and lines == [f"{mine} is there"]


def test_a_file_that_is_not_what_its_hash_says_is_not_kept(served: Path, tmp_path: Path, monkeypatch) -> None:
    torch.save({"a": torch.ones(1)}, served / X4.file)
    strict = tuple(replace(e, sha256=X4.sha256) for e in peer_weights.PEER_FILES if e.name == X4.name)
    monkeypatch.setattr(peer_weights, "PEER_FILES", strict)
    lines: list[str] = []
    assert not fetch_peers([tmp_path / X4.file], lines.append)
    found = hashlib.sha256((served / X4.file).read_bytes()).hexdigest()
    assert f"its SHA-256 is {found}, not {X4.sha256}" in lines[0] and not (tmp_path / X4.file).exists()


def test_a_page_in_place_of_the_file_is_not_kept_and_the_others_are_tried(served: Path, tmp_path: Path) -> None:
    (served / X4.file).write_text("<!doctype html>")
    torch.save({"a": torch.ones(1)}, served / CINESCALE.file)
    lines: list[str] = []
    ckpt = tmp_path / CINESCALE.file
    assert not fetch_peers([tmp_path / X4.file, ckpt], lines.append)
    assert "is not a .pth file" in lines[0] and ckpt.is_file()


def test_without_a_connection_it_is_said_at_once_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tuple(replace(e, source=f"http://127.0.0.1:9/{e.file}") for e in PEER_FILES)
    monkeypatch.setattr(peer_weights, "PEER_FILES", gone)
    lines: list[str] = []
    begun = time.monotonic()
    assert not fetch_peers([tmp_path / e.file for e in gone], lines.append)
    assert len(lines) == 1 and time.monotonic() - begun < 5
    assert "could not be fetched (no connection: " in lines[0] and str(tmp_path / X4.file) in lines[0]


def test_a_file_of_the_users_own_is_left_to_the_user(tmp_path: Path) -> None:
    lines: list[str] = []
    assert not fetch_peers([tmp_path / "mine.pth"], lines.append)
    assert lines == [f"{tmp_path / 'mine.pth'} is not there, and no file of the list: put it there by hand"]
    (tmp_path / "mine.pth").touch()
    assert fetch_peers([tmp_path / "mine.pth"], lines.append)
