"""Changes of whole tensors that a LoRA file carries beside its low-rank updates: norms, biases, modulations.

Few-step LoRAs are published so (CausVid, lightx2v, FastWan). An adapter cannot hold them, since they change more than
linear layers. On request they are kept in a file beside the adapter, by diffusers' names of the parameters, and added
to the weights of an arm: in 32 bit, rounded once to the weights' own format. Afterwards the weights are put back bit
for bit, so that arms may share a model.

Sources: ComfyUI comfy/lora.py (`.diff`, `.diff_b`, `w_norm`, `b_norm`), lightx2v's extractor (`.diff_m` is the
modulation's), peft (`lora_B.bias`, which is scaled as the update is).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vibe_pipeline.diffusion.headers import read_header
from vibe_pipeline.diffusion.lora_keys import module_of, split_prefix
from vibe_pipeline.diffusion.lora_names import other_name
from vibe_pipeline.io.files import write_atomic

if TYPE_CHECKING:
    from vibe_pipeline.diffusion.lora_files import LowRank

log = logging.getLogger(__name__)

DIFFERENCES_NAME = "differences.safetensors"
MODULATION = "scale_shift_table"
_KINDS = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias", "diff_m": MODULATION}
_BIAS = re.compile(r"(?P<module>.+)\.lora_B(\.\w+)?\.bias")
_TABLE = re.compile(r"((?P<block>blocks[._]\d+)|head)?[._]?(modulation|scale_shift_table)?")


def parameter_of(key: str) -> str:
    """The parameter that a difference's key means, by diffusers' name.

    Raises:
        ValueError: No parameter of a Wan transformer.
    """
    rest = split_prefix(key)[1]
    if match := _BIAS.fullmatch(rest):
        return f"{_module(match['module'])}.bias"
    module, _, kind = rest.rpartition(".")
    table = _TABLE.fullmatch(module)
    if table and (kind == "diff_m" or module.endswith(("modulation", MODULATION))):
        block = table["block"]
        return f"{block.replace('_', '.')}.{MODULATION}" if block else MODULATION
    if kind not in _KINDS or kind == "diff_m":
        raise ValueError(f"{key} is not a difference of a parameter of a Wan transformer")
    return f"{_module(module)}.{_KINDS[kind]}"


def _module(name: str) -> str:
    """diffusers' name of a layer, a norm or the patch embedding, from either spelling."""
    for translate in (module_of, other_name):
        try:
            return translate(name)
        except ValueError:
            continue
    raise ValueError(f"{name} is not a layer of a Wan transformer")


def write_differences(
    differences: Mapping[str, Tensor],
    pairs: "Mapping[str, LowRank]",
    folder: Path,
    source: Path,
    base: nn.Module | None = None,
) -> int:
    """Keep an adapter file's differences beside it; without any, a file of an earlier import is removed.

    Args:
        differences: By their keys.
        pairs: The low-rank updates, whose scale a `lora_B.bias` shares.
        folder: Of the adapter.
        source: The file that they come from, for messages.
        base: Whose parameters they must fit, if it is known.

    Returns:
        How many there are.

    Raises:
        ValueError: One is not finite, means no parameter, one that another means too, or does not fit the base.
    """
    if not differences:
        (folder / DIFFERENCES_NAME).unlink(missing_ok=True)
        return 0
    named: dict[str, Tensor] = {}
    for key, tensor in differences.items():
        try:
            name = parameter_of(key)
        except ValueError as error:
            raise ValueError(f"{source}: {error}; nothing was imported") from error
        if name in named or not tensor.float().isfinite().all():
            said = "is the second difference of" if name in named else "holds NaN or infinity for"
            raise ValueError(f"{source}: {key} {said} {name}; nothing was imported")
        named[name] = (tensor.float() * _scale(key, name, pairs)).contiguous()
    if base is not None:
        _require_fit(source, {n: tuple(t.shape) for n, t in named.items()}, parameter_shapes(base))
    write_atomic(folder / DIFFERENCES_NAME, lambda p: save_file(named, p, {"format": "pt"}))
    return len(named)


def _scale(key: str, name: str, pairs: "Mapping[str, LowRank]") -> float:
    """1, but for a bias that peft trains with the update: alpha / rank."""
    pair = pairs.get(name.removesuffix(".bias")) if _BIAS.fullmatch(split_prefix(key)[1]) else None
    return 1.0 if pair is None or pair.alpha is None else pair.alpha / pair.rank


def parameter_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by its name without adapters; a transformer on the `meta` device will do."""
    return {name: tuple(p.shape) for name, p in _parameters(transformer).items()}


def _parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The base's own parameters: peft moves a layer that has an adapter to `base_layer`, and adds its own."""
    named = transformer.named_parameters()
    return {name.replace(".base_layer.", "."): p for name, p in named if ".lora_" not in name}


def check_differences(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Whether a file of differences fits, from its header alone.

    Args:
        path: The file that `import-adapter --differences` wrote.
        shapes: Of the base; see :func:`parameter_shapes`.

    Returns:
        How many parameters it changes.

    Raises:
        ValueError: Not such a file, or of another base; names the first parameter.
    """
    found = dict(read_header(path).shapes)
    _require_fit(path, found, shapes)
    return len(found)


def _require_fit(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not found:
        raise ValueError(f"{path} holds no differences")
    for name, shape in found.items():
        if name not in shapes:
            raise ValueError(f"{path} does not fit this base: it changes {name}, which the base has not")
        if shape != shapes[name]:
            raise ValueError(f"{path} was made for another base: {name} is {shapes[name]} here, {shape} there")


@contextmanager
def fused_differences(transformer: nn.Module, path: Path, weight: float = 1.0) -> Iterator[int]:
    """Inside, the differences of a file are in the weights; afterwards these are what they were, bit for bit.

    Several may be fused at once, if they are undone in the reverse order.

    Args:
        transformer: With or without adapters.
        path: As for :func:`check_differences`.
        weight: Factor of every difference, as of the adapter beside them.

    Raises:
        ValueError: As :func:`check_differences`; nothing was changed.
    """
    parameters = _parameters(transformer)
    count = check_differences(path, {name: tuple(p.shape) for name, p in parameters.items()})
    before: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, difference in load_file(path).items():
                parameter = parameters[name]
                before[name] = parameter.detach().clone()
                parameter.copy_(parameter.float() + weight * difference.to(parameter.device))
        log.info("%d parameters changed by %s, with weight %g", count, path, weight)
        yield count
    finally:
        with torch.no_grad():
            for name, value in before.items():
                if parameters[name].device.type != "meta":  # given up meanwhile
                    parameters[name].copy_(value)
