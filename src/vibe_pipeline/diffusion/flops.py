"""Floating-point operations: the one count that plan, training log and reports go by.

A linear layer of n rows costs 2 n d_in d_out forwards, and as much again for each gradient that is needed: that of its
input, where anything before it is trained, and that of its weight, which frozen layers do not need. Attention of n
queries over m keys costs 4 n m d forwards and 2.5 times that backwards (fused kernels compute the scores again).
Recomputation by gradient checkpointing is not counted.

The transformer is counted from its configuration, which needs no torch, and is tested to be what torch's counter says
of the real modules, to the last operation; `module_flops.py` asks that counter of VAE and text encoder.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.attention import AttentionKind, AttentionSettings, kind_of
from vibe_pipeline.diffusion.attention.geometry import Grid, NativeGrid
from vibe_pipeline.diffusion.headers import read_header

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

BACKWARD_ATTENTION = 2.5
STAGES = {"attn1.to_out": 1, "attn2.to_q": 2, "attn2.to_k": 2, "attn2.to_v": 2, "attn2.to_out": 3, "ffn.net.0": 4}
STAGES |= {"attn1.to_q": 0, "attn1.to_k": 0, "attn1.to_v": 0, "ffn.net.2": 5}
Position = tuple[int, int]
"""(block, stage within it): how far along the data's way a layer stands."""
END: Position = (10**9, 1)


@dataclass(frozen=True)
class Flops:
    """One image or clip, forward and backward; the backward of a frozen model is 0."""

    linear_forward: float
    linear_backward: float
    attention_forward: float
    attention_backward: float

    @property
    def forward(self) -> float:
        """One forward."""
        return self.linear_forward + self.attention_forward

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.linear_backward + self.attention_backward


@dataclass(frozen=True)
class AdapterLayers:
    """A low-rank update beside some linear layers.

    Attributes:
        layers: (rank, d_in, d_out) by the layer's name.
        trained: Whether it is what a step trains; else it is frozen.
    """

    layers: Mapping[str, tuple[int, int, int]]
    trained: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in its weights."""
        return sum(rank * (d_in + d_out) for rank, d_in, d_out in self.layers.values())


def linear_layers(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of every linear layer of a Wan transformer, by its name in diffusers."""
    dim, ffn = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
    block = {f"attn{i}.{part}": (dim, dim) for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")}
    block |= {"ffn.net.0.proj": (dim, ffn), "ffn.net.2": (ffn, dim)}
    embedder = {
        "time_embedder.linear_1": (config["freq_dim"], dim),
        "time_embedder.linear_2": (dim, dim),
        "time_proj": (dim, 6 * dim),
        "text_embedder.linear_1": (config["text_dim"], dim),
        "text_embedder.linear_2": (dim, dim),
    }
    layers = {f"condition_embedder.{name}": shape for name, shape in embedder.items()}
    layers |= {f"blocks.{i}.{name}": shape for i in range(config["num_layers"]) for name, shape in block.items()}
    return layers | {"proj_out": (dim, config["out_channels"] * math.prod(config["patch_size"]))}


def adapter_layers(config: Mapping[str, Any], targets: Sequence[str], rank: int) -> AdapterLayers:
    """The adapter that peft puts beside every linear layer whose name ends in one of `targets`.

    Raises:
        ValueError: There is no such layer.
    """
    endings = tuple(f".{target}" for target in targets)
    chosen = {n: (rank, *shape) for n, shape in linear_layers(config).items() if f".{n}".endswith(endings)}
    if not chosen:
        raise ValueError(f"lora.targets {list(targets)} match no linear layer of the transformer")
    return AdapterLayers(chosen)


def layers_of_file(path: Path) -> AdapterLayers:
    """Of an adapter file, by its header; of one that is not there (yet), nothing.

    Raises:
        ValueError: It is not a safetensors file.
    """
    if not path.is_file():
        return AdapterLayers({})
    shapes = read_header(path).shapes
    downs = {k.split(".lora_A.")[0]: shape for k, shape in shapes.items() if ".lora_A." in k and len(shape) == 2}
    ups = {name: shapes.get(f"{name}.lora_B.weight") for name in downs}
    return AdapterLayers({name: (*downs[name], up[0]) for name, up in ups.items() if up is not None})


def keys_by_layer(
    settings: AttentionSettings | AttentionKind, grid: Grid, native: NativeGrid | None, layers: int
) -> list[float]:
    """Keys that a query of each block's self-attention is compared with, on the average over its queries.

    Raises:
        ValueError: The grid or the number of layers does not fit the kind of attention.
    """
    kind = kind_of(settings)
    kind.require_layers(layers)
    return [kind.keys(grid, native, layer) for layer in range(layers)]


def count_flops(
    config: Mapping[str, Any],
    grid: Grid,
    text_length: int,
    keys: Sequence[float] | None = None,
    adapters: Sequence[AdapterLayers] = (),
    per_token: bool = False,
    active: int | None = None,
) -> Flops:
    """One image or clip through a Wan transformer, and back if an adapter is trained.

    Args:
        config: The transformer's configuration.
        grid: (T, H, W) in tokens.
        text_length: Tokens of the text embedding.
        keys: By block, as :func:`keys_by_layer` gives them; None: all tokens.
        adapters: Beside the weights, frozen or trained.
        per_token: One timestep a token, where a first frame is held (TI2V models), and so a modulation a token.
        active: Tokens that go through the blocks, their queries over the keys of all; None: all.
    """
    every = math.prod(grid)
    tokens = every if active is None else active
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    rows = {"text": text_length, "time": tokens if per_token else 1, "tokens": tokens}
    first = min((_position(name) for a in adapters if a.trained for name in a.layers), default=END)
    forward, backward = 2.0 * every * math.prod(config["patch_size"]) * config["in_channels"] * dim, 0.0
    for name, (d_in, d_out) in linear_layers(config).items():
        cost = 2.0 * rows[sees(name)] * d_in * d_out
        forward += cost
        backward += cost * _input_has_gradient(name, first)
    for adapter in adapters:
        for name, (rank, d_in, d_out) in adapter.layers.items():
            down, up = (2.0 * rows[sees(name)] * rank * d for d in (d_in, d_out))
            forward += down + up
            backward += down * (_input_has_gradient(name, first) + adapter.trained)
            backward += up * ((adapter.trained or _input_has_gradient(name, first)) + adapter.trained)
    attention = list(_attention(keys or [every] * config["num_layers"], text_length))
    scores = [(position, 4.0 * tokens * compared * dim) for position, compared in attention]
    learning = sum(cost for position, cost in scores if first < position)
    return Flops(forward, backward, sum(cost for _, cost in scores), BACKWARD_ATTENTION * learning)


def transformer_flops(
    transformer: "WanTransformer3DModel", grid: Grid, text_length: int, per_token: bool = False
) -> Flops:
    """One image or clip with the adapters and the attention that are on a transformer; see :func:`count_flops`."""
    from vibe_pipeline.diffusion.attention import GclfAttnProcessor

    processors = [block.attn1.processor for block in transformer.blocks]
    keys = [
        p.installation.keys(grid, layer) if isinstance(p, GclfAttnProcessor) else float(math.prod(grid))
        for layer, p in enumerate(processors)
    ]
    return count_flops(transformer.config, grid, text_length, keys, adapters_on(transformer), per_token)


def adapters_on(transformer: "WanTransformer3DModel") -> list[AdapterLayers]:
    """The adapters that peft has put on a transformer."""
    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    trained = set()
    for name, module in transformer.named_modules():
        if match := re.fullmatch(r"(.+)\.lora_A\.([^.]+)", name):
            home, adapter = match.groups()
            up = transformer.get_submodule(f"{home}.lora_B.{adapter}")
            found.setdefault(adapter, {})[home] = (module.out_features, module.in_features, up.out_features)
            if module.weight.requires_grad:
                trained.add(adapter)
    return [AdapterLayers(layers, name in trained) for name, layers in found.items()]


def sees(name: str) -> str:
    """What a layer has a row for: every token of the text, every timestep, or every token of the image."""
    if "text_embedder" in name or re.search(r"attn2\.to_[kv]$", name):
        return "text"
    return "time" if "time_" in name else "tokens"


def _position(name: str) -> Position:
    """Where a linear layer stands; those outside the blocks come before or after all of them."""
    found = re.search(r"blocks\.(\d+)\.(.*)", name)
    if found is None:
        return (END[0], 0) if name.endswith("proj_out") else (-1, 0)
    stage = next((s for prefix, s in STAGES.items() if found[2].startswith(prefix)), 0)
    return int(found[1]), stage


def _input_has_gradient(name: str, first: Position) -> bool:
    """Whether a gradient flows back through a layer to the first place that is trained; text ends it."""
    return first < _position(name) and sees(name) != "text"


def _attention(keys: Sequence[float], text_length: int) -> Iterator[tuple[Position, float]]:
    """Each attention's position and the keys that one query is compared with."""
    for block, own in enumerate(keys):
        yield (block, 1), own
        yield (block, 3), text_length
