"""Nodes of ablation_report: the table, the arms' MLflow runs, the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_claims
from vibe_pipeline.evaluation.claims_table import claims_table
from vibe_pipeline.evaluation.not_run import with_not_run
from vibe_pipeline.evaluation.pooling import Pools, pools_of
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.run import ReportParams, TrackingParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.pipelines.rows import of_kind
from vibe_pipeline.reporting.narrative import differences
from vibe_pipeline.reporting.page import ReportInputs, write_report
from vibe_pipeline.reporting.provenance import Origin, degradation_rows, losses
from vibe_pipeline.tracking import parent_run, tracked_arm


def list_not_run(not_run: dict[str, Any]) -> dict[str, Any]:
    """Arms that were left out since files that they name are not there: label, reason, fix and row, by name."""
    return not_run


def make_table(
    tables: Experiment, scores: pd.DataFrame, evaluation: EvaluationParams, not_run_arms: dict[str, Any]
) -> pd.DataFrame:
    """Mean, interval and paired difference to the reference arm, per arm and metric; replicates are pooled.

    An arm that was not run keeps its row, with the reason.
    """
    pools = pools_of(tables)
    table = _summary(pools.pool(scores), pools.references, evaluation)
    return with_not_run(table, {name: row["reason"] for name, row in not_run_arms.items()})


def _summary(scores: pd.DataFrame, references: Mapping[str, str], evaluation: EvaluationParams) -> pd.DataFrame:
    settings = evaluation.confidence, evaluation.bootstrap_samples, evaluation.seed
    return summarise(scores, references, *settings, declared=references)


def tabulate_claims(
    tables: Experiment, scores: pd.DataFrame, claims: Claims, evaluation: EvaluationParams
) -> pd.DataFrame:
    """Every claim's verdict, by itself and corrected for how many there are, with what it rests on."""
    judgements = judge_claims(claims.root, pools_of(tables).pool(scores), _bootstrap(evaluation))
    return claims_table(judgements, evaluation.confidence)


def check_tables(
    stage1: dict[str, Any], adapters: dict[str, Any], arms: dict[str, Any], evaluation: EvaluationParams
) -> Experiment:
    """The tables as one value, checked against each other."""
    return Experiment(stage1=stage1, adapters=adapters, arms=arms, reference_arm=evaluation.reference_arm)


def log_arms(
    tables: Experiment,
    tracking: TrackingParams,
    evaluation: EvaluationParams,
    scores: pd.DataFrame,
    ablation_table: pd.DataFrame,
    **by_row: Any,
) -> dict[str, Any]:
    """One MLflow run per arm, every replicate too: its settings, every score with its interval, a few clips.

    `by_row` holds every arm's clips ("clips-<arm>") and every adapter's manifest ("adapter-<name>").
    """
    clips, adapters = of_kind("clips", by_row), of_kind("adapter", by_row)
    if any(arm.replicate for arm in tables.arms.values()):
        ablation_table = _summary(scores, {name: name for name in tables.arms}, evaluation)
    for name, arm in tables.arms.items():
        tags = _tags(name, arm, clips[name], adapters)
        _log_arm(name, arm, tags, ablation_table[ablation_table["arm"] == name], clips[name], tracking)
    return {name: {"clips": len(table)} for name, table in clips.items()}


def _log_arm(
    name: str, arm: ArmParams, tags: dict[str, str], rows: pd.DataFrame, clips: pd.DataFrame, tracking: TrackingParams
) -> None:
    """The run of one arm; `rows` are its own of the ablation table."""
    with tracked_arm(name, arm, tags) as run:
        run.params({"swept": arm.swept})
        run.log([_metrics(rows) | {"seconds_per_clip": float(clips["seconds"].mean())}])
        run.tags({f"missing.{r.metric}": r.reason for r in rows.itertuples() if r.status != "scored"})
        for path in clips["preview_path"].head(tracking.clips_per_arm):
            run.artifact(Path(path), "clips")


def _tags(name: str, arm: ArmParams, clips: pd.DataFrame, adapters: Mapping[str, AdapterManifest]) -> dict[str, str]:
    """What an arm's run can be found by."""
    tags = {"arm": name, "adapter": arm.adapter or "none"} | _origin_tags(arm)
    if said := differences(clips).get(name):
        tags["differs"] = said
    if arm.adapter is not None:
        manifest = adapters[arm.adapter]
        tags |= {"adapter_run_id": manifest.run_id, "adapter_key": manifest.key}
    return tags


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
    tables: Experiment,
    evaluation: EvaluationParams,
    report: ReportParams,
    claims: Claims,
    published: dict[str, Any],
    model: ModelParams,
    folders: Folders,
    ablation_table: pd.DataFrame,
    scores: pd.DataFrame,
    degradation_checks: pd.DataFrame,
    image_quarantine: pd.DataFrame,
    vbench_manifest: dict[str, Any],
    not_run_arms: dict[str, Any],
    **by_row: Any,
) -> dict[str, Any]:
    """The self-contained page.

    `by_row` holds every arm's clips and spectrum ("clips-<arm>", "spectrum-<arm>") and every manifest of either stage
    ("adapter-<name>", "stage1-<name>").
    """
    clips = pd.concat(of_kind("clips", by_row).values(), ignore_index=True)
    spectra = pd.concat(of_kind("spectrum", by_row).values(), ignore_index=True)
    manifests = {"stage2": [*of_kind("adapter", by_row).values()], "stage1": [*of_kind("stage1", by_row).values()]}
    pools, quarantined = pools_of(tables), len(image_quarantine)
    origin = Origin(
        tables=tables, model=model, evaluation=evaluation, clips=clips, manifests=manifests,
        quarantined=quarantined, vbench=vbench_manifest,
    )  # fmt: skip
    inputs = ReportInputs(
        title=report.title,
        arms={**pools.arms, **{name: ArmParams(**row["row"]) for name, row in not_run_arms.items()}},
        adapters=tables.adapters,
        reference=evaluation.reference_arm,
        references=pools.references,
        table=ablation_table,
        scores=pools.pool(scores),
        clips=pools.pool(clips),
        losses=losses(manifests),
        checks=degradation_rows(degradation_checks, tables),
        spectra=pools.mean_spectra(spectra),
        provenance=origin.described(),
        published=published,
        claims=claims.root,
        band=evaluation.fine_band,
        clips_shown=report.clips_shown,
        bootstrap=_bootstrap(evaluation),
    )
    return _published(write_report(inputs, folders.report), _export(pools, scores, clips, folders.report))


def _bootstrap(evaluation: EvaluationParams) -> Bootstrap:
    return Bootstrap(confidence=evaluation.confidence, samples=evaluation.bootstrap_samples, seed=evaluation.seed)


def _published(page: Path, exported: Path) -> dict[str, Any]:
    """Attach page and scores to the parent run; the page's manifest."""
    run = parent_run()
    run.artifact(page, "report")
    run.artifact(exported)
    return {"path": str(page), "bytes": page.stat().st_size}


def _export(pools: Pools, scores: pd.DataFrame, clips: pd.DataFrame, folder: Path) -> Path:
    """The scores with their prompts, which is what another run's can be compared with."""
    prompts = clips.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"]
    table = pools.export(scores.assign(prompt=scores["prompt_index"].map(prompts)))
    return write_atomic(folder / "scores.parquet", lambda path: table.to_parquet(path, index=False))
