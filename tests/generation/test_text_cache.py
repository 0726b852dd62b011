"""Prompt embeddings on disk: equal to the encoder's, made once, mended when damaged."""

from pathlib import Path

import pytest
import torch

from vibe_pipeline.diffusion.models import encode_texts, find_model
from vibe_pipeline.generation import text_cache as texts
from vibe_pipeline.generation.text_cache import TextCache

PROMPTS = ["a striped red circle moving left over woven navy", "a plain blue cross", ""]


def test_loaded_embeddings_are_the_encoders_and_each_is_made_once(wan21, tmp_path: Path, monkeypatch) -> None:
    model, found = wan21.model(), find_model(str(wan21.path))
    expected = encode_texts(found, PROMPTS, model.text_length, torch.device("cpu"), torch.float32)
    encoded = []
    encode = texts.text_embeddings
    monkeypatch.setattr(texts, "text_embeddings", lambda m, t, *rest: encoded.extend(t) or encode(m, t, *rest))
    store = TextCache(tmp_path, found, model)
    store.ensure(PROMPTS[:2])
    store.ensure(PROMPTS)
    assert sorted(encoded) == sorted(PROMPTS)
    assert torch.equal(store.load(PROMPTS), expected)

    files = sorted(tmp_path.rglob("*.safetensors"))
    assert max(f.stat().st_size for f in files) < expected[0].numel() * 4
    files[0].write_bytes(files[0].read_bytes()[:-10])
    encoded.clear()
    store.ensure(PROMPTS)
    assert len(encoded) == 1
    assert torch.equal(TextCache(tmp_path, found, model).load(PROMPTS), expected)


def test_a_text_nobody_asked_for_is_an_error(wan21, tmp_path: Path) -> None:
    store = TextCache(tmp_path, find_model(str(wan21.path)), wan21.model())
    with pytest.raises(KeyError, match="no embedding of 'a plain blue cross'"):
        store.load(PROMPTS[1:2])
