"""What an environment lacks before it can run, each with the command that fixes it; no network, nothing is loaded."""

import importlib.metadata
import importlib.util
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement

from vibe_pipeline.diffusion.attention import kind_of
from vibe_pipeline.diffusion.attention.choice import flash_installed
from vibe_pipeline.diffusion.attention.kinds.window import Window
from vibe_pipeline.diffusion.foreign import HUB_ID
from vibe_pipeline.diffusion.quantisation import package_of
from vibe_pipeline.evaluation.metrics.asked import ASKED, lack_of
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.generation.optional_arms import left_out
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.images.find import find_images
from vibe_pipeline.io.files import free_bytes
from vibe_pipeline.io.named import require_folder
from vibe_pipeline.planning.checks import Check
from vibe_pipeline.planning.claims import check_claims, check_published, unjudged
from vibe_pipeline.planning.figures import NOTHING_KEPT, Figures
from vibe_pipeline.planning.looks import look_checks
from vibe_pipeline.planning.plan import Assumed, Plan, make_plan
from vibe_pipeline.planning.preflight import generation_checks, scoring_checks, settings_checks
from vibe_pipeline.planning.table import size
from vibe_pipeline.planning.training_images import judge_images
from vibe_pipeline.planning.weight_files import weights_check
from vibe_pipeline.vbench.dimensions import canonical_name
from vibe_pipeline.vbench.prompts import clips_per_dimension
from vibe_pipeline.vbench.readiness import Skipped, readiness

State = Literal["ok", "missing", "optional"]
FLASH = "pip install -c requirements/constraints.txt -e '.[flash]'"
TORCH = "pip install --force-reinstall -c requirements/constraints.txt -r requirements/torch.txt"
"""Without force pip would leave a CPU build of the same version."""
DRIVER = "580"
"""What CUDA 13.0 takes, of which the pinned torch is built."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        item: What was looked at, as its row of the list is named.
        state: `missing` stops a run; `optional` only leaves something out.
        found: What is there.
        fix: The command or the setting that mends it.
    """

    item: str
    state: State
    found: str
    fix: str = ""


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
    dimensions, measures = _vbench(evaluation, generation, folders), _measures(evaluation, folders)
    measured = {name for name, finding in (dimensions | measures).items() if finding.state == "ok"}
    return [*findings, *dimensions.values(), *measures.values(), _report(params, evaluation, measured)]


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


def _vbench(evaluation: EvaluationParams, generation: GenerationParams, folders: Folders) -> dict[str, Finding]:
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


def _measures(evaluation: EvaluationParams, folders: Folders) -> dict[str, Finding]:
    """By measure that is asked for by name; one that lacks something is left out and stops nothing."""
    found = {}
    for entry in (metric for metric in ASKED if metric.name in evaluation.extra_measures):
        lack = lack_of(entry, evaluation, folders)
        item, said = f"measure {entry.name}", "can be measured"
        found[entry.name] = Finding(item, "optional", lack.reason, lack.fix) if lack else Finding(item, "ok", said)
    return found


def _report(params: Mapping[str, Any], evaluation: EvaluationParams, measured: Collection[str]) -> Finding:
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


def format_findings(findings: list[Finding]) -> str:
    """One line a thing, the fix below it where one is needed."""
    marks = {"ok": "ok      ", "missing": "MISSING ", "optional": "optional"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.state]}  {finding.item}: {finding.found}")
        if finding.state != "ok":
            lines.append(f"            fix: {finding.fix}")
    return "\n".join(lines)
