"""How often a claim is told wrongly, and how soon rightly, where prompts grow in blocks and each block is looked at."""

import math
from dataclasses import replace

import numpy as np
from verdict_draws import EFFECTS, Design, drawn, effects_of, is_false, study

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_evidence
from vibe_pipeline.evaluation.differences import Difference, difference_between
from vibe_pipeline.evaluation.readings import OPEN, Question, read
from vibe_pipeline.evaluation.sequential import ONLY_LOOK, Look
from vibe_pipeline.experiment.claims import Claim

BLOCKS = (16, 32, 64, 128)
GROWING = {
    "study": Design(BLOCKS[-1], 4),
    "one_training": Design(BLOCKS[-1], 1, seeds_matter=False),
    "small_margin": Design(BLOCKS[-1], 1, seeds_matter=False, wider=4.0),
    "no_effect": Design(BLOCKS[-1], 1, seeds_matter=False, wider=20.0, effects=("none",)),
}
RULES = {"peeking": None, "O'Brien-Fleming": "obrien_fleming", "Pocock": "pocock"}


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
        f"{count} families of {len(study())} with any false verdict: {said}. 5 % are uncertain by ± {error:.1f}, "
        "one standard error.",
        "",
    ]
    return "\n".join(lines)
