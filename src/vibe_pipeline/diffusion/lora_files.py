"""Another program's adapter file, read: every key of it is understood, or the file is refused."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vibe_pipeline.diffusion.headers import read_header
from vibe_pipeline.diffusion.lora_keys import Key, kind_of, layout_of, parse_key, split_prefix
from vibe_pipeline.diffusion.tensors import read_state
from vibe_pipeline.io.errors import one_line

# Layouts whose writers leave alpha out only where it says nothing; others leave it to a file beside, or lose it.
ALPHA_IS_RANK = ("comfyui", "kohya", "lycoris", "diffsynth", "wan")
MIXABLE = {"comfyui", "diffsynth", "wan"}
"""Layouts that one file may mix, as CineScale's loader takes keys with `diffusion_model.` and without."""
WRAPPERS = ("state_dict", "module", "model", "lora")
"""Keys under which trainers keep the tensors of a pickle that holds more beside them."""


@dataclass(frozen=True)
class LowRank:
    """The update of one linear layer: (alpha / rank) B A, with A [rank, in] and B [out, rank]."""

    a: Tensor
    b: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Parsed:
    """What an adapter file says.

    Attributes:
        layout: What its layout is called.
        pairs: Updates by diffusers' name of the module.
        differences: Changes of whole tensors that are not zero, by their key.
        zeros: How many others there were, which say nothing.
    """

    layout: str
    pairs: Mapping[str, LowRank]
    differences: Mapping[str, Tensor] = field(default_factory=dict)
    zeros: int = 0


def read_adapter_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file: safetensors, or a pickle of tensors, which is never run.

    Raises:
        ValueError: Neither of them, or something else than tensors among them.
    """
    metadata = dict(read_header(path).metadata) if path.suffix == ".safetensors" else {}
    state: Mapping[str, Any] = read_state(path)
    inner = [state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)]
    state = inner[0] if inner else state
    if others := [k for k, v in state.items() if not isinstance(v, Tensor)]:
        raise ValueError(
            f"{path} is not an adapter: {len(others)} of its entries are not tensors, for example {others[:3]}"
        )
    return {str(k): v for k, v in state.items()}, metadata


def parse(tensors: Mapping[str, Tensor], path: Path) -> Parsed:
    """What every key of an adapter file says; prefixes may be mixed where they share one convention about alpha.

    Raises:
        ValueError: A key that is not a part of a low-rank update of a Wan transformer, two adapters in one file, an
            incomplete one.
    """
    if not tensors:
        raise ValueError(f"{path} is not an adapter of a Wan transformer; it is empty")
    _require_one_convention(tensors, path)
    layout = layout_of(tensors)
    keys, unknown = _understood(tensors)
    if unknown:
        kind = kind_of(unknown) or f"{layout} layout"
        raise ValueError(
            f"{path}: {len(unknown)} of its {len(tensors)} keys are not a low-rank update of a Wan transformer "
            f"({kind}), among them {sorted(unknown)[:3]}; nothing was imported"
        )
    differences = {name: tensors[name] for name, key in keys.items() if key.end == "difference"}
    state: dict[str, Tensor] = {}
    for name, key in keys.items():
        if str(key) in state:
            raise ValueError(f"{path} holds more than one adapter: {name} is the second of {key}; keep one a file")
        if key.end != "difference":
            state[str(key)] = tensors[name]
    changed = {n: t for n, t in differences.items() if t.numel() and bool((t.float() != 0).any())}
    if not state:
        what = "differences" if changed else "zeros"
        raise ValueError(f"{path} is not an adapter of a Wan transformer: it holds {len(differences)} {what} alone")
    return Parsed(layout, pairs_of(state, path), changed, len(differences) - len(changed))


def _require_one_convention(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Keys with and without `diffusion_model.` are one file; other programs' beside them are most likely two."""
    by_prefix: dict[str, list[str]] = {}
    for key in tensors:
        by_prefix.setdefault(split_prefix(key)[0], []).append(key)
    layouts = {prefix: layout_of(names) for prefix, names in by_prefix.items()}
    if len(layouts) > 1 and not set(layouts.values()) <= MIXABLE:
        kind = kind_of(tensors)
        raise ValueError(
            f"{path} is not an adapter of a Wan transformer; its keys begin in {len(layouts)} ways"
            f"{kind and f' ({kind})'}, for example {sorted(names[0] for names in by_prefix.values())[:3]}"
        )


def _understood(names: Iterable[str]) -> tuple[dict[str, Key], list[str]]:
    """Every name with what it says, and those that say nothing of a Wan transformer."""
    keys, unknown = {}, []
    for name in names:
        try:
            keys[name] = parse_key(split_prefix(name)[1])
        except ValueError:
            unknown.append(name)
    return keys, unknown


def refuse_differences(differences: Mapping[str, Tensor], total: int, path: Path) -> None:
    """Differences of whole tensors cannot lie beside a base as an adapter does.

    Raises:
        ValueError: There are any; names the first and says how they are taken along.
    """
    if differences:
        sizes = {name: float(tensor.float().abs().max()) for name, tensor in differences.items()}
        shown = ", ".join(f"{n} {list(differences[n].shape)} up to {size:.3g}" for n, size in sizes.items())
        raise ValueError(
            f"{path}: {len(differences)} of its {total} keys are differences of whole tensors that are not zero, which "
            f"an adapter cannot hold: {one_line(shown, 240)}; nothing was imported. With --differences they are kept "
            "beside it, and fused into the weights of arms that ask for them"
        )


def pairs_of(state: Mapping[str, Tensor], path: Path) -> dict[str, LowRank]:
    """Updates by module, out of tensors named `MODULE.lora_A.weight`, `.lora_B.weight`, `.alpha`.

    Raises:
        ValueError: A factor is missing, of another shape, or not finite.
    """
    modules = list(dict.fromkeys(k.removesuffix(".alpha").split(".lora_")[0] for k in state))
    halves = [m for m in modules if not {f"{m}.lora_A.weight", f"{m}.lora_B.weight"} <= state.keys()]
    if halves:
        raise ValueError(f"{path} is incomplete: {len(halves)} of its modules lack A or B, for example {halves[:3]}")
    pairs = {}
    for module in modules:
        a, b = state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"]
        stated = state.get(f"{module}.alpha")
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != a.shape[0] or (stated is not None and stated.numel() != 1):
            raise ValueError(f"{path}: A {tuple(a.shape)} and B {tuple(b.shape)} of {module} make no low-rank update")
        if not (a.float().isfinite().all() and b.float().isfinite().all()):
            raise ValueError(f"{path}: A or B of {module} holds NaN or infinity; nothing was imported")
        if stated is not None and not math.isfinite(stated):
            raise ValueError(f"{path}: alpha of {module} is {float(stated)}; nothing was imported")
        pairs[module] = LowRank(a.float(), b.float(), None if stated is None else float(stated))
    return pairs
