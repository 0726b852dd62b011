"""Plain language for the page: the summary, the degradation check, the provenance."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.differences import TRAINING
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.reporting.glossary import number
from vibe_pipeline.reporting.tables import bound_of, text

HARSH = 1.5
"""Rule of thumb: a degraded latent this many times further from the truth than the real thing is another task."""


def count(n: int, noun: str) -> str:
    """'1 clip', '4 clips'."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def differences(clips: pd.DataFrame) -> dict[str, str]:
    """By arm, how its clips differ from the target's size, length and rate, with their number where not all do."""
    found: dict[str, str] = {}
    if "differs" not in clips:
        return found
    for arm, rows in clips.groupby("arm", sort=False):
        counts = Counter(said for said in map(text, rows["differs"]) if said)
        parts = [said if n == len(rows) else f"{said} ({n} of {len(rows)} clips)" for said, n in counts.items()]
        if parts:
            found[str(arm)] = "; ".join(parts)
    return found


def summary(clips: pd.DataFrame, arms: Mapping[str, ArmParams]) -> list[str]:
    """What was run, in two sentences (fewer if there is nothing to say)."""
    return [s for s in (_what_was_run(clips, arms), _what_was_refined(clips, arms)) if s]


def _what_was_run(clips: pd.DataFrame, arms: Mapping[str, ArmParams]) -> str:
    if clips.empty:
        return "No clips were generated in this run, so there is nothing to look at below."
    names = clips["arm"].unique()
    bounds = sum(bound_of(n, arms) is not None for n in names)
    sizes = clips.drop_duplicates(["height", "width", "frames"])
    shape = " and ".join(f"{r.frames} frames at {r.width} × {r.height}" for r in sizes.itertuples())
    beside = f" (of which {bounds} run no model and serve as bounds)" if bounds else ""
    prompts, seeds = count(clips["prompt_index"].nunique(), "prompt"), count(clips["seed"].nunique(), "seed")
    made = f"{count(len(names), 'arm')}{beside} made {count(len(clips), 'clip')} of {shape}"
    trained = clips.groupby("arm")[TRAINING].nunique() if TRAINING in clips else pd.Series(dtype=int)
    pooled = int((trained > 1).sum())
    several = f" {pooled} of the arms {'was' if pooled == 1 else 'were'} trained with several seeds and pooled."
    return f"{made}, from {prompts} with {seeds} each.{several if pooled else ''}"


def _what_was_refined(clips: pd.DataFrame, arms: Mapping[str, ArmParams]) -> str:
    if clips.empty:
        return ""
    refine = [a for a in clips["arm"].unique() if a in arms and method_of(arms[a]).second_pass]
    sources = sorted(clips.loc[clips["arm"].isin(refine), "native_source"].dropna().unique())
    if sources == ["truth"]:
        return (
            "The refined arms start from true renders at native size, so that every clip can be compared with the true"
            " picture; this leaves out the errors that the base's own native pass would add."
        )
    if sources == ["base"]:
        return (
            "The refined arms start from the base's own native clips, one a prompt and seed, shared by all arms."
            " What the base shows is not known exactly, so true renders are of other scenes with the same captions."
        )
    return f"The refined arms start from native clips of mixed origin: {', '.join(sources)}." if sources else ""


def degradation_verdict(degraded: float, upsampled: float) -> tuple[str, str]:
    """A verdict on one degradation ('fits', 'harsher', 'milder', 'unknown') and what it means.

    Args:
        degraded: MSE of the degraded latent against the true one: what the adapter trains on.
        upsampled: MSE of the really upsampled picture's latent against the true one: what it meets at inference.
    """
    if not (degraded == degraded and upsampled == upsampled and upsampled > 0):
        return "unknown", "The check has no figures, so nothing can be said about this degradation."
    ratio = degraded / upsampled
    if ratio >= HARSH:
        return "harsher", (
            f"Training destroys {number(ratio)} times what real upsampling does: the network learns to repair damage"
            " that it will not meet at inference. Expect it to do worse than its objective deserves."
        )
    if ratio <= 1 / HARSH:
        return "milder", (
            f"Training destroys only {number(ratio)} times what real upsampling does: the network learns to repair"
            " less than is missing at inference."
        )
    return "fits", f"Training destroys about what real upsampling does ({number(ratio)} times): the right task."


def _degradation_words(row: Any) -> str:
    """A row's kind and what its kind reads."""
    if row.kind == "noise":
        return f"noise on the latent (the authors tried it), standard deviation {row.std:g}"
    if row.kind == "blur":
        return f"blurred latent (the authors tried it), kernel {row.kernel:g}, sigma {row.sigma:g}"
    pixel = {"pixel": "pixel (our own)", "pixel_drawn": "pixel, by drawn factors (FlashVideo's)"}
    return pixel.get(row.kind) or f"latent (the paper's), to {row.factor:g}, {row.mode}"


def check_rows(checks: pd.DataFrame, adapters: Mapping[str, AdapterParams]) -> list[dict[str, str]]:
    """The degradation check as rows for people."""
    rows = []
    for row in checks.itertuples():
        verdict, meaning = degradation_verdict(row.mse_degraded, row.mse_upsampled)
        label = adapters[row.adapter].label if row.adapter in adapters else str(row.adapter)
        figures = {"degraded": number(row.mse_degraded), "upsampled": number(row.mse_upsampled)}
        said = {"adapter": label, "kind": _degradation_words(row), "verdict": verdict, "meaning": meaning}
        rows.append(said | figures)
    return rows


def flat(provenance: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Provenance as (name, value) lines; nested groups become 'group · name'."""
    for key, value in provenance.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name} · ")
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(str(v) for v in value) or "none"
        elif isinstance(value, float):
            yield name, number(value)
        else:
            yield name, "unknown" if value is None else str(value)
