"""Overlapping tiles of a picture: where they lie. No torch, since a plan asks too."""


def tile_starts(length: int, tile: int | None, overlap: int) -> list[int]:
    """Where tiles of `tile` pixels begin along an axis, as evenly as whole pixels allow, `overlap` or more in common.

    Args:
        length: Of the axis, in pixels.
        tile: Side of a tile; None, or one as long as the axis: a single tile.
        overlap: The least that neighbours share; less than `tile`.
    """
    if tile is None or tile >= length:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]
