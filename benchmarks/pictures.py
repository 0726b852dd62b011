"""The pictures of the documentation, out of what a finished run left.

python benchmarks/pictures.py page     # docs/report.png: the first screen of the report, in Chromium
python benchmarks/pictures.py clips    # docs/clips.webp: native, upsampled, the best arm, the truth; moving, enlarged

Both read `data/`, or another run's with --data. `clips` wants a run from true native clips, so that all show one scene:
kedro run --runner=ParallelRunner --params=generation.native_source=truth
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vibe_pipeline.io.video import read_frames
from vibe_pipeline.reporting.media import GAP, PAPER, TEXT
from vibe_pipeline.reporting.motion import Focus, find_focus

DOCS = Path(__file__).parents[1] / "docs"
SIDE, HEAD, TIMES = 232, 24, 2.5  # pixels of a picture, of its label; how much the lower row is enlarged
Frames = list[NDArray[np.uint8]]


def page(data: Path, width: int = 1440, height: int = 900) -> Path:
    """The report's first screen at rest, as a PNG."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    report = (data / "08_reporting/report/index.html").resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
        shown.goto(f"{report.as_uri()}#?frame=3")
        shown.wait_for_function("[...document.querySelectorAll('.closeup canvas')].every(c => c.width > 8)")
        shown.wait_for_timeout(1000)
        shown.screenshot(path=DOCS / "report.png")
        browser.close()
    # 256 colours: a page has few, and the repository stays small.
    Image.open(DOCS / "report.png").convert("RGB").quantize(256).save(DOCS / "report.png", optimize=True)
    return DOCS / "report.png"


def clips(data: Path, arm: str, prompt: int) -> Path:
    """The whole clip above, its moving edge enlarged below, four columns, as an animated WebP.

    Raises:
        ValueError: The run's clips do not start from true native clips, so the truth would be another scene.
    """
    tables = {n: pd.read_parquet(data / f"07_model_output/clips_{n}.parquet") for n in ("upsample", arm, "truth")}
    rows = {name: table[table["prompt_index"] == prompt].iloc[0] for name, table in tables.items()}
    if any(row["native_source"] != "truth" for row in rows.values()):
        raise ValueError(f"{data}: clips start from the base's own; run with generation.native_source=truth")
    columns = {
        "Native": _read(rows["upsample"]["native_path"], data),
        "Upsampled": _read(rows["upsample"]["path"], data),
    }
    columns |= {"Ours": _read(rows[arm]["path"], data), "Truth": _read(rows["truth"]["path"], data)}
    focus = find_focus(columns["Truth"])
    pictures = [_picture(columns, focus, i) for i in range(len(columns["Truth"]))]
    place, milliseconds = DOCS / "clips.webp", round(1000 / rows[arm]["fps"])
    options = {"save_all": True, "append_images": pictures[1:], "duration": milliseconds, "loop": 0}
    pictures[0].save(place, quality=88, method=6, **options)
    return place


def _read(path: str, data: Path) -> Frames:
    """A clip whose path is relative to the project that the data belong to."""
    return list(read_frames(data.resolve().parent / path))


def _picture(columns: dict[str, Frames], focus: Focus, index: int) -> Image.Image:
    sheet = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP, HEAD + 2 * (SIDE + GAP) + GAP), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for i, (label, frames) in enumerate(columns.items()):
        x = GAP + i * (SIDE + GAP)
        pen.text((x, 4), label, TEXT, font)
        whole = Image.fromarray(frames[index])
        box = _box(whole.size, focus.points[index])
        sheet.paste(whole.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, HEAD))
        sheet.paste(whole.resize((SIDE, SIDE), Image.Resampling.NEAREST, box), (x, HEAD + SIDE + GAP))
        left, top, right, bottom = (SIDE * value / whole.width for value in box)
        pen.rectangle((x + left, HEAD + top, x + right, HEAD + bottom), outline=(255, 255, 255))
    return sheet


def _box(size: tuple[int, int], place: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is enlarged around a place in percent, inside the picture."""
    spans = [side / TIMES for side in size]
    left, top = (
        min(max(0.0, share * side / 100 - span / 2), side - span)
        for share, side, span in zip(place, size, spans, strict=True)
    )
    return left, top, left + spans[0], top + spans[1]


def main() -> None:
    """Make the picture that was asked for, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("page", "clips"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--arm", default="full_pixel", help="of `clips`: whose are shown as ours")
    parser.add_argument("--prompt", type=int, default=0, help="of `clips`: prompt_index")
    asked = parser.parse_args()
    print(page(asked.data) if asked.what == "page" else clips(asked.data, asked.arm, asked.prompt))


if __name__ == "__main__":
    main()
