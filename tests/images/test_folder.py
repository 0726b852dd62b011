"""Every file of a folder is used, in quarantine with its reason, or counted as passed over."""

import errno
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images import check_images, find_images
from vibe_pipeline.images.account import held_out_count, require_usable, take
from vibe_pipeline.images.cache import epoch_batches
from vibe_pipeline.images.folder import list_contents

Folder = Callable[..., Path]
SIZE = {"height": 32, "width": 32}


def picture(kind: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


PNG = picture("PNG")
READ = {
    **{"a.png": "PNG", "b.JPG": "JPEG", "c.jpeg": "JPEG", "d.webp": "WEBP", "e.gif": "GIF", "f.bmp": "BMP"},
    **{"g.TIFF": "TIFF", "h.tif": "TIFF", "i.jfif": "JPEG", "j.jp2": "JPEG2000", "k.j2k": "JPEG2000", "l.avif": "AVIF"},
    **{"m.ppm": "PPM", "n.qoi": "QOI", "o.apng": "PNG", "p.jpg": "PNG", "photo": "JPEG", "q.image": "WEBP"},
}
REFUSED = {
    **{"r.heic": "unsupported_format", "s.HEIF": "unsupported_format", "t.nef": "unsupported_format"},
    **{"u.svg": "unsupported_format", "v.psd": "unsupported_format", "w.tga": "unsupported_format", "x.mp4": "video"},
}


def checked(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return check_images(find_images(root), [(32, 32)], 20)


def test_all_that_the_decoder_reads_is_used_and_the_rest_listed(folder: Folder) -> None:
    files: dict[str, Any] = {name: picture(kind, i) for i, (name, kind) in enumerate(READ.items())}
    files |= {name: picture("TIFF", 50) for name in REFUSED}  # a raw file's preview must not be taken for the picture
    files |= {f"{Path(name).stem}.txt": f"the picture {name}" for name in files}
    usable, quarantine = checked(folder(files))
    assert usable["file_name"].tolist() == sorted(READ)
    assert usable["caption"].tolist() == [f"the picture {name}" for name in sorted(READ)]
    assert dict(zip(quarantine["file_name"], quarantine["reason"], strict=True)) == REFUSED
    assert quarantine["value"].str.contains("save|convert|develop").all(), "each names its way out"


def test_what_is_not_an_image_is_counted(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    system = [".DS_Store", "._a.png", "Thumbs.db", "sub/desktop.ini", "__MACOSX/a.png", ".cache/b.png", "@eaDir/a.png"]
    others = ["readme.md", "a.json", "weights.safetensors"]
    root = folder(dict.fromkeys([*system, *others], b"x") | {"a.png": picture("PNG"), "a.txt": "a ball"})
    contents = list_contents(root)
    assert contents.images == ["a.png"] and contents.refused == {}
    assert sorted(contents.system) == sorted(
        [*system[:4], "__MACOSX/", ".cache/", "@eaDir/"]  # folders as one, unopened
    )
    assert sorted(contents.others) == sorted(others)
    caplog.set_level(logging.INFO)
    find_images(root, logging.INFO)
    assert "passed over: 7 hidden or system files (such as " in caplog.text
    assert "3 other files (such as a.json)" in caplog.text


STEMS = ("a", "b", "a.b", ".a", "._a", "Thumbs", "metadata", "é", "a b")
SUFFIXES = ("", ".png", ".JPG", ".heic", ".nef", ".mp4", ".txt", ".TXT", ".db", ".csv", ".json", ".tga", ".npz")
NAMES = st.builds("".join, st.tuples(st.sampled_from(("", "sub/", ".git/")), *map(st.sampled_from, (STEMS, SUFFIXES))))


@settings(max_examples=150, deadline=None)
@given(names=st.sets(NAMES, max_size=12), picture_bytes=st.booleans())
def test_every_file_is_in_one_list_and_no_more(names: set[str], picture_bytes: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(PNG if picture_bytes else b"{}")
        contents = list_contents(Path(folder))
        tables = [path.relative_to(folder).as_posix() for path in contents.tables]
    within = [name for name in names if not name.startswith(".git/")]
    captions = set(contents.captions.values())
    lists = (contents.images, contents.refused, contents.others, contents.system, captions, tables)
    counted = sorted(name for names in lists for name in names if name != ".git/")
    assert counted == sorted(within)
    assert (".git/" in contents.system) == (len(within) < len(names))


def test_captions_without_an_image_and_images_without_a_caption(folder: Folder) -> None:
    root = folder({"a.png": picture("PNG"), "b.txt": "a ball", "sub/a.txt": "a cube", "README.TXT": "our photographs"})
    usable, quarantine = checked(root)
    assert usable.empty
    assert quarantine[["file_name", "reason"]].values.tolist() == [
        ["README.TXT", "caption_without_image"],
        ["a.png", "caption_missing"],
        ["b.txt", "caption_without_image"],
        ["sub/a.txt", "caption_without_image"],
    ]


def test_a_caption_that_two_images_share_is_the_first_usable_ones(folder: Folder) -> None:
    """A telephone leaves the HEIC beside the JPEG that was made of it."""
    files = {"a.heic": b"x", "a.jpg": picture("JPEG", 1), "a.png": picture("PNG", 2), "a.txt": "a ball"}
    files |= {"b.gif": b"", "b.PNG": picture("PNG", 3), "b.TXT": "a cube"}
    usable, quarantine = checked(folder(files))
    assert usable[["file_name", "caption"]].values.tolist() == [["a.jpg", "a ball"], ["b.PNG", "a cube"]]
    assert quarantine["reason"].tolist() == ["unsupported_format", "caption_shared", "empty_file"]
    assert "a.txt is the caption of a.jpg already" in quarantine.loc[1, "value"]


def test_metadata_tells_images_of_one_name_apart(folder: Folder) -> None:
    table = "file_name,text\na.png,a ball\na.jpg,a cube\n"
    usable, _ = checked(folder({"a.png": picture("PNG", 1), "a.jpg": picture("JPEG", 2), "metadata.csv": table}))
    assert usable["caption"].tolist() == ["a cube", "a ball"]


def test_linked_folders_are_listed_and_never_walked(folder: Folder, tmp_path: Path) -> None:
    root = folder({"a.png": picture("PNG"), "a.txt": "a ball", "sub/b.png": picture("PNG", 1), "sub/b.txt": "a cube"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.png").write_bytes(picture("PNG", 2))
    (root / "more").symlink_to(tmp_path / "elsewhere")
    (root / "sub/again").symlink_to(root)  # without end, if followed
    (root / "same").symlink_to(root / "sub")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "itself").symlink_to(root / "itself")
    usable, quarantine = checked(root)
    assert usable["file_name"].tolist() == ["a.png", "sub/b.png"]
    reasons = dict(zip(quarantine["file_name"], quarantine["reason"], strict=True))
    assert reasons == {
        **{"more": "outside_folder", "sub/again": "linked_folder", "same": "linked_folder"},
        **{"gone": "missing_file", "itself": "missing_file"},
    }
    assert "set data.path" in quarantine.set_index("file_name").loc["more", "value"]


def test_a_folder_that_cannot_be_read_is_listed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder({"a.png": picture("PNG"), "a.txt": "a ball", "locked/b.png": picture("PNG", 1)})
    look = os.scandir

    def scandir(path: str) -> Iterator[Any]:  # root may read anything, so that modes do not show it
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    usable, quarantine = checked(root)
    assert usable["file_name"].tolist() == ["a.png"]
    assert quarantine.values.tolist() == [["locked", "unreadable", "the folder cannot be read: Permission denied"]]


def test_an_image_that_cannot_be_read_is_not_called_corrupt(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder({"a.png": picture("PNG"), "a.txt": "a ball"})
    found = find_images(root)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    _, quarantine = check_images(found, [(32, 32)], 20)
    assert quarantine.values.tolist() == [["a.png", "unreadable", "Permission denied"]]


def test_names_of_windows_are_understood(folder: Folder) -> None:
    table = "\ufefffile_name,text\r\nsub\\a.png,a ball\r\nC:\\images\\b.png,a cube\r\nC:/images/c.png,a cone\r\n"
    table += "\\\\server\\share\\d.png,a disc\r\n"
    usable, quarantine = checked(folder({"sub/a.png": picture("PNG"), "metadata.csv": table}))
    assert usable[["file_name", "caption"]].values.tolist() == [["sub/a.png", "a ball"]]
    assert quarantine["reason"].tolist() == ["outside_folder"] * 3
    assert quarantine["value"].str.contains("an absolute path").all()


def test_metadata_does_not_make_a_format_readable(folder: Folder) -> None:
    table = "file_name,text\na.heic,a ball\nb.png,a cube\nc.mp4,a cone\nd.md,a disc\n"
    files = {"a.heic": b"x", "b.png": picture("PNG"), "c.mp4": b"x", "d.md": "x", "metadata.csv": table}
    usable, quarantine = checked(folder(files))
    assert usable["file_name"].tolist() == ["b.png"]
    assert quarantine["reason"].tolist() == ["unsupported_format", "video", "not_an_image"]


def test_every_file_is_accounted_for(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    files: dict[str, Any] = {f"{i:02}.png": picture("PNG", i) for i in range(14)}
    files |= {f"{i:02}.txt": f"ball {i}" for i in range(12)} | {
        "z.heic": b"",
        "y.txt": "alone",
        "x.mov": b"",
        ".x": b"",
    }
    caplog.set_level(logging.INFO)
    usable, quarantine = checked(folder(files))
    used = take(usable, quarantine, data(count=10))
    assert (len(usable), len(quarantine), len(used)) == (12, 5, 10)
    assert (
        "found 17 = 8 to train on + 2 held out + 5 in quarantine + 2 beyond data.count: 2 caption_missing"
        in caplog.text
    )


def data(**changes: Any) -> DataParams:
    return DataParams(path=Path("images"), low=SIZE, high=SIZE, **changes)


@pytest.mark.parametrize(
    ("images", "asked", "held_out"),
    [(640, 16, 16), (64, 16, 16), (63, 16, 15), (20, 16, 5), (12, 16, 3), (4, 16, 1), (2, 16, 1), (100, 1, 1)],
)
def test_the_share_bounds_what_is_held_out(images: int, asked: int, held_out: int) -> None:
    assert held_out_count(images, data(held_out=asked)) == held_out


@pytest.mark.parametrize("images", [0, 1])
def test_nothing_left_to_train_on_is_refused(images: int) -> None:
    with pytest.raises(ValueError, match=r"at least 2 are needed, one to train on and one held out") as caught:
        held_out_count(images, data())
    assert f"{images} usable image" in str(caught.value)


def test_what_the_defaults_take_is_said(caplog: pytest.LogCaptureFixture) -> None:
    usable, none = pd.DataFrame({"file_name": [f"{i}.png" for i in range(20)]}), pd.DataFrame(columns=["a", "b", "c"])
    assert len(take(usable, none, data(count=30))) == 20
    held_out, count = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert held_out.startswith("data.held_out asks for 16 images; 5 of 20 images are held out")
    assert count == "data.count asks for 30 images; only 20 are usable"
    caplog.clear()
    take(usable, none, data(held_out=4, count=16))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_folder_of_nothing_but_telephone_pictures_says_so(folder: Folder) -> None:
    usable, quarantine = checked(folder({f"{i}.heic": b"x" for i in range(5)} | {"0.txt": "a ball"}))
    with pytest.raises(ValueError, match=r"0 of 5 images are usable; .*5 unsupported_format \(0\.heic: .*HEIF is not"):
        require_usable(usable, quarantine, 0.5)


def test_paths_that_the_system_does_not_take(folder: Folder, tmp_path: Path) -> None:
    """Copied from elsewhere, a tree may be deeper than any path that can be opened."""
    root = folder({"a.png": picture("PNG"), "a.txt": "a ball"})
    place = os.open(root, os.O_RDONLY)
    for _ in range(17):  # of 250 bytes each: over 4,096
        os.mkdir("n" * 250, dir_fd=place)
        place, parent = os.open("n" * 250, os.O_RDONLY, dir_fd=place), place
        os.close(parent)
    os.close(place)
    usable, quarantine = checked(root)
    assert usable["file_name"].tolist() == ["a.png"]
    assert quarantine["value"].tolist() == ["the folder cannot be read: File name too long"]
    with pytest.raises(FileNotFoundError, match=r"no such folder; set data\.path") as caught:
        find_images(tmp_path / ("n" * 300))
    assert "\n" not in str(caught.value)
    shutil.rmtree(root)


def test_more_images_asked_for_a_batch_than_a_bucket_holds_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sizes = SimpleNamespace(buckets={0: list(range(8)), 1: [8], 2: [9, 10]})
    next(epoch_batches(sizes, 4, 0))
    (record,) = caplog.records
    assert record.getMessage().startswith("2 of 3 buckets hold fewer images than batch_size 4 (1, 2): their batches")
    caplog.clear()
    next(epoch_batches(sizes, 1, 0))
    assert not caplog.records
