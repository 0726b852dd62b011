"""Quality over evaluations: the bridge against HFATO, out of the neighbours' kept scores, for docs/neighbours.md."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vibe_pipeline.evaluation.statistics import summarise
from vibe_pipeline.reporting.figures import SERIES, styled
from vibe_pipeline.reporting.glossary import ARROWS, words

EVALUATIONS = (1, 2, 4, 8)
ROWS = {"HFATO, our pixel form": "evaluations_hfato_steps_{}", "bridge": "evaluations_bridge_steps_{}"}
REFERENCE = "evaluations_hfato_steps_1"
METRICS = ("band_error", "band_unmendable", "psnr")


@styled
def evaluations_figure(scores: pd.DataFrame) -> Figure:
    """A panel a measure: each row's paired difference to HFATO in one evaluation, with its interval."""
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    arms = [name.format(count) for name in ROWS.values() for count in EVALUATIONS]
    table = summarise(scores[scores["arm"].isin(arms)], REFERENCE).set_index(["metric", "arm"])
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        rows = table.loc[metric]
        for i, (label, name) in enumerate(ROWS.items()):
            found = rows.loc[[name.format(count) for count in EVALUATIONS], ["diff", "diff_low", "diff_high"]]
            middle, low, high = np.nan_to_num(found.to_numpy(float)).T  # the reference to itself has no interval
            at = np.arange(len(EVALUATIONS)) + 0.08 * i
            axes.errorbar(at, middle, [middle - low, high - middle], fmt="o-", color=SERIES[i], label=label)
        axes.set_xticks(range(len(EVALUATIONS)), [str(count) for count in EVALUATIONS])
        axes.set_xlabel("evaluations")
        axes.set_title(f"{words(metric).label} {ARROWS.get(str(rows['direction'].iloc[0]), '')}")
        axes.grid(axis="y")
    figure.supylabel("paired difference to HFATO in one", fontsize=8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def write(raw: Path) -> None:
    """Draw it beside the scores."""
    folder = raw / "miniature_neighbours"
    drawn = evaluations_figure(pd.read_parquet(folder / "scores.parquet"))
    drawn.savefig(folder / "evaluations.png", dpi=130, facecolor="white", metadata={"Software": None})
