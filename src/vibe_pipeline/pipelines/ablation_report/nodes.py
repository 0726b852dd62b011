"""Nodes of ablation_report: the table, the arms' MLflow runs, the page."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.pooling import Pools, pools_of
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.run import ReportParams, TrackingParams
from vibe_pipeline.experiment.tables import Tables
from vibe_pipeline.images.degradation import FIGURES, check_of
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.folders import in_data
from vibe_pipeline.io.keys import content_key, folder_fingerprint, installed_version
from vibe_pipeline.reporting.narrative import differences
from vibe_pipeline.reporting.page import ReportInputs, write_report
from vibe_pipeline.tracking import git_commit, parent_run, tracked_arm

REPORT = "08_reporting/report"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "kedro", "mlflow", "vbench")


def make_table(tables: Tables, scores: pd.DataFrame, evaluation: EvaluationParams) -> pd.DataFrame:
    """Mean, interval and paired difference to the reference arm, per arm and metric; replicates are pooled."""
    pools = pools_of(tables)
    return _summary(pools.pool(scores), pools.references, evaluation)


def _summary(scores: pd.DataFrame, references: Mapping[str, str], evaluation: EvaluationParams) -> pd.DataFrame:
    settings = evaluation.confidence, evaluation.bootstrap_samples, evaluation.seed
    return summarise(scores, references, *settings, declared=references)


def check_tables(
    stage1: dict[str, Any], adapters: dict[str, Any], arms: dict[str, Any], evaluation: EvaluationParams
) -> Tables:
    """The tables as one value, checked against each other."""
    return Tables(stage1=stage1, adapters=adapters, arms=arms, reference_arm=evaluation.reference_arm)


def log_arms(
    tables: Tables,
    tracking: TrackingParams,
    evaluation: EvaluationParams,
    scores: pd.DataFrame,
    ablation_table: pd.DataFrame,
    *parts: Any,
) -> dict[str, Any]:
    """One MLflow run per arm, every replicate too: its settings, every score with its interval, a few clips.

    `parts` are the arms' clip tables in the order of the table, then the adapters' manifests likewise.
    """
    clips = dict(zip(tables.arms, parts, strict=False))
    adapters = dict(zip(tables.adapters, parts[len(clips) :], strict=True))
    if any(arm.replicate for arm in tables.arms.values()):
        ablation_table = _summary(scores, {name: name for name in tables.arms}, evaluation)
    for name, arm in tables.arms.items():
        tags = {"arm": name, "adapter": arm.adapter or "none"} | _origin_tags(arm)
        if said := differences(clips[name]).get(name):
            tags["differs"] = said
        if arm.adapter is not None:
            tags |= {
                "adapter_run_id": adapters[arm.adapter].get("run_id", ""),
                "adapter_key": adapters[arm.adapter]["key"],
            }
        rows = ablation_table[ablation_table["arm"] == name]
        with tracked_arm(name, arm, tags) as run:
            run.params({"swept": arm.swept})
            run.log([_metrics(rows) | {"seconds_per_clip": float(clips[name]["seconds"].mean())}])
            run.tags({f"missing.{r.metric}": r.reason for r in rows.itertuples() if r.status != "scored"})
            for path in clips[name]["preview_path"].head(tracking.clips_per_arm):
                run.artifact(Path(path), "clips")
    return {name: {"clips": len(table)} for name, table in clips.items()}


def _origin_tags(arm: ArmParams) -> dict[str, str]:
    """Of a sweep's variant, which row it comes from; of a replicate, which arm it is pooled into."""
    tags = {"family": arm.family} if arm.family else {}
    if arm.replicate:
        tags |= {"replicate_of": arm.replicate.of, "training_seed": arm.replicate.seed}
    return tags


def _metrics(rows: pd.DataFrame) -> dict[str, float]:
    scored = rows[rows["status"] == "scored"]
    named = (("", "mean"), (".ci_low", "ci_low"), (".ci_high", "ci_high"))
    return {f"{r.metric}{suffix}": float(getattr(r, column)) for r in scored.itertuples() for suffix, column in named}


def write_page(
    tables: Tables,
    evaluation: EvaluationParams,
    report: ReportParams,
    claims: Claims,
    published: dict[str, Any],
    model: ModelParams,
    ablation_table: pd.DataFrame,
    scores: pd.DataFrame,
    degradation_checks: pd.DataFrame,
    image_quarantine: pd.DataFrame,
    vbench_manifest: dict[str, Any],
    *parts: Any,
) -> dict[str, Any]:
    """The self-contained page; `parts` are the arms' clips, the arms' spectra, the adapters', the stage-1 manifests."""
    arms, adapters = len(tables.arms), len(tables.adapters)
    pools = pools_of(tables)
    clips = pd.concat(parts[:arms], ignore_index=True)
    manifests = {"stage2": parts[2 * arms : 2 * arms + adapters], "stage1": parts[2 * arms + adapters :]}
    bootstrap = Bootstrap(confidence=evaluation.confidence, samples=evaluation.bootstrap_samples, seed=evaluation.seed)
    inputs = ReportInputs(
        title=report.title,
        arms=pools.arms,
        adapters=tables.adapters,
        reference=evaluation.reference_arm,
        table=ablation_table,
        scores=pools.pool(scores),
        clips=pools.pool(clips),
        losses=_losses(manifests),
        checks=_checks(degradation_checks, tables),
        spectra=pools.mean_spectra(pd.concat(parts[arms : 2 * arms], ignore_index=True)),
        provenance=_provenance(tables, model, evaluation, clips, manifests, image_quarantine, vbench_manifest),
        published=published,
        claims=claims.root,
        band=evaluation.fine_band,
        clips_shown=report.clips_shown,
        bootstrap=bootstrap,
        references=pools.references,
    )
    page = write_report(inputs, in_data(REPORT))
    run = parent_run()
    run.artifact(page, "report")
    run.artifact(_export(pools, scores, clips))
    return {"path": str(page), "bytes": page.stat().st_size}


def _export(pools: Pools, scores: pd.DataFrame, clips: pd.DataFrame) -> Path:
    """The scores with their prompts, which is what another run's can be compared with."""
    prompts = clips.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"]
    table = pools.export(scores.assign(prompt=scores["prompt_index"].map(prompts)))
    return write_atomic(in_data(REPORT) / "scores.parquet", lambda path: table.to_parquet(path, index=False))


def _losses(manifests: dict[str, tuple[dict[str, Any], ...]]) -> pd.DataFrame:
    tables = [
        pd.read_csv(m["losses"]).assign(adapter=m["name"], stage=stage)
        for stage, group in manifests.items()
        for m in group
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _checks(checks: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """One row per adapter that degrades, with the figures of its own degradation, or without any."""
    rows = []
    for name, row in tables.adapters.items():
        if row.degrades:
            own, figures = row.degradation.model_dump(), check_of(checks, row).to_dict("records")
            rows.append({"adapter": name} | own | (figures[0] if figures else dict.fromkeys(FIGURES, float("nan"))))
    return pd.DataFrame(rows)


def _provenance(
    tables: Tables,
    model: ModelParams,
    evaluation: EvaluationParams,
    clips: pd.DataFrame,
    manifests: dict[str, tuple[dict[str, Any], ...]],
    quarantine: pd.DataFrame,
    vbench: dict[str, Any],
) -> dict[str, Any]:
    return {
        "commit": git_commit(Path.cwd()),
        "tables": content_key(tables),
        "base model": f"{model.path} ({folder_fingerprint(Path(model.path)) if Path(model.path).is_dir() else 'hub'})",
        "device": model.device,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: installed_version(name) for name in PACKAGES},
        "native size": f"{model.native.height}x{model.native.width}x{model.native.frames}, {model.native.fps:g} fps",
        "target size": f"{model.target.height}x{model.target.width}x{model.target.frames}, {model.target.fps:g} fps",
        "native clips from": ", ".join(sorted(set(clips["native_source"]))),
        "prompts": int(clips["prompt_index"].nunique()),
        "prompt list": content_key(sorted(set(clips["prompt"]))),
        "seeds": ", ".join(map(str, sorted(set(clips["seed"])))),
        "intervals": f"{evaluation.confidence:.0%}, {evaluation.bootstrap_samples} bootstrap samples over prompts",
        "quarantined images": len(quarantine),
        "training seconds": {m["name"]: round(m["seconds"], 1) for group in manifests.values() for m in group},
        "seconds per clip": {name: round(s, 2) for name, s in clips.groupby("arm")["seconds"].mean().items()},
        "vbench": vbench,
    }
