"""Tensors out of a file of weights: safetensors, or a pickle that is read as tensors alone and never run."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vibe_pipeline.diffusion.headers import impostor
from vibe_pipeline.io.errors import one_line

PICKLES = (".pth", ".pt", ".ckpt", ".bin")


def read_state(path: Path) -> Mapping[str, Any]:
    """What a file of weights holds by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another kind of file, or a pickle that holds more than tensors; names it.
    """
    if path.suffix not in (*PICKLES, ".safetensors"):
        raise ValueError(f"{path} is not a file of weights: {', '.join((*PICKLES, '.safetensors'))} are read")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is not a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if (said := impostor(path)) and "pickle" not in said:
            raise ValueError(f"{path} is {said}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle that holds more than tensors, which could run code: it is not opened "
            f"({one_line(error, 60)})"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as weights, it may be cut short: {one_line(error, 120)}") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds {type(state).__name__}, not tensors by name")
    return state
