"""What made the figures of a page, and what was seen on the way: provenance, losses, the degradation check."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.images.degradation import FIGURES, check_of
from vibe_pipeline.io.keys import content_key, folder_fingerprint, installed_version
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.tracking import git_commit

PACKAGES = ("torch", "diffusers", "transformers", "peft", "kedro", "mlflow", "vbench")
Manifests = Mapping[str, Sequence[AdapterManifest]]
"""Manifests of adapters, by the stage that trained them."""


def losses(manifests: Manifests) -> pd.DataFrame:
    """The loss of every training step: adapter, stage, step, loss."""
    tables = [
        pd.read_csv(m.losses).assign(adapter=m.name, stage=stage)
        for stage, group in manifests.items()
        for m in group
        if m.losses is not None
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def degradation_rows(checks: pd.DataFrame, tables: Experiment) -> pd.DataFrame:
    """One row per adapter that degrades, with the figures of its own degradation, or without any."""
    rows = []
    for name, row in tables.adapters.items():
        if row.degrades:
            own, figures = row.degradation.counting(), check_of(checks, row).to_dict("records")
            rows.append({"adapter": name} | own | (figures[0] if figures else dict.fromkeys(FIGURES, float("nan"))))
    return pd.DataFrame(rows)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the figures of a page were made of.

    Attributes:
        tables: What was asked for.
        model: The base model.
        evaluation: How intervals are drawn.
        clips: Of all arms.
        manifests: Of the adapters.
        quarantined: Number of training images that were not used.
        vbench: VBench's manifest.
    """

    tables: Experiment
    model: ModelParams
    evaluation: EvaluationParams
    clips: pd.DataFrame
    manifests: Manifests
    quarantined: int
    vbench: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """By name, as the page lists it; may be nested."""
        clips = self.clips
        return {
            "commit": git_commit(Path.cwd()),
            "tables": content_key(self.tables),
            **_model(self.model),
            "native clips from": ", ".join(sorted(set(clips["native_source"]))),
            "prompts": int(clips["prompt_index"].nunique()),
            "prompt list": content_key(sorted(set(clips["prompt"]))),
            "seeds": ", ".join(map(str, sorted(set(clips["seed"])))),
            "intervals": f"{self.evaluation.confidence:.0%}, {self.evaluation.bootstrap_samples} bootstrap samples "
            "over prompts",
            "quarantined images": self.quarantined,
            "training seconds": self._training_seconds(),
            "seconds per clip": {name: round(s, 2) for name, s in clips.groupby("arm")["seconds"].mean().items()},
            "overall dimensions": ", ".join(self.evaluation.overall_dimensions),
            "vbench": {
                name: value for name, value in self.vbench.items() if not name.startswith("scored")
            },  # told beside the parts
        }

    def _training_seconds(self) -> dict[str, float]:
        manifests = (manifest for group in self.manifests.values() for manifest in group)
        return {m.name: round(m.seconds, 1) for m in manifests if m.seconds is not None}


def _model(model: ModelParams) -> dict[str, Any]:
    """The base model, the machine and the sizes."""
    folder, native, target = Path(model.path), model.native, model.target
    return {
        "base model": f"{model.path} ({folder_fingerprint(folder) if folder.is_dir() else 'hub'})",
        "device": model.device,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: installed_version(name) for name in PACKAGES},
        "native size": f"{native.height}x{native.width}x{native.frames}, {native.fps:g} fps",
        "target size": f"{target.height}x{target.width}x{target.frames}, {target.fps:g} fps",
    }
