"""The study's results: what its runs left, kept as raw data, and docs/RESULTS.md with its tables out of that.

kedro run --env=miniature_study --runner=ParallelRunner
python benchmarks/study.py keep miniature_study --looks     # its scores and a picture of clips into docs/results
python benchmarks/study.py write                            # both pages and their figures, out of that alone
"""

import argparse
import json
import shutil
import textwrap
from functools import cache
from pathlib import Path

import pandas as pd
from kedro.framework.startup import bootstrap_project
from matplotlib.figure import Figure
from study_page import OVER_FRAMES, RAW, TABLES, write

from vibe_pipeline.commands.options import Chosen, parameters_of
from vibe_pipeline.evaluation.metrics.detail import band_error
from vibe_pipeline.evaluation.pooling import pools_of
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.load import experiment_of
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.manifests import AdapterManifest
from vibe_pipeline.io.video import read_clip
from vibe_pipeline.reporting.figures import styled

FRAMES_OF = 64  # clips of an arm that the per-frame figures are taken from
LOOKS = ("upsample", "linear", "through_vae", "no_hfato", "full", "full_pixel", "full_pixel_transfer", "sr", "truth")
KEPT_LOOKS = ("upsample", "kept_base", "kept", "kept_window", "kept_gclf", "kept_gclf_trained")
LOOKS_OF = {"miniature_x4": {"kept": KEPT_LOOKS}}
"""Pictures of an environment by name, where it has other arms than the study."""
LOOKED_AT = (1, 9, 15)  # of the environment's clips


def keep(env: str, data: Path, looks: bool = False) -> None:
    """Copy what a run of this environment left in its folder of data to docs/results, small enough for a repository.

    With `looks` also a picture of some clips.
    """
    bootstrap_project(Path.cwd())  # the project says which files the parameters are read from
    params = parameters_of(Chosen(env))
    tables, folder = experiment_of(params), RAW / env
    pools = pools_of(tables)
    clips = {name: pd.read_parquet(data / f"07_model_output/clips_{name}.parquet") for name in tables.arms}
    folder.mkdir(parents=True, exist_ok=True)
    groups = ("model", "data", "generation", "evaluation", *TABLES)
    (folder / "parameters.json").write_text(json.dumps({k: params[k] for k in groups}, indent=1, default=str) + "\n")
    columns = ["arm", "prompt_index", "prompt", "seed", "metric", "value", "direction", "family", "status", "reason"]
    scores = pd.read_parquet(data / "08_reporting/scores.parquet")
    prompts = pd.concat(clips.values()).drop_duplicates("prompt_index").set_index("prompt_index")["prompt"]
    reasons = scores["reason"].str.replace(f"{data}/", "data/", regex=False)  # one machine's folders are its own affair
    scores = scores.assign(prompt=scores["prompt_index"].map(prompts), reason=reasons)[columns]
    scores.to_parquet(folder / "scores.parquet", index=False, compression="zstd")
    cost = {name: [table["seconds"].median(), table["sigma_start"].iloc[0]] for name, table in clips.items()}
    pd.DataFrame.from_dict(cost, "index", columns=["seconds", "sigma_start"]).rename_axis("arm").to_csv(
        folder / "cost.csv"
    )
    spectra = [pd.read_parquet(data / f"07_model_output/spectrum_{name}.parquet") for name in tables.arms]
    pd.concat(spectra).round(9).to_csv(folder / "spectra.csv", index=False)
    _frames(clips, tuple(params["evaluation"]["fine_band"])).to_csv(folder / "frames.csv", index=False)
    for name, arms in LOOKS_OF.get(env, {"looks": LOOKS}).items() if looks else ():
        drawn = _looks(clips, tables.arms, arms)
        drawn.savefig(folder / f"{name}.png", dpi=90, facecolor="white", metadata={"Software": None})
    _trainings(tables, data).to_csv(folder / "trainings.csv", index=False)
    shutil.copy(data / "08_reporting/degradation_checks.csv", folder)
    print(f"{folder}: {len(scores)} scores of {len(pools.arms)} arms")


def _frames(clips: dict[str, pd.DataFrame], band: tuple[float, float]) -> pd.DataFrame:
    """Band error frame by frame, mean over the first clips of every arm whose frames are drawn."""
    rows, truths = [], cache(read_clip)  # all arms have the same truths
    for name, table in clips.items():
        if name.split("_seed_")[0] not in OVER_FRAMES:
            continue
        found: dict[int, list[float]] = {}
        for clip in table.head(FRAMES_OF).itertuples():
            ours, truth = read_clip(Path(clip.path)), truths(Path(clip.reference_path))
            for i in range(len(ours)):
                found.setdefault(i, []).append(band_error(ours[i : i + 1], truth[i : i + 1], *band))
        rows += [{"arm": name, "frame": i, "band_error": round(sum(v) / len(v), 5)} for i, v in found.items()]
    return pd.DataFrame(rows, columns=["arm", "frame", "band_error"])


@styled
def _looks(clips: dict[str, pd.DataFrame], arms: dict[str, ArmParams], looks: tuple[str, ...]) -> Figure:
    """The middle frame of some prompts, an arm a column; last the truth."""
    shown = [name for wanted in looks for name in (wanted, f"{wanted}_seed_0") if name in clips]
    figure = Figure(figsize=(1.2 * (len(shown) + 1), 1.3 * len(LOOKED_AT) + 0.5), layout="constrained")
    grid = figure.subplots(len(LOOKED_AT), len(shown) + 1)
    for line, number_ in zip(grid, LOOKED_AT, strict=True):
        rows = [clips[name].iloc[number_] for name in shown]
        paths = [*(row["path"] for row in rows), rows[0]["reference_path"]]
        for axes, path in zip(line, paths, strict=True):
            pixels = read_clip(Path(path))
            axes.imshow(pixels[len(pixels) // 2])
            axes.set_axis_off()
    for axes, label in zip(grid[0], [*(arms[name].label for name in shown), "True render"], strict=True):
        axes.set_title(textwrap.fill(label.removesuffix(" (seed 0)"), 18), fontsize=6)
    return figure


def _trainings(tables: Experiment, data: Path) -> pd.DataFrame:
    names = [*tables.stage1, *tables.adapters]
    manifests = [AdapterManifest.read(data / f"06_models/adapters/{name}.json") for name in names]
    fields = ("name", "key", "final_loss", "held_out_loss", "seconds")
    return pd.DataFrame([{field: getattr(manifest, field) for field in fields} for manifest in manifests])


def main() -> None:
    """Keep or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    keeping.add_argument("env")
    keeping.add_argument("--data", type=Path, default=Path("data"))
    keeping.add_argument("--looks", action="store_true", help="a picture of some clips too")
    commands.add_parser("write")
    options = parser.parse_args()
    keep(options.env, options.data, options.looks) if options.command == "keep" else write()


if __name__ == "__main__":
    main()
