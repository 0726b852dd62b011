"""Loading a Wan model's parts, one at a time, and speaking to them: text, pixels, velocity.

The miniature is a folder of the same classes, so there is no second code path for it. Parts are loaded
separately because text encoder, transformer and VAE of the real models need not sit in memory together.
"""

import os
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils.logging import disable_progress_bar

from vibe_pipeline.diffusion.checkpoint import (
    WanCheckpoint,
    find_model,
    latent_shape,
    require_fitting_size,
    require_whole,
    tile_stride,
    token_grid,
)
from vibe_pipeline.diffusion.crops import Placed, placed_in
from vibe_pipeline.diffusion.decode import decode_bytes, decode_video
from vibe_pipeline.diffusion.encode import encode_video
from vibe_pipeline.diffusion.lifetime import release, released
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.onednn import use_onednn
from vibe_pipeline.diffusion.own_weights import load_own_weights
from vibe_pipeline.diffusion.quantisation import quantise
from vibe_pipeline.io.errors import one_line

__all__ = [  # a model's folder with what is loaded from it: most readers want both
    "WanCheckpoint",
    "decode_bytes",
    "decode_video",
    "encode_texts",
    "encode_video",
    "find_model",
    "latent_shape",
    "limit_threads",
    "load_transformer",
    "load_vae",
    "pick_device",
    "require_fitting_size",
    "require_whole",
    "settle_torch",
    "text_embeddings",
    "tile_stride",
    "token_grid",
    "velocity_predictor",
]

T = TypeVar("T")


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    The first question to CUDA also settles its allocator: clips and images of several sizes leave holes in memory that
    segments which can grow do not have. A setting that is there already stays.
    """
    if name != "cpu" and "PYTORCH_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
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


def settle_torch(threads: int | None, deterministic: bool) -> None:
    """Threads, and whether sums are taken in one order alone, in this process and those that it starts.

    A GPU adds in an order of chance where that is faster; cuBLAS asks for a fixed workspace before its first call.
    """
    limit_threads(threads)
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _load(cls: type[T], model: WanCheckpoint, part: str, dtype: torch.dtype) -> T:
    """A part of a model, from safetensors alone: older formats are pickles, which can run code.

    Raises:
        ValueError: It cannot be loaded; names the folder.
    """
    try:
        loads: Any = cls
        return loads.from_pretrained(model.path, subfolder=part, torch_dtype=dtype, use_safetensors=True)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{model.path / part} cannot be loaded: {one_line(error, 240)}; download it again") from error


def load_transformer(
    model: WanCheckpoint,
    device: torch.device,
    dtype: torch.dtype,
    weights: Path | None = None,
    part: str | None = None,
    quantisation: str | None = None,
) -> WanTransformer3DModel:
    """A transformer, frozen, ready for adapters.

    Args:
        model: The checkpoint.
        device: Where it goes.
        dtype: Of its weights.
        weights: A file of all weights of its own, in place of the checkpoint's.
        part: Which of two experts; None: the one that adapters are trained on, of low noise.
        quantisation: An entry of `QUANTISATIONS`: it is quantised before it goes to the device.
    """
    transformer = _load(WanTransformer3DModel, model, part or model.experts[-1], dtype)
    if weights is not None:
        try:
            load_own_weights(transformer, weights, model.name)
        except BaseException:
            release(transformer)  # the error's traceback would keep it
            raise
    transformer.requires_grad_(False).eval()
    if quantisation is not None:
        quantise(transformer, quantisation)
    return transformer.to(device)


def load_vae(
    model: WanCheckpoint, device: torch.device, tile: int | None = None, dtype: torch.dtype = torch.float32
) -> AutoencoderKLWan:
    """The VAE, in the 32 bit that diffusers recommends for Wan or another; `tile` pixels a side bound its memory."""
    stride = None if tile is None else tile_stride(model.config_of("vae"), tile)
    vae = _load(AutoencoderKLWan, model, "vae", dtype)
    if tile is not None:
        vae.enable_tiling(tile, tile, stride, stride)
    if device.type == "cpu":
        use_onednn(vae)
    return vae.requires_grad_(False).eval().to(device)


def encode_texts(
    model: WanCheckpoint, texts: Sequence[str], length: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Text embeddings as WanPipeline makes them, [N, length, width] on the CPU; the encoder is gone afterwards.

    Raises:
        ValueError: A text is longer than `length` tokens and would be cut in silence.
    """
    return torch.stack(list(text_embeddings(model, texts, length, device, dtype)))


@torch.inference_mode()
def text_embeddings(
    model: WanCheckpoint, texts: Iterable[str], length: int, device: torch.device, dtype: torch.dtype
) -> Generator[Tensor, None, None]:
    """Text embeddings one at a time, [length, width] on the CPU, where all of them would not fit in memory.

    The encoder is loaded at the first one and gone when the last was given or the iterator is closed.

    Raises:
        ValueError: A text is longer than `length` tokens and would be cut in silence.
    """
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


def velocity_predictor(
    transformer: WanTransformer3DModel,
    text: Tensor,
    expand_timesteps: bool,
    dtype: torch.dtype,
    first_frame: bool = False,
) -> Predict:
    """The transformer as `predict(x_sigma, sigma)`; of a crop in its place, `predict(x_sigma, sigma, placed)`.

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

    def predict(x: Tensor, sigma: Tensor, placed: Placed | None = None) -> Tensor:
        """Of latents [B, C, T, H, W] at the levels [B], in 32 bit; with `placed` of crops at their places."""
        timestep = 1000 * sigma.float()
        if first_frame:
            frames, height, width = (n // p for n, p in zip(x.shape[2:], patch, strict=True))
            timestep = timestep[:, None].repeat(1, frames * height * width)
            timestep[:, : height * width] = 0
        embedded = text.to(x.device, dtype)
        with placed_in(transformer, placed):
            out = transformer(x.to(dtype), timestep, embedded, return_dict=False)[0]
        return out.float()

    return predict
