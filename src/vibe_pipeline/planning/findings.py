"""What was looked at before a run, and how it is said."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        item: What was looked at, as its row of the list is named.
        state: `missing` stops a run; `optional` only leaves something out.
        found: What is there.
        fix: The command or the setting that mends it.
    """

    item: str
    state: State
    found: str
    fix: str = ""


def format_findings(findings: list[Finding]) -> str:
    """One line a thing, the fix below it where one is needed."""
    marks = {"ok": "ok      ", "missing": "MISSING ", "optional": "optional"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.state]}  {finding.item}: {finding.found}")
        if finding.state != "ok":
            lines.append(f"            fix: {finding.fix}")
    return "\n".join(lines)
