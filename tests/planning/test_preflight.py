"""What is refused before the first node runs."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conf_files import folders_below, loader_of_conf
from tests.diffusion.rrdb_files import real_esrgan_file
from tests.wan_names import write_wan_file
from vibe_pipeline.diffusion import lora
from vibe_pipeline.evaluation.metrics.registry import METRICS
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.video import write_lossless
from vibe_pipeline.planning.arm_checks import check_quantised
from vibe_pipeline.planning.looks import check_look
from vibe_pipeline.planning.preflight import (
    check_band,
    check_claims,
    check_generation,
    check_model,
    check_parameters,
    check_scoring,
    check_single_size,
    check_space,
    check_training,
    generation_checks,
)

CONF = Path(__file__).parents[2] / "conf"
GENERATION = GenerationParams(prompts="miniature")
FOLDERS = folders_below(Path("project")).model_dump()


def tables(**arm: object) -> Experiment:
    return Experiment(stage1={}, adapters={}, arms={"a": ArmParams(label="a", **arm)}, reference_arm="a")


def passes(model: ModelParams, rows: Experiment, generation: GenerationParams = GENERATION) -> bool:
    """Whether the check before a run has nothing against it; what it has is raised."""
    return check_generation(model, generation, rows) is None


def test_what_fits_passes_and_what_does_not_is_refused(tiny) -> None:
    assert passes(tiny.model(), tables(attention={"kind": "gclf", "pool": 2}))
    with pytest.raises(ValueError, match=r"arms\.a with gclf \(4×\) attention"):
        passes(tiny.model(), tables(attention={"kind": "gclf", "pool": 4}))


@pytest.mark.parametrize("which", ["native", "target"])
def test_a_size_that_does_not_fit_is_named_with_the_nearest(wan21, which: str) -> None:
    model = wan21.model(**{which: {"height": 72, "width": 96, "frames": 5}})
    with pytest.raises(ValueError, match=f"model.{which} 72x96 .* nearest that are: 64x96 or 80x96"):
        check_generation(model, GENERATION, tables())


def test_a_pooling_that_does_not_divide_names_its_arm(wan21) -> None:
    row = {"attention": {"kind": "gclf", "pool": 4}}
    with pytest.raises(ValueError, match=r"arms\.a with gclf \(4×\) attention: model\.target 64x96 .* 64x64 or 64x128"):
        check_generation(wan21.model(), GENERATION, tables(**row))
    check_generation(wan21.model(), GENERATION, tables(**row, method="upsample"))


def cascade(**stage: object) -> dict[str, object]:
    return {"method": "cascade", "stages": [{"height": 32, "width": 48} | stage]}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (cascade(height=36), r"arms\.a\.stages\.0 36x48 must be a multiple of 16x16; nearest that are: 32x48 or 48x48"),
        (cascade(width=112), r"arms\.a\.stages\.0 32x112 is not smaller than model\.target 64x96"),
        (cascade(height=64, width=96), r"arms\.a\.stages\.0 64x96 is not smaller than model\.target 64x96"),
        (
            cascade(attention={"kind": "gclf", "pool": 4}),
            r"arms\.a with gclf \(4×\) attention: stages\.0 32x48 must be a multiple of 64x64",
        ),
        (
            {"rope": {"kind": "ar", "tile": (3, 6), "reach": (1, 5)}},
            r"arms\.a: model\.target 64x96: a tile of 3 tokens is longer than its keys may reach, 1: set rope\.tile",
        ),
        (
            {"rope": {"kind": "ar", "tile": (2, 6), "reach": "native"}},
            r"arms\.a: model\.target 64x96: a tile of 6 tokens is longer than its keys may reach, 2",
        ),
        (
            cascade(rope={"kind": "ar", "tile": (2, 3), "reach": (1, 1)}),
            r"arms\.a: stages\.0 32x48: a tile of 3 tokens is longer than its keys may reach, 1",
        ),
    ],
)
def test_sizes_of_stages_and_tiles_of_positions_are_refused_before_the_run(wan21, arm: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_generation(wan21.model(), GENERATION, tables(**arm))


def test_tiles_larger_than_the_grid_are_cut_to_it(wan21) -> None:
    """The published 18x32 on a grid of 4x6: one tile."""
    assert passes(wan21.model(), tables(rope={"kind": "ar"}))
    assert passes(wan21.model(), tables(rope={"kind": "ar", "tile": (2, 3), "reach": "native"}))
    assert passes(wan21.model(), tables(**cascade(rope={"kind": "ntk"})))
    with pytest.raises(ValueError, match="a tile of 6 tokens is longer than its keys may reach, 3"):
        passes(wan21.model(), tables(rope={"kind": "ar", "reach": (3, 3)}))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"extra_adapters": [{"path": "no.safetensors"}]}, r"arms\.a\.extra_adapters: no\.safetensors does not exist"),
        ({"method": "external", "path": "no"}, r"arms\.a\.path: no does not exist; put the other"),
    ],
)
def test_files_that_are_not_there_are_named(wan21, arm: dict, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        check_generation(wan21.model(), GENERATION, tables(**arm))


def test_prompts_that_are_not_there_are_named(wan21, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt does not exist"):
        check_generation(wan21.model(), GenerationParams(prompts=tmp_path / "none.txt"), tables())


def test_a_prompt_that_no_tokenizer_could_fit_is_refused_before_the_run(wan21, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a cat\n" + "very " * 600 + "long\n")
    with pytest.raises(ValueError, match=r"prompt 1 has 601 words, model\.text_length takes \d+ tokens: 'very"):
        check_generation(wan21.model(), GenerationParams(prompts=tmp_path / "long.txt"), tables())


def test_buckets_that_pooling_does_not_divide_are_refused(tmp_path: Path) -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    data = DataParams(path=tmp_path, buckets="aspect", bucket_tokens=2, **sizes)
    row = {"a": AdapterParams(label="a", start="base", attention={"kind": "gclf", "pool": 4})}
    rows = Experiment(stage1={}, adapters=row, arms=tables().arms, reference_arm="a")
    with pytest.raises(ValueError, match=r"adapters\.a with gclf \(4×\) attention.*4x4 tokens.*bucket_tokens 2"):
        check_training(data, rows)
    check_training(data.model_copy(update={"bucket_tokens": 4}), rows)
    check_training(data.model_copy(update={"buckets": "single"}), rows)


def test_a_single_training_size_that_pooling_does_not_divide_is_named_with_the_nearest(wan21) -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    params = {"model": wan21.model().model_dump(), "data": {"path": "x", "buckets": "single"} | sizes}
    for pool, fits in ((2, True), (4, False)):
        row = {"a": AdapterParams(label="a", start="base", attention={"kind": "gclf", "pool": pool})}
        rows = Experiment(stage1={}, adapters=row, arms=tables().arms, reference_arm="a")
        if fits:
            check_parameters(params, rows, {"relay_stage2"})
            continue
        with pytest.raises(
            ValueError, match=r"adapters\.a with gclf \(4×\) attention: data\.high 64x96 .*64x64 or 64x128"
        ):
            check_parameters(params, rows, {"relay_stage2"})


def test_only_what_a_run_needs_is_checked() -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    native = {"native": sizes["low"], "target": sizes["high"]}
    nowhere = {"model": {"path": "somewhere/else"} | native, "data": {"path": "x"} | sizes}
    check_parameters(nowhere, tables(), {"base_model"})
    with pytest.raises(FileNotFoundError, match=r"somewhere/else.*hf download"):
        check_parameters(nowhere, tables(), {"relay_stage1"})


@pytest.mark.parametrize("part", ["data_processing", "relay_stage2", "generation"])
def test_a_tile_that_the_vae_cannot_be_cut_into_is_refused_with_the_nearest(wan22, tmp_path: Path, part: str) -> None:
    sizes = {"low": {"height": 32, "width": 64}, "high": {"height": 64, "width": 128}}
    for name in ("a", "b"):
        Image.new("RGB", (128, 64)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a fox")
    params = {"data": {"path": str(tmp_path)} | sizes, "generation": GENERATION.model_dump(), "folders": FOLDERS}
    for tile, fits in ((300, False), (304, True), (None, True)):
        params["model"] = wan22.model(tile=tile).model_dump()
        if fits:
            check_parameters(params, tables(), {part})
            continue
        with pytest.raises(ValueError, match=r"model\.tile 300 must be a multiple of 16 .*fit: 288 or 304"):
            check_parameters(params, tables(), {part})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"count": 20}, r"generation\.count 20 is none of the looks \[8, 16\]"),
        ({"sequential": {"blocks": [5, 8]}, "count": 8}, r"blocks begin with 5 prompts; fewer than 6 can tell nothing"),
        ({"sequential": {"blocks": [8, 300]}}, r"blocks end at 300 prompts: 300 held-out captions .* has 250"),
        ({"prompts": "few.txt"}, r"blocks end at 16 prompts, and generation\.prompts few\.txt has 9 after"),
        ({"shard": "1/16"}, ""),
    ],
)
def test_looks_that_cannot_be_made_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.txt").write_text("".join(f"prompt {i}\n" for i in range(9)))
    params = settled_parameters(loader_of_conf(CONF, "base"))
    growing = {"prompts": "miniature", "count": 8, "sequential": {"blocks": [8, 16]}}
    params["generation"] = params["generation"] | growing | changes
    if not said:
        check_look(params)
        with pytest.raises(ValueError, match="until its claims are told, and this environment has no claims"):
            check_look(params | {"claims": []})
        return
    with pytest.raises(ValueError, match=said):
        check_look(params)


def extra(path: Path) -> dict[str, Any]:
    return {"extra_adapters": [{"path": str(path)}]}


@pytest.fixture
def trained(wan21, tmp_path: Path) -> Path:
    """An adapter of the tiny base."""
    transformer = wan21.transformer()
    lora.add_adapter(transformer, "d", 4, 4.0, ("to_q",), 0)
    return lora.save_adapter(transformer, "d", tmp_path / "style")


def test_an_adapter_that_fits_passes_by_its_header_alone(wan21, trained: Path, monkeypatch) -> None:
    monkeypatch.setattr(lora, "load_file", lambda *_: pytest.fail("a tensor was read"))
    rows = tables(**extra(trained))
    assert passes(wan21.model(), rows)
    said = {check.item: check.look() for check in generation_checks(wan21.model(), GENERATION, rows.arms)}
    assert said["arms.a.extra_adapters"] == f"{trained}, 4 layers"


# What is made of an adapter file, and what the message names beside the arm's field.
def _comfyui(path: Path) -> Path:
    name = "diffusion_model.blocks.0.self_attn.q.lora_{}.weight"
    save_file({name.format("down"): torch.ones(4, 32), name.format("up"): torch.ones(32, 4)}, path)
    return path


def _pickle(path: Path) -> Path:
    return path.rename(path.with_suffix(".ckpt"))


def _empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


ADAPTERS = {
    "another layout": (_comfyui, "comfyui layout, not in ours: convert it with `kedro vibe import-adapter"),
    "a pickle": (_pickle, "is not .safetensors"),
    "a folder": (lambda p: p.parent, "is a folder, not a file"),
    "empty": (_empty, "empty (0 bytes)"),
    "a name that no file has": (lambda p: p.with_name("n" * 300), "cannot be a path"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_would_be_refused_after_hours_is_refused_before(wan21, trained: Path, case: str) -> None:
    change, named = ADAPTERS[case]
    with pytest.raises((ValueError, OSError)) as error:
        check_generation(wan21.model(), GENERATION, tables(**extra(change(trained))))
    message = str(error.value)
    assert message.startswith("arms.a.extra_adapters: ") and named in message and "\n" not in message, message


def test_differences_are_judged_before_and_never_left_unsaid(wan21, trained: Path, caplog) -> None:
    """Asked for: there, and of this base. Not asked for: a warning where they lie beside the adapter."""
    beside, model = trained.with_name("differences.safetensors"), wan21.model()

    def check(**more: Any) -> None:
        check_generation(model, GENERATION, tables(extra_adapters=[{"path": trained} | more]))

    with pytest.raises(
        FileNotFoundError, match=r"arms\.a\.extra_adapters: differences: .*import-adapter --differences"
    ):
        check(differences=True)
    save_file({"blocks.0.attn1.norm_q.weight": torch.ones(32)}, beside)
    check(differences=True)
    assert not caplog.text
    check()
    assert "differences.safetensors is not fused, as the row does not say `differences: true`" in caplog.text
    save_file({"blocks.0.attn1.norm_q.weight": torch.ones(64)}, beside)
    with pytest.raises(ValueError, match=r"arms\.a\.extra_adapters: .*another base: blocks\.0\.attn1\.norm_q"):
        check(differences=True)


def test_a_network_is_judged_before(wan21, tmp_path: Path) -> None:
    """There, one that spandrel knows, in a number format that it runs in; missing peers are told with their command."""
    model, good = wan21.model(), real_esrgan_file(tmp_path / "good")
    check_generation(model, GENERATION, tables(method="sr", sr={"weights": good}))
    peer = tmp_path / "RealESRGAN_x4plus.pth"
    with pytest.raises(
        FileNotFoundError,
        match=r"arms\.a\.sr\.weights: .*does not exist; kedro vibe fetch-weights .*RealESRGAN_x4plus\.pth",
    ):
        check_generation(model, GENERATION, tables(method="sr", sr={"weights": peer}))
    peer.write_bytes(good.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"arms\.a\.sr\.weights: .*RealESRGAN_x4plus\.pth cannot be read") as error:
        check_generation(model, GENERATION, tables(method="sr", sr={"weights": peer}))
    assert "\n" not in str(error.value)
    torch.save({"w": torch.ones(1)}, peer)
    with pytest.raises(ValueError, match=r"arms\.a\.sr\.weights: .*no network that spandrel knows"):
        check_generation(model, GENERATION, tables(method="sr", sr={"weights": peer}))


def test_a_whole_transformer_is_judged_before_the_run(tiny, wan21, tmp_path: Path) -> None:
    file = write_wan_file(wan21.transformer(), tmp_path / "t3.safetensors")
    row = {"method": "direct", "transformer": {"path": str(file)}}
    found = {check.item: check for check in generation_checks(wan21.model(), GENERATION, tables(**row).arms)}
    assert found["arms.a.transformer"].look().endswith(", Wan's names")
    check_generation(wan21.model(), GENERATION, tables(**row))
    if tiny is not wan21:
        with pytest.raises(ValueError, match=r"arms\.a\.transformer: .*t3\.safetensors has .* of other shapes, among"):
            check_generation(tiny.model(), GENERATION, tables(**row))
    absent = tables(method="direct", transformer={"path": "no.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"arms\.a\.transformer: no\.safetensors does not exist"):
        check_generation(tiny.model(), GENERATION, absent)


def test_an_adapter_of_another_base_is_refused_before(wan21, wan22, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(wan21.path, tmp_path / "wider")
    check_generation(wan22.model(), GENERATION, tables(**extra(trained)))  # the same blocks
    from vibe_pipeline.diffusion.weights import on_meta

    config = json.loads((folder / "transformer/config.json").read_text()) | {"attention_head_dim": 32}
    (folder / "transformer/config.json").write_text(json.dumps(config))
    state = on_meta("transformer", config).state_dict()
    save_file(
        {k: torch.zeros(v.shape) for k, v in state.items()}, folder / "transformer/diffusion_pytorch_model.safetensors"
    )
    with pytest.raises(ValueError, match=r"arms\.a\.extra_adapters: .*was trained on another base: blocks\..*64"):
        check_generation(wan21.model(path=str(folder)), GENERATION, tables(**extra(trained)))


def test_a_model_that_would_run_in_part_stops_every_kind_of_run(wan21, tmp_path: Path) -> None:
    folder = shutil.copytree(wan21.path, tmp_path / "half")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    params = {"model": wan21.model(path=str(folder)).model_dump()}
    with pytest.raises(ValueError, match="no boundary_ratio"):
        check_parameters(params, tables(), {"relay_stage1"})
    with pytest.raises(ValueError, match="no boundary_ratio"):
        check_generation(wan21.model(path=str(folder)), GENERATION, tables())


def _prompts(folder: Path, text: str) -> GenerationParams:
    (folder / "p.csv").write_text(text)
    return GenerationParams(prompts=folder / "p.csv")


def test_external_clips_are_measured_before(wan21, tmp_path: Path) -> None:
    generation = _prompts(tmp_path, "prompt\na cat\na dog\n")
    theirs = tables(method="external", path=str(tmp_path / "clips"))
    clip = np.zeros((9, 32, 48, 3), np.float32)
    write_lossless(tmp_path / "clips/a cat-0.mp4", clip, 16)
    with pytest.raises(FileNotFoundError, match=r"arms\.a: .*lacks 1 of 2 clips, among them 'a dog' seed 0"):
        check_generation(wan21.model(), generation, theirs)
    (tmp_path / "clips/a dog-0.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a dog-0\.mp4 cannot be read as a video"):
        check_generation(wan21.model(), generation, theirs)
    write_lossless(tmp_path / "clips/a dog-0.mp4", clip, 16)
    before = sorted(tmp_path.rglob("*"))
    check_generation(wan21.model(), generation, theirs)  # another scale: stated, not refused
    assert sorted(tmp_path.rglob("*")) == before


def test_first_frames_are_judged_before(wan21, wan22, tmp_path: Path) -> None:
    generation = _prompts(tmp_path, "prompt,first_frame\na cat,a.png\n")
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    check_generation(wan22.model(), generation, tables())  # native size: smaller than the target
    with pytest.raises(ValueError, match=r"generation\.prompts: 1 prompts have a first_frame, and model takes no"):
        check_generation(wan21.model(), generation, tables())
    Image.new("RGB", (96, 63)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"smaller than model\.native 64x96.*a\.png is 63x96"):
        check_generation(wan22.model(), generation, tables())


def test_images_and_what_scoring_reads_are_looked_at_before(wan21, tmp_path: Path) -> None:
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    params = {"model": wan21.model().model_dump(), "data": {"path": str(tmp_path / "a"), "source": "folder"} | sizes}
    with pytest.raises(FileNotFoundError, match=r"data\.path: .*a does not exist"):
        check_parameters(params, tables(), {"data_processing"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/metadata.csv").write_text("name,text\nx.png,a\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 1"):
        check_parameters(params, tables(), {"data_processing"})
    evaluation = {"vbench_dimensions": ["scene"], "fine_band": [1, 2], "reference_arm": "a"}
    file = tmp_path / "weights"
    file.write_text("")
    scored = {"evaluation": evaluation, "folders": FOLDERS | {"vbench_weights": str(file)}}
    with pytest.raises(ValueError, match=r"folders\.vbench_weights: .*weights is a file, not a folder"):
        check_parameters(scored, tables(), {"vbench_eval"})


def test_a_preview_needs_no_clips_of_others_yet(wan21, tmp_path: Path) -> None:
    """They may be made from the native clips that it shows."""
    theirs = tables(method="external", path=str(tmp_path / "clips"))
    assert passes(wan21.model(), theirs, GENERATION.model_copy(update={"stop_after_preview": True}))
    with pytest.raises(FileNotFoundError, match=r"arms\.a\.path: .*clips does not exist"):
        passes(wan21.model(), theirs)


def test_what_validation_clips_need_is_looked_at_before_training(wan21, trained: Path) -> None:
    adapter = AdapterParams(label="d", start="base", validation_clips=1, validate_every=1, attention={"kind": "full"})
    arm = ArmParams(label="a", adapter="d", **extra(trained.with_name("gone.safetensors")))
    rows = Experiment(stage1={}, adapters={"d": adapter}, arms={"a": arm}, reference_arm="a")
    sizes = {"low": {"height": 32, "width": 48}, "high": {"height": 64, "width": 96}}
    params = {"model": wan21.model().model_dump(), "generation": {"prompts": "miniature"}}
    params |= {"data": {"path": "x", "buckets": "single"} | sizes}
    with pytest.raises(FileNotFoundError, match=r"arms\.a\.extra_adapters: .*gone"):
        check_parameters(params, rows, {"relay_stage2"})
    check_parameters(params, rows, {"relay_stage1"})


def test_a_model_folder_that_may_not_be_read_is_not_called_absent(wan21, monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root, as tests often run, may read everything
    with pytest.raises(PermissionError, match=r"model\.path: .* may not be read by this user"):
        check_generation(wan21.model(), GENERATION, tables())


def evaluation(*dimensions: str) -> EvaluationParams:
    return EvaluationParams(vbench_dimensions=dimensions, fine_band=(1.0, 2.0), reference_arm="a")


def test_a_dimension_that_no_clip_has_is_refused_and_one_that_few_have_is_said(caplog) -> None:
    pytest.importorskip("vbench")
    custom = GenerationParams(prompts="vbench_custom", count=64)
    check_scoring(custom, evaluation("subject_consistency", "overall_consistency", "temporal_flickering"))
    assert not caplog.records
    with pytest.raises(ValueError, match=r"vbench_dimensions: scene, color is defined on none of the 64 prompts"):
        check_scoring(custom, evaluation("scene", "imaging_quality", "color"))
    with pytest.raises(
        ValueError, match=r"scene is defined on none of the 64 prompts of generation\.prompts miniature"
    ):
        check_scoring(GenerationParams(prompts="miniature"), evaluation("scene"))
    check_scoring(GenerationParams(prompts="vbench_subset", count=16), evaluation("subject_consistency", "scene"))
    assert "fewer than 6 prompts cannot tell two arms apart: subject_consistency on 2, scene on 2" in caplog.text


def test_scoring_is_checked_where_a_run_makes_and_scores_clips(wan21) -> None:
    params = {"model": wan21.model().model_dump(), "generation": {"prompts": "miniature"}}
    params |= {"evaluation": evaluation("scene").model_dump(), "folders": FOLDERS}
    with pytest.raises(ValueError, match="scene is defined on none"):
        check_parameters(params, tables(), {"generation", "vbench_eval"})
    check_parameters(params, tables(), {"vbench_eval"})


def test_claims_on_what_is_not_measured_are_said_before_the_run(caplog) -> None:
    asked = evaluation("imaging_quality")
    claim = {"name": "n", "statement": "s", "kind": "k", "arm": "a", "other": "b"}

    def put_to(primary: str, secondary: str) -> Claims:
        first, second = (
            {"metric": name, "better": "lower" if name == "flicker" else "higher", "margin": 0.01}
            for name in (primary, secondary)
        )
        return Claims([claim | {"primary": first, "secondary": [second]}])

    check_claims(put_to("imaging_quality", "flicker"), asked)
    check_claims(put_to("imaging_quality", "high_frequency_share"), asked)  # of neither side by itself
    assert not caplog.records
    check_claims(put_to("imaging_quality", "scene"), asked)
    assert "claims on scene, which evaluation.vbench_dimensions does not ask for" in caplog.text
    with pytest.raises(ValueError, match=r"kinds\.k names 'flickr', which is not a metric; did you mean 'flicker'"):
        check_claims(put_to("imaging_quality", "flickr"), asked)
    with pytest.raises(ValueError, match=r"kinds\.k has higher band_error as the better side; it is lower"):
        check_claims(put_to("band_error", "scene"), asked)


def test_a_published_column_of_a_metric_that_does_not_exist_is_refused_before_the_run() -> None:
    """It would be "not measured" at the end of days."""
    scored = {"evaluation": evaluation("imaging_quality").model_dump(), "folders": FOLDERS}
    scored["generation"] = GENERATION.model_dump()
    columns = {"overall": {"label": "Overall", "metric": "overal6"}, "other": {"label": "of no measure of ours"}}
    for stage in ("vbench_eval", "ablation_report"):
        with pytest.raises(
            ValueError, match=r"columns\.overall\.metric: 'overal6' is not a metric; did you mean 'overall6'\?"
        ):
            check_parameters(scored | {"published": {"columns": columns}}, tables(), {stage})
    columns["overall"]["metric"] = "overall6"
    assert check_parameters(scored | {"published": {"columns": columns}}, tables(), {"ablation_report"}) is None


@pytest.mark.parametrize("env", sorted({file.parent.name for file in CONF.glob("*/parameters.yml")} - {"local"}))
def test_every_metric_that_a_shipped_environment_names_exists(env: str) -> None:
    settled = settled_parameters(loader_of_conf(CONF, env))
    columns = [column.get("metric") for column in settled["published"]["columns"].values()]
    claimed = [asked.metric for claim in Claims(settled["claims"]).root for asked in claim.measures]
    assert columns and {*filter(None, columns), *claimed} <= set(METRICS)


def test_a_band_that_the_target_cannot_hold_is_refused(wan21) -> None:
    """64 rows have frequencies up to 32 along an axis and half as many again along the diagonal."""
    fits = evaluation("imaging_quality").model_copy(update={"fine_band": (13.0, 20.0)})
    check_band(wan21.model(), fits)
    with pytest.raises(ValueError, match=r"\[352\.0, 640\.0\] at model\.target: a 64x96 frame has no frequency"):
        check_band(wan21.model(), fits.model_copy(update={"fine_band": (352.0, 640.0)}))


def test_too_little_space_for_all_clips_is_said_before_the_first(wan21, tmp_path: Path, caplog, monkeypatch) -> None:
    """Five frames of 32x48 natively and of 64x96 in each arm, three bytes a pixel."""
    native, target = 32 * 48 * 5 * 3, 64 * 96 * 5 * 3
    for free, warned in ((10 * (native + 4 * target), False), (10 * (native + 4 * target) - 1, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        check_space(wan21.model(), 10, 4, tmp_path / "not made yet")
        assert ("the clips take up to 0.0 GB" in caplog.text) == warned


def test_stills_too_small_for_the_linear_filter_are_refused_before_the_run(wan21, tmp_path: Path) -> None:
    """Where a row is made with it: 176 to 272 pixels are 17 for 11, and a still of 16 has no 17."""
    native, target = ({"height": height, "width": 48, "frames": 5} for height in (176, 272))
    data = {"path": str(tmp_path), "low": {"height": 16, "width": 48}, "buckets": "single"}
    params = {"generation": GENERATION.model_dump(), "folders": FOLDERS}
    params["model"] = wan21.model(native=native, target=target).model_dump()
    for height, fits in ((16, False), (32, True)):
        params["data"] = data | {"high": {"height": height, "width": 48}}
        check_parameters(params, tables(), {"generation"})
        if fits:
            check_parameters(params, tables(method="linear"), {"generation"})
            continue
        said = r"arms\.a: method linear .* at least 17 pixels high, .* of 17/11 takes; data\.high makes them 16"
        with pytest.raises(ValueError, match=said):
            check_parameters(params, tables(method="linear"), {"generation"})


def test_drawn_degradations_need_latents_that_are_made() -> None:
    row = AdapterParams(label="a", start="base", degradation={"kind": "pixel_drawn"})
    adapters = Experiment(stage1={}, adapters={"d": row}, arms={"a": ArmParams(label="a")}, reference_arm="a")
    sizes = {"low": {"height": 64, "width": 64}, "high": {"height": 128, "width": 128}}
    with pytest.raises(ValueError, match=r"adapters\.d\.degradation: kind pixel_drawn .* set data\.pixel_draws"):
        check_training(DataParams(path="x", **sizes), adapters)
    check_training(DataParams(path="x", pixel_draws={}, **sizes), adapters)
    with pytest.raises(ValueError, match="least 9 lies above most 8"):
        DataParams(path="x", pixel_draws={"least": 9.0}, **sizes)
    with pytest.raises(ValueError, match="most 200 leaves nothing of a side of 128 pixels"):
        DataParams(path="x", pixel_draws={"most": 200.0}, **sizes)


def test_a_blur_as_wide_as_the_latents_is_refused(wan21) -> None:
    """128 x 192 pixels are 16 x 24 cells: a window of 31 is the widest whose edges can be mirrored."""

    def check(kernel: int, **changes: Any) -> None:
        row = AdapterParams(label="a", start="base", **{"degradation": {"kind": "blur", "kernel": kernel}} | changes)
        adapters = Experiment(stage1={}, adapters={"d": row}, arms={"a": ArmParams(label="a")}, reference_arm="a")
        sizes = {"low": {"height": 64, "width": 64}, "high": {"height": 128, "width": 192}}
        check_single_size(wan21.model(), DataParams(path="x", buckets="single", **sizes), adapters)

    check(31, attention={"kind": "full"})
    with pytest.raises(
        ValueError, match=r"adapters\.d\.degradation\.kernel 33 .* of 16 cells.* lower it to 31 or less"
    ):
        check(33)
    check(33, objective={"velocity": 1.0}, attention={"kind": "full"})  # which degrades nothing


def test_sequences_shorter_than_the_largest_image_are_refused(wan21) -> None:
    """128x192 pixels are 8 x 12 tokens; low ones of 64x64 are 4 x 4, at other proportions up to 3 x 6."""

    def check(high: int, low: int, buckets: str) -> None:
        rows = {
            "stage1": {"m": Stage1Params(packing={"tokens": low})},
            "adapters": {"d": AdapterParams(label="a", start="m", packing={"tokens": high})},
            "arms": {"a": ArmParams(label="a")},
        }
        sizes = {"low": {"height": 64, "width": 64}, "high": {"height": 128, "width": 192}}
        data = DataParams(path="x", buckets=buckets, **sizes)
        check_single_size(wan21.model(), data, Experiment(**rows, reference_arm="a"))

    check(96, 16, "single")
    with pytest.raises(ValueError, match=r"adapters\.d\.packing\.tokens 95 .* 128x192, 96 tokens: raise it to 96"):
        check(95, 16, "single")
    with pytest.raises(ValueError, match=r"stage1\.m\.packing\.tokens 15 .* 64x64, 16 tokens"):
        check(96, 15, "single")
    check(96, 18, "aspect")


def test_crops_that_do_not_fit_are_refused(wan21) -> None:
    def check(crop: dict, **data: Any) -> None:
        row = AdapterParams(label="a", start="base", attention={"kind": "full"}, crop=crop)
        adapters = Experiment(stage1={}, adapters={"d": row}, arms={"a": ArmParams(label="a")}, reference_arm="a")
        sizes = {"low": {"height": 64, "width": 64}, "high": {"height": 128, "width": 192}}
        check_single_size(wan21.model(), DataParams(path="x", **sizes | {"buckets": "single"} | data), adapters)

    check({"height": 64, "width": 96})
    for crop, data, message in (
        ({"height": 72, "width": 96}, {}, r"adapters\.d\.crop 72x96 .* nearest that are: 64x96 or 80x96"),
        ({"height": 128, "width": 192}, {}, r"crop 128x192 is not a part of data\.high 128x192"),
        ({"height": 160, "width": 96}, {}, r"crop 160x96 is not a part of data\.high"),
        ({"height": 64, "width": 96, "pool": 3}, {}, r"adapters\.d\.crop: data\.high 128x192 .* nearest that are"),
        (
            {"height": 64, "width": 96, "pool": 4},
            {"buckets": "aspect"},
            r"crop\.pool 4 does not divide data\.bucket_tokens 2: .* set bucket_tokens to a multiple of 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            check(crop, **data)


def test_a_quantised_base_is_refused_without_torchao_and_beside_whole_tensors(
    wan21, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (name != "torchao" and find(name, *rest)) or None
    )
    with pytest.raises(ModuleNotFoundError, match=r"model\.quantisation int8 needs torchao: pip install .* to null"):
        check_model(wan21.model(quantisation="int8"))
    check_model(wan21.model())
    with pytest.raises(ValueError, match=r"unknown quantisation 'int4'; known: int8, fp8, fp8_cast, nf4"):
        wan21.model(quantisation="int4")
    extra = [{"path": tmp_path / "a.safetensors", "differences": True}]
    rows = tables(extra_adapters=extra).arms
    check_quantised(wan21.model(), rows)
    with pytest.raises(ValueError, match=r"arms\.a\.extra_adapters change whole tensors.*quantisation fp8"):
        check_quantised(wan21.model(quantisation="fp8"), rows)
