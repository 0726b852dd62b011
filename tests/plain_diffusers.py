"""A model and LoRA files in a process of plain diffusers, which never imports this package."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

# diffusers cannot be imported where torchvision lacks operators, as beside a CPU build of torch: they are declared.
BEFORE = """\
import importlib.util, sys
from pathlib import Path
import torch
origin = Path(importlib.util.find_spec("torchvision").origin).parent
try:
    for library in origin.glob("_C*.so"):
        torch.ops.load_library(str(library))
except OSError:
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        schemas.define(op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
model, inputs, out, *files = sys.argv[1:]
pipe = WanPipeline.from_pretrained(model)
x = load_file(inputs)
run = lambda: pipe.transformer(x["latent"], x["timestep"], x["text"], return_dict=False)[0].clone()
with torch.no_grad():
"""
AFTER = """assert not [m for m in sys.modules if m.startswith("vibe_pipeline")]\n"""


def transformer_inputs(channels: int) -> dict[str, Tensor]:
    """Two clips of one frame, 2 x 3 tokens, at two noise levels."""
    generator = torch.Generator().manual_seed(3)
    return {
        "latent": torch.randn(2, channels, 1, 4, 6, generator=generator),
        "timestep": torch.tensor([300.0, 800.0]),
        "text": torch.randn(2, 12, 64, generator=generator),
    }


@torch.no_grad()
def output(transformer: WanTransformer3DModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """What a transformer here gives for them."""
    return transformer(inputs["latent"], inputs["timestep"], inputs["text"], return_dict=False)[0]


def in_plain_diffusers(
    steps: str, model: Path, inputs: Mapping[str, Tensor], files: Sequence[Path], folder: Path
) -> dict[str, Tensor]:
    """Run some lines there.

    Args:
        steps: Lines that use `pipe`, `run()` (its transformer's output), `files`, and save tensors to `out`.
        model: A checkpoint in diffusers layout.
        inputs: Of the transformer.
        files: What the lines load.
        folder: Gets the script, its inputs and what it saves.
    """
    script, given, saved = (folder / name for name in ("plain.py", "in.safetensors", "out.safetensors"))
    script.write_text(BEFORE + indent(steps.strip("\n"), "    ") + "\n" + AFTER)
    save_file(dict(inputs), given)
    call = [sys.executable, script, model, given, saved, *files]
    done = subprocess.run(call, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(saved)
