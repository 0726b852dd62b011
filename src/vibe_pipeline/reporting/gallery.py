"""The clips of a run as the page shows them: contact sheets and side-by-side takes, within a byte budget."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.io.video import read_frames
from vibe_pipeline.reporting.first import same_scene
from vibe_pipeline.reporting.media import Panel, contact_sheet, image_uri, mid_frame, video_uri
from vibe_pipeline.reporting.motion import Focus, find_focus
from vibe_pipeline.reporting.tables import arm_label, arm_order, bound_of


@dataclass(frozen=True)
class ContactSheet:
    """One prompt's contact sheet."""

    prompt: str
    uri: str = ""
    alt: str = ""
    width: int = 0
    height: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClipView:
    """One arm's clip of a take; `uri` is empty if it is not embedded, and `problem` says why."""

    arm: str
    label: str
    uri: str
    problem: str
    width: int
    height: int


@dataclass(frozen=True)
class PromptClips:
    """One prompt and seed: the clips that play together, and where to enlarge them."""

    index: int
    prompt: str
    seed: int
    fps: float
    reels: tuple[ClipView, ...]
    focus: Focus | None = None

    @property
    def places(self) -> str:
        """The focus for the script: `x,y` in percent for each frame."""
        return ";".join(f"{x:g},{y:g}" for x, y in self.focus.points) if self.focus else ""


def takes_shown(clips: pd.DataFrame, prompts: int) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """The first prompts, each with its first seed: (prompt_index, seed, its clips)."""
    if clips.empty:
        return
    for index in sorted(clips["prompt_index"].unique())[:prompts]:
        rows = clips[clips["prompt_index"] == index]
        seed = sorted(rows["seed"].unique())[0]
        rows = rows[rows["seed"] == seed]
        yield int(index), int(seed), rows


def focus_of(rows: pd.DataFrame, arms: Mapping[str, ArmParams]) -> Focus | None:
    """Where to enlarge the clips of one prompt: as the true render moves, else plain upsampling, else any clip."""
    order = arm_order(rows["arm"].unique().tolist(), arms)
    if bound_of(order[-1], arms) == "ceiling" and same_scene(rows):
        order = [order[-1], *order[:-1]]
    by_arm = rows.drop_duplicates("arm").set_index("arm")
    for arm in order:
        try:
            return find_focus(read_frames(Path(str(by_arm.loc[arm, "preview_path"]))))
        except (OSError, ValueError):
            continue
    return None


def sheets(clips: pd.DataFrame, arms: Mapping[str, ArmParams], prompts: int, budget: int) -> list[ContactSheet]:
    """Contact sheets of the first prompts, until the budget of bytes is spent."""
    made: list[ContactSheet] = []
    for _, _, rows in takes_shown(clips, prompts):
        prompt = str(rows["prompt"].iloc[0])
        panels, problems = _panels(rows, arms)
        if not panels:
            made.append(ContactSheet(prompt, problems=tuple(problems)))
            continue
        image = contact_sheet(panels, focus_of(rows, arms))
        uri = image_uri(image)
        budget -= len(uri)
        if budget < 0:
            made.append(ContactSheet(prompt, problems=("left out: the page has reached its size limit",)))
            continue
        names = ", ".join(p.label for p in panels)
        alt = f"Contact sheet for the prompt “{prompt}”: middle frames and enlarged details of {names}."
        made.append(ContactSheet(prompt, uri, alt, *image.size, tuple(problems)))
    return made


def _panels(rows: pd.DataFrame, arms: Mapping[str, ArmParams]) -> tuple[list[Panel], list[str]]:
    """Upsampled clip first, the true render last, of a truth arm or of a reference path, if it is of the same scene."""
    by_arm, alike = rows.drop_duplicates("arm").set_index("arm"), same_scene(rows)
    panels, problems = [], []
    for arm in arm_order(by_arm.index.tolist(), arms):
        if bound_of(arm, arms) == "ceiling" and not alike:
            continue
        try:
            panels.append(Panel(arm_label(arm, arms), mid_frame(Path(str(by_arm.loc[arm, "path"])))))
        except (OSError, ValueError) as error:
            problems.append(f"{arm_label(arm, arms)}: {_short(error)}")
    if alike and not any(bound_of(a, arms) == "ceiling" for a in by_arm.index):
        panels += _reference(rows)
    return panels, problems


def _reference(rows: pd.DataFrame) -> list[Panel]:
    paths = [Path(str(p)) for p in rows["reference_path"].dropna() if str(p)] if "reference_path" in rows else []
    try:
        return [Panel("True render", mid_frame(paths[0]))] if paths else []
    except (OSError, ValueError):
        return []


def takes(clips: pd.DataFrame, arms: Mapping[str, ArmParams], prompts: int, budget: int) -> list[PromptClips]:
    """The clips to play side by side; the budget is shared out evenly, so that no arm crowds out another."""
    shown = list(takes_shown(clips, prompts))
    share = budget // max(1, sum(rows["arm"].nunique() for _, _, rows in shown))
    made = []
    for index, seed, rows in shown:
        by_arm = rows.drop_duplicates("arm").set_index("arm")
        order = arm_order(by_arm.index.tolist(), arms)
        reels = tuple(_reel(arm, by_arm.loc[arm], arms, share, same_scene(rows)) for arm in order)
        fps, prompt = float(by_arm["fps"].iloc[0]), str(rows["prompt"].iloc[0])
        made.append(PromptClips(index, prompt, seed, fps, reels, focus_of(rows, arms)))
    return made


def _reel(arm: str, row: pd.Series, arms: Mapping[str, ArmParams], limit: int, alike: bool) -> ClipView:
    try:
        uri = video_uri(Path(str(row["preview_path"])), limit)
        problem = "" if uri else "too large to embed; the file is in the run's folder of clips"
    except (OSError, ValueError) as error:
        uri, problem = "", _short(error)
    other = " (another scene of this caption)" if bound_of(arm, arms) == "ceiling" and not alike else ""
    return ClipView(arm, arm_label(arm, arms) + other, uri, problem, int(row["width"]), int(row["height"]))


def poster(clips: pd.DataFrame, arms: Collection[str]) -> str:
    """The middle frame of the first prompt by the first of these arms that has one: what stands there without a script
    and on paper; '' if there is none."""
    for _, _, rows in takes_shown(clips, 1):
        by_arm = rows.drop_duplicates("arm").set_index("arm")
        for arm in (a for a in arms if a in by_arm.index):
            try:
                return image_uri(Image.fromarray(mid_frame(Path(str(by_arm.loc[arm, "preview_path"])))))
            except (OSError, ValueError):
                continue
    return ""


def _short(error: Exception) -> str:
    """An error in one line, without the machine's folders."""
    words = [Path(w).name if "/" in w else w for w in str(error).split("\n")[0].split()]
    return " ".join(words) or type(error).__name__
