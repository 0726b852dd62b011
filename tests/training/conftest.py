"""A latent cache of random numbers, for training without a VAE."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vibe_pipeline.identity import content_key


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a cache of `count` images, the last two held out, for latents of `channels` channels."""

    def make(channels: int = 16, count: int = 8) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        path, tensors, images = tmp_path / "shard.safetensors", {}, []
        for i in range(count):
            sha = f"{i:02d}"
            sizes = {"low": (4, 6), "high": (8, 12), "pixel": (8, 12)}
            for part, size in sizes.items():
                tensors[f"{sha}.{part}"] = torch.randn(channels, 1, *size, generator=generator).half()
            tensors[f"{sha}.text"] = torch.randn(12, 64, generator=generator)
            images.append({"sha256": sha, "caption": sha, "shard": str(path), "held_out": i >= count - 2})
        save_file(tensors, path)
        return {"key": content_key(channels, count), "images": images}

    return make
