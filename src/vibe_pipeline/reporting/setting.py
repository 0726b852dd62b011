"""What stands above a table of figures, without which nobody can set it beside another: model, size, prompts, seeds."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

NAMED = ("base model", "native size", "target size", "prompts", "seeds")
"""What `provenance.Origin` says of it, under its own names."""


def setting(provenance: Mapping[str, Any], table: pd.DataFrame) -> list[tuple[str, str]]:
    """Name and value, in order; what is not known is left out.

    Args:
        provenance: Of the page (see `provenance.Origin.described`).
        table: The ablation table, for the training seeds.
    """
    vbench = provenance.get("vbench") or {}
    found = {name: str(provenance[name]) for name in NAMED if name in provenance}
    if "prompts" in found and vbench.get("protocol"):
        found["prompts"] += f", protocol {vbench['protocol']}"
    if "seeds" in found:
        found["sampling seeds"] = found.pop("seeds")
    if "training_seeds" in table and len(table):
        found["training seeds"] = f"at most {int(table['training_seeds'].max())} an arm"
    if vbench:
        found["VBench"] = f"version {vbench.get('vbench_version') or 'not installed'}"
        found["prompt rewriting"] = str(vbench.get("prompt_rewriting", "none"))
    overall = provenance.get("overall dimensions")
    return [*found.items(), *([("overall is the plain mean of", str(overall))] if overall else [])]
