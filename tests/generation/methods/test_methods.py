"""The entries of METHODS: what each refuses, says and costs; and that a new one is one class and one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.experiment.step_cache import StepCacheParams
from vibe_pipeline.generation.clip_cache import Make
from vibe_pipeline.generation.methods import METHODS, ArmJob, Method, checked_tables, method_of
from vibe_pipeline.generation.render import arm_clips
from vibe_pipeline.io.video import read_clip

GENERATION = GenerationParams(prompts="miniature")
NATIVE = pd.DataFrame([{"prompt_index": 0, "prompt": "a cat", "seed": 3, "path": "none.mp4", "key": "k"}])


def params_of(**arm: Any) -> dict[str, Any]:
    arms = {"a": {"label": "a"} | arm}
    adapters = {"full": {"label": "Full", "start": "base"}}
    evaluation = {"reference_arm": "a"}
    return {"stage1": {}, "adapters": adapters, "arms": arms, "evaluation": evaluation, "generation": {}}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"method": "magic"}, r"arms\.a: method: unknown method 'magic'; known: refine, freeswim, direct"),
        (
            {"method": "upsample", "adapter": "full"},
            r"arms\.a: method 'upsample' runs no transformer: an adapter would",
        ),
        (
            {"method": "upsample", "transformer": {"path": "t3.safetensors"}},
            r"arms\.a: method 'upsample' runs no transformer: weights of its own would do nothing",
        ),
        ({"method": "freeswim"}, r"arms\.a: freeswim is window attention beside full: attention\.kind is 'full'"),
        ({"refresh_every": 2}, r"arms\.a: refresh_every belongs to freeswim, not to method 'refine'"),
        (
            {"method": "direct", "detail_transfer": 1.0},
            r"detail_transfer belongs to refine and freeswim, not to method",
        ),
        ({"path": "clips"}, r"arms\.a: path belongs to external, not to method 'refine'"),
        ({"method": "external"}, r"arms\.a: method external needs `path`, a folder of clips"),
        ({"method": "sr"}, r"arms\.a: method sr needs `sr: \{weights: FILE\}`"),
        ({"sr": {"weights": "x.pth"}}, r"arms\.a: sr belongs to sr, not to method 'refine'"),
        ({"method": "sr", "sr": {"weights": "x.pth", "overlap": 10}}, r"arms\.a\.sr\.overlap: .*equal to 32, not 10"),
        ({"method": "sr", "sr": {"weights": "x.pth", "tile": 48}}, r"arms\.a\.sr: tile 48 is less than twice the over"),
        (
            {"steps": 3, "strength": 0.3, "strength_mode": "truncated"},
            r"arms\.a: .*strength 0\.3 of 3 steps leaves none",
        ),
    ],
)
def test_a_row_that_contradicts_its_method_is_refused(arm: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        checked_tables(params_of(**arm))


def test_from_noise_a_low_strength_does_not_count() -> None:
    direct = {"method": "direct", "steps": 3, "strength": 0.3, "strength_mode": "truncated"}
    assert checked_tables(params_of(**direct)).arms["a"].steps == 3


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"adapter": "full", "strength": 0.5}, "adapter full · full attention · strength 0.5 · 50 steps · guidance 5"),
        (
            {"strength": 0.001, "steps": 1, "guidance_scale": 1.0, "sharpen": {"amount": 2.0, "sigma": 0.3}},
            "no adapter · unsharp mask of 2 at 0.3 native pixels · full attention · strength 0.001 · 1 steps",
        ),
        ({"method": "direct", "guidance_scale": 1.0}, "no adapter · full attention · from noise · 50 steps"),
        (
            {"method": "direct", "transformer": {"path": "x/t3.safetensors"}, "attention": {"kind": "t3"}},
            "transformer t3 · no adapter · t3 attention · from noise · 50 steps · guidance 5",
        ),
        ({"method": "upsample"}, "no model: the native clip, enlarged"),
        (
            {"method": "upsample", "sharpen": {"amount": 0.5}},
            "no model: the native clip, enlarged · unsharp mask of 0.5 at 1 native pixels",
        ),
        (
            {"method": "linear"},
            "no model: the native clip through the best linear filter (Wiener), fitted on the training stills",
        ),
        ({"method": "truth"}, "true render through the VAE: the ceiling"),
        ({"method": "external", "path": "theirs"}, "another system's clips, from theirs"),
        (
            {"method": "sr", "sr": {"weights": "a/x4.pth", "tile": 256}},
            "x4.pth on every frame of the native clip · tiles of 256 sharing 32 pixels · resized to the target",
        ),
    ],
)
def test_an_arm_is_described_in_one_line(arm: dict, said: str) -> None:
    row = ArmParams(label="a", **arm)
    assert method_of(row).describe(row) == said


def test_what_a_clip_takes() -> None:
    """Guidance doubles the passes; FreeSwim's full path comes on top; the transfer decodes once more."""
    refine = ArmParams(label="a", detail_transfer=1.0)
    load = METHODS["refine"].workload(refine, 10)
    assert (load.encodes, load.decodes, load.copies) == (1, 2, 1)
    assert load.forwards == ((refine.attention, 20),)
    assert METHODS["refine"].workload(refine, 10, guided=4).forwards == ((refine.attention, 14),)
    taylor = refine.model_copy(update={"step_cache": StepCacheParams(before=2)})
    computed = 2 + 4, 2 + 1  # 3, 5, 7 and 9 of ten; 3 of four
    assert METHODS["refine"].workload(taylor, 10, guided=4).forwards == ((refine.attention, sum(computed)),)
    swim = ArmParams(label="a", method="freeswim", attention={"kind": "window"}, refresh_every=3)
    cached = METHODS["freeswim"].workload(swim, 10)
    assert [times for _, times in cached.forwards] == [20, 4] and cached.forwards[1][0].kind == "full"
    assert (cached.copies, cached.keeps_cross_attention) == (2, True)
    always = METHODS["freeswim"].workload(swim.model_copy(update={"refresh_every": None}), 10)
    assert [times for _, times in always.forwards] == [20, 20] and not always.keeps_cross_attention
    direct = METHODS["direct"].workload(ArmParams(label="a", method="direct", guidance_scale=1.0), 10)
    assert (direct.encodes, direct.decodes, direct.forwards[0][1]) == (0, 1, 10)
    assert METHODS["upsample"].workload(refine, 10).decodes == 0 and METHODS["truth"].workload(refine, 10).encodes == 1


class Grey(Method):
    """A toy: every pixel is half."""

    name = "grey"

    def describe(self, arm: ArmParams) -> str:
        return "grey"

    @contextmanager
    def prepare(self, job: ArmJob) -> Iterator[Make]:
        size = job.size
        yield lambda rows: torch.full((len(rows), 3, size.frames, size.height, size.width), 0.5)


def test_a_new_method_is_one_entry(wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "grey", Grey())
    arm = checked_tables(params_of(method="grey")).arms["a"]
    made = arm_clips("a", arm, NATIVE, None, None, wan21.model(), GENERATION, tmp_path)
    assert made["method"].tolist() == ["grey"] and made["differs"].tolist() == [""]
    np.testing.assert_allclose(read_clip(Path(made["path"][0])), 0.5, atol=0.5 / 255)


def test_a_renamed_row_and_one_of_equal_content_make_nothing_again(
    wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are named by content; by name a link shows people where a row's clips are."""
    made: list[str] = []

    class Counted(Grey):
        @contextmanager
        def prepare(self, job: ArmJob) -> Iterator[Make]:
            made.append(job.name)
            with super().prepare(job) as make:
                yield make

    monkeypatch.setitem(METHODS, "grey", Counted())
    paths = {}
    for name, label in (("first", "First"), ("renamed", "Another label"), ("first", "First")):
        arm = ArmParams(label=label, method="grey")
        paths[name] = arm_clips(name, arm, NATIVE, None, None, wan21.model(), GENERATION, tmp_path)["path"].tolist()
    assert made == ["first"] and paths["first"] == paths["renamed"]
    assert (tmp_path / "by_name/renamed").resolve() == Path(paths["first"][0]).parent
    other = ArmParams(label="First", method="grey", steps=3)
    assert arm_clips("first", other, NATIVE, None, None, wan21.model(), GENERATION, tmp_path)["path"][0] not in paths
    assert made == ["first", "first"]
