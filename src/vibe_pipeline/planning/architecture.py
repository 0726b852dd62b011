"""The parts of a Wan model without their weights: from its folder, or from configurations kept here.

Source of those kept: the models' own config.json files, as diffusers' conversion script writes them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.checkpoint import WanCheckpoint, find_model, latent_shape
from vibe_pipeline.diffusion.quantisation import BLOCKS, is_quantised
from vibe_pipeline.diffusion.support import experts_of
from vibe_pipeline.diffusion.weights import on_meta
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.io.errors import did_you_mean

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from torch import nn
    from transformers import UMT5EncoderModel

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Architecture:
    """Configurations of a model's parts, and where they were read; of two experts, the level where they change."""

    name: str
    source: str
    expand_timesteps: bool
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    boundary: float | None = None

    @property
    def experts(self) -> tuple[str, ...]:
        """Its transformers, alike in size, high noise first; adapters belong to the last."""
        return experts_of(self.boundary)

    def config_of(self, part: str) -> dict[str, Any]:
        """The configuration of `transformer`, `vae` or `text_encoder`, as a checkpoint gives it."""
        return dict({"transformer": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder}[part])

    def latent(self, size: ClipSize) -> tuple[int, int, int, int]:
        """(C, t, h, w) of a clip's latent."""
        return latent_shape(dict(self.vae), size.height, size.width, size.frames)

    def grid(self, size: ClipSize) -> Grid:
        """(T, H, W) of a clip in tokens."""
        patch = self.transformer["patch_size"]
        return tuple(n // p for n, p in zip(self.latent(size)[1:], patch, strict=True))

    def build_transformer(self, layers: int | None = None) -> "WanTransformer3DModel":
        """The transformer on the meta device, frozen; with `layers` blocks instead of its own number."""
        changed = {} if layers is None else {"num_layers": layers}
        return on_meta("transformer", dict(self.transformer) | changed)

    def build_vae(self) -> "AutoencoderKLWan":
        """The VAE on the meta device, frozen."""
        return on_meta("vae", self.vae)

    def build_text_encoder(self) -> "UMT5EncoderModel":
        """The text encoder on the meta device, frozen."""
        return on_meta("text_encoder", self.text_encoder)

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Parameters of each part; of two experts, of either."""
        parts = {
            "transformer": self.build_transformer(),
            "vae": self.build_vae(),
            "text_encoder": self.build_text_encoder(),
        }
        return {name: count_parameters(module) for name, module in parts.items()}

    @cached_property
    def quantised(self) -> tuple[int, int, int]:
        """Of the layers that `model.quantisation` quantises: weights, output rows, and the weights of the largest."""
        modules = self.build_transformer().named_modules()
        weights = [module.weight for name, module in modules if is_quantised(module, name)]
        return sum(w.numel() for w in weights), sum(len(w) for w in weights), max(w.numel() for w in weights)

    @cached_property
    def block(self) -> tuple[tuple[int, bool], ...]:
        """Weights of one block of the transformer: numbers of each, and whether `model.quantisation` quantises them."""
        found = []
        for name, module in self.build_transformer(1).named_modules():
            if name.startswith(BLOCKS):
                held = is_quantised(module, name)
                found += [(p.numel(), held and key == "weight") for key, p in module.named_parameters(recurse=False)]
        return tuple(found)


def count_parameters(module: "nn.Module") -> int:
    """Numbers in a module's weights."""
    return sum(p.numel() for p in module.parameters())


def load_architecture(path_or_id: str, option: str = "") -> Architecture:
    """The architecture of a model on disk, or of one that is known here by its hub id or name.

    Args:
        path_or_id: A folder, a hub id or a name.
        option: What was given it on the command line; if nothing, it is the parameter model.path, which takes no name.

    Raises:
        FileNotFoundError: Neither; the message lists what is known.
    """
    try:
        return _from_folder(find_model(path_or_id))
    except FileNotFoundError:
        pass  # no folder and not downloaded: its configuration may be kept in this package
    known: dict[str, str] = {}
    for file in files("vibe_pipeline.planning").joinpath("architectures").iterdir():
        content = json.loads(file.read_text())
        called = {content["id"].lower(), content["id"].split("/")[-1].lower(), file.name.removesuffix(".json")}
        if {path_or_id.lower(), path_or_id.rstrip("/").split("/")[-1].lower()} & called:
            parts = {k: content[k] for k in ("expand_timesteps", "transformer", "vae", "text_encoder")}
            parts["boundary"] = content.get("boundary_ratio")
            return Architecture(content["id"], "configuration kept in this package; the weights are not here", **parts)
        known[content["id"]] = file.name.removesuffix(".json")
    names = sorted(known.values() if option else known)
    field, near = option or "model.path", did_you_mean(path_or_id, names) or ";"
    raise FileNotFoundError(f"{field} {path_or_id!r} is not on disk{near} known without weights: {', '.join(names)}")


def _from_folder(model: WanCheckpoint) -> Architecture:
    parts = {part: model.config_of(part) for part in ("transformer", "vae", "text_encoder")}
    source = f"configuration in {model.path}"
    return Architecture(model.name, source, model.expand_timesteps, **parts, boundary=model.boundary)
