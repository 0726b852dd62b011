"""FVD and IS of whole clips on UCF-101, by the protocol of HPDM (arXiv 2406.07792): two figures of an arm.

It is that of StyleGAN-V (universome/stylegan-v, fvd2048_16f and isv2048_ucf): 16 consecutive frames, the middle square
of each at 256 pixels as bytes, into TorchScript networks that resize and normalise by themselves. FVD: I3D
(Kinetics-400), 400 values before the softmax, generated clips against all of UCF-101's training part. IS: C3D
fine-tuned on UCF-101, 101 probabilities; no real clips. A generated clip gives its first frames, a real one frames from
a start that is drawn. How frames are brought to 256 pixels is not published; here bilinearly with a low-pass.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vibe_pipeline.evaluation.metrics.distributions import I3D_FILE, Distribution, Figure, hd_fvd
from vibe_pipeline.evaluation.metrics.frechet import FEWEST_PROMPTS, RESAMPLES, Features
from vibe_pipeline.evaluation.metrics.networks import FRAMES, Frame, Watcher
from vibe_pipeline.vbench.weight_files import Weight

if TYPE_CHECKING:
    import torch

SIDE = 256
CLASSES = 101
PARTS = 10
"""Of the clips, whose scores are averaged."""
C3D_FILE = Weight("c3d_ucf101.pt", "https://www.dropbox.com/s/jxpu7avzdc9n97q/c3d_ucf101.pt?dl=1")


class WholeClip:
    """What a network makes of 16 frames in a row; they are kept small."""

    def __init__(self, extract: Callable[["torch.Tensor"], "torch.Tensor"], device: str):
        self._extract, self._device, self._frames = extract, device, list[Any]()

    def take(self, frame: Frame) -> None:
        """Keep its middle square, 256 pixels."""
        import torch
        from torch.nn.functional import interpolate

        side = min(frame.shape[:2])
        top, left = ((n - side) // 2 for n in frame.shape[:2])
        square = torch.from_numpy(np.ascontiguousarray(frame[top : top + side, left : left + side]))
        pixels = square.permute(2, 0, 1)[None].float()
        if side != SIDE:
            pixels = interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        self._frames.append(pixels[0].round().clamp(0, 255).to(torch.uint8))

    def result(self) -> NDArray[np.floating]:
        """One row [1, D].

        Raises:
            ValueError: The clip has too few frames.
        """
        import torch

        if len(self._frames) < FRAMES:
            raise ValueError(f"{FRAMES} frames in a row are needed; the clip has {len(self._frames)}")
        with torch.no_grad():
            return self._extract(torch.stack(self._frames, 1)[None].to(self._device)).float().cpu().numpy()


def _loaded(file: Path, device: str, **said: bool) -> Callable[[], Watcher]:
    import torch

    network = torch.jit.load(str(file), map_location=device).eval()
    return lambda: WholeClip(lambda clip: network(clip, **said), device)


def load_i3d(files: Sequence[Path], device: str) -> Callable[[], Watcher]:
    """I3D's 400 values before the softmax."""
    return _loaded(files[0], device, rescale=True, resize=True, return_features=True)


def load_c3d(files: Sequence[Path], device: str) -> Callable[[], Watcher]:
    """C3D's 101 probabilities."""
    return _loaded(files[0], device)


def inception_score(chances: NDArray[np.floating], weights: NDArray[np.floating | np.integer] | None = None) -> float:
    """exp of the mean over clips of KL(p(class | clip) || p(class)) (Salimans et al., arXiv 1606.03498).

    Args:
        chances: [clips, classes], each row of sum 1.
        weights: How often each clip counts; None: once.
    """
    p = np.asarray(chances, np.float64)
    if weights is not None:
        p, weights = p[weights > 0], weights[weights > 0]
    overall = np.average(p, axis=0, weights=weights)
    ratio = np.divide(p, overall, out=np.ones_like(p), where=p > 0)  # 0 log 0 is 0
    return float(np.exp(np.average((p * np.log(ratio)).sum(axis=1), weights=weights)))


def inception_figure(
    clips: Sequence[Features], prompts: Sequence[int], real: Sequence[Features], confidence: float, seed: int
) -> Figure:
    """The mean score of ten parts, in an order drawn once, or of all clips where a part would have fewer than classes.

    A part of n clips cannot score above n, so parts of few would measure their own size. The interval is of 200
    resamples of prompts, about the figure; they keep no pairs, as a score of few clips is too low by an amount of its
    own.
    """
    chances = np.asarray(np.concatenate(clips), np.float64)
    parts = PARTS if len(chances) >= PARTS * CLASSES else 1
    order = np.random.RandomState(42).permutation(len(chances))
    scores = [
        inception_score(chances[order[len(order) * i // parts : len(order) * (i + 1) // parts]]) for i in range(parts)
    ]
    value, note = float(np.mean(scores)), f"from {len(chances)} clips"
    note += f" in {parts} parts, whose scores deviate by {np.std(scores):.3g}" if parts > 1 else " together"
    if parts == 1:
        note += f"; too few for the published {PARTS} parts of at least {CLASSES}, and no score is above their number"
    _, of_prompt = np.unique(np.asarray(prompts), return_inverse=True)
    count = int(of_prompt.max()) + 1
    if count < FEWEST_PROMPTS:
        return Figure(value, np.nan, np.nan, f"{note}: compare arms of as many clips alone")
    rng = np.random.default_rng(seed)
    drawn = (rng.multinomial(count, np.full(count, 1 / count))[of_prompt] for _ in range(RESAMPLES))
    found = np.array([inception_score(chances, times) for times in drawn])
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2]) - found.mean()
    return Figure(value, float(value + low), float(value + high), f"{note}: compare arms of as many clips alone")


def _whole(gflops: float, **own: Any) -> Distribution:
    return Distribution(
        family="ucf101",
        asked=True,
        packages=(),
        settings=(SIDE, FRAMES, "in a row"),
        consecutive=True,
        side=SIDE,
        teraflops=gflops / 1e3 / (SIDE / 1e3) ** 2 / FRAMES,
        **own,
    )


WHOLE_CLIPS: tuple[Distribution, ...] = (
    _whole(
        54.0,  # 108 GMAC of 64 frames
        name="fvd_i3d",
        label="FVD (I3D, 16 frames)",
        explanation="Fréchet distance between the I3D features of 16 frames in a row of all clips of the arm and "
        "of the real clips, whole frames at 256 pixels (HPDM's and StyleGAN-V's protocol). It rewards what the real "
        "clips hold, noise and compression among it. It is too high for few clips: published figures are of 2,048 or "
        "10,000.",
        direction="lower",
        weights=(I3D_FILE,),
        load=load_i3d,
        figure=hd_fvd,
    ),
    _whole(
        77.0,  # 38.5 GMAC of 16 frames of 112 pixels
        name="is_c3d",
        label="IS (C3D, 16 frames)",
        explanation="Inception score of 16 frames in a row by C3D fine-tuned on UCF-101 (HPDM's and StyleGAN-V's "
        "protocol): how sure of each clip's class it is, and how many classes there are, 1 to 101. It rewards clips "
        "of which the network is sure, like real ones or not. It means something for clips of UCF-101's classes alone, "
        "and is too low for few.",
        direction="higher",
        weights=(C3D_FILE,),
        load=load_c3d,
        figure=inception_figure,
        real=False,
    ),
)
