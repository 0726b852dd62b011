"""A device of its own on a processor: in main memory every bit is turned, so that only what came computes right."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import group_offloading as theirs
from torch import Tensor, nn

from vibe_pipeline.diffusion import block_offload as ours


class Stream:
    """A stream whose copies are there at once; it counts how often somebody waits for it."""

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


class Backend:
    """In place of diffusers' view of torch.cuda."""

    def __init__(self, device: torch.device) -> None:
        self.compute = Stream()

    def current_stream(self) -> Stream:
        return self.compute

    def stream(self, stream: Stream) -> Any:
        return torch.no_grad()  # any context


class BlockDevice:
    """What is on it, by diffusers' own transfers; `streamed` as on CUDA, with pinned copies and a stream of its own.

    Attributes:
        watched: The transformer whose blocks are counted.
        most: Blocks that were there at once.
        moved: Groups that came, and how many blocks were there then.
        pinned: Tensors that were page-locked, each once.
    """

    def __init__(self, patch: pytest.MonkeyPatch, streamed: bool) -> None:
        self.streamed, self.most, self.moved, self.pinned = streamed, 0, list[int](), list[Tensor]()
        self.watched: nn.Module | None = None
        self._away, self._left = dict[int, Tensor](), list[Tensor]()
        onload, offload = theirs.ModuleGroup.onload_, theirs.ModuleGroup._offload_to_memory
        self._transfer, to = theirs.ModuleGroup._transfer_tensor_to_device, WanTransformer3DModel.to

        def come(group: Any) -> None:
            onload(group)
            self.moved.append(self.there)
            self.most = max(self.most, self.there)

        def leave(group: Any) -> None:
            offload(group)
            for tensor in _tensors(group):
                self._hide(tensor)

        def home(module: Any, *args: Any, **kwargs: Any) -> Any:
            if not theirs._is_group_offload_enabled(module):
                for tensor in (*module.parameters(), *self._left):  # tables of positions that others stand in for too
                    if _plain(tensor):
                        self._show(tensor, tensor.data)
                self._left.clear()
            return to(module, *args, **kwargs)

        patch.setattr(theirs.ModuleGroup, "onload_", come)
        patch.setattr(theirs.ModuleGroup, "_offload_to_memory", leave)
        patch.setattr(theirs.ModuleGroup, "_transfer_tensor_to_device", lambda *given: self._come(*given))
        patch.setattr(WanTransformer3DModel, "to", home)
        if streamed:
            patch.setattr(theirs, "TorchDeviceBackend", Backend)
            patch.setattr(Tensor, "pin_memory", lambda tensor: self._pin(tensor))
            patch.setattr(Tensor, "is_pinned", lambda tensor: not _plain(tensor) or tensor.data_ptr() in self._away)
            patch.setattr(ours, "apply_group_offloading", _apply_streamed)

    @property
    def there(self) -> int:
        """Blocks that are on it."""
        if self.watched is None:
            return 0
        plain = (filter(_plain, block.parameters()) for block in self.watched.blocks)
        return sum(all(p.data_ptr() not in self._away for p in block) for block in plain)

    def _hide(self, tensor: Tensor) -> None:
        if _plain(tensor) and tensor.data_ptr() not in self._away:
            tensor.data = self._kept(_turned(tensor.data))
            self._left.append(tensor)

    def _kept(self, tensor: Tensor) -> Tensor:
        self._away[tensor.data_ptr()] = tensor  # which keeps it, so that its place is not another's
        return tensor

    def _come(self, group: Any, tensor: Tensor, source: Tensor, stream: Any) -> None:
        if _plain(tensor):
            self._show(tensor, source)
        else:
            self._transfer(group, tensor, source, stream)

    def _show(self, tensor: Tensor, source: Tensor) -> None:
        tensor.data = _turned(source) if source.data_ptr() in self._away else source

    def _pin(self, tensor: Tensor) -> Tensor:
        if not _plain(tensor):
            return tensor.clone()
        if tensor.data_ptr() in self._away:
            return tensor
        self.pinned.append(self._kept(_turned(tensor)))
        return self.pinned[-1]


def _tensors(group: Any) -> Iterator[Tensor]:
    for module in group.modules:
        yield from module.parameters()
        yield from module.buffers()
    yield from (*group.parameters, *group.buffers)


def _plain(tensor: Tensor) -> bool:
    """Whether its bits can be turned: those of torchao's tensors lie further in."""
    return type(tensor.data) is Tensor


def _turned(tensor: Tensor) -> Tensor:
    """A copy with every bit turned."""
    return tensor.contiguous().view(torch.uint8).bitwise_not().view(tensor.dtype)


def _apply_streamed(module: nn.Module, use_stream: bool, **options: Any) -> None:
    """diffusers' function as on CUDA, where a processor has no streams; main memory is not where things compute."""
    assert use_stream and options.pop("offload_device") == torch.device("cpu")
    kind = theirs.GroupOffloadingType(options.pop("offload_type"))
    places = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu", 0)}
    options |= places | {"offload_type": kind, "stream": Stream()}
    plain = {"non_blocking": False, "record_stream": False, "low_cpu_mem_usage": False}
    theirs._apply_group_offloading(module, theirs.GroupOffloadingConfig(**plain, **options))
