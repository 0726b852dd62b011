"""How long models stay in memory: what is put on a module holds it weakly, and what is done with is given up."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def living(reference: "weakref.ref[nn.Module]") -> nn.Module:
    """The module that a weak reference points to.

    Raises:
        RuntimeError: It is gone.
    """
    module = reference()
    if module is None:
        raise RuntimeError("the transformer that this was installed on is gone: keep it as long as you use this")
    return module


def release(*modules: nn.Module) -> None:
    """Give up the weights of modules that are done with, on every device.

    Whoever still refers to a module (the traceback of an error, a notebook's last result, a compiled block) then holds
    no more than its shell: on the 5B a forgotten transformer is 10 GB, and the next one would come on top of it. So
    would page-locked main memory, 16 GB of the 5B with `model.offload: blocks`, which torch keeps for its next use.
    """
    for module in modules:
        module.to("meta")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # torch 2.11, which cards may have, lacks it
            torch.accelerator.empty_host_cache()


@contextmanager
def released(module: M) -> Iterator[M]:
    """A module whose weights are given up at the end of the block."""
    try:
        yield module
    finally:
        release(module)
