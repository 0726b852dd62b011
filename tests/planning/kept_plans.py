"""Plans and findings for tests: what only the modules can give is made once a process, as a project makes it once.

What keeping must not change is tested by itself, in test_figures.py.
"""

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vibe_pipeline.planning.doctor import examine
from vibe_pipeline.planning.figures import Figures
from vibe_pipeline.planning.findings import Finding
from vibe_pipeline.planning.plan import Assumed, Plan, make_plan


@cache
def kept() -> Figures:
    """A folder that goes with the process."""
    folder = tempfile.mkdtemp(prefix="figures_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Figures(Path(folder))


def plan_of(params: Mapping[str, Any], assumed: Assumed | None = None) -> Plan:
    """The plan of an environment's parameters."""
    return make_plan(params, assumed or Assumed(), figures=kept())


def findings_of(params: Mapping[str, Any]) -> list[Finding]:
    """What the doctor finds."""
    return examine(params, figures=kept())
