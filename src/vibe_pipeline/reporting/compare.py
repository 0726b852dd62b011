"""Any two arms of any two runs, by the report's own statistics."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient

from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.differences import TRAINING, paired_difference
from vibe_pipeline.evaluation.statistics import NEEDED, summarise
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.io.errors import one_line
from vibe_pipeline.io.text_table import aligned
from vibe_pipeline.reporting.glossary import ARROWS, number, words
from vibe_pipeline.reporting.narrative import count
from vibe_pipeline.tracking.store import opened

SCORES = "scores.parquet"


@dataclass(frozen=True)
class Side:
    """One arm of one run: where its scores are from, and those scores."""

    source: str
    arm: str
    scores: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """Two arms.

    Attributes:
        first: What is compared: run and arm.
        second: What it is compared with.
        pairs: (prompt, seed) that both have.
        only_first: That only the first has, and are left out.
        only_second: Likewise of the second.
        confidence: Of the intervals.
        metrics: For each metric both means, the difference first − second with its interval, effect size, clips paired,
            training seeds, direction and verdict; or why there is no difference.
    """

    first: str
    second: str
    pairs: int
    only_first: int
    only_second: int
    confidence: float
    metrics: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; missing numbers are None."""
        content = asdict(self)
        content["metrics"] = [{k: None if v != v else v for k, v in row.items()} for row in self.metrics]
        return content


def find_side(text: str, other: str, tracking: TrackingParams) -> Side:
    """The arm that `RUN[:ARM]` names; RUN is a scores.parquet, an MLflow run or the unique start of its id.

    Without an arm it is that of the `other` side, or the run's only one.

    Raises:
        FileNotFoundError: The run kept no scores.
        ConnectionError: The tracking server cannot be used.
        ValueError: No such run or arm, several runs, or a file without prompts; says what there is.
    """
    source, arm = split(text)
    scores = _scores(source, tracking)
    arms = list(dict.fromkeys(scores["arm"]))
    wanted = arm or split(other)[1] or (arms[0] if len(arms) == 1 else "")
    if wanted not in arms:
        what = f"has no arm {wanted!r}" if wanted else "has several arms: say which, as RUN:ARM"
        raise ValueError(f"{source} {what}; its arms: {', '.join(arms)}")
    return Side(source, wanted, scores[scores["arm"] == wanted])


def split(text: str) -> tuple[str, str]:
    """RUN and ARM of `RUN[:ARM]`; a file whose name has a colon in it is a file."""
    run, colon, arm = text.rpartition(":")
    return (text, "") if not colon or Path(text).is_file() else (run, arm)


def _scores(source: str, tracking: TrackingParams) -> pd.DataFrame:
    if Path(source).is_file():
        try:
            scores = pd.read_parquet(source)
        except (OSError, ValueError) as error:
            raise ValueError(f"{source} cannot be read as parquet: {one_line(error)}") from error
    elif source.endswith(".parquet"):
        raise FileNotFoundError(f"{source}: no such file")
    else:
        scores = _of_run(source, tracking)
    absent = [name for name in (*NEEDED, "prompt") if name not in scores]
    if absent:
        raise ValueError(
            f"{source} lacks the columns {', '.join(absent)}; it has {one_line(', '.join(map(str, scores)))}; the file "
            f"to give is {SCORES} in the folder of its report, which holds the prompts too"
        )
    if scores["prompt"].isna().all():
        raise ValueError(f"{source} holds no score of a clip with a prompt")
    if not pd.api.types.is_numeric_dtype(scores["value"]):
        raise ValueError(f"{source}: the column value holds {one_line(repr(scores['value'].iloc[0]), 60)}, not numbers")
    return scores


def _of_run(prefix: str, tracking: TrackingParams) -> pd.DataFrame:
    with opened(tracking, Path.cwd()) as (client, _):
        run = _run_id(client, tracking.experiment, prefix)
        if SCORES not in {artifact.path for artifact in client.list_artifacts(run)}:
            raise FileNotFoundError(f"run {run} kept no {SCORES}; only a run that finished its report does")
        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(client.download_artifacts(run, SCORES, folder))


def _run_id(client: MlflowClient, experiment: str, prefix: str) -> str:
    found = client.get_experiment_by_name(experiment)
    ids: list[str] = []
    token = None
    while found is not None:
        page = client.search_runs([found.experiment_id], "tags.kind = 'run'", page_token=token)
        ids += [run.info.run_id for run in page if run.info.run_id.startswith(prefix)]
        token = page.token
        if not token:
            break
    if len(ids) != 1:
        how_many = f"{len(ids)} runs start" if ids else "no run starts"
        raise ValueError(f"{how_many} with {prefix!r} in the experiment {experiment!r}; `kedro vibe runs` lists them")
    return ids[0]


def compare(first: Side, second: Side, metrics: Sequence[str] = (), bootstrap: Bootstrap | None = None) -> Comparison:
    """Paired statistics of two arms over the prompts and seeds that both have.

    Prompts are matched by their text, whatever their number in either run.

    Raises:
        ValueError: No prompt or no seed in common, or a metric that neither run has; says what each has.
    """
    bootstrap = bootstrap or Bootstrap()
    mine, theirs = _keyed(first.scores), _keyed(second.scores)
    pairs = _common(mine, theirs)
    numbers = {prompt: i for i, prompt in enumerate(sorted({prompt for prompt, _ in pairs}))}
    both = pd.concat([_numbered(t, numbers, name) for t, name in ((mine, "first"), (theirs, "second"))])
    known = list(dict.fromkeys(both["metric"]))
    if unknown := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"neither run has the metric {unknown[0]!r}; there are: {', '.join(known)}")
    rows = tuple(_row(both, metric, bootstrap) for metric in metrics or known)
    return Comparison(
        first=f"{first.source}:{first.arm}",
        second=f"{second.source}:{second.arm}",
        pairs=len(pairs),
        only_first=len(_clips(mine) - pairs),
        only_second=len(_clips(theirs) - pairs),
        confidence=bootstrap.confidence,
        metrics=rows,
    )


def _keyed(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of clips, their prompt told apart from others of the same text."""
    clips = scores[scores["prompt"].notna()]
    if TRAINING not in clips:
        clips = clips.assign(**{TRAINING: ""})
    again = clips.groupby("prompt")["prompt_index"].rank("dense").astype(int)
    return clips.assign(prompt=list(zip(clips["prompt"], again, strict=True)))


def _clips(table: pd.DataFrame) -> set[tuple[Any, int]]:
    return set(zip(table["prompt"], table["seed"], strict=True))


def _common(mine: pd.DataFrame, theirs: pd.DataFrame) -> set[tuple[Any, int]]:
    """(prompt, seed) of both."""
    common = _clips(mine) & _clips(theirs)
    if not common:
        prompts = len(set(mine["prompt"]) & set(theirs["prompt"]))
        seeds = [", ".join(map(str, sorted(set(table["seed"])))) or "none" for table in (mine, theirs)]
        raise ValueError(
            f"nothing can be paired: {prompts} prompts in common (of {mine['prompt'].nunique()} and "
            f"{theirs['prompt'].nunique()}), seeds {seeds[0]} and {seeds[1]}; two runs compare where "
            "generation.prompts and generation.seeds agree"
        )
    return common


def _numbered(table: pd.DataFrame, numbers: Mapping[Any, int], arm: str) -> pd.DataFrame:
    index = table["prompt"].map(numbers)
    return table[index.notna()].assign(arm=arm, prompt_index=index.dropna().astype(int))


def _row(scores: pd.DataFrame, metric: str, bootstrap: Bootstrap) -> dict[str, Any]:
    rows = scores[scores["metric"] == metric]
    paired = _common_clips(rows)
    found = paired_difference(paired, "first", "second", metric, bootstrap)
    table = summarise(paired, {"first": "first", "second": "second"}, bootstrap.confidence, 1) if len(paired) else None
    means = dict(zip(table["arm"], table["mean"], strict=True)) if table is not None else {}
    direction = str(rows["direction"].iloc[0])
    lacking = rows.loc[rows["status"] != "scored", "reason"]
    return {
        "metric": metric,
        "first": means.get("first", float("nan")),
        "second": means.get("second", float("nan")),
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "effect_size": found.effect_size,
        "clips": found.clips,
        "prompts": found.prompts,
        "training_seeds": found.training_seeds,
        "direction": direction,
        "verdict": _verdict(found.low, found.high, direction, found.prompts, bootstrap),
        "reason": "" if found.clips else "; ".join(dict.fromkeys(lacking)) or "not scored in both runs",
    }


def _common_clips(rows: pd.DataFrame) -> pd.DataFrame:
    """Scored rows of the (prompt, seed) that both sides have a score of."""
    scored = rows[rows["status"] == "scored"]
    sides = scored.groupby(["prompt_index", "seed"])["arm"].transform("nunique")
    return scored[sides == 2]


def _verdict(low: float, high: float, direction: str, prompts: int, bootstrap: Bootstrap) -> str:
    if not prompts:
        return "not measured"
    if prompts < bootstrap.fewest_pairs:
        return f"cannot be told: an interval needs {bootstrap.fewest_pairs} prompts"
    if not (low > 0 or high < 0):
        return "cannot be told"
    if direction not in ("higher", "lower"):
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == (direction == "higher") else "worse"


def as_text(comparison: Comparison) -> str:
    """The comparison as a table for people."""
    c = comparison
    lines = [f"first   {c.first}", f"second  {c.second}", ""]
    left_out = f" ({c.only_first} of the first and {c.only_second} of the second have no partner)"
    lines.append(f"{count(c.pairs, 'pair')} of clips in common{left_out if c.only_first or c.only_second else ''}")
    lines += [f"difference: first − second, {100 * c.confidence:g} % interval; effect size: per prompt", ""]
    heads = ("metric", "first", "second", "difference", "interval", "effect", "prompts", "first is")
    return "\n".join([*lines, *aligned([heads, *map(_cells, c.metrics)])])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{words(row['metric']).label} {ARROWS.get(row['direction'], '')}".strip()
    figures = [number(row[key]) for key in ("first", "second", "difference")]
    interval = f"[{number(row['low'])}, {number(row['high'])}]" if row["low"] == row["low"] else "–"
    seeds = f" × {row['training_seeds']}" if row["training_seeds"] > 1 else ""
    verdict = f"{row['verdict']}: {row['reason']}" if row["reason"] else row["verdict"]
    return (name, *figures, interval, number(row["effect_size"]), f"{row['prompts']}{seeds}", verdict)
