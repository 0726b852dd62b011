"""Two arms of two runs: matched by prompt and seed, found in MLflow or in a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from kedro.framework.project import configure_project
from mlflow import MlflowClient

from tests.conf_files import read_conf, write_conf
from vibe_pipeline.cli import cli
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.experiment.run import TrackingParams
from vibe_pipeline.reporting.compare import Comparison, as_text, compare, find_side

ROOT = Path(__file__).parents[2]
PROMPTS = [f"prompt {i}" for i in range(10)]


def scores(gains: dict[str, float], prompts: list[str] = PROMPTS, seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Scores of arms whose flicker is a prompt's own level plus a gain that hardly varies."""
    rng = np.random.default_rng(0)
    rows = []
    for arm, gain in gains.items():
        for index, prompt in enumerate(prompts):
            for seed in seeds:
                level = 10.0 * int(prompt.split()[-1])
                rows.append((arm, index, seed, "flicker", level + gain + 0.01 * rng.normal(), "scored", "", prompt))
                rows.append((arm, index, seed, "aesthetic_quality", np.nan, "skipped", "no weights", prompt))
    columns = ["arm", "prompt_index", "seed", "metric", "value", "status", "reason", "prompt"]
    return pd.DataFrame(rows, columns=columns).assign(direction="lower", family="detail", training_seed="")


Write = Callable[[str, pd.DataFrame], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Scores as a file."""

    def written(name: str, table: pd.DataFrame) -> str:
        path = tmp_path / f"{name}.parquet"
        table.to_parquet(path)
        return str(path)

    return written


def compared(first: str, second: str, *metrics: str) -> Comparison:
    sides = (find_side(a, b, TrackingParams()) for a, b in ((first, second), (second, first)))
    return compare(*sides, metrics, Bootstrap(200))


def test_prompts_are_matched_by_text_not_by_number(write: Write) -> None:
    a = write("a", scores({"full": 0.0}))
    b = write("b", scores({"full": 0.5, "other": 3.0}, [*PROMPTS[::-1], "prompt 77"]))
    found = compared(a, f"{b}:full")
    assert (found.pairs, found.only_first, found.only_second) == (10, 0, 1)
    flicker, skipped = found.metrics
    assert flicker["difference"] == pytest.approx(-0.5, abs=0.02) and flicker["verdict"] == "better"
    assert flicker["low"] < flicker["difference"] < flicker["high"] < 0 and flicker["clips"] == 10
    assert flicker["first"] - flicker["second"] == pytest.approx(flicker["difference"])
    assert (skipped["verdict"], skipped["reason"]) == ("not measured", "no weights")
    text = as_text(found)
    assert "10 pairs of clips in common (0 of the first and 1 of the second have no partner)" in text
    assert "better" in text and "no weights" in text


def test_prompts_of_the_same_text_stay_apart(write: Write) -> None:
    table = scores({"full": 0.0}, ["prompt 1", "prompt 1", "prompt 2"])
    table.loc[table["prompt_index"] == 1, "value"] += 100
    assert compared(write("a", table), write("b", table)).metrics[0]["difference"] == 0.0


def test_replicates_count_as_training_seeds(write: Write) -> None:
    table = pd.concat([scores({"full": g}).assign(training_seed=s) for s, g in (("0", 0.0), ("1", 1.0))])
    row = compared(write("a", table), write("b", scores({"full": 0.0}))).metrics[0]
    assert row["training_seeds"] == 2 and row["difference"] == pytest.approx(0.5, abs=0.02)
    assert row["high"] - row["low"] > 0.5


@pytest.mark.parametrize(
    ("other", "arm", "words"),
    [
        (scores({"full": 0.0}, ["prompt 99"]), "", r"0 prompts in common \(of 10 and 1\), seeds 0 and 0"),
        (scores({"full": 0.0}, seeds=(4, 5)), "", r"10 prompts in common .* seeds 0 and 4, 5"),
        (scores({"full": 0.0}), ":nobody", r"has no arm 'nobody'; its arms: full"),
        (
            scores({"full": 0.0}).drop(columns="prompt"),
            "",
            r"columns prompt; it has arm, .*the file to give is scores\.parquet",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(write: Write, other: pd.DataFrame, arm: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compared(write("a", scores({"full": 0.0})), write("b", other) + arm)


def test_an_arm_must_be_said_where_there_are_several(write: Write) -> None:
    several = write("a", scores({"full": 0.0, "other": 1.0}))
    with pytest.raises(ValueError, match="several arms: say which, as RUN:ARM; its arms: full, other"):
        compared(several, several)
    assert compared(f"{several}:full", f"{several}:other").metrics[0]["verdict"] == "better"
    with pytest.raises(ValueError, match="neither run has the metric 'sharpness'"):
        compared(f"{several}:full", f"{several}:other", "sharpness")
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        compared("gone.parquet", several)


@pytest.fixture
def store(tmp_path: Path, write: Write) -> tuple[TrackingParams, list[str]]:
    """Two runs with scores and one without."""
    tracking = TrackingParams(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="tiny")
    client = MlflowClient(tracking.uri)
    experiment = client.create_experiment("tiny", (tmp_path / "artifacts").as_uri())
    runs = [client.create_run(experiment, tags={"kind": "run"}).info.run_id for _ in range(3)]
    client.create_run(experiment, tags={"kind": "arm"})
    for run, gain in zip(runs, (0.0, 0.5), strict=False):
        path = Path(write("scores", scores({"full": gain, "other": gain})))
        client.log_artifact(run, str(path))
    return tracking, runs


def test_runs_are_found_by_the_start_of_their_id(store: tuple[TrackingParams, list[str]]) -> None:
    tracking, (first, second, bare) = store
    assert find_side(f"{first[:12]}:full", second, tracking).scores["arm"].unique() == ["full"]
    with pytest.raises(FileNotFoundError, match=f"run {bare} kept no scores.parquet"):
        find_side(f"{bare}:full", first, tracking)
    with pytest.raises(ValueError, match="3 runs start with ''"):
        find_side(":full", first, tracking)
    with pytest.raises(ValueError, match="no run starts with 'zzz' in the experiment 'tiny'"):
        find_side("zzz:full", first, tracking)


def test_the_command_prints_a_table_and_json(
    store: tuple[TrackingParams, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, (first, second, _) = store
    params = read_conf(ROOT / "conf/base")
    params |= {"tracking": {"uri": tracking.uri, "experiment": "tiny"}}
    for folder in ("conf/base", "conf/local", "src"):
        (tmp_path / folder).mkdir(parents=True)
    write_conf(tmp_path / "conf/base", params)
    shutil.copy(ROOT / "conf/base/globals.yml", tmp_path / "conf/base")
    monkeypatch.chdir(tmp_path)
    configure_project("vibe_pipeline")
    run = CliRunner()
    shown = run.invoke(cli, ["vibe", "compare", f"{first}:full", f"{second}:other"])
    assert shown.exit_code == 0, shown.output
    assert "10 pairs of clips in common" in shown.output and "Flicker" in shown.output
    args = ["vibe", "compare", f"{first}:full", f"{second}", "--metric", "flicker", "--json"]
    content = json.loads(run.invoke(cli, args).stdout)
    assert [row["metric"] for row in content["metrics"]] == ["flicker"]
    assert content["metrics"][0]["difference"] == pytest.approx(-0.5, abs=0.02)
    wrong = run.invoke(cli, ["vibe", "compare", f"{first}:nobody", second])
    assert wrong.exit_code == 1 and "no arm 'nobody'" in wrong.output
