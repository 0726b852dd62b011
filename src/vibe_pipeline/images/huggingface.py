"""Training images from a Hugging Face dataset: one split, written out once as a folder of images with captions.

From there on they are a folder like any other: the same check, the same quarantine. Nothing is downloaded here.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from vibe_pipeline.diffusion.foreign import HUB_ID
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.images.find import CAPTION_COLUMN, FILE_COLUMN
from vibe_pipeline.images.formats import SUFFIXES
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import require_space, write_atomic
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.runtime.progress import Progress

log = logging.getLogger(__name__)

SAVED = ("state.json", "dataset_dict.json")  # what Dataset.save_to_disk leaves
TABLE = "metadata.jsonl"


def export_dataset(data: DataParams, root: Path) -> Path:
    """Write the images and captions of a dataset into a folder of their own below `root`; a whole one is kept.

    Stored bytes are written as they are, never encoded again. A row without an image, or whose image lies outside of
    the dataset, is listed all the same: the check puts it in quarantine with the reason.

    Args:
        data: `path` (a local folder, or the hub id of a dataset that was downloaded before), `split`, `subset`,
            `image_column`, `text_column`, `count`.
        root: Gets the folder, named by what determines its content.

    Returns:
        The folder, in the imagefolder convention: image files and a metadata.jsonl.

    Raises:
        FileNotFoundError: No such dataset on this machine; the message says how to get it.
        ImportError: The `datasets` library is not installed; the message says how to install it.
        ValueError: No such split or column, rows missing, or a dataset that the library cannot read.
        OSError: The copy would not fit on the disk.
    """
    home = find_dataset(str(data.path))
    files = sorted(path for path in home.rglob("*") if path.is_file())
    seen = [(str(path.relative_to(home)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    folder = root / content_key(seen, data.split, data.subset, data.image_column, data.text_column, data.count)
    if (folder / TABLE).exists():  # written last
        return folder
    rows = _rows(home, data)
    require_space(folder, sum(size for _, size, _ in seen))
    records = []
    for number, row in enumerate(Progress(rows, desc="reading the dataset", unit="image")):
        if number == data.count:
            break
        name = _write_image(folder, number, row[data.image_column], home)
        records.append(json.dumps({FILE_COLUMN: name, CAPTION_COLUMN: row[data.text_column]}, default=str))
    _require_all(rows, len(records), data)
    write_atomic(folder / TABLE, lambda path: path.write_text("\n".join(records) + "\n"))
    log.info("wrote %d images of %s to %s", len(records), data.path, folder)
    return folder


def find_dataset(path_or_id: str) -> Path:
    """Find a dataset: a folder, or a hub id that was downloaded before. Nothing is downloaded here.

    Raises:
        FileNotFoundError: Neither is there; the message says how to get it.
    """
    try:
        folder = Path(path_or_id)
        if folder.is_dir():
            return folder
        return Path(snapshot_download(path_or_id, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError) as error:
        get = (
            f"`hf download --repo-type dataset {path_or_id}`" if HUB_ID.fullmatch(path_or_id) else "an id from the hub"
        )
        raise FileNotFoundError(
            f"data.path {one_line(repr(path_or_id))} is neither a folder nor a dataset downloaded before; get it with "
            f"{get} or set data.path to a local folder"
        ) from error


def _rows(home: Path, data: DataParams) -> Iterable[dict[str, Any]]:
    """The rows of the split, read from the files as they are asked for; images as stored bytes or paths."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "data.source is huggingface, which needs the `datasets` library: "
            "install it with `pip install -r requirements/huggingface.txt`"
        ) from error
    try:
        if any((home / name).exists() for name in SAVED):
            saved = datasets.load_from_disk(str(home))
            rows = saved[data.split] if isinstance(saved, datasets.DatasetDict) else saved
        else:
            rows = datasets.load_dataset(str(home), data.subset, split=data.split, streaming=True)
        columns = rows.column_names or list(next(iter(rows), {}))
    except (ValueError, KeyError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"data.path {home}: split {data.split!r}, subset {data.subset!r} cannot be read: {error}"
        ) from error
    for field, name in (("image_column", data.image_column), ("text_column", data.text_column)):
        if name not in columns:
            raise ValueError(f"data.{field}: {home} has no column {name!r}; it has {', '.join(columns)}")
    rows = rows.select_columns([data.image_column, data.text_column])
    return rows.cast_column(data.image_column, datasets.Image(decode=False))


def _require_all(rows: Any, read: int, data: DataParams) -> None:
    """An interrupted download reads well but lacks files: count, where the dataset's card says how many rows it has."""
    if hasattr(rows, "num_rows"):  # from save_to_disk, which is whole and whose card may be that of a larger one
        return
    split = (rows.info.splits or {}).get(data.split)
    expected = min(split.num_examples or 0, data.count or split.num_examples or 0) if split else 0
    if read < expected:
        raise ValueError(
            f"data.path {data.path}: {read} of {expected} rows of split {data.split!r} are on this machine; complete "
            f"it with `hf download --repo-type dataset {data.path}`"
        )


def _write_image(folder: Path, number: int, image: dict[str, Any] | None, home: Path) -> str:
    """Write one image and return its name; a name that is not in the folder where there is nothing to write."""
    stored, source = (image or {}).get("bytes"), (image or {}).get("path")
    suffix = Path(source or "").suffix.lower()
    name = f"{number:06d}{suffix if suffix in SUFFIXES else '.png'}"  # the reader goes by content
    if (folder / name).exists():
        return name
    if stored is None:
        if source is None:
            return name
        if not _inside(Path(source), home):
            return str(Path(source).absolute())  # the search refuses it: outside_folder
        stored = Path(source).read_bytes()
    write_atomic(folder / name, lambda path: path.write_bytes(stored))
    return name


def _inside(path: Path, home: Path) -> bool:
    """Whether a file belongs to the dataset; in the hub's cache, files are links to blobs beside the snapshots."""
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    target = path.resolve()
    return target.is_file() and any(target.is_relative_to(root.resolve()) for root in (home, blobs))
