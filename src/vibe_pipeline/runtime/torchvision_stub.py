"""A fix for torchvision beside a CPU build of torch, applied at its first import and only where needed."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class _BeforeTorchvision(MetaPathFinder):
    """Sees that torchvision is about to be imported, by diffusers or peft for example."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As Python finds it, to be mended once it is loaded: who only asks whether it is installed loads no torch."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == "torchvision" else None
        if spec is not None and spec.loader is not None:
            spec.loader = _MendFirst(spec.loader)
        return spec


class _MendFirst(Loader):
    """Mends torchvision, then loads it as `loader` does."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Python's own."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Mend, and leave no trace: what reads the module's files asks its loader."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        make_torchvision_importable()
        self._loader.exec_module(module)


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
