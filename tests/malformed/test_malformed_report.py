"""claims.yml and published.yml: read safely, refused with file and place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vibe_pipeline.experiment.claims import load_claims
from vibe_pipeline.experiment.published import load_published

KINDS = "kinds: {k: {primary: {metric: flicker, better: lower, margin: 0.1}}}\n"
PRIMARY = "metric: flicker, better: lower, margin: 0.1"
CLAIM = "{name: n, statement: s, kind: k, arm: a, other: b}"
ROW = "{method: X, source: here, reliability: high}"
# Content, and what the message names beside the file.
BOTH: dict[str, tuple[bytes | str, str]] = {
    "object": ("claims: !!python/object/apply:os.mkdir ['MARKER']\n", "os.mkdir"),
    "new object": ("claims: [!!python/object/new:os.mkdir ['MARKER']]\n", "os.mkdir"),
    "own tag": ("claims: !mine 3\n", "!mine"),
    "tab": ("claims:\n\t- name: n\n", "line 2"),
    "bracket open": ("claims: [", "YAML"),
    "unknown alias": ("claims: *nowhere\n", "nowhere"),
    "key twice": ("claims: []\nclaims: []\n", "'claims' stands twice"),
    "key a list": ("? [a, b]\n: 3\n", "YAML"),
    "list": ("- a\n- b\n", "['a', 'b']"),
    "words": ("claims\n", "'claims'"),
    "number": ("7\n", "7"),
    "two documents": ("a: 1\n---\nb: 2\n", "YAML"),
    "latin-1": (b"title: caf\xe9\n", "0xe9"),
    "NUL": (b"title: \0\n", "x00"),
    "nested": ("[" * 1200, "YAML"),
}
CLAIMS: dict[str, tuple[str, str]] = {
    "0 bytes": ("", "claims"),
    "no list": ("claims: {name: n}\n", "name"),
    "list of words": ("claims: [relay]\n", "['relay']"),
    "field missing": ("claims: [{name: n}]\n", "claims.0.statement"),
    "field unknown": (f"{KINDS}claims: [{CLAIM[:-1]}, weight: 3}}]\n", "claims.0 has no field 'weight'"),
    "measures of its own": (f"{KINDS}claims: [{CLAIM[:-1]}, metrics: {{flicker: lower}}}}]\n", "no field 'metrics'"),
    "no kinds": (f"claims: [{CLAIM}]\n", "'k' is not one of the file's `kinds`; it has none"),
    "kinds a list": (f"kinds: [k]\nclaims: [{CLAIM}]\n", "['k']"),
    "kind misspelt": (f"{KINDS.replace('k:', 'kin:')}claims: [{CLAIM.replace('k,', 'kim,')}]\n", "did you mean 'kin'?"),
    "no primary": ("kinds: {k: {secondary: []}}\nclaims: []\n", "kinds.k.primary: Field required"),
    "primary by name": ("kinds: {k: {primary: flicker}}\nclaims: []\n", "kinds.k.primary"),
    "no margin": (f"{KINDS.replace(', margin: 0.1', '')}claims: []\n", "kinds.k.primary.margin: Field required"),
    "margin of 0": (f"{KINDS.replace('0.1', '0')}claims: []\n", "kinds.k.primary.margin"),
    "margin below 0": (f"{KINDS.replace('0.1', '-0.1')}claims: []\n", "kinds.k.primary.margin"),
    "margin NaN": (f"{KINDS.replace('0.1', '.nan')}claims: []\n", "kinds.k.primary.margin"),
    "margin infinite": (f"{KINDS.replace('0.1', '.inf')}claims: []\n", "kinds.k.primary.margin"),
    "margin in words": (f"{KINDS.replace('0.1', 'tiny')}claims: []\n", "'tiny'"),
    "neither side": (f"{KINDS.replace('lower', 'up')}claims: []\n", "'up'"),
    "no metric": (f"{KINDS.replace('metric: flicker, ', '')}claims: []\n", "kinds.k.primary.metric"),
    "secondary without margin": (
        f"kinds: {{k: {{primary: {{{PRIMARY}}}, secondary: [{{metric: psnr, better: higher}}]}}}}\nclaims: []\n",
        "kinds.k.secondary.0.margin",
    ),
    "primary and secondary": (
        f"kinds: {{k: {{primary: {{{PRIMARY}}}, secondary: [{{{PRIMARY}}}]}}}}\nclaims: []\n",
        "'flicker' stands twice",
    ),
    "arm with itself": (f"{KINDS}claims: [{CLAIM.replace('other: b', 'other: a')}]\n", "compared with itself"),
    "claim twice": (f"{KINDS}claims: [{CLAIM}, {CLAIM}]\n", "the name 'n' stands twice"),
    "comparison twice": (
        f"{KINDS}claims: [{CLAIM}, {CLAIM.replace('name: n', 'name: m')}]\n",
        "the comparison 'a' with 'b' by kind 'k' stands twice",
    ),
    "at least nothing": (f"{KINDS}claims: [{CLAIM[:-1]}, at_least: 0}}]\n", "claims.0.at_least"),
    "at least by measure": (f"{KINDS}claims: [{CLAIM[:-1]}, at_least: {{flicker: 1}}}}]\n", "claims.0.at_least"),
    "the second": (f"{KINDS}claims:\n- {CLAIM}\n- {{name: m}}\n", "claims.1"),
}
PUBLISHED: dict[str, tuple[str, str]] = {
    "tables no list": ("tables: {title: t}\n", "title"),
    "tables of words": ("tables: [a]\n", "['a']"),
    "rows no list": ("tables: [{title: t, rows: {method: X}}]\n", "rows"),
    "rows of words": ("tables: [{title: t, rows: [X]}]\n", "['X']"),
    "no source": ("tables: [{title: t, rows: [{method: X, reliability: high}]}]\n", "'X'"),
    "no reliability": ("tables: [{title: t, rows: [{method: X, source: here}]}]\n", "'X'"),
    "value in words": (f"tables: [{{title: t, rows: [{ROW[:-1]}, values: {{a: high}}}}]}}]\n", "'high'"),
    "columns no mapping": ("columns: [overall]\n", "['overall']"),
    "column of a table": (
        f"columns: {{overall: {{}}}}\ntables: [{{title: t, columns: [overal], rows: [{ROW}]}}]\n",
        "'overall'",
    ),
    "column of a row": (
        f"columns: {{overall: {{}}}}\ntables: [{{title: t, rows: [{ROW[:-1]}, values: {{ovreall: 1}}}}]}}]\n",
        "did you mean 'overall'",
    ),
    "values a list": (f"tables: [{{title: t, rows: [{ROW[:-1]}, values: [1]}}]}}]\n", "[1]"),
}
READERS = {load_claims: BOTH | CLAIMS, load_published: BOTH | PUBLISHED}
CASES = [(f"{read.__name__}, {name}", read, *case) for read, table in READERS.items() for name, case in table.items()]


@pytest.mark.parametrize(("reader", "content", "named"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_file(
    tmp_path: Path, marker: Path, refused: Callable, reader: Callable, content: bytes | str, named: str
) -> None:
    path = tmp_path / "given.yml"
    path.write_bytes(content.replace("MARKER", str(marker)).encode() if isinstance(content, str) else content)
    refused(lambda: reader(path), str(path), named)


BESIDE = {
    "no such method": ("beside: {CineScael: {arms: [a]}}\n", "did you mean 'CineScale'"),
    "no arms": ("beside: {CineScale: {fit: alike}}\n", "takes `arms`"),
    "values": ("beside: {CineScale: {arms: [a], values: {overall: 99}}}\n", "takes `arms`"),
    "list": ("beside: [a]\n", "rows by method"),
    "figures too": ("beside: {}\ntables: []\n", "'tables'"),
}


@pytest.mark.parametrize(("content", "named"), BESIDE.values(), ids=BESIDE)
def test_a_file_that_lays_arms_beside_published_rows(
    tmp_path: Path, refused: Callable, content: str, named: str
) -> None:
    path, figures = tmp_path / "published.yml", Path(__file__).parents[2] / "conf/base/published.yml"
    path.write_text(content)
    refused(lambda: load_published(path, figures), str(path), named)


def test_arms_stand_beside_the_rows_of_the_file_below(tmp_path: Path) -> None:
    path, figures = tmp_path / "published.yml", Path(__file__).parents[2] / "conf/base/published.yml"
    path.write_text("beside: {CineScale: {arms: [a, b], fit: alike}}\ncaveats: [mind]\n")
    laid, below = load_published(path, figures), load_published(figures)
    rows = {row["method"]: row for row in laid["tables"][0]["rows"]}
    assert (rows["CineScale"]["arms"], rows["CineScale"]["fit"], rows["CineScale"]["values"]["overall"]) == (
        ["a", "b"], "alike", 73.6,
    )  # fmt: skip
    assert rows["T3-Video"] == below["tables"][0]["rows"][3] and laid["caveats"] == [*below["caveats"], "mind"]
    with pytest.raises(ValueError, match="needs the figures of a file below it"):
        load_published(path)


@pytest.mark.parametrize("reader", [load_claims, load_published])
def test_a_file_that_is_not_there(tmp_path: Path, refused: Callable, reader: Callable) -> None:
    refused(lambda: reader(tmp_path / "gone.yml"), "gone.yml")


def test_the_same_comparison_may_be_asked_for_a_least_gain_too(tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(f"{KINDS}claims: [{CLAIM}, {CLAIM[:-1].replace('name: n', 'name: m')}, at_least: 0.2}}]\n")
    plain, least = load_claims(path)
    assert (plain.at_least, least.at_least) == (None, 0.2) and plain.primary == least.primary
