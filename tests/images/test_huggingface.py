"""Datasets: rows become a folder that the check can judge; nothing is downloaded; what is missing is said at once."""

import io
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images import check_images, find_images
from vibe_pipeline.images.huggingface import export_dataset

datasets = pytest.importorskip("datasets", reason="pip install -r requirements/huggingface.txt")

COUNT = 4


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to connect is a failure."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    size = {"height": 16, "width": 16}

    def run(path: Path | str, **changes: Any) -> Path:
        data = DataParams(source="huggingface", path=path, low=size, high=size, **changes)
        return export_dataset(data, tmp_path / "out")

    return run


def table(images: list[dict | None], **columns: list[str | None]) -> Any:
    features = {"image": datasets.Image()} | dict.fromkeys(columns, datasets.Value("string"))
    return datasets.Dataset.from_dict({"image": images} | columns, features=datasets.Features(features))


def parquet(folder: Path, rows: Any, name: str = "data/train-00000-of-00001.parquet") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(str(folder / name))
    return folder


def stored() -> list[dict]:
    return [{"bytes": png(i), "path": f"{i}.png"} for i in range(COUNT)]


def make_parquet(folder: Path) -> Path:
    return parquet(folder, table(stored(), text=[f"ball {i}" for i in range(COUNT)]))


def make_saved(folder: Path) -> Path:
    table(stored(), text=[f"ball {i}" for i in range(COUNT)]).save_to_disk(str(folder))
    return folder


def make_saved_splits(folder: Path) -> Path:
    rows = table(stored(), text=[f"ball {i}" for i in range(COUNT)])
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(folder))
    return folder


def make_imagefolder(folder: Path) -> Path:
    folder.mkdir()
    for i in range(COUNT):
        (folder / f"{i}.png").write_bytes(png(i))
    rows = "".join(f"{i}.png,ball {i}\n" for i in range(COUNT))
    (folder / "metadata.csv").write_text(f"file_name,text\n{rows}")
    return folder


@pytest.mark.parametrize("make", [make_parquet, make_saved, make_saved_splits, make_imagefolder])
def test_rows_become_a_folder_with_the_stored_bytes(
    make: Callable[[Path], Path], export: Callable[..., Path], tmp_path: Path
) -> None:
    folder = export(make(tmp_path / "dataset"))
    usable, quarantine = check_images(find_images(folder), [(16, 16)], 5)
    assert quarantine.empty
    assert usable["caption"].tolist() == [f"ball {i}" for i in range(COUNT)]
    assert [Path(path).read_bytes() for path in usable["path"]] == [png(i) for i in range(COUNT)]


def test_columns_count_and_split_are_chosen_and_a_whole_copy_is_kept(
    export: Callable[..., Path], tmp_path: Path
) -> None:
    rows = table(stored(), caption=[f"ball {i}" for i in range(COUNT)]).rename_column("image", "picture")
    home = parquet(tmp_path / "dataset", rows, "data/test-00000-of-00001.parquet")
    choice = {"split": "test", "image_column": "picture", "text_column": "caption", "count": 2}
    folder = export(home, **choice)
    assert find_images(folder)["caption"].tolist() == ["ball 0", "ball 1"]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert export(home, **choice) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    parquet(home, rows.select([2, 3]), "data/test-00000-of-00001.parquet")
    assert find_images(export(home, **choice))["caption"].tolist() == ["ball 2", "ball 3"]


def test_bad_rows_go_to_quarantine(export: Callable[..., Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    images = [{"bytes": png(0), "path": None}, None, {"bytes": b"hello", "path": "2.png"}, {"path": str(secret)}]
    images += [{"bytes": png(4), "path": None}]
    rows = table(images, text=["ball", "none", "broken", "outside", None])
    folder = export(parquet(tmp_path / "dataset", rows))
    usable, quarantine = check_images(find_images(folder), [(16, 16)], 5)
    assert usable["caption"].tolist() == ["ball"]
    assert sorted(quarantine["reason"]) == ["caption_empty", "missing_file", "not_an_image", "outside_folder"]
    assert all(path.read_bytes() != png(9) for path in folder.glob("*.png"))


def test_refusals_name_the_way_out(
    export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_parquet(tmp_path / "dataset")
    with pytest.raises(FileNotFoundError, match="hf download --repo-type dataset nobody/nothing"):
        export("nobody/nothing")
    with pytest.raises(ValueError, match=r"split 'test'.*train"):
        export(home, split="test")
    with pytest.raises(ValueError, match=r"data\.text_column: .* no column 'caption'; it has image, text"):
        export(home, text_column="caption")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install -r requirements/huggingface\.txt"):
        export(home)


def test_a_dataset_of_the_hub_is_read_from_its_download(
    export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the hub's cache: snapshots of links to blobs."""
    made = make_imagefolder(tmp_path / "made")
    repository = tmp_path / "hub/datasets--some--balls"
    snapshot, commit = repository / "snapshots" / ("a" * 40), "a" * 40
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    for i, file in enumerate(sorted(made.iterdir())):
        file.rename(repository / f"blobs/{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = find_images(export("some/balls"))
    assert found["caption"].tolist() == [f"ball {i}" for i in range(COUNT)]
    assert found["reason"].eq("").all()
    card = "---\ndataset_info:\n  splits:\n  - name: train\n    num_bytes: 1\n    num_examples: 9\n---\n"
    (snapshot / "README.md").write_text(card)
    with pytest.raises(ValueError, match=r"4 of 9 rows .*`hf download --repo-type dataset some/balls"):
        export("some/balls")
