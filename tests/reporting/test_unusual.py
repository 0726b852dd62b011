"""The report of runs in which scores are missing: through the nodes and the catalog's own files, to the page."""

import importlib.metadata
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from tests.conf_files import folders_below, loader_of_conf
from vibe_pipeline.evaluation.earlier_looks import note_look
from vibe_pipeline.evaluation.sequential import ONLY_LOOK
from vibe_pipeline.experiment.claims import Claims
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.load import settled_parameters
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.run import ReportParams, TrackingParams
from vibe_pipeline.experiment.sequential import SequentialParams
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.score_table import WHOLE_ARM, score_table
from vibe_pipeline.io.video import write_lossless, write_preview
from vibe_pipeline.pipelines import ablation_report
from vibe_pipeline.rehearsal.small import moved
from vibe_pipeline.vbench.manifest import vbench_manifest

ROOT = Path(__file__).parents[2]
ARMS = {
    "full": {"label": "Full", "adapter": "full"},
    "no_hfato": {"label": "Without HFATO", "adapter": "no_hfato"},
    "direct": {"label": "Direct", "method": "direct"},
    "upsample": {"label": "Upsampled", "method": "upsample"},
}
METRICS = ("flicker", "imaging_quality")
FAMILIES = {"flicker": "detail", "imaging_quality": "vbench"}
PROMPTS = 7
EVALUATION = EvaluationParams(
    vbench_dimensions=("imaging_quality",), fine_band=(5.0, 9.0), reference_arm="full",
    bootstrap_samples=50,
)  # fmt: skip
MODEL = ModelParams(
    path="no/such", native={"height": 16, "width": 16, "frames": 5}, target={"height": 32, "width": 32, "frames": 5}
)
Scores = Callable[[pd.DataFrame], pd.DataFrame]


def scores_of(arms: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (
            arm,
            prompt,
            0,
            metric,
            rng.normal(),
            "higher",
            "vbench" if metric == METRICS[1] else "detail",
            "scored",
            "",
            "",
        )
        for arm, prompt, metric in itertools.product(arms, range(PROMPTS), METRICS)
    ]
    names = ["arm", "prompt_index", "seed", "metric", "value", "direction", "family", "status", "reason", "seen"]
    return score_table(dict(zip(names, row, strict=True)) for row in rows)


def without(arm: str | None = None, metric: str | None = None) -> Scores:
    """The scores in which an arm or a metric, or both of them together, is one row that says why there are none."""

    def change(scores: pd.DataFrame) -> pd.DataFrame:
        gone = np.ones(len(scores), bool)
        if arm:
            gone &= scores["arm"] == arm
        if metric:
            gone &= scores["metric"] == metric
        lost = scores[gone].drop_duplicates(["arm", "metric"])
        change = {"prompt_index": WHOLE_ARM, "seed": WHOLE_ARM, "value": np.nan, "status": "skipped"}
        return pd.concat([scores[~gone], lost.assign(**change, reason="no weights")], ignore_index=True)

    return change


def dropped(**of: str) -> Scores:
    """The scores without any row of an arm or a metric."""
    return lambda scores: scores.query(" or ".join(f"{k} != '{v}'" for k, v in of.items())).reset_index(drop=True)


def failed(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.assign(value=np.nan, status="failed", reason=None)


CASES: dict[str, tuple[list[str], Scores, tuple[str, ...]]] = {
    "every score is missing": (list(ARMS), without(), ("no weights",)),
    "there is no row at all": (list(ARMS), lambda scores: scores.head(0), ("Nothing was scored",)),
    "every clip failed, for no stated reason": (list(ARMS), failed, ("failed",)),
    "one arm has no score": (list(ARMS), without("direct"), ("no weights", "Direct")),
    "one arm has no row": (list(ARMS), dropped(arm="direct"), ("no row for this arm and metric", "Direct")),
    "the reference arm has no score": (list(ARMS), without("full"), ("no weights",)),
    "the reference arm has no row": (list(ARMS), dropped(arm="full"), ("no row for this arm and metric",)),
    "one arm lacks a metric": (list(ARMS), without("no_hfato", METRICS[1]), ("no weights",)),
    "no arm has a metric": (list(ARMS), without(metric=METRICS[1]), ("no weights",)),
    "a metric has no row": (list(ARMS), dropped(metric=METRICS[1]), ("Flicker",)),
    "upsampling alone is run": (["upsample"], lambda scores: scores, ("Upsampled",)),
    "upsampling alone is run, without scores": (["upsample"], without(), ("no weights",)),
    "no adapter is run": (["direct", "upsample"], lambda scores: scores, ("Direct",)),
    "one clip an arm": (list(ARMS), lambda scores: scores[scores["prompt_index"] == 0], ("only 1 prompt",)),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clip")
    pixels = np.random.default_rng(0).random((5, 32, 32, 3), dtype=np.float32)
    kept = write_lossless(folder / "a.mp4", pixels, 8), write_preview(folder / "a.preview.mp4", pixels, 8)
    return dict(zip(("path", "preview_path"), map(str, kept), strict=True))


def clips_of(arm: str, clip: dict[str, str]) -> pd.DataFrame:
    size = {"height": 32, "width": 32, "frames": 5, "fps": 8.0, "native_source": "base", "reference_path": ""}
    rows = [{"arm": arm, "prompt_index": i, "prompt": f"prompt {i}", "seed": 0, "key": f"{i}"} for i in range(PROMPTS)]
    seconds = float("nan") if arm == "upsample" else 1.5  # as of another system's clips
    return pd.DataFrame(rows).assign(**clip, **size, seconds=seconds, method=ARMS[arm].get("method", "refine"))


def catalog_of(arms: list[str], scores: pd.DataFrame, clip: dict[str, str], folder: Path) -> DataCatalog:
    """Everything the report's nodes read, through the files that a run writes."""
    config = OmegaConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")["catalog"]
    catalog = DataCatalog.from_config(moved(config, folder))
    curve = folder / "losses.csv"
    pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5], "seconds": [1.0, 2.0]}).to_csv(curve, index=False)
    clips = {arm: clips_of(arm, clip) for arm in arms}
    cycles = np.linspace(1, 16, 8)
    spectra = [pd.DataFrame({"arm": arm, "cycles": cycles, "power": 1 / cycles}) for arm in arms]
    catalog.save("clips", pd.concat(clips.values(), ignore_index=True))
    catalog.save("spectra", pd.concat(spectra, ignore_index=True))
    for kind, name in (("stage1", "modality"), *(("adapter", a) for a in adapters_of(arms))):
        manifest = AdapterManifest(name=name, key=name, losses=curve, seconds=2.0, path=folder / name)
        catalog.save(f"{kind}-{name}", manifest)
    figures = {"mse_degraded": 0.1, "mse_upsampled": 0.2, "mse_between": 0.1}
    catalog.save("degradation_checks", pd.DataFrame([{"kind": kind} | figures for kind in ("latent", "pixel")]))
    catalog.save("image_quarantine", pd.DataFrame(columns=["file_name"]))
    catalog.save("vbench_manifest", vbench_manifest(pd.concat(clips.values()), ["imaging_quality"]))
    catalog.save("scores", scores)
    return catalog


def adapters_of(arms: list[str]) -> list[str]:
    return [str(ARMS[arm]["adapter"]) for arm in arms if "adapter" in ARMS[arm]]


MINIATURE = GenerationParams(prompts="miniature")


def page_of(
    arms: list[str], scores: pd.DataFrame, clip: dict[str, str], folder: Path, generation: GenerationParams = MINIATURE
) -> str:
    adapters = {name: {"label": name, "start": "modality"} for name in adapters_of(arms)}
    tables = {"stage1": {"modality": {}}, "adapters": adapters, "arms": {arm: ARMS[arm] for arm in arms}}
    evaluation = EVALUATION.model_copy(update={"reference_arm": arms[0]})
    values: dict[str, Any] = {f"params:{name}": rows for name, rows in tables.items()}
    values |= {"params:evaluation": evaluation, "params:report": ReportParams(), "params:model": MODEL}
    settled = settled_parameters(loader_of_conf(ROOT / "conf", "wan22_ti2v_5b"))
    values |= {"params:claims": Claims(settled["claims"]), "params:published": settled["published"]}
    values |= {"params:tracking": TrackingParams(), "params:not_run": {}}
    values |= {"params:generation": generation}
    values |= {"params:folders": folders_below(folder)}
    catalog = catalog_of(arms, scores, clip, folder)
    graph = ablation_report.create_pipeline(Experiment(**tables, reference_arm=arms[0]))
    for node in graph.nodes:
        inputs = {n: values[n] if n.startswith("params:") else catalog.load(n) for n in node.inputs}
        for name, value in node.run(inputs).items():
            catalog.save(name, value)
    return Path(catalog.load("report")["path"]).read_text()


@pytest.mark.parametrize("case", list(CASES))
def test_the_page_is_made_with_what_there_is(case: str, clip: dict[str, str], tmp_path: Path) -> None:
    arms, change, said = CASES[case]
    page = page_of(arms, change(scores_of(arms)), clip, tmp_path)
    for words in (*said, "prompt 0", "Relay LoRA is better than tuning the base"):
        assert words in page
    assert ">nan" not in page.lower()


def test_the_page_needs_no_vbench(clip: dict[str, str], tmp_path: Path, monkeypatch) -> None:
    stock = importlib.metadata.version

    def version(name: str) -> str:
        if name == "vbench":
            raise importlib.metadata.PackageNotFoundError(name)
        return stock(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    page = page_of(list(ARMS), without(metric=METRICS[1])(scores_of(list(ARMS))), clip, tmp_path)
    assert "versions · vbench" in page and "not installed" in page


def test_verdicts_say_which_look_they_are_of_and_which_before_nothing_corrects_for(
    clip: dict[str, str], tmp_path: Path
) -> None:
    arms, settled = list(ARMS), settled_parameters(loader_of_conf(ROOT / "conf", "wan22_ti2v_5b"))
    clips = pd.concat([clips_of(arm, clip) for arm in arms])
    record = folders_below(tmp_path).reporting / "looks.json"
    note_look(record, Claims(settled["claims"]).root, clips[clips["prompt_index"] < 6], ONLY_LOOK)
    growing = MINIATURE.model_copy(update={"count": PROMPTS, "sequential": SequentialParams(blocks=(PROMPTS, 14))})
    page = " ".join(page_of(arms, scores_of(arms), clip, tmp_path, growing).split())
    assert "Look 1 of 2, 7 of at most 14 prompts: a claim by itself is told at level 0.0031" in page
    assert "looks at 7, 14 prompts were fixed beforehand" in page and "of all looks [" in page
    assert "looked at before on 6 of these prompts, which this verdict is not corrected for" in page
    table = pd.read_csv(folders_below(tmp_path).reporting / "claims_table.csv")
    scored = table[table["p_different"].notna()]
    assert (table["look"] == 1).all() and (table["looks"] == 2).all() and len(scored)
    assert (scored["repeated_high"] - scored["repeated_low"] > scored["crossed_high"] - scored["crossed_low"]).all()
    assert scored["looked_before"].str.contains("on 6 of these").all()
