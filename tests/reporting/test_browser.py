"""The page in a real browser: nothing scrolls sideways, the buttons copy. Only where Chromium is installed."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reporting.conftest import SKIPPED
from vibe_pipeline.experiment.claims import Asked
from vibe_pipeline.reporting.page import ReportInputs, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
UNBROKEN = f"get it from https://elsewhere/{'weights-' * 40}.pth"
# No hand clicks here, and without one a browser copies nothing: a stand-in of the clipboard takes one text, then fails.
PROBE = """<pre id="probe"></pre><script>
const said = [document.documentElement.scrollWidth <= window.innerWidth], taken = [];
const writeText = async (text) => { if (taken.length) throw new Error("full"); taken.push(text); };
Object.defineProperty(navigator, "clipboard", { value: { writeText } });
const [first, second] = document.querySelectorAll(".copying button");
const status = first.parentElement.querySelector("[role=status]");
first.click();
setTimeout(() => {
  said.push(first.parentElement.hidden, status.textContent, taken[0].split("\\n")[0]);
  second.click();
}, 200);
setTimeout(() => {
  said.push(status.textContent, document.getElementById(second.dataset.copies).hidden);
  document.getElementById("probe").textContent = `PROBE${JSON.stringify(said)}END`;
}, 400);
</script></body>"""


@pytest.mark.parametrize("width", [1440, 600])
def test_nothing_scrolls_sideways_and_a_table_is_copied(inputs: ReportInputs, tmp_path: Path, width: int) -> None:
    page = tmp_path / "index.html"
    asked = Asked(metric="aesthetic_quality", better="higher", margin=0.01)
    claim = inputs.claims[0].model_copy(update={"primary": asked})
    scores, table = (
        t.replace({"reason": {SKIPPED["aesthetic_quality"]: UNBROKEN}}) for t in (inputs.scores, inputs.table)
    )
    inputs = replace(inputs, scores=scores, table=table, claims=(*inputs.claims, claim))
    page.write_text(render(inputs).replace("</body>", PROBE), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        f"--user-data-dir={tmp_path}/p",
    ]
    shown = subprocess.run(
        [str(CHROMIUM), *options, f"--window-size={width},2000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    found = re.search(r"PROBE(\[.*\])END", shown.stdout)
    assert found
    fits, hidden, copied, line, failed, area_hidden = json.loads(html.unescape(found[1]))
    assert fits and not hidden and copied == "Markdown copied"
    assert line.startswith("| Method | Our arm | Aesthetic quality, published | Aesthetic quality, ours |")
    assert failed == "Not copied: select the text and copy it" and not area_hidden
