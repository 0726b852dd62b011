"""The first screen: one sentence of result, the measures to read first, and which clips the slider shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import Difference, paired_difference
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.generation.methods import method_of
from vibe_pipeline.reporting.copies import Grid
from vibe_pipeline.reporting.glossary import ARROWS, DIRECTION_WORDS, together, words
from vibe_pipeline.reporting.tables import arm_label, arm_order, bound_of, is_scored

READ_FIRST = (
    "band_error", "overall6", "spectrum_distance", "imaging_quality", "patch_imaging_quality", "psnr", "native_psnr",
    "flicker", "residual_noise", "first_frame_jump", "aesthetic_quality", "high_frequency_share",
)  # fmt: skip
"""Measures in the order in which they are worth reading; the first five that were scored are on the first screen."""
LEADING = ("band_error", "overall6", "spectrum_distance", "imaging_quality", "patch_imaging_quality")
"""The first of these that was scored says which arm is best: measures that plain upsampling does not win by itself."""
ROWS = 5


@dataclass(frozen=True)
class Roles:
    """Arms of the first screen, '' for none: plain upsampling, the best of video models, the true render."""

    floor: str
    best: str
    truth: str

    def named(self) -> tuple[str, ...]:
        """Those that there are, in order."""
        return tuple(arm for arm in (self.floor, self.best, self.truth) if arm)

    @property
    def words(self) -> tuple[str, ...]:
        """What each is, in a word or two, where a label is too long."""
        said = {self.truth: "True render", self.best: "Best arm", self.floor: "Upsampled"}
        return tuple(said[arm] for arm in self.named())


@dataclass(frozen=True)
class Gain:
    """What the best arm gains over plain upsampling on one measure; `kind`: better, worse, unclear, few or ''."""

    text: str
    interval: str
    kind: str
    found: Difference


@dataclass(frozen=True)
class FirstRow:
    """One measure to read first: what each arm of the first screen has, and the gain."""

    metric: str
    label: str
    arrow: str
    explanation: str
    cells: tuple[str, ...]
    values: tuple[float, ...]
    gain: Gain | None

    def numbers(self, arms: Sequence[str]) -> dict[str, object]:
        """Its figures by name, empty where there is none."""
        given = dict(zip(arms, self.values, strict=True))
        if self.gain:
            given |= {"gain": self.gain.found.mean, "gain low": self.gain.found.low, "gain high": self.gain.found.high}
        figures = {name: "" if value != value else value for name, value in given.items()}
        return {"metric": self.metric, "label": self.label, **figures}


@dataclass(frozen=True)
class Outcome:
    """The sentence of result in parts; `figures` is told in bold."""

    before: str
    figures: str
    after: str


def scored_metrics(table: pd.DataFrame, roles: Roles) -> list[str]:
    """The measures to read first, of those that the best arm was scored on, or upsampling where no other was run."""
    of = roles.best or roles.floor
    scored = set(table.loc[is_scored(table) & (table["arm"] == of), "metric"]) if len(table) else set()
    return [metric for metric in READ_FIRST if metric in scored]


def leading_metric(table: pd.DataFrame, arms: Mapping[str, ArmParams]) -> str:
    """The measure that says which arm is best; '' where no arm that runs the model was scored on any."""
    rows = _contestants(table, arms)
    scored = set(rows["metric"]) if len(rows) else set()
    return next((metric for metric in (*LEADING, *READ_FIRST) if metric in scored), "")


def _is_bar(arm: str, arms: Mapping[str, ArmParams]) -> bool:
    """Whether an arm is what video models are held against: a bound, a filter, a network over single frames."""
    if arm not in arms:
        return False
    method = method_of(arms[arm])
    return method.from_native and not method.runs_transformer


def _contestants(table: pd.DataFrame, arms: Mapping[str, ArmParams]) -> pd.DataFrame:
    if table.empty:
        return table
    bars = [arm for arm in arms if _is_bar(arm, arms)]
    return table[is_scored(table) & ~table["arm"].isin(bars) & table["direction"].isin(["higher", "lower"])]


def roles_of(table: pd.DataFrame, clips: pd.DataFrame, arms: Mapping[str, ArmParams]) -> Roles:
    """Which arms the first screen shows.

    The true render counts only where it shows the scene of the others, which it does where they start from true native
    clips: beside the base's own clips it is another scene of the same caption.
    """
    present = list(dict.fromkeys([*(table["arm"] if len(table) else []), *(clips["arm"] if len(clips) else [])]))
    order = arm_order(present, arms)
    bounds = {bound: next((a for a in order if bound_of(a, arms) == bound), "") for bound in ("floor", "ceiling")}
    metric = leading_metric(table, arms)
    if metric:
        rows = _contestants(table, arms)
        rows = rows[rows["metric"] == metric]
        falls = rows["direction"].iloc[0] == "lower"
        best = str(rows.sort_values("mean", ascending=falls, kind="stable")["arm"].iloc[0])
    else:
        best = next((arm for arm in order if not _is_bar(arm, arms)), "")
    return Roles(bounds["floor"], best, bounds["ceiling"] if same_scene(clips) else "")


def same_scene(clips: pd.DataFrame) -> bool:
    """Whether true renders show the scene of the other clips: those start from true native clips."""
    return bool(len(clips)) and "native_source" in clips and set(clips["native_source"].dropna()) == {"truth"}


def first_rows(
    table: pd.DataFrame, scores: pd.DataFrame, roles: Roles, arms: Mapping[str, ArmParams], bootstrap: Bootstrap
) -> list[FirstRow]:
    """The measures to read first: of upsampling, the best arm and the truth, and the paired gain over upsampling."""
    leading = leading_metric(table, arms)
    metrics = sorted(scored_metrics(table, roles), key=lambda metric: metric != leading)[:ROWS]
    rows = []
    for metric in metrics:
        found = table[(table["metric"] == metric) & is_scored(table)].set_index("arm")
        direction = str(found["direction"].iloc[0])
        values = [float(found["mean"].get(arm, float("nan"))) for arm in roles.named()]
        known = words(metric)
        rows.append(
            FirstRow(
                metric=metric,
                label=known.label,
                arrow=ARROWS.get(direction, ""),
                explanation=f"{known.explanation} {DIRECTION_WORDS.get(direction, '').capitalize()}.".strip(),
                cells=tuple(together(*values)),
                values=tuple(values),
                gain=_gain(scores, roles, metric, direction, bootstrap),
            )
        )
    return rows


def _gain(scores: pd.DataFrame, roles: Roles, metric: str, direction: str, bootstrap: Bootstrap) -> Gain | None:
    if not (roles.floor and roles.best) or scores.empty:
        return None
    found = paired_difference(scores, roles.best, roles.floor, metric, bootstrap)
    if not found.prompts or found.mean != found.mean:
        return None
    mean, low, high = together(found.mean, found.low, found.high)
    clear = found.low > 0 or found.high < 0
    kind = "" if direction == "none" else "unclear"
    if kind and found.prompts < bootstrap.fewest_pairs:  # as for a claim: their interval says too much
        kind = "few"
    elif clear and direction != "none":
        kind = "better" if (found.mean > 0) == (direction == "higher") else "worse"
    plus = "+" if found.mean > 0 and mean.strip("0.") else ""
    return Gain(plus + mean, f"[{low}, {high}]" if found.low == found.low else "", kind, found)


def first_grid(rows: Sequence[FirstRow], roles: Roles, arms: Mapping[str, ArmParams]) -> Grid:
    """The table of the first screen as text to copy."""
    head = ("Measure", *(arm_label(arm, arms) for arm in roles.named()), "Gain over upsampling", "Interval")
    lines = [
        (
            f"{row.label} {row.arrow}".strip(),
            *row.cells,
            *((row.gain.text, row.gain.interval) if row.gain else ("", "")),
        )
        for row in rows
    ]
    numbers = [row.numbers(roles.named()) for row in rows]
    names = dict.fromkeys(name for row in numbers for name in row)
    return Grid(head, tuple(lines), tuple({name: row.get(name, "") for name in names} for row in numbers))


def outcome(rows: Sequence[FirstRow], roles: Roles, arms: Mapping[str, ArmParams], prompts: int) -> Outcome | None:
    """The result in one sentence with figures, or None where no arm that runs the model was scored."""
    if not rows or not roles.best:
        return None
    row, label = rows[0], arm_label(roles.best, arms)
    by_arm = dict(zip(roles.named(), row.cells, strict=True))
    figures = f"{row.label.lower() if row.label[1:2].islower() else row.label} {by_arm[roles.best]}"
    on = f" on {prompts} prompt{'s' * (prompts != 1)}" if prompts else ""
    if not roles.floor:
        return Outcome(f"The best arm{on} is {label}, with ", figures, ".")
    against = f" against {by_arm[roles.floor]} for plain upsampling"
    truth = f" and {by_arm[roles.truth]} for the true render" if roles.truth in by_arm else ""
    clear = {
        "better": "a clear gain over plain upsampling",
        "worse": "clearly worse than plain upsampling",
        "unclear": "no clear difference to plain upsampling",
        "few": "too few prompts to tell it from plain upsampling",
    }.get(row.gain.kind if row.gain else "", "")
    return Outcome(f"The best arm{on}, {label}, has a ", figures + against + truth, f": {clear}." if clear else ".")
