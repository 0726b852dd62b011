"""Another system's clips: found in both layouts, checked, listed like our own."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.files import read_json
from vibe_pipeline.io.video import write_lossless

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
    ("change", "said"),
    [
        ({"height": 48}, "48x96 beside 64x96"),
        ({"frames": 9}, "9 frames at 8 fps beside 5 at 8"),
        ({"fps": 16.0}, "5 frames at 16 fps beside 5 at 8"),
        ({"height": 48, "frames": 9, "fps": 16.0}, "48x96 beside 64x96, 9 frames at 16 fps beside 5 at 8"),
    ],
)
def test_another_size_length_or_rate_is_kept_and_stated(
    folder: Path, model, caplog: pytest.LogCaptureFixture, change: dict, said: str
) -> None:
    """In the table of clips with each clip's own scale, in its manifest, in the log."""
    write(folder / FILES[2], **change)
    made = make(folder, model)
    assert made["differs"].tolist() == ["", "", said]
    own = {"height": 64, "width": 96, "frames": 5, "fps": 8.0} | change
    assert made.loc[2, list(own)].to_dict() == own and made.loc[0, "frames"] == 5
    manifests = {m["path"]: m for m in map(read_json, (folder.parent / "out/external").glob("*.json"))}
    assert len(manifests) == 3
    manifest = manifests[str(folder / FILES[2])]
    assert (manifest["differs"], manifest["size"], manifest["prompt"]) == (said, own, "a dog")
    assert f"arms.them: 1 of 3 clips differ from model.target: {said}" in caplog.text
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)  # nothing is written into their folder


def test_a_prompt_too_long_for_a_file_name_is_listed_in_a_table(folder: Path, model) -> None:
    long = "a cat " * 60
    rows = NATIVE.assign(prompt=["a cat", "a cat", long.strip()])
    arm = ArmParams(label="them", method="external", path=folder)
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 3 clips.*or list them in .*clips\.csv"):
        arm_clips("them", arm, rows, None, None, model, GENERATION, folder.parent / "out")
    rows[["prompt", "seed"]].assign(file=FILES).to_csv(folder / "clips.csv", index=False)
    assert len(arm_clips("them", arm, rows, None, None, model, GENERATION, folder.parent / "out")) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,prompt\nx.mp4,a cat\n", "has no column seed; it has file, prompt"),
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


def test_a_prompt_too_long_for_a_file_name_is_found_by_the_table_alone(folder: Path, model) -> None:
    long = NATIVE.assign(prompt=["a cat " * 60, *NATIVE["prompt"][1:]])
    arm = ArmParams(label="them", method="external", path=folder)

    def run() -> pd.DataFrame:
        return arm_clips("them", arm, long, None, None, model, GENERATION, folder.parent / "out")

    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 3 clips.* or list them in .*clips\.csv"):
        run()
    long[["prompt", "seed"]].assign(file=FILES).to_csv(folder / "clips.csv", index=False)
    assert [Path(p).name for p in run()["path"]] == FILES


def test_a_tables_prompts_are_text_and_their_white_space_is_as_in_a_file_of_prompts(folder: Path, model) -> None:
    native = NATIVE.assign(prompt=["None", "1984", "a red cat"])
    written = native.assign(file=FILES, prompt=["None", "1984", "a\n red  cat"])
    written[["prompt", "seed", "file"]].to_csv(folder / "clips.csv", index=False)
    arm = ArmParams(label="them", method="external", path=folder)
    made = arm_clips("them", arm, native, None, None, model, GENERATION, folder.parent / "out")
    assert [Path(p).name for p in made["path"]] == FILES


PAGE = (Path(__file__).parents[3] / "docs/baselines.md").read_text()


@pytest.mark.parametrize(("recipe", "place"), [(0, "/data/seedvr2"), (1, "/data/ultragen")])
def test_the_recipes_of_the_page_list_clips_that_are_found(
    recipe: int, place: str, model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upscaler keeps the native clips' names; a model that starts from text numbers its clips."""
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / place.strip("/")
    names = [f"{i:04d}-{row.seed}-key.mp4" for i, row in enumerate(NATIVE.itertuples())]
    for i, name in enumerate(names):
        write(theirs / (name if recipe == 0 else f"video_{i:04d}.mp4"), seed=i)
    for table in ("05_model_input/prompts", "07_model_output/native_clips"):
        (tmp_path / f"data/{table}.parquet").parent.mkdir(parents=True, exist_ok=True)
        NATIVE.assign(path=[f"clips/{name}" for name in names]).to_parquet(tmp_path / f"data/{table}.parquet")
    block = re.findall(r"```python\n(.*?)```", PAGE, re.S)[recipe]
    exec(block.replace(place, str(theirs)), {})
    made = make(theirs, model)
    assert sorted(made["path"]) == sorted(map(str, theirs.glob("*.mp4"))) and (made["differs"] == "").all()
