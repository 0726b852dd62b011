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

`--spreads` prints the spreads that are drawn with (`verdict_draws.py`).
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from verdict_draws import EFFECTS, Design, asked_of, drawn, effects_of, is_false, spreads_table, study
from verdict_looks import GROWING, looks_table

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_evidence
from vibe_pipeline.evaluation.differences import Difference, difference_between
from vibe_pipeline.evaluation.readings import EQUIVALENT, FAILS, HOLDS, MIXED, OPEN, Evidence, Question, read

BEFORE = 3
"""How many measures a claim named before: the first three in most."""
VERDICTS = (HOLDS, MIXED, EQUIVALENT, FAILS, OPEN)
DESIGNS = {
    "study": Design(64, 4),
    "two_seeds": Design(64, 2),
    "small": Design(16, 1, seeds_matter=False),
    "one_seed": Design(64, 1),
}


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
        f"A rate of 5 % is uncertain by ± {error:.1f}, one standard error.",
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
