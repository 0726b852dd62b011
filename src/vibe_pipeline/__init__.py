"""ViBe: ultra-high-resolution video from images alone; an experiment and evaluation pipeline."""

from vibe_pipeline.runtime.torchvision_stub import mend_torchvision_on_import

__version__ = "0.1.0"

# Before anything imports diffusers or peft, which both import torchvision.
mend_torchvision_on_import()
