"""Kedro datasets of our own, where kedro-datasets has none."""

from vibe_pipeline.datasets.manifests import AdapterDataset, PictureManifest, TrainingsDataset
from vibe_pipeline.datasets.tables import AblationTable, CsvTable, ExactTable, TablesDataset

__all__ = [
    "AblationTable",
    "AdapterDataset",
    "CsvTable",
    "ExactTable",
    "PictureManifest",
    "TablesDataset",
    "TrainingsDataset",
]
