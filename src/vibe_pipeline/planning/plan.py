"""What a run will cost, from its parameters alone: work, time, memory and disk of every stage, adapter and arm.

Time is operations over the rate of the kernel that computes them (`planning.rates`), or over a share of the device's
peak if one is given. Writing a clip counts as far as it is waited for: it goes on while the next one is made. Not
counted: shards of latents, checkpoints, the page.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vibe_pipeline.diffusion.checkpoint import tile_stride
from vibe_pipeline.evaluation.power import least_told, prompts_by_spread
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.sequential import at_look, blocks_of
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.methods import checked_tables
from vibe_pipeline.generation.optional_arms import left_out
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.arm_rows import arm_rows
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.counted import count_clips, count_images
from vibe_pipeline.planning.devices import THIS, find_device
from vibe_pipeline.planning.expert_loads import waiting, weight_notes
from vibe_pipeline.planning.figures import NOTHING_KEPT, Figures
from vibe_pipeline.planning.machine import Machine, named_device, this_machine
from vibe_pipeline.planning.network_costs import network_cost
from vibe_pipeline.planning.plan_rows import (
    TRAINING,
    PlanRow,
    data_row,
    filter_row,
    latents_row,
    native_row,
    training_rows,
)
from vibe_pipeline.planning.rates import said_of
from vibe_pipeline.planning.score_rows import (
    held_out_rows,
    measures_row,
    network_measures_row,
    validation_rows,
    vbench_row,
)
from vibe_pipeline.planning.stills_filter import fitted_stills

PUBLISHED_GAIN = 0.8
"""Points of overall that the paper's main table has ViBe above CineScale."""
SPREADS = (2.0, 3.0, 4.0, 6.0)
"""Standard deviations over prompts, points; which it is, no publication says."""


@dataclass(frozen=True)
class Plan:
    """The jobs, and what they were computed for; `measured` if the device's speed was.

    `waiting_gb` is main memory that weights take while they wait: one of two experts, or blocks of `model.offload`.
    """

    model: str
    architecture: str
    parameters: dict[str, int]
    weights_gb: float
    device: str
    device_memory_gb: float
    share_of_peak: float | None
    speed: str
    notes: tuple[str, ...]
    rows: tuple[PlanRow, ...]
    measured: bool = False
    waiting_gb: float = 0.0

    @property
    def hours(self) -> float:
        """All jobs one after another."""
        return sum(row.hours for row in self.rows)

    @property
    def training_hours(self) -> float:
        """Of data_processing and both stages, with what is looked at meanwhile."""
        return sum(row.hours for row in self.rows if row.group in TRAINING)

    def clip_seconds(self, arm: str) -> float:
        """A clip of an arm and the native one that it starts from, once weights are loaded."""
        return sum(row.seconds for row in self.rows if row.group == "native" or (row.group, row.name) == ("arm", arm))

    @property
    def hours_by_part(self) -> dict[str, float]:
        """The same by what spends them, the longest first."""
        total = Counter[str]()
        for row in self.rows:
            total.update(row.hours_by_part)
        return dict(total.most_common())

    @property
    def peak_memory_gb(self) -> float:
        """Of the largest job."""
        return max(row.memory_gb for row in self.rows)

    @property
    def disk_gb(self) -> float:
        """Written by the run; weights not included."""
        return sum(row.disk_gb for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        totals: dict[str, Any] = {"hours": self.hours, "peak_memory_gb": self.peak_memory_gb, "disk_gb": self.disk_gb}
        totals |= {"hours_by_part": self.hours_by_part}
        rows = [asdict(row) | {"seconds": row.seconds, "hours": row.hours} for row in self.rows]
        return asdict(self) | {"rows": rows, "totals": totals}


@dataclass(frozen=True)
class Assumed:
    """What a plan is made for, beside the parameters.

    Attributes:
        device: A name in `planning.devices`, or `this`: a CPU is measured, a GPU taken from there.
        share: Of the device's peak that is assumed of every kernel; None: what is known of each kernel. `this` is at
            what it reaches.
        images: How many there will be, where the folder is not here yet.
        cores: Processors beside the device; None: as many as this machine has.
    """

    device: str = "h100"
    share: float | None = None
    images: int | None = None
    cores: int | None = None


def make_plan(params: Mapping[str, Any], assumed: Assumed = Assumed(), figures: Figures = NOTHING_KEPT) -> Plan:
    """Plan a run; one that grows look after look at its last look, with a note on what the first takes.

    Args:
        params: The parameters of an environment.
        assumed: The machine, and how many images.
        figures: Where what the modules themselves give is kept from one plan to the next.

    Raises:
        ValueError: An unknown device, a share outside (0, 1], a size that does not fit the attention's pooling,
            or a tile that does not fit the VAE.
        FileNotFoundError: The model's architecture is not known.
    """
    plan = _planned(at_look(params, -1), assumed, figures)
    if not (blocks := blocks_of(params)):
        return plan
    first = _planned(at_look(params, 1), assumed, figures)
    looks = (
        f"looks at {', '.join(map(str, blocks))} prompts, until the claims are told: {first.hours:.3g} h to the end of "
        f"the first, {plan.hours:.3g} h to that of the last, which the rows below are of"
    )
    return replace(plan, notes=(*plan.notes, looks))


def _planned(params: Mapping[str, Any], assumed: Assumed, figures: Figures) -> Plan:
    """The plan of one run, whose arguments are those of :func:`make_plan`."""
    model, data = ModelParams(**params["model"]), DataParams(**params["data"])
    generation, tables = GenerationParams(**params["generation"]), checked_tables(params)
    image_count, image_note = count_images(model, data, assumed.images)
    evaluation = EvaluationParams(**params["evaluation"])
    clips, first_frames, clip_notes = count_clips(generation, evaluation)
    device = named_device(assumed.device, model)
    costs = _costs(model, device, assumed.share, first_frames, figures)
    cores = assumed.cores or os.cpu_count() or 1
    scoring, measure_note = _scoring_rows(costs, evaluation, clips * len(tables.arms), cores)
    rows = (
        data_row(costs, data, image_count),
        *([filter_row(data, stills)] if (stills := fitted_stills(tables, image_count)) else []),
        *training_rows(costs, data, tables),
        native_row(costs, generation, clips),
        *latents_row(costs, tables, clips),
        *arm_rows(costs, tables, generation, clips),
        *validation_rows(costs, tables, generation),
        *held_out_rows(costs, data, tables, image_count),
        *scoring,
    )
    own_bytes, own_notes = _own_transformers(tables, 2 * costs.parameters["transformer"])
    power = _power_notes(clips // len(generation.seeds), evaluation)
    notes = (image_note, *weight_notes(costs, tables), *clip_notes, *power, measure_note, *own_notes)
    notes += tuple(_arm_notes(costs, tables))
    return _described(costs, device, own_bytes, notes, rows)


def _costs(model: ModelParams, device: str, share: float | None, first_frames: bool, figures: Figures) -> Costs:
    """What single jobs cost on a device, by name; the first arguments are those of :class:`Assumed`.

    Raises:
        ValueError: An unknown device, a share outside (0, 1], or a tile that does not fit the VAE.
    """
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"the share of peak must be in (0, 1], got {share}")
    architecture = load_architecture(model.path)
    if model.tile is not None:
        tile_stride(architecture.vae, model.tile)
    measured = device == THIS
    return Costs(
        architecture=architecture,
        model=model,
        device=this_machine(architecture, model, figures) if measured else find_device(device),
        share=1.0 if measured else share,  # what was measured is what is reached
        first_frames=first_frames,
        figures=figures,
    )


def _scoring_rows(
    costs: Costs, evaluation: EvaluationParams, clips: int, cores: int
) -> tuple[tuple[PlanRow, ...], str]:
    """VBench, our measures and their networks on so many clips, and what our measures' time rests on."""
    measures, note = measures_row(costs.model.target, clips, evaluation, cores)
    vbench = vbench_row(costs.model.target, clips, evaluation, cores)
    return (*vbench, measures, *network_measures_row(costs, clips, evaluation.extra_measures)), note


def _described(costs: Costs, device: str, own: float, notes: tuple[str, ...], rows: tuple[PlanRow, ...]) -> Plan:
    """The rows, with what they were computed for.

    Args:
        costs: What they were computed by.
        device: Its name in `planning.devices`; a machine that was measured has its own.
        own: Bytes of transformers of arms' own.
        notes: What the rows rest on.
        rows: The jobs.
    """
    numbers = costs.parameters | dict.fromkeys(costs.architecture.experts, costs.parameters["transformer"])
    # Weights as published: 16 bit but for the VAE.
    weights = 2 * sum(count for part, count in numbers.items() if part != "vae") + 4 * numbers["vae"] + own
    return Plan(
        model=costs.architecture.name,
        architecture=costs.architecture.source,
        parameters=numbers,
        weights_gb=weights / 1e9,
        device=costs.device.product if isinstance(costs.device, Machine) else device,
        device_memory_gb=costs.device.memory_gb,
        share_of_peak=costs.share,
        speed=said_of(costs.device, costs.share),
        notes=notes,
        rows=rows,
        measured=isinstance(costs.device, Machine),
        waiting_gb=waiting(costs) / 1e9,
    )


def _own_transformers(tables: Experiment, otherwise: float) -> tuple[float, tuple[str, ...]]:
    """Bytes of the transformers that arms name, and what the plan says of them; `otherwise` as in `_own_bytes`."""
    own = {arm.transformer.path for arm in tables.arms.values() if arm.transformer is not None}
    size = sum(_own_bytes(path, otherwise) for path in own)
    said = f"transformers of arms' own: {len(own)}, {size / 1e9:.1f} GB, each read after the base's"
    return size, (said,) if own else ()


def _power_notes(prompts: int, evaluation: EvaluationParams) -> Iterator[str]:
    """What so many prompts can tell, where all that the paper's overall is taken over is scored."""
    if prompts < 2 or not set(evaluation.overall_dimensions) <= set(evaluation.vbench_dimensions):
        return
    least = least_told(prompts, evaluation.confidence)
    needed = prompts_by_spread(PUBLISHED_GAIN, SPREADS, evaluation.confidence)
    by_spread = ", ".join(f"{count} at {spread:g}" for spread, count in needed.items())
    yield (
        f"power: {prompts} prompts tell a difference of {least:.2f} of its spread over prompts, 4 times in 5; the "
        f"published +{PUBLISHED_GAIN:g} points of overall6 take, by that spread: {by_spread} points (none is published)"
    )


def _arm_notes(costs: Costs, tables: Experiment) -> Iterator[str]:
    """Optional arms that would be left out as things are, and networks that could not be counted."""
    for name, row in left_out(tables, Path.cwd()).items():
        yield f"arms.{name}: counted, but {row['reason']}; {row['fix']}"
    for name, arm in tables.arms.items():
        if arm.sr is not None and network_cost(costs, arm.sr) is None:
            yield f"arms.{name}: its network is not counted, as {arm.sr.weights} is not here or cannot be counted"


def _own_bytes(path: Path, otherwise: float) -> float:
    """Of a transformer's own weights; `otherwise` where they are not here yet."""
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) or otherwise
