"""Adapter files of other programs: their key layouts, written from ours and read back.

Ours is diffusers' LoRA format with its scale in the metadata. The others name the modules as Wan's authors do:
`comfyui` (ComfyUI, and diffusers itself), `kohya` (musubi-tuner) and `diffsynth` (DiffSynth-Studio, in which the
paper's authors published theirs). Read, but not written, are `lycoris`, `peft` and `wan` (Wan's names
with no prefix). diffusers' own converters only read, multiply the scale into the weights and skip keys they do not
know, so they serve as the reference in the tests instead.
Sources: ComfyUI comfy/weight_adapter/lora.py, DiffSynth-Studio diffsynth/utils/lora/general.py (keys, and what a
missing alpha means: scale 1).
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import Tensor

from vibe_pipeline.diffusion.lora import WEIGHTS_NAME, read_adapter, require_safetensors, sort_metadata
from vibe_pipeline.diffusion.lora_differences import write_differences
from vibe_pipeline.diffusion.lora_files import (
    ALPHA_IS_RANK,
    LowRank,
    Parsed,
    pairs_of,
    parse,
    read_adapter_file,
    refuse_differences,
)
from vibe_pipeline.diffusion.lora_names import Layout, native_name
from vibe_pipeline.diffusion.weights import linear_shapes
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.files import write_atomic


@dataclass(frozen=True)
class Imported:
    """What an import found, and what it took the scale from.

    `zeros_dropped` counts differences that it left out since they were zero, `differences` those kept beside.
    """

    path: Path
    layout: str
    modules: int
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    scale_from: str
    zeros_dropped: int = 0
    differences: int = 0


def export_adapter(path: Path, layout: Layout, output: Path, fold: bool = False) -> Path:
    """Write an adapter file of ours in another program's layout.

    Args:
        path: An adapter in our (diffusers') layout.
        layout: `diffusers` is a checked copy.
        output: The new file, ending in .safetensors.
        fold: Multiply the scale into B and leave alpha out, for readers that know no alpha; B is then rounded
            unless alpha / rank is a power of two.

    Raises:
        ValueError: Not a file of ours, a module that the layout has no name for, or a name without .safetensors.
    """
    require_safetensors(output)
    state, config = read_adapter(path)
    pairs = _scaled(pairs_of(state, path), config)
    if layout == "diffusers":
        return write_atomic(output, lambda p: shutil.copyfile(path, p))
    tensors: dict[str, Tensor] = {}
    for module, pair in pairs.items():
        tensors |= _in_layout(native_name(module), _folded(pair) if fold else pair, layout)
    return write_atomic(output, lambda p: save_file(tensors, p, {"format": "pt"}))


def _in_layout(native: str, pair: LowRank, layout: Layout) -> dict[str, Tensor]:
    """Keys and tensors of one layer. diffsynth's have no alpha where it says nothing: the published form."""
    a, b, alpha = pair.a.contiguous(), pair.b.contiguous(), torch.tensor(float(pair.alpha or pair.rank))
    if layout == "diffsynth":
        weights = {f"{native}.lora_A.default.weight": a, f"{native}.lora_B.default.weight": b}
        return weights if pair.alpha == pair.rank else weights | {f"{native}.alpha": alpha}
    name = f"diffusion_model.{native}" if layout == "comfyui" else f"lora_unet_{native.replace('.', '_')}"
    return {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": alpha}


def _folded(pair: LowRank) -> LowRank:
    scale = (pair.alpha or pair.rank) / pair.rank
    return LowRank(pair.a, (pair.b.double() * scale).to(pair.b.dtype), float(pair.rank))


def import_adapter(
    path: Path,
    folder: Path,
    alpha: float | None = None,
    base: WanTransformer3DModel | None = None,
    differences: bool = False,
) -> Imported:
    """Read an adapter in any of the layouts and write it in ours, 32 bit, as `folder`/pytorch_lora_weights.safetensors.

    Args:
        path: A safetensors file, or a pickle of tensors, which is read as tensors alone.
        folder: Gets the file, and `differences.safetensors` beside it where there are any that are kept.
        alpha: For a file that does not state its own.
        base: A transformer whose layers the adapter must fit; on the `meta` device it needs no weights.
        differences: Keep changes of whole tensors that are not zero; else they are refused.

    Raises:
        ValueError: A pickle that holds more than tensors; keys that are not a low-rank update of a Wan transformer; a
            difference that is not zero, unless they are kept; another base; an alpha that contradicts the file's own,
            or none where the layout has no convention.
    """
    tensors, metadata = read_adapter_file(path)
    found = parse(tensors, path)
    if not differences:
        refuse_differences(found.differences, len(tensors), path)
    pairs, scale_from = _with_scale(found, alpha, path, LORA_ADAPTER_METADATA_KEY in metadata)
    if base is not None:
        require_fit(pairs, base, path)
    kept = write_differences(found.differences, pairs, folder, path, base)
    _write_ours(pairs, folder)
    ranks = tuple(sorted({p.rank for p in pairs.values()}))
    alphas = tuple(sorted({float(p.alpha or p.rank) for p in pairs.values()}))
    return Imported(
        path=folder / WEIGHTS_NAME,
        layout=found.layout,
        modules=len(pairs),
        ranks=ranks,
        alphas=alphas,
        scale_from=scale_from,
        zeros_dropped=found.zeros,
        differences=kept,
    )


def require_fit(pairs: Mapping[str, LowRank], base: WanTransformer3DModel, path: Path) -> None:
    """Refuse an adapter of another base.

    Raises:
        ValueError: Names modules that do not exist, or whose shape differs.
    """
    layers = linear_shapes(base)
    if strangers := sorted(pairs.keys() - layers.keys()):
        image = any(".add_" in name or "image_embedder" in name for name in strangers)
        raise ValueError(
            f"{path} does not fit this base: {len(strangers)} of its {len(pairs)} modules do not exist there, "
            f"among them {strangers[:3]}{' (an image-to-video base has them)' if image else ''}"
        )
    for module, pair in pairs.items():
        shape = (pair.b.shape[0], pair.a.shape[1])
        if shape != layers[module]:
            raise ValueError(f"{path} was trained on another base: {module} is {layers[module]} here, {shape} there")


def _with_scale(found: Parsed, alpha: float | None, path: Path, described: bool) -> tuple[Mapping[str, LowRank], str]:
    """Every pair with its alpha, and what says so; `described`: the file's metadata may.

    Raises:
        ValueError: No alpha where the layout has no convention, or one that contradicts the file's own.
    """
    pairs, scale_from = found.pairs, "alpha in the file"
    if found.layout == "diffusers" and described:
        _, config = read_adapter(path)
        pairs, scale_from = _scaled(pairs, config), "the file's metadata"
    elif any(p.alpha is None for p in pairs.values()):
        pairs, scale_from = _with_alpha(pairs, alpha, found.layout, path)
    if alpha is not None and any(p.alpha != alpha for p in pairs.values()):
        stated = sorted({p.alpha for p in pairs.values() if p.alpha is not None})
        raise ValueError(f"{path} states alpha {stated}, not {alpha}: leave out --alpha, the file knows")
    return pairs, scale_from


def _scaled(pairs: Mapping[str, LowRank], config: Mapping[str, Any]) -> dict[str, LowRank]:
    """Alphas from a LoRA configuration; a pattern names modules that differ from the rest."""
    if config.get("use_rslora"):
        raise ValueError("the adapter uses rank-stabilised scaling, which the other layouts cannot state")
    patterns = config.get("alpha_pattern") or {}
    alphas = {m: patterns.get(get_pattern_key(patterns, m), config["lora_alpha"]) for m in pairs}
    return {m: LowRank(p.a, p.b, float(alphas[m])) for m, p in pairs.items()}


def _with_alpha(
    pairs: Mapping[str, LowRank], alpha: float | None, layout: str, path: Path
) -> tuple[dict[str, LowRank], str]:
    beside = path.with_name("adapter_config.json")
    if alpha is None and layout == "peft" and beside.is_file():
        return _scaled(pairs, _peft_config(beside)), beside.name
    if alpha is None and layout not in ALPHA_IS_RANK:
        raise ValueError(f"{path} does not state its alpha, and trainers differ in what they leave out: give --alpha")
    filled = {m: p if p.alpha is not None else LowRank(p.a, p.b, float(alpha or p.rank)) for m, p in pairs.items()}
    if alpha is not None:
        return filled, "--alpha"
    return filled, f"the convention of the {layout} layout: a file without alpha means alpha = rank"


def _peft_config(path: Path) -> dict[str, Any]:
    """What peft writes beside its weights.

    Raises:
        ValueError: It states no scale.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content | {"lora_alpha": float(content["lora_alpha"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} states no lora_alpha: {one_line(error)}; give --alpha") from error


def _write_ours(pairs: Mapping[str, LowRank], folder: Path) -> None:
    rank = Counter(p.rank for p in pairs.values()).most_common(1)[0][0]
    alpha = Counter(p.alpha for p in pairs.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(pairs),
        rank_pattern={m: p.rank for m, p in pairs.items() if p.rank != rank},
        alpha_pattern={m: p.alpha for m, p in pairs.items() if p.alpha != alpha},
    ).to_dict()
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    state = {f"{m}.lora_{x}.weight": t.contiguous() for m, p in pairs.items() for x, t in (("A", p.a), ("B", p.b))}

    def write(temporary: Path) -> None:
        """By diffusers' own writer, with its metadata in a fixed order."""
        WanPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=state,
            transformer_lora_adapter_metadata=config,
            weight_name=temporary.name,
        )
        sort_metadata(temporary)  # clips are known by the adapter's bytes: imported again, it is the same file

    write_atomic(folder / WEIGHTS_NAME, write)
