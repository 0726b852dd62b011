"""Tiny checkpoints with random weights, in diffusers layout, of the very classes of Wan2.1, Wan2.2-TI2V and A14B."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler  # isort: skip
from diffusers import WanPipeline, WanTransformer3DModel  # isort: skip

from vibe_pipeline.diffusion.models import find_model, load_transformer
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.miniature.networks import build_text_encoder, build_tokenizer

CPU = torch.device("cpu")
CAPTION = "a striped red circle moving left over woven navy"
STYLES = {
    "wan21": {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1]},
    "wan22": {
        "base_dim": 8,
        "decoder_base_dim": 8,
        "z_dim": 48,
        "dim_mult": [1, 1, 1, 1],
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
        "latents_mean": [0.1 * i for i in range(48)],
        "latents_std": [0.5 + 0.1 * i for i in range(48)],
    },
}


@dataclass(frozen=True)
class Tiny:
    """A tiny checkpoint: its folder and the factor from tokens to pixels."""

    path: Path
    token: int

    def model(self, **changes: object) -> ModelParams:
        """Its parameters: native 2 x 3 tokens, target 4 x 6, five frames."""
        native = {"height": 2 * self.token, "width": 3 * self.token, "frames": 5, "fps": 8}
        target = {"height": 4 * self.token, "width": 6 * self.token, "frames": 5, "fps": 8}
        settings = {"path": str(self.path), "native": native, "target": target, "device": "cpu", "text_length": 12}
        return ModelParams(**(settings | changes))

    def transformer(self) -> WanTransformer3DModel:
        """A fresh copy of its transformer."""
        return load_transformer(find_model(str(self.path)), CPU, torch.float32)


def build_transformer(style: str) -> WanTransformer3DModel:
    """A transformer with random weights whose output is not zero."""
    channels = STYLES[style]["z_dim"]
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=channels,
        text_dim=64,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
    )
    assert transformer.proj_out.weight.abs().max() > 0
    return transformer


def build_checkpoint(style: str, folder: Path, boundary: float | None = None) -> Path:
    """Write a checkpoint with random weights; with a boundary it has two experts."""
    torch.manual_seed(0)
    transformer = build_transformer(style)
    WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        vae=AutoencoderKLWan(num_res_blocks=1, temperal_downsample=[False, True, True], **STYLES[style]),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        expand_timesteps=style == "wan22",
        transformer_2=None if boundary is None else build_transformer(style),
        boundary_ratio=boundary,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Wan2.1 style: one timestep a clip, 8 x 8 VAE."""
    return Tiny(build_checkpoint("wan21", tmp_path_factory.mktemp("wan21") / "model"), 16)


@pytest.fixture(scope="session")
def wan22(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Wan2.2-TI2V style: one timestep a token, 16 x 16 residual VAE."""
    return Tiny(build_checkpoint("wan22", tmp_path_factory.mktemp("wan22") / "model"), 32)


@pytest.fixture(scope="session")
def a14b(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Wan2.2-T2V-A14B style: Wan2.1's classes with two experts, which change at sigma 0.875."""
    return Tiny(build_checkpoint("wan21", tmp_path_factory.mktemp("a14b") / "model", 0.875), 16)


@pytest.fixture(params=["wan21", "wan22"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Either checkpoint."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def velocity() -> Callable[[WanTransformer3DModel], torch.Tensor]:
    """The output of a transformer on a fixed input of 2 x 3 tokens, one frame."""

    def run(transformer: WanTransformer3DModel) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        latent = torch.randn(2, transformer.config.in_channels, 1, 4, 6, generator=generator)
        text = torch.randn(2, 12, 64, generator=generator)
        with torch.no_grad():
            return transformer(latent, torch.tensor([300.0, 800.0]), text, return_dict=False)[0]

    return run


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """benchmarks/faults.py as a module: runs that are killed, and what they left."""
    spec = importlib.util.spec_from_file_location("faults", Path(__file__).parents[1] / "benchmarks/faults.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
