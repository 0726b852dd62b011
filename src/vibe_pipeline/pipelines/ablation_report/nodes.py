"""Nodes of ablation_report: the table, the arms' MLflow runs, the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_claims
from vibe_pipeline.evaluation.claims_table import claims_table
from vibe_pipeline.evaluation.earlier_looks import note_look
from vibe_pipeline.evaluation.not_run import with_not_run
from vibe_pipeline.evaluation.pooling import Pools, pools_of
from vibe_pipeline.evaluation.sequential import look_of
from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.run import ReportParams, TrackingParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.pipelines.rows import of_kind
from vibe_pipeline.reporting import verdicts
from vibe_pipeline.reporting.ages import ages
from vibe_pipeline.reporting.arm_runs import ArmRecord, log_arm_runs, note_on_arms, several_have
from vibe_pipeline.reporting.first import roles_of
from vibe_pipeline.reporting.kept import keep_report
from vibe_pipeline.reporting.page import write_report
from vibe_pipeline.reporting.provenance import Origin, degradation_rows, losses
from vibe_pipeline.reporting.report_inputs import ReportInputs
from vibe_pipeline.reporting.result import result_of, to_read_first
from vibe_pipeline.tracking import parent_run


def list_not_run(not_run: dict[str, Any]) -> dict[str, Any]:
    """Arms that were left out since files that they name are not there: label, reason, fix and row, by name."""
    return not_run


def gather_trainings(**by_row: AdapterManifest) -> dict[str, list[AdapterManifest]]:
    """Every manifest of either stage ("adapter-<name>", "stage1-<name>"), in one file."""
    kinds = {"stage2": "adapter", "stage1": "stage1"}
    return {stage: [*of_kind(kind, by_row).values()] for stage, kind in kinds.items()}


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


def note_looks(
    tables: Experiment, clips: pd.DataFrame, claims: Claims, generation: GenerationParams, folders: Folders
) -> dict[str, list[int]]:
    """Keep that these claims are being looked at; by claim, the looks before that nothing is corrected for."""
    pooled = pools_of(tables).pool(clips)
    return note_look(folders.reporting / "looks.json", claims.root, pooled, look_of(generation))


def tabulate_claims(
    tables: Experiment,
    scores: pd.DataFrame,
    claims: Claims,
    evaluation: EvaluationParams,
    generation: GenerationParams,
    earlier_looks: dict[str, list[int]],
) -> pd.DataFrame:
    """Every claim's verdict, by itself and corrected for how many there are, with what it rests on."""
    bootstrap = _bootstrap(evaluation, generation)
    judgements = judge_claims(claims.root, pools_of(tables).pool(scores), bootstrap)
    return claims_table(judgements, bootstrap, earlier_looks)


def check_tables(
    stage1: dict[str, Any], adapters: dict[str, Any], arms: dict[str, Any], evaluation: EvaluationParams
) -> Experiment:
    """The tables as one value, checked against each other."""
    return Experiment(stage1=stage1, adapters=adapters, arms=arms, reference_arm=evaluation.reference_arm)


def log_arms(
    tables: Experiment,
    tracking: TrackingParams,
    evaluation: EvaluationParams,
    generation: GenerationParams,
    scores: pd.DataFrame,
    clips: pd.DataFrame,
    trainings: dict[str, list[AdapterManifest]],
    ablation_table: pd.DataFrame,
) -> dict[str, Any]:
    """One MLflow run per arm, every replicate too, and the result on their parent; see `reporting.arm_runs`."""
    made = dict(list(clips.groupby("arm")))
    adapters = {manifest.name: manifest for manifest in trainings["stage2"]}
    table = ablation_table
    if any(arm.replicate for arm in tables.arms.values()):
        table = _summary(scores, {name: name for name in tables.arms}, evaluation)
    records = [
        ArmRecord(name, arm, table[table["arm"] == name], made[name], adapters.get(arm.adapter or ""))
        for name, arm in tables.arms.items()
    ]
    recorded = log_arm_runs(records, generation, tracking.clips_per_arm)
    note_on_arms(ablation_table, to_read_first(several_have(ablation_table)), recorded)
    return {name: {"clips": len(made[name]), "run_id": recorded.runs[name]} for name in tables.arms}


def write_page(
    tables: Experiment,
    evaluation: EvaluationParams,
    generation: GenerationParams,
    report: ReportParams,
    claims: Claims,
    published: dict[str, Any],
    model: ModelParams,
    folders: Folders,
    ablation_table: pd.DataFrame,
    scores: pd.DataFrame,
    clips: pd.DataFrame,
    spectra: pd.DataFrame,
    trainings: dict[str, list[AdapterManifest]],
    degradation_checks: pd.DataFrame,
    image_quarantine: pd.DataFrame,
    vbench_manifest: dict[str, Any],
    not_run_arms: dict[str, Any],
    earlier_looks: dict[str, list[int]],
) -> dict[str, Any]:
    """The self-contained page."""
    pools = pools_of(tables)
    origin = Origin(
        tables=tables, model=model, evaluation=evaluation, clips=clips, manifests=trainings,
        quarantined=len(image_quarantine), vbench=vbench_manifest,
    )  # fmt: skip
    inputs = ReportInputs(
        title=report.title,
        arms={**pools.arms, **_left_out(not_run_arms)},
        adapters=tables.adapters,
        reference=evaluation.reference_arm,
        references=pools.references,
        table=ablation_table,
        scores=pools.pool(scores),
        clips=pools.pool(clips),
        losses=losses(trainings),
        checks=degradation_rows(degradation_checks, tables),
        spectra=pools.mean_spectra(spectra),
        provenance=origin.described(),
        published=published,
        claims=claims.root,
        band=evaluation.fine_band,
        clips_shown=report.clips_shown,
        bootstrap=_bootstrap(evaluation, generation),
        earlier_looks=earlier_looks,
        ages=ages(clips, pools.arms, trainings["stage2"], vbench_manifest, parent_run().begun),
    )
    page, exported = write_report(inputs, folders.report), _export(pools, scores, clips, folders.report)
    return _published(page, exported, folders.reports) | {"result": _result(inputs)}


def _result(inputs: ReportInputs) -> dict[str, Any]:
    leading = (inputs.reference, *roles_of(inputs.table, inputs.clips, inputs.arms).named())
    found = result_of(inputs.table, inputs.claims, inputs.judgements, leading)
    return found | {"look": verdicts.look_line(inputs.bootstrap, inputs.earlier_looks)}


def _left_out(not_run_arms: Mapping[str, Any]) -> dict[str, ArmParams]:
    return {name: ArmParams(**row["row"]) for name, row in not_run_arms.items()}


def _bootstrap(evaluation: EvaluationParams, generation: GenerationParams) -> Bootstrap:
    return Bootstrap(evaluation.bootstrap_samples, evaluation.confidence, evaluation.seed, look_of(generation))


def _published(page: Path, exported: Path, reports: Path) -> dict[str, Any]:
    """Attach page and scores to the parent run, keep both beside those of earlier runs; the page's manifest."""
    run = parent_run()
    run.artifact(page, "report")
    run.artifact(exported)
    info = run.info()
    kept = keep_report(page.parent, reports, {"run_id": run.run_id, "name": str(info.run_name) if info else ""})
    return {"path": str(page), "bytes": page.stat().st_size, "kept": str(kept)}


def _export(pools: Pools, scores: pd.DataFrame, clips: pd.DataFrame, folder: Path) -> Path:
    """The scores with their prompts, which is what another run's can be compared with."""
    prompts = clips.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"]
    table = pools.export(scores.assign(prompt=scores["prompt_index"].map(prompts)))
    return write_atomic(folder / "scores.parquet", lambda path: table.to_parquet(path, index=False))
