"""Another system's clips: found in both layouts, checked, listed like our own."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.config import ArmParams, GenerationParams
from vibe_pipeline.generation.clips import write_lossless
from vibe_pipeline.generation.render import arm_clips

GENERATION = GenerationParams(prompts="miniature")
NATIVE = pd.DataFrame(
    {
        "prompt_index": [0, 0, 1],
        "prompt": ["a cat", "a cat", "a dog"],
        "seed": [3, 7, 3],
        "path": "",
        "key": "n",
        "preview_path": "",
        "seconds": 1.0,
    }
)
FILES = ["a cat-0.mp4", "a cat-1.mp4", "a dog-0.mp4"]


@pytest.fixture
def model(wan21):
    return wan21.model()  # target 64 x 96, 5 frames, 8 fps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(FILES):
        write(tmp_path / "clips" / name, seed=i)
    return tmp_path / "clips"


def write(path: Path, height: int = 64, frames: int = 5, fps: float = 8.0, seed: int = 0) -> Path:
    clip = np.random.default_rng(seed).random((frames, height, 96, 3), np.float32)
    return write_lossless(path, clip, fps)


def make(folder: Path, model) -> pd.DataFrame:
    arm = ArmParams(label="them", method="external", path=folder)
    return arm_clips("them", arm, NATIVE, None, None, model, GENERATION, folder.parent / "out")


def test_vbench_names_are_read_by_prompt_and_sample(folder: Path, model) -> None:
    made = make(folder, model)
    assert [Path(p).name for p in made["path"]] == FILES
    assert made[["arm", "method"]].drop_duplicates().values.tolist() == [["them", "external"]]
    assert made[["height", "width", "frames", "fps"]].drop_duplicates().values.tolist() == [[64, 96, 5, 8.0]]
    assert made["key"].nunique() == 3 and made["seconds"].isna().all()
    assert all(Path(p).is_file() and Path(p).parent != folder for p in made["preview_path"])


def test_a_table_gives_any_names(folder: Path, model) -> None:
    names = ["x.mp4", "y.mp4", "z.mp4"]
    for old, new in zip(FILES, names, strict=True):
        (folder / old).rename(folder / new)
    NATIVE[["prompt", "seed"]].assign(file=names).to_csv(folder / "clips.csv", index=False)
    assert [Path(p).name for p in make(folder, model)["path"]] == names


def test_missing_clips_are_counted_and_named(folder: Path, model) -> None:
    (folder / FILES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"arms\.them: .* lacks 1 of 3 clips, among them 'a cat' seed 7"):
        make(folder, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 48}, "a dog-0.mp4 is 48x96x5 at 8 fps, not 64x96x5 at 8 fps"),
        ({"frames": 9}, "a dog-0.mp4 is 64x96x9 at 8 fps"),
        ({"fps": 16.0}, "a dog-0.mp4 is 64x96x5 at 16 fps"),
    ],
)
def test_another_size_length_or_rate_is_refused(folder: Path, model, change: dict, message: str) -> None:
    write(folder / FILES[2], **change)
    with pytest.raises(ValueError, match=r"1 of 3 clips differ from model\.target") as error:
        make(folder, model)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,prompt\nx.mp4,a cat\n", "has no column seed"),
        ("file,prompt,seed\n../../x.mp4,a cat,3\n", r"line 2: '../../x.mp4' leaves the folder"),
        ("file,prompt,seed\nno.mp4,a cat,3\n", r"line 2: there is no 'no.mp4'"),
        ("file,prompt,seed\na dog-0.mp4,a cat,3\na dog-0.mp4,a cat,3\n", "line 3: 'a cat' with seed 3 is listed twice"),
    ],
)
def test_a_bad_table_is_named_by_line(folder: Path, model, table: str, message: str) -> None:
    (folder / "clips.csv").write_text(table)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(folder, model)


def test_a_turned_clip_has_the_size_it_is_shown_in(folder: Path, model, tmp_path: Path) -> None:
    upright = write_lossless(tmp_path / "upright.mp4", np.random.default_rng(0).random((5, 96, 64, 3), np.float32), 8)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-display_rotation", "90", "-i", upright]
    subprocess.run([*ffmpeg, "-c", "copy", folder / FILES[0]], check=True)
    made = make(folder, model)
    assert made[["height", "width"]].drop_duplicates().values.tolist() == [[64, 96]]
    assert made["notes"].tolist() == ["turned by 90 degrees, as players show it", "", ""]


def test_a_file_that_is_no_video_is_named(folder: Path, model) -> None:
    (folder / FILES[0]).write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"a cat-0\.mp4 cannot be read as a video"):
        make(folder, model)
