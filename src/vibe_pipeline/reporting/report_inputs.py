"""What the report page is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from vibe_pipeline.evaluation.claims import ClaimVerdict, judge_claims
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.reporting import tables
from vibe_pipeline.reporting.ages import Age


def _nothing() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class ReportInputs:
    """Everything the page shows; any of it may be empty, and the page says so.

    Attributes:
        title: Heading of the page.
        arms: Declared arms, by name.
        adapters: Declared adapters, by name.
        reference: The arm differences are taken to, or the swept row whose variants they are taken to.
        references: For each arm its own reference, where it is a variant of `reference`.
        table: Ablation table: arm, metric, mean, ci_low, ci_high, n, direction, family, diff, diff_low,
            diff_high, n_pairs, status, reason, training_seeds, effect_size.
        scores: Per-clip scores: arm, prompt_index, seed, metric, value, direction, family, status, reason; and
            training_seed, where replicates are pooled.
        clips: arm, prompt_index, prompt, seed, path, preview_path, height, width, frames, fps, seconds,
            native_source, reference_path.
        losses: adapter, stage, step, loss.
        checks: adapter, kind, the settings of these kinds, mse_degraded, mse_upsampled.
        spectra: arm, cycles, power (or its log10).
        provenance: What made the figures; may be nested.
        published: The content of published.yml.
        claims: What is put to the test.
        band: Cycles per frame height that the native clip cannot hold but the target can.
        clips_shown: How many prompts to show pictures and clips of.
        bootstrap: How intervals of differences are drawn.
        ages: When the parts were made, and by which run.
        earlier_looks: By claim, prompts of looks before that its verdict is not corrected for.
    """

    title: str
    arms: Mapping[str, ArmParams]
    adapters: Mapping[str, AdapterParams]
    reference: str
    table: pd.DataFrame = field(default_factory=_nothing)
    scores: pd.DataFrame = field(default_factory=_nothing)
    clips: pd.DataFrame = field(default_factory=_nothing)
    losses: pd.DataFrame = field(default_factory=_nothing)
    checks: pd.DataFrame = field(default_factory=_nothing)
    spectra: pd.DataFrame = field(default_factory=_nothing)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    band: tuple[float, float] | None = None
    clips_shown: int = 4
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
    references: Mapping[str, str] = field(default_factory=dict)
    ages: Sequence[Age] = ()
    earlier_looks: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @cached_property
    def judgements(self) -> list[ClaimVerdict]:
        """What the scores say of every claim."""
        return list(judge_claims(self.claims, self.scores, self.bootstrap))

    @property
    def reference_arms(self) -> frozenset[str]:
        """Every arm that some difference is taken to."""
        return frozenset(self.references.values()) or frozenset({self.reference})

    @property
    def reference_label(self) -> str:
        """What the page calls the reference."""
        if len(self.reference_arms) == 1:
            return tables.arm_label(next(iter(self.reference_arms)), self.arms)
        return f"the variant of “{self.reference}” with the same swept values"
