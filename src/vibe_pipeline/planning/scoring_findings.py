"""Doctor's findings on scores: which dimensions and measures can be made, and which claims can be judged by them."""

from collections.abc import Collection, Mapping
from typing import Any

from vibe_pipeline.evaluation.metrics.asked import ASKED, lack_of
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.planning.claims import check_claims, check_published, unjudged
from vibe_pipeline.planning.findings import Finding
from vibe_pipeline.vbench.dimensions import canonical_name
from vibe_pipeline.vbench.prompts import clips_per_dimension
from vibe_pipeline.vbench.readiness import Skipped, readiness


def vbench_findings(evaluation: EvaluationParams, generation: GenerationParams, folders: Folders) -> dict[str, Finding]:
    """By dimension. Absent ones are skipped and stop nothing; one that is defined on no clip stops a run."""
    labelled = generation.prompts in ("vbench_standard", "vbench_subset")
    counts, found = _clips(generation, evaluation), {}
    for name in map(canonical_name, evaluation.vbench_dimensions):
        clips = counts.get(name, 0)
        if counts and not clips:
            fix = "generation.prompts: vbench_custom defines the dimensions that need no labels; or leave this one out"
            found[name] = Finding(f"vbench {name}", "missing", f"defined on no clip of {generation.prompts}", fix)
            continue
        state = readiness(name, folders.vbench_weights, labelled, folders.vbench_env, folders.env_option)
        if isinstance(state, Skipped):
            first, *others = state.reason.split(";")
            said = f"{first} (and {len(others)} more)" if others else first
            found[name] = Finding(f"vbench {name}", "optional", said, state.fix)
        else:
            found[name] = Finding(f"vbench {name}", "ok", f"can be scored, on {clips} clips an arm")
    return found


def measures_findings(evaluation: EvaluationParams, folders: Folders) -> dict[str, Finding]:
    """By measure that is asked for by name; one that lacks something is left out and stops nothing."""
    found = {}
    for entry in (metric for metric in ASKED if metric.name in evaluation.extra_measures):
        lack = lack_of(entry, evaluation, folders)
        item, said = f"measure {entry.name}", "can be measured"
        found[entry.name] = Finding(item, "optional", lack.reason, lack.fix) if lack else Finding(item, "ok", said)
    return found


def report_finding(params: Mapping[str, Any], evaluation: EvaluationParams, measured: Collection[str]) -> Finding:
    """What the report puts to the test, of what can be `measured`; the files were read with the parameters."""
    claims = Claims(params.get("claims", ()))
    try:
        check_claims(claims, evaluation)
        check_published(params.get("published", {}))
    except ValueError as error:
        return Finding("report", "missing", str(error), "mend claims.yml, published.yml or the field that is named")
    count, tables = len(claims.root), len(params.get("published", {}).get("tables", ()))
    said = f"puts {count} claim{'s' * (count != 1)} to the test, beside {tables} published tables"
    if without := unjudged(claims, evaluation, measured):
        fix = "make what is lacking measurable, as its own line above says, or ask for it in `evaluation`"
        return Finding("report", "optional", f"{said}; {without}", fix)
    return Finding("report", "ok", said)


def _clips(generation: GenerationParams, evaluation: EvaluationParams) -> dict[str, int]:
    """Clips an arm that each dimension is defined on; empty where the prompts are not here (a finding of its own)."""
    try:
        return clips_per_dimension(load_prompts(generation), evaluation.vbench_dimensions)
    except (FileNotFoundError, ValueError, ImportError):
        return {}
