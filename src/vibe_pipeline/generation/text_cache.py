"""Prompt embeddings on disk: made once for all arms, so that the text encoder is never loaded beside a transformer.

Only the tokens of a prompt are kept, not its padding: umT5's 512 x 4096 values are 4 MB a prompt, its 20 to 100
real tokens a fraction of that.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vibe_pipeline.diffusion.models import WanCheckpoint, find_model, pick_device, text_embeddings
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import content_key, folder_fingerprint
from vibe_pipeline.runtime.progress import Progress


class TextCache:
    """The embeddings of one model's prompts.

    Args:
        folder: Where all stores are kept.
        checkpoint: The model.
        model: Its text length, dtype and device.
    """

    def __init__(self, folder: Path, checkpoint: WanCheckpoint, model: ModelParams) -> None:
        self._checkpoint, self._model = checkpoint, model
        self._dtype = getattr(torch, model.dtype)
        fingerprint = (
            folder_fingerprint(checkpoint.path / "text_encoder"),
            folder_fingerprint(checkpoint.path / "tokenizer"),
        )
        self._folder = folder / content_key(fingerprint, model.text_length, model.dtype)

    def ensure(self, texts: Sequence[str]) -> None:
        """Encode what is not there yet, each kept as soon as it is made; the encoder is gone afterwards.

        Raises:
            ValueError: A text has more tokens than the model's text length.
        """
        missing = sorted({t for t in texts if self._read(t) is None})
        if not missing:
            return
        device = pick_device(self._model.device)
        embedded = text_embeddings(self._checkpoint, missing, self._model.text_length, device, self._dtype)
        bar = Progress(zip(missing, embedded, strict=True), total=len(missing), desc="prompts", unit="prompt")
        for text, embedding in bar:
            used = int(embedding.any(-1).nonzero().max()) + 1 if embedding.any() else 0
            tensors = {"embedding": embedding[:used].clone()}
            write_atomic(self._path(text), partial(save_file, tensors))

    def load(self, texts: Sequence[str]) -> Tensor:
        """The embeddings, padded with zeros as the model takes them: [B, text length, width].

        Raises:
            KeyError: A text that `ensure` was not called with.
        """
        rows = []
        for text in texts:
            embedding = self._read(text)
            if embedding is None:
                raise KeyError(f"no embedding of {text[:80]!r} in {self._folder}: call ensure() with it first")
            rows.append(torch.nn.functional.pad(embedding, (0, 0, 0, self._model.text_length - len(embedding))))
        return torch.stack(rows)

    def _path(self, text: str) -> Path:
        return self._folder / f"{content_key(text)}.safetensors"

    def _read(self, text: str) -> Tensor | None:
        """None if there is no file, or a damaged one, which is then made again."""
        try:
            embedding = load_file(self._path(text))["embedding"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None
        return embedding if embedding.ndim == 2 and len(embedding) <= self._model.text_length else None


def text_cache(model: ModelParams, root: Path) -> TextCache:
    """The embeddings of a model's prompts, beside the clips in `root`."""
    return TextCache(root / "prompts", find_model(model.path), model)
