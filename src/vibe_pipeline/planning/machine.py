"""This machine as a device of the plan: what it computes a second, measured in a few seconds on pieces of the model.

Shares of a peak say nothing of a CPU whose cores are shared, and small models are slow for other reasons than their
products. So a forward of two layers of the model's own transformer and a decoding by its VAE are timed, with random
weights, and the plan divides by what came out.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.planning.architecture import Architecture
from vibe_pipeline.planning.devices import DEVICES, THIS, Device
from vibe_pipeline.planning.figures import Figures

if TYPE_CHECKING:
    import torch

LAYERS, MOST_TOKENS, LATENT_SIDE = 2, 2048, 16
REPEATS = 3  # of which the fastest counts

Rates = Mapping[str, float]


@dataclass(frozen=True)
class Machine(Device):
    """This machine; `rates` are TFLOP/s by what runs: `transformer` in its own type, `autocast`, `vae`."""

    rates: Rates = None  # type: ignore[assignment]  # dataclasses want a default after the base's fields
    dtype: str = "float32"

    def teraflops(self, dtype: str, convolutions: bool = False) -> float:
        """As measured; what is not of the model's own type is trained under autocast."""
        return self.rates["vae" if convolutions else "transformer" if dtype == self.dtype else "autocast"]


def usual_device(params: Mapping[str, Any]) -> str:
    """What is planned for where no device is named: this machine for a model on its CPU, else an H100."""
    return THIS if params["model"].get("device") == "cpu" else "h100"


def named_device(name: str, model: ModelParams) -> str:
    """The name of a device as given, but of `this`, where the model runs on a GPU, that GPU's.

    What is measured here are a CPU's rates; a GPU's, by kernel and size, are in the table already.

    Raises:
        ValueError: The table does not have this machine's GPU.
        RuntimeError: The model is to run on a GPU, and torch sees none.
    """
    if name.lower() != THIS or model.device == "cpu":
        return name.lower()
    import torch  # only to ask for a GPU

    from vibe_pipeline.diffusion.models import pick_device

    if pick_device(model.device).type == "cpu":
        return THIS
    card = torch.cuda.get_device_name(0)
    found = next((key for key, device in DEVICES.items() if device.product in card), None)
    if found is None:
        raise ValueError(f"this machine's GPU is {card}, whose rates are not known; name one: {', '.join(DEVICES)}")
    return found


def this_machine(architecture: Architecture, model: ModelParams, figures: Figures) -> Machine:
    """Measured now, or read where it was measured before: by processor, threads and the model's architecture."""
    threads = model.threads or 0
    key = ("machine", processor(), os.cpu_count(), threads, model.device, model.dtype, model.text_length)
    parts = (architecture.transformer, architecture.vae)
    rates = figures.once((*key, parts), lambda: measure_rates(architecture, model))
    cores = f"{threads} of {os.cpu_count()} cores a process" if threads else f"{os.cpu_count()} cores"
    name = f"this machine ({processor()}, {cores})"
    return Machine(name, psutil.virtual_memory().total / 1e9, rates["transformer"], rates=rates, dtype=model.dtype)


def processor() -> str:
    """Its name, as the system has it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123  read line by line, as it is long
            named = next((line for line in file if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named.partition(":")[2].strip() or platform.processor() or platform.machine()


def measure_rates(architecture: Architecture, model: ModelParams) -> dict[str, float]:
    """TFLOP/s of two layers of the transformer, of the same under autocast, and of the VAE's decoder."""
    import torch

    from vibe_pipeline.diffusion.models import limit_threads, pick_device

    limit_threads(model.threads)
    device, dtype = pick_device(model.device), getattr(torch, model.dtype)
    own, operations = _transformer(architecture, model, device, dtype)
    decode, decoded = _decoder(architecture, device)

    def autocast() -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return own()

    with torch.inference_mode():
        return {
            "transformer": operations / _fastest(own, device),
            "autocast": operations / _fastest(autocast, device),
            "vae": decoded / _fastest(decode, device),
        }


def _transformer(
    architecture: Architecture, model: ModelParams, device: "torch.device", dtype: "torch.dtype"
) -> tuple[Callable[[], Any], float]:
    """A forward at native size, or of fewer frames where that is long, and its operations, 1e12."""
    import torch

    from vibe_pipeline.diffusion.flops import count_flops, keys_by_layer

    config = dict(architecture.transformer) | {"num_layers": LAYERS}
    grid = architecture.grid(model.native)
    grid = (max(1, min(grid[0], MOST_TOKENS // (grid[1] * grid[2]) or 1)), *grid[1:])
    keys = keys_by_layer(AttentionParams(), grid, grid[1:], LAYERS)
    flops = count_flops(config=config, grid=grid, text_length=model.text_length, keys=keys)
    module = _filled(architecture.build_transformer(LAYERS), device, dtype)
    sides = [n * p for n, p in zip(grid, config["patch_size"], strict=True)]
    latent = torch.randn(1, config["in_channels"], *sides, device=device, dtype=dtype)
    text = torch.randn(1, model.text_length, config["text_dim"], device=device, dtype=dtype)
    time_ = torch.full((1,), 500.0, device=device)
    return lambda: module(latent, time_, text, return_dict=False), flops.forward / 1e12


def _decoder(architecture: Architecture, device: "torch.device") -> tuple[Callable[[], Any], float]:
    """A decoding of a small latent, and its operations, 1e12."""
    import torch

    from vibe_pipeline.diffusion.module_flops import VaeFlops

    vae = _filled(architecture.build_vae(), device, torch.float32)
    shape = (architecture.vae["z_dim"], 2, LATENT_SIDE, LATENT_SIDE)
    latent = torch.randn(1, *shape, device=device)
    return lambda: vae.decode(latent, return_dict=False), VaeFlops(architecture.vae, None).decode(shape) / 1e12


def _filled(module: Any, device: "torch.device", dtype: "torch.dtype") -> Any:
    """A module of the meta device with random weights: zeros may be multiplied faster."""
    import torch
    from torch import nn

    module = module.to_empty(device=device)
    nn.Module.to(module, dtype)  # diffusers' own would warn of layers that it keeps in 32 bits
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
    return module


def _fastest(call: Callable[[], Any], device: "torch.device") -> float:
    """Seconds of the fastest of a few calls, the first apart; on a CPU those it got, not those it waited for others."""
    import torch

    call()
    on_cpu = device.type == "cpu"
    clock, share = (time.process_time, torch.get_num_threads()) if on_cpu else (time.perf_counter, 1)
    found = []
    for _ in range(REPEATS):
        begun = clock()
        call()
        if not on_cpu:
            torch.cuda.synchronize()
        found.append((clock() - begun) / share)
    return max(min(found), 1e-6)
