"""One MLflow run: parameters, tags, metrics and artifacts of it."""

import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, LoggedModelInput, Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from pydantic import BaseModel

from vibe_pipeline.io.redact import redact

log = logging.getLogger(__name__)

PARENT, URI = "VIBE_MLFLOW_PARENT", "VIBE_MLFLOW_URI"
LONGEST_PARAM = 500
NODE = "time/node/"
TRAINING, CLIP = "time/training_seconds", "time/seconds_per_clip"
"""Metrics in seconds: of every node on the parent, of a training on its adapter, of a clip on its arm."""

ROW = "row"
"""The tag of a child that holds the name of its row: the name of the run says more."""

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description, in Markdown."""

WORKFLOW = "workflowType=machine_learning"
"""What makes MLflow's pages show what belongs to trained models, and not to language models."""

LONGEST_KEY = 100


def picture_key(text: str) -> str:
    """A text as the key of pictures: what MLflow takes in no key is left out, and it is cut to 100 characters.

    What stands before a slash is the section of the page that they stand in.
    """
    words = re.sub(r"[^\w\-./ ]+", " ", text, flags=re.ASCII).split()
    return " ".join(words)[:LONGEST_KEY].strip() or "picture"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and strings."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


class Tracked:
    """One run; does nothing when there is no client.

    A server that is gone in the middle costs a warning and never the work, whose results are on disk.
    """

    def __init__(self, client: MlflowClient | None, run_id: str = "") -> None:
        self.client, self.run_id = client, run_id

    @property
    def begun(self) -> float | None:
        """When the run began, seconds since 1970; None where nothing is tracked or the server does not answer."""
        if self.client is not None:
            with self._tolerant("its start"):
                return self.client.get_run(self.run_id).info.start_time / 1000
        return None

    def params(self, params: Mapping[str, Any] | BaseModel) -> None:
        """Record parameters, flattened; passwords in addresses are masked."""
        if self.client is not None:
            values = params.model_dump(mode="json") if isinstance(params, BaseModel) else params
            entries = [Param(k, redact(v)[:LONGEST_PARAM]) for k, v in flatten(values).items()]
            with self._tolerant("parameters"):
                for start in range(0, len(entries), 100):
                    self.client.log_batch(self.run_id, params=entries[start : start + 100])

    def tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; passwords in addresses are masked."""
        if self.client is not None:
            with self._tolerant("tags"):
                self.client.log_batch(self.run_id, tags=[RunTag(k, redact(str(v))) for k, v in tags.items()])

    def describe(self, note: str) -> None:
        """Set what MLflow shows as the run's description; as it is, since masking would break addresses in it.

        Args:
            note: Markdown of ours, which holds no address that was given.
        """
        if self.client is not None:
            with self._tolerant("its description"):
                self.client.set_tag(self.run_id, NOTE, note)

    def log(self, records: list[dict[str, float]]) -> None:
        """Record metrics in one batch; `step` names the step. Values that are not finite are left out."""
        with self._tolerant("metrics"):
            self.send(records)

    def send(self, records: list[dict[str, float]]) -> None:
        """As `log`, for callers that keep what did not arrive.

        Raises:
            MlflowException: The server did not take it.
        """
        if self.client is None:
            return
        now = int(1000 * time.time())
        metrics = [
            Metric(k, float(v), now, int(r.get("step", 0)))
            for r in records
            for k, v in r.items()
            if k != "step" and math.isfinite(v)
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def info(self) -> RunInfo | None:
        """What the store says of it: name, experiment, start; None if it is not tracked."""
        if self.client is None:
            return None
        with self._tolerant("what is asked of it") as found:
            found.append(self.client.get_run(self.run_id).info)
        return found[0] if found else None

    def artifact(self, path: Path, folder: str | None = None, name: str = "") -> bool:
        """Upload a file, under another name if one is given.

        Returns:
            Whether it is there now.
        """
        if self.client is None:
            return False
        with self._tolerant(path.name) as arrived, _named(path, name) as file:
            self.client.log_artifact(self.run_id, str(file), folder)
            arrived.append(path.name)
        return bool(arrived)

    def text(self, content: str, name: str) -> None:
        """Upload a text as a file of this name."""
        if self.client is not None:
            with self._tolerant(name):
                self.client.log_text(self.run_id, content, name)

    def picture(self, key: str, image: Image.Image, step: int) -> None:
        """A picture of MLflow's image grid: those of equal key stand in one row, a column a run.

        Args:
            key: As :func:`picture_key` gives it.
            image: RGB.
            step: What the grid's slider goes over.
        """
        if self.client is not None:
            with self._tolerant(f"the picture {key}"):
                self.client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

    def share(self, experiment: str, tags: Mapping[str, str]) -> bool:
        """Set tags of its experiment, as they are.

        Returns:
            Whether they are there now.
        """
        if self.client is None:
            return False
        with self._tolerant("a view of its experiment") as arrived:
            for name, value in tags.items():
                self.client.set_experiment_tag(experiment, name, value)
            arrived.append(experiment)
        return bool(arrived)

    def reads(self, data: DatasetInput, model: str = "") -> None:
        """State what the run was made from: data and, where there is one, the logged model."""
        if self.client is not None:
            models = [LoggedModelInput(model)] if model else []
            with self._tolerant("its inputs"):
                self.client.log_inputs(self.run_id, datasets=[data], models=models)

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[list[Any]]:
        try:
            yield []
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors
            log.warning("the MLflow run %s goes without %s: %s", self.run_id, what, redact(str(error)))


@contextmanager
def _named(path: Path, name: str) -> Iterator[Path]:
    """The file, or a link to it of another name: MLflow calls an artefact as the file is called."""
    if not name or name == path.name:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / name
        link.symlink_to(path.absolute())
        yield link


class Curve:
    """The curve of one run: each step once, in batches; a server that is away for a while stops no training.

    Args:
        run: What it belongs to.
        known: Steps that the run has already.
        pause: Seconds between batches; the first goes at once.
    """

    def __init__(self, run: Tracked, known: set[int], pause: float) -> None:
        self._run, self._known, self._pause = run, known, pause
        self._waiting: list[dict[str, float]] = []
        self._sent = -math.inf

    def add(self, records: list[dict[str, float]]) -> None:
        """Take records; those of steps that are there already are left out."""
        new = [r for r in records if int(r.get("step", 0)) not in self._known]
        self._known |= {int(r.get("step", 0)) for r in new}
        self._waiting += new
        if time.monotonic() - self._sent >= self._pause:
            self.send()

    def send(self) -> None:
        """Send what waits; if that fails it goes on waiting."""
        self._sent = time.monotonic()
        try:
            self._run.send(self._waiting)
            self._waiting = []
        except (MlflowException, OSError) as error:
            log.warning(
                "%d lines of the curve wait for the tracking server: %s", len(self._waiting), redact(str(error))
            )


def log_artifact(run_id: str, path: Path, folder: str) -> None:
    """Upload a file to a run from any process of this `kedro run`; without a parent nothing is done."""
    if (found := connected()) is not None:
        Tracked(found[0], run_id).artifact(path, folder)


def log_node_seconds(name: str, seconds: float) -> None:
    """How long a node took, on the parent run; a server that is away for a while costs a warning, not the node."""
    if (found := connected()) is not None:
        Tracked(*found).log([{NODE + name: seconds}])


def connected() -> tuple[MlflowClient, str] | None:
    """A client and the id of this `kedro run`'s own run; None if nothing is tracked."""
    return (MlflowClient(os.environ[URI]), os.environ[PARENT]) if PARENT in os.environ else None


def run_address() -> str:
    """Where this `kedro run` is to be seen in MLflow; '' if nothing is tracked or the server does not answer.

    Runs in a file need MLflow's own server, `make mlflow`, whose address is then meant.
    """
    if (found := connected()) is None:
        return ""
    try:
        experiment = found[0].get_run(found[1]).info.experiment_id
    except (MlflowException, OSError) as error:
        log.warning("the MLflow run %s cannot be named: %s", found[1], redact(str(error)))
        return ""
    served = os.environ[URI].startswith("http")
    server = redact(os.environ[URI]).rstrip("/") if served else "http://127.0.0.1:5000"
    page = f"{server}/#/experiments/{experiment}/runs/{found[1]}?{WORKFLOW}"
    return page if served else f"{page}  (after `make mlflow`)"


def parent_run() -> Tracked:
    """The run of this `kedro run`, or one that does nothing."""
    return Tracked(*(connected() or (None, "")))
