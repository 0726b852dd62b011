"""One set of claims on the scores of several runs; and Relay over the gap between stills and videos. For RESULTS.md."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from study_kept import Kept

from vibe_pipeline.evaluation.claims import ClaimVerdict
from vibe_pipeline.reporting.figures import MUTED, RULE, SERIES, add_legend, new_axes, styled
from vibe_pipeline.reporting.glossary import number, words

ENVIRONMENT = "miniature_gap"  # whose claims the gaps share, and whose rows are the study's
OWN_GAP = 1.0  # the world's, where `data.still_style` is not given


def gap_of(kept: Kept) -> float:
    """How far its stills' colours lie from the videos', in units of the world's own gap."""
    return float(kept.params["data"].get("still_style", OWN_GAP))


def rows_beside(environment: str, columns: Mapping[str, Kept]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: an environment's claims, a claim a row, judged on the scores of several runs.

    Args:
        environment: Whose claims; every run has their arms.
        columns: The runs by what the page calls them.
    """
    judged = [kept.judged_by(environment) for kept in columns.values()]
    rows = []
    for found in zip(*judged, strict=True):
        claim = found[0].claim
        rows.append([claim.statement, f"`{claim.arm}` against `{claim.other}`", *map(_cell, found)])
    return ["claim", "arms", *columns], rows


def _cell(judged: ClaimVerdict) -> str:
    primary = judged.evidence[0]
    label, difference = words(primary.metric).label, number(primary.difference)
    return f"{label} {difference} [{number(primary.low)}, {number(primary.high)}]<br>**{judged.corrected}**"


@styled
def gaps_figure(environments: Sequence[Kept]) -> Figure:
    """The claims' differences over the gap, with intervals; grey is the margin of equivalence."""
    gaps, columns = [gap_of(kept) for kept in environments], [kept.judged_by(ENVIRONMENT) for kept in environments]
    figure, axes = new_axes(5.2, 3.6)
    shift = 0.04  # so that intervals at one gap do not cover each other
    middle_one = (len(columns[0]) - 1) / 2
    for i, found in enumerate(zip(*columns, strict=True)):
        primaries = [judged.evidence[0] for judged in found]
        at = [gap + (i - middle_one) * shift for gap in gaps]
        middle = [primary.difference for primary in primaries]
        below = [primary.difference - primary.low for primary in primaries]
        above = [primary.high - primary.difference for primary in primaries]
        claim = found[0].claim
        axes.errorbar(at, middle, [below, above], fmt="o-", color=SERIES[i], label=f"{claim.arm} − {claim.other}")
    margin = columns[0][0].claim.primary.margin
    axes.axhspan(-margin, margin, color=RULE, alpha=0.5, lw=0)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_xticks(gaps)
    axes.set_xlabel("gap between stills and videos, 1 is the world's own")
    axes.set_ylabel("difference in flicker, below 0 the first is steadier")
    add_legend(figure, axes)
    return figure
