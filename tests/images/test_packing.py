"""Which images share a sequence: within the budget, every image once an epoch, the same for the same seed."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import pytest

from vibe_pipeline.images.packing import OPEN, describe_packing, packed_batches, packed_sequences

TOKENS = {0: 24, 1: 40, 2: 7}


@dataclass(frozen=True)
class Images:
    buckets: dict[int, list[int]]


IMAGES = Images({0: list(range(0, 40)), 1: list(range(40, 60)), 2: list(range(60, 100))})
LENGTH = {i: TOKENS[bucket] for bucket, indices in IMAGES.buckets.items() for i in indices}


def first(count: int, budget: int = 100, seed: int = 0) -> list[list[int]]:
    return list(islice(packed_sequences(IMAGES, TOKENS, budget, seed), count))


def test_sequences_keep_the_budget_and_fill_most_of_it() -> None:
    used = [sum(LENGTH[i] for i in sequence) for sequence in first(200)]
    assert max(used) <= 100 and min(map(len, first(200))) > 0
    assert sum(used) / len(used) > 90


def test_every_image_comes_once_an_epoch_whatever_its_size() -> None:
    """Those that wait in open sequences are late, none is lost: counts differ by what can wait."""
    seen = Counter(i for sequence in first(400) for i in sequence)
    assert set(seen) == set(LENGTH)
    assert max(seen.values()) - min(seen.values()) <= 2
    assert sum(seen.values()) // 100 in (min(seen.values()), max(seen.values()), min(seen.values()) + 1)


def test_the_order_is_the_seeds_and_a_later_start_finds_it_again() -> None:
    assert first(30) == first(30) and first(30, seed=1) != first(30)
    steps = list(islice(packed_batches(IMAGES, TOKENS, 100, 3, 0), 10))
    assert [sequence for step in steps for sequence in step] == first(30)
    assert list(islice(packed_batches(IMAGES, TOKENS, 100, 3, 0), 4, 10)) == steps[4:]


def test_a_budget_of_one_image_gives_single_images_and_a_smaller_one_is_refused() -> None:
    assert all(sum(LENGTH[i] for i in sequence) <= 40 for sequence in first(OPEN * 4, budget=40))
    with pytest.raises(ValueError, match=r"packing\.tokens 39 .* 40 tokens: raise it to 40"):
        first(1, budget=39)


def test_what_padding_would_have_cost_is_said() -> None:
    """100 images of 40 tokens in place of 40 x 24 + 20 x 40 + 40 x 7 = 2040."""
    said = describe_packing(IMAGES, TOKENS, 100, 0)
    assert said.startswith("100 images packed by ") and "at most 100" in said and said.endswith("96.1% more")
