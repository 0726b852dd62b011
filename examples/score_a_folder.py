"""Score a folder of clips by the measures that need neither weights nor a truth: `score_a_folder.py DIR`."""

import sys
from pathlib import Path

from vibe_pipeline.evaluation.metrics.measures import Beside, measure_clip
from vibe_pipeline.evaluation.metrics.static import find_static
from vibe_pipeline.io.clip_files import clip_files
from vibe_pipeline.io.decoding import read_frames


def main(folder: Path) -> None:
    """Print a line a clip and measure."""
    for clip in clip_files(folder):
        height = next(iter(read_frames(clip))).shape[0]
        # Detail between a quarter of the frame's rows and just below the most that they can hold.
        band = height / 4, height / 2 - 1
        found = measure_clip(read_frames(clip), band, Beside(find_static(read_frames(clip))))
        for name, value in found.values.items():
            print(f"{clip.name}\t{name}\t{value:.4g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
