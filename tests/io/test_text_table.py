"""Plain tables: columns line up, and no cell is taken for markup."""

from vibe_pipeline.io.text_table import aligned


def test_columns_are_as_wide_as_their_widest_cell_and_flush_as_asked() -> None:
    rows = [("", "what", "each"), ("arm full", "[0.1, 0.2]", "7"), ("arm", "", "12,000")]
    assert aligned(rows, left=2) == [
        "          what          each",
        "arm full  [0.1, 0.2]       7",
        "arm                   12,000",
    ]
    assert aligned(rows)[0] == "          what        each"
