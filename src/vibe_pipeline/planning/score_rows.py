"""The jobs of a run that judge what the others make: clips and losses while adapters train, VBench, our measures."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.images.account import held_out_count
from vibe_pipeline.planning.arm_rows import arm_row
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.measure_costs import measuring_memory, measuring_seconds, vbench_seconds
from vibe_pipeline.planning.plan_rows import FULL, PlanRow
from vibe_pipeline.planning.work import Work

LEVELS = 4  # of noise, in a held-out loss; `training.validation.SIGMAS`, which a test compares


def validation_rows(costs: Costs, tables: Experiment, generation: GenerationParams) -> Iterator[PlanRow]:
    """Clips while adapters train, each as the adapter's first arm makes it; memory is that of the arm."""
    for name, row in tables.adapters.items():
        if row.validation_clips and row.validate_every:
            arm, times = tables.arms[tables.arm_of(name)], -(-row.steps // row.validate_every)
            made = arm_row(
                costs=costs,
                name=name,
                arm=arm,
                tables=tables,
                generation=generation,
                clips=row.validation_clips * times,
            )
            yield replace(made, group="validation", label=f"Validation clips, {times} times {row.validation_clips}")


def measures_row(size: ClipSize, clips: int, evaluation: EvaluationParams, cores: int) -> tuple[PlanRow, str]:
    """Our own measures of every arm's clips, on processors while the device idles, and what that rests on."""
    extra, workers = evaluation.extra_measures, evaluation.workers
    work = Work(parts={"our measures": measuring_seconds(size, cores, extra, workers)})
    memory = workers * measuring_memory(size, extra) / 1e9
    at_once = f"{workers} clips at a time" if workers > 1 else "a clip at a time"
    note = f"our measures: on {cores} cores, {at_once}; {memory:.1f} GB of main memory"
    return PlanRow.of(
        group="measures",
        name="all",
        label="Our measures, on processors",
        unit="clip",
        count=clips,
        work=work,
    ), note


def vbench_row(size: ClipSize, clips: int, evaluation: EvaluationParams, cores: int) -> Iterator[PlanRow]:
    """VBench on every arm's clips; nothing where no dimension is asked for."""
    if dimensions := evaluation.vbench_dimensions:
        work = Work(parts={"VBench": vbench_seconds(size, cores, evaluation.workers)})
        label = f"VBench, {len(dimensions)} dimensions"
        yield PlanRow.of(work, group="vbench", name="all", label=label, unit="clip", count=clips)


def held_out_rows(costs: Costs, data: DataParams, tables: Experiment, images: int) -> Iterator[PlanRow]:
    """The losses of held-out images: a forward at each noise level, at every validation."""
    held = held_out_count(images, data) if images > 1 else 0
    trained: dict[str, tuple[TrainParams, ClipSize, AttentionParams]]
    trained = {name: (row, data.low, FULL) for name, row in tables.stage1.items()}
    trained |= {name: (row, data.high, row.attention) for name, row in tables.adapters.items()}
    for name, (row, size, attention) in trained.items():
        if row.validate_every and held:
            one = costs.forward(size, attention, [row.lora], row.compile) * LEVELS
            yield PlanRow.of(
                Work(one.teraflops, {"held-out losses": one.seconds}),
                group="held_out",
                name=name,
                label=f"Held-out loss at {LEVELS} noise levels",
                unit="image",
                count=held * -(-row.steps // row.validate_every),
            )


def network_measures_row(costs: Costs, clips: int, extra: Collection[str]) -> Iterator[PlanRow]:
    """Networks of the measures that are asked for by name, on the device; nothing where none is."""
    if (work := costs.networks(costs.model.target, extra)).teraflops:
        yield PlanRow.of(
            work, group="measures", name="networks", label="Measures by networks", unit="clip", count=clips
        )
