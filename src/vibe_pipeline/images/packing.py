"""In which order images of mixed sizes are trained on, packed into sequences of a budget of tokens."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from vibe_pipeline.images.cache import Bucketed

OPEN = 8
"""Sequences that wait for an image which fits: more would fill a little better, and keep images waiting longer."""


@dataclass
class _Sequence:
    """One that is being filled."""

    room: int
    images: list[int] = field(default_factory=list)


def packed_sequences(cache: Bucketed, tokens: Mapping[int, int], budget: int, seed: int) -> Iterator[list[int]]:
    """Endless sequences of images of all buckets; a pure function of its arguments.

    Images come in an order that is shuffled again for every epoch, and each goes to the oldest open sequence with room
    for it (first fit): every image once an epoch, none dropped, cut or padded. Sequences go on over the end of an
    epoch.

    Args:
        cache: Whose `buckets` are drawn from.
        tokens: Of an image of each bucket.
        budget: Most tokens of a sequence.
        seed: With the number of the epoch, of the order of images.

    Raises:
        ValueError: An image alone is larger than the budget.
    """
    if (most := max(tokens[bucket] for bucket in cache.buckets)) > budget:
        raise ValueError(f"packing.tokens {budget} is less than an image of {most} tokens: raise it to {most} or more")
    length = {index: tokens[bucket] for bucket, indices in cache.buckets.items() for index in indices}
    everything, waiting = np.asarray(sorted(length)), list[_Sequence]()
    for epoch in count():
        for index in np.random.default_rng([seed, epoch]).permutation(everything).tolist():
            fitting = next((one for one in waiting if one.room >= length[index]), None)
            if fitting is None:
                fitting = _Sequence(budget)
                waiting.append(fitting)
            fitting.images.append(index)
            fitting.room -= length[index]
            if len(waiting) > OPEN:
                yield waiting.pop(0).images


def packed_batches(
    cache: Bucketed, tokens: Mapping[int, int], budget: int, batch_size: int, seed: int
) -> Iterator[list[list[int]]]:
    """Endless steps of `batch_size` sequences each; see :func:`packed_sequences`."""
    sequences = packed_sequences(cache, tokens, budget, seed)
    while True:
        yield [next(sequences) for _ in range(batch_size)]


def describe_packing(cache: Bucketed, tokens: Mapping[int, int], budget: int, seed: int) -> str:
    """How full the sequences of about one epoch are, and what padding to the largest image would have added."""
    images = sum(map(len, cache.buckets.values()))
    found: list[list[int]] = []
    for sequence in packed_sequences(cache, tokens, budget, seed):
        found.append(sequence)
        if sum(map(len, found)) >= images:
            break
    own = sum(tokens[bucket] * len(indices) for bucket, indices in cache.buckets.items())
    padded = images * max(tokens[bucket] for bucket in cache.buckets)
    each, mean = sum(map(len, found)) / len(found), own / images
    return (
        f"{images} images packed by {each:.1f} into sequences of {each * mean:,.0f} tokens of at most {budget:,}; "
        f"padded to the largest they would be {padded / own - 1:.1%} more"
    )
