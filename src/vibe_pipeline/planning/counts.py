"""What one model consists of and computes, from its architecture alone: weights, keys, operations, adapters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention import kind_of
from vibe_pipeline.diffusion.attention.choice import Kernel, flash_installed
from vibe_pipeline.diffusion.flops import (
    AdapterLayers,
    Flops,
    adapter_layers,
    count_flops,
    keys_by_layer,
    layers_of_file,
)
from vibe_pipeline.diffusion.precision import fuses_exactly
from vibe_pipeline.diffusion.quantisation import QUANTISATIONS
from vibe_pipeline.diffusion.support import kind_of_part
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.generation.methods.forwards import Counted
from vibe_pipeline.planning.architecture import Architecture, Grid
from vibe_pipeline.planning.figures import Figures

if TYPE_CHECKING:
    import torch

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Adapter = LoraParams | Path
"""One that the run trains, or the file of another."""


def _torch_dtype(name: str) -> "torch.dtype":
    import torch

    return getattr(torch, name)


def stage1_of(row: AdapterParams, tables: Experiment) -> LoraParams | None:
    """The adapter that is fused before this one is trained."""
    return None if row.start == "base" else tables.stage1[row.start].lora


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of one model, on whatever device.

    Attributes:
        first_frames: Whether clips hold a first frame, and so have one timestep a token.
        figures: Where what the modules themselves give is kept.
    """

    architecture: Architecture
    model: ModelParams
    first_frames: bool = False
    figures: Figures = field(default_factory=Figures)
    _memo: dict[tuple, Any] = field(default_factory=dict, compare=False)

    @property
    def dtype(self) -> "torch.dtype":
        """What transformer and text encoder compute in, where the modules are run; elsewhere its name is enough."""
        return _torch_dtype(self.model.dtype)

    @property
    def vae_dtype(self) -> "torch.dtype":
        """What the VAE computes in, where its modules are run."""
        return _torch_dtype(self.model.vae_dtype)

    @property
    def number_bytes(self) -> int:
        """Of a number of the transformer or the text encoder."""
        return NUMBER_BYTES[self.model.dtype]

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers in the weights of each part."""
        return self.kept(("parameters",), lambda: self.architecture.parameters)

    def weights(self, part: str) -> float:
        """Bytes of a part's weights on the device; where they are quantised, with one layer's as it is multiplied."""
        size = NUMBER_BYTES[self.model.vae_dtype] if part == "vae" else self.number_bytes
        kind = kind_of_part(part)
        if kind != "transformer" or self.model.quantisation is None:
            return float(self.parameters[kind] * size)
        small = QUANTISATIONS[self.model.quantisation]
        numbers, rows, largest = self.kept(("quantised",), lambda: self.architecture.quantised)
        whole = self.parameters[kind] - numbers + rows * small.row_scales + largest
        return float(whole * size + numbers * small.number_bytes)

    def keys(self, size: ClipSize, attention: Counted) -> float:
        """Keys that a query of self-attention is compared with, on the average over the layers."""
        keys = self._keys_by_layer(size, attention)
        return keys[0] if len(set(keys)) == 1 else sum(keys) / len(keys)

    @property
    def native_grid(self) -> Grid:
        """Tokens of a native clip."""
        return self.architecture.grid(self.model.native)

    def beside(self, stage1: LoraParams | None) -> tuple[LoraParams, ...]:
        """A fused stage 1, where it stands beside weights that cannot take it up; else nothing."""
        return (
            () if stage1 is None or fuses_exactly(self.model.dtype, self.model.quantisation is not None) else (stage1,)
        )

    def arm_adapters(self, arm: ArmParams, tables: Experiment, part: str) -> list[Adapter]:
        """What stands beside a transformer's weights in an arm: its adapter, a stage 1 that is kept, the files."""
        last = part == self.architecture.experts[-1]
        extras = [extra.path for extra in arm.extra_adapters if (extra.expert == "low") == last]
        if arm.adapter is None or not last:
            return [*extras]
        row = tables.adapters[arm.adapter]
        return [row.lora, *self.beside(stage1_of(row, tables) if arm.keep_stage1 else None), *extras]

    def kernels(self, size: ClipSize, attention: Counted) -> dict[Kernel, float]:
        """What computes self-attention on this device, and the keys that each compares a query with to that end."""
        grid, layers = self.architecture.grid(size), self.architecture.transformer["num_layers"]
        kind, native = kind_of(attention), self.native_grid[1:]
        key = ("kernels", grid, native, layers, repr(kind), flash_installed())
        found = self.kept(key, lambda: [kind.kernels(grid, native, layer, "cuda") for layer in range(layers)])
        names = dict.fromkeys(name for kernels in found for name in kernels)
        return {name: sum(kernels.get(name, 0.0) for kernels in found) / layers for name in names}

    def adapter_parameters(self, adapter: Adapter) -> int:
        """Numbers of an adapter."""
        return self.layers(adapter).parameters

    def adapter_bytes(self, adapter: Adapter) -> float:
        """Of an adapter that is loaded and not trained: it takes the transformer's type."""
        return float(self.adapter_parameters(adapter) * self.number_bytes)

    def layers(self, adapter: Adapter) -> AdapterLayers:
        if isinstance(adapter, Path):
            return self.once(("file", adapter), lambda: layers_of_file(adapter))
        return adapter_layers(self.architecture.transformer, adapter.targets, adapter.rank)

    def _keys_by_layer(self, size: ClipSize, attention: Counted) -> list[float]:
        grid, layers = self.architecture.grid(size), self.architecture.transformer["num_layers"]
        return keys_by_layer(attention, grid, self.native_grid[1:], layers)

    def flops(
        self,
        size: ClipSize,
        attention: Counted,
        adapters: Sequence[AdapterLayers],
        per_token: bool = False,
        tokens: int | None = None,
        active: int | None = None,
    ) -> Flops:
        """Of one sample through the transformer.

        `tokens` are those of a crop with its context, which all see each other; `active` those that do not stand still.
        """
        return count_flops(
            config=self.architecture.transformer,
            grid=self.architecture.grid(size) if tokens is None else (1, 1, tokens),
            text_length=self.model.text_length,
            keys=self._keys_by_layer(size, attention) if tokens is None else None,
            adapters=adapters,
            per_token=per_token,
            active=active,
        )

    def kept(self, key: tuple, make: Callable[[], Any]) -> Any:
        """A figure that takes the modules to make; what it depends on beside its key is the model's and the run's."""
        parts = (self.architecture.transformer, self.architecture.vae, self.architecture.text_encoder)
        model = (self.model.dtype, self.model.vae_dtype, self.model.tile, self.model.text_length)
        return self.once(key, lambda: self.figures.once((*key, parts, model, self.first_frames), make))

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]
