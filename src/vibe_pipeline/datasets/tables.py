"""The tables of the parameters as a file, so that they can cross to another process or machine."""

from kedro_datasets.json import JSONDataset

from vibe_pipeline.config import Tables


class TablesDataset(JSONDataset):
    """:class:`Tables` as JSON, checked again when loaded."""

    def load(self) -> Tables:
        """The tables."""
        return Tables(**super().load())

    def save(self, data: Tables) -> None:
        """Write them."""
        super().save(data.model_dump(mode="json"))
