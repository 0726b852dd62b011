"""Figures that only the modules can give are made once, and again when anything that determines them changes."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from tests.conf_files import folders_below, read_conf
from vibe_pipeline.diffusion.checkpoint import class_defaults
from vibe_pipeline.planning import figures
from vibe_pipeline.planning.architecture import Architecture
from vibe_pipeline.planning.doctor import examine
from vibe_pipeline.planning.figures import Figures
from vibe_pipeline.planning.plan import make_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(wan21) -> dict[str, Any]:
    """The miniature's parameters with a tiny checkpoint."""
    content = read_conf(ROOT / "conf/base") | {"folders": folders_below(ROOT).model_dump(mode="json")}
    content["model"] |= wan21.model().model_dump(mode="json", include={"path", "native", "target", "text_length"})
    for stage, size in (("low", "native"), ("high", "target")):
        content["data"][stage] = {side: content["model"][size][side] for side in ("height", "width")}
    return content


def test_a_plan_from_kept_figures_is_the_plan_of_the_modules(params, tmp_path: Path, monkeypatch) -> None:
    by_modules = make_plan(params)
    assert make_plan(params, figures=Figures(tmp_path)) == by_modules
    for part in ("build_transformer", "build_vae", "build_text_encoder"):
        monkeypatch.setattr(Architecture, part, lambda *_, part=part: pytest.fail(f"{part} was called again"))
    assert make_plan(params, figures=Figures(tmp_path)) == by_modules


@pytest.mark.parametrize(
    "change",
    [{"text_length": 17}, {"dtype": "float32"}, {"target": {"height": 96, "width": 96, "frames": 5, "fps": 8}}],
)
def test_another_setting_of_the_model_has_figures_of_its_own(params, tmp_path: Path, change: dict[str, Any]) -> None:
    before = make_plan(params, figures=Figures(tmp_path))
    params["model"] |= change
    after = make_plan(params, figures=Figures(tmp_path))
    assert after == make_plan(params) != before


def test_weights_are_judged_alike_by_kept_shapes(params, tmp_path: Path) -> None:
    first, again, without = (examine(params, figures=f) for f in (Figures(tmp_path), Figures(tmp_path), Figures()))
    assert first == again == without
    kept = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert sum(content["key"] == "shapes" for content in kept) == 3


def test_a_new_version_or_changed_code_makes_figures_again(tmp_path: Path, monkeypatch) -> None:
    made = iter((1.5, 2.5))
    assert [Figures(tmp_path).once(("text", 3), lambda: next(made)) for _ in range(2)] == [1.5, 1.5]
    monkeypatch.setattr(figures, "counted_by", lambda: {"torch": "another"})
    assert Figures(tmp_path).once(("text", 3), lambda: next(made)) == 2.5


def test_what_counts_is_named_by_versions_and_by_the_hash_of_our_code() -> None:
    named = figures.counted_by()
    assert set(named) == {"torch", "diffusers", "transformers", "peft", "spandrel", "vibe_pipeline"}
    assert "not installed" not in named.values()


def test_a_damaged_file_is_made_again_and_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    kept = Figures(tmp_path / "kept")
    assert kept.once(("a",), lambda: 1) == 1
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text("{")
    assert kept.once(("a",), lambda: 2) == 2
    (tmp_path / "file").write_text("")
    assert Figures(tmp_path / "file").once(("a",), lambda: 3) == 3


@pytest.mark.parametrize(("part", "cls"), [("vae", AutoencoderKLWan), ("transformer", WanTransformer3DModel)])
def test_defaults_read_from_the_source_are_those_of_the_class(part: str, cls: type) -> None:
    signature = inspect.signature(cls.__init__).parameters.values()
    assert class_defaults(part) == {p.name: p.default for p in signature if p.default is not p.empty}
    assert class_defaults("text_encoder") == {}
