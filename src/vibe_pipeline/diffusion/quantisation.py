"""The frozen base in 8 or 4 bit: linear layers of the blocks hold bytes, adapters train on top in their own type.

`QUANTISATIONS` lists every kind; to add one, write its entry and list it. Weights alone are quantised: products are
computed in the transformer's type, and gradients go through to the adapters. peft puts its layers on top. Embeddings,
norms and the projections at both ends stay as they are: they are few and sensitive. No torch here but where weights are
changed, since a plan asks too.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.entries import known_entry

if TYPE_CHECKING:
    from torch import Tensor, nn

BLOCKS = "blocks."
"""What names of the transformer's blocks begin with."""
PACKAGES = {"torchao": "torchao>=0.18,<0.19", "bitsandbytes": "bitsandbytes>=0.50,<0.51"}
"""What quantises, and what to install."""


@dataclass(frozen=True)
class Quantisation:
    """One way to hold weights.

    Attributes:
        name: As `model.quantisation` says it.
        number_bytes: Of a weight, with what scales take that are not one a row.
        row_scales: Whether each output row has a scale, in the transformer's type.
        change: Puts bytes in place of the weights of a transformer's layers.
        package: That does it, a name in `PACKAGES`; None: torch alone.
    """

    name: str
    number_bytes: float
    row_scales: bool
    change: Callable[["nn.Module"], None]
    package: str | None = None


def _int8(transformer: "nn.Module") -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    _by_torchao(transformer, Int8WeightOnlyConfig())


def _fp8(transformer: "nn.Module") -> None:
    from torchao.quantization import Float8WeightOnlyConfig

    _by_torchao(transformer, Float8WeightOnlyConfig())


def _by_torchao(transformer: "nn.Module", config: Any) -> None:
    from torchao.quantization import quantize_

    from vibe_pipeline.diffusion.quantised_linear import QuantisedLinear

    quantize_(transformer, config, filter_fn=is_quantised)
    for part, module in transformer.named_modules():
        if is_quantised(module, part):
            module.__class__ = QuantisedLinear


def _fp8_cast(transformer: "nn.Module") -> None:
    from vibe_pipeline.diffusion.quantised_linear import Fp8CastLinear

    _packed(transformer, Fp8CastLinear.of)


def _nf4(transformer: "nn.Module") -> None:
    from vibe_pipeline.diffusion.quantised_linear import Nf4Linear

    _packed(transformer, Nf4Linear.of)


def _packed(transformer: "nn.Module", pack: Callable[[Any], object]) -> None:
    for part, module in transformer.named_modules():
        if is_quantised(module, part):
            pack(module)


QUANTISATIONS: Mapping[str, Quantisation] = {
    entry.name: entry
    for entry in (
        Quantisation("int8", 1, True, _int8, "torchao"),
        Quantisation("fp8", 1, True, _fp8, "torchao"),
        Quantisation("fp8_cast", 1, False, _fp8_cast),
        Quantisation("nf4", 0.5 + 4 / 64, False, _nf4, "bitsandbytes"),
    )
}


def known_quantisation(name: str) -> str:
    """The name of a kind, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    return known_entry(name, QUANTISATIONS, "quantisation")


def package_of(name: str | None) -> tuple[str, str]:
    """What a kind needs installed, and the command for it; two empty texts for None and for what torch does alone."""
    package = None if name is None else QUANTISATIONS[known_quantisation(name)].package
    return ("", "") if package is None else (package, f"pip install '{PACKAGES[package]}'")


def require_package(name: str | None) -> None:
    """Refuse a quantisation without the package that does it; None asks for none.

    Raises:
        ModuleNotFoundError: It is not installed; names the command that installs it.
        ValueError: No such kind.
    """
    package, command = package_of(name)
    if package and importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"model.quantisation {name} needs {package}: {command}, or set it to null")


def is_quantised(module: "nn.Module", name: str) -> bool:
    """Whether a module of a transformer is one whose weights are quantised: a linear layer of a block."""
    from torch import nn

    return isinstance(module, nn.Linear) and name.startswith(BLOCKS)


def quantise(transformer: "nn.Module", name: str) -> None:
    """Quantise a transformer's frozen weights in place, where they lie.

    Raises:
        ModuleNotFoundError: The package that does it is not installed.
        ValueError: No such kind, or numbers that it cannot hold.
    """
    require_package(name)
    QUANTISATIONS[known_quantisation(name)].change(transformer)
    transformer.requires_grad_(False)


def holds_plain_numbers(weight: "Tensor") -> bool:
    """Whether a weight is a plain tensor of numbers, which can be added to; bytes are rounded again by every sum."""
    import torch

    return type(weight.data) is torch.Tensor and weight.is_floating_point()
