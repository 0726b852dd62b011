"""The page is self-contained, escaped, accessible, and says what is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reporting.conftest import write_clip
from vibe_pipeline.evaluation.claims import MEANINGS
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.claims import Asked, Claim
from vibe_pipeline.experiment.published import load_published
from vibe_pipeline.reporting.page import render, write_report
from vibe_pipeline.reporting.report_inputs import ReportInputs

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, the text of each, and whether tags balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = write_report(inputs, tmp_path_factory.mktemp("report") / "deep" / "report")
    assert path.name == "index.html"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_is_fetched_from_elsewhere(page: Page) -> None:
    assert not page.open, "tags balance"
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert not page.all("link")


def test_pictures_have_words(page: Page) -> None:
    assert len(page.all("img")) == 3
    assert all(a.get("aria-label") for a in page.all("canvas") if a.get("aria-hidden") != "true")
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("role") == "img" and a.get("aria-label") for a in page.all("svg"))
    assert all(a.get("aria-label") for a in page.all("video"))


def test_ids_are_unique_and_links_land(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {
        str(a[k])[1:] for _, a in page.elements for k in ("href", "xlink:href") if str(a.get(k, "")).startswith("#")
    }
    assert wanted <= set(ids)


def test_prompt_text_cannot_break_out(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert "<script>alert('x')</script> & \"quoted\"" in page.text
    assert page.text.count("<b>needs</b> timm 1.0.12") == 1


def test_skipped_dimensions_are_shown_with_their_reason_once(page: Page) -> None:
    assert page.text.count("weights clip ViT-L-14 are not in the cache") == 1
    missing = page.text[page.text.index("What was skipped, and why") :]
    assert "Aesthetic quality all arms skipped weights clip ViT-L-14" in " ".join(missing.split())


def test_published_rows_are_marked(page: Page) -> None:
    rows = [a for a in page.all("tr") if "published-row" in (a.get("class") or "")]
    assert len(rows) == 10
    start, end = page.text.index("The paper's tables, ours beside"), page.text.index("Hollow diamonds")
    section = page.text[start:end]
    for mark in ("published, not measured here", "reported by a third-party note, not checked", "74.4"):
        assert mark in section
    others = page.text[:start] + page.text[end:]
    assert "74.4" not in others, "published figures do not stray into our own table"


def test_claims_and_clips_are_on_the_page(page: Page) -> None:
    assert "holds Relay beats naive tuning" in page.text
    assert "Published difference, in percentage points and measured elsewhere: Overall +8.4" in page.text
    assert "not in this run: no_such_arm" in page.text
    assert "Residual noise, primary" in page.text and "margin 0.0005; different: p" in page.text
    assert "what a claim says by itself stands beside" in page.text
    for verdict, meaning in MEANINGS.items():
        assert f"{verdict[:1].upper()}{verdict[1:]} {meaning[:1].upper()}{meaning[1:]}." in page.text
    assert len(page.all("video")) == 16
    assert "Harsher" in page.text
    assert "Plain upsampling is not beaten" in page.text


def test_a_claim_shows_its_verdict_as_one_of_many_and_by_itself(inputs: ReportInputs) -> None:
    """Nine claims of nothing beside one that is told by itself: both verdicts, both p-values, and the summary."""
    asked = Asked(metric="flicker", better="lower", margin=1e-6)
    scores = inputs.scores[inputs.scores["arm"] == "full"]
    rng = np.random.default_rng(0)
    step = rng.normal(0, 0.01, 16)
    step = 0.01 * (step - step.mean()) / step.std(ddof=1)
    tables = []
    for i, effect in enumerate([0.0065, *[0.0] * 9]):
        tables.append(
            scores.assign(arm=f"a{i}").merge(pd.DataFrame({"prompt_index": range(16), "step": step + effect}))
        )
    arms = pd.concat([t.assign(value=t["value"] + t["step"]).drop(columns="step") for t in tables])
    claims = tuple(
        Claim(name=f"c{i}", statement=f"s{i}", kind="k", arm="full", other=f"a{i}", primary=asked) for i in range(10)
    )
    page = Page(render(replace(inputs, scores=pd.concat([scores, arms]), claims=claims)))
    assert "by itself holds; corrected over 10 claims cannot be told from this data" in page.text
    assert "holds by itself; corrected over 10 tests p = 0.2" in page.text
    assert re.search(r"different: p 0\.02\d*, corrected 0\.2", page.text)
    assert "Of 10 claims, 10 cannot be told from this data." in page.text
    alone = Page(render(replace(inputs, scores=pd.concat([scores, arms]), claims=claims[:1])))
    assert "Of 1 claim, 1 holds." in alone.text and "by itself" not in alone.text.split("s0")[1][:300]


def test_clips_of_another_scale_are_shown_and_stated_in_the_arms_settings(inputs: ReportInputs, tmp_path: Path) -> None:
    """Another system's clips, smaller and longer than ours, beside them in sheets, takes and the settings' row."""
    theirs = inputs.clips[inputs.clips["arm"] == "no_hfato"].copy()
    paths = [
        write_clip(tmp_path / f"{i}.mp4", np.random.default_rng(i).random((13, 20, 24, 3)), 16, lossless=True)
        for i in range(len(theirs))
    ]
    said = "20x24 beside 32x32, 13 frames at 16 fps beside 9 at 8"
    theirs = theirs.assign(path=list(map(str, paths)), preview_path=list(map(str, paths)), height=20, width=24)
    theirs = theirs.assign(frames=13, fps=16.0, differs=[said, float("nan")])  # an empty cell comes back as NaN
    ours = inputs.clips[inputs.clips["arm"] != "no_hfato"].assign(differs=float("nan"))
    arms = {**inputs.arms, "no_hfato": ArmParams(label="Theirs", method="external", path="clips")}
    page = Page(render(replace(inputs, clips=pd.concat([ours, theirs]), arms=arms)))
    assert f"another system's clips, from clips · {said} (1 of 2 clips)" in page.text
    assert page.text.count(said) == 1  # of that arm alone, in the settings
    whole = Page(render(inputs))
    assert len(page.all("img")) == len(whole.all("img")) and len(page.all("video")) == len(whole.all("video"))


def test_an_empty_run_still_makes_a_page(bare: ReportInputs) -> None:
    page = Page(render(bare))
    for line in ("Nothing was scored", "There are no clips to play", "No losses were recorded", "Nothing was recorded"):
        assert line in page.text


@pytest.mark.parametrize("name", ["scores", "clips", "losses", "checks", "spectra", "provenance", "published", "table"])
def test_any_input_may_be_empty(inputs: ReportInputs, bare: ReportInputs, name: str) -> None:
    small = replace(
        inputs,
        clips=inputs.clips[inputs.clips["prompt_index"] == 1],
        table=inputs.table[inputs.table["metric"].isin(["flicker", "human_action"])],
        clips_shown=0,
    )
    empty = small.__dict__[name].iloc[:0] if isinstance(small.__dict__[name], pd.DataFrame) else {}
    assert not Page(render(replace(small, **{name: empty}))).open


def test_published_rows_need_source_and_reliability(tmp_path: Path) -> None:
    path = tmp_path / "published.yml"
    path.write_text("tables: [{title: t, rows: [{method: X, source: somewhere}]}]")
    with pytest.raises(ValueError, match="'X'"):
        load_published(path)
