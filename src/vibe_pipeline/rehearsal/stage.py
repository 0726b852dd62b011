"""A rehearsal before hours are spent: two steps of every training, one of every arm, one arm's scores and page.

It runs the graph's own nodes, through the catalog's datasets, with the run's parameters at their real sizes; only
steps, prompts and images are fewer. What it makes lies in a folder of its own that is gone afterwards, and no
MLflow run is opened. Trainings take two steps because the optimiser's state is made in the first: memory peaks in the
second, and a checkpoint is written between them.
"""

import gc
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from vibe_pipeline.diffusion import lora
from vibe_pipeline.diffusion.models import find_model, pick_device
from vibe_pipeline.diffusion.weights import on_meta
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.load import GROUPS
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.keys import file_sha256
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.pipelines import (
    ablation_report,
    data_processing,
    generation,
    relay_stage1,
    relay_stage2,
    vbench_eval,
)
from vibe_pipeline.rehearsal.small import (
    current_latents,
    few_native_steps,
    judged_alone,
    moved,
    noise_images,
    shortened,
    usable_of,
)
from vibe_pipeline.tracking.runs import PARENT
from vibe_pipeline.vbench.score import NOT_FINITE

log = logging.getLogger(__name__)

NOT_TRIED = "not tried"
ENCODING = ("find_training_images", "check_training_images", "cache_latents")
TRAININGS = frozenset({"relay_stage1", "relay_stage2"})


class RehearsalError(RuntimeError):
    """Rows of the rehearsal failed, so the run was not started."""


@dataclass(frozen=True)
class Line:
    """One node's rehearsal.

    Attributes:
        node: Its name in the graph, which holds the row's.
        seconds: Wall time, loading of models included.
        memory_gb: Peak on the GPU, GB; None without one.
        error: In one line; empty if it went well.
    """

    node: str
    seconds: float
    memory_gb: float | None
    error: str = ""


def format_line(line: Line) -> str:
    """A line for people."""
    memory = "       -" if line.memory_gb is None else f"{line.memory_gb:5.1f} GB"
    said = f": {line.error}" if line.error else ""
    return f"{'FAILED' if line.error else 'ok':6}  {line.seconds:7.1f} s  {memory}  {line.node}{said}"


def rehearse(
    params: Mapping[str, Any], tables: Experiment, catalog: Mapping[str, Any], on_line: Callable[[Line], object]
) -> list[Line]:
    """Run every node of the graph in small; a failure does not stop the others.

    Args:
        params: The parameters of an environment, sweeps unfolded. Paths are relative to the current folder.
        tables: Of these parameters.
        catalog: The catalog's configuration.
        on_line: Gets each line as soon as it is known.

    Returns:
        One line a node. Where a training failed, what needs its adapter goes on with one of zeros. What lacks
        anything else is a failure that says so, and the report is tried only if all before it went well.
    """
    lines, folders = [], Folders(**params["folders"])
    with _apart(folders.rehearsal):
        stage = _set_up(params, tables, catalog, folders)
        for node in _nodes(tables, stage):
            lines.append(stage.perform(node))
            on_line(lines[-1])
    return lines


def require_rehearsed(lines: Sequence[Line]) -> None:
    """Refuse to go on after a rehearsal with failures.

    Raises:
        RehearsalError: Names each failure.
    """
    if any(line.error for line in lines):
        failed = [line for line in lines if line.error and not line.error.startswith(NOT_TRIED)]
        said = "; ".join(f"{line.node}: {line.error}" for line in failed)
        raise RehearsalError(f"the rehearsal failed in {len(failed)} of {len(lines)} rows, nothing was run: {said}")


@contextmanager
def _apart(folder: Path) -> Iterator[None]:
    """Keep nothing: neither files, those of a killed rehearsal included, nor lines in an open MLflow run."""
    shutil.rmtree(folder, ignore_errors=True)
    parent = os.environ.pop(PARENT, None)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if parent is not None:
            os.environ[PARENT] = parent


@dataclass
class _Stage:
    """What the nodes are given, and what became of them.

    Attributes:
        values: Parameters by the names that nodes ask for.
        prompts: How many (prompt, seed) pairs are made.
        cached: Whether the project's latents are used.
        lacking: Datasets that a failure left out.
        all_well: Until something fails.
    """

    catalog: DataCatalog
    values: dict[str, Any]
    device: torch.device
    prompts: int
    cached: bool
    lacking: set[str] = field(default_factory=set)
    all_well: bool = True

    def perform(self, node: Node) -> Line:
        """Run one node."""
        begun, error, memory = time.monotonic(), "", None
        if "ablation_report" in node.tags and not self.all_well:
            error = f"{NOT_TRIED}, as something before it failed"
        elif lacking := sorted(self.lacking.intersection(node.inputs)):
            error = f"{NOT_TRIED}, as {', '.join(lacking)} failed"
        else:
            error, memory = self._run(node)
        if error:
            self.all_well = False
            self.lacking |= set(node.outputs) - self._stand_ins(node)
        return Line(node.name, time.monotonic() - begun, memory, error)

    def _run(self, node: Node) -> tuple[str, float | None]:
        """The error in one line, and the memory that was needed."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            outputs = node.run({name: self._load(name) for name in node.inputs})
            if "prompts" in outputs:
                outputs["prompts"] = outputs["prompts"].head(self.prompts)
            for name, value in outputs.items():
                self.catalog.save(name, value)
            return failed_scores(outputs), _memory(self.device, outputs)
        except Exception as raised:  # whatever a row's model, images or settings raise; the other rows go on
            log.debug("the rehearsal of %s failed", node.name, exc_info=True)
            return f"{type(raised).__name__}: {one_line(raised, 400)}", _memory(self.device, {})
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _load(self, name: str) -> Any:
        return self.values[name] if name.startswith("params:") else self.catalog.load(name)

    def _stand_ins(self, node: Node) -> set[str]:
        """Adapters of zeros in place of those that a failed training should have given, so that arms are still tried.

        They are made for layers without weights: what the base's numbers are kept in (`model.quantisation`) or how
        large it is does not matter to them.

        Returns:
            The datasets that are there now.
        """
        if not TRAININGS & node.tags:
            return set()
        (output,) = node.outputs
        kind, name = output.split("-", 1)
        row = self.values[f"params:{'stage1' if kind == 'stage1' else 'adapters'}.{name}"]
        model = self.values["params:model"]
        try:
            transformer = on_meta("transformer", find_model(model.path).config_of("transformer"))
            lora.add_adapter(transformer, name, row.lora.rank, row.lora.alpha, row.lora.targets, row.seed)
            path = lora.save_adapter(transformer, name, self.values["params:folders"].adapters / f"zeros/{name}")
        except Exception as raised:  # what stopped the training may stop this too
            log.debug("no adapter of zeros for %s: %s", name, one_line(raised))
            return set()
        self.catalog.save(output, AdapterManifest(name=name, key=file_sha256(path), path=path))
        return {output}


def failed_scores(outputs: Mapping[str, Any]) -> str:
    """Dimensions of VBench that raised: scoring goes on without them, but a run should not begin so.

    A score that is not finite is left to the run: a clip of one step is mostly noise.
    """
    if "vbench_scores" not in outputs:
        return ""
    scores = outputs["vbench_scores"]
    raised = (scores["status"] == "failed") & ~scores["reason"].astype(str).str.startswith(NOT_FINITE)
    failed = scores[raised].drop_duplicates("metric")
    return "; ".join(f"{row.metric}: {row.reason}" for row in failed.itertuples())


def _memory(device: torch.device, outputs: Mapping[str, Any]) -> float | None:
    """Peak GB on the GPU, of a training's own processes too."""
    if device.type != "cuda":
        return None
    curves = [pd.read_csv(o.losses) for o in outputs.values() if isinstance(o, AdapterManifest) and o.losses]
    return max([torch.cuda.max_memory_allocated(device) / 1e9, *(float(c["peak_memory_gb"].max()) for c in curves)])


def _set_up(params: Mapping[str, Any], tables: Experiment, catalog: Mapping[str, Any], folders: Folders) -> _Stage:
    folder = folders.rehearsal
    values: dict[str, Any] = {f"params:{name}": group(**params.get(name, {})) for name, group, _ in GROUPS}
    values |= {"params:claims": Claims(params.get("claims", ())), "params:published": params.get("published", {})}
    values |= {"params:not_run": params.get("not_run", {})}
    values["params:folders"] = folders.below(folder)
    model, making = values["params:model"], values["params:generation"]
    short = shortened(tables, model)
    rows: dict[str, Mapping[str, Any]] = {"stage1": short.stage1, "adapters": short.adapters, "arms": short.arms}
    values |= {f"params:{table}.{name}": row for table, own in rows.items() for name, row in own.items()}
    judged = judged_alone(short)
    values |= {"params:stage1": judged.stage1, "params:adapters": judged.adapters, "params:arms": judged.arms}
    values["params:generation"] = few_native_steps(making, model)
    own = DataCatalog.from_config(moved(catalog, folder))
    kept = current_latents(model, values["params:data"], catalog)
    batch = max([row.batch_size for row in (*tables.stage1.values(), *tables.adapters.values())], default=1)
    noise = noise_images(values["params:data"], batch, folder / "images")
    if kept is None:
        values["params:data"] = noise
    else:
        own.save("usable_images", usable_of(noise))
        own.save("latent_cache", kept)
        own.save("image_quarantine", pd.DataFrame(columns=["file_name"]))
    return _Stage(own, values, pick_device(model.device), making.batch_size, kept is not None)


def _nodes(tables: Experiment, stage: _Stage) -> Iterator[Node]:
    """Trainings before arms: they are what later nodes wait for. Scores and page are tried on one arm."""
    if tables.stop_after_preview:
        parts: list[Pipeline] = [generation.create_pipeline(tables)]
    else:
        judged = judged_alone(tables)
        parts = [data_processing.create_pipeline()]
        parts += [part.create_pipeline(tables) for part in (relay_stage1, relay_stage2, generation)]
        parts[-1] -= Pipeline([generation.gather_clips(tables)])
        parts += [Pipeline([generation.gather_clips(judged)])]
        parts += [part.create_pipeline(judged) for part in (vbench_eval, ablation_report)]
    nodes = (node for part in parts for node in part.nodes)
    return (node for node in nodes if not (stage.cached and node.name in ENCODING))
