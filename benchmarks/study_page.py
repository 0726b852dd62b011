"""docs/RESULTS.md and the tables behind it out of the raw results that `study.py keep` left in docs/results."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure
from study_evaluations import write as write_evaluations
from study_gaps import gaps_figure, rows_beside
from study_kept import Kept, load

from vibe_pipeline.evaluation.readings import FAILS, MIXED, Evidence
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.reporting.cost import Cost
from vibe_pipeline.reporting.figures import (
    SERIES,
    add_legend,
    cost_figure,
    metric_figure,
    new_axes,
    spectrum_figure,
    styled,
)
from vibe_pipeline.reporting.glossary import ARROWS, number, words
from vibe_pipeline.reporting.verdicts import READINGS

DOCS = Path(__file__).parents[1] / "docs"
RAW = DOCS / "results"
PAGES = ("RESULTS.md", "RESULTS_TABLES.md")  # to read in five minutes; all behind it
TABLES = ("stage1", "adapters", "arms")
METRICS = (
    "band_error", "band_unmendable", "band_correlation", "spectrum_distance", "high_frequency_share", "psnr",
    "native_psnr", "flicker", "first_frame_jump", "residual_noise", "temporal_flickering", "colours_right",
    "motion_right", "shape_right", "one_object",
)  # fmt: skip
# Whose frames are drawn: more lines cannot be told apart.
OVER_FRAMES = ("full_pixel", "full", "no_hfato", "no_adapter", "through_vae", "linear", "sr", "truth")


def means(kept: Kept) -> str:
    """Means with intervals, an arm a row."""
    present = [m for m in METRICS if m in set(kept.scores["metric"])]
    head = ["arm", *(f"{words(m).label} {_arrow(kept, m)}".strip() for m in present)]
    rows = []
    for arm, params in kept.pools.arms.items():
        cells = [_level(kept, arm, metric) for metric in present]
        rows.append([f"{params.label} (`{arm}`)", *cells])
    return markdown(head, rows)


def differences(kept: Kept) -> str:
    """Paired differences to the reference with intervals and effect sizes, an arm a row."""
    present = [m for m in METRICS if m in set(kept.scores["metric"])]
    rows = []
    for arm, params in kept.pools.arms.items():
        if kept.pools.references[arm] != arm:
            rows.append([f"{params.label} (`{arm}`)", *(_difference(kept, arm, metric) for metric in present)])
    return markdown(["arm", *(f"{words(m).label} {_arrow(kept, m)}".strip() for m in present)], rows)


def claims_table(kept: Kept) -> str:
    """The claims, each measure's difference and what it says, and the verdict: corrected, and by itself."""
    rows = []
    for found in kept.verdicts:
        said = [_measure(e) for e in found.evidence]
        who = f"`{found.claim.arm}` against `{found.claim.other}`"
        told = [f"**{found.corrected}**", found.verdict]
        rows.append([found.claim.statement, who, "<br>".join(said) or found.reason, *told])
    return markdown(["claim", "arms", "primary measure first: difference, interval", "corrected", "by itself"], rows)


def claims_short(kept: Kept, *names: str) -> str:
    """Some claims, a line each: the arms, the primary measure's difference with its interval, the corrected verdict.

    Beside a mixed verdict stands what is clearly against it.
    """
    found = {judged.claim.name: judged for judged in kept.verdicts}
    rows = []
    for name in names:
        judged = found[name]
        if not judged.evidence:
            rows.append([judged.claim.statement, "", judged.reason, f"**{judged.corrected}**"])
            continue
        who = f"`{judged.claim.arm}` against `{judged.claim.other}`"
        primary = judged.evidence[0]
        low, high = number(primary.low), number(primary.high)
        said = f"{words(primary.metric).label} {number(primary.difference)} [{low}, {high}]"
        against = [e for e in judged.evidence[1:] if judged.corrected == MIXED and e.corrected == FAILS]
        price = ", ".join(f"{words(e.metric).label} {number(e.difference)}" for e in against)
        rows.append([judged.claim.statement, who, said, f"**{judged.corrected}**" + f": {price}" * bool(price)])
    return markdown(["claim", "arms", "difference, interval", "verdict; what is against it"], rows)


def tally(kept: Kept) -> str:
    """How many claims came out how, for the text: 4 "holds", 6 "mixed"."""
    counts = Counter(judged.corrected for judged in kept.verdicts)
    return ", ".join(f'{count} "{verdict}"' for verdict, count in counts.most_common())


def _measure(e: Evidence) -> str:
    """What one measure says, corrected; with several training seeds also the t-intervals with them.

    These are of training seeds as random effects beside prompts, and of training seeds alone.
    """
    line = f"{words(e.metric).label}: {number(e.difference)} [{number(e.low)}, {number(e.high)}]"
    if e.found is not None and e.found.training_seeds > 1:
        for name, estimate in (("random effects", e.found.crossed), ("training seeds", e.found.seeds)):
            if estimate is not None:
                low, high = estimate.interval(0.95)
                line += f", {name} [{number(low)}, {number(high)}]"
    return f"{line}: {READINGS[e.corrected]}"


def settings(kept: Kept) -> str:
    """Every row that was run, as run; replicates too."""
    rows = []
    for table in TABLES:
        for name, row in kept.params[table].items():
            hidden = ("label", "family", "swept", "replicate", "stands_for")
            rows.append([table, f"`{name}`", f"`{json.dumps({k: v for k, v in row.items() if k not in hidden})}`"])
    return markdown(["table", "row", "settings"], rows)


def trainings(kept: Kept) -> str:
    """Losses of every adapter."""
    rows = [
        [f"`{r.name}`", number(r.final_loss), number(r.held_out_loss), f"{r.seconds:.0f}"]
        for r in kept.trainings.itertuples(index=False)
    ]
    return markdown(["adapter", "last loss", "held-out loss", "seconds"], rows)


def value(kept: Kept, arm: str, metric: str) -> str:
    """One arm's mean on a metric, for the text."""
    return number(float(_row(kept, arm, metric)["mean"]))


def change(kept: Kept, metric: str, arm: str, other: str) -> str:
    """How much one arm's mean on a metric lies above another's, for the text."""
    mine, theirs = (float(_row(kept, name, metric)["mean"]) for name in (arm, other))
    return number(mine - theirs)


def _row(kept: Kept, arm: str, metric: str) -> pd.Series:
    table = kept.summary(metric)
    found = table[table["arm"] == arm]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows of {arm!r} and {metric!r} in the table")
    return found.iloc[0]


def _level(kept: Kept, arm: str, metric: str) -> str:
    row = _row(kept, arm, metric)
    if row["status"] != "scored":
        return str(row["status"])
    return f"{number(row['mean'])} [{number(row['ci_low'])}, {number(row['ci_high'])}]"


def _difference(kept: Kept, arm: str, metric: str) -> str:
    row = _row(kept, arm, metric)
    if not row["n_pairs"]:
        return str(row["status"]) if row["status"] != "scored" else "no pair"
    effect = "" if pd.isna(row["effect_size"]) else f" d {row['effect_size']:.1f}"
    return f"{number(row['diff'])} [{number(row['diff_low'])}, {number(row['diff_high'])}]{effect}"


def _arrow(kept: Kept, metric: str) -> str:
    return ARROWS.get(str(kept.summary(metric)["direction"].iloc[0]), "")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def figure(kept: Kept, name: str) -> str:
    """Save a figure beside the raw data; its line of Markdown."""
    drawings = dict(_drawings(kept))
    if name not in drawings:
        raise ValueError(f"{kept.name} has no figure {name!r}; it has: {', '.join(drawings)}")
    drawn, said = drawings[name]()
    place = RAW / kept.name / f"{name}.png"
    drawn.savefig(place, dpi=130, facecolor="white", metadata={"Software": None})
    return f"![{said}]({place.relative_to(DOCS)})"


def answer(kept: Kept, name: str, metric: str, *arms: str) -> str:
    """A figure of one question: a measure of the arms that answer it; its line of Markdown."""
    shown = {arm: kept.pools.arms[arm] for arm in arms}
    table = kept.summary(metric)
    table = table[table["arm"].isin(arms)]
    place = RAW / kept.name / f"{name}.png"
    drawn = metric_figure(table, metric, shown, set(kept.pools.references.values()) & set(arms))
    drawn.savefig(place, dpi=130, facecolor="white", metadata={"Software": None})
    return f"![{words(metric).label} of the arms that answer this, with intervals]({place.relative_to(DOCS)})"


def claims_beside(environment: str, **columns: Kept) -> str:
    """What an environment's claims say on several runs that have its arms, each under the name given here."""
    return markdown(*rows_beside(environment, {name.replace("_", " "): kept for name, kept in columns.items()}))


def gaps(name: str, *environments: Kept) -> str:
    """A figure of the same over the gap, beside the last environment's raw data; its line of Markdown."""
    place = RAW / environments[-1].name / f"{name}.png"
    gaps_figure(environments).savefig(place, dpi=130, facecolor="white", metadata={"Software": None})
    return f"![What Relay changes in flicker over the gap of modality, with intervals]({place.relative_to(DOCS)})"


def _drawings(kept: Kept) -> Iterator[tuple[str, Callable[[], tuple[Figure, str]]]]:
    """What can be drawn of an environment, by name: each gives a figure and its words."""
    arms, band = kept.pools.arms, tuple(kept.params["evaluation"]["fine_band"])
    yield "spectra", lambda: (spectrum_figure(kept.spectra, arms, band), "Power spectra of the arms; see spectra.csv")
    shown = {name: arms[name] for name in OVER_FRAMES if name in arms}
    yield "frames", lambda: (frame_figure(kept.frames, shown), "Band error over the frames; see frames.csv")
    cost = partial(cost_figure, kept.summary("band_error"), wall_time(kept), "band_error", arms)
    yield "cost", lambda: (cost(), "Band error against seconds a clip; see cost.csv")


def wall_time(kept: Kept) -> Cost:
    """The seconds that were kept: the study ran alone, and processor time was not recorded."""
    return Cost(kept.cost[["arm"]].assign(cost=kept.cost["seconds"]), "median seconds a clip, second pass", "")


@styled
def frame_figure(frames: pd.DataFrame, arms: dict[str, ArmParams]) -> Figure:
    """Band error over the frames of a clip, a line for each of these arms."""
    figure, axes = new_axes(4.7, 3.9)
    mean = frames.groupby(["arm", "frame"], sort=False)["band_error"].mean()
    for i, arm in enumerate(name for name in arms if name in mean.index.get_level_values(0)):
        line = "-" if i < len(SERIES) else "--"
        axes.plot(mean[arm].index, mean[arm].to_numpy(), line, color=SERIES[i % len(SERIES)], label=arms[arm].label)
    axes.set_xlabel("frame")
    axes.set_ylabel("band error, lower is better")
    axes.grid(axis="y")
    add_legend(figure, axes)
    return figure


def write() -> None:
    """Write both pages, the figures they show, and that of the neighbours' page, from docs/results alone."""
    write_evaluations(RAW)
    environments = {path.parent.name: load(path.parent) for path in sorted(RAW.glob("*/parameters.json"))}
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(RAW), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tables = (means, differences, claims_short, claims_table, claims_beside, settings, trainings)
    tools = (*tables, value, change, number, tally, figure, answer, gaps)
    for name in PAGES:
        page = engine.get_template(f"{name}.j2").render(**environments, **{f.__name__: f for f in tools})
        (DOCS / name).write_text(page.rstrip() + "\n")
        print(f"{DOCS / name}: {', '.join(environments)}")
