"""Loading a Wan model's parts, one at a time, and speaking to them: text, pixels, velocity.

The miniature is a folder of the same classes, so there is no second code path for it. Parts are loaded
separately because text encoder, transformer and VAE of the real models need not sit in memory together.

diffusers and transformers are imported by what loads a part, not at the top: finding and judging a folder, which a plan
and every start of a run do, would wait seconds for them.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from vibe_pipeline.diffusion.foreign import absent, describe_file, describe_folder
from vibe_pipeline.diffusion.lifetime import released
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.onednn import use_onednn
from vibe_pipeline.diffusion.support import read_config, require_supported
from vibe_pipeline.diffusion.weights import Once, made, require_weights
from vibe_pipeline.io.errors import brief
from vibe_pipeline.io.named import require_folder

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

T = TypeVar("T")
CLASSES = MappingProxyType(
    {
        "vae": ("models/autoencoders/autoencoder_kl_wan.py", "AutoencoderKLWan"),
        "transformer": ("models/transformers/transformer_wan.py", "WanTransformer3DModel"),
    }
)
"""Where diffusers defines the parts that it has."""
SIZES = MappingProxyType(
    {
        "vae": ("z_dim", "scale_factor_spatial", "scale_factor_temporal"),
        "transformer": ("patch_size", "in_channels", "num_layers"),
        "text_encoder": ("d_model",),
    }
)


@dataclass(frozen=True)
class WanFolder:
    """A Wan model on disk, in diffusers layout."""

    path: Path
    expand_timesteps: bool

    @property
    def name(self) -> str:
        """What errors and manifests call it."""
        return self.path.name

    def config_of(self, part: str) -> dict:
        """The configuration of a part (`vae`, `transformer`, …), without loading it.

        Raises:
            ValueError: It is damaged, or a size in it is none.
        """
        file = self.path / part / "config.json"
        # A file states only what the diffusers of its day knew: Wan2.1's VAE says nothing of its scale.
        content = class_defaults(part) | read_config(file)
        for name in SIZES.get(part, ()):
            values = content.get(name)
            if not all(type(n) is int and n > 0 for n in (values if isinstance(values, list | tuple) else [values])):
                raise ValueError(f"{file}: {name} is {brief(repr(values), 60)}; download the model again")
        return content


def class_defaults(part: str) -> dict[str, Any]:
    """What the class of a part takes where its configuration says nothing; nothing for parts that are transformers'."""
    return dict(_written_defaults(*CLASSES[part])) if part in CLASSES else {}


@cache
def _written_defaults(path: str, name: str) -> Mapping[str, Any]:
    """The defaults in the source of a class of diffusers: they are needed to judge a folder, and to import diffusers
    takes longer than all the rest of that."""
    package = importlib.util.find_spec("diffusers")
    if package is None or package.origin is None:
        raise ImportError("diffusers is not installed: pip install -r requirements/core.txt")
    tree = ast.parse((Path(package.origin).parent / path).read_text(encoding="utf-8"))
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    init = next(node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    named = init.args.args[-len(init.args.defaults) :]
    return {arg.arg: ast.literal_eval(value) for arg, value in zip(named, init.args.defaults, strict=True)}


def find_model(path_or_id: str) -> WanFolder:
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
    model = WanFolder(folder, bool(content.get("expand_timesteps", False)))
    require_supported(folder, content, model.config_of)
    return model


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


def require_whole(model: WanFolder, once: Once = made) -> None:
    """Refuse a model whose weights are not all there or not of its configurations; headers alone are read.

    Args:
        model: The folder.
        once: As :func:`weights.require_weights` has it.

    Raises:
        ValueError: One line that names the files.
    """
    require_weights(model.path, {part: model.config_of(part) for part in SIZES}, once)


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("model.device is cuda, but torch sees no GPU; set model.device: cpu or install a CUDA build")
    return torch.device(name)


def limit_threads(threads: int | None) -> None:
    """Set torch's CPU threads; spinning threads of several processes slow each other down a great deal."""
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _load(cls: type[T], model: WanFolder, part: str, dtype: torch.dtype) -> T:
    """A part of a model, from safetensors alone: older formats are pickles, which can run code.

    Raises:
        ValueError: It cannot be loaded; names the folder.
    """
    try:
        return cls.from_pretrained(model.path, subfolder=part, torch_dtype=dtype, use_safetensors=True)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{model.path / part} cannot be loaded: {brief(error, 240)}; download it again") from error


def load_transformer(model: WanFolder, device: torch.device, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer, frozen, ready for adapters."""
    from diffusers import WanTransformer3DModel

    transformer = _load(WanTransformer3DModel, model, "transformer", dtype)
    return transformer.requires_grad_(False).eval().to(device)


def load_vae(
    model: WanFolder, device: torch.device, tile: int | None = None, dtype: torch.dtype = torch.float32
) -> AutoencoderKLWan:
    """The VAE, in the 32 bit that diffusers recommends for Wan or another; `tile` pixels a side bound its memory."""
    from diffusers import AutoencoderKLWan

    stride = None if tile is None else tile_stride(model.config_of("vae"), tile)
    vae = _load(AutoencoderKLWan, model, "vae", dtype)
    if tile is not None:
        vae.enable_tiling(tile, tile, stride, stride)
    if device.type == "cpu":
        use_onednn(vae)
    return vae.requires_grad_(False).eval().to(device)


def encode_texts(
    model: WanFolder, texts: Sequence[str], length: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Text embeddings as WanPipeline makes them, [N, length, width] on the CPU; the encoder is gone afterwards.

    Raises:
        ValueError: A text is longer than `length` tokens and would be cut in silence.
    """
    return torch.stack(list(text_embeddings(model, texts, length, device, dtype)))


@torch.inference_mode()
def text_embeddings(
    model: WanFolder, texts: Iterable[str], length: int, device: torch.device, dtype: torch.dtype
) -> Generator[Tensor, None, None]:
    """Text embeddings one at a time, [length, width] on the CPU, where all of them would not fit in memory.

    The encoder is loaded at the first one and gone when the last was given or the iterator is closed.

    Raises:
        ValueError: A text is longer than `length` tokens and would be cut in silence.
    """
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean
    from transformers import AutoTokenizer, UMT5EncoderModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model.path, subfolder="tokenizer")
    with released(_load(UMT5EncoderModel, model, "text_encoder", dtype).eval().to(device)) as encoder:
        for text in texts:
            cleaned = prompt_clean(text)
            count = len(tokenizer(cleaned).input_ids)
            if count > length:
                raise ValueError(f"a caption has {count} tokens, text_length is {length}: {text[:80]!r}")
            tokens = tokenizer(cleaned, padding="max_length", max_length=length, return_tensors="pt").to(device)
            hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
            yield (hidden * tokens.attention_mask[..., None]).to("cpu", dtype)[0]


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(like)
    return mean, torch.tensor(vae.config.latents_std).view(shape).to(like)


@torch.inference_mode()
def encode_video(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, T, H, W] in [0, 1] to normalised latents [B, C, t, h, w], 32 bit, on the CPU."""
    x = pixels.to(vae.device, vae.dtype).mul(2).sub_(1)
    latent = vae.encode(x).latent_dist.mode().float()
    mean, std = _statistics(vae, latent)
    return ((latent - mean) / std).cpu()


@torch.inference_mode()
def decode_video(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    """Normalised latents [B, C, t, h, w] to pixels [B, 3, T, H, W] in [0, 1], 32 bit, on the CPU."""
    latent = latent.to(vae.device)
    mean, std = _statistics(vae, latent)
    # In place from here: a 4K clip of 121 frames is 12 GB a copy.
    pixels = vae.decode((latent * std + mean).to(vae.dtype)).sample.float().cpu()
    return pixels.div_(2).add_(0.5).clamp_(0, 1)


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


def require_fitting_size(model: WanFolder, height: int, width: int, what: str, pool: int = 1) -> None:
    """Refuse a size in pixels that does not fit the VAE, the transformer's patches and the attention's pooling.

    Raises:
        ValueError: Names the nearest sizes that fit.
    """
    space, patch = model.config_of("vae")["scale_factor_spatial"], model.config_of("transformer")["patch_size"]
    rows, columns = (space * p * pool for p in patch[1:])
    if height % rows or width % columns:
        lower = max(1, height // rows), max(1, width // columns)
        upper = -(-height // rows), -(-width // columns)
        fits = " or ".join(f"{h * rows}x{w * columns}" for h, w in dict.fromkeys([lower, upper]))
        raise ValueError(f"{what} {height}x{width} must be a multiple of {rows}x{columns}; nearest that are: {fits}")


def token_grid(model: WanFolder, height: int, width: int) -> tuple[int, int]:
    """The token grid (H, W) of a size in pixels, from the model's configuration; nothing is loaded."""
    _, _, rows, columns = latent_shape(model.config_of("vae"), height, width, 1)
    _, patch_height, patch_width = model.config_of("transformer")["patch_size"]
    return rows // patch_height, columns // patch_width


def velocity_predictor(
    transformer: WanTransformer3DModel,
    text: Tensor,
    expand_timesteps: bool,
    dtype: torch.dtype,
    first_frame: bool = False,
) -> Predict:
    """The transformer as `predict(x_sigma, sigma)`.

    Args:
        transformer: Any diffusers Wan transformer.
        text: Embeddings [B, L, width].
        expand_timesteps: Whether the model can take one timestep per token (TI2V). It is given them only where they
            differ, beside a first frame: the result is the same, and the modulations that they make, one per token,
            are 12.7 of the 21.8 GB that a forward of the 5B takes beside its weights at 1408x2560x121.
        dtype: Of the transformer's activations; the velocity comes back in 32 bit.
        first_frame: The first latent frame of x is a clean condition: its tokens get t = 0. A still is none: all its
            tokens get the sigma that the latent was noised with.

    Raises:
        ValueError: A first frame for a model without per-token timesteps.
    """
    patch = transformer.config.patch_size
    if first_frame and not expand_timesteps:
        raise ValueError("this base takes no first frame: only models with per-token timesteps (TI2V) do")

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        timestep = 1000 * sigma.float()
        if first_frame:
            frames, height, width = (n // p for n, p in zip(x.shape[2:], patch, strict=True))
            timestep = timestep[:, None].repeat(1, frames * height * width)
            timestep[:, : height * width] = 0
        embedded = text.to(x.device, dtype)
        out = transformer(x.to(dtype), timestep, embedded, return_dict=False)[0]
        return out.float()

    return predict
