"""Families of claims whose truth is known: paired differences drawn at random, with the spreads of the study's own.

Spreads are those of a claim's paired differences in docs/results/miniature_study (64 prompts, 4 training seeds), by the
method of moments. Correlations are those of the means over training seeds, for every part.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.evaluation.differences import clip_values, prompt_matrix
from vibe_pipeline.evaluation.estimates import of_seeds, prompt_means
from vibe_pipeline.evaluation.pooling import pools_of
from vibe_pipeline.evaluation.readings import EQUIVALENT, FAILS, HOLDS, MIXED
from vibe_pipeline.experiment.claims import Asked, Claim, load_claims
from vibe_pipeline.experiment.load import experiment_of

Array = NDArray[np.float64]
ROOT = Path(__file__).parents[1]
STUDY = "miniature_study"
EFFECTS = {"none": 0.0, "the margin": 1.0, "twice the margin": 2.0}


@dataclass(frozen=True)
class Spreads:
    """How a claim's measures vary: standard deviations in units of their margins, the primary one first.

    Attributes:
        prompts: Between prompts.
        seeds: Between training seeds.
        rest: Of a prompt with a training seed beyond both.
        root: Cholesky factor of the measures' correlations, [measures, measures].
    """

    prompts: Array
    seeds: Array
    rest: Array
    root: Array


@cache
def study() -> tuple[tuple[Claim, Spreads], ...]:
    """The study's claims, with the spreads of their kept scores."""
    folder = ROOT / "docs/results" / STUDY
    pools = pools_of(experiment_of(json.loads((folder / "parameters.json").read_text())))
    scores = pools.pool(pd.read_parquet(folder / "scores.parquet"))
    claims = load_claims(ROOT / "conf" / STUDY / "claims.yml")
    return tuple((claim, spreads_of([gains(scores, claim, asked) for asked in asked_of(claim)])) for claim in claims)


def asked_of(claim: Claim) -> tuple[Asked, ...]:
    """Its measures, the primary one first."""
    return claim.primary, *claim.secondary


def gains(scores: pd.DataFrame, claim: Claim, asked: Asked) -> Array:
    """Of one measure in margins, the better side positive: [prompts, training seeds]."""
    rows = scores[scores["metric"] == asked.metric]
    arm, other = (prompt_matrix(clip_values(rows[rows["arm"] == name])) for name in (claim.arm, claim.other))
    if len(arm) != len(other) or other.shape[1] not in {1, arm.shape[1]}:
        raise ValueError(f"{claim.name}: its arms do not have the same clips, {arm.shape} and {other.shape}")
    return (arm - other) / asked.margin * (1 if asked.better == "higher" else -1)


def spreads_of(measured: list[Array]) -> Spreads:
    """By the method of moments, of the [prompts, training seeds] of every measure."""
    rows = [prompt_means(matrix) for matrix in measured]
    seeds = measured[0].shape[1]
    rest = np.array([_residual(matrix) for matrix in measured])
    between = np.array([row.var(ddof=1) for row in rows])
    of_training = np.array([of_seeds(matrix) * seeds for matrix in measured])
    return Spreads(
        prompts=np.sqrt(np.maximum(between - rest / seeds, 0.0)),
        seeds=np.sqrt(of_training),
        rest=np.sqrt(rest),
        root=np.linalg.cholesky(np.corrcoef(rows)),
    )


def _residual(matrix: Array) -> float:
    """Variance beyond prompts and training seeds."""
    prompts, seeds = matrix.shape
    left = matrix - matrix.mean(axis=0) - matrix.mean(axis=1, keepdims=True) + matrix.mean()
    return float((left**2).sum()) / ((prompts - 1) * (seeds - 1))


def spreads_table() -> str:
    """The spreads of every claim's primary measure as Markdown, in margins."""
    lines = ["| claim | primary measure | prompts | training seeds | rest |", "|---|---|---|---|---|"]
    for claim, found in study():
        cells = " | ".join(f"{part[0]:.2f}" for part in (found.prompts, found.seeds, found.rest))
        lines.append(f"| {claim.name} | {claim.primary.metric} | {cells} |")
    return "\n".join(lines)


def effects_of(number: int, effects: tuple[str, ...]) -> list[str]:
    """Of the claims of the n-th family, in turn, so that each claim has each effect in as many families."""
    return [effects[(place + number) % len(effects)] for place in range(len(study()))]


@dataclass(frozen=True)
class Design:
    """How many prompts and training seeds, whether training seeds matter at all, and which effects claims have.

    Effects are in units of the margin. All spreads are `wider` times those of the study in it: the wider, the less the
    margin keeps from being told wrongly.
    """

    prompts: int
    seeds: int
    seeds_matter: bool = True
    wider: float = 1.0
    effects: tuple[str, ...] = tuple(EFFECTS)

    @property
    def label(self) -> str:
        """In words."""
        said = f"{self.prompts} prompts, {self.seeds} training seed{'s' * (self.seeds > 1)}"
        said += "" if self.seeds_matter else "; of these very trainings"
        said += "" if self.wider == 1 else f"; spreads {self.wider:g} times as large"
        return said if len(self.effects) > 1 else f"{said}; no effect at all"


def drawn(design: Design, spreads: Spreads, effect: float, rng: np.random.Generator) -> Array:
    """Gains [measures, prompts, training seeds] in margins."""

    def part(spread: Array, *shape: int) -> Array:
        return spread[:, None, None] * np.tensordot(spreads.root, rng.standard_normal((len(spread), *shape)), axes=1)

    varied = part(spreads.prompts, design.prompts, 1) + part(spreads.rest, design.prompts, design.seeds)
    if design.seeds_matter:
        varied = varied + part(spreads.seeds, 1, design.seeds)
    return effect + design.wider * varied


def is_false(effect: str, verdict: str) -> bool:
    """Whether a verdict says what is not so."""
    return verdict in {"none": (HOLDS, MIXED, FAILS)}.get(effect, (EQUIVALENT, FAILS))
