"""Cost of our own measures: seconds a megapixel of every frame, and memory in frames, as clips grow.

    python benchmarks/measures.py [--height 2176] [--width 3840] [--frames 3 9 27] [--extra hd_mse jpeg_ratio]

Makes a lossless clip with motion and noise, a native clip of a third of its size, and measures it as scoring does:
decoding, the static mask of the native clip, and all measures that need no known truth. Each length runs in a process
of its own, whose peak memory is that of the system, less what it has before the first frame. With --extra, each of
these measures of pixels (`evaluation.extra_measures`) alone on top, and what it adds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from vibe_pipeline.diffusion.models import limit_threads
from vibe_pipeline.evaluation.metrics.measures import Beside, measure_clip
from vibe_pipeline.evaluation.metrics.static import find_static
from vibe_pipeline.io.video import read_frames, write_lossless


def moving(height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """A still texture with a band that moves through it, and noise, RGB bytes."""
    rng = np.random.default_rng(0)
    still = ndimage.gaussian_filter(rng.standard_normal((height, width)), height / 300)
    still = 128 + 40 * still / still.std()
    noise = rng.standard_normal((height, width + frames)) * 2
    for t in range(frames):
        picture = still + noise[:, t : t + width]
        picture[height // 3 : height // 2] = np.roll(picture[height // 3 : height // 2], 8 * t, axis=1)
        yield np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def peak_bytes() -> int:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor_seconds() -> float:
    """Of this process and the decoders it started, since its start."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure_one(clip: Path, native: Path, band: tuple[float, float], extra: list[str]) -> None:
    """Print seconds, processor seconds and bytes of measuring one clip."""
    limit_threads(1)
    before, processor, begun = peak_bytes(), processor_seconds(), time.monotonic()
    static = find_static(read_frames(native))
    measured = measure_clip(read_frames(clip), band, Beside(static, read_frames(native)), extra)
    spent = {"seconds": time.monotonic() - begun, "processor": processor_seconds() - processor}
    print(json.dumps(spent | {"bytes": peak_bytes() - before, "values": measured.values, "missing": measured.missing}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=2176)
    parser.add_argument("--width", type=int, default=3840)
    parser.add_argument("--frames", type=int, nargs="+", default=[3, 9, 27])
    parser.add_argument("--extra", nargs="*", default=[], metavar="MEASURE")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    band = (given.height / 6, given.height / 2)
    if given.one:
        measure_one(*given.one, band, given.extra)
        return
    print("| frames | asked for | wall s / megapixel | processor s / megapixel | peak, float32 frames |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for frames in given.frames:
            clip, native = Path(folder, f"{frames}.mp4"), Path(folder, f"{frames}.native.mp4")
            write_lossless(clip, moving(given.height, given.width, frames), 24)
            write_lossless(native, moving(given.height // 3, given.width // 3, frames), 24)
            sizes = ["--height", str(given.height), "--width", str(given.width)]
            pixels, frame = given.height * given.width * frames / 1e6, given.height * given.width * 12
            for extra in ([], *([name] for name in given.extra)):
                command = [sys.executable, __file__, *sizes, "--one", str(clip), str(native), "--extra", *extra]
                found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
                each = [found[name] / pixels for name in ("seconds", "processor")]
                asked = "".join(extra) or "-"
                print(f"| {frames} | {asked} | {each[0]:.3f} | {each[1]:.3f} | {found['bytes'] / frame:.1f} |")


if __name__ == "__main__":
    main()
