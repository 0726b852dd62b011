"""How often each verdict comes out where the truth is known: the rule of evaluation/claims.py, and the one before it.

    python benchmarks/verdict_rates.py [--families 200] [--designs study] [--seed 0]
    python benchmarks/verdict_rates.py --looks [--families 1000] [--designs small_margin] [--seed 0]
    python benchmarks/verdict_rates.py --spreads

Draws the paired differences of a family of claims as prompts and training seeds at random, crossed, and judges them by
the package's own code. The family is the claims of the miniature study, each with the measures of its kind and with the
spreads and correlations of its own kept scores. A third of them have no true effect, a third one of the margin, a third
one of twice the margin, the same on every measure in units of its own margin; which are which goes round from family to
family. Prints a Markdown table of the share of claims with each verdict: by itself, corrected over the family, and by
the rule before, by which a claim held if every one of three measures' bootstrap intervals lay on the claimed side and
did not hold if any lay on the other.

With `--looks` prompts grow in blocks and every claim is judged at each: how often a false verdict comes out at any
look by the rule of a single look, which is peeking, and by that of evaluation/sequential.py, how often a true one does,
and at how many prompts. Claims then have their primary measure alone, which decides whether a verdict is false.

Spreads are those of a claim's paired differences in docs/results/miniature_study (64 prompts, 4 training seeds), by the
method of moments. `--spreads` prints them. Correlations are those of the means over training seeds, for every part.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_evidence
from vibe_pipeline.evaluation.differences import Difference, clip_values, difference_between, prompt_matrix
from vibe_pipeline.evaluation.estimates import of_seeds, prompt_means
from vibe_pipeline.evaluation.pooling import pools_of
from vibe_pipeline.evaluation.readings import EQUIVALENT, FAILS, HOLDS, MIXED, OPEN, Evidence, Question, read
from vibe_pipeline.evaluation.sequential import ONLY_LOOK, Look
from vibe_pipeline.experiment.claims import Asked, Claim, load_claims
from vibe_pipeline.experiment.load import experiment_of

Array = NDArray[np.float64]
ROOT = Path(__file__).parents[1]
STUDY = "miniature_study"
BEFORE = 3
"""How many measures a claim named before: the first three in most."""
EFFECTS = {"none": 0.0, "the margin": 1.0, "twice the margin": 2.0}
VERDICTS = (HOLDS, MIXED, EQUIVALENT, FAILS, OPEN)


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


DESIGNS = {
    "study": Design(64, 4),
    "two_seeds": Design(64, 2),
    "small": Design(16, 1, seeds_matter=False),
    "one_seed": Design(64, 1),
}

BLOCKS = (16, 32, 64, 128)
GROWING = {
    "study": Design(BLOCKS[-1], 4),
    "one_training": Design(BLOCKS[-1], 1, seeds_matter=False),
    "small_margin": Design(BLOCKS[-1], 1, seeds_matter=False, wider=4.0),
    "no_effect": Design(BLOCKS[-1], 1, seeds_matter=False, wider=20.0, effects=("none",)),
}
RULES = {"peeking": None, "O'Brien-Fleming": "obrien_fleming", "Pocock": "pocock"}


def drawn(design: Design, spreads: Spreads, effect: float, rng: np.random.Generator) -> Array:
    """Gains [measures, prompts, training seeds] in margins."""

    def part(spread: Array, *shape: int) -> Array:
        return spread[:, None, None] * np.tensordot(spreads.root, rng.standard_normal((len(spread), *shape)), axes=1)

    varied = part(spreads.prompts, design.prompts, 1) + part(spreads.rest, design.prompts, design.seeds)
    if design.seeds_matter:
        varied = varied + part(spreads.seeds, 1, design.seeds)
    return effect + design.wider * varied


def rule_before(found: list[Difference]) -> str:
    """The verdict by the rule that this one replaces."""
    if any(difference.high < 0 for difference in found[:BEFORE]):
        return FAILS
    return HOLDS if all(difference.low > 0 for difference in found[:BEFORE]) else OPEN


Family = tuple[list[str], list[list[Evidence]], list[str]]
"""True effects of its claims, what their measures say, and the verdicts of the rule before."""


def families(design: Design, count: int, seed: int) -> Iterator[Family]:
    """Families of the study's claims, drawn."""
    rng, bootstrap = np.random.default_rng(seed), Bootstrap()
    for number in range(count):
        effects, evidence, before = effects_of(number, design.effects), [], []
        for (claim, spreads), effect in zip(study(), effects, strict=True):
            rows = drawn(design, spreads, EFFECTS[effect], rng)
            found = [difference_between(row, bootstrap=bootstrap) for row in rows]
            questions = [Question(asked.metric, "higher", 1.0) for asked in asked_of(claim)]
            evidence.append([read(q, d, bootstrap) for q, d in zip(questions, found, strict=True)])
            before.append(rule_before(found))
        yield effects, evidence, before


def is_false(effect: str, verdict: str) -> bool:
    """Whether a verdict says what is not so."""
    return verdict in {"none": (HOLDS, MIXED, FAILS)}.get(effect, (EQUIVALENT, FAILS))


def rates(design: Design, count: int, seed: int) -> tuple[dict[tuple[str, str], Counter], Counter]:
    """Verdicts by (rule, effect); and by rule, families with any false verdict."""
    verdicts: dict[tuple[str, str], Counter] = {}
    false: Counter = Counter()
    claims = [claim for claim, _ in study()]
    for effects, evidence, before in families(design, count, seed):
        judged = judge_evidence(claims, evidence)
        told = {
            "before": before,
            "by itself": [judgement.verdict for judgement in judged],
            "corrected": [judgement.corrected for judgement in judged],
        }
        for rule, found in told.items():
            for effect, verdict in zip(effects, found, strict=True):
                verdicts.setdefault((rule, effect), Counter())[verdict] += 1
            false[rule] += any(is_false(effect, verdict) for effect, verdict in zip(effects, found, strict=True))
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
    error = 100 * math.sqrt(0.05 * 0.95 / sum(verdicts["corrected", "none"].values()))
    lines += [
        "",
        f"{count} families of {len(study())} with any false verdict: {said}.",
        f"A rate of 5 % is uncertain by ± {error:.1f}.",
        "",
    ]
    return "\n".join(lines)


Told = dict[int, tuple[str, int]]
"""By the claim's place what is first told of it, and at how many prompts; nothing of what is never told."""


def first_told(claims: list[Claim], seen: list[list[Difference]], spending: str | None) -> tuple[Told, Told]:
    """What any look tells first, of the claims by themselves and corrected.

    Args:
        claims: Of a family.
        seen: Their differences at each look.
        spending: Of the level over the looks; None: each look has all of it.
    """
    alone: Told = {}
    together: Told = {}
    for number, differences in enumerate(seen, 1):
        look = ONLY_LOOK if spending is None else Look(number, BLOCKS, spending)
        bootstrap = replace(Bootstrap(), look=look)
        evidence = [
            [read(Question(claim.primary.metric, "higher", 1.0), found, bootstrap)]
            for claim, found in zip(claims, differences, strict=True)
        ]
        for place, judged in enumerate(judge_evidence(claims, evidence, bootstrap)):
            for known, verdict in ((alone, judged.verdict), (together, judged.corrected)):
                if verdict != OPEN:
                    known.setdefault(place, (verdict, BLOCKS[number - 1]))
    return alone, together


def grown(design: Design, count: int, seed: int) -> dict[str, list[tuple[Told, Told]]]:
    """By rule what is first told of each family."""
    rng, claims = np.random.default_rng(seed), [claim for claim, _ in study()]
    found: dict[str, list[tuple[Told, Told]]] = {rule: [] for rule in RULES}
    for number in range(count):
        effects = effects_of(number, design.effects)
        claimed = zip(study(), effects, strict=True)
        primary = [drawn(design, spreads, EFFECTS[effect], rng)[0] for (_, spreads), effect in claimed]
        seen = [[difference_between(matrix[:block]) for matrix in primary] for block in BLOCKS]
        for rule, spending in RULES.items():
            found[rule].append(first_told(claims, seen, spending))
    return found


def shares(design: Design, effect: str, families: list[Told]) -> list[str]:
    """Of claims with an effect, percent that are told wrongly, rightly, and not; and the mean of prompts until then."""
    first = [
        told.get(place, (OPEN, BLOCKS[-1]))
        for number, told in enumerate(families)
        for place, other in enumerate(effects_of(number, design.effects))
        if other == effect
    ]
    wrong = sum(is_false(effect, verdict) for verdict, _ in first)
    untold = [verdict for verdict, _ in first].count(OPEN)
    counts = wrong, len(first) - wrong - untold, untold
    return [*(f"{100 * n / len(first):.1f}" for n in counts), f"{np.mean([prompts for _, prompts in first]):.0f}"]


def with_false(design: Design, families: list[Told]) -> float:
    """Percent of families in which any look tells a claim wrongly."""
    wrong = [
        any(is_false(effects[place], verdict) for place, (verdict, _) in told.items())
        for told, effects in ((told, effects_of(number, design.effects)) for number, told in enumerate(families))
    ]
    return 100 * sum(wrong) / len(wrong)


def looks_table(design: Design, count: int, seed: int) -> str:
    """What comes out at any of the looks as Markdown, in percent, and prompts until then."""
    listed = ", ".join(map(str, BLOCKS))
    lines = [f"**Looks at {listed}; {design.label}**", ""]
    lines += ["| true effect | rule | false | true | open | prompts | corrected: false | true | open | prompts |"]
    lines += ["|---" * 10 + "|"]
    found = {rule: list(zip(*families, strict=True)) for rule, families in grown(design, count, seed).items()}
    for effect in design.effects:
        for rule, both in found.items():
            cells = [cell for families in both for cell in shares(design, effect, list(families))]
            lines.append(f"| {effect} | {rule} | {' | '.join(cells)} |")
    wrong = {rule: [with_false(design, list(families)) for families in both] for rule, both in found.items()}
    said = "; ".join(
        f"{rule} {alone:.1f} % by itself, {together:.1f} % corrected" for rule, (alone, together) in wrong.items()
    )
    error = 100 * math.sqrt(0.05 * 0.95 / (count * len(study()) / len(design.effects)))
    lines += [
        "",
        f"{count} families of {len(study())} with any false verdict: {said}. 5 % are uncertain by ± {error:.1f}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print one table a design."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=200)
    parser.add_argument("--designs", nargs="+", help="some of them alone")
    parser.add_argument("--looks", action="store_true", help="prompts grow in blocks, and every block is looked at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spreads", action="store_true", help="print what the study measured, and draw nothing")
    given = parser.parse_args()
    if given.spreads:
        print(spreads_table())
        return
    designs, shown = (GROWING, looks_table) if given.looks else (DESIGNS, table)
    if unknown := set(given.designs or ()) - set(designs):
        parser.error(f"--designs: {', '.join(sorted(unknown))} is none of {', '.join(designs)}")
    for name in given.designs or designs:
        print(shown(designs[name], given.families, given.seed), flush=True)


if __name__ == "__main__":
    main()
