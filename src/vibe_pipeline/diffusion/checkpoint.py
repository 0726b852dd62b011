"""A Wan model on disk: finding it, judging it and its sizes, from configurations and headers alone.

Neither torch nor diffusers is imported here: a plan, and every start of a run, would wait seconds for them.
"""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from vibe_pipeline.diffusion.foreign import absent, describe_file, describe_folder
from vibe_pipeline.diffusion.support import (
    CLASSES,
    boundary_in,
    experts_of,
    kind_of_part,
    read_config,
    require_supported,
)
from vibe_pipeline.diffusion.weights import Once, made, require_weights
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.named import require_folder

SOURCES = MappingProxyType(
    {"vae": "models/autoencoders/autoencoder_kl_wan.py", "transformer": "models/transformers/transformer_wan.py"}
)
"""Where diffusers defines the parts that it has."""
SIZES = MappingProxyType(
    {
        "vae": ("z_dim", "scale_factor_spatial", "scale_factor_temporal"),
        "transformer": ("patch_size", "in_channels", "num_layers"),
        "text_encoder": ("d_model",),
    }
)


class Configured(Protocol):
    """What sizes are judged by: a checkpoint, or an architecture whose weights are not here."""

    def config_of(self, part: str) -> dict:
        """The configuration of `vae` or `transformer`."""


@dataclass(frozen=True)
class WanCheckpoint:
    """A Wan model on disk, in diffusers layout.

    Attributes:
        path: Its folder.
        expand_timesteps: Whether its transformer takes one timestep per token (TI2V).
        boundary: Of two experts, the noise level from which `transformer` works; below it `transformer_2` does.
    """

    path: Path
    expand_timesteps: bool
    boundary: float | None = None

    @property
    def name(self) -> str:
        """What errors and manifests call it."""
        return self.path.name

    @property
    def experts(self) -> tuple[str, ...]:
        """Its transformers, high noise first; adapters are trained on the last and belong to it."""
        return experts_of(self.boundary)

    def config_of(self, part: str) -> dict:
        """The configuration of a part (`vae`, `transformer`, …), without loading it.

        Raises:
            ValueError: It is damaged, or a size in it is none.
        """
        file = self.path / part / "config.json"
        # A file states only what the diffusers of its day knew: Wan2.1's VAE says nothing of its scale.
        content = class_defaults(part) | read_config(file)
        for name in SIZES.get(kind_of_part(part), ()):
            values = content.get(name)
            if not all(type(n) is int and n > 0 for n in (values if isinstance(values, list | tuple) else [values])):
                raise ValueError(f"{file}: {name} is {one_line(repr(values), 60)}; download the model again")
        return content


def class_defaults(part: str) -> dict[str, Any]:
    """What the class of a part takes where its configuration says nothing; nothing for parts that are transformers'."""
    kind = kind_of_part(part)
    return dict(_written_defaults(SOURCES[kind], CLASSES[kind])) if kind in SOURCES else {}


@cache
def _written_defaults(path: str, name: str) -> Mapping[str, Any]:
    """The defaults in the source of a class of diffusers.

    They are needed to judge a folder, and to import diffusers for them would take longer than all the rest of that.
    """
    package = importlib.util.find_spec("diffusers")
    if package is None or package.origin is None:
        raise ImportError("diffusers is not installed: pip install -r requirements/core.txt")
    tree = ast.parse((Path(package.origin).parent / path).read_text(encoding="utf-8"))
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    init = next(node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    named = init.args.args[-len(init.args.defaults) :]
    return {arg.arg: ast.literal_eval(value) for arg, value in zip(named, init.args.defaults, strict=True)}


def find_model(path_or_id: str) -> WanCheckpoint:
    """Find a model: a folder, or a hub id that was downloaded before; and judge it. Nothing is downloaded here.

    Raises:
        FileNotFoundError: Neither is there, or it is something else; the message says what, and what to get.
        ValueError: A configuration is damaged, or the model is one that would be run in part or not at all.
    """
    folder = _folder(path_or_id)
    index = folder / "model_index.json"
    if not index.exists():
        raise FileNotFoundError(describe_folder(folder))
    content = read_config(index)
    # Judged before the boundary is read: what is another family's is to be called so.
    require_supported(folder, content, WanCheckpoint(folder, False).config_of)
    return WanCheckpoint(folder, bool(content.get("expand_timesteps", False)), boundary_in(content, folder))


def _folder(path_or_id: str) -> Path:
    try:
        folder = Path(path_or_id)
        if folder.is_dir():
            return require_folder(folder, "model.path")
        if folder.is_file():
            raise FileNotFoundError(describe_file(folder))
        return _downloaded(path_or_id)
    except (FileNotFoundError, PermissionError):
        raise
    except (ValueError, OSError) as error:  # no id, or a name too long for a file
        raise FileNotFoundError(absent(path_or_id)) from error


def _downloaded(model_id: str) -> Path:
    """Where the hub's cache has a model; the hub's client is imported here, as a folder can do without it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(absent(model_id)) from error


def require_whole(model: WanCheckpoint, once: Once = made) -> None:
    """Refuse a model whose weights are not all there or not of its configurations; headers alone are read.

    Args:
        model: The checkpoint folder in diffusers' layout.
        once: As :func:`weights.require_weights` has it.

    Raises:
        ValueError: One line that names the files.
    """
    parts = (*SIZES, *model.experts[1:])
    require_weights(model.path, {part: model.config_of(part) for part in parts}, once)


def latent_shape(vae_config: dict, height: int, width: int, frames: int) -> tuple[int, int, int, int]:
    """(C, t, h, w) of a clip's latent, from the VAE's configuration."""
    space, time = vae_config["scale_factor_spatial"], vae_config["scale_factor_temporal"]
    return vae_config["z_dim"], (frames - 1) // time + 1, height // space, width // space


def tile_stride(vae_config: Mapping[str, Any], tile: int) -> int:
    """Pixels from one VAE tile to the next: about three quarters of one, so that neighbours overlap and are blended.

    diffusers cuts in pixels on one side of the VAE and in latent pixels on the other: both numbers must be whole there.

    Raises:
        ValueError: The tile does not fit; names the nearest that do.
    """
    space = vae_config["scale_factor_spatial"]
    if tile % space or tile < 4 * space:
        lower = max(4, tile // space) * space
        fits = " or ".join(str(n) for n in dict.fromkeys([lower, max(lower, -(-tile // space) * space)]))
        raise ValueError(
            f"model.tile {tile} must be a multiple of {space} pixels, the side of one latent pixel of this VAE, and at "
            f"least {4 * space}; nearest that fit: {fits}"
        )
    return tile * 3 // 4 // space * space


def size_step(model: Configured, pool: int | tuple[int, int] = 1) -> tuple[int, int]:
    """What height and width in pixels must be multiples of: a latent pixel, times the patch, times the pooling."""
    space, patch = model.config_of("vae")["scale_factor_spatial"], model.config_of("transformer")["patch_size"]
    sides = (pool, pool) if isinstance(pool, int) else pool
    rows, columns = (space * p * side for p, side in zip(patch[1:], sides, strict=True))
    return rows, columns


def require_fitting_size(
    model: Configured, height: int, width: int, what: str, pool: int | tuple[int, int] = 1
) -> None:
    """Refuse a size in pixels that does not fit the VAE, the transformer's patches and what attention cuts it into.

    Args:
        model: Its configurations count.
        height: In pixels.
        width: In pixels.
        what: The field that names the size.
        pool: Sides in tokens of what a frame must be cut into: tiles, or parts of buckets.

    Raises:
        ValueError: Names the nearest sizes that fit.
    """
    rows, columns = size_step(model, pool)
    if height % rows or width % columns:
        lower = max(1, height // rows), max(1, width // columns)
        upper = -(-height // rows), -(-width // columns)
        fits = " or ".join(f"{h * rows}x{w * columns}" for h, w in dict.fromkeys([lower, upper]))
        raise ValueError(f"{what} {height}x{width} must be a multiple of {rows}x{columns}; nearest that are: {fits}")


def token_grid(model: WanCheckpoint, height: int, width: int) -> tuple[int, int]:
    """The token grid (H, W) of a size in pixels, from the model's configuration; nothing is loaded."""
    _, _, rows, columns = latent_shape(model.config_of("vae"), height, width, 1)
    _, patch_height, patch_width = model.config_of("transformer")["patch_size"]
    return rows // patch_height, columns // patch_width


def clip_grid(model: WanCheckpoint, height: int, width: int, frames: int) -> tuple[int, int, int]:
    """The token grid (T, H, W) of a clip, likewise."""
    times = latent_shape(model.config_of("vae"), height, width, frames)[1]
    return times // model.config_of("transformer")["patch_size"][0], *token_grid(model, height, width)
