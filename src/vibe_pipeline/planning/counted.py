"""How many images and clips a plan is made for, and what that rests on."""

from contextlib import suppress

from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.images.find import find_images
from vibe_pipeline.planning.training_images import judge_images
from vibe_pipeline.vbench.prompts import clips_per_dimension


def count_images(model: ModelParams, data: DataParams, images: int | None) -> tuple[int, str]:
    """How many images there are to plan for, and what that rests on."""
    if images is not None:
        return images, f"images: {images}, as given"
    if data.source == "folder":
        with suppress(FileNotFoundError):
            seen = judge_images(find_images(data.path), model, data)
            there = seen.usable or seen.total  # of none that is usable the plan is that of all, once they are
            count = min(there, data.count or there)
            if seen.refused:
                return count, f"images: counted as {count}, but A RUN REFUSES THEM: {seen.refusal}"
            return count, f"images: {seen}" if count == there else f"images: data.count, {count}, of {seen}"
    if data.count is not None:
        return data.count, f"images: data.count, {data.count}"
    return 1, f"images: counted as 1, {data.path} holds none yet; give --images"


def count_clips(generation: GenerationParams, evaluation: EvaluationParams) -> tuple[int, bool, tuple[str, ...]]:
    """How many clips an arm makes, whether they hold first frames; of what, and how many VBench's dimensions have."""
    try:
        prompts = load_prompts(generation)
        counts = clips_per_dimension(prompts, evaluation.vbench_dimensions)
    except (FileNotFoundError, ValueError, ImportError) as error:
        count = (generation.count or 1) * len(generation.seeds)
        unknown = f"clips an arm: {count}; the prompts themselves are not here: {error}", "VBench: not known"
        return count, False, unknown
    first_frames = "first_frame" in prompts
    held = ", each with a first frame" if first_frames else ""
    scored = ", ".join(f"{name} {n}" for name, n in counts.items())
    notes = (
        f"clips an arm: {len(prompts)}, (prompt, seed) pairs of {generation.prompts}{held}",
        f"clips an arm that VBench's dimensions are defined on: {scored}",
    )
    return len(prompts), first_frames, notes
