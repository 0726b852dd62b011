"""What VBench 0.1.5 needs to run beside newer packages: each fix with its reason, applied only where needed.

None changes what a metric computes. `vibe_pipeline.runtime.torchvision_stub` holds the one fix that concerns more than
VBench (torchvision beside a CPU build of torch).
"""

import contextlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock


@dataclass(frozen=True)
class Fix:
    """A fix.

    Attributes:
        name: What is fixed.
        dimensions: The dimensions that need it.
        reason: Why, and from which version on.
        needed: Whether the installed packages need it.
        apply: Puts it in place for as long as the context lasts.
    """

    name: str
    dimensions: tuple[str, ...]
    reason: str
    needed: Callable[[], bool]
    apply: Callable[[], contextlib.AbstractContextManager]


def _lacks_function_base() -> bool:
    name = "numpy.lib.function_base"
    return name not in sys.modules and importlib.util.find_spec(name) is None


@contextlib.contextmanager
def _function_base() -> Iterator[None]:
    module = types.ModuleType("numpy.lib.function_base")
    vars(module)["disp"] = print  # imported by UMT's data sets, never called
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]


def _timm_passes_cache_dir() -> bool:
    from timm.models import create_model

    return "cache_dir" in inspect.signature(create_model).parameters


@contextlib.contextmanager
def _umt_constructor() -> Iterator[None]:
    from vbench import human_action

    def create_model(name: str, pretrained: bool = False, **options: object) -> object:
        given = {option: value for option, value in options.items() if value is not None}  # as timm passes them on
        return getattr(human_action, name)(pretrained=pretrained, **given)

    with mock.patch.object(human_action, "create_model", create_model):
        yield


FIXES = (
    Fix(
        "numpy.lib.function_base",
        ("human_action",),
        "numpy 2.0 removed the module; UMT's data sets import `disp` from it and never call it",
        _lacks_function_base,
        _function_base,
    ),
    Fix(
        "timm create_model",
        ("human_action",),
        "timm from 1.0.13 on passes `cache_dir` to a model's constructor, which VBench's own UMT constructor does not "
        "take; it is called directly",
        _timm_passes_cache_dir,
        _umt_constructor,
    ),
)


@contextlib.contextmanager
def compatible(dimension: str) -> Iterator[tuple[str, ...]]:
    """Apply the fixes that a dimension needs here; gives their names."""
    with contextlib.ExitStack() as stack:
        applied = []
        for fix in FIXES:
            if dimension in fix.dimensions and fix.needed():
                stack.enter_context(fix.apply())
                applied.append(fix.name)
        yield tuple(applied)
