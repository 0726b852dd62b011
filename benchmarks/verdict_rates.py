"""How often each verdict comes out where the truth is known: the rule of evaluation/claims.py, and the one before it.

    python benchmarks/verdict_rates.py [--families 200] [--designs study] [--seed 0]
    python benchmarks/verdict_rates.py --looks [--families 1000] [--designs small_margin] [--seed 0]

Draws the paired differences of a family of claims as prompts and training seeds at random, crossed, on five measures
that go together, and judges them by the package's own code. Five of fourteen claims have no true effect, five one of
the margin, four one of twice the margin, the same on every measure in units of its own margin. Prints a Markdown table
of the share of claims with each verdict: by itself, corrected over the family, and by the rule before, by which a claim
held if every measure's bootstrap interval lay on the claimed side and did not hold if any lay on the other.

With `--looks` prompts grow in blocks and every claim is judged at each: how often a false verdict comes out at any
look by the rule of a single look, which is peeking, and by that of evaluation/sequential.py, how often a true one does,
and at how many prompts. Claims then have their primary measure alone, which decides whether a verdict is false.

Spreads and correlations are those of `full_pixel` less `no_hfato` in the miniature study (64 prompts, 4 sampling seeds,
2 training seeds), by the method of moments: training seeds matter as much there as anywhere in it.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_evidence
from vibe_pipeline.evaluation.differences import Difference, difference_between
from vibe_pipeline.evaluation.readings import EQUIVALENT, FAILS, HOLDS, MIXED, OPEN, Evidence, Question, read
from vibe_pipeline.evaluation.sequential import ONLY_LOOK, Look
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
    """How many prompts and training seeds, whether training seeds matter at all, and which effects claims have.

    Effects are in units of the margin. All spreads are `wider` times those of the study in it: the wider, the less the
    margin keeps from being told wrongly.
    """

    prompts: int
    seeds: int
    seeds_matter: bool = True
    wider: float = 1.0
    family: tuple[str, ...] = FAMILY

    @property
    def label(self) -> str:
        """In words."""
        said = f"{self.prompts} prompts, {self.seeds} training seed{'s' * (self.seeds > 1)}"
        said += "" if self.seeds_matter else "; of these very trainings"
        said += "" if self.wider == 1 else f"; spreads {self.wider:g} times as large"
        return said if len({*self.family}) > 1 else f"{said}; no effect at all"


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
    "no_effect": Design(BLOCKS[-1], 1, seeds_matter=False, wider=20.0, family=("none",) * len(FAMILY)),
}
RULES = {"peeking": None, "O'Brien-Fleming": "obrien_fleming", "Pocock": "pocock"}


def drawn(design: Design, effect: float, rng: np.random.Generator) -> Array:
    """Gains [measures, prompts, training seeds] in margins."""
    root = np.linalg.cholesky(TOGETHER)

    def part(spread: Array, *shape: int) -> Array:
        return spread[:, None, None] * np.tensordot(root, rng.standard_normal((len(spread), *shape)), axes=1)

    gains = effect + design.wider * (part(OF_PROMPTS, design.prompts, 1) + part(OF_REST, design.prompts, design.seeds))
    return gains + design.wider * part(OF_SEEDS, 1, design.seeds) if design.seeds_matter else gains


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
        evidence = [[read(Question(MEASURES[0], "higher", 1.0), found, bootstrap)] for found in differences]
        for place, judged in enumerate(judge_evidence(claims, evidence, bootstrap)):
            for known, verdict in ((alone, judged.verdict), (together, judged.corrected)):
                if verdict != OPEN:
                    known.setdefault(place, (verdict, BLOCKS[number - 1]))
    return alone, together


def grown(design: Design, count: int, seed: int) -> dict[str, list[tuple[Told, Told]]]:
    """By rule what is first told of each family."""
    rng, asked = np.random.default_rng(seed), Asked(metric=MEASURES[0], better="higher", margin=1.0)
    claims = [
        Claim(name=str(i), statement=effect, kind="k", arm="a", other="b", primary=asked)
        for i, effect in enumerate(design.family)
    ]
    found: dict[str, list[tuple[Told, Told]]] = {rule: [] for rule in RULES}
    for _ in range(count):
        gains = [drawn(design, EFFECTS[effect], rng)[0] for effect in design.family]
        seen = [[difference_between(matrix[:block]) for matrix in gains] for block in BLOCKS]
        for rule, spending in RULES.items():
            found[rule].append(first_told(claims, seen, spending))
    return found


def shares(design: Design, effect: str, families: list[Told]) -> list[str]:
    """Of claims with an effect, percent that are told wrongly, rightly, and not; and the mean of prompts until then."""
    places = [place for place, other in enumerate(design.family) if other == effect]
    first = [told.get(place, (OPEN, BLOCKS[-1])) for told in families for place in places]
    wrong, untold = (
        sum(is_false(effect, verdict) for verdict, _ in first),
        [verdict for verdict, _ in first].count(OPEN),
    )
    counts = wrong, len(first) - wrong - untold, untold
    return [*(f"{100 * n / len(first):.1f}" for n in counts), f"{np.mean([prompts for _, prompts in first]):.0f}"]


def with_false(design: Design, families: list[Told]) -> float:
    """Percent of families in which any look tells a claim wrongly."""
    wrong = [any(is_false(design.family[place], verdict) for place, (verdict, _) in told.items()) for told in families]
    return 100 * sum(wrong) / len(wrong)


def looks_table(design: Design, count: int, seed: int) -> str:
    """What comes out at any of the looks as Markdown, in percent, and prompts until then."""
    listed = ", ".join(map(str, BLOCKS))
    lines = [f"**Looks at {listed}; {design.label}**", ""]
    lines += ["| true effect | rule | false | true | open | prompts | corrected: false | true | open | prompts |"]
    lines += ["|---" * 10 + "|"]
    found = {rule: list(zip(*families, strict=True)) for rule, families in grown(design, count, seed).items()}
    for effect in dict.fromkeys(design.family):
        for rule, both in found.items():
            cells = [cell for families in both for cell in shares(design, effect, list(families))]
            lines.append(f"| {effect} | {rule} | {' | '.join(cells)} |")
    wrong = {rule: [with_false(design, list(families)) for families in both] for rule, both in found.items()}
    said = "; ".join(
        f"{rule} {alone:.1f} % by itself, {together:.1f} % corrected" for rule, (alone, together) in wrong.items()
    )
    error = 100 * math.sqrt(0.05 * 0.95 / (count * design.family.count("none")))
    lines += [
        "",
        f"Families of {len(design.family)} with any false verdict: {said}. 5 % are uncertain by ± {error:.1f}.",
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
    given = parser.parse_args()
    designs, shown = (GROWING, looks_table) if given.looks else (DESIGNS, table)
    if unknown := set(given.designs or ()) - set(designs):
        parser.error(f"--designs: {', '.join(sorted(unknown))} is none of {', '.join(designs)}")
    for name in given.designs or designs:
        print(shown(designs[name], given.families, given.seed), flush=True)


if __name__ == "__main__":
    main()
