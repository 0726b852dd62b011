"""Step caches: denoising steps that take over what an earlier step computed, by diffusers' hooks.

`STEP_CACHES` lists every one; to add one, write its entry (a frozen dataclass under `StepCache`) and list it. Both
guidance passes keep states of their own (`cache_context`): without, FirstBlockCache raises and others mix the two. A
cache changes clips, so it is off in every arm that does not ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from vibe_pipeline.diffusion.entries import chosen_entry, known_entry
from vibe_pipeline.diffusion.mag_cache import Mag
from vibe_pipeline.diffusion.step_cache_base import Passes, StepCache

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vibe_pipeline.diffusion.flow import Levels
    from vibe_pipeline.diffusion.objectives import Predict


@dataclass(frozen=True)
class FirstBlock(StepCache):
    """The blocks after the first are left out where the first changes little (ParaAttention's First Block Cache).

    Attributes:
        threshold: Mean absolute change of the first block's update, relative to it, up to which they are.
    """

    name: ClassVar[str] = "first_block"
    by_batch: ClassVar[bool] = True

    threshold: Annotated[float, Field(gt=0, description="first_block: change up to which blocks are left out")] = 0.05

    def config(self) -> Any:
        """diffusers' FirstBlockCacheConfig."""
        from diffusers import FirstBlockCacheConfig

        return FirstBlockCacheConfig(threshold=self.threshold)

    def words(self) -> str:
        """Name and threshold."""
        return f"first-block cache {self.threshold:g}"


@dataclass(frozen=True)
class Taylor(StepCache):
    """Whole forwards are replaced by a Taylor expansion of the model's last ones (TaylorSeer, arXiv 2503.06923).

    In its lite form: what is expanded is the model's output alone, which takes no memory to speak of. Which forwards
    are computed is fixed beforehand.

    Attributes:
        interval: One forward in so many is computed.
        before: So many at the start are all computed.
        order: Highest order of the expansion; 0 repeats the last output.
    """

    name: ClassVar[str] = "taylor"

    interval: Annotated[int, Field(ge=2, description="taylor: one forward in so many is computed")] = 2
    before: Annotated[PositiveInt, Field(description="taylor: forwards at the start that are all computed")] = 3
    order: Annotated[int, Field(ge=0, le=3, description="taylor: highest order of the expansion")] = 1

    def computed(self, calls: int, guidance: str = "conditional") -> int:
        """Those at the start, and then one in `interval`, counted as diffusers' hook counts."""
        return sum(i < self.before or (i - self.before - 1) % self.interval == 0 for i in range(calls))

    def config(self) -> Any:
        """diffusers' TaylorSeerCacheConfig."""
        import torch
        from diffusers import TaylorSeerCacheConfig

        return TaylorSeerCacheConfig(
            cache_interval=self.interval,
            disable_cache_before_step=self.before,
            max_order=self.order,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )

    def words(self) -> str:
        """Name and interval."""
        return f"Taylor cache, 1 in {self.interval} after {self.before}"


@dataclass(frozen=True)
class Pyramid(StepCache):
    """What attention gave is used again in the steps between (Pyramid Attention Broadcast, arXiv 2408.12588).

    All else of every block is computed. diffusers keeps one state a layer; here each guidance pass has its own. What is
    kept is as large as the hidden states, of every layer.

    Attributes:
        self_every: Self-attention is computed in one of so many forwards.
        cross_every: Cross-attention likewise; 1: in all.
        between: Noise levels within which, both ends left out; outside all is computed.
    """

    name: ClassVar[str] = "pyramid"

    self_every: Annotated[int, Field(ge=2, description="pyramid: self-attention in one of so many forwards")] = 2
    cross_every: Annotated[PositiveInt, Field(description="pyramid: cross-attention in one of so many; 1: all")] = 1
    between: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]],
        Field(description="pyramid: sigmas, lower first, within which attention is left out; [C] diffusers'"),
    ] = (0.1, 0.8)

    def __post_init__(self) -> None:
        low, high = self.between
        if not low < high:
            raise ValueError(f"step_cache.between {low:g} to {high:g} holds no noise level: give the lower sigma first")

    def reused(self, levels: Levels) -> tuple[int, int]:
        """Those within the noise levels, but for one in so many, counted from the first forward of the pass."""
        low, high = self.between
        inside = [i for i, sigma in enumerate(levels) if low < sigma < high]
        count = (sum(i % every > 0 for i in inside) for every in (self.self_every, self.cross_every))
        return next(count), next(count)

    def held(self, layers: int) -> int:
        """An output of every layer that is used again."""
        return layers * (1 + (self.cross_every > 1))

    def config(self) -> Any:
        """diffusers' PyramidAttentionBroadcastConfig."""
        from diffusers import PyramidAttentionBroadcastConfig

        timesteps = tuple(1000 * sigma for sigma in self.between)
        passes = _LayersOfPasses()
        config: Any = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=self.self_every,
            spatial_attention_timestep_skip_range=timesteps,
            cross_attention_block_skip_range=self.cross_every if self.cross_every > 1 else None,
            cross_attention_timestep_skip_range=timesteps,
            current_timestep_callback=passes,
        )
        config.passes = passes
        return config

    def words(self) -> str:
        """Name, intervals, noise levels."""
        cross = f", cross-attention 1 in {self.cross_every}" if self.cross_every > 1 else ""
        low, high = self.between
        return f"pyramid attention broadcast, 1 in {self.self_every}{cross}, sigma {low:g} to {high:g}"


class _LayersOfPasses(Passes):
    """Where denoising is, which Pyramid Attention Broadcast asks for, and what each guidance pass has kept so far."""

    def __init__(self) -> None:
        self.timestep = 1000.0
        self._kept: dict[tuple[str, int], Any] = {}

    def __call__(self) -> float:
        return self.timestep

    def enter(self, name: str, sigma: Tensor, transformer: nn.Module) -> None:
        """Give every layer what this pass has kept, and not the other."""
        self.timestep = 1000 * float(sigma.flatten()[0])
        for i, hook in enumerate(_attention_hooks(transformer)):
            if (name, i) not in self._kept:
                self._kept[name, i] = type(hook.state)()
            hook.state = self._kept[name, i]

    def forget(self) -> None:
        """Begin a clip."""
        self._kept.clear()


def _attention_hooks(transformer: nn.Module) -> Iterator[Any]:
    from diffusers.hooks.pyramid_attention_broadcast import _PYRAMID_ATTENTION_BROADCAST_HOOK as NAME

    for module in transformer.modules():
        hook = module._diffusers_hook.get_hook(NAME) if hasattr(module, "_diffusers_hook") else None
        if hook is not None:
            yield hook


STEP_CACHES: dict[str, type[StepCache]] = {cache.name: cache for cache in (FirstBlock, Taylor, Pyramid, Mag)}


def known_step_cache(name: str) -> str:
    """The name of a step cache, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    return known_entry(name, STEP_CACHES, "step cache")


def step_cache_of(settings: Any) -> StepCache | None:
    """The entry that settings name, with its fields filled in; None for None."""
    return None if settings is None else chosen_entry(settings, STEP_CACHES, "step cache")


def install_step_cache(transformer: nn.Module, cache: StepCache) -> None:
    """Put a cache on a diffusers transformer."""
    transformer.enable_cache(cache.config())


def remove_step_cache(transformer: nn.Module) -> None:
    """Take it off again, with the registries and the forwards that hold the modules they hang on."""
    if transformer.is_cache_enabled:
        transformer.disable_cache()
    for module in transformer.modules():
        if hasattr(module, "_diffusers_hook"):
            del module._diffusers_hook
            vars(module).pop("forward", None)  # where hooks were, which leave the class's own bound to the module


def forget_steps(transformer: nn.Module) -> None:
    """Begin a clip: nothing is taken over from the one before, by a cache or by attention that goes by steps."""
    from vibe_pipeline.diffusion.attention.install import forget_attention

    forget_attention(transformer)
    if transformer.is_cache_enabled:
        transformer._reset_stateful_cache()
        if (passes := _passes(transformer)) is not None:
            passes.forget()


def _passes(transformer: nn.Module) -> Passes | None:
    return getattr(transformer._cache_config, "passes", None)


def in_context(transformer: nn.Module, name: str, predict: Predict) -> Predict:
    """A predictor whose steps, cached or counted by attention, are its own, not those of the other guidance pass."""
    from vibe_pipeline.diffusion.attention.install import guidance_pass

    def within(x: Tensor, sigma: Tensor) -> Tensor:
        """In the context of this pass, for whatever keeps steps."""
        if not transformer.is_cache_enabled:
            with guidance_pass(transformer, name):
                return predict(x, sigma)
        passes = _passes(transformer) or Passes()
        passes.enter(name, sigma, transformer)
        with transformer.cache_context(name), guidance_pass(transformer, name):
            velocity = predict(x, sigma)
            passes.leave(name, transformer)
        return velocity

    return within
