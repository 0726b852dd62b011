"""Relay LoRA: adding, fusing, dropping, saving and loading low-rank updates of a diffusers transformer.

Stage 1 trains D1 on W0. Stage 2 fuses D1 into the base and trains a fresh D2: W0 + D1 + D2. Inference uses
the ORIGINAL base plus D2 alone: W0 + D2. Weights of 16 bit cannot take up an update as small as D1, which
is fused into them by standing beside them, frozen. An adapter file is in diffusers' LoRA format with its scale in the
metadata: without it, an alpha other than the rank is reloaded wrongly and in silence.
"""

import json
import math
import shlex
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

from vibe_pipeline.diffusion.headers import read_header
from vibe_pipeline.diffusion.lora_keys import is_importable, kind_of
from vibe_pipeline.diffusion.precision import fuses_exactly
from vibe_pipeline.diffusion.quantisation import holds_plain_numbers
from vibe_pipeline.io.errors import one_line

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
FUSED = "D1"
"""Name of an adapter that is fused by standing beside the weights; rows of the tables are named in lower case."""


def add_adapter(
    transformer: WanTransformer3DModel, name: str, rank: int, alpha: float, targets: tuple[str, ...], seed: int
) -> None:
    """Add a fresh trainable adapter (B = 0, so the output does not change yet) and freeze everything else.

    Raises:
        ValueError: No module's name ends in one of `targets`.
    """
    before = _loaded(transformer)
    with torch.random.fork_rng(devices=[]), _several_are_meant():
        torch.manual_seed(seed)
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)), adapter_name=name)
    _switch_on(transformer, before, name)
    transformer.requires_grad_(False)
    for parameter in adapter_parameters(transformer, name).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def adapter_parameters(transformer: WanTransformer3DModel, name: str) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name, in a fixed order."""
    return {k: p for k, p in transformer.named_parameters() if f".lora_A.{name}." in k or f".lora_B.{name}." in k}


def adapter_state(transformer: WanTransformer3DModel, name: str) -> dict[str, Tensor]:
    """The adapter's weights, with the keys of diffusers' format but no prefix."""
    state = get_peft_model_state_dict(transformer, adapter_name=name)
    return {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in state.items()}


def set_adapter_state(transformer: WanTransformer3DModel, name: str, state: dict[str, Tensor]) -> None:
    """Put weights of :func:`adapter_state` into an adapter that is already there."""
    set_peft_model_state_dict(transformer, state, adapter_name=name)


def save_adapter(transformer: WanTransformer3DModel, name: str, folder: Path) -> Path:
    """Write the adapter as `pytorch_lora_weights.safetensors`, its configuration in the metadata.

    Equal adapters give equal files, so that two machines can compare theirs by hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = transformer.peft_config[name].to_dict()
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    WanPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=adapter_state(transformer, name),
        transformer_lora_adapter_metadata=config,
    )
    sort_metadata(folder / WEIGHTS_NAME)
    return folder / WEIGHTS_NAME


def sort_metadata(path: Path) -> None:
    """safetensors writes metadata in an order that differs from process to process; sorted, it takes the same room."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(content.ljust(size))


def require_safetensors(path: Path) -> None:
    """Refuse any other kind of file by its name.

    Raises:
        ValueError: Another ending: a pickle, most likely.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not .safetensors; other formats are pickles, which can run code: `kedro vibe import-adapter` "
            "alone reads them, as tensors"
        )


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights (keys without prefix) and configuration of an adapter file.

    Raises:
        ValueError: Not a safetensors file, not an adapter of a Wan transformer, values that are not finite, or
            without its scale.
    """
    _, config = _described(path)
    state = load_file(path)
    if broken := [k for k, v in state.items() if not (v.is_floating_point() and bool(v.float().isfinite().all()))]:
        raise ValueError(
            f"{path}: {len(broken)} of its {len(state)} tensors hold NaN, infinity or whole numbers, for example "
            f"{broken[:3]}"
        )
    return {k.removeprefix(PREFIX): v for k, v in state.items()}, config


def check_adapter(path: Path, layers: Mapping[str, tuple[int, ...]]) -> int:
    """Whether an adapter file could be loaded, from its header alone.

    Args:
        path: The adapter's safetensors file, in diffusers' layout.
        layers: [out, in] of the base's linear layers by name; see `weights.linear_shapes`.

    Returns:
        How many layers it changes.

    Raises:
        ValueError: As :func:`load_adapter`, but for values that are not finite, which only reading shows.
    """
    shapes, config = _described(path)
    _require_fit(layers, path, shapes, config)
    return len(shapes) // 2


def _described(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Shapes (keys without prefix) and configuration of an adapter file, from its header."""
    require_safetensors(path)
    header = read_header(path)
    foreign = [k for k in header.shapes if not k.startswith(PREFIX) or "lora_" not in k]
    metadata = header.metadata.get(LORA_ADAPTER_METADATA_KEY)
    convert = f"`kedro vibe import-adapter {shlex.quote(str(path))} --output DIR`"
    if foreign or not header.shapes:
        layout = is_importable(header.shapes) if foreign else ""
        if layout:
            raise ValueError(
                f"{path} is in the {layout} layout, not in ours: convert it with {convert}, and name its file"
            )
        kind = kind_of(foreign) if foreign else ""
        found = f"its keys begin {one_line(foreign[:3])}{kind and f' ({kind})'}" if foreign else "it is empty"
        raise ValueError(f"{path} is not an adapter of a Wan transformer; {found}")
    if metadata is None:
        raise ValueError(
            f"{path} does not state its rank and alpha in the metadata key {LORA_ADAPTER_METADATA_KEY!r}: give them "
            f"with {convert[:-1]} --alpha ALPHA`, and name its file"
        )
    return {k.removeprefix(PREFIX): v for k, v in header.shapes.items()}, _config(metadata, path)


def _config(metadata: str, path: Path) -> dict[str, Any]:
    """The stated LoRA configuration, without the prefix."""
    try:
        config = {k.removeprefix(PREFIX): v for k, v in json.loads(metadata).items()}
        if not (isinstance(config["r"], int) and config["r"] >= 1 and math.isfinite(config["lora_alpha"])):
            raise ValueError(f"rank {config['r']}, alpha {config['lora_alpha']}")
        get_pattern_key((config.get("rank_pattern") or {}).keys(), "")
        LoraConfig(**config)  # as diffusers will do, which would not name the file
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} states no usable rank and alpha in the metadata key {LORA_ADAPTER_METADATA_KEY!r} "
            f"({type(error).__name__}: {one_line(error)}): {one_line(metadata, 80)!r}"
        ) from error
    return config


def load_adapter(transformer: WanTransformer3DModel, path: Path, name: str, weight: float = 1.0) -> None:
    """Load an adapter file and switch it on beside those already loaded.

    Raises:
        ValueError: The file is not an adapter, or its modules are not this transformer's: never a silent no-op.
    """
    state, config = read_adapter(path)
    modules = {k: m for k, m in transformer.named_modules() if isinstance(m, torch.nn.Linear | BaseTunerLayer)}
    layers = {k: (m.out_features, m.in_features) for k, m in modules.items()}  # a packed weight has another shape
    _require_fit(layers, path, {k: tuple(v.shape) for k, v in state.items()}, config)
    before = _loaded(transformer)
    prefixed = {PREFIX + k: v for k, v in state.items()}
    with _several_are_meant():
        transformer.load_lora_adapter(prefixed, adapter_name=name, metadata={PREFIX + k: v for k, v in config.items()})
    _switch_on(transformer, before, name, weight)


def _switch_on(transformer: WanTransformer3DModel, before: list[str], name: str, weight: float = 1.0) -> None:
    """Adding an adapter switches the others off: switch all on, those before with the weights that they had."""
    transformer.set_adapters([*before, name], [*[_weight(transformer, n) for n in before], weight])


def _require_fit(
    layers: Mapping[str, tuple[int, ...]], path: Path, shapes: Mapping[str, tuple[int, ...]], config: dict[str, Any]
) -> None:
    """Refuse what would be loaded in part, or raise without the file's name, once the transformer has changed."""
    wanted = {k.split(".lora_")[0] for k in shapes}
    if strangers := sorted(wanted - layers.keys()):
        raise ValueError(
            f"{path} does not fit this transformer: {len(strangers)} of its {len(wanted)} modules do not exist, "
            f"among them {strangers[:3]}"
        )
    if halves := sorted(m for m in wanted if not {f"{m}.lora_A.weight", f"{m}.lora_B.weight"} <= shapes.keys()):
        raise ValueError(
            f"{path} is incomplete: {len(halves)} of its modules lack lora_A or lora_B, for example {halves[:3]}"
        )
    patterns = config.get("rank_pattern") or {}
    for module in wanted:
        a, b = shapes[f"{module}.lora_A.weight"], shapes[f"{module}.lora_B.weight"]
        rank = patterns.get(get_pattern_key(patterns.keys(), module), config["r"])
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise ValueError(f"{path}: A {a} and B {b} of {module} are not an update of the stated rank {rank}")
        if (b[0], a[1]) != layers[module]:
            raise ValueError(
                f"{path} was trained on another base: {module} is {layers[module]} here, {(b[0], a[1])} there"
            )


def fuse_adapter(transformer: WanTransformer3DModel, path: Path) -> None:
    """Add an adapter to the weights for good (W0 + D1) and freeze the result.

    Weights of 32 bit take it up. In 16 bit an update is smaller than the steps between the weights: rounding would
    swallow a share of it (see `fuses_exactly`). There it stays beside them as the frozen adapter `FUSED`, under
    whatever is added later: W0 x + D1 x. So it does beside quantised weights, whose steps are larger still.
    """
    load_adapter(transformer, path, FUSED)
    changed = [m for m in transformer.modules() if isinstance(m, BaseTunerLayer)]
    weights = [m.get_base_layer().weight for m in changed]
    if all(fuses_exactly(w.dtype, not holds_plain_numbers(w)) for w in weights):
        transformer.fuse_lora(safe_fusing=True, adapter_names=[FUSED])
        transformer.unload_lora()
    transformer.requires_grad_(False)


def fused_key(key: str, dtype: torch.dtype, quantised: bool) -> str:
    """What a fused adapter adds to the key of what is made with it: which one it is, and how it is fused."""
    return key if fuses_exactly(dtype, quantised) else f"{key}-beside"


@contextmanager
def _several_are_meant() -> Iterator[None]:
    """peft warns of every adapter after the first, and that quantised layers cannot be fused, which they never are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated without")
        yield


def _loaded(transformer: WanTransformer3DModel) -> list[str]:
    return list(getattr(transformer, "peft_config", None) or {})


def _weight(transformer: WanTransformer3DModel, name: str) -> float:
    layer = next(m for m in transformer.modules() if isinstance(m, BaseTunerLayer) and name in m.scaling)
    return layer.scaling[name] * layer.r[name] / layer.lora_alpha[name]
