"""What an environment lacks before it can run, each with the command that fixes it; no network, nothing is loaded."""

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from vibe_pipeline.diffusion.attention import kind_of
from vibe_pipeline.diffusion.attention.choice import flash_installed
from vibe_pipeline.diffusion.attention.kinds.window import Window
from vibe_pipeline.diffusion.foreign import HUB_ID
from vibe_pipeline.diffusion.quantisation import package_of
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.generation.optional_arms import left_out
from vibe_pipeline.images.find import find_images
from vibe_pipeline.io.files import free_bytes
from vibe_pipeline.io.named import require_folder
from vibe_pipeline.planning.checks import Check
from vibe_pipeline.planning.figures import NOTHING_KEPT, Figures
from vibe_pipeline.planning.findings import Finding
from vibe_pipeline.planning.looks import look_checks
from vibe_pipeline.planning.plan import Assumed, Plan, make_plan
from vibe_pipeline.planning.preflight import generation_checks, scoring_checks, settings_checks
from vibe_pipeline.planning.scoring_findings import measures_findings, report_finding, vbench_findings
from vibe_pipeline.planning.table import size
from vibe_pipeline.planning.training_images import judge_images
from vibe_pipeline.planning.weight_files import weights_check

FLASH = "pip install -c requirements/constraints.txt -e '.[flash]'"
TORCH = "pip install --force-reinstall -c requirements/constraints.txt -r requirements/torch.txt"
"""Without force pip would leave a CPU build of the same version."""
DRIVER = "580"
"""What CUDA 13.0 takes, of which the pinned torch is built."""


def examine(params: Mapping[str, Any], images: int | None = None, figures: Figures = NOTHING_KEPT) -> list[Finding]:
    """Look at everything a run of this environment needs.

    Args:
        params: The environment's parameters.
        images: How many there will be, where the folder is not here yet (for the disk).
        figures: Where what the modules themselves give is kept, for plan and weights.
    """
    model, data = ModelParams(**params["model"]), DataParams(**params["data"])
    generation, tables = GenerationParams(**params["generation"]), checked_tables(params)
    plan = _plan(params, images, figures)
    evaluation, folders = EvaluationParams(**params["evaluation"]), Folders(**params["folders"])
    findings = [
        *_packages(model, data, tables),
        *_looked([weights_check(model.path, figures.once)]),
        *_images(model, data),
    ]
    not_run = left_out(tables, Path.cwd())
    arms = {name: arm for name, arm in tables.arms.items() if name not in not_run}
    looked = [*generation_checks(model, generation, arms), *look_checks(params), *scoring_checks(evaluation, folders)]
    findings += _looked(looked)
    findings += [Finding(f"arms.{name}", "optional", row["reason"], row["fix"]) for name, row in not_run.items()]
    if isinstance(plan, Plan):
        findings += [_disk(plan, folders), _memory(model, plan), *_main_memory(plan, model.offload == "blocks")]
    else:
        findings.append(Finding("plan", "missing", plan, "mend what it names, or set model.path to a known model"))
    findings += _settings(params, tables.model_copy(update={"arms": arms}), {finding.found for finding in findings})
    dimensions, measures = vbench_findings(evaluation, generation, folders), measures_findings(evaluation, folders)
    measured = {name for name, finding in (dimensions | measures).items() if finding.state == "ok"}
    return [*findings, *dimensions.values(), *measures.values(), report_finding(params, evaluation, measured)]


def _plan(params: Mapping[str, Any], images: int | None, figures: Figures) -> Plan | str:
    try:
        return make_plan(params, Assumed(images=images), figures)
    except (ValueError, OSError) as error:
        return str(error)


def _packages(model: ModelParams, data: DataParams, tables: Experiment) -> Iterator[Finding]:
    try:
        required = [Requirement(r) for r in importlib.metadata.requires("vibe_pipeline") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "missing", "vibe_pipeline itself is not installed", "pip install --no-deps -e .")
        return
    wrong = [said for r in required if r.marker is None and (said := _unmet(r))]
    fix = "pip install -r requirements/torch.txt -r requirements/core.txt"
    yield Finding("packages", "missing" if wrong else "ok", "; ".join(wrong) or "all as pyproject.toml wants", fix)
    rows = (*tables.stage1.values(), *tables.adapters.values())
    if any(row.optimiser.kind == "adamw_8bit" for row in rows):
        yield _extra("bitsandbytes", "optimiser.kind adamw_8bit", "pip install bitsandbytes")
    package, command = package_of(model.quantisation)
    if package:
        yield _extra(package, f"model.quantisation {model.quantisation}", command)
    if model.device != "cpu" and _has_windows(tables):
        yield _flash()
    if data.source == "huggingface":
        yield _extra("datasets", "data.source huggingface", "pip install -r requirements/huggingface.txt")


def _unmet(requirement: Requirement) -> str:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{requirement.name} {version} is not {requirement.specifier}"


def _extra(package: str, why: str, fix: str) -> Finding:
    there = importlib.util.find_spec(package) is not None
    return Finding(package, "ok" if there else "missing", f"{'installed' if there else 'absent'}; {why} needs it", fix)


def _has_windows(tables: Experiment) -> bool:
    settings = [row.attention for row in tables.adapters.values()] + [row.attention for row in tables.arms.values()]
    return any(isinstance(kind_of(attention), Window) for attention in settings)


def _flash() -> Finding:
    if flash_installed():
        return Finding("flash-attn-4", "ok", "installed: windows run on it on Hopper")
    said = "absent: windows run on flex_attention, at 1408x2560 1.46 times as slow on an H200 (docs/benchmarks.md)"
    return Finding("flash-attn-4", "optional", said, f"on a Hopper GPU: {FLASH}")


def _looked(checks: Iterable[Check]) -> Iterator[Finding]:
    """What the run would check before its first node."""
    for check in checks:
        try:
            yield Finding(check.item, "ok", check.look())
        except (ValueError, OSError, ImportError) as error:
            yield Finding(check.item, "missing", str(error), check.fix)


def _settings(params: Mapping[str, Any], tables: Experiment, said: set[str]) -> list[Finding]:
    """Settings that the run would refuse; one line where there is none. `said` are faults that need no second line."""
    wrong: list[Finding] = []
    whole = True
    for check in settings_checks(params, tables):
        try:
            check.look()
        except ValueError as error:
            if str(error) not in said:
                wrong.append(Finding(check.item, "missing", str(error), check.fix))
        except (OSError, ImportError):  # no model, or no package: a line above says so
            whole = False
    fit = Finding("settings", "ok", "sizes, tiles, noise levels and the band of detail fit the model")
    return wrong or [fit] * whole


def _images(model: ModelParams, data: DataParams) -> Iterator[Finding]:
    if data.source == "miniature":
        yield Finding("images", "ok", "the run renders them")
        return
    if data.source == "huggingface":
        from vibe_pipeline.images.huggingface import find_dataset  # with the hub's client, for these images alone

        try:
            yield Finding("images", "ok", str(find_dataset(str(data.path))))
        except FileNotFoundError as error:
            is_id = HUB_ID.fullmatch(str(data.path))
            fix = f"hf download --repo-type dataset {data.path}" if is_id else "set data.path to a folder or a hub id"
            yield Finding("images", "missing", str(error), fix)
        return
    size = f"at least {data.high.height}x{data.high.width} (height x width)"
    fix = (
        f"put images of {size}, with captions (.txt beside each, or metadata.csv), into {data.path}, or set data.path; "
        "`kedro vibe init IMAGES` writes an environment with sizes that yours fill"
    )
    try:
        found = find_images(require_folder(data.path, "data.path"))
        yield Finding("images", "ok", judge_images(found, model, data).require())
    except (OSError, ValueError) as error:
        yield Finding("images", "missing", str(error), fix)


def _disk(plan: Plan, folders: Folders) -> Finding:
    free = free_bytes(folders.clips) / 1e9
    said = f"{free:.0f} GB free at {folders.clips}, the run writes at most {size(plan.disk_gb, 0)}"
    fix = "free some, set folders.clips (or folders.data) in globals.yml to a larger disk, or lower generation.count"
    return Finding("disk", "ok" if free >= plan.disk_gb else "missing", said, fix)


def _memory(model: ModelParams, plan: Plan) -> Finding:
    needed = f"the plan needs {size(plan.peak_memory_gb, 0)}"
    if model.device == "cpu":
        return Finding("device", "ok", f"model.device is cpu; {needed} of main memory")
    import torch  # only to ask for a GPU

    if not torch.cuda.is_available():
        small = plan.peak_memory_gb < 4
        fix = (
            f"on a machine with an NVIDIA GPU: {TORCH}, where torch is a CPU build; where it is not, a driver of "
            f"{DRIVER} or later, as its CUDA 13.0 wants (`nvidia-smi` shows yours)"
        )
        said = f"torch {torch.__version__} sees no GPU; {needed}"
        return Finding("device", "optional" if small else "missing", said, fix)
    there = torch.cuda.get_device_properties(0).total_memory / 1e9
    said = f"{torch.cuda.get_device_name(0)}, {there:.0f} GB; {needed}"
    fix = (
        "set gradient_checkpointing, a smaller micro_batch, model.offload (true, or blocks) or model.tile (`kedro vibe "
        "plan` shows each)"
    )
    return Finding("device", "ok" if there >= plan.peak_memory_gb else "missing", said, fix)


def _main_memory(plan: Plan, blocks: bool = False) -> Iterator[Finding]:
    """Room for the one of two experts that is not at work, and for both while they change places; for pinned blocks."""
    if plan.waiting_gb:
        there, needed = psutil.virtual_memory().total / 1e9, plan.waiting_gb * (1 if blocks else 2)
        said = f"two experts take {needed:.1f} GB while they change places"
        fix = "take a machine with more main memory, or a base of one transformer"
        if blocks:
            said = f"model.offload blocks page-locks {needed:.1f} GB"
            fix = "take a machine with more main memory, set model.quantisation, or model.offload: true"
        yield Finding("main memory", "ok" if there >= needed else "missing", f"{there:.0f} GB; {said}", fix)
