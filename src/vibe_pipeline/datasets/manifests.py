"""Manifests, shown in Kedro-Viz by what they name: a picture, a curve. Paths in them are relative to the project."""

import base64
from pathlib import Path

import pandas as pd
from kedro_datasets._typing import ImagePreview, PlotlyPreview
from kedro_datasets.json import JSONDataset

from vibe_pipeline.io.files import read_json
from vibe_pipeline.io.manifests import AdapterManifest, of_file


class PictureManifest(JSONDataset):
    """JSON that names pictures, previewed as the first of them."""

    def preview(self, pictures: str) -> ImagePreview:
        """The first picture.

        Args:
            pictures: The key of their list; files are PNG.

        Returns:
            The file, base64.
        """
        path = Path(read_json(Path(self._filepath))[pictures][0])
        return ImagePreview(base64.b64encode(path.read_bytes()).decode())


class CurveManifest(JSONDataset):
    """JSON that names a CSV table, previewed as a plot of one of its columns over another."""

    def preview(self, table: str, x: str, y: str) -> PlotlyPreview:
        """The curve, as Plotly's JSON.

        Args:
            table: The key of the table's path.
            x: The column along the horizontal axis.
            y: The column along the vertical axis.
        """
        manifest = read_json(Path(self._filepath))
        rows = pd.read_csv(manifest[table])[[x, y]].dropna()
        line = {"type": "scatter", "mode": "lines", "x": rows[x].tolist(), "y": rows[y].tolist()}
        axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
        return PlotlyPreview({"data": [line], "layout": {"title": {"text": manifest.get("name", "")}} | axes})


class AdapterDataset(CurveManifest):
    """:class:`AdapterManifest` as JSON, checked again when loaded."""

    def load(self) -> AdapterManifest:
        """The manifest."""
        content = super().load()
        with of_file(Path(self._filepath)):
            return AdapterManifest.model_validate(content)

    def save(self, data: AdapterManifest) -> None:
        """Write it."""
        super().save(data.model_dump(mode="json"))
