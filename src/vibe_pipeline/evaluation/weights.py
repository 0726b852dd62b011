"""Fetching the weights of measures that networks make, as VBench's are fetched."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from vibe_pipeline.evaluation.metrics.asked import asked_for
from vibe_pipeline.evaluation.metrics.networks import Network
from vibe_pipeline.vbench.weights import FetchError, fetch_files


def fetch_measures(
    names: Collection[str], folders: Mapping[str, str | Path], tell: Callable[[str], None]
) -> list[FetchError]:
    """Bring the weights of measures into the folders where they are looked for; what is there is left alone.

    Args:
        names: Of measures that are made only where asked for; those of pixels have no weights, which is said.
        folders: By name, as parameters have them.
        tell: Gets a line per file.

    Returns:
        What could not be fetched; the next call goes on with what was begun.

    Raises:
        ValueError: A name is wrong.
    """
    errors: list[FetchError] = []
    for entry in asked_for(names):
        if isinstance(entry, Network):
            errors += fetch_files(entry.weights, Path(folders[entry.folder]), tell)
        else:
            tell(f"{entry.name} needs no weights")
    return errors
