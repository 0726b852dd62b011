"""Reading the cache and the order of training: one bucket a batch, every image in every epoch, a pure function."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vibe_pipeline.images.cache import LatentCache, epoch_batches


@dataclass(frozen=True)
class Sizes:
    """As many images in each bucket."""

    buckets: dict[int, list[int]]


def sizes(*counts: int) -> Sizes:
    """Buckets whose images lie mixed with one another."""
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    return Sizes({7 * b: np.flatnonzero(labels == b).tolist() for b in range(len(counts))})


def take(buckets: Sizes, batch: int, seed: int, count: int) -> list[list[int]]:
    return list(islice(epoch_batches(buckets, batch, seed), count))


@pytest.mark.parametrize(("counts", "batch"), [((6,), 2), ((7,), 3), ((4, 9), 4), ((1, 5, 2), 3), ((3,), 8)])
def test_every_image_in_every_epoch_and_one_bucket_a_batch(counts: tuple[int, ...], batch: int) -> None:
    buckets = sizes(*counts)
    per_epoch = sum(-(-count // batch) for count in counts)
    drawn = take(buckets, batch, 1, 3 * per_epoch)
    assert drawn == take(buckets, batch, 1, 3 * per_epoch) != take(buckets, batch, 2, 3 * per_epoch)
    bucket_of = {i: b for b, members in buckets.buckets.items() for i in members}
    for indices in drawn:
        (bucket,) = {bucket_of[i] for i in indices}
        times = Counter(indices).values()
        assert len(indices) == batch and max(times) - min(times) <= 1
        assert max(times) == max(1, -(-batch // len(buckets.buckets[bucket])))
    for start in range(0, len(drawn), per_epoch):
        epoch = [i for indices in drawn[start : start + per_epoch] for i in indices]
        assert set(epoch) == set(bucket_of)
        assert len(epoch) - len(bucket_of) == sum(-count % batch for count in counts)


def test_buckets_take_turns_at_random() -> None:
    buckets = sizes(40, 40)
    first = [indices[0] in buckets.buckets[0] for indices in take(buckets, 2, 0, 40)]
    assert sum(first) == 20 and 5 < sum(a != b for a, b in pairwise(first)) < 35


def test_one_bucket_that_divides_is_a_plain_permutation() -> None:
    """The order of runs made before there were buckets."""
    expected = []
    for epoch in range(3):
        expected += np.random.default_rng([5, epoch]).permutation(464).reshape(-1, 8).tolist()
    assert take(Sizes({0: list(range(464))}), 8, 5, 3 * 58) == expected


@pytest.fixture
def cache(tmp_path: Path) -> Callable[..., LatentCache]:
    """Six images of two buckets in three shards, number n filled with n."""

    def make(held_out: bool = False) -> LatentCache:
        images: list[dict[str, Any]] = []
        for s in range(3):
            shard, text = tmp_path / f"{s}.safetensors", tmp_path / f"t{s}.safetensors"
            tensors, texts = {}, {}
            for n in (2 * s, 2 * s + 1):
                size = (4, 6) if s < 2 else (6, 4)
                tensors |= {f"{n}.{part}": torch.full((16, 1, *size), n).half() for part in ("low", "high", "pixel")}
                texts[f"{n}.text"] = torch.full((12, 8), n).bfloat16()
                place = {"shard": str(shard), "text_shard": str(text), "bucket": s // 2}
                images.append({"sha256": str(n), "caption": f"c{n}", "held_out": n == 3} | place)
            save_file(tensors, shard)
            save_file(texts, text)
        return LatentCache({"key": "k", "images": images}, held_out)

    return make


def test_batches_come_in_the_order_asked_for_from_several_shards(cache: Callable[..., LatentCache]) -> None:
    training = cache()
    assert len(training) == 5 and training.buckets == {0: [0, 1, 2], 1: [3, 4]}
    for part, shape in (("high", (16, 1, 4, 6)), ("text", (12, 8))):
        batch = training.batch(part, [2, 0, 2, 1])
        assert batch.dtype == torch.float32 and batch.shape == (4, *shape)
        assert batch.flatten(1)[:, 0].tolist() == [2, 0, 2, 1]
        assert training.shape(part, 1) == shape
    assert training.shape("low", 4) == (16, 1, 6, 4)
    assert cache(held_out=True).batch("low", [0]).unique().tolist() == [3]


def test_refusals(cache: Callable[..., LatentCache], tmp_path: Path) -> None:
    training = cache()
    with pytest.raises(ValueError, match=r"one bucket; \[2, 3\] are of \[0, 1\]"):
        training.batch("high", [2, 3])
    with pytest.raises(ValueError, match="no part 'middle'; it has low, high, pixel, text"):
        training.batch("middle", [0])
    with pytest.raises(ValueError, match="one bucket"):
        training.batch("high", [])
    path = tmp_path / "0.safetensors"
    path.write_bytes(path.read_bytes()[:900])
    for damage in (lambda: None, path.unlink):
        damage()
        with pytest.raises(ValueError, match=r"0\.safetensors is damaged or gone .* run data_processing again"):
            training.batch("high", [0])
