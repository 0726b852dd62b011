"""How often each verdict comes out where the truth is known: the rule of evaluation/claims.py, and the one before it.

    python benchmarks/verdict_rates.py [--families 200] [--designs study] [--seed 0]

Draws the paired differences of a family of claims as prompts and training seeds at random, crossed, on five measures
that go together, and judges them by the package's own code. Five of fourteen claims have no true effect, five one of
the margin, four one of twice the margin, the same on every measure in units of its own margin. Prints a Markdown table
of the share of claims with each verdict: by itself, corrected over the family, and by the rule before, by which a claim
held if every measure's bootstrap interval lay on the claimed side and did not hold if any lay on the other.

Spreads and correlations are those of `full_pixel` less `no_hfato` in the miniature study (64 prompts, 4 sampling seeds,
2 training seeds), by the method of moments: training seeds matter as much there as anywhere in it.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_evidence
from vibe_pipeline.evaluation.differences import Difference, difference_between
from vibe_pipeline.evaluation.readings import EQUIVALENT, FAILS, HOLDS, MIXED, OPEN, Evidence, Question, read
from vibe_pipeline.experiment.claims import Asked, Claim

Array = NDArray[np.float64]
MEASURES = ("band_error", "band_correlation", "spectrum_distance", "psnr", "flicker")
BEFORE = 3
"""How many of them a claim named before: the first three in most."""
# Standard deviations in units of the margin (.02, .02, .05, .2 dB, .0005), the better side positive.
OF_PROMPTS = np.array([2.06, 1.54, 0.61, 1.44, 0.22])
OF_SEEDS = np.array([1.06, 0.84, 0.26, 0.56, 0.16])
OF_REST = np.array([0.66, 0.59, 0.13, 0.32, 0.10])
TOGETHER = np.array(
    [
        [1.00, 0.78, 0.29, 0.83, 0.15],
        [0.78, 1.00, -0.05, 0.73, 0.23],
        [0.29, -0.05, 1.00, 0.21, -0.15],
        [0.83, 0.73, 0.21, 1.00, 0.07],
        [0.15, 0.23, -0.15, 0.07, 1.00],
    ]
)
EFFECTS = {"none": 0.0, "the margin": 1.0, "twice the margin": 2.0}
FAMILY = ("none",) * 5 + ("the margin",) * 5 + ("twice the margin",) * 4
VERDICTS = (HOLDS, MIXED, EQUIVALENT, FAILS, OPEN)


@dataclass(frozen=True)
class Design:
    """How many prompts and training seeds, and whether training seeds matter at all."""

    prompts: int
    seeds: int
    seeds_matter: bool = True

    @property
    def label(self) -> str:
        """In words."""
        said = f"{self.prompts} prompts, {self.seeds} training seed{'s' * (self.seeds > 1)}"
        return said if self.seeds_matter else f"{said}; of these very trainings"


DESIGNS = {
    "study": Design(64, 4),
    "two_seeds": Design(64, 2),
    "small": Design(16, 1, seeds_matter=False),
    "one_seed": Design(64, 1),
}


def drawn(design: Design, effect: float, rng: np.random.Generator) -> Array:
    """Gains [measures, prompts, training seeds] in margins."""
    root = np.linalg.cholesky(TOGETHER)

    def part(spread: Array, *shape: int) -> Array:
        return spread[:, None, None] * np.tensordot(root, rng.standard_normal((len(spread), *shape)), axes=1)

    gains = effect + part(OF_PROMPTS, design.prompts, 1) + part(OF_REST, design.prompts, design.seeds)
    return gains + part(OF_SEEDS, 1, design.seeds) if design.seeds_matter else gains


def rule_before(found: list[Difference]) -> str:
    """The verdict by the rule that this one replaces."""
    if any(difference.high < 0 for difference in found[:BEFORE]):
        return FAILS
    return HOLDS if all(difference.low > 0 for difference in found[:BEFORE]) else OPEN


def families(design: Design, count: int, seed: int) -> Iterator[tuple[list[Claim], list[list[Evidence]], list[str]]]:
    """Claims, what their measures say, and the verdicts of the rule before."""
    rng, bootstrap = np.random.default_rng(seed), Bootstrap()
    asked = [Asked(metric=name, better="higher", margin=1.0) for name in MEASURES]
    questions = [Question(name, "higher", 1.0) for name in MEASURES]
    claims = [
        Claim(name=str(i), statement=effect, kind="k", arm="a", other="b", primary=asked[0], secondary=tuple(asked[1:]))
        for i, effect in enumerate(FAMILY)
    ]
    for _ in range(count):
        found = [
            [difference_between(gains, bootstrap=bootstrap) for gains in drawn(design, EFFECTS[effect], rng)]
            for effect in FAMILY
        ]
        evidence = [[read(q, d, bootstrap) for q, d in zip(questions, row, strict=True)] for row in found]
        yield claims, evidence, [rule_before(row) for row in found]


def is_false(effect: str, verdict: str) -> bool:
    """Whether a verdict says what is not so."""
    return verdict in {"none": (HOLDS, MIXED, FAILS)}.get(effect, (EQUIVALENT, FAILS))


def rates(design: Design, count: int, seed: int) -> tuple[dict[tuple[str, str], Counter], Counter]:
    """Verdicts by (rule, effect); and by rule, families with any false verdict."""
    verdicts: dict[tuple[str, str], Counter] = {}
    false: Counter = Counter()
    for claims, evidence, before in families(design, count, seed):
        judged = judge_evidence(claims, evidence)
        told = {
            "before": before,
            "by itself": [judgement.verdict for judgement in judged],
            "corrected": [judgement.corrected for judgement in judged],
        }
        for rule, found in told.items():
            for effect, verdict in zip(FAMILY, found, strict=True):
                verdicts.setdefault((rule, effect), Counter())[verdict] += 1
            false[rule] += any(is_false(effect, verdict) for effect, verdict in zip(FAMILY, found, strict=True))
    return verdicts, false


def table(design: Design, count: int, seed: int) -> str:
    """The rates of a design as Markdown, in percent."""
    verdicts, false = rates(design, count, seed)
    lines = [f"**{design.label}**", ""]
    lines.append("| true effect | rule | holds | mixed | equivalent | does not hold | cannot be told |")
    lines.append("|---|---|---|---|---|---|---|")
    for effect in EFFECTS:
        for rule in ("before", "by itself", "corrected"):
            found = verdicts[rule, effect]
            shares = " | ".join(f"{100 * found[v] / found.total():.1f}" for v in VERDICTS)
            lines.append(f"| {effect} | {rule} | {shares} |")
    said = ", ".join(f"{rule} {100 * false[rule] / count:.0f} %" for rule in ("before", "by itself", "corrected"))
    error = 100 * math.sqrt(0.05 * 0.95 / (count * FAMILY.count("none")))
    lines += [
        "",
        f"Families of {len(FAMILY)} with any false verdict: {said}. A rate of 5 % is uncertain by ± {error:.1f}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print one table a design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200)
    parser.add_argument("--designs", nargs="+", choices=list(DESIGNS), default=list(DESIGNS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.designs:
        print(table(DESIGNS[name], given.families, given.seed), flush=True)


if __name__ == "__main__":
    main()
