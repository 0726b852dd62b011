"""The cached training set: what determines it, what it holds, and the order in which it is trained on.

Latents and text embeddings are computed once, in sharded safetensors named by what determines them.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vibe_pipeline.diffusion.models import WanCheckpoint
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.images.account import held_out_rows
from vibe_pipeline.images.buckets import Bucket, make_buckets
from vibe_pipeline.images.crop import nearest_bucket
from vibe_pipeline.images.encode import ImageShard, Row, Shard, encode_shards
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import write_json
from vibe_pipeline.io.keys import content_key, folder_fingerprint

log = logging.getLogger(__name__)

SHARD = 64
PARTS = ("low", "high", "pixel", "text")
"""Of every image; with `data.pixel_draws` there are `drawn` beside them."""


@dataclass(frozen=True)
class CacheEntry:
    """One image in the cache; its text embedding lies in a shard of its own."""

    sha256: str
    caption: str
    shard: Path
    held_out: bool
    bucket: int
    text_shard: Path


def build_cache(
    usable: pd.DataFrame, model: WanCheckpoint, params: ModelParams, data: DataParams, folder: Path
) -> dict[str, Any]:
    """Encode every usable image (low, high, high after pixel degradation) and its caption.

    Args:
        usable: Columns path, caption, sha256, in a fixed order; with aspect buckets also height and width, pixels.
        model: The base model.
        params: Its native size, dtype and device.
        data: Image sizes, buckets, the native camera's blur, and how many are held out.
        folder: Gets the shards.

    Returns:
        A manifest: key, settings (with the sizes of every bucket), and one record per image (sha256, caption, shard,
        text_shard, held_out, bucket: its number).

    Raises:
        OSError: The shards would not fit on the disk.
        ValueError: A size or a caption that does not fit the model, or too few images to hold one out.
    """
    buckets, held_out = make_buckets(model, params.native, data), held_out_rows(len(usable), data)
    rows, settings = usable.to_dict("records"), _settings(model, params, data)
    numbers = _bucket_numbers(rows, buckets)
    texts = [_text_shard(rows[i : i + SHARD], settings["text"], folder) for i in range(0, len(rows), SHARD)]
    images = []
    for number in sorted(set(numbers)):
        members = [row for row, own in zip(rows, numbers, strict=True) if own == number]
        groups = [members[i : i + SHARD] for i in range(0, len(members), SHARD)]
        images += [_image_shard(group, buckets[number], settings["latents"], folder) for group in groups]
    encode_shards(texts, images, model, params, data)
    records = _records(rows, numbers, texts, images)
    for i in held_out:
        records[i]["held_out"] = True
    contents = [
        (r["sha256"], r["caption"], r["held_out"], asdict(buckets[n])) for r, n in zip(records, numbers, strict=True)
    ]
    settings |= {"buckets": [asdict(bucket) for bucket in buckets]}
    key = content_key(settings["text"], settings["latents"], contents)
    manifest = {"key": key, "settings": settings, "images": records}
    write_json(folder / "manifest.json", manifest)
    return manifest


def is_current(manifest: Any, model: WanCheckpoint, params: ModelParams, data: DataParams) -> bool:
    """Whether a cache's manifest is of these parameters, and its shards are there; which images it holds may differ."""
    buckets = [asdict(bucket) for bucket in make_buckets(model, params.native, data)]
    wanted = json.loads(json.dumps(_settings(model, params, data) | {"buckets": buckets}))
    if not isinstance(manifest, dict) or manifest.get("settings") != wanted:
        return False
    shards = {record[name] for record in manifest["images"] for name in ("shard", "text_shard")}
    return all(Path(shard).is_file() for shard in shards)


def _settings(model: WanCheckpoint, params: ModelParams, data: DataParams) -> dict[str, Any]:
    """What determines embeddings and latents beside captions, pixels and sizes."""
    encoder = [folder_fingerprint(model.path / part) for part in ("tokenizer", "text_encoder")]
    return {
        "text": {"encoder": encoder, "length": params.text_length, "dtype": params.dtype},
        "latents": {
            "vae": folder_fingerprint(model.path / "vae"),
            "camera_blur": data.camera_blur,
            "tile": params.tile,
            "vae_dtype": params.vae_dtype,
        }
        | ({} if data.pixel_draws is None else {"pixel_draws": data.pixel_draws.model_dump() | {"seed": data.seed}}),
    }


def _bucket_numbers(rows: list[Row], buckets: list[Bucket]) -> list[int]:
    if len(buckets) == 1:
        return [0] * len(rows)
    sizes = [bucket.high for bucket in buckets]
    numbers = [sizes.index(nearest_bucket(row["height"], row["width"], sizes)) for row in rows]
    listed = ", ".join(f"{n} of {sizes[i][0]}x{sizes[i][1]}" for i, n in sorted(Counter(numbers).items()))
    log.info("images by bucket (height x width): %s", listed)
    return numbers


def _text_shard(rows: list[Row], settings: dict[str, Any], folder: Path) -> Shard:
    key = content_key(settings, [(r["sha256"], r["caption"]) for r in rows])
    return Shard(folder / f"text-{key}.safetensors", rows)


def _image_shard(rows: list[Row], bucket: Bucket, settings: dict[str, Any], folder: Path) -> ImageShard:
    key = content_key(settings, asdict(bucket), [r["sha256"] for r in rows])
    return ImageShard(folder / f"latents-{key}.safetensors", rows, bucket)


def _records(rows: list[Row], numbers: list[int], texts: list[Shard], images: list[ImageShard]) -> list[dict[str, Any]]:
    text_of, latents_of = (
        {row["sha256"]: str(shard.path) for shard in shards for row in shard.rows} for shards in (texts, images)
    )
    return [
        {
            "sha256": row["sha256"],
            "caption": row["caption"],
            "shard": latents_of[row["sha256"]],
            "text_shard": text_of[row["sha256"]],
            "held_out": False,
            "bucket": number,
        }
        for row, number in zip(rows, numbers, strict=True)
    ]


class LatentCache:
    """The cached training set on disk; tensors are read when asked for, so memory is that of one batch.

    Shards are opened and closed for every batch: pages of a mapped file count as this process's memory for as
    long as it stays open.

    Attributes:
        entries: Its images.
        buckets: Bucket number to indices of images.
        draws: Degraded latents by drawn factors that each image has.
    """

    def __init__(self, manifest: Mapping[str, Any], held_out: bool = False) -> None:
        try:
            records = [_entry(record) for record in manifest["images"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the latent cache's manifest is damaged or of another version ({one_line(repr(error))}); run "
                "data_processing again"
            ) from error
        made = manifest.get("settings", {}).get("latents", {}).get("pixel_draws")
        self.draws = made["count"] if made else 0
        self.entries = [r for r in records if r.held_out == held_out]
        if not self.entries:
            raise ValueError(
                f"the latent cache {manifest['key']} holds no {'held-out' if held_out else 'training'} images"
            )
        self.buckets: dict[int, list[int]] = {}
        for index, entry in enumerate(self.entries):
            self.buckets.setdefault(entry.bucket, []).append(index)

    def __len__(self) -> int:
        return len(self.entries)

    def batch(self, part: str, indices: Sequence[int], draws: Tensor | None = None) -> Tensor:
        """Read and stack one part of some images of one bucket, 32 bit.

        Args:
            part: `low`, `high`, `pixel` or `drawn`, [B, C, 1, h, w]; or `text`, [B, L, width].
            indices: Positions in `entries`, one a sample of the batch.
            draws: int64 [B], which of an image's draws; of `drawn` alone.

        Raises:
            ValueError: Images of several buckets, an unknown part, no images, or a damaged shard.
        """
        buckets = {self.entries[i].bucket for i in indices}
        if len(buckets) != 1:
            raise ValueError(f"a batch holds images of one bucket; {list(indices)} are of {sorted(buckets)}")
        chosen = [""] * len(indices) if part != "drawn" or draws is None else [str(int(draw)) for draw in draws]
        wanted = list(zip(indices, chosen, strict=True))
        tensors: dict[tuple[int, str], Tensor] = {}
        for shard, members in self._by_shard(part, indices).items():
            with _opened(shard) as file:
                for i, draw in sorted({place for place in wanted if place[0] in members}):
                    tensors[i, draw] = file.get_tensor(f"{self.entries[i].sha256}.{part}{draw}").float()
        if len({tensor.shape for tensor in tensors.values()}) != 1:
            odd = {self.entries[i].sha256[:12]: tuple(tensor.shape) for (i, _), tensor in tensors.items()}
            raise ValueError(
                f"{self.entries[indices[0]].shard}: {part} of images of one bucket differs in shape, {one_line(odd)}; "
                "delete the file and run data_processing again"
            )
        return torch.stack([tensors[place] for place in wanted])

    def shape(self, part: str, index: int) -> tuple[int, ...]:
        """Of one part of one image, from the header of its shard: (C, 1, h, w), or (L, width) for text."""
        (shard,) = self._by_shard(part, [index])
        with _opened(shard) as file:
            return tuple(file.get_slice(f"{self.entries[index].sha256}.{part}").get_shape())

    def _by_shard(self, part: str, indices: Sequence[int]) -> dict[Path, set[int]]:
        known = (*PARTS, "drawn") if self.draws else PARTS
        if part not in known:
            raise ValueError(f"the latent cache has no part {part!r}; it has {', '.join(known)}")
        members: dict[Path, set[int]] = {}
        for i in indices:
            entry = self.entries[i]
            members.setdefault(entry.text_shard if part == "text" else entry.shard, set()).add(i)
        return members


def _entry(record: dict[str, Any]) -> CacheEntry:
    return CacheEntry(**record | {name: Path(record[name]) for name in ("shard", "text_shard")})


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    try:
        with safe_open(shard, framework="pt") as file:
            yield file
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{shard} is damaged or gone ({error}); run data_processing again") from error


class Bucketed(Protocol):
    """What batches are drawn from."""

    @property
    def buckets(self) -> dict[int, list[int]]:
        """Bucket number to indices of images."""


def epoch_batches(cache: Bucketed, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless shuffled batches of one bucket each; a pure function of (buckets, batch_size, seed).

    Every image is used in every epoch. Where a bucket does not divide by the batch, its last batch is filled up
    with images of the same bucket drawn again (a bucket smaller than a batch repeats); nothing is dropped.

    Args:
        cache: Whose `buckets` are drawn from.
        batch_size: Images a batch.
        seed: With the number of the epoch, of the order of images and of buckets.
    """
    buckets = [np.asarray(indices) for _, indices in sorted(cache.buckets.items())]
    counts = [-(-len(indices) // batch_size) for indices in buckets]
    if small := [str(len(indices)) for indices in buckets if len(indices) < batch_size]:
        log.warning(
            "%d of %d buckets hold fewer images than batch_size %d (%s): their batches hold images twice or more",
            *(len(small), len(buckets), batch_size, one_line(", ".join(small), 60)),
        )
    for epoch in count():
        rng = np.random.default_rng([seed, epoch])
        # A permutation repeated from its start: the fill is drawn at random too, and differs from what it fills up.
        queues = [
            iter(np.resize(rng.permutation(indices), (batches, batch_size)))
            for indices, batches in zip(buckets, counts, strict=True)
        ]
        for bucket in rng.permutation(np.repeat(np.arange(len(buckets)), counts)):
            yield next(queues[bucket]).tolist()
