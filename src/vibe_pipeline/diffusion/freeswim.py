"""FreeSwim, the training-free baseline (arXiv 2511.14712): window attention that is told the layout by full attention.

Two copies of the latent run side by side. The first uses window attention, the second full attention, and in
every block the first takes the cross-attention OUTPUT of the second. Only the first is kept after a step. In
the cached form the second runs on some conditional passes only, and its outputs are used again in between.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vibe_pipeline.diffusion.attention import AttentionSettings, install_gclf, kind_of, remove_gclf
from vibe_pipeline.diffusion.flow import Interval, guides
from vibe_pipeline.diffusion.lifetime import living
from vibe_pipeline.diffusion.objectives import Predict

Mode = Literal["window", "dual", "record", "reuse"]


class _SelfAttention:
    """Window attention; in the dual modes, full attention for the second half of the batch."""

    def __init__(self, swim: "FreeSwim", window: Any, full: Any) -> None:
        self.swim, self.window, self.full = swim, window, full

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        rest = (encoder_hidden_states, attention_mask, rotary_emb)
        if not self.swim.doubled:
            return self.window(attn, hidden_states, *rest)
        windowed, full = hidden_states.chunk(2)
        return torch.cat([self.window(attn, windowed, *rest), self.full(attn, full, *rest)])


class _CrossAttention:
    """Cross-attention of the second half for both halves; kept and used again in the cached form."""

    def __init__(self, swim: "FreeSwim", block: int, inner: Any) -> None:
        self.swim, self.block, self.inner = swim, block, inner

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if self.swim.mode == "reuse":
            return self.swim.stored[self.block].to(hidden_states.device, non_blocking=True)
        if not self.swim.doubled:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        full = hidden_states.chunk(2)[1]
        text = None if encoder_hidden_states is None else encoder_hidden_states.chunk(2)[1]
        out = self.inner(attn, full, text, attention_mask, rotary_emb)
        if self.swim.mode == "record":
            self.swim.keep(self.block, out)
        return torch.cat([out, out])


class FreeSwim:
    """The two paths on one transformer; made by :func:`install_freeswim`.

    The transformer's processors and hooks hold this object, which therefore holds the transformer weakly.

    Attributes:
        mode: window: the window path alone; dual: both paths; record: both, keeping the cross-attention outputs;
            reuse: the window path with the outputs kept before.
        stored: Cross-attention outputs [B, L, C] by block.
        store_device: Where they are kept; None: where they are made.
    """

    def __init__(self, transformer: nn.Module, store_device: torch.device | None) -> None:
        self.mode: Mode = "window"
        self.stored: dict[int, Tensor] = {}
        self.store_device = store_device
        self._transformer = weakref.ref(transformer)
        self._handles: list[Any] = []
        self._before: list[tuple[Any, Any]] = []

    @property
    def doubled(self) -> bool:
        """Whether the batch holds both paths."""
        return self.mode in ("dual", "record")

    def attach(self, full: list[Any]) -> None:
        """Wrap the processors; `full` are the blocks' full-attention ones."""
        transformer = living(self._transformer)
        for i, (block, plain) in enumerate(zip(transformer.blocks, full, strict=True)):
            self._before.append((block.attn1.processor, block.attn2.processor))
            block.attn1.set_processor(_SelfAttention(self, block.attn1.processor, plain))
            block.attn2.set_processor(_CrossAttention(self, i, block.attn2.processor))
        self._handles = [
            transformer.register_forward_pre_hook(self._double, with_kwargs=True),
            transformer.register_forward_hook(self._keep_first),
        ]

    def detach(self) -> None:
        """Put everything back as it was before :func:`install_freeswim`."""
        transformer = living(self._transformer)
        for handle in self._handles:
            handle.remove()
        for block, (one, two) in zip(transformer.blocks, self._before, strict=True):
            block.attn1.set_processor(one)
            block.attn2.set_processor(two)
        self.stored.clear()
        remove_gclf(transformer)

    def keep(self, block: int, out: Tensor) -> None:
        """Store an output; from a GPU in main memory that is page-locked, so that copies need not wait for each other.

        Both copies are on the stream that computes: what is read there later was written before.
        """
        if self.store_device is None or self.store_device == out.device or not out.is_cuda:
            self.stored[block] = out.to(self.store_device or out.device)
            return
        place = self.stored.get(block)
        if place is None or place.shape != out.shape or place.dtype != out.dtype:
            place = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
        self.stored[block] = place.copy_(out, non_blocking=True)

    @contextmanager
    def using(self, mode: Mode) -> Iterator[None]:
        """Run the forwards inside in another mode."""
        if mode == "reuse" and not self.stored:
            raise RuntimeError("no cross-attention outputs are kept yet: run a forward in mode 'record' first")
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    def _double(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not self.doubled:
            return None

        def twice(value: Any) -> Any:
            return torch.cat([value, value]) if isinstance(value, Tensor) else value

        return tuple(map(twice, args)), {k: twice(v) for k, v in kwargs.items()}

    def _keep_first(self, module: nn.Module, args: tuple, out: Any) -> Any:
        if not self.doubled:
            return None
        if not isinstance(out, tuple):
            raise TypeError("FreeSwim reads the transformer's output as a tuple: call it with return_dict=False")
        return (out[0].chunk(2)[0], *out[1:])


def install_freeswim(
    transformer: nn.Module,
    settings: AttentionSettings,
    native_grid: tuple[int, int] | None = None,
    store_device: torch.device | None = None,
) -> FreeSwim:
    """Put FreeSwim's two paths on a diffusers Wan transformer.

    Args:
        transformer: A WanTransformer3DModel without FreeSwim on it.
        settings: Of the window path; of a kind that is `local`.
        native_grid: (H, W) of the native token grid, which window and scale derive from.
        store_device: Where the cached form keeps its outputs (blocks x L x C x batch values).

    Raises:
        ValueError: An attention kind that is not local.
    """
    if not kind_of(settings).local:
        raise ValueError(f"FreeSwim's first path is window attention, not {settings.kind!r}")
    remove_gclf(transformer)
    full = [block.attn1.processor for block in transformer.blocks]
    install_gclf(transformer, settings, native_grid)
    swim = FreeSwim(transformer, store_device)
    swim.attach(full)
    return swim


def freeswim_predictor(
    swim: FreeSwim,
    conditional: Predict,
    unconditional: Predict,
    scale: float,
    refresh_every: int | None,
    interval: Interval | None = None,
) -> Predict:
    """Guided velocity of one clip's whole trajectory, to be called once a step.

    Args:
        swim: Installed on the transformer that both predictors call.
        conditional: Velocity with the prompt.
        unconditional: Velocity with the negative prompt; not run at scale 1.
        scale: Classifier-free guidance scale; 1 is no guidance.
        refresh_every: None: both paths in every pass. k: the full path in the conditional pass of each k-th step
            only, its cross-attention outputs used again in between; the unconditional pass is window-only.
        interval: Of sigma, outside of which the unconditional pass is not run; None: it always is.
    """
    step = 0

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        """Of a clip [B, C, T, H, W] at the levels [B], the next step's; it counts its calls."""
        nonlocal step
        fresh = refresh_every is None or step % refresh_every == 0
        mode: Mode = "dual" if refresh_every is None else ("record" if fresh else "reuse")
        step += 1
        with swim.using(mode):
            bound = conditional(x, sigma)
        if not guides(float(sigma[0]), scale, interval):
            return bound
        with swim.using("dual" if refresh_every is None else "window"):
            free = unconditional(x, sigma)
        return free + scale * (bound - free)

    return predict
