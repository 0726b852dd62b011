"""`kedro vibe refine` and `generate`: other programs' clips in, larger clips and what they were made with out."""

import json
import re
import shutil
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project

from tests.conf_files import read_conf, write_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.commands.use import prompt_names
from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.training import LoraParams
from vibe_pipeline.io.decoding import probe
from vibe_pipeline.io.video import read_clip

ROOT = Path(__file__).parents[2]
SHORT = ["--steps", "1", "--strength", "0.3"]


@pytest.fixture
def project(tmp_path: Path, wan21, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose model is the tiny checkpoint, and the adapter `full` trained."""
    home = tmp_path / "project"
    shutil.copytree(ROOT / "conf", home / "conf")
    shutil.copy(ROOT / "pyproject.toml", home)
    (home / "src").mkdir()
    base = home / "conf/base"
    params = read_conf(base)
    params["model"] = wan21.model().model_dump(mode="json")
    params["generation"]["native_steps"] = 1
    params["arms"]["absent_lora"] = {"label": "x", "extra_adapters": [{"path": "none.safetensors"}]}
    params["arms"]["far"] = {"label": "y", "rope": {"kind": "ar", "tile": [2, 4], "reach": [1, 1]}}
    write_conf(base, params)
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "full", 4, 6.0, LoraParams().targets, 0)
    saved = lora.save_adapter(transformer, "full", home / "data/06_models/adapters/full-1")
    manifest = {"name": "full", "path": str(saved), "key": "k"}
    (home / "data/06_models/adapters/full.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(home)
    configure_project("vibe_pipeline")
    return home


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["vibe", *arguments])


def a_video(path: Path, frames: int, fps: float = 10, **options: object) -> Path:
    """A moving grey bar, written as another program would."""
    with imageio.get_writer(path, format="FFMPEG", fps=fps, macro_block_size=1, **options) as writer:
        for t in range(frames):
            frame = np.full((32, 48, 3), 60, np.uint8)
            frame[:, 4 + 2 * (t % 16) : 12 + 2 * (t % 16)] = 200
            writer.append_data(frame)
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx265"), ("a.webm", "libvpx-vp9")])
def test_a_clip_of_another_program_becomes_larger(project: Path, name: str, codec: str) -> None:
    source = a_video(project.parent / name, 7, codec=codec, pixelformat="yuv420p")
    done = call("refine", str(source), "--prompt", "a bar", "--output", str(project / "out"), *SHORT)
    assert done.exit_code == 0, done.output
    made = project / "out/a-full-64x96.mp4"
    info = probe(made)
    assert (info.height, info.width, info.frames, round(info.fps)) == (64, 96, 7, 10)
    content = json.loads(made.with_suffix(".json").read_text())
    assert content["source"] == str(source) and content["prompt"] == "a bar" and content["arm"] == "full"
    assert [p["settings"]["arm"]["strength"] for p in content["pieces"]] == [0.3, 0.3]  # 7 frames, 5 at a time
    assert content["pieces"][0]["settings"]["adapter"] == "k"


def test_a_long_clip_is_taken_whole_if_asked_to(project: Path) -> None:
    source = a_video(project.parent / "a.mp4", 7)
    done = call("refine", str(source), "--prompt", "x", "--long", "random", "--output", str(project / "out"), *SHORT)
    assert done.exit_code == 0, done.output
    assert probe(project / "out/a-full-64x96.mp4").frames == 7
    (piece,) = json.loads((project / "out/a-full-64x96.json").read_text())["pieces"]
    assert piece["settings"]["arm"]["long"]["blend"] == "random" and piece["settings"]["chunk"] == 5
    done = call("refine", str(source), "--prompt", "x", "--long", "random", "--arm", "upsample")
    assert done.exit_code != 0 and "arms.upsample: long belongs to refine and direct, not to" in done.output


def test_options_choose_another_row_its_settings_and_no_adapter(project: Path) -> None:
    source = a_video(project.parent / "a.mp4", 5)
    lossless = ["--lossless", "--output", str(project / "b.mp4"), "--to", "96x144", "--no-adapter"]
    done = call("refine", str(source), "--prompt", "x", "--arm", "full_pixel", *SHORT, *lossless)
    assert done.exit_code == 0, done.output
    assert read_clip(project / "b.mp4").shape == (5, 96, 144, 3)
    content = json.loads((project / "b.json").read_text())
    assert content["arm"] == "full_pixel" and content["pieces"][0]["settings"]["adapter"] is None


def test_an_adapter_is_given_by_the_folder_that_holds_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As import-adapter wrote it, relative to where the command is given; a folder without one is none."""
    (project / "below").mkdir()
    shutil.copytree(project / "data/06_models/adapters/full-1", project / "below/imported")
    monkeypatch.chdir(project / "below")
    out = "below.safetensors"
    done = call("export-adapter", "imported", "--to", "diffusers", "--output", out)
    assert done.exit_code == 0 and f"from {project / 'below/imported'}" in done.output, done.output
    assert (project / "below" / out).is_file()
    (project / "below/imported/pytorch_lora_weights.safetensors").unlink()
    refused = call("export-adapter", "imported", "--to", "diffusers", "--output", out)
    assert refused.exit_code == 1 and "nor a folder with an adapter in it" in refused.output


@pytest.mark.parametrize("named", ["file", "row"])
@pytest.mark.parametrize("command", ["generate", "refine"])
def test_an_adapter_of_another_base_is_refused_before_anything_is_made(
    project: Path, wan22, command: str, named: str
) -> None:
    """Of a base with more channels: its first projection has another width; a trained row may be of a former base."""
    other = wan22.transformer()
    other.blocks[0].attn1.to_q = torch.nn.Linear(40, 32)
    lora.add_adapter(other, "full", 4, 4.0, ("to_q",), 0)
    saved = lora.save_adapter(other, "full", project / "other")
    if named == "row":
        manifest = {"name": "full", "path": str(saved), "key": "k"}
        (project / "data/06_models/adapters/full.json").write_text(json.dumps(manifest))
    given = "a bar" if command == "generate" else str(a_video(project.parent / "a.mp4", 5))
    done = call(command, given, *SHORT, *(["--adapter", str(saved)] if named == "file" else []))
    assert done.exit_code != 0
    field = "--adapter" if named == "file" else "adapter 'full'"
    assert f"{field}: {saved} " in done.output and "blocks.0.attn1.to_q" in done.output, done.output
    assert not (project / "data/07_model_output").exists()


def test_a_row_that_was_swept_means_its_first_variant(project: Path) -> None:
    params = read_conf(project / "conf/base")
    params["adapters"]["full"]["seed"] = [0, 1]
    write_conf(project / "conf/base", params)
    shutil.copy(project / "data/06_models/adapters/full.json", project / "data/06_models/adapters/full_seed_0.json")
    source = a_video(project.parent / "a.mp4", 5)
    for chosen in ([], ["--arm", "full"]):  # the reference is `full` too
        done = call("refine", str(source), "--prompt", "x", "--output", str(project / "out"), *chosen, *SHORT)
        assert done.exit_code == 0 and (project / "out/a-full_seed_0-64x96.mp4").is_file(), done.output


def test_a_folder_is_worked_through_and_a_bad_clip_stops_only_itself(project: Path, monkeypatch) -> None:
    folder = project.parent / "clips"
    folder.mkdir()
    a_video(folder / "good.mp4", 5)
    (folder / "good.txt").write_text("a bar that moves\n")
    (folder / "bad.mp4").write_bytes(b"not a video")
    monkeypatch.chdir(project / "src")  # paths are relative to where the command was given
    done = call("refine", "../../clips", "--arm", "upsample", "--output", "../../larger")
    assert done.exit_code == 1 and "bad.mp4: " in done.output
    content = json.loads((project.parent / "larger/good-upsample-64x96.json").read_text())
    assert content["prompt"] == "a bar that moves"


def test_clips_that_differ_in_their_suffix_alone_both_come_out(project: Path) -> None:
    folder = project.parent / "clips"
    folder.mkdir()
    for name, frames in (("a.mp4", 5), ("a.mov", 4), ("b.mp4", 5)):
        a_video(folder / name, frames)
    arguments = ["refine", str(folder), "--prompt", "x", "--arm", "upsample", "--output", str(folder)]
    assert call(*arguments).exit_code == 0
    made = {path.stem: probe(path).frames for path in folder.glob("*-64x96.mp4")}
    assert made == {"a_mp4-upsample-64x96": 5, "a_mov-upsample-64x96": 4, "b-upsample-64x96": 5}
    again = call(*arguments)  # what was made lies among them, and is not made larger still
    assert again.exit_code == 0 and len(again.output.splitlines()) == 3
    assert len(list(folder.glob("*.m*"))) == 6


def test_the_runs_own_clips_keep_their_names(project: Path) -> None:
    """Links by name in the folder of clips show what the run made last, not what was tried on a clip of one's own."""
    links = project / "data/07_model_output/clips/by_name"
    links.mkdir(parents=True)
    (links / "upsample").symlink_to(project)
    done = call("refine", str(a_video(project.parent / "a.mp4", 5)), "--prompt", "x", "--arm", "upsample")
    assert done.exit_code == 0 and (links / "upsample").resolve() == project
    assert (project / "data/07_model_output/clips/own/by_name/upsample").is_symlink()


def test_a_folder_may_have_a_dot_in_its_name(project: Path) -> None:
    out = project / "results.v2"
    done = call(
        "refine", str(a_video(project / "a.mp4", 5)), "--prompt", "x", "--arm", "upsample", "--output", str(out)
    )
    assert done.exit_code == 0 and (out / "a-upsample-64x96.mp4").is_file()


@pytest.mark.parametrize(
    ("prompts", "names"),
    [
        (["A cat!", "a dog"], ["a-cat", "a-dog"]),
        (["A cat!", "a cat"], ["a-cat-X", "a-cat-X"]),
        (["one two three four five six seven eight nine"], ["one-two-three-four-five-six-seven-eight-X"]),
        (["猫" * 200, "!"], ["猫" * 48 + "-X", "X"]),
    ],
)
def test_clips_are_named_by_their_prompts_and_no_two_alike(prompts: list[str], names: list[str]) -> None:
    found = list(prompt_names(prompts).values())
    assert [re.sub(r"\b[0-9a-f]{8}$", "X", name) for name in found] == names
    assert len(set(found)) == len(prompts)


def test_prompts_are_rendered_and_made_larger(project: Path) -> None:
    out = ["--output", str(project / "out"), *SHORT]
    done = call("generate", "A plain blue cross, moving up", "over woven gray", "--seed", "3", *out)
    assert done.exit_code == 0, done.output
    names = sorted(path.stem for path in (project / "out").glob("*.mp4"))
    assert names == [
        "a-plain-blue-cross-moving-up-3-full-64x96",
        "a-plain-blue-cross-moving-up-3-native-32x48",
        "over-woven-gray-3-full-64x96",
        "over-woven-gray-3-native-32x48",
    ]
    again = call("generate", "A plain blue cross, moving up", "over woven gray", "--seed", "3", *out)
    assert again.exit_code == 0 and "step" not in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "64"], "'64' is not a size such as 1088x1920, height before width"),
        (["--arm", "truth"], "--arm 'truth' takes no clip, being of method truth; rows that take a clip: full, "),
        (["--arm", "nobody"], "--arm 'nobody' is not a row of arms; rows that take a clip: full, "),
        (["--arm", "fullpixel"], "--arm 'fullpixel' is not a row of arms; did you mean 'full_pixel'? rows that take a"),
        (
            ["--adapter", "no_relay"],
            "'no_relay' is neither a file, nor a folder with an adapter in it, nor a trained r",
        ),
        (["--adapter", "no_relay"], "nor a trained row; trained: full; "),
        (["--adapter", "x.safetensors"], "--adapter: x.safetensors does not exist"),
        (["--strength", "0"], "Invalid value for '--strength'"),
        (["--output", "OWN"], "is the clip itself; choose another --output"),
        (["--output", "a.webm"], "--output a.webm: clips are written as .mp4, .mov, .mkv"),
        (["--output", "pyproject.toml"], "--output pyproject.toml is a file and not a clip: give a folder or a new"),
        (["--arm", "absent_lora"], "arms.absent_lora.extra_adapters: none.safetensors does not exist"),
        (["--arm", "far"], "arms.far: the clip 64x96: "),
    ],
)
def test_what_cannot_be_done_is_one_line(project: Path, arguments: list[str], message: str) -> None:
    source = a_video(project / "own.mp4", 5)
    before = source.read_bytes()
    given = [str(source) if argument == "OWN" else argument for argument in arguments]
    rest = ["--prompt", "x", *([] if "--arm" in arguments else ["--arm", "upsample"])]
    done = call("refine", str(source), *rest, *given)
    assert done.exit_code != 0 and message in done.output and "Traceback" not in done.output
    assert source.read_bytes() == before


def test_generating_asks_for_what_a_row_needs_before_anything_is_rendered(project: Path, monkeypatch) -> None:
    monkeypatch.setattr("vibe_pipeline.generation.render.native_clips", lambda *_: pytest.fail("rendered"))
    done = call("generate", "a", "--arm", "far")
    assert done.exit_code == 1 and "arms.far: model.target 64x96: " in done.output
    done = call("generate", "a", "--arm", "absent_lora")
    assert done.exit_code == 1 and "none.safetensors does not exist" in done.output


def test_one_prompt_may_name_its_clip_and_the_native_one_lies_beside(project: Path) -> None:
    done = call("generate", "a bar", "--output", str(project / "out/one.mp4"), *SHORT)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (project / "out").glob("*.mp4")} == {"one.mp4", "one-native.mp4"}
    sizes = [read_clip(project / "out" / name).shape[1:3] for name in ("one-native.mp4", "one.mp4")]
    assert sizes == [(32, 48), (64, 96)]


def test_one_file_cannot_hold_several_clips(project: Path) -> None:
    done = call("generate", "a", "b", "--output", "one.mp4")
    assert done.exit_code == 1 and "--output one.mp4 is one file, and there are 2 clips: give a folder" in done.output


def test_a_first_frame_needs_a_base_that_takes_one(project: Path) -> None:
    (project / "f.png").write_bytes(b"no picture")
    done = call("generate", "a", "--first-frame", "f.png")
    assert done.exit_code == 1 and "the first frame f.png cannot be used" in done.output
    imageio.imwrite(project / "g.png", np.zeros((64, 96, 3), np.uint8))
    done = call("generate", "a", "--first-frame", "g.png")
    assert done.exit_code == 1 and "takes no first frame" in done.output


@pytest.fixture
def two_experts(project: Path, a14b) -> list[str]:
    """The shipped environment of Wan2.2-A14B with a tiny base, its first adapter trained; options that choose it."""
    env = project / "conf/wan22_t2v_a14b"
    params = read_conf(env)
    params["model"] |= a14b.model().model_dump(mode="json", exclude={"flow_shift"})
    params["generation"] |= {"native_steps": 4, "negative_prompt": ""}
    write_conf(env, params)
    home = project / "data/06_models/adapters"
    manifest = json.loads((home / "full.json").read_text())
    (home / "full_seed_0.json").write_text(json.dumps(manifest | {"name": "full_seed_0"}))
    return ["--env", "wan22_t2v_a14b", "--output", str(project / "out")]


def test_a_base_of_two_experts_generates_and_refines(project: Path, two_experts: list[str], monkeypatch) -> None:
    """Native clips by both; the environment's second pass below the boundary, and one above it."""
    done = call("generate", "a plain blue cross", *two_experts, "--steps", "2", "--guidance", "1")
    assert done.exit_code == 0, done.output
    notes = {path.stem: json.loads(path.read_text())["pieces"][0] for path in (project / "out").glob("*.json")}
    native, large = (notes[f"a-plain-blue-cross-0-{n}"] for n in ("native-32x48", "full_seed_0-64x96"))
    assert native["expert_steps"] == {"transformer": 3, "transformer_2": 1}
    assert large["expert_steps"] == {"transformer": 0, "transformer_2": 2} and large["settings"]["adapter"] == "k"
    asked: list[float] = []
    monkeypatch.setattr(
        "vibe_pipeline.generation.denoiser.guided", lambda one, other, scale, _: asked.append(scale) or one
    )
    source = project / "out/a-plain-blue-cross-0-native-32x48.mp4"
    options = ["--prompt", "x", "--arm", "full_above", "--steps", "2", "--guidance", "2"]
    done = call("refine", str(source), *two_experts, *options, "--params", "arms.full_above.guidance_scale_2=3.0")
    assert done.exit_code == 0, done.output
    assert asked == [2.0, 2.0]  # both experts', whatever the row says
    (found,) = (project / "out").glob("*full_above*.json")
    assert json.loads(found.read_text())["pieces"][0]["expert_steps"] == {"transformer": 1, "transformer_2": 1}
    refused = ["--prompt", "x", "--arm", "full_above", "--steps", "1", "--strength", "0.9"]
    done = call("refine", str(source), *two_experts, *refused)
    assert done.exit_code == 1 and "the low-noise expert's, and all 1 steps" in done.output
