"""The verdicts as a table hold what the verdicts rest on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from vibe_pipeline.datasets import CsvTable
from vibe_pipeline.evaluation.bootstrap import Bootstrap
from vibe_pipeline.evaluation.claims import judge_claims
from vibe_pipeline.evaluation.claims_table import CLAIM_COLUMNS, TEXT, claims_table
from vibe_pipeline.experiment.claims import Asked, Claim

ROOT = Path(__file__).parents[2]
BOOTSTRAP = Bootstrap(samples=200, confidence=0.9)
ERROR = Asked(metric="error", better="lower", margin=0.1)
RIGHT = Asked(metric="right", better="higher", margin=0.05)


def claim(name: str, other: str, **changes) -> Claim:
    given = {"name": name, "statement": "s", "kind": "k", "arm": "a", "other": other, "primary": ERROR}
    return Claim(**given | {"secondary": (RIGHT,)} | changes)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Arm a of three training seeds, b and c of none."""
    rng, rows = np.random.default_rng(0), []
    for arm, seeds, gain in (("a", "012", 0.5), ("b", [""], 0.0), ("c", [""], 0.4)):
        for prompt in range(12):
            for seed in seeds:
                rows.append((arm, prompt, 0, seed, "error", "lower", prompt - gain + rng.normal(0, 0.3)))
                rows.append((arm, prompt, 0, seed, "right", "higher", float(rng.random() < 0.5)))
    names = ["arm", "prompt_index", "seed", "training_seed", "metric", "direction", "value"]
    return pd.DataFrame(rows, columns=names).assign(family="detail", status="scored", reason="")


def test_a_row_a_claim_and_measure_with_all_that_the_verdict_rests_on(scores: pd.DataFrame) -> None:
    claims = claim("one", "b"), claim("two", "c", at_least=0.01), claim("three", "gone")
    judgements = judge_claims(claims, scores, BOOTSTRAP)
    table = claims_table(judgements, BOOTSTRAP)
    assert tuple(table.columns) == CLAIM_COLUMNS and len(table) == 5
    assert list(table["role"]) == ["primary", "secondary"] * 2 + ["primary"]
    assert list(zip(table["claim"], table["metric"], strict=True))[-1] == ("three", "error")
    assert table["verdict"].iloc[-1] == "not run" and table["reason"].iloc[-1] == "not in this run: gone"
    assert table["family"].tolist()[:4] == [2, 1, 2, 1] and np.isnan(table["p_different"].iloc[-1])
    for (_, row), evidence in zip(table.iterrows(), [e for j in judgements for e in j.evidence], strict=False):
        found = evidence.found
        assert (row["difference"], row["low"], row["high"]) == (found.mean, found.low, found.high)
        assert (row["seeds_low"], row["seeds_high"]) == found.seeds.interval(0.9)
        assert (row["crossed_low"], row["crossed_high"]) == found.crossed.interval(0.9)
        assert (row["p_different"], row["p_equivalent"]) == (evidence.p_different, evidence.p_equivalent)
        assert row["p_different_corrected"] >= row["p_different"] and row["training_seeds"] == 3
        assert (row["margin"], row["better"]) == (evidence.question.margin, evidence.question.better)
        assert np.isnan(row["exact_low"]) == (row["metric"] == "error")
    first = table.iloc[0]
    assert first["p_different_corrected"] == pytest.approx(2 * min(table["p_different"].iloc[[0, 2]]))
    assert table["at_least"].tolist()[:4] == [0, 0, 0.01, 0]


def test_it_comes_back_from_its_file_as_it_was(scores: pd.DataFrame, tmp_path: Path) -> None:
    declared = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())["claims_table"]["text"]
    assert set(declared) == set(TEXT)
    table = claims_table(judge_claims((claim("007", "b"), claim("none", "gone")), scores, BOOTSTRAP), BOOTSTRAP)
    kept = CsvTable(filepath=str(tmp_path / "claims_table.csv"), text=declared)
    kept.save(table)
    again = kept.load()
    assert again["claim"].tolist() == ["007", "007", "none"] and again["verdict"].tolist() == table["verdict"].tolist()
    assert again["low"].tolist()[:2] == pytest.approx(table["low"].tolist()[:2])


def test_no_claims_are_a_table_of_no_rows() -> None:
    assert claims_table((), BOOTSTRAP).shape == (0, len(CLAIM_COLUMNS))
