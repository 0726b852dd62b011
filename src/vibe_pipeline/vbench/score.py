"""VBench's own scores of clips, offline, resumable per clip and dimension: one table of clips in, one of scores out.

Nothing of VBench is rewritten (see `engine`). What it would do silently (fetch weights, drop a clip, average a NaN)
is decided before or read off afterwards.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.score_table import Place, check_clip_table, score_row, score_table, unusable
from vibe_pipeline.vbench.dimensions import FLOW_DIMENSIONS, dimension_of
from vibe_pipeline.vbench.jobs import ScoringJob
from vibe_pipeline.vbench.kept_scores import clip_id
from vibe_pipeline.vbench.needs import decoded_memory, free_memory, seen_size, too_large, too_short
from vibe_pipeline.vbench.prompts import SEPARATOR, auxiliary_info
from vibe_pipeline.vbench.readiness import FETCH, Ready, Skipped, readiness
from vibe_pipeline.vbench.run import Outcome, Scoring, run_jobs

logger = logging.getLogger(__name__)

ScoreRow = dict[str, object]
NOT_FINITE = "VBench gave the score"


class NothingScoredError(RuntimeError):
    """None of the requested dimensions gave a single score."""


def score_vbench(
    clips: pd.DataFrame, dimensions: Sequence[str], scoring: Scoring, require_any: bool = True
) -> pd.DataFrame:
    """Score clips with the VBench dimensions that are ready.

    Args:
        clips: One row a clip: arm, prompt_index, prompt, seed, path (mp4), fps, frames, height, width. With a column
            `dimensions` (names joined by ";", of VBench's own prompts) a dimension is scored only on the clips that
            list it; where it is empty or absent the prompt is a custom one, and every dimension applies. With a
            column `key`, that names a clip's content; else its file is hashed.
        dimensions: Names out of VBench's 16; repeated ones are scored once.
        scoring: Dimensions, weights and device of the scoring.
        require_any: Raise if nothing was scored.

    Returns:
        Columns arm, prompt_index, seed, metric, value, direction, family, status, reason, seen. A scored or failed
        clip has its own row; a skipped or failed dimension has one row per arm, with prompt_index and seed -1. Values
        are on the scale of VBench's totals (0 to 1, cosines from -1); they are NaN unless status is "scored". `seen`
        is the height x width that the dimension's model was given.

    Raises:
        ValueError: The clip table or a dimension's name is wrong.
        NothingScoredError: `require_any`, and no clip got a score in any dimension; the message lists the reasons.
    """
    check_clip_table(clips)
    names = list(dict.fromkeys(dimension_of(name).name for name in dimensions))
    if not names:
        raise ValueError("no VBench dimensions are asked for: name at least one")
    table = score_table(_all_rows(clips.reset_index(drop=True), names, scoring))
    if require_any:
        _require_a_score(table)
    return table


def states(clips: pd.DataFrame, dimensions: Sequence[str], scoring: Scoring) -> dict[str, Ready | Skipped]:
    """Whether each dimension can be scored on these clips, told without opening them.

    Raises:
        ValueError: A dimension's name is wrong.
    """
    names = [dimension_of(name).name for name in dimensions]
    free = free_memory(scoring.device) if set(names) & set(FLOW_DIMENSIONS) else None
    return {name: _state(clips, name, scoring, free) for name in names}


def _state(clips: pd.DataFrame, name: str, scoring: Scoring, free: int | None) -> Ready | Skipped:
    mine = clips[_wants(clips, name)]
    if mine.empty:
        return Skipped(name, "skipped, because none of these clips' prompts is one that VBench scores on it")
    state = readiness(name, scoring.cache_dir, all(_listed(mine)), scoring.second_env, scoring.env_option)
    if isinstance(state, Skipped):
        return state
    too_much = too_large(
        dimension=name,
        clips=mine,
        flow_side=scoring.flow_side,
        device=scoring.device,
        at_once=scoring.workers,
        free=free,
    )
    return Skipped(name, too_much) if too_much else state


def _listed(clips: pd.DataFrame) -> list[frozenset[str]]:
    """The dimensions that VBench scores each clip's prompt on; empty for a custom prompt."""
    if "dimensions" not in clips:
        return [frozenset()] * len(clips)
    return [frozenset(text.split(SEPARATOR)) - {""} for text in clips["dimensions"].fillna("").astype(str)]


def _wants(clips: pd.DataFrame, dimension: str) -> list[bool]:
    """Which clips a dimension is scored on: those whose prompt lists it, and those of custom prompts."""
    return [not names or dimension in names for names in _listed(clips)]


def _all_rows(clips: pd.DataFrame, names: Sequence[str], scoring: Scoring) -> list[ScoreRow]:
    """Rows of every dimension, in the order asked for."""
    found = states(clips, names, scoring)
    logger.info("%s", told(found, scoring.env_option))
    ready = {name: state for name, state in found.items() if isinstance(state, Ready)}
    broken = {i: reason for i, path in enumerate(clips["path"]) if (reason := unusable(Path(path)))}
    jobs = _jobs(clips.drop(index=list(broken)), list(ready)) if ready else {}
    if jobs:
        _warn_of_memory(clips, scoring)
    outcome = run_jobs(list({job.clip: job for job in jobs.values()}.values()), ready, scoring)
    rows: list[ScoreRow] = []
    for name, state in found.items():
        mine = clips[_wants(clips, name)]
        if isinstance(state, Skipped):
            rows += _arm_rows(clips, name, "skipped", state.reason)
        elif name in outcome.whole:
            logger.error("VBench %s: %s", name, outcome.whole[name])
            rows += _arm_rows(mine, name, "failed", outcome.whole[name])
        else:
            rows += [
                _clip_row(clip=clip, name=name, jobs=jobs, broken=broken, outcome=outcome, scoring=scoring)
                for clip in mine.itertuples()
            ]
    return rows


def told(found: Mapping[str, Ready | Skipped], env_option: str = "") -> str:
    """One line on all dimensions: how many are scored, and what the others lack, those of one lack together.

    `env_option` is put behind the command that fetches weights.
    """
    lacks: dict[str, list[str]] = {}
    for name, state in found.items():
        if isinstance(state, Skipped):
            lacks.setdefault(_lack(state, env_option), []).append(name)
    scored = sum(isinstance(state, Ready) for state in found.values())
    parts = [
        f"{len(names)} {lack.format(have='need' if len(names) > 1 else 'needs')}: {', '.join(names)}"
        for lack, names in lacks.items()
    ]
    return "; ".join([f"VBench: {scored} of {len(found)} dimensions scored", *parts])


def _lack(state: Skipped, env_option: str) -> str:
    """What the dimension lacks, in the words of many, `{have}` as their number wants it."""
    if state.fix.startswith(FETCH) and ";" not in state.fix:
        return f"{{have}} weights (`{FETCH}{env_option}`)"
    reason = one_line(state.reason.removeprefix("skipped, because "), 120).replace("{", "{{").replace("}", "}}")
    return f"left out, because {reason}"


def _jobs(clips: pd.DataFrame, ready: Sequence[str]) -> dict[int, ScoringJob]:
    """A job per row of the table, by its index; the same clip twice gives equal jobs."""
    labels = auxiliary_info() if "dimensions" in clips else {}
    jobs = {}
    for clip, listed in zip(clips.itertuples(), _listed(clips), strict=True):
        wanted = (name for name in ready if not listed or name in listed)
        dimensions = tuple(name for name in wanted if not too_short(name, int(clip.frames)))
        stated = (int(clip.frames), int(clip.height), int(clip.width))
        jobs[clip.Index] = ScoringJob(
            clip_id(Path(clip.path), str(clip.prompt), stated, getattr(clip, "key", None)),
            str(Path(clip.path).resolve()),
            str(clip.prompt),
            dimensions,
            *stated,
            {name: labels[clip.prompt, name] for name in dimensions if (clip.prompt, name) in labels},
        )
    return jobs


def _warn_of_memory(clips: pd.DataFrame, scoring: Scoring) -> None:
    """Say before the first clip is opened that its frames may not fit."""
    needed, free = decoded_memory(clips) * scoring.workers, free_memory("cpu")
    if free is not None and needed > free:
        logger.warning(
            "%d clips at once take up to %.1f GB decoded, and %.1f GB are free; set evaluation.workers lower",
            scoring.workers, needed / 1e9, free / 1e9,
        )  # fmt: skip


def _require_a_score(table: pd.DataFrame) -> None:
    if (table["status"] == "scored").any():
        return
    reasons = table.groupby("metric", sort=False)["reason"].first()
    listed = "; ".join(f"{metric}: {reason}" for metric, reason in reasons.items())
    raise NothingScoredError(f"none of the requested VBench dimensions could be scored: {listed}")


def _clip_row(
    clip: Any,
    name: str,
    jobs: Mapping[int, ScoringJob],
    broken: Mapping[int, str],
    outcome: Outcome,
    scoring: Scoring,
) -> ScoreRow:
    """The row of one clip: its score, or why there is none."""
    value, short = math.nan, too_short(name, int(clip.frames))
    reason = broken.get(clip.Index, short)
    if not reason:
        place = (jobs[clip.Index].clip, name)
        value = outcome.values.get(place, math.nan)
        reason = outcome.errors.get(place, "")
        if not reason and not math.isfinite(value):
            reason = f"{NOT_FINITE} {value} for {clip.path}"
    status = "skipped" if reason and reason == short else "failed" if reason else "scored"
    seen = "x".join(map(str, seen_size(name, clip.height, clip.width, scoring.flow_side)))
    value, seen = (math.nan, "") if reason else (value, seen)
    return score_row(
        place=Place(clip.arm, clip.prompt_index, clip.seed),
        metric=dimension_of(name),
        value=value,
        status=status,
        reason=reason,
        seen=seen,
    )


def _arm_rows(clips: pd.DataFrame, name: str, status: str, reason: str) -> list[ScoreRow]:
    """One row per arm for a dimension without scores."""
    return [score_row(Place(arm), dimension_of(name), math.nan, status, reason) for arm in clips["arm"].unique()]
