"""ViBe: ultra-high-resolution video from images alone; an experiment and evaluation pipeline."""

from vibe_pipeline.runtime.torchvision_stub import make_torchvision_importable

__version__ = "0.1.0"

# Before anything imports diffusers or peft, which both import torchvision.
make_torchvision_importable()
