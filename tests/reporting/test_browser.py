"""The page in a real browser, at the width of a desk and of a hand: what is on the first screen, and what works."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.reporting.conftest import SKIPPED
from vibe_pipeline.io.video import read_frames
from vibe_pipeline.reporting.page import write_report
from vibe_pipeline.reporting.report_inputs import ReportInputs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
SIZES = [(1440, 900), (390, 844)]
# Of what is seen of an element without scrolling.
SEEN = """e => { const b = e.getBoundingClientRect(); return b.width > 40 && b.top >= 0 && b.bottom <= innerHeight; }"""
BYTES = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).join()"
# Words of tables' heads that stand on two lines; a hyphen may end a line.
BROKEN = """() => [...document.querySelectorAll('thead th')].flatMap(head => {
  const words = [], walk = document.createTreeWalker(head, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());)
    for (const found of node.data.matchAll(/[^\\s-]+/g)) {
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      const tops = [...range.getClientRects()].filter(r => r.width).map(r => Math.round(r.top));
      if (new Set(tops).size > 1) words.push(found[0]);
    }
  return words;
})"""
NO_CLIPBOARD = """Object.defineProperty(navigator, "clipboard",
  { value: { writeText: async (text) => { window.copied = text; } } });"""
Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def address(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a page that holds a reason which nothing breaks: it must not widen the page."""
    long = {"reason": {SKIPPED["aesthetic_quality"]: f"get it from https://elsewhere/{'weights-' * 40}.pth"}}
    inputs = replace(inputs, scores=inputs.scores.replace(long), table=inputs.table.replace(long))
    return write_report(inputs, tmp_path_factory.mktemp("page")).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    """Opens the page; at the end there was no error in it and nothing was asked of a network."""
    errors: list[str] = []
    pages: list[Page] = []

    def go(size: tuple[int, int] = SIZES[0], fragment: str = "", still: bool = True) -> Page:
        page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce" if still else "no-preference"
        )
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
        page.add_init_script(NO_CLIPBOARD)
        page.goto(address + fragment)
        page.wait_for_function("[...document.querySelectorAll('.closeup canvas')].every(c => c.width > 8)")
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert not errors


@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_holds_a_picture_and_a_number_and_nothing_scrolls_sideways(
    opened: Opened, size: tuple[int, int]
) -> None:
    page = opened(size)
    assert page.eval_on_selector(".picture", SEEN), "the picture is seen whole"
    assert page.eval_on_selector(".lead b", SEEN) and any(c.isdigit() for c in page.inner_text(".lead b"))
    if size == SIZES[0]:
        assert page.eval_on_selector("table.first", SEEN) and page.eval_on_selector(".chips", SEEN)
    assert page.locator("table.first tbody tr").count() == 5
    assert page.locator("details.fold[open]").count() == 0
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) == 0
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate(wide) == 0
    assert page.evaluate(BROKEN) == [], "a head breaks between words, not in them"
    first = "(t => t.offsetWidth - t.closest('.scroll').clientWidth)(document.querySelector('table.first'))"
    assert page.evaluate(first) <= 0, "the measures to read first are seen whole"


@pytest.mark.parametrize("size", SIZES)
def test_every_link_of_the_menu_and_every_chip_lands(opened: Opened, size: tuple[int, int]) -> None:
    page = opened(size)
    links = page.locator("nav a, .chips a")
    missed = {}
    for i in range(links.count()):
        href = links.nth(i).get_attribute("href")
        links.nth(i).click()
        page.wait_for_timeout(150)
        top, bottom = page.evaluate(
            "id => { const b = document.getElementById(id).getBoundingClientRect(); "
            "return [b.top, document.documentElement.scrollHeight - innerHeight - scrollY]; }",
            href[1:],
        )
        # At the foot of the page nothing more can be scrolled to.
        if not (-2 <= top <= 40 or (0 <= top < size[1] and bottom < 2)):
            missed[href] = top
        assert page.evaluate("location.hash").startswith(f"{href}?")
    assert not missed


def test_the_slider_moves_its_borders_by_pointer_and_by_key(opened: Opened) -> None:
    page = opened()
    before = page.eval_on_selector(".bands", BYTES)
    handle = page.locator(".handle").first
    box, picture = handle.bounding_box(), page.locator(".picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(picture["x"] + 0.1 * picture["width"], box["y"] + 20)
    page.mouse.up()
    assert abs(int(handle.get_attribute("aria-valuenow")) - 10) <= 2
    assert page.eval_on_selector(".bands", BYTES) != before
    handle.press("Home")
    page.locator(".handle").nth(1).press("Home")
    assert page.locator(".handle").nth(1).get_attribute("aria-valuenow") == "0"
    whole = page.evaluate(
        "() => { const v = document.querySelector('[data-arm=truth] video'), c = document.createElement('canvas'); "
        "c.width = v.videoWidth; c.height = v.videoHeight; const p = c.getContext('2d'); p.drawImage(v, 0, 0); "
        f"return ({BYTES})(c); }}"
    )
    assert page.eval_on_selector(".bands", BYTES) == whole, "both borders at the left: the true render alone"


def test_the_clip_plays_by_itself_unless_less_motion_is_asked_for(opened: Opened) -> None:
    page = opened(still=False)
    assert page.inner_text(".slide .play") == "Pause"
    page.wait_for_function("Number(document.querySelector('.slide .seek').value) > 1")
    page.click(".slide .play")
    assert page.inner_text(".slide .play") == "Play"
    assert opened().inner_text(".slide .play") == "Play"


def test_all_arms_stand_at_the_same_frame_and_the_address_says_which(opened: Opened) -> None:
    page = opened()
    page.click("nav a[href='#player']")
    for _ in range(3):
        page.click(".player .forth")
    page.wait_for_function("[...document.querySelectorAll('.take:not([hidden]) video')].every(v => !v.seeking)")
    times = page.eval_on_selector_all(".take:not([hidden]) video", "vs => vs.map(v => v.currentTime)")
    assert len(times) == 8 and {round(t, 3) for t in times} == {round(3.5 / 8, 3)}
    page.select_option(".player .choose", "1")
    page.select_option(".player .zoom", "8")
    page.uncheck(".arms input[value=no_relay]")
    page.click(".take:not([hidden]) [data-arm=full] .pin")
    page.click(".take:not([hidden]) [data-arm=truth] .stage", position={"x": 20, "y": 30})
    fragment = page.evaluate("location.hash")
    for part in ("#player?prompt=1&frame=3&zoom=8&at=", "&arms=upsample,full,full_pixel,no_hfato", "&pin=full"):
        assert part in fragment

    again = opened(fragment=fragment)
    again.wait_for_function("document.querySelector('.player .seek').value === '3'")  # once the clips are loaded
    shown = again.eval_on_selector_all(".take:not([hidden]) .reel:not([hidden])", "rs => rs.map(r => r.dataset.arm)")
    assert "no_relay" not in shown and len(shown) == 7
    assert again.locator(".reel.pinned:visible").get_attribute("data-arm") == "full"
    assert again.input_value(".player .zoom") == "8"
    assert again.input_value(".player .choose") == "1" == again.input_value(".slide .choose")


def test_full_screen_holds_all_chosen_arms_and_answers_keys(opened: Opened) -> None:
    page = opened(fragment="#player")
    over = "(e => e.scrollHeight - e.clientHeight)(document.querySelector('.player'))"
    page.click(".player .full")
    page.wait_for_function("document.querySelector('.player .full').textContent === 'Leave full screen'")
    assert page.evaluate(over) <= 0, "eight arms and their lenses are seen without scrolling"
    before = page.locator(".take:not([hidden]) [data-arm=full] video").bounding_box()["width"]
    page.keyboard.press("Space")
    assert page.inner_text(".player .play") == "Pause", "the button that was clicked is not pressed again"
    page.keyboard.press("Space")
    start = int(page.input_value(".player .seek"))
    page.keyboard.press("," if start else ".")
    assert abs(int(page.input_value(".player .seek")) - start) == 1
    for arm in ("no_relay", "no_hfato", "keep_stage1", "refine_base", "full_pixel"):
        page.uncheck(f".arms input[value={arm}]")
    after = page.locator(".take:not([hidden]) [data-arm=full] video").bounding_box()["width"]
    assert after > before and page.evaluate(over) <= 0, "fewer arms are larger"
    page.click(".player .full")
    page.wait_for_function("document.querySelector('.player .full').textContent === 'Full screen'")


def test_the_difference_to_the_truth_is_that_of_the_frames(opened: Opened, inputs: ReportInputs) -> None:
    page = opened(fragment="#player")
    page.wait_for_function("document.querySelector('.player .difference').textContent.includes('True render')")
    page.click(".player .difference")
    page.wait_for_function("document.querySelector('.take:not([hidden]) [data-arm=full] .over').width > 8")
    page.click(".player .forth")
    page.wait_for_function("[...document.querySelectorAll('.take:not([hidden]) video')].every(v => !v.seeking)")
    level = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let s = 0; " \
        "for (let i = 0; i < d.length; i++) if (i % 4 < 3) s += d[i]; return s / (0.75 * d.length); }"  # fmt: skip
    clips = inputs.clips[inputs.clips["prompt_index"] == 0].set_index("arm")["preview_path"]
    frames = {arm: list(read_frames(Path(clips[arm])))[1].astype(float) for arm in ("upsample", "full", "truth")}
    for arm in ("upsample", "full"):
        shown = page.eval_on_selector(f".take:not([hidden]) [data-arm={arm}] .over", level)
        assert abs(shown - np.abs(frames[arm] - frames["truth"]).mean()) < 1 < shown
    assert page.locator(".take:not([hidden]) [data-arm=truth] .over").is_hidden()


def test_tables_sort_hide_and_copy(opened: Opened) -> None:
    page = opened(fragment="#table")
    table = page.locator("table.sorts", has_text="Flicker").nth(1)
    head = table.locator("thead th", has_text="Flicker")
    column = head.evaluate("e => e.cellIndex")
    values = "(t, i) => [...t.tBodies[0].rows].map(r => Number(r.cells[i].dataset.value))"
    head.locator("button").click()
    rising = table.evaluate(values, column)
    assert rising == sorted(rising) and len(set(rising)) > 3
    head.locator("button").click()
    assert table.evaluate(values, column) == sorted(rising, reverse=True)
    choice = page.locator(".choice", has_text="Flicker").nth(1)
    choice.locator("summary").click()
    choice.get_by_label("Flicker").uncheck()
    assert head.is_hidden()
    for name, begins in (
        ("Markdown", "| Measure | "),
        ("LaTeX", "\\begin{tabular}"),
        ("CSV", "metric,label,upsample,"),
    ):
        page.click(f".told .copying button:text-is('{name}')")
        page.wait_for_function(f"document.querySelector('.told [role=status]').textContent === '{name} copied'")
        assert page.evaluate("window.copied").startswith(begins)


def test_on_paper_every_section_is_open(opened: Opened) -> None:
    page = opened()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.fold:not([open])").count() == 0
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1047})  # A4 within margins of a centimetre
    wider = """() => { const table = document.querySelectorAll('table.sorts')[1];
      for (const { cells } of table.rows) for (let i = 0; i < 4; i++) cells[1].after(cells[1].cloneNode(true));
      table.style.setProperty('--columns', table.rows[0].cells.length); return table.rows[0].cells.length; }"""
    assert page.evaluate(wider) == 12, "the base's own run has as many"
    tracks = "getComputedStyle(document.querySelector('.claims > li')).gridTemplateColumns.split(' ').length"
    assert page.evaluate(tracks) == 2, "a sheet of paper is laid out as a page of a desk"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.fold[open]").count() == 0
