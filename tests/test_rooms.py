"""The floor plan of docs/architecture.md: arrows between rooms point down, the root holds what Kedro looks for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/vibe_pipeline"
ROOT_MODULES = {"__init__", "__main__", "settings", "hooks", "pipeline_registry", "cli"}
ROOMS = (
    "commands",
    "rehearsal",
    "pipelines",
    "datasets",
    "reporting",
    "planning",
    "evaluation",
    "generation",
    "training",
    "images",
    "miniature",
    "tracking",
    "vbench",
    "experiment",
    "diffusion",
    "runtime",
    "io",
)
# A process that torchrun started must not be told of Kedro; a notebook that imports the paper, of neither.
FORBIDDEN = {"diffusion": {"kedro", "mlflow", "pandas"}, "io": {"kedro", "mlflow", "torch"}}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """The room of a dotted module of the package; empty for anything else."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "vibe_pipeline" and parts[1] in ROOMS else ""


def test_the_root_holds_only_what_kedro_looks_for_by_name() -> None:
    assert {p.stem for p in PACKAGE.glob("*.py")} <= ROOT_MODULES
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_arrow_runs_back_up(room: str) -> None:
    above = set(ROOMS[: ROOMS.index(room)])
    back = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for module in imports_of(path)
        if room_of(module) in above
    ]
    assert not back


@pytest.mark.parametrize("room", FORBIDDEN)
def test_the_paper_and_the_ground_stand_alone(room: str) -> None:
    found = {
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in (PACKAGE / room).rglob("*.py")
        for module in imports_of(path)
        if module.split(".")[0] in FORBIDDEN[room]
    }
    assert not found
