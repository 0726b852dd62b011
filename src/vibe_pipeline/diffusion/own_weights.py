"""All weights of a transformer in files of their own, such as T3-Video's, in place of the base's.

Names are diffusers' or Wan's own, which diffusers' converter translates, behind any prefix. Configuration, precision
and buffers stay the base's. That is why weights are copied into the loaded base: diffusers' `from_single_file` would
bring modulations, norms and the tables of RoPE to 16 bit, which `from_pretrained` keeps in 32.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.headers import read_header
from vibe_pipeline.diffusion.support import read_config
from vibe_pipeline.diffusion.weights import STEMS, expected_shapes, made, shape_faults, shards_of
from vibe_pipeline.io.errors import one_line

if TYPE_CHECKING:
    from torch import nn

NUMBERS = frozenset({"F64", "F32", "F16", "BF16"})
ANIMATED = ("motion_encoder.", "face_adapter.")  # of Wan-Animate, whose converter needs more than names


def require_own_weights(path: Path, config: Mapping[str, Any], base: str) -> str:
    """Refuse a file, or a folder of shards, that does not hold every weight of the base's transformer; by headers.

    Args:
        path: A .safetensors file, or a folder as diffusers writes transformers.
        config: Of the base's transformer.
        base: Its name, for the message.

    Returns:
        What is there: the number of tensors and whose names they have.

    Raises:
        ValueError: One line: the file, and tensors that are missing, unknown, of another shape or type.
    """
    expected, ignored = expected_shapes("transformer", config, made)
    shapes, types = _stored(path)
    names, whose = diffusers_names(shapes, expected)
    faults = list(
        shape_faults({names[n]: shape for n, shape in shapes.items()}, expected, ignored, f"{base}'s transformer")
    )
    if coded := sorted(set(types.values()) - NUMBERS):
        faults.append(f"holds {coded[0]} numbers, whose scales are not read: give weights of 16 or 32 bit")
    if any(".lora_" in name for name in shapes):
        faults = ["is a LoRA, not a whole transformer: name it in the arm's extra_adapters"]
    if faults:
        raise ValueError(f"{one_line(path)} {'; it '.join(faults)}")
    return f"{path}: {len(shapes)} tensors, {whose}"


def load_own_weights(transformer: "nn.Module", path: Path, base: str) -> None:
    """Copy every weight of the files into the base's transformer, in its precision, a tensor at a time.

    Raises:
        ValueError: As :func:`require_own_weights`.
    """
    import torch
    from safetensors import safe_open

    require_own_weights(path, dict(transformer.config), base)
    state = transformer.state_dict()
    names, _ = diffusers_names(_stored(path)[0], state)
    with torch.no_grad():
        for file in _files(path):
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 (not a mapping)
                    state[names[name]].copy_(stored.get_tensor(name))


def diffusers_names(stored: Iterable[str], expected: Iterable[str]) -> tuple[dict[str, str], str]:
    """The name in diffusers' layout of every stored tensor, and in words whose names they have.

    Args:
        stored: As the files name them.
        expected: As diffusers' class names them.
    """
    stored, expected = list(stored), set(expected)
    prefix = next((name[: name.index("blocks.0.")] for name in stored if "blocks.0." in name), "")
    bare = {name: name.removeprefix(prefix) for name in stored}
    said = f" behind {prefix!r}" if prefix else ""
    if expected <= set(bare.values()):
        return bare, f"diffusers' names{said}"
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    plain = {short: name for name, short in bare.items() if not short.startswith(ANIMATED)}
    converted = {name: new for new, name in convert_wan_transformer_to_diffusers(plain).items()}
    return bare | converted, f"Wan's names{said}"


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    names = shards_of(path, STEMS["transformer"])
    if lacking := [name for name in names if not (path / name).is_file()]:
        raise ValueError(f"{one_line(path)} lacks {lacking[0]}: give a .safetensors file, or a folder with all shards")
    config = path / "config.json"
    named = read_config(config).get("_class_name") if config.is_file() else None
    if named not in (None, "WanTransformer3DModel"):
        raise ValueError(f"{one_line(path)} is a {one_line(named, 40)}, not a WanTransformer3DModel")
    return [path / name for name in names]


def _stored(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and types of all tensors of the files."""
    headers = [read_header(file) for file in _files(path)]
    return {n: s for h in headers for n, s in h.shapes.items()}, {n: t for h in headers for n, t in h.types.items()}
