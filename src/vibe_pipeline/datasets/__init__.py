"""Kedro datasets of our own, where kedro-datasets has none."""

from vibe_pipeline.datasets.manifests import CurveManifest, PictureManifest
from vibe_pipeline.datasets.tables import TablesDataset

__all__ = ["CurveManifest", "PictureManifest", "TablesDataset"]
