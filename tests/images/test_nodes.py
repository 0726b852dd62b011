"""The nodes of data_processing, from a folder or a dataset of photographs to the cache's manifest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from kedro.io import AbstractDataset
from PIL import Image

from tests.conf_files import folders_below
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images.cache import LatentCache
from vibe_pipeline.pipelines.data_processing import nodes

CATALOG = Path("conf/base/catalog.yml").resolve()
SHAPES = {"wide": (64, 130), "tall": (130, 64), "low": (60, 128), "long caption": (96, 96), "square": (96, 96)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of three proportions; one too small for its own bucket, one with a caption of 13 tokens."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in SHAPES.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("red " * 12 if name == "long caption" else f"a {name} red circle")
    return folder


@pytest.mark.parametrize("source", ["folder", "huggingface"])
def test_from_images_to_the_cache(
    wan21, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = images if source == "folder" else as_dataset(images, tmp_path / "dataset")
    sizes: dict[str, Any] = {"low": {"height": 32, "width": 64}, "high": {"height": 64, "width": 128}}
    data, model = DataParams(source=source, path=path, held_out=1, bucket_tokens=1, **sizes), wan21.model()
    folders = folders_below(tmp_path)
    found = nodes.find_training_images(data, folders)
    usable, quarantine = nodes.check_training_images(found, data, model)
    assert sorted(quarantine["reason"]) == ["caption_too_long", "too_small"]
    manifest = nodes.cache_latents(usable, model, data, folders)
    high = {r["caption"]: manifest["settings"]["buckets"][r["bucket"]]["high"] for r in manifest["images"]}
    expected = {"a wide red circle": (64, 128), "a tall red circle": (128, 64), "a square red circle": (80, 96)}
    assert high == expected
    assert len(LatentCache(manifest)) == 2 and len(LatentCache(manifest, True)) == 1
    quarter = {"label": "a", "degradation": {"factor": 0.25, "mode": "nearest"}}
    checks = nodes.check_degradations(manifest, {"a": quarter, "b": quarter | {"degradation": {"kind": "pixel"}}})
    assert checks["factor"].tolist()[::2] == [0.5, 0.25] and checks["kind"].tolist() == ["latent", "pixel", "latent"]


def as_dataset(images: Path, folder: Path) -> Path:
    datasets = pytest.importorskip("datasets", reason="pip install -r requirements/huggingface.txt")
    files = sorted(images.glob("*.png"))
    stored = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    columns = {"image": stored, "text": [file.with_suffix(".txt").read_text() for file in files]}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    folder.mkdir()
    rows.to_parquet(str(folder / "train.parquet"))
    return folder


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    size = {"height": 32, "width": 32}
    with pytest.raises(FileNotFoundError, match=r"data\.path .*absent is not a folder"):
        nodes.find_training_images(DataParams(path=tmp_path / "absent", low=size, high=size), folders_below(tmp_path))


def test_a_caption_that_looks_like_something_else_reaches_the_cache(
    wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run does it: the table of images crosses to another process through its file."""
    monkeypatch.chdir(tmp_path)
    captions = ["None", "NA", "1984", "True", "007"]
    (tmp_path / "images").mkdir()
    for i, caption in enumerate(captions):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
        (tmp_path / f"images/{i}.txt").write_text(caption)
    size, model = {"height": 64, "width": 64}, wan21.model()
    data = DataParams(path=tmp_path / "images", buckets="single", low=size, high=size)
    usable, _ = nodes.check_training_images(nodes.find_training_images(data, folders_below(tmp_path)), data, model)
    entry = yaml.safe_load(CATALOG.read_text())["usable_images"]
    table = AbstractDataset.from_config("usable_images", entry | {"filepath": str(tmp_path / "usable.parquet")})
    table.save(usable)
    manifest = nodes.cache_latents(table.load(), model, data, folders_below(tmp_path))
    assert [image["caption"] for image in manifest["images"]] == captions
    assert sum(image["held_out"] for image in manifest["images"]) == 1


def test_one_image_is_refused_before_it_is_encoded(wan21, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a ball")
    size = {"height": 64, "width": 64}
    data = DataParams(path=tmp_path, buckets="single", low=size, high=size)
    with pytest.raises(ValueError, match="at least 2 are needed"):
        nodes.check_training_images(nodes.find_training_images(data, folders_below(tmp_path)), data, wan21.model())
