"""The frozen base in 8 bit, by torchao: linear layers of the blocks hold one byte a number, adapters train on top.

`QUANTISATIONS` lists every kind; to add one, write its entry and list it. Weights alone are quantised: each output row
has a scale of its own, products are computed in the transformer's type, and gradients go through to the adapters. peft
puts its layers on top. Embeddings, norms and the projections at both ends stay as they are: they are few and sensitive.
No torch here but where weights are changed, since a plan asks too.
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


@dataclass(frozen=True)
class Quantisation:
    """One way to hold weights.

    Attributes:
        name: As `model.quantisation` says it.
        number_bytes: Of a weight.
        config: torchao's configuration.
    """

    name: str
    number_bytes: int
    config: Callable[[], Any]


def _int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()


def _fp8() -> Any:
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig()


QUANTISATIONS: Mapping[str, Quantisation] = {
    entry.name: entry for entry in (Quantisation("int8", 1, _int8), Quantisation("fp8", 1, _fp8))
}


def known_quantisation(name: str) -> str:
    """The name of a kind, as it is.

    Raises:
        ValueError: There is none of that name; lists those there are.
    """
    return known_entry(name, QUANTISATIONS, "quantisation")


def require_torchao(name: str | None) -> None:
    """Refuse a quantisation without the package that does it; None asks for none.

    Raises:
        ModuleNotFoundError: torchao is not installed; names the command that installs it.
    """
    if name is not None and importlib.util.find_spec("torchao") is None:
        raise ModuleNotFoundError(
            f"model.quantisation {name} needs torchao: pip install 'torchao>=0.18,<0.19', or set it to null"
        )


def is_quantised(module: "nn.Module", name: str) -> bool:
    """Whether a module of a transformer is one whose weights are quantised: a linear layer of a block."""
    from torch import nn

    return isinstance(module, nn.Linear) and name.startswith(BLOCKS)


def quantise(transformer: "nn.Module", name: str) -> None:
    """Quantise a transformer's frozen weights in place, where they lie.

    Raises:
        ModuleNotFoundError: torchao is not installed.
        ValueError: No such kind.
    """
    require_torchao(name)
    from torchao.quantization import quantize_

    from vibe_pipeline.diffusion.quantised_linear import QuantisedLinear

    quantize_(transformer, QUANTISATIONS[known_quantisation(name)].config(), filter_fn=is_quantised)
    for part, module in transformer.named_modules():
        if is_quantised(module, part):
            module.__class__ = QuantisedLinear
    transformer.requires_grad_(False)


def holds_plain_numbers(weight: "Tensor") -> bool:
    """Whether a weight is an ordinary tensor, which can be added to; a quantised one is rounded again by every sum."""
    import torch

    return type(weight.data) is torch.Tensor
