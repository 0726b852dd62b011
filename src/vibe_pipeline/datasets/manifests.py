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


class AdapterDataset(JSONDataset):
    """:class:`AdapterManifest` as JSON, checked again when loaded, and previewed as a plot of its training."""

    def load(self) -> AdapterManifest:
        """The manifest.

        Raises:
            ValueError: The file is not an adapter's manifest.
        """
        content = super().load()
        with of_file(Path(self._filepath)):
            return AdapterManifest.model_validate(content)

    def save(self, data: AdapterManifest) -> None:
        """Write it."""
        super().save(data.model_dump(mode="json"))

    def preview(self, x: str, y: str) -> PlotlyPreview:
        """The curve, as Plotly's JSON.

        Args:
            x: The column of the training's log along the horizontal axis.
            y: The column along the vertical axis.
        """
        manifest = self.load()
        rows = pd.read_csv(manifest.losses)[[x, y]].dropna()
        line = {"type": "scatter", "mode": "lines", "x": rows[x].tolist(), "y": rows[y].tolist()}
        axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
        return PlotlyPreview({"data": [line], "layout": {"title": {"text": manifest.name}} | axes})


class TrainingsDataset(JSONDataset):
    """Lists of :class:`AdapterManifest` by stage as JSON, checked again when loaded."""

    def load(self) -> dict[str, list[AdapterManifest]]:
        """The manifests.

        Raises:
            ValueError: The file does not hold adapters' manifests.
        """
        content = super().load()
        with of_file(Path(self._filepath)):
            return {stage: [*map(AdapterManifest.model_validate, found)] for stage, found in content.items()}

    def save(self, data: dict[str, list[AdapterManifest]]) -> None:
        """Write them."""
        super().save({stage: [manifest.model_dump(mode="json") for manifest in found] for stage, found in data.items()})
