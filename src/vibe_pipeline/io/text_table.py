"""Tables as plain lines, for terminals and files alike: nothing is wrapped, coloured or read as markup."""

from collections.abc import Callable, Sequence


def aligned(rows: Sequence[Sequence[str]], left: int | None = None) -> list[str]:
    """Rows of cells as lines, every column as wide as its widest cell.

    Args:
        rows: Of equal length, the heads first.
        left: How many columns stand flush left, the others flush right; None: all.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flush = [str.ljust if left is None or i < left else str.rjust for i in range(len(widths))]
    return ["  ".join(map(_fill, flush, row, widths)).rstrip() for row in rows]


def _fill(flush: Callable[[str, int], str], cell: str, width: int) -> str:
    return flush(cell, width)
