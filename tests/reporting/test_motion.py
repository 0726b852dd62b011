"""The lens looks at the edge of what moves, and follows it."""

import numpy as np
import pytest

from vibe_pipeline.reporting.media import Panel, contact_sheet
from vibe_pipeline.reporting.motion import find_focus


def clip(step: int, noise: float = 0.0) -> list[np.ndarray]:
    """A busy chequered background that stands still, and a plain square of 24 pixels that moves to the right."""
    rng = np.random.default_rng(0)
    background = np.indices((96, 160)).sum(0) % 8 // 4 * 200.0
    frames = []
    for t in range(7):
        frame = background + rng.normal(0, noise, background.shape)
        frame[40:64, 20 + step * t : 44 + step * t] = 120
        frames.append(np.repeat(frame.clip(0, 255).astype(np.uint8)[..., None], 3, 2))
    return frames


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_focus_lies_on_the_moving_edge_and_goes_along(noise: float) -> None:
    focus = find_focus(clip(step=8, noise=noise))
    assert focus.moves and len(focus.points) == 7
    for t, (x, y) in enumerate(focus.points):
        left, right = 20 + 8 * t, 44 + 8 * t
        assert min(abs(x * 1.6 - edge) for edge in (left, right)) <= 12, (t, x)
        assert 36 <= y * 0.96 <= 68
    steps = np.diff([x * 1.6 for x, _ in focus.points])
    assert np.abs(steps).max() <= 24, "it does not jump to the other edge"


def test_where_nothing_moves_it_is_the_most_detailed_place() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[40:56:2, 8:24] = 255
    focus = find_focus([frame, frame])
    assert not focus.moves and focus.points[0] == focus.points[1]
    x, y = focus.middle
    assert 10 <= x * 0.64 <= 24 and 40 <= y * 0.64 <= 56


def test_a_sheet_enlarges_the_moving_edge_and_not_the_background() -> None:
    frames = clip(step=8)
    focus = find_focus(frames)
    plain = [Panel("a", frames[3])]
    follows, detailed = (np.asarray(contact_sheet(plain, place, tile=160)) for place in (focus, None))
    below = slice(-100, None)
    assert (follows[below] == 120).all(-1).sum() > 2 * (detailed[below] == 120).all(-1).sum()
