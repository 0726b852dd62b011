"""A fix for torchvision beside a CPU build of torch, applied at its first import and only where needed."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; sees that torchvision is about to be imported, by diffusers or peft for example."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Mend once, then step aside."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            make_torchvision_importable()
        return None


def mend_torchvision_on_import() -> None:
    """Mend torchvision when something imports it: at once would load torch, which a help page does not need."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def make_torchvision_importable() -> bool:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch.

    The registry has no CPU build of torchvision 0.28. Its compiled operators cannot load without CUDA's
    libraries, and its import then fails on registering fake kernels for `nms`, taking diffusers and peft
    down with it. Declaring the operators' schemas is enough for everything that does not call them.

    Returns:
        True if schemas had to be declared.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return False
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        schemas = torch.library.Library("torchvision", "FRAGMENT")
        schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library._vibe_torchvision_schemas = schemas  # lives as long as the process, as the operators must
        return True
    return False
