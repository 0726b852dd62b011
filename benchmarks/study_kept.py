"""The raw results of one environment, as `study.py keep` left them in docs/results."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.datasets import CsvTable
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import ClaimVerdict, judge_claims
from vibe_pipeline.evaluation.pooling import Pools, pools_of
from vibe_pipeline.evaluation.sequential import ONLY_LOOK, look_of
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.claims import load_claims
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import experiment_of
from vibe_pipeline.experiment.tables import Experiment

CONF = Path(__file__).parents[1] / "conf"


@dataclass(frozen=True)
class Kept:
    """The raw results of one environment."""

    name: str
    params: dict[str, Any]
    tables: Experiment
    pools: Pools
    scores: pd.DataFrame
    cost: pd.DataFrame
    spectra: pd.DataFrame
    frames: pd.DataFrame
    trainings: pd.DataFrame
    checks: pd.DataFrame
    _summaries: dict[str, pd.DataFrame] = field(default_factory=dict)

    def summary(self, metric: str) -> pd.DataFrame:
        """One measure of every arm, summarised as the report does; when first asked for, since arms are many."""
        if metric not in self._summaries:
            evaluation, rows = self.params["evaluation"], self.scores[self.scores["metric"] == metric]
            how = (
                evaluation.get("confidence", 0.95),
                evaluation.get("bootstrap_samples", 2000),
                evaluation.get("seed", 0),
            )
            self._summaries[metric] = summarise(rows, self.pools.references, *how, declared=list(self.pools.arms))
        return self._summaries[metric]

    @property
    def bootstrap(self) -> Bootstrap:
        """As the run's report draws its intervals."""
        evaluation = self.params["evaluation"]
        generation = self.params["generation"]
        look = look_of(GenerationParams(**generation)) if generation.get("sequential") else ONLY_LOOK
        return Bootstrap(confidence=evaluation.get("confidence", 0.95), seed=evaluation.get("seed", 0), look=look)

    @cached_property
    def verdicts(self) -> list[ClaimVerdict]:
        """Every claim of the environment, judged on the kept scores and corrected for how many there are."""
        return list(self.judged_by(self.name))

    def judged_by(self, environment: str) -> tuple[ClaimVerdict, ...]:
        """The claims of another environment, whose rows these are too, judged on the kept scores."""
        return judge_claims(load_claims(CONF / environment / "claims.yml"), self.scores, self.bootstrap)


def _kept(path: Path) -> pd.DataFrame:
    """A table whose names are text, even those of an arm called `none` or a key that is all digits."""
    return CsvTable(filepath=str(path), text=["arm", "name", "key", "kind"]).load()


def load(folder: Path) -> Kept:
    """Read the kept results of the environment that a folder is named after, pooled over training seeds."""
    params = json.loads((folder / "parameters.json").read_text())
    tables = experiment_of(params)
    pools = pools_of(tables)
    raw = pd.read_parquet(folder / "scores.parquet")
    scores = pools.pool(raw)
    spectra = pools.mean_spectra(_kept(folder / "spectra.csv"))
    cost, frames = (pools.pool(_kept(folder / f"{name}.csv")) for name in ("cost", "frames"))
    trainings, checks = (_kept(folder / f"{name}.csv") for name in ("trainings", "degradation_checks"))
    return Kept(folder.name, params, tables, pools, scores, cost, spectra, frames, trainings, checks)
