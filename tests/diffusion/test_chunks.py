"""Chunks of time: which frames they hold, how they are joined, and that nothing else changes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vibe_pipeline.diffusion.chunks import Blend, Chunk, chunked, cut_chunks
from vibe_pipeline.diffusion.flow import seeded_generator, sigma_schedule
from vibe_pipeline.diffusion.sampling import denoise
from vibe_pipeline.experiment.long import LongParams

BLENDS: tuple[Blend, ...] = ("random", "linear")
X = torch.randn(2, 3, 11, 4, 4, generator=torch.Generator().manual_seed(1))


def draws(seed: int = 0, items: int = 2) -> list[torch.Generator]:
    return [seeded_generator(f"clip {i}", seed) for i in range(items)]


def of_whole_chunks(x: Tensor, sigma: Tensor) -> Tensor:
    """A velocity that depends on every frame of the chunk, as attention has it."""
    return x.roll(1, 2) + x.mean(2, keepdim=True) + sigma.view(-1, 1, 1, 1, 1)


@given(st.integers(1, 80), st.integers(2, 31), st.data())
def test_chunks_cover_a_clip_and_say_what_they_share(frames: int, length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, length - 1))
    chunks = cut_chunks(frames, length, overlap)
    assert chunks[0].start == chunks[0].overlap == 0 and chunks[-1].stop == frames
    for before, after in pairwise(chunks):
        assert after.stop - after.start == before.stop - before.start == length and before.start < after.start
        assert after.overlap == before.stop - after.start >= overlap
    fewer = length + (len(chunks) - 2) * (length - overlap)  # what one chunk less would reach
    assert (len(chunks) == 1) == (frames <= length) and (len(chunks) == 1 or fewer < frames)


def test_chunks_by_hand() -> None:
    assert cut_chunks(60, 38, 12) == [Chunk(0, 38), Chunk(22, 60, 16)]
    assert cut_chunks(64, 38, 12) == [Chunk(0, 38), Chunk(26, 64, 12)]  # published: 26 k + 38 frames
    assert LongParams().chunks(21, 81) == [Chunk(0, 21)]
    assert LongParams().chunks(41, 81) == [Chunk(0, 21), Chunk(10, 31, 11), Chunk(20, 41, 11)]
    assert LongParams(chunk=5, overlap=4).chunks(3, 9) == [Chunk(0, 2), Chunk(1, 3, 1)]
    assert LongParams(chunk=5, overlap=4).seen(9, 9) == (2, 5) and LongParams().seen(161, 81) == (3, 81)
    assert LongParams().seen(9, 81) == (1, 9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chunk": 8}, r"chunk 8: Wan's VAE takes 4k \+ 1 frames; nearest 9"),
        ({"overlap": 6}, "overlap 6: a latent frame is 4 frames of video; nearest 8"),
        ({"chunk": 9, "overlap": 12}, "chunks of 3 latent frames cannot overlap by 3"),
        ({"chunk": 3}, "greater than or equal to 5"),
    ],
)
def test_chunks_that_cannot_be_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LongParams(**values).chunks(21, 81)


def by_hand(x: Tensor, sigmas: Tensor, chunks: list[Chunk], generators: list[torch.Generator]) -> Tensor:
    """As published: each chunk takes its step, and its result stands from the drawn frame of the overlap on."""
    for now, following in pairwise(sigmas):
        joined = torch.empty_like(x)
        for chunk in chunks:
            part = x[:, :, chunk.start : chunk.stop]
            part = part + (following - now) * of_whole_chunks(part, now.expand(len(x)))
            for item, generator in enumerate(generators):
                cut = int(torch.randint(chunk.overlap, (1,), generator=generator)) if chunk.overlap else 0
                joined[item, :, chunk.start + cut : chunk.stop] = part[item, :, cut:]
        x = joined
    return x


def test_random_blending_is_the_published_loop() -> None:
    chunks, sigmas = cut_chunks(11, 5, 2), sigma_schedule(6, 3.0)
    predict = chunked(of_whole_chunks, of_whole_chunks, chunks, "random", draws())
    found = denoise(predict, X, sigmas)
    torch.testing.assert_close(found, by_hand(X, sigmas, chunks, draws()))
    again = chunked(of_whole_chunks, of_whole_chunks, chunks, "random", draws())
    assert torch.equal(denoise(again, X, sigmas), found)
    other = chunked(of_whole_chunks, of_whole_chunks, chunks, "random", draws(1))
    assert not torch.equal(denoise(other, X, sigmas), found)
    alone = chunked(of_whole_chunks, of_whole_chunks, chunks, "random", draws()[1:])
    assert torch.equal(denoise(alone, X[1:], sigmas), found[1:])


def test_a_fade_weighs_the_later_chunk_evenly_more() -> None:
    predict = chunked(lambda x, _: 0 * x, lambda x, _: 0 * x + 1, cut_chunks(8, 5, 2), "linear", draws())
    found = predict(X[:, :, :8], torch.ones(2))[0, 0, :, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1]))


@pytest.mark.parametrize("blend", BLENDS)
def test_frame_by_frame_the_chunks_are_the_whole(blend: Blend) -> None:
    """And so no seam on a clip whose frames are one."""

    def by_frame(x: Tensor, sigma: Tensor) -> Tensor:
        return x.sin() * sigma.view(-1, 1, 1, 1, 1) + x.flip(3)

    for scheduler in ("euler", "unipc", "midpoint"):
        predict = chunked(by_frame, by_frame, cut_chunks(11, 5, 2), blend, draws())
        found, whole = (denoise(p, X, sigma_schedule(4, 3.0), scheduler) for p in (predict, by_frame))
        assert torch.equal(found, whole) if blend == "random" else torch.allclose(found, whole, atol=1e-6)
    still = X[:, :, :1].expand_as(X).contiguous()
    predict = chunked(of_whole_chunks, of_whole_chunks, cut_chunks(11, 5, 2), blend, draws())
    made = denoise(predict, still, sigma_schedule(4, 3.0))
    assert torch.equal(made, made[:, :, :1].expand_as(made))


@pytest.mark.parametrize("blend", BLENDS)
def test_one_chunk_is_the_plain_pass_and_a_first_frame_is_the_first_chunks(blend: Blend) -> None:
    predict = chunked(of_whole_chunks, of_whole_chunks, cut_chunks(11, 21, 7), blend, draws())
    assert torch.equal(predict(X, torch.ones(2)), of_whole_chunks(X, torch.ones(2)))
    asked = []

    def named(name: str):
        return lambda x, _: asked.append((name, x.shape[2])) or torch.zeros_like(x)

    chunked(named("first"), named("later"), cut_chunks(11, 5, 2), blend, draws())(X, torch.ones(2))
    assert asked == [("first", 5), ("later", 5), ("later", 5)]
