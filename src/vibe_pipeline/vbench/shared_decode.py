"""One decoding of a clip for all of VBench's dimensions, and frames handed to its models in batches.

VBench reads a clip again in every dimension, with decord or OpenCV, and turns all of its frames into 32-bit floats
at once. Here its two readers and `load_video` are replaced, while it runs, by ones that hand out the frames of the
clip in work; what VBench computes from the frames stays its own code. Runs in both environments: it needs only
VBench's packages.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from vibe_pipeline.vbench.sizes import shrunk_size

BATCH = 16  # frames turned into floats, and through a model, together


class Frames:
    """A clip's frames as `load_video` gives them, [T, 3, H, W] floats in 0 to 255, but made only for what is asked."""

    def __init__(self, frames: np.ndarray):
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, part: slice) -> torch.Tensor:
        return torch.Tensor(self._frames[part]).permute(0, 3, 1, 2)


class Decoder:
    """The frames of one clip at a time, per reader, until another clip is asked for.

    Attributes:
        side: Longest side in pixels that OpenCV's reader hands out; None: frames as stored.
        counts: How often each reader decoded: for tests and benchmarks.
    """

    def __init__(self) -> None:
        self.side: int | None = None
        self.counts = {"decord": 0, "opencv": 0}
        self._open_video = cv2.VideoCapture
        self._path = ""
        self._kept: dict[Any, Any] = {}

    def decord_frames(self, path: str) -> tuple[np.ndarray, float]:
        """RGB [T, H, W, 3] bytes and the frame rate, as decord reads them."""
        return self._keep(path, "decord", self._decode_decord)

    def opencv_frames(self, path: str) -> tuple[list[np.ndarray], float]:
        """BGR frames [H, W, 3], at most `side` pixels long, and the frame rate, as OpenCV reads them."""
        frames, fps = self._keep(path, "opencv", self._decode_opencv)
        side = self.side
        if side is None or not frames or max(frames[0].shape[:2]) <= side:
            return frames, fps
        return self._keep(path, side, lambda _: ([shrink(frame, side) for frame in frames], fps))

    def _keep(self, path: str, what: Any, decode: Callable[[str], Any]) -> Any:
        path = os.path.realpath(path)
        if path != self._path:
            self._path, self._kept = path, {}
        if what not in self._kept:
            self._kept[what] = decode(path)
        return self._kept[what]

    def _decode_decord(self, path: str) -> tuple[np.ndarray, float]:
        import decord

        self.counts["decord"] += 1
        decord.bridge.set_bridge("native")
        reader = decord.VideoReader(path, num_threads=1)
        return reader.get_batch(range(len(reader))).asnumpy(), reader.get_avg_fps()

    def _decode_opencv(self, path: str) -> tuple[list[np.ndarray], float]:
        self.counts["opencv"] += 1
        video = self._open_video(path)
        frames = []
        try:
            fps = video.get(cv2.CAP_PROP_FPS)
            while video.isOpened():
                success, frame = video.read()
                if not success:
                    break
                frames.append(frame)
        finally:
            video.release()
        return frames, fps


def shrink(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame [H, W, 3] whose longest side is `side` pixels: the mean over each pixel's area."""
    height, width = shrunk_size(frame.shape[0], frame.shape[1], side)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


class _DecordReader:
    """Stands in for decord.VideoReader where VBench wants whole frames."""

    def __init__(self, decoder: Decoder, path: str):
        self._frames, self._fps = decoder.decord_frames(path)

    def __len__(self) -> int:
        return len(self._frames)

    def get_avg_fps(self) -> float:
        return self._fps

    def get_batch(self, indices: Any) -> torch.Tensor:
        """What both of decord's bridges offer: a tensor, and `asnumpy`."""
        batch = torch.from_numpy(self._frames[list(indices)])
        batch.asnumpy = batch.numpy
        return batch


class _OpencvReader:
    """Stands in for cv2.VideoCapture."""

    def __init__(self, decoder: Decoder, path: str):
        self._frames, self._fps = decoder.opencv_frames(path)
        self._next = 0

    def isOpened(self) -> bool:
        return bool(self._frames)

    def get(self, prop: int) -> float:
        if prop != cv2.CAP_PROP_FPS:
            raise NotImplementedError(f"cv2 property {prop} is not one that VBench 0.1.5 asks for")
        return self._fps

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self._next >= len(self._frames):
            return False, None
        self._next += 1
        return True, self._frames[self._next - 1].copy()

    def release(self) -> None:
        self._next = 0


class Ahead:
    """A model that VBench calls frame by frame, run on several frames at once.

    `prepare` takes all frames in the order in which VBench then asks for them, one at a time.
    """

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor]):
        self._model = model
        self._frames = torch.empty(0)
        self._next = 0
        self._outputs = torch.empty(0)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Keep the frames [T, 3, H, W] that will be asked for; returns them."""
        self._frames, self._next = frames, 0
        return frames

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        """The model's output for one frame [1, 3, H, W]."""
        place = self._next % BATCH
        if place == 0:
            self._outputs = self._model(self._frames[self._next : self._next + BATCH].to(frame.device))
        self._next += 1
        return self._outputs[place : place + 1]


def in_batches(transform: Callable[..., torch.Tensor], then: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    """A per-frame transform, done on a few frames of :class:`Frames` at a time; `then` sees the whole result."""

    def run(images: Any, *args: Any) -> torch.Tensor:
        if not isinstance(images, Frames):
            return transform(images, *args)
        parts = [transform(images[i : i + BATCH], *args) for i in range(0, len(images), BATCH)]
        return then(torch.cat(parts))

    return run


@contextlib.contextmanager
def shared_readers(decoder: Decoder) -> Iterator[None]:
    """Let VBench's two video readers take the decoder's frames."""
    from vbench import utils

    stock_reader = utils.VideoReader

    def open_decord(path: str, **options: Any) -> Any:
        wants_size = any(options.get(name) for name in ("width", "height"))
        return stock_reader(path, **options) if wants_size else _DecordReader(decoder, path)

    with (
        mock.patch.object(utils, "VideoReader", open_decord),
        mock.patch.object(cv2, "VideoCapture", lambda path: _OpencvReader(decoder, path)),
    ):
        yield


@contextlib.contextmanager
def frames_on_demand(decoder: Decoder, module: Any) -> Iterator[None]:
    """Let a dimension's module turn stored frames into floats only as it needs them."""
    stock = module.load_video

    def load_video(path: str, *args: Any, **options: Any) -> Any:
        plain = path.endswith(".mp4") and not args and not options
        return Frames(decoder.decord_frames(path)[0]) if plain else stock(path, *args, **options)

    with mock.patch.object(module, "load_video", load_video):
        yield
