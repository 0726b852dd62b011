"""The size of shrunk frames; apart from the code that shrinks them, so that it can be stated without opening a clip."""


def shrunk_size(height: int, width: int, side: int | None) -> tuple[int, int]:
    """Height and width whose longer is at most `side` pixels, in proportion; unchanged if no side is given."""
    scale = 1.0 if side is None else min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
