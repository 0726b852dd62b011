"""Content keys, fingerprints, atomic files."""

import subprocess
from pathlib import Path

import pytest

from vibe_pipeline.experiment.training import OptimiserParams
from vibe_pipeline.io.files import read_json, remove_abandoned, require_space, write_atomic, write_json
from vibe_pipeline.io.keys import content_key, folder_fingerprint, installed_version

MIB = 1 << 20


def test_equal_content_gives_equal_keys() -> None:
    key = content_key({"a": 1, "b": (1, 2)}, Path("x"), OptimiserParams())
    assert key == content_key({"b": [1, 2], "a": 1}, "x", OptimiserParams().model_dump(mode="json"))
    assert len(key) == 16


@pytest.mark.parametrize(
    "other",
    [({"a": 1},), ("a", 1), ({"a": "1"}, None), ({"a": 1.5}, None), ({"b": 1}, None), ({"a": 1}, None, None)],
    ids=str,
)
def test_other_content_gives_other_keys(other: tuple) -> None:
    assert content_key({"a": 1}, None) != content_key(*other)


def model_folder(root: Path) -> Path:
    (root / "vae").mkdir(parents=True)
    (root / "model_index.json").write_text("{}")
    (root / "vae" / "weights.safetensors").write_bytes(bytes(3 * MIB))
    return root


@pytest.mark.parametrize(
    ("name", "offset", "changes"),
    [
        ("vae/weights.safetensors", 10, True),
        ("vae/weights.safetensors", 3 * MIB - 5, True),
        ("model_index.json", 0, True),
    ],
)
def test_a_fingerprint_sees_headers_and_tails(tmp_path: Path, name: str, offset: int, changes: bool) -> None:
    folder = model_folder(tmp_path / "m")
    before = folder_fingerprint(folder)
    with (folder / name).open("r+b") as file:
        file.seek(offset)
        file.write(b"#")
    assert (folder_fingerprint(folder) != before) == changes


def test_a_fingerprint_does_not_depend_on_place_or_notes(tmp_path: Path) -> None:
    one, other = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    (other / "README.md").write_text("notes")
    assert folder_fingerprint(one) == folder_fingerprint(other)
    (other / "vae" / "weights.safetensors").rename(other / "vae" / "renamed.safetensors")
    assert folder_fingerprint(one) != folder_fingerprint(other)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "a.json", {"x": 1})
    seen: list[Path] = []

    def fail(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert read_json(path) == {"x": 1}
    assert seen[0].suffix == ".json"
    assert seen[0].parent == path.parent
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}"])
def test_a_damaged_json_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.json is damaged.*delete it"):
        read_json(tmp_path / "m.json")


def test_a_full_disk_is_told_beforehand(tmp_path: Path) -> None:
    require_space(tmp_path / "new", 1)
    assert (tmp_path / "new").is_dir()
    with pytest.raises(OSError, match="GB free"):
        require_space(tmp_path, 1 << 60)


def test_only_half_written_files_of_dead_processes_of_this_machine_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        remove_abandoned(tmp_path, ".bin")  # another run tidies up meanwhile
        temporary.write_bytes(b"whole")
        own = temporary.name.split(".")[1]
        host = own.split("-")[1]
        for name in (f".{dead.pid}-{host}-abcdef.a.bin", f".{dead.pid}-000000-abcdef.b.bin", ".hidden.bin"):
            (tmp_path / name).touch()
        remove_abandoned(tmp_path, ".bin")

    write_atomic(tmp_path / "x.bin", write)
    assert {p.name for p in tmp_path.iterdir()} == {".hidden.bin", f".{dead.pid}-000000-abcdef.b.bin", "x.bin"}
    write_atomic(tmp_path / "x.bin", lambda p: seen.append(p) or p.touch())
    assert seen[0] != seen[1]


def test_a_version_that_is_only_stated_stops_nothing() -> None:
    assert installed_version("torch")[0].isdigit()
    assert installed_version("no-such-package-of-ours") == "not installed"
