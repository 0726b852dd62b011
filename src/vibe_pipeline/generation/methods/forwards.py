"""Forwards that a pass takes, as a plan counts them: guidance, solvers, step caches, attention that goes by steps."""

from vibe_pipeline.diffusion.attention import AttentionKind, kind_of, window_alone
from vibe_pipeline.diffusion.step_cache import step_cache_of
from vibe_pipeline.diffusion.step_cache_base import StepCache
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams

Counted = AttentionParams | AttentionKind
"""Attention as a plan counts it: a row's, or what a kind is on the average over the steps of a pass."""


def require_whole_steps(arm: ArmParams, attention: AttentionParams, steps: int) -> None:
    """Refuse attention that goes by the steps of a pass, where these are too few or not whole.

    Raises:
        ValueError: Names the field and the way out.
    """
    kind = kind_of(attention)
    if not kind.stepwise:
        return
    if arm.scheduler == "midpoint":
        raise ValueError(f"scheduler midpoint evaluates between the steps that {kind.name} counts: leave one out")
    if arm.step_cache is not None:
        raise ValueError(f"step_cache leaves out steps that attention kind {kind.name} counts: leave one out")
    kind.require_calls(steps)


def unconditional_of(arm: ArmParams) -> Counted:
    """Attention of guidance's pass without the prompt, in the row's own pass over a clip.

    Raises:
        ValueError: The row's kind has no window that could stand alone.
    """
    return arm.attention if arm.unconditional_attention is None else window_alone(kind_of(arm.attention))


def own_forwards(arm: ArmParams, steps: int, guided: int | None = None) -> tuple[tuple[Counted, int], ...]:
    """The forwards of the row's own pass, as of `forwards_of`; by guidance pass where these attend differently."""
    if arm.unconditional_attention is None:
        return forwards_of(arm, arm.attention, steps, guided)
    bound, free = calls(arm, steps, guided)
    return (arm.attention, bound), (unconditional_of(arm), free)


def forwards_of(
    arm: ArmParams, attention: AttentionParams, steps: int, guided: int | None = None
) -> tuple[tuple[Counted, int], ...]:
    """The forwards of so many steps as `Workload` has them; each guidance pass for itself where steps differ.

    Args:
        arm: As of `calls`.
        attention: Of the row, or of a stage.
        steps: As of `calls`.
        guided: As of `calls`.
    """
    kind, (bound, free) = kind_of(attention), calls(arm, steps, guided)
    if not kind.stepwise:
        return ((attention, bound + free),)
    return tuple((kind.during(n), n) for n in (bound, free) if n)


def calls(arm: ArmParams, steps: int, guided: int | None = None) -> tuple[int, int]:
    """Forwards of so many steps that are computed: conditional ones, and those of classifier-free guidance.

    Args:
        arm: Guidance scale, solver, step cache.
        steps: Of the sampler; of two evaluations each with the midpoint.
        guided: Evaluations that are guided; None: all.
    """
    cache, evaluated = step_cache_of(arm.step_cache) or StepCache(), steps * (2 if arm.scheduler == "midpoint" else 1)
    free = 0 if arm.guidance_scale == 1 else evaluated if guided is None else guided
    return cache.computed(evaluated), cache.computed(free, "unconditional")


def passes(arm: ArmParams, steps: int, guided: int | None = None) -> int:
    """Both together."""
    return sum(calls(arm, steps, guided))
