"""Fetching weights: from a local server that can be cut off half-way, refuse, or answer with a page."""

import functools
import hashlib
import http.server
import io
import threading
import time
import zipfile

import pytest

from vibe_pipeline.evaluation.metrics.asked import ASKED
from vibe_pipeline.evaluation.metrics.networks import Network
from vibe_pipeline.vbench import weights
from vibe_pipeline.vbench.dimensions import REGISTRY
from vibe_pipeline.vbench.weight_files import Archive, Weight
from vibe_pipeline.vbench.weights import FetchError, download, fetch_weights, listed

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 20_000
GONE = "http://127.0.0.1:9/weights.pth"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`, in part if asked; stops after `cut` bytes of an answer, if set."""

    files: dict
    cut = None
    log: list
    tag = '"1"'

    def do_GET(self):
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        first = 0
        if self.headers["Range"] and self.headers["If-Range"] == self.tag:
            first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.log.append(first)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(content[first:][: self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """Its address and its handler class, whose `files` and `cut` a test sets."""
    handler = type("Handler", (Server,), {"files": {"/weights.pth": CONTENT}, "log": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=functools.partial(running.serve_forever, 0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


def test_cut_off_and_resumed(server, tmp_path):
    address, handler = server
    place = tmp_path / "model" / "weights.pth"
    handler.cut = 1_000_000
    with pytest.raises(FetchError, match=r"weights\.pth could not be fetched .* goes on where it stopped"):
        download(f"{address}/weights.pth", place)
    assert not place.exists() and (begun := place.with_name("weights.pth.part").stat().st_size) > 0
    handler.cut = None
    download(f"{address}/weights.pth", place, hashlib.sha256(CONTENT).hexdigest())
    assert place.read_bytes() == CONTENT and handler.log == [0, begun]
    assert [file.name for file in place.parent.iterdir()] == ["weights.pth"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    address, handler = server
    place = tmp_path / "weights.pth"
    handler.cut = 1_000_000
    with pytest.raises(FetchError):
        download(f"{address}/weights.pth", place)
    handler.cut, handler.tag = None, '"2"'
    handler.files["/weights.pth"] = CONTENT[::-1].replace(CONTENT[-1:], b"PK\x03\x04", 1)
    download(f"{address}/weights.pth", place)
    assert place.read_bytes() == handler.files["/weights.pth"] and handler.log == [0, 0]


@pytest.mark.parametrize(
    ("content", "sha256", "words"),
    [
        (b"<!DOCTYPE html>please log in", "", "begins with b'<!DOCTYP' and is not a .pth file"),
        (CONTENT, "0" * 64, f"its SHA-256 is {hashlib.sha256(CONTENT).hexdigest()}, not 0000"),
    ],
)
def test_a_wrong_file_is_not_kept(server, tmp_path, content, sha256, words):
    address, handler = server
    handler.files["/weights.pth"] = content
    with pytest.raises(FetchError, match=words):
        download(f"{address}/weights.pth", tmp_path / "weights.pth", sha256)
    assert not (tmp_path / "weights.pth").exists()


def test_refused_or_offline_names_address_and_place_at_once(server, tmp_path):
    start = time.monotonic()
    for url, words in (
        (f"{server[0]}/none.pth", r"\(the server answered 404 [A-Z]\w+ \w+\)"),
        (GONE, r"\(no connection: \w+\)"),
    ):
        with pytest.raises(FetchError, match=words) as error:
            download(url, tmp_path / "weights.pth")
        assert url in str(error.value) and str(tmp_path / "weights.pth") in str(error.value)
    assert time.monotonic() - start < 30


def packed(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_a_dimension_is_fetched_whole(server, tmp_path, monkeypatch):
    """A file, an archive whose top folder is dropped, and a copy of what a package ships; then nothing again."""
    address, handler = server
    handler.files["/code.zip"] = packed({"dino-main/hubconf.py": "pass", "dino-main/utils/a.py": "pass"})
    wanted = (
        Weight("a/weights.pth", f"{address}/weights.pth"),
        Weight("b/code/hubconf.py", address, archive=Archive(f"{address}/code.zip", "b/code", drop_top=True)),
        Weight("c/config.json", GONE, shipped="vibe_pipeline:cli.py"),
    )
    entry = type("Entry", (), {"weights": wanted, "hub_model": ""})
    monkeypatch.setattr(weights, "dimension_of", lambda name: entry)
    said = []
    assert fetch_weights(["any"], tmp_path, said.append) == []
    assert (tmp_path / "a/weights.pth").read_bytes() == CONTENT
    assert (tmp_path / "b/code/utils/a.py").is_file() and not (tmp_path / "b/code.zip").exists()
    assert (tmp_path / "c/config.json").is_file() and len(said) == 3
    asked = len(handler.log)
    assert fetch_weights(["any"], tmp_path, said.append) == [] and len(handler.log) == asked


def test_an_archive_put_there_by_hand_is_used(tmp_path, monkeypatch):
    wanted = Weight("raft/models/w.pth", GONE, archive=Archive(GONE, "raft"))
    monkeypatch.setattr(weights, "dimension_of", lambda _: type("Entry", (), {"weights": (wanted,), "hub_model": ""}))
    (tmp_path / "raft.zip").write_bytes(packed({"models/w.pth": "weights"}))
    assert fetch_weights(["any"], tmp_path) == [] and (tmp_path / "raft/models/w.pth").read_text() == "weights"
    (tmp_path / "raft/models/w.pth").unlink()
    (tmp_path / "raft.zip").write_bytes(b"half of an archive")
    assert "is damaged" in str(fetch_weights(["any"], tmp_path)[0]) and not (tmp_path / "raft.zip").exists()


def test_one_missing_file_does_not_stop_the_others(server, tmp_path, monkeypatch):
    wanted = (Weight("a.pth", GONE), Weight("b.pth", f"{server[0]}/weights.pth"))
    monkeypatch.setattr(weights, "dimension_of", lambda _: type("Entry", (), {"weights": wanted, "hub_model": ""}))
    errors = fetch_weights(["any"], tmp_path, lambda _: None)
    assert len(errors) == 1 and GONE in str(errors[0]) and (tmp_path / "b.pth").is_file()


def test_the_start_of_a_hash_is_compared_and_a_page_is_not_a_matrix(server, tmp_path):
    """torch.hub puts the first eight digits into a file's name."""
    address, handler = server
    right = hashlib.sha256(CONTENT).hexdigest()[:8]
    assert download(f"{address}/weights.pth", tmp_path / "a.pth", right).read_bytes() == CONTENT
    with pytest.raises(FetchError, match="its SHA-256 is"):
        download(f"{address}/weights.pth", tmp_path / "b.pth", "00000000")
    handler.files["/niqe.mat"] = b"<html>not found</html>"
    with pytest.raises(FetchError, match=r"not a \.mat file"):
        download(f"{address}/niqe.mat", tmp_path / "niqe.mat")


def test_every_weight_has_an_address_and_known_hashes_are_the_packages():
    for entry in REGISTRY.values():
        for weight in entry.weights:
            assert weight.source.startswith("https://") and " " not in weight.source
    clip = pytest.importorskip("clip.clip")
    hashes = {url.split("/")[-2] for url in clip._MODELS.values()}
    known = {weight.sha256 for entry in REGISTRY.values() for weight in entry.weights if weight.sha256}
    assert len(known) == 2 and known <= hashes


def test_names_with_commas():
    assert listed(["temporal flickering, scene", "color"]) == ["temporal_flickering", "scene", "color"]
    with pytest.raises(ValueError, match="unknown VBench dimension 'beauty'"):
        listed(["beauty"])


def test_every_file_of_a_measure_has_an_address_and_its_name_the_start_of_its_hash():
    files = {weight for entry in ASKED if isinstance(entry, Network) for weight in entry.weights}
    assert len(files) == len({weight.path for weight in files}) == 7
    for weight in files:
        assert weight.source.startswith("https://") and " " not in weight.source
        named = weight.path.rpartition(".")[0].rpartition("-")[2]
        assert not weight.sha256 or weight.sha256.startswith(named) or weight.path == "lpips_v0.1_alex.pth"
