"""A latent cache of random numbers, for training without a VAE."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vibe_pipeline.io.keys import content_key

SIZES = ({"low": (4, 6), "high": (8, 12), "pixel": (8, 12)}, {"low": (6, 4), "high": (12, 8), "pixel": (12, 8)})


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a cache of `count` images in turn of each bucket, the last two held out."""

    def make(channels: int = 16, count: int = 8, buckets: int = 1) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        shard, text_shard = (tmp_path / f"{name}-{buckets}.safetensors" for name in ("latents", "texts"))
        tensors, texts, images = {}, {}, []
        for i in range(count):
            sha, bucket = f"{i:02d}", i % buckets
            for part, size in SIZES[bucket].items():
                tensors[f"{sha}.{part}"] = torch.randn(channels, 1, *size, generator=generator).half()
            texts[f"{sha}.text"] = torch.randn(12, 64, generator=generator)
            place = {"shard": str(shard), "text_shard": str(text_shard), "bucket": bucket}
            images.append({"sha256": sha, "caption": sha, "held_out": i >= count - 2} | place)
        save_file(tensors, shard)
        save_file(texts, text_shard)
        return {"key": content_key(channels, count, buckets), "images": images}

    return make
