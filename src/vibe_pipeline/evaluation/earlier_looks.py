"""Which verdicts were looked at before, on fewer of the same prompts: kept by the clips that they rest on.

A look that is part of the plan is corrected for (:mod:`.sequential`). One that is not, as that of a plain `kedro run`
with a smaller `generation.count`, makes a false verdict more likely, and whoever reads the later one has to know of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.sequential import Look
from vibe_pipeline.experiment.claims import Claim
from vibe_pipeline.io.files import read_json, write_json
from vibe_pipeline.io.keys import content_key


def note_look(path: Path, claims: Sequence[Claim], clips: pd.DataFrame, look: Look) -> dict[str, list[int]]:
    """Keep that these clips are being looked at, and find the looks before that nothing is corrected for.

    Args:
        path: Where looks are kept, as JSON; made if it is not there.
        claims: What is judged.
        clips: Of the arms as they are compared: arm, prompt_index, key.
        look: Which look of a plan this is.

    Returns:
        By name of the claim how many prompts each such look had, the fewest first; only of claims that have any. A look
        counts if it was at the same clips of the claim's two arms, by the same measure, for fewer of the prompts, and
        is not one that `look` is corrected for.
    """
    kept: list[dict[str, Any]] = read_json(path)["looks"] if path.is_file() else []
    prompts = frozenset(int(index) for index in clips["prompt_index"].unique()) if len(clips) else frozenset()
    plan = {"blocks": list(look.blocks), "spending": look.spending}
    found: dict[str, list[int]] = {}
    for earlier in kept:
        if (plan["blocks"] and earlier["plan"] == plan) or not prompts > frozenset(earlier["prompts"]):
            continue
        for name, key in _keys(claims, clips, earlier["prompts"]).items():
            if earlier["claims"].get(name) == key:
                found.setdefault(name, []).append(len(earlier["prompts"]))
    now = {"prompts": sorted(prompts), "plan": plan, "claims": _keys(claims, clips, sorted(prompts))}
    if now["claims"] and now not in kept:
        write_json(path, {"looks": [*kept, now]})
    return {name: sorted(set(counts)) for name, counts in found.items()}


def said_of_earlier(counts: Sequence[int]) -> str:
    """In words, for who reads the verdict; '' where there was no look before."""
    if not counts:
        return ""
    listed = ", ".join(str(count) for count in counts)
    return f"looked at before on {listed} of these prompts, which this verdict is not corrected for"


def _keys(claims: Sequence[Claim], clips: pd.DataFrame, prompts: Sequence[int]) -> Mapping[str, str]:
    """By claim what it is judged by on these prompts: clips of both its arms, and the measure; where there are any."""
    if clips.empty:
        return {}
    own = clips[clips["prompt_index"].isin(list(prompts))]
    made = {arm: sorted(map(str, rows["key"])) for arm, rows in own.groupby("arm")}
    judged = [claim for claim in claims if claim.arm in made and claim.other in made]
    return {c.name: content_key(made[c.arm], made[c.other], c.primary.metric, c.at_least) for c in judged}
