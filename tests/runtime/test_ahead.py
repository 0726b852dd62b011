"""Drawing ahead: the same results in the same order, whoever draws them."""

from functools import partial

import pytest
import torch

from vibe_pipeline.miniature.batches import SHARD, draw_pictures, draw_shard
from vibe_pipeline.runtime.ahead import batch_of, moved, results


def test_workers_draw_the_same_in_the_same_order() -> None:
    draw = partial(batch_of, partial(draw_pictures, native=16, frames=5, clips=1), 3, 0)
    alone, ahead = ([*results(draw, range(2, 7), workers)] for workers in (0, 2))
    assert len({tuple(x.shape) for x in alone}) > 1
    for one, other in zip(alone, ahead, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_belongs_together_stays_together_and_an_error_is_told() -> None:
    draw = partial(draw_shard, seed=0, size=8, frames=1)
    drawn = iter(results(draw, [4, -1], 1))
    (pixels, captions), (again, same) = next(drawn), draw(4)
    assert pixels.shape == (SHARD, 3, 1, 8, 8) and torch.equal(pixels, again) and captions == same
    with pytest.raises(ValueError, match="non-negative"):
        next(drawn)


def test_a_batch_goes_to_the_device() -> None:
    batch = moved((torch.ones(2), [torch.ones(3), "a caption"]), torch.device("meta"))
    assert [batch[0].device.type, batch[1][0].device.type, batch[1][1]] == ["meta", "meta", "a caption"]
