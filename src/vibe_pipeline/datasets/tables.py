"""Tables as files, so that they can cross to another process or machine and come back as they were."""

import csv
from typing import Any

import pandas as pd
from kedro_datasets._typing import TablePreview
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset, ParquetDataset

from vibe_pipeline.experiment.tables import Experiment


class TablesDataset(JSONDataset):
    """:class:`Experiment` as JSON, checked again when loaded."""

    def load(self) -> Experiment:
        """The tables."""
        return Experiment(**super().load())

    def save(self, data: Experiment) -> None:
        """Write them."""
        super().save(data.model_dump(mode="json"))


class ExactTable(ParquetDataset):
    """A table that nodes hand on: types are in the file, so a caption `None`, `1984` or `True` stays text."""

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows; of kedro-datasets' own, Parquet's reader refuses the argument."""
        return self.load().head(nrows).to_dict(orient="split")


class CsvTable(CSVDataset):
    """A table for people to open, as CSV, which has no types: its columns of text are named, and come back as text."""

    def __init__(self, *, text: list[str], **options: Any) -> None:
        """Take the columns that hold text; an empty cell of theirs is empty text, of others a missing number.

        Args:
            text: Names of columns; not all need be in the table.
            options: As of `CSVDataset`, without its `load_args` and `save_args`.
        """
        # All as text first: pandas would guess `None` and `NA` missing, `1984` a number, `True` a truth value.
        load_args = {"dtype": "str", "keep_default_na": False}
        # Text in quotes: pandas would write a lone carriage return bare, and read it as the end of the row.
        super().__init__(load_args=load_args, save_args={"quoting": csv.QUOTE_NONNUMERIC}, **options)
        self._text = text

    def load(self) -> pd.DataFrame:
        """The table."""
        table = super().load()
        return table.assign(**{name: _numbers(table[name]) for name in table if name not in self._text})


class AblationTable(CsvTable):
    """The ablation table, which is long; previewed as what it is read for: arms down, measures across."""

    def preview(self) -> TablePreview:
        """Means of what was scored; a measure that no arm was scored on is left out."""
        table = self.load()
        scored = table[(table["status"] == "scored") & table["mean"].notna()]
        wide = scored.pivot(index="arm", columns="metric", values="mean")
        arms = [arm for arm in dict.fromkeys(table["arm"]) if arm in wide.index]
        shown = wide.loc[arms, list(dict.fromkeys(scored["metric"]))].map(
            lambda mean: "" if mean != mean else f"{mean:.4g}"
        )
        return shown.rename_axis(columns=None).reset_index().to_dict(orient="split")


def _numbers(column: pd.Series) -> pd.Series:
    """The column as numbers; as it is where it holds anything else."""
    cells = column.mask(column == "")
    try:
        return pd.to_numeric(cells if cells.isna().all() else cells.dropna()).reindex(column.index)
    except ValueError:
        return column
