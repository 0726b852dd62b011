"""What crosses between stages as a small file that names large ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import read_json


class AdapterManifest(BaseModel):
    """An adapter that is there: trained by a row, untrained in a rehearsal, or a file that was given.

    Attributes:
        name: The row's.
        key: Hash of what determines the adapter.
        path: Its weights, safetensors.
        losses: The log of its training, CSV.
        parameters: The row's settings.
        final_loss: Of the log's last line.
        held_out_loss: Of the whole training, unweighted.
        seconds: That training took.
        reused: Whether an earlier run trained it.
        run_id: Of the MLflow run that holds its weights; empty where nothing is tracked.
        part: Of the base that it changes; `transformer_2` is the low-noise expert of two. None: not known.
    """

    # What another version wrote beside these fields is passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    key: str
    path: Path
    losses: Path | None = None
    parameters: dict[str, Any] = {}
    final_loss: float | None = None
    held_out_loss: float | None = None
    seconds: float | None = None
    reused: bool = False
    run_id: str = ""
    part: str | None = None

    @property
    def trained(self) -> bool:
        """Whether a training stands behind it, with a log and an outcome."""
        return self.losses is not None and self.held_out_loss is not None

    @classmethod
    def read(cls, file: Path) -> Self:
        """The manifest in a JSON file.

        Raises:
            ValueError: It is damaged, or not an adapter's; names the file, what is wrong, and the way out.
        """
        content = read_json(file)
        with of_file(file):
            return cls.model_validate(content)


class FilterManifest(BaseModel):
    """A linear filter that is there.

    Attributes:
        key: Hash of what determines it.
        path: Its gains, safetensors.
        stills: How many it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    path: Path
    stills: int


@contextmanager
def of_file(file: Path) -> Iterator[None]:
    """Say in one line which file holds what is not an adapter's manifest."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(
            f"{file} is not the manifest of an adapter ({one_line(said, 120)}); delete it and run the row again"
        ) from None
